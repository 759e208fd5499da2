"""A warm parent: a process that has imported packages, and from which agents that use them are forked.

It has no source, no environment, no secret and no descriptor of any agent: these reach the forked process alone, once
that is confined. A request for an agent comes with a socket; the agent's launcher, at the other end of that, names what
confines the agent and then says what it is.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading

from . import capture, confinement
from .import_recording import Recording
from .paths import arrange_path

MAX_MESSAGE = 64  # of a request, in bytes; what is longer comes as a file
MAX_FDS = 16
IMPORT_SECONDS = 60  # that a package may take to be imported by a process that is to be given up after that
PATCHERS = ("gevent", "eventlet")  # they change the standard library, before anything else uses it


imported = frozenset()  # the modules that forked processes have from the beginning
known_sites = {}  # where they come from: directories with packages, and which ones these were


class Unsuitable(Exception):
    """What a package's import left behind that a forked process cannot have."""


def serve(runner, options, sites):
    """Imports what the configuration names, and forks an agent for each request until the launcher's socket closes."""
    control = socket.socket(fileno=int(options["--parent-fd"][-1]))
    control.set_inheritable(False)
    with open(int(options["--config-fd"][-1]), encoding="utf-8") as file:
        config = json.load(file)
    path, environ, earlier = list(sys.path), dict(os.environ), set(sys.modules)
    app = (options["--app"] or [os.path.join(os.sep, "app")])[-1]
    if os.path.isdir(app):
        os.chdir(app)
    known_sites.update((site, identity(site)) for site in sites)
    preload_runner()
    capture.install(line_buffering=True)  # packages may keep the standard output when they are imported
    recording = Recording(app, sites)
    try:
        with recording:
            arrange_path(app, sites, "", hermetic=bool(options["--app"]))
            recording.forget_paths()
            left_out = import_all(config["modules"], bool(config.get("careful")), recording)
    except Unsuitable as error:
        tell(options, {"unsuitable": str(error)})
        return 1
    changes = {name: value for name, value in os.environ.items() if environ.get(name) != value}
    found = {name: module for name, module in sys.modules.items() if "." not in name and name not in earlier}
    tell(options, {
        "left_out": left_out,
        "reads": None if recording.reads_all_variables else sorted(recording.variables),
        "names": sorted({*found, *recording.missing}),
        "namespaces": sorted(name for name, module in found.items() if getattr(module, "__file__", None) is None),
        "files": sorted(recording.files),
        "packages": {
            "lists": recording.lists_packages,
            "entries": sorted({*recording.entries, *PATCHERS}),
            "distributions": sorted(recording.missing_distributions),
        },
    })
    for stream in (sys.stdout, sys.__stdout__, sys.stderr):
        stream.flush()
    global imported
    imported = frozenset(sys.modules)
    gc.collect()
    gc.freeze()  # a collection in an agent writes to no page that it shares
    while True:
        message, fds, _, _ = socket.recv_fds(control, MAX_MESSAGE, MAX_FDS)
        if not message:
            return 0
        reap()
        start = socket.socket(fileno=fds[0])
        if not os.fork():
            control.close()
            fork_agent(start, runner, path, changes, recording, message == b"fork")
        start.close()


def reap():
    """Reaps forked processes that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def identity(directory):
    """Returns what tells a directory from another one at the same path."""
    with contextlib.suppress(OSError):
        status = os.stat(directory)
        return status.st_dev, status.st_ino


def tell(options, event):
    with open(int(options["--notify-fd"][-1]), "w") as pipe:
        pipe.write(json.dumps(event) + "\n")


def preload_runner():
    """Imports the runner's own modules, and those of the standard library that it uses, also for its first answer."""
    directory = os.path.dirname(os.path.abspath(__file__))
    for name in sorted(os.listdir(directory)):
        if name.endswith(".py") and name != "__init__.py":
            importlib.import_module(f"{__package__}.{name[:-3]}")
    importlib.import_module("urllib.parse")


def import_all(modules, careful, recording):
    """Imports the modules, with their packages before them. Returns those that cannot be imported here, with the reason.

    One that leaves behind a thread, a process or an open file ends this process: a forked one would lose it. With
    `careful` each package is imported by a process of its own first, and left out where that is so.
    """
    left_out = {}
    for name in modules:
        package = name.partition(".")[0]
        if package in PATCHERS:
            raise Unsuitable(f"{package} changes modules that must not be in use yet")
        if package in left_out or name in sys.modules:
            continue
        if careful and (reason := trial(name, recording)):
            left_out[package] = reason
            continue
        known = descriptors(), handlers()
        try:
            importlib.import_module(name)
        except BaseException as error:  # the agent itself will be told, if it needs it
            left_out.setdefault(name, f"{type(error).__name__}: {error}")
        if reason := remains(known, recording):
            raise Unsuitable(f"{name} {reason}")
    if reason := shared_memory():
        raise Unsuitable(f"one of the packages {reason}")
    return left_out


def trial(name, recording):
    """Imports a module in a process of its own. Returns why it is not to be imported here, or None."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        known = descriptors(), handlers()
        try:
            importlib.import_module(name)
        except BaseException:  # harmless here, too
            pass
        os.write(writer, (remains(known, recording) or shared_memory() or "-").encode())
        os._exit(0)
    os.close(writer)
    if not select.select([reader], [], [], IMPORT_SECONDS)[0]:
        os.kill(child, signal.SIGKILL)
    with open(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return None if said == "-" else said or "cannot be imported within a minute, or ends the process"


def descriptors():
    """Returns the open descriptors and what they are of, without the listing's own."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
        except OSError:
            pass
    return found


def handlers():
    """Returns what signals do."""
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def remains(known, recording):
    """Returns what an import has left behind that a forked process does not have, or done that it would do elsewhere with
    another outcome, or None."""
    if len(os.listdir("/proc/self/task")) > 1:
        return "starts a thread when it is imported"
    if recording.connects:
        return "uses the network when it is imported"
    for _, target in descriptors() - known[0]:
        return f"opens {target} when it is imported"
    if handlers() != known[1]:
        return "handles a signal when it is imported"
    if any(signal.getitimer(timer)[0] for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)):
        return "starts a timer when it is imported"
    try:
        os.waitid(os.P_ALL, 0, os.WNOHANG | os.WNOWAIT | os.WEXITED)
    except ChildProcessError:
        return None
    return "starts a process when it is imported"


def shared_memory():
    """Returns that there is memory which forked processes would share, or None."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        shared = any(line.split()[1].startswith("rw") and line.split()[1].endswith("s") for line in maps)
    return "shares memory with processes that are forked" if shared else None


def fork_agent(start, runner, path, changes, recording, in_namespaces):
    """Forks the first process of an agent's PID namespace from this forked process. Its launcher moves it into the agent's
    control groups while it makes the agent's other namespaces. It joins these, and forks the agent once it is confined,
    while the launcher looks at it. That waits for what it is to become: there may be no agent yet. Does not return."""
    try:
        if in_namespaces:
            confinement.leave_processes()
        if os.fork():
            os._exit(0)
        start.send(b"forked")
        request, given = receive(start)
        if request is None:
            os._exit(0)
        confinement.enter(request["namespaces"], given)
        confinement.confine(request, given[len(request["namespaces"]):])
        start.send(b"confined")
        confinement.show_memory(False)  # to the agent, even if that has not begun
        if agent := os.fork():
            be_first_process(start, agent)
        confinement.show_memory(True)
        os.setsid()
        start.send(b"started")
        os.environ.clear()
        reseed(recording)
        spec, fds = receive(start)
        start.close()
        if spec is None:
            os._exit(0)
    except BaseException as error:
        print(f"the agent cannot be forked: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    become_agent(spec, fds, runner, path, changes)


def be_first_process(start, agent):
    """Reaps the processes of this PID namespace until the agent's main process ends, and reports how. The kernel ends the
    others with this one, to which it delivers no signal from inside that has no handler here."""
    for number in signal.valid_signals():
        if signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN, None):
            signal.signal(number, signal.SIG_DFL)
    os.closerange(0, start.fileno())
    os.closerange(start.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    while True:
        pid, status = os.wait()
        if pid == agent:
            break
    code = os.waitstatus_to_exitcode(status)
    start.send(json.dumps({"code": code} if code >= 0 else {"signal": -code}).encode())
    os._exit(0)


def receive(start):
    """Receives a message of JSON, which comes in a file, the last of the descriptors; None when the other side is gone."""
    message, fds, _, _ = socket.recv_fds(start, MAX_MESSAGE, MAX_FDS)
    if not message:
        return None, []
    with open(fds.pop(), "rb") as file:
        return json.loads(file.read()), fds


def become_agent(spec, fds, runner, path, changes):
    """Turns this confined process into the agent that its launcher describes: standard output and error, one descriptor
    for each option, the command line, the environment and the working directory. Does not return."""
    for number, fd in enumerate((os.open(os.devnull, os.O_RDONLY), *fds[:2])):
        os.dup2(fd, number)
        os.close(fd)
    arguments = list(spec["args"])
    for option, fd in zip(spec["fd_options"], fds[2:]):
        arguments += [option, str(fd)]
    os.environ.update({**changes, **spec["env"]})
    os.chdir(spec["cwd"])
    sys.path[:] = path
    if any(identity(site) != known for site, known in known_sites.items()):  # it has more packages than the parent
        importlib.invalidate_caches()
    sys.argv[:] = [runner, *arguments]
    from .start import main

    end(main(runner))


def end(status):
    """Ends the process as the interpreter does, except that it destroys no modules: all that is shared with the parent would
    be copied for that."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status or 0)


def reseed(recording):
    """Gives the process random numbers of its own. (`random` does so itself when a process is forked.)"""
    recording.reseed()
    if numpy := sys.modules.get("numpy.random"):
        numpy.seed()
    if processes := sys.modules.get("multiprocessing.process"):
        processes.current_process().authkey = os.urandom(32)
    if ssl := sys.modules.get("ssl"):
        ssl.RAND_add(os.urandom(32), 32)  # it tells a fork by its process number, which is the same in each namespace
