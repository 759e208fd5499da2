"""The locations of an agent's modules and commands."""

import os
import sys

RUNNER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def arrange_path(app, sites, entry, hermetic):
    """Sets sys.path: the app, the entry's own directory, the standard library, the directories `src`, the image's
    packages. Directories among these that are packages come last: their modules have qualified names, and may have the
    same names as others.

    `hermetic`: the interpreter is a host's. Packages installed on the host are not part of the image and cannot be
    imported, as in a virtual environment. In a container the interpreter's packages are the image's.
    """
    import site

    if sys.flags.no_site:  # a supervisor may start it with -S, which skips the host's .pth files; scripts use exit()
        site.setquit()
    rest = [p for p in sys.path if p not in ("", RUNNER)]
    library = [p for p in rest if p == os.path.dirname(os.__file__) or p.endswith((".zip", "lib-dynload"))]
    first, middle, last = own_directories(app, entry)
    sys.path[:] = dict.fromkeys([*first, *library, *middle])
    for directory in sites:
        if os.path.isdir(directory):
            site.addsitedir(directory)
    sys.path += [path for path in last if path not in sys.path]
    if not hermetic:
        sys.path.extend(p for p in rest if p not in sys.path)


def standard_namesake(entry):
    """Returns the standard module's name that an entry file has, or empty. Two modules print something when they are
    imported."""
    name = os.path.basename(entry).removesuffix(".py")
    return name if name in sys.stdlib_module_names and name not in ("antigravity", "this") else ""


def keep_standard(entry):
    """Imports the standard module that has the entry file's name, before that file can take its place: the runner and
    the standard library's other modules need it, and entry files are not imported by name."""
    if name := standard_namesake(entry):
        try:
            __import__(name)
        except ImportError:  # of a library that this system does not have: nothing can need it
            pass


def own_directories(app, entry):
    """Returns (first, middle, last): the directories from which the app's modules are imported before the standard
    library, after it, and after all packages."""
    path = os.path.join(app, entry)
    beside, roots = os.path.dirname(path), source_roots(app, entry)
    packages = [root for root in roots if os.path.isfile(os.path.join(root, "__init__.py"))]
    if beside != os.path.normpath(app) and is_module_of_package(path, beside):
        packages.insert(0, beside)
    first = [directory for directory in dict.fromkeys([app, beside]) if directory not in packages]
    return first, [root for root in roots if root not in packages], packages


def is_module_of_package(path, directory):
    """Whether a file is in a package and imports from it: other files may be run by their path as well, and then Python
    searches their directory first."""
    if not os.path.isfile(os.path.join(directory, "__init__.py")):
        return False
    name = os.path.basename(directory).encode()
    with open(path, "rb") as file:
        text = file.read()
    return any(words in text for words in (b"from .", b"from " + name + b".", b"from " + name + b" ", b"import " + name))


def module_of(app, entry):
    """Returns (root, parts): the directory from which the entry file is imported, and its module's dotted name
    there."""
    parts = entry.removesuffix(".py").split("/")
    inner = parts[len(parts) - parts[::-1].index("src"):] if "src" in parts[:-1] else []  # below the innermost `src`
    root = is_package_of(source_roots(app, entry), inner, os.path.join(app, entry))
    return (root, inner) if root else (app, parts)  # `from shop import ...` must find this same module


def is_package_of(roots, parts, path):
    """Returns the directory `src`, itself not a package, if a file belongs to one of its packages; None if the file
    imports modules below `src` as `src.shop`: two names would make two modules of one file."""
    root = roots[-1] if roots and parts[1:] else ""
    if not os.path.isfile(os.path.join(root, *parts[:1], "__init__.py")) or os.path.isfile(os.path.join(root, "__init__.py")):
        return None
    with open(path, "rb") as file:
        return None if b"src." in file.read() else root


def package_of(root, parts):
    """Returns the dotted name of the package that a module is in, if all its directories are packages; else empty."""
    inits = (os.path.join(root, *parts[:n], "__init__.py") for n in range(1, len(parts)))
    return ".".join(parts[:-1]) if parts[1:] and all(map(str.isidentifier, parts[:-1])) and all(map(os.path.isfile, inits)) else ""


def source_roots(app, entry):
    """Returns the directories `src` from which modules are imported: the app's own, and those that contain the
    entry."""
    above = entry.split("/")[:-1]
    inner = [os.path.join(app, *above[: at + 1]) for at, name in enumerate(above) if name == "src"]
    return [root for root in dict.fromkeys([os.path.join(app, "src"), *inner]) if os.path.isdir(root)]
