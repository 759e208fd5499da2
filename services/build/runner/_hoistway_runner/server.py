"""Accepts connections, and ends when all of them are answered."""

import errno
import os
import select
import socket
import sys
import threading

from .callers import Slots
from .errors import Mask, leave
from .http import INVOKES, Exchange

CONNECTIONS = 128  # at once, so health is answered while all invokes are busy; one more closes the oldest without a token
SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}  # they pass, when a connection ends for one


class Server:
    """Accepts connections until it drains, and tracks those that are still being answered."""

    def __init__(self, listener, agent, config):
        self.listener, self.agent = listener, agent
        self.token, self.mask = config.get("token") or "", Mask(config.get("mask") or ())
        self.closed_network = bool(config.get("closed_network"))
        self.name = os.environ.get("AGENT_NAME", "")
        self.slots = Slots(INVOKES, self.mask)
        self.context = None  # that of the import, for every exchange
        self._changed, self._connections = threading.Condition(), 0
        self._strangers = {}  # connections that have not shown the token, the oldest first
        self._draining = False
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)

    def drain(self, *_):
        """Requests the end. It is a signal handler, so it only sets a flag and wakes the server."""
        self._draining = True
        try:
            os.write(self._wake_writer, b"x")
        except OSError:  # the pipe is full, or the agent's code has closed it, which wakes as well
            pass

    def count(self, connections):
        with self._changed:
            self._connections += connections
            self._changed.notify_all()

    def knows(self, peer):
        """Marks a connection as authenticated: it is not closed to make room."""
        with self._changed:
            self._strangers.pop(peer, None)

    def make_room(self):
        """Waits until one more connection may be open. Clients without the token cannot block others."""
        with self._changed:
            while self._connections >= CONNECTIONS:
                if oldest := next(iter(self._strangers), None):
                    del self._strangers[oldest]
                    try:
                        oldest.shutdown(socket.SHUT_RDWR)  # its thread ends
                    except OSError:
                        pass  # it has ended
                self._changed.wait()

    def serve(self):
        """Serves until drained."""
        self.listener.setblocking(False)
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        poll.register(self._wake_reader, select.POLLIN)
        while not any(fd == self._wake_reader for fd, _ in poll.poll()):
            self.accept()
        if not self._draining:
            leave("its code has closed descriptors of the runner")
        while self.accept():  # all open connections are answered
            pass
        self.listener.close()
        with self._changed:
            self._changed.wait_for(lambda: self._connections == 0)  # the sender of the signal limits the wait

    def accept(self):
        """Accepts one connection; returns False if there is none."""
        self.make_room()
        try:
            peer, _ = self.listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno not in SHORTAGES:
                leave(f"its listening socket is gone ({error.strerror})")
            print(f"cannot accept: {error}", file=sys.stderr)
            with self._changed:
                self._changed.wait(1)
            return True
        self.count(1)
        with self._changed:
            self._strangers[peer] = None
        try:
            threading.Thread(target=self.exchange, args=(peer,), name="exchange", daemon=True).start()
        except RuntimeError as error:  # no thread is left within the agent's limits
            print(f"cannot answer: {error}", file=sys.stderr)
            self.knows(peer)
            peer.close()
            self.count(connections=-1)
        return True

    def exchange(self, peer):
        exchange = Exchange(self, peer)
        try:
            self.context.copy().run(exchange.run)  # a copy of the import's context for each invoke
        finally:
            self.knows(peer)
            self.count(-1)
