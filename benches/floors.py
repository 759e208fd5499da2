"""The floors: times that no design gets below on this machine."""

import contextlib
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


def install_and_import(uv, python, requirements, modules, cache, site=None, archived=False):
    """What no deploy with new packages can do without: uv resolves and fetches them, and compiles them on all processors,
    and an interpreter imports them. `requirements` and `cache` are told the number of the round. With `site`, a directory
    in which the packages are compiled already, nothing is compiled. With `archived`, a compressed archive of them, as in
    an image, is made while they are imported."""

    def run(number):
        by_hand = uv()
        place = by_hand.place(f"floor-{cache(number)}-{number}")

        def work():
            by_hand.install(place, requirements(number), cache(number), compiled=not site)
            environment = {**os.environ, "PYTHONPATH": site() if site else place, "PYTHONDONTWRITEBYTECODE": "1"}
            with archive(place) if archived else contextlib.nullcontext():
                subprocess.run([python, "-c", f"import {modules}"], env=environment, check=True, timeout=60)

        return milliseconds(work)

    steps = ["uv pip install" + ("" if site else " --compile-bytecode"), *["tar, gzip -2"] * archived, "import …"]
    return Contestant("floor: " + ", ".join(steps), run, floor=True)


@contextlib.contextmanager
def archive(place):
    """Writes an archive of a directory, compressed as the layers of an image, while the body runs, and waits for it."""
    command = ["tar", "--create", "--file", f"{place}.tar.gz", "--use-compress-program", "gzip -2", "--directory", place, "."]
    with subprocess.Popen(command) as process:
        yield
        if process.wait(60):
            raise RuntimeError(f"{command}: {process.returncode}")


def fsync(directory):
    """Writing 4 KiB to a new file and flushing it to disk."""

    def write():
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())

    return Contestant("floor: one fsync of 4 KiB", lambda _: milliseconds(write), floor=True)
