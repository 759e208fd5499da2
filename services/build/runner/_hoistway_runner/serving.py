"""The agent's process, from its inherited descriptors to its end."""

import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time

from . import EXIT_SECONDS, capture
from .errors import Mask, StartError, flush_output, report
from .loading import load_agent
from .server import Server

START_MARGIN = 0.5  # of the seconds that a start may take


def inherited(values):
    """Returns a descriptor from the supervisor, no longer inheritable."""
    if not values:
        return None
    os.set_inheritable(int(values[-1]), False)
    return int(values[-1])


def close_foreign(known):
    """Closes every unexpected descriptor: those left open by a careless parent must not reach the agent."""
    try:
        open_fds = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return
    for fd in open_fds:
        if fd > 2 and fd not in known:
            try:
                os.close(fd)
            except OSError:
                pass  # the listing's own, which is closed already


def notify(fd, event):
    """Reports the outcome of the start to the supervisor."""
    if fd is not None:
        with open(fd, "w") as pipe:
            pipe.write(json.dumps(event) + "\n")


def imported_since(earlier):
    """Returns the names of later modules, which come last. A look at the others would copy the memory that they share with
    the process from which this one was forked."""
    count, names = len(sys.modules) - len(earlier), []
    try:
        for name in reversed(sys.modules):
            if len(names) >= count:
                return names[::-1]
            if name not in earlier:
                names.append(name)
    except RuntimeError:  # a thread of the agent imports meanwhile
        pass
    return [name for name in list(sys.modules) if name not in earlier]


def imported_packages(app):
    """Returns the modules that others with the same packages may have imported already, in the order in which their
    imports began: all but the agent's own, the runner's, and those of the process from which this one was forked."""
    own = ("__main__", "__mp_main__", __package__)
    parent = sys.modules.get(f"{__package__}.warm_parent")
    names = []
    for name in imported_since(parent.imported) if parent else list(sys.modules):
        file = getattr(sys.modules.get(name), "__file__", None) or ""
        if name.partition(".")[0] not in own and name not in sys.builtin_module_names and not file.startswith(app + os.sep):
            names.append(name)
    return names


def keep_children_apart(listener):
    """Prevents forked children, as of multiprocessing, from keeping the port and from handling a signal as a drain."""
    signals = {signal.SIGTERM, signal.SIGINT}

    def in_child():
        listener.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    os.register_at_fork(  # blocked meanwhile: our handler would lose a signal right after the fork
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signals),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, signals), after_in_child=in_child)


def say_goodbye(handler, mask):
    """Calls the handler of SIGTERM that the agent's import has set, as the signal itself would."""
    try:
        signal.signal(signal.SIGTERM, handler)  # for a handler that sends the signal to itself again
        handler(int(signal.SIGTERM), None)
    except SystemExit:  # the process is ending
        pass
    except BaseException as error:
        report(error, mask)


def serve(program, options, app, sites, entry):
    """Starts the agent and serves it until its end is requested. `program` is the interpreter and the runner's file."""
    Mask.places = [(app, "/app"), *((site, "/opt/hoistway/site-packages") for site in sites)]
    capture.install(line_buffering=True)  # logs are read while the agent runs
    faulthandler.enable()
    listen_fd, notify_fd, config_fd = (inherited(options[o]) for o in ("--listen-fd", "--notify-fd", "--config-fd"))
    close_foreign({listen_fd, notify_fd, config_fd})
    config = {}
    if config_fd is not None:
        with open(config_fd, encoding="utf-8") as pipe:
            config = json.load(pipe)
    Mask.closed_network = bool(config.get("closed_network"))
    if listen_fd is not None:
        listener = socket.socket(fileno=listen_fd)
    else:
        listener = socket.create_server(("0.0.0.0", int(os.environ.get("PORT") or 8080)), backlog=1024)
    keep_children_apart(listener)
    begun, seconds, stack_signal = time.monotonic(), config.get("start_seconds"), config.get("stack_signal")
    if stack_signal and notify_fd is not None:  # a hanging start is asked for its stack, whatever holds the GIL
        faulthandler.register(stack_signal, file=notify_fd)

    keep = [word for option in ("--app", "--site", "--environment") for value in options[option] for word in (option, value)]
    flags = ["-s"] + ["-S"] * sys.flags.no_site + ["-E"] * sys.flags.ignore_environment
    interpreter, runner = program
    command = [interpreter, *flags, os.path.abspath(runner), *keep,
               *(["--closed-network", "yes"] if config.get("closed_network") else []), "--script", entry]
    sys.argv[:] = [os.path.join(app, entry)]  # a main() that parses its arguments finds none, not the runner's
    try:
        if entry == ".":
            raise StartError("USER_ENTRY_POINT does not name the entry file")
        agent = load_agent(app, entry, command, config.get("framework"))
        # A time-out detected here has a better message than the stack of a waiting thread.
        agent.start(seconds and max(seconds - (time.monotonic() - begun) - START_MARGIN, 0))
    except BaseException as error:
        text, details = report(error, Mask(config.get("mask") or ()))
        event = {"event": "failed", "error": text}
        if isinstance(error, StartError) and error.code:
            event |= {"code": error.code, "details": details}
        notify(notify_fd, event)
        sys.stdout.flush()
        os._exit(1)  # at once: a thread that the import has started may never end

    server = Server(listener, agent, config)
    agents_own = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, server.drain)
    signal.signal(signal.SIGINT, server.drain)
    flush_output()
    if stack_signal:
        faulthandler.unregister(stack_signal)
    notify(notify_fd, {"event": "ready"} | ({"modules": imported_packages(app)} if config.get("report_modules") else {}))
    from . import data  # imported only now: the first answer needs it, and by then there may be no descriptor left

    capture.begin()
    from _contextvars import copy_context

    server.context = copy_context()
    server.serve()

    def end():
        time.sleep(EXIT_SECONDS)
        os._exit(0)

    threading.Thread(target=end, daemon=True).start()  # threads and exit hooks of the agent get that long
    if callable(agents_own) and agents_own is not signal.default_int_handler:
        say_goodbye(agents_own, server.mask)
    agent.stop()
    if loop := sys.modules.get("_hoistway_runner.loop"):
        loop.LOOP.close()
