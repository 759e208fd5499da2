#!/usr/bin/env python3
"""Measures Hoistway beside BuildKit with pip, BuildKit with uv and `uv run`, in at most a quarter of an hour.

    benches/run.py [--only WORKLOAD[,…]] [--rounds N] [--json FILE] [--svg FILE] [--hoistway BIN] [--python PYTHON]

Starts `hoistway up` and all that it compares with on loopback, in temporary directories, and ends only what it has
started. docs/performance.md describes the workloads, and names what has to be installed for the comparison with Docker.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time

import chart
import report
import workloads
from context import Context
from measure import Result, Table, Unavailable
from tools import ROOT

PYTHON = "/usr/bin/python3"


def arguments():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1].strip(), description=__doc__.split("\n")[0])
    keys = [workload.key for workload in workloads.ALL]
    parser.add_argument("--only", help=f"comma-separated, of {', '.join(keys)}")
    parser.add_argument("--rounds", type=int, help="at most; each workload has a number of its own")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--svg", metavar="FILE")
    parser.add_argument("--hoistway", metavar="BIN", default=os.path.join(ROOT, "target", "release", "hoistway"))
    parser.add_argument("--python", default=PYTHON if os.path.exists(PYTHON) else sys.executable)
    given = parser.parse_args()
    if given.only and (unknown := set(given.only.split(",")) - set(keys)):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}; there are {', '.join(keys)}")
    if not os.access(given.hoistway, os.X_OK):
        parser.error(f"{given.hoistway} is missing: cargo build --release, or --hoistway BIN")
    return given


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    given, begin, tables = arguments(), time.monotonic(), []
    chosen = [w for w in workloads.ALL if not given.only or w.key in given.only.split(",")]
    failed = False
    with tempfile.TemporaryDirectory(prefix="hoistway-benches.") as directory:
        os.chmod(directory, 0o755)  # agents have users of their own
        context = Context(os.path.abspath(given.hoistway), given.python, directory)
        try:
            for workload in chosen:
                print(f"{time.monotonic() - begin:4.0f} s  {workload.key}", file=sys.stderr, flush=True)
                try:
                    tables += workload.measure(context, given.rounds or workload.rounds, workload.seconds)
                except (RuntimeError, OSError, subprocess.SubprocessError, Unavailable) as e:
                    failed = True
                    result = Result("Hoistway", False, [], f"failed: {e}")
                    tables.append(Table(workload.key, workload.key, "ms", [result]))
        finally:
            try:
                context.close()
            except (RuntimeError, OSError, subprocess.SubprocessError) as e:
                failed = True
                print(f"not everything was ended or removed: {e}", file=sys.stderr)
            # Unpacked layers are read-only. Python takes minutes for so many files.
            subprocess.run(["chmod", "-R", "u+w", directory], check=False)
            subprocess.run(["rm", "-rf", directory], check=False)
    write(given, tables, {**report.machine(), "python": given.python, "seconds": round(time.monotonic() - begin)})
    return failed


def write(given, tables, facts):
    print(report.text(tables))
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    for path, text in ((given.json, report.to_json(tables, facts)), (given.svg, chart.svg(tables))):
        if path:
            with open(path, "w") as file:
                file.write(text)


if __name__ == "__main__":
    sys.exit(main())
