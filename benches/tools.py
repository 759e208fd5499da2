"""Installs what Hoistway is compared with: uv, a base image, and Docker's registry where Debian has it."""

import os
import shutil
import subprocess
import sys

from measure import Unavailable

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DIRECTORY = os.path.join(ROOT, "target", "benches")
UV = "uv"


def run(command, **options):
    """Runs quietly; a failure has the end of the output in its text."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=600, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout


def install_uv(python):
    """Returns the directory of a `uv`: the one on PATH, or one that pip installs into target/benches."""
    if found := shutil.which("uv"):
        return os.path.dirname(found)
    environment = os.path.join(DIRECTORY, "venv")
    own = os.path.join(environment, "bin", "uv")
    if not os.path.exists(own):
        print("installing uv", file=sys.stderr)
        try:
            run([sys.executable, "-m", "venv", environment])
            run([os.path.join(environment, "bin", "pip"), "install", "--quiet", UV])
        except RuntimeError as e:
            raise Unavailable(f"uv cannot be installed: {e}") from e
    return os.path.dirname(own)


def install_docker_registry():
    if shutil.which("docker-registry"):
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise Unavailable("docker-registry is not installed")
    print("installing docker-registry", file=sys.stderr)
    try:
        run(["apt-get", "install", "-q", "-y", "--no-install-recommends", "docker-registry"])
    except RuntimeError as e:
        raise Unavailable(f"docker-registry cannot be installed: {e}") from e


def base_image(name):
    try:
        run([os.path.join(ROOT, "scripts", "base-image.sh"), name])
    except (RuntimeError, OSError) as e:
        raise Unavailable(f"there is no base image: {e}") from e
