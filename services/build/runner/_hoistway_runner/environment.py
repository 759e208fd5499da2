"""The Python environment of the agent's child processes: a virtual environment with exactly the agent's packages and
modules.

A Python started by `sys.executable` or by name, in any directory and with any environment, is this one: MCP servers on
stdio, `python -m`, programs with `#!/usr/bin/env python3`.
"""

import os
import sys

from .paths import own_directories, standard_namesake

SYSTEM = ("/bin", "/usr/bin", "/usr/local/bin")  # directories of a host that contain more than its Python
HOOK = """if {namesake!r}:  # an entry file that is called so is not to be found in the place of the standard module
    try:
        __import__({namesake!r})
    except ImportError:
        pass
sys.path[:0] = [path for path in {app!r} if path not in sys.path]
sys.path += [path for path in {src!r} if path not in sys.path]
for directory in {sites!r}:
    if os.path.isdir(directory):
        site.addsitedir(directory)
sys.path += [path for path in {last!r} if path not in sys.path]
os.defpath = {bare!r} + os.pathsep + os.defpath
"""


def enter(app, sites, entry, hermetic):
    """Makes the environment below the home directory and applies it to this process. Returns its directory, or None."""
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
    """Makes the environment in `root`. `hermetic`: the interpreter is a host's, as in `arrange_path`."""
    real = os.path.realpath(sys.executable)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    library = os.path.join(root, "lib", version)
    packages = os.path.join(library, "site-packages")
    bin, bare = os.path.join(root, "bin"), os.path.join(root, "bare")
    for directory in (os.path.dirname(root), root, bin, bare, os.path.dirname(library), library, packages):
        try:
            os.mkdir(directory)
        except FileExistsError:
            pass
    write(os.path.join(root, "pyvenv.cfg"), f"home = {os.path.dirname(real)}\n"
          f"include-system-site-packages = {'false' if hermetic else 'true'}\nversion = {'%d.%d.%d' % sys.version_info[:3]}\n")
    first, middle, last = own_directories(app, entry)
    hook = HOOK.format(namesake=standard_namesake(entry), app=first, last=last, src=middle, sites=sites, bare=bare)
    write(os.path.join(packages, "hoistway.pth"), f"import os, site, sys; exec({hook!r})\n")  # one line, as Python reads them
    # A Python that is found without a PATH cannot locate itself: this script starts it with its full path.
    write(os.path.join(bare, "python3"), f"#!/bin/sh\nexec '{bin}/python3' \"$@\"\n")
    for name in ("python", "python3", version):
        link(real, os.path.join(bin, name))
    for name in ("python", version):
        link("python3", os.path.join(bare, name))
    for commands in (os.path.join(site, "bin") for site in sites):  # programs of packages, often expected beside Python
        for name in os.listdir(commands) if os.path.isdir(commands) else ():
            if not name.startswith("python"):
                link(os.path.join(commands, name), os.path.join(bin, name))


def add_module(name, path):
    """Lets child processes import the entry file under its name here, since it cannot be imported by its own: pickled
    objects refer to this name."""
    packages = os.path.join(sys.prefix, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
    if os.path.isfile(os.path.join(packages, "hoistway.pth")):
        sys.path.append(packages)  # inherited by multiprocessing's children
        write(os.path.join(packages, f"{name}.py"), f"__file__ = {path!r}\nwith open(__file__, 'rb') as file:\n"
              "    exec(compile(file.read(), __file__, 'exec', dont_inherit=True))\n")


def link(target, path):
    try:
        os.symlink(target, path)
    except FileExistsError:
        os.unlink(path)
        os.symlink(target, path)


def write(path, text):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def adopt(root):
    """Moves this process into the environment. The interpreter's own directory leaves the path, since the host's pip is
    in it."""
    bin, own = os.path.join(root, "bin"), os.path.dirname(os.path.realpath(sys.executable))
    left_out = {bin, *({own, os.path.dirname(sys.executable)}.difference(SYSTEM))}
    rest = [part for part in os.environ["PATH"].split(os.pathsep) if part not in left_out]
    os.environ["PATH"] = os.pathsep.join([bin, *rest])
    os.defpath = os.path.join(root, "bare") + os.pathsep + os.defpath
    sys.executable = os.path.join(bin, "python3")
    sys.prefix = sys.exec_prefix = root
