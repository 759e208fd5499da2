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


def install_and_import(uv, python, requirements, modules, cache, site=None):
    """What no deploy with new packages can do without: uv resolves and fetches them, and compiles them on all processors,
    and an interpreter imports them. `requirements` and `cache` are told the number of the round. With `site`, a directory
    in which the packages are compiled already, nothing is compiled."""

    def run(number):
        by_hand = uv()
        place = by_hand.place(f"floor-{cache(number)}-{number}")

        def work():
            by_hand.install(place, requirements(number), cache(number), compiled=not site)
            environment = {**os.environ, "PYTHONPATH": site() if site else place, "PYTHONDONTWRITEBYTECODE": "1"}
            subprocess.run([python, "-c", f"import {modules}"], env=environment, check=True, timeout=60)

        return milliseconds(work)

    return Contestant(f"floor: uv pip install{'' if site else ' --compile-bytecode'}, import …", run, floor=True)


def fsync(directory):
    """Writing 4 KiB to a new file and flushing it to disk."""

    def write():
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())

    return Contestant("floor: one fsync of 4 KiB", lambda _: milliseconds(write), floor=True)
