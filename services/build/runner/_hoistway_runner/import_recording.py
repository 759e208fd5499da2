"""What packages depend on while they are imported. A process that has imported them is of use for an agent only if the
agent's own imports would have found the same.
"""

import builtins
import io
import os
import random
import re
import socket
import sys
import weakref

# Modules that search through all distributions for entry points without the function for that.
FOR_ENTRY_POINTS = ("pydantic.plugin._loader",)


class Recording:
    """While it is entered, it notes what Python code reads: variables of the environment, files below the working
    directory, modules and distributions that do not exist, what there is beside them in `sites`, and the network."""

    current = None

    def __init__(self, directory, sites=()):
        self.directory, self.sites = os.path.join(directory, ""), [os.path.join(site, "") for site in sites]
        self.variables, self.reads_all_variables = set(), False
        self.files, self.missing, self.missing_distributions = set(), set(), set()
        self.entries, self.lists_packages = set(), False  # what is looked for in the sites, by the names there
        self.connects = False
        self.unseeded = []  # weak references to generators of random numbers that the system has seeded

    def __enter__(self):
        Recording.current = self
        self.undo = []
        for environ in (os.environ, os.environb):
            environ.__class__ = RecordingEnviron
            self.undo.append((environ, "__class__", RecordingEnviron.__base__))
        opening = ((os, "open"), (io, "open"), (builtins, "open"))
        for holder, name in ((os, "stat"), (os, "lstat"), (os, "access"), *opening):
            self.replace(holder, name, Noting(getattr(holder, name), self.note_path))
        for name in ("listdir", "scandir"):
            self.replace(os, name, Noting(getattr(os, name), self.note_listing))
        self.replace(socket, "getaddrinfo", Noting(socket.getaddrinfo, self.note_network))
        for name in ("connect", "connect_ex"):
            self.replace(socket.socket, name, noting_method(getattr(socket.socket, name)))
        self.replace(random.Random, "seed", noting_seed(random.Random.seed))
        self.finder = Missing(self)
        sys.meta_path.append(self.finder)
        return self

    def __exit__(self, *_):
        Recording.current = None
        for holder, name, before in reversed(self.undo):
            setattr(holder, name, before)
        if self.finder in sys.meta_path:
            sys.meta_path.remove(self.finder)

    def replace(self, holder, name, replacement):
        self.undo.append((holder, name, getattr(holder, name)))
        setattr(holder, name, replacement)

    def note_variable(self, name):
        self.variables.add(os.fsdecode(name) if isinstance(name, (bytes, str)) else "")

    def note_path(self, path=".", *_, **__):
        if isinstance(path, (str, bytes, os.PathLike)):
            path = os.path.abspath(os.fsdecode(path))
            if path.startswith(self.directory):
                self.files.add(path.removeprefix(self.directory))
            for site in self.sites:
                if path.startswith(site):
                    self.entries.add(path.removeprefix(site).partition(os.sep)[0])

    def note_listing(self, path=".", *_, **__):
        self.note_path(path)
        if isinstance(path, (str, bytes, os.PathLike)):
            is_site = os.path.join(os.path.abspath(os.fsdecode(path)), "") in self.sites
            # Searches for metadata are noted by the finder below.
            self.lists_packages |= is_site and not is_of_metadata(sys._getframe(2))

    def forget_paths(self):
        """What was looked at until now was not for a package."""
        self.files.clear()
        self.entries.clear()
        self.lists_packages = False

    def note_network(self, *_, **__):
        self.connects = True

    def reseed(self):
        """Gives generators of random numbers, which a forked process has copies of, another state."""
        for reference in self.unseeded:
            if (generator := reference()) is not None:
                generator.seed()


class RecordingEnviron(type(os.environ)):
    """The environment, which notes the names that are read."""

    def __getitem__(self, name):
        if Recording.current:
            Recording.current.note_variable(name)
        return super().__getitem__(name)

    def __iter__(self):
        if Recording.current:
            Recording.current.reads_all_variables = True
        return super().__iter__()


class Noting:
    """A function that notes its arguments. Modules may keep it, so it does nothing else once nothing is recorded. It is no
    Python function, which a class would make a method."""

    def __init__(self, function, note):
        self.__wrapped__, self.note = function, note

    def __call__(self, *args, **kwargs):
        if Recording.current:
            self.note(*args, **kwargs)
        return self.__wrapped__(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.__wrapped__, name)


def noting_method(method):
    def noting(self, address):
        if Recording.current and self.family in (socket.AF_INET, socket.AF_INET6):
            Recording.current.note_network()
        return method(self, address)

    return noting


def noting_seed(method):
    def seed(self, a=None, version=2):
        if a is None and Recording.current:
            Recording.current.unseeded.append(weakref.ref(self))
        return method(self, a, version)

    return seed


class Missing:
    """A finder that comes after all others, and finds neither modules nor distributions."""

    def __init__(self, recording):
        self.recording = recording

    def find_spec(self, name, path=None, target=None):
        if path is None:
            self.recording.missing.add(name)

    def find_distributions(self, context):
        if name := getattr(context, "name", None):
            self.recording.missing_distributions.add(re.sub(r"[-_.]+", "-", name).lower())
        elif not looks_for_entry_points():
            self.recording.lists_packages = True
        return ()


def is_of_metadata(frame):
    return frame.f_globals.get("__name__", "").partition(".")[0] in ("importlib", "importlib_metadata")


def looks_for_entry_points():
    """Whether the search for all distributions that is under way is for their entry points alone."""
    frame = sys._getframe(2)
    while frame and is_of_metadata(frame):
        if frame.f_code.co_name == "entry_points":
            return True
        frame = frame.f_back
    return bool(frame) and frame.f_globals.get("__name__") in FOR_ENTRY_POINTS
