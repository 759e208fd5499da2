"""A stand-in for the runner: the same start protocol, and one line of text per connection instead of HTTP.

The agent's source defines `handle(line) -> str`.
"""
import faulthandler
import json
import os
import signal
import socket
import sys
import traceback

options = {}
words = sys.argv[1:]
while words:
    options.setdefault(words[0], []).append(words[1])
    words = words[2:]
options.setdefault("--app", ["/app"])
listen, notify, config = (int(options[name][0]) for name in ("--listen-fd", "--notify-fd", "--config-fd"))
for fd in (listen, notify):
    os.set_inheritable(fd, False)
with open(config, encoding="utf-8") as file:
    CONFIG = json.load(file)
faulthandler.register(CONFIG["stack_signal"], file=notify, all_threads=False)
listener = socket.socket(fileno=listen)
listener.setblocking(True)
sys.path[0:0] = options["--app"] + options.get("--site", [])


def tell(event):
    os.write(notify, (json.dumps(event) + "\n").encode())
    os.close(notify)


scope = {"CONFIG": CONFIG, "OPTIONS": options, "__name__": "agent"}
try:
    with open(os.path.join(options["--app"][0], os.environ["USER_ENTRY_POINT"]), encoding="utf-8") as file:
        exec(compile(file.read(), file.name, "exec"), scope)
except Exception as error:
    traceback.print_exc()
    tell({"event": "failed", "error": traceback.format_exception_only(error)[-1].strip()})
    sys.exit(1)


class Drain(Exception):
    pass


def drain(*_):
    if busy:
        listener.setblocking(False)
    else:
        raise Drain


def serve():
    global busy
    connection, _ = listener.accept()
    busy = True
    connection.setblocking(True)
    with connection, connection.makefile("rw") as stream:
        line = stream.readline()
        if line:
            stream.write(str(scope["handle"](line.strip())).replace("\n", " ") + "\n")
    busy = False


def in_child():
    """A forked child, as multiprocessing makes them, must end by the signal: a drain is nothing to it."""
    if signal.getsignal(signal.SIGTERM) is drain:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


# Blocked meanwhile, or a signal right after the fork would find the handler and be lost. The real runner does the same.
os.register_at_fork(
    before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}),
    after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM}), after_in_child=in_child)
busy = False
signal.signal(signal.SIGTERM, drain)
faulthandler.unregister(CONFIG["stack_signal"])
tell({"event": "ready"})
try:
    while True:
        serve()
except Drain:
    listener.setblocking(False)
    try:
        while True:
            serve()
    except BlockingIOError:
        pass
except BlockingIOError:
    pass
