"""A running `hoistway up` of the benchmark's own."""

import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time

TIMEOUT = 300
# The gateway closes connections that are idle for longer than a few times this.
IDLE = 5


class Stack:
    """Runs in a directory of its own, on loopback. Ends with `stop`; `start` runs it again on the same data."""

    def __init__(self, program, python, directory, path):
        self.command = [program, "up", "--listen", "127.0.0.1:0", "--data-dir", os.path.join(directory, "data"),
                        "--python", python]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HOISTWAY_")}
        # Limits of rates and numbers are those of a team, and not what is measured.
        own = {"PATH": path, "HOISTWAY_LOG": "warn", "HOISTWAY_GATEWAY_REQUESTS_PER_SECOND": "0",
               "HOISTWAY_GATEWAY_INVOKES_PER_SECOND": "0", "HOISTWAY_AGENT_MAX_AGENTS": "20000"}
        self.environment = {**kept, **own}
        self.directory = directory
        os.makedirs(directory, exist_ok=True)
        self.start()

    def start(self):
        with open(os.path.join(self.directory, "log"), "ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True)
        for line in self.process.stdout:
            if found := re.match(r"  API  .*localhost:(\d+)/", line):
                self.port = int(found[1])
            if line.startswith("Ctrl-C"):
                break
        else:
            raise RuntimeError(f"hoistway does not start: see {self.directory}/log")
        with open(os.path.join(self.directory, "data", "api-key")) as file:
            self.headers = {"Authorization": f"Bearer {file.read().strip()}", "Content-Type": "application/json"}
        self.connections = threading.local()

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.process.stdout.close()

    def call(self, method, path, body=None):
        """Calls the API over one kept connection in each thread and returns the answer's JSON."""
        own = self.connections
        if time.monotonic() > getattr(own, "until", 0):
            own.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        connection = own.connection
        connection.request(method, path, None if body is None else json.dumps(body), self.headers)
        answer = connection.getresponse()
        content, own.until = answer.read(), time.monotonic() + IDLE
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {content.decode()}")
        return json.loads(content or b"null")

    def deploy(self, name, source, requirements="", wait="ready"):
        """Deploys, and returns when the image is pushed (`built`) or the agent serves (`ready`)."""
        body = {"agent_name": name, "source_files": {"agent.py": source}, "requirements": requirements}
        answer = self.call("POST", f"/api/deploy?wait={wait}&timeout={TIMEOUT}", body)
        pending = [text for text in answer.get("warnings", []) if "Pending" in text]
        if wait == "ready" and pending:
            raise RuntimeError(f"{name}: {pending[0]}")

    def invoke(self, name, expected=""):
        answer = self.call("POST", f"/api/agents/{name}/invoke", {"message": "hello"})
        check(answer["response"], expected)


def check(response, expected):
    """A benchmark of wrong answers is worth nothing."""
    if not str(response).startswith(expected):
        raise RuntimeError(f"the agent answers {response!r} and not {expected!r}")
