"""The floors: times that no design gets below on this machine."""

import os
import subprocess
import tempfile

from measure import Contestant, milliseconds


def bare_import(python, modules="", site=lambda: ""):
    """The start of an interpreter that only imports. `site` returns the directory of the packages."""
    code = f"import {modules}" if modules else "pass"

    def run(_):
        environment = {**os.environ, "PYTHONPATH": site(), "PYTHONDONTWRITEBYTECODE": "1"}
        return milliseconds(lambda: subprocess.run([python, "-c", code], env=environment, check=True, timeout=60))

    shown = code if len(code) < 30 else "import …"
    return Contestant(f"floor: bare python3 -c '{shown}'", run, floor=True)


def fsync(directory):
    """Writing 4 KiB to a new file and flushing it to disk."""

    def write():
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())

    return Contestant("floor: one fsync of 4 KiB", lambda _: milliseconds(write), floor=True)
