"""The only process of the container that holds an agent's network: a network without any interface but its loopback.

A socket belongs to the network in which it was made, so this process makes those with which the agent service reaches
the agent and the agent reaches egress, and sends them to the agent service over a Unix socket: first the listeners at
the addresses that are its arguments, then a new socket for each byte that it receives. It ends with that connection.
Meanwhile it sends the agent's source to the first client that asks for it: the agent's container has a directory of its
own in the place of the one in its image.
"""

import os
import socket
import sys
import tarfile
import threading
from array import array

SUPERVISOR, APP = "/run/hoistway/network.sock", "/app"
AT_ONCE = 8  # descriptors in a message


def listener(address):
    host, port = address.rsplit(":", 1)
    return socket.create_server((host, int(port)), backlog=1024)


def send(supervisor, sockets, text=b"\n"):
    fds = array("i", [each.fileno() for each in sockets])
    supervisor.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])


def size(directory):
    """Returns the bytes and the number of the files in a directory."""
    found = [os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(directory) for name in names]
    return sum(found), len(found)


def serve_source(source):
    client, _ = source.accept()
    source.close()
    with client, client.makefile("wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        archive.add(APP, arcname=".")


def main(source_address, *addresses):
    source = listener(source_address)
    listeners = [listener(address) for address in addresses]
    threading.Thread(target=serve_source, args=(source,), daemon=True).start()
    with socket.socket(socket.AF_UNIX) as supervisor:
        supervisor.connect(SUPERVISOR)
        for at in range(0, len(listeners), AT_ONCE):
            send(supervisor, listeners[at:at + AT_ONCE], b" ")
        supervisor.sendall(b"%d %d\n" % size(APP))
        for each in listeners:
            each.close()
        while supervisor.recv(1):
            with socket.socket() as made:
                send(supervisor, [made])


if __name__ == "__main__":
    main(*sys.argv[1:])
