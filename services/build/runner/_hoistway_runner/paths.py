"""Where an agent's modules and commands are found."""

import os
import sys

RUNNER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def arrange_path(app, sites, entry, hermetic):
    """Sets sys.path: the app, the entry's own directory, the standard library, the directories `src`, the image's packages.

    `hermetic` is the case of a host's interpreter: what happens to be installed on the host is not part of the image
    and stays out of reach, as in a virtual environment. In a container the interpreter's packages are the image's.
    """
    import site

    if sys.flags.no_site:  # a supervisor may start us with -S, which spares the host's .pth files; scripts use exit()
        site.setquit()
    rest = [p for p in sys.path if p not in ("", RUNNER)]
    library = [p for p in rest if p == os.path.dirname(os.__file__) or p.endswith((".zip", "lib-dynload"))]
    sys.path[:] = dict.fromkeys([app, os.path.dirname(os.path.join(app, entry)), *library, *source_roots(app, entry)])
    for directory in sites:
        if os.path.isdir(directory):
            site.addsitedir(directory)
    if not hermetic:
        sys.path.extend(p for p in rest if p not in sys.path)


def source_roots(app, entry):
    """The directories `src` from which modules are imported: the app's own, and those that the entry lies in."""
    above = entry.split("/")[:-1]
    inner = [os.path.join(app, *above[: at + 1]) for at, name in enumerate(above) if name == "src"]
    return [root for root in dict.fromkeys([os.path.join(app, "src"), *inner]) if os.path.isdir(root)]
