import importlib.util
import json
import os
import platform
import sys
import sysconfig


def libc():
    """glibc or musl, as `glibc 2.36`; None on other systems."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, OSError, ValueError):
        return "musl" if "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or "") else None


version = sys.version_info
release = "" if version.releaselevel == "final" else f"{version.releaselevel}{version.serial}"
json.dump(
    {
        # In a virtual environment the link itself is what makes it one.
        "executable": sys.executable if sys.prefix != sys.base_prefix else os.path.realpath(sys.executable),
        "implementation": sys.implementation.name,
        "version": version[:2],
        "full_version": "%d.%d.%d" % version[:3] + release,
        "soabi": sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag,
        "os": sys.platform,
        "libc": libc(),
        "machine": platform.machine(),
        "base_prefix": sys.base_prefix,
        "stdlib": sysconfig.get_path("stdlib"),
        "pip": importlib.util.find_spec("pip") is not None,
        "modules": sorted(getattr(sys, "stdlib_module_names", ())),
    },
    sys.stdout,
)
