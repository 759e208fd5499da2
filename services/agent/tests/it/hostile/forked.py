

# The names that a stand-in for the runner has, in an agent that is forked.
import os
import socket
import sys

import _hoistway_runner

RUNNER = os.path.join(os.path.dirname(_hoistway_runner.__path__[0]), "hoistway_runner.py")
OPTIONS = {"--app": [os.getcwd()], "--site": [path for path in sys.path if os.path.exists(path + "/data.txt")]}


def inherited_descriptors():
    """Any file, or a socket to somebody else: what a server has open are sockets of the network and its own pairs."""
    for fd in os.listdir("/proc/self/fd"):
        target = os.readlink("/proc/self/fd/" + fd) if os.path.exists("/proc/self/fd/" + fd) else ""
        if target.startswith("/") and target not in ("/dev/null", "/proc/%d/fd" % os.getpid()):
            return "reached: " + target
        if target.startswith("socket:"):
            with socket.socket(fileno=os.dup(int(fd))) as inherited:
                peer = inherited.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                if inherited.family == socket.AF_UNIX and int.from_bytes(peer[:4], sys.byteorder) != os.getpid():
                    return "reached: " + target
    return False


def handler(message):
    return handle(message)
