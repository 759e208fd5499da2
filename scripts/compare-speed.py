#!/usr/bin/env python3
"""Compares the speed of two builds of hoistway: the same work on both, alternating, in one run.

    scripts/compare-speed.py BEFORE AFTER [ROUNDS]

BEFORE and AFTER are programs, such as target/release/hoistway. Each runs a stack of its own on loopback; every round
(100) makes one deploy of changed source, one of unchanged source and ten invokes on each of them. Prints medians, 90th
percentiles and the ratio AFTER / BEFORE of the medians.
"""

import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

INVOKES = 10
WARM_UP = 5


class Stack:
    """A running `hoistway up` with one connection to its API."""

    def __init__(self, program, directory):
        data = os.path.join(directory, "data")
        with open(os.path.join(directory, "log"), "wb") as log:
            command = [program, "up", "--listen", "127.0.0.1:0", "--data-dir", data]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        for line in self.process.stdout:
            if line.startswith("  API  "):
                port = int(line.split("localhost:")[1].split("/")[0])
            if line.startswith("Ctrl-C"):
                break
        else:
            sys.exit(f"{program} does not start: see {directory}/log")
        with open(os.path.join(data, "api-key")) as file:
            self.headers = {"Authorization": f"Bearer {file.read().strip()}", "Content-Type": "application/json"}
        self.connection = http.client.HTTPConnection("127.0.0.1", port)

    def call(self, path, body):
        """Returns the milliseconds until the whole answer has arrived."""
        text = json.dumps(body)
        start = time.perf_counter()
        self.connection.request("POST", path, text, self.headers)
        answer = self.connection.getresponse()
        content = answer.read()
        took = (time.perf_counter() - start) * 1000
        if answer.status not in (200, 201):
            sys.exit(f"{path}: {answer.status} {content.decode()}")
        return took

    def deploy(self, number):
        source = f"def handler(message):\n    return 'Hello {number}, ' + message\n"
        return self.call("/api/deploy", {"agent_name": "hello", "source_files": {"agent.py": source}})

    def invoke(self):
        return self.call("/api/agents/hello/invoke", {"message": "world"})

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    programs, rounds = sys.argv[1:3], int(sys.argv[3]) if len(sys.argv) == 4 else 100
    times = [{"changed source": [], "unchanged source": [], "invoke": []} for _ in programs]
    with tempfile.TemporaryDirectory(prefix="hoistway-speed.") as directory:
        stacks = []
        try:
            for number, program in enumerate(programs):
                own = os.path.join(directory, str(number))
                os.mkdir(own)
                stacks.append(Stack(program, own))
            for number in range(WARM_UP + rounds):
                for stack, kept in zip(stacks, times):
                    taken = {
                        "changed source": [stack.deploy(number)],
                        "unchanged source": [stack.deploy(number)],
                        "invoke": [stack.invoke() for _ in range(INVOKES)],
                    }
                    if number >= WARM_UP:
                        for work, each in taken.items():
                            kept[work] += each
        finally:
            for stack in stacks:
                stack.stop()
            # Unpacked layers are read-only.
            subprocess.run(["chmod", "-R", "u+w", directory], check=False)
    print(f"{'':18}{'before p50':>12}{'p90':>9}{'after p50':>12}{'p90':>9}{'ratio':>8}   (ms, {rounds} rounds)")
    for work in times[0]:
        before, after = ((statistics.median(t[work]), statistics.quantiles(t[work], n=10)[8]) for t in times)
        print(f"{work:18}{before[0]:12.2f}{before[1]:9.2f}{after[0]:12.2f}{after[1]:9.2f}{after[0] / before[0]:8.2f}")


if __name__ == "__main__":
    main()
