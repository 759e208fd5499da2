"""The Python that the agent's child processes find: a virtual environment with exactly the agent's packages and modules.

Whoever starts a Python by `sys.executable` or by name, in whatever directory and with whatever environment, starts this
one: MCP servers on stdio, `python -m`, programs with `#!/usr/bin/env python3`.
"""

import os
import sys

from .paths import source_root

SYSTEM = ("/bin", "/usr/bin", "/usr/local/bin")  # directories of a host that have more than its Python
HOOK = """import os, site, sys
sys.path[:0] = [path for path in {app!r} if path not in sys.path]
for directory in {sites!r}:
    if os.path.isdir(directory):
        site.addsitedir(directory)
os.defpath = {bare!r} + os.pathsep + os.defpath
"""


def enter(app, sites, entry, hermetic):
    """Makes the environment below the home directory and lets this process call it its own. Its directory, or None."""
    for home in filter(None, (os.environ.get("HOME"), os.environ.get("TMPDIR"), "/tmp")):
        root = os.path.join(home, ".hoistway", "python")
        try:
            make(root, app, sites, entry, hermetic)
        except OSError as error:
            problem = error
            continue
        adopt(root)
        return root
    print(f"child processes see the host's Python, and not the agent's packages: {problem}", file=sys.stderr)
    return None


def make(root, app, sites, entry, hermetic):
    """`hermetic` is a host's interpreter, as in `arrange_path`."""
    real = os.path.realpath(sys.executable)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = os.path.join(root, "lib", version, "site-packages")
    os.makedirs(packages, exist_ok=True)
    for name in ("bin", "bare"):
        os.makedirs(os.path.join(root, name), exist_ok=True)
    write(os.path.join(root, "pyvenv.cfg"), f"home = {os.path.dirname(real)}\n"
          f"include-system-site-packages = {'false' if hermetic else 'true'}\nversion = {'%d.%d.%d' % sys.version_info[:3]}\n")
    paths = list(dict.fromkeys([app, os.path.dirname(os.path.join(app, entry)), *source_root(app)]))
    write(os.path.join(packages, "_hoistway_path.py"), HOOK.format(app=paths, sites=sites, bare=os.path.join(root, "bare")))
    write(os.path.join(packages, "hoistway.pth"), "import _hoistway_path\n")
    # A Python that is found without a PATH does not know where it is: this one is told.
    bare = os.path.join(root, "bare", "python3")
    write(bare, f"#!/bin/sh\nexec '{root}/bin/python3' \"$@\"\n")
    os.chmod(bare, 0o755)
    for name in ("python", "python3", version):
        link(real, os.path.join(root, "bin", name))
    for name in ("python", version):
        link("python3", os.path.join(root, "bare", name))


def link(target, path):
    if os.path.islink(path):
        os.unlink(path)
    os.symlink(target, path)


def write(path, text):
    with open(path, "wb", 0) as file:
        file.write(text.encode())


def adopt(root):
    """Lets this process be of the environment. The interpreter's own directory leaves the path: the host's pip is in it."""
    bin, own = os.path.join(root, "bin"), os.path.dirname(os.path.realpath(sys.executable))
    left_out = {bin, *({own, os.path.dirname(sys.executable)}.difference(SYSTEM))}
    rest = [part for part in os.environ["PATH"].split(os.pathsep) if part not in left_out]
    os.environ["PATH"] = os.pathsep.join([bin, *rest])
    os.defpath = os.path.join(root, "bare") + os.pathsep + os.defpath
    sys.executable = os.path.join(bin, "python3")
    sys.prefix = sys.exec_prefix = root
