"""What packages depend on while they are imported. A process that has imported them is of use for an agent only if the
agent's own imports would have found the same.
"""

import builtins
import io
import os
import random
import socket
import sys
import weakref


class Recording:
    """While it is entered, it notes what Python code reads: variables of the environment, files below the working
    directory, modules that do not exist, and the network."""

    current = None

    def __init__(self, directory):
        self.directory = os.path.join(directory, "")
        self.variables, self.reads_all_variables = set(), False
        self.files, self.missing = set(), set()
        self.connects = False
        self.unseeded = []  # weak references to generators of random numbers that the system has seeded

    def __enter__(self):
        Recording.current = self
        self.undo = []
        for environ in (os.environ, os.environb):
            environ.__class__ = RecordingEnviron
            self.undo.append((environ, "__class__", RecordingEnviron.__base__))
        for holder, name in ((os, "stat"), (os, "open"), (os, "listdir"), (os, "scandir"), (io, "open"), (builtins, "open")):
            self.replace(holder, name, Noting(getattr(holder, name), self.note_path))
        self.replace(socket, "getaddrinfo", Noting(socket.getaddrinfo, self.note_network))
        for name in ("connect", "connect_ex"):
            self.replace(socket.socket, name, noting_method(getattr(socket.socket, name)))
        self.replace(random.Random, "seed", noting_seed(random.Random.seed))
        self.finder = MissingModules(self.missing)
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


class MissingModules:
    """A finder that comes after all others, and finds nothing."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if path is None:
            self.names.add(name)
