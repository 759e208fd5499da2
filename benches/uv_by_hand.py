"""The alternative without a server: `uv run` on a terminal."""

import os
import socket
import subprocess

import agents
import tools
from client import first_answer


class UvRun:
    def __init__(self, uv, python, directory):
        self.uv, self.python, self.directory = os.path.join(uv, "uv"), python, directory

    def place(self, name):
        return os.path.join(self.directory, name)

    def environment(self, cache):
        return {**os.environ, "UV_CACHE_DIR": self.place(cache)}

    def install(self, place, requirements, cache="cache", compiled=True):
        """Installs packages into a directory."""
        options = ["--compile-bytecode"] if compiled else []
        tools.run([self.uv, "pip", "install", "--quiet", "--python", self.python, *options, "--target", place,
                   *requirements.split()], env=self.environment(cache))

    def start(self, agent, version, requirements="", cache="cache", name="agent"):
        """Runs a version of an agent until its first answer."""
        place = self.place(name)
        agents.write(place, agent, version, requirements)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [self.uv, "run", "--quiet", "--no-project", "--python", self.python]
        command += [option for package in requirements.split() for option in ("--with", package)]
        environment = {**self.environment(cache), "PORT": str(port)}
        # A session of its own, since uv starts the interpreter as a child.
        process = subprocess.Popen([*command, "serve.py"], cwd=place, env=environment, start_new_session=True)
        running = Running(process)
        try:
            first_answer(port, str(version), lambda: process.poll() is None)
        except BaseException:
            running.stop()
            raise
        return running


class Running:
    def __init__(self, process):
        self.process = process

    def stop(self):
        try:
            os.killpg(self.process.pid, 9)
        except ProcessLookupError:
            pass
        self.process.wait(30)
