"""Becomes the runner of an agent's container: listens for the agent's callers, asks the agent service for everything
else, and enters what the runtime of containers does not set up: the system calls that no agent needs are refused.

What the agent service says comes over a connection in the agent's own network, so it appears neither in the
container's description nor on any disk. The runner reports over the same connection. An answer that is not complete
means that the agent service is gone.
"""

import json
import os
import socket
import sys

CALLERS, CONTROL, SOURCE, APP, CA_BUNDLE, RUNNER = sys.argv[1:]


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def fetch_source():
    """Fills the empty working directory with the source in the image."""
    import tarfile

    with socket.create_connection(address(SOURCE)) as peer, peer.makefile("rb") as stream:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            # As it is; some versions of Python warn where nothing is said. Older ones know no filters.
            archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
            for entry in archive:
                if entry.name != ".":
                    entry.mode |= 0o700 if entry.isdir() else 0o600
                    archive.extract(entry, APP)


def refuse(filters):
    """Installs seccomp filters, lists of (code, jt, jf, k). The process cannot gain privileges already."""
    import ctypes

    class Instruction(ctypes.Structure):
        _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(Instruction))]

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for each in filters:
        program = Program(len(each), (Instruction * len(each))(*(tuple(instruction) for instruction in each)))
        if prctl(ctypes.c_int(22), ctypes.c_ulong(2), ctypes.byref(program), ctypes.c_ulong(0), ctypes.c_ulong(0)):
            sys.exit(f"hoistway: the agent cannot be confined: {os.strerror(ctypes.get_errno())}")


def inherited(fd):
    os.set_inheritable(fd, True)
    return str(fd)


listener = socket.create_server(address(CALLERS), backlog=1024)
control = socket.create_connection(address(CONTROL))
with control.makefile("rb") as stream:
    said = json.loads(stream.readline())
if said["copies_app"]:
    fetch_source()
if said["ca_bundle"]:
    with open(CA_BUNDLE, "w", encoding="ascii") as bundle:
        bundle.write(said["ca_bundle"])
config = os.memfd_create("agent-config")
os.write(config, json.dumps(said["config"]).encode())
os.lseek(config, 0, os.SEEK_SET)
os.chdir(APP)
refuse(said["filters"])
options = {"--listen-fd": listener.fileno(), "--notify-fd": control.fileno(), "--config-fd": config}
words = [word for option, fd in options.items() for word in (option, inherited(fd))]
os.execve(sys.executable, [sys.executable, RUNNER, *words], {**os.environ, **said["env"]})
