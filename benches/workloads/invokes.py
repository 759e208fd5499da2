"""Invokes through the gateway, and of the same agent without Hoistway."""

import json
import os
import socket
import subprocess

import agents
from client import EchoServer, load
from measure import Contestant, Table, alternate
from tools import ROOT

RUNNER = os.path.join(ROOT, "services", "build", "runner", "hoistway_runner.py")
MANY = 64
SECONDS = 1.5


class Direct:
    """Hoistway's runner with the agent, as a plain process that the client reaches on loopback."""

    def __init__(self, python, directory):
        agents.write(directory, "plain", 0)
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = listener.getsockname()[1]
        events, notify = os.pipe()
        config, settings = os.pipe()
        passed = (listener.fileno(), notify, config)
        command = [python, "-s", RUNNER, "--app", directory]
        command += [option for name, fd in zip(("--listen-fd", "--notify-fd", "--config-fd"), passed)
                    for option in (name, str(fd))]
        environment = {"PATH": os.environ["PATH"], "USER_ENTRY_POINT": "agent.py", "AGENT_NAME": "direct", "PORT": "1"}
        self.process = subprocess.Popen(command, pass_fds=passed, env=environment, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        listener.close(), os.close(notify), os.close(config)
        with open(settings, "w") as file:
            file.write("{}")
        with open(events) as file:
            event = json.loads(file.readline() or "{}")
        if event.get("event") != "ready":
            self.stop()
            raise RuntimeError(f"the agent does not start: {event}")

    def stop(self):
        self.process.kill()
        self.process.wait(30)


def invokes(context, rounds, seconds):
    with context.running("invokes") as stack:
        stack.deploy("agent", agents.source("plain", 0))
        direct, echo = Direct(context.python, context.path("direct")), EchoServer(context.python)
        targets = [
            ("Hoistway, through the gateway", stack.port, "/api/agents/agent/invoke", stack.headers, False),
            ("the agent directly", direct.port, "/invoke", {"Content-Type": "application/json"}, False),
            ("floor: loopback, an echo", echo.port, "/invoke", {"Content-Type": "application/json"}, True),
        ]

        def measure(connections, column):
            def contestant(name, port, path, headers, floor):
                return Contestant(name, lambda _: load(port, path, headers, connections, SECONDS)[column], floor=floor)

            return alternate([contestant(*target) for target in targets], rounds, seconds / 3, warm_up=1)

        try:
            return [
                Table("invokes-1", "invoke, 1 connection", "ms", measure(1, 0)),
                Table("invokes-64", f"invokes, {MANY} connections", "/s", measure(MANY, 1)),
            ]
        finally:
            direct.stop()
            echo.stop()
