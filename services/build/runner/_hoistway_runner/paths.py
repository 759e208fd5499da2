"""Where an agent's modules and commands are found."""

import os
import sys

RUNNER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def arrange_path(app, sites, entry, hermetic):
    """Sets sys.path: the app, the entry's own directory, the standard library, the app's `src`, the image's packages.

    `hermetic` is the case of a host's interpreter: what happens to be installed on the host is not part of the image
    and stays out of reach, as in a virtual environment. In a container the interpreter's packages are the image's.
    """
    import site

    if sys.flags.no_site:  # a supervisor may start us with -S, which spares the host's .pth files; scripts use exit()
        site.setquit()
    rest = [p for p in sys.path if p not in ("", RUNNER)]
    library = [p for p in rest if p == os.path.dirname(os.__file__) or p.endswith((".zip", "lib-dynload"))]
    sys.path[:] = dict.fromkeys([app, os.path.dirname(os.path.join(app, entry)), *library, *source_root(app)])
    for directory in sites:
        if os.path.isdir(directory):
            site.addsitedir(directory)
    if not hermetic:
        sys.path.extend(p for p in rest if p not in sys.path)


def source_root(app):
    """The directory `src` of the app, if it holds modules and is none itself."""
    src = os.path.join(app, "src")
    return [src] if os.path.isdir(src) and not os.path.isfile(os.path.join(src, "__init__.py")) else []
