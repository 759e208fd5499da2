"""Shared by the workloads: programs, directories, Hoistway with the packages, Docker and uv. Everything starts when it
is first used and ends with `close`."""

import contextlib
import functools
import itertools
import os

import agents
import tools
from docker import Docker
from hoistway import Stack
from measure import Contestant, Unavailable, milliseconds
from uv_by_hand import UvRun


class Context:
    def __init__(self, program, python, directory):
        self.program, self.python, self.directory = program, python, directory
        self.versions = itertools.count(1)
        self.opened, self.missing = contextlib.ExitStack(), {}

    def close(self):
        self.opened.close()

    def version(self):
        """A number that no earlier source had."""
        return next(self.versions)

    def path(self, name):
        return os.path.join(self.directory, name)

    def once(self, name, make):
        """`make`, whose failure is remembered too."""
        if name not in self.missing:
            try:
                return make()
            except Unavailable as why:
                self.missing[name] = str(why)
        raise Unavailable(self.missing[name])

    @functools.cached_property
    def uv_directory(self):
        return self.once("uv", lambda: tools.install_uv(self.python))

    @functools.cached_property
    def uv(self):
        return UvRun(self.uv_directory, self.python, self.path("uv"))

    @functools.cached_property
    def docker(self):
        docker = self.once("docker", lambda: Docker(self.path("docker"), self.uv_directory))
        self.opened.callback(docker.stop)
        return docker

    def stack(self, name):
        """A new `hoistway up`, which the caller ends. It finds the same uv as the alternatives."""
        try:
            path = self.uv_directory + os.pathsep + os.environ["PATH"]
        except Unavailable:
            path = os.environ["PATH"]
        return Stack(self.program, self.python, self.path(name), path)

    @contextlib.contextmanager
    def running(self, name):
        stack = self.stack(name)
        try:
            yield stack
        finally:
            stack.stop()

    @functools.cached_property
    def packages_stack(self):
        """Hoistway with the agent `agent`, whose packages are installed."""
        stack = self.opened.enter_context(self.running("packages"))
        stack.deploy("agent", agents.source("packages", 0), agents.PACKAGES)
        return stack

    def site(self, name, requirements):
        """A directory with packages, for the floor."""
        place = self.path(f"site-{name}")
        if not os.path.exists(place):
            self.uv.install(place, requirements)
        return place

    def containers(self, work):
        """The contestants with Docker. `work` gets Docker, the installer and the round."""
        def contestant(installer):
            def run(number):
                return work(self.docker, installer, number)
            return Contestant(f"BuildKit + {installer}", run)

        return [contestant("pip"), contestant("uv")]


def hoistway(work):
    """The contestant Hoistway of a workload whose every round is timed as a whole."""
    return Contestant("Hoistway", lambda number: milliseconds(work, number))
