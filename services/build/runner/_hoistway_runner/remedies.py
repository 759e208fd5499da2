"""Remedies for errors that result from the agents' environment."""

import errno
import os
import socket
import sys

import _thread

from .errors import Mask

LOOPS = ("different loop", "different event loop", "Event loop is closed", "no current event loop", "no running event loop")
MAIN_THREAD = "only works in main thread"
SIGNALS = "signals are for the main thread: set a handler when the file is imported; what a web application does at its end belongs into its shutdown; for a time limit use the client's own timeout"
UNIX_SOCKETS = ("where the sandbox is landlock, an agent opens no Unix sockets: start processes by spawn or fork, multiprocessing.get_context('spawn'), "
                "not forkserver; share data by queues and pipes, not by a Manager; let servers listen at 127.0.0.1")
RUNNING = ("cannot be called from a running event loop", "event loop is already running", "Cannot run the event loop while another loop is running")


def remedy(error):
    """Returns a line for the details of an error of the agent's, for the error itself or its cause; or None."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        try:
            text = str(error)
        except Exception:  # it is the agent's own code
            text = ""
        for advice in (of_the_system, of_threads, of_modules):
            if line := advice(error, type(error), text):
                return line
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def of_the_system(error, kind, text):
    """Returns the remedy for a missing or forbidden system resource."""
    if kind is KeyError and is_of_the_environment(error):
        return f"the variable {error.args[0]} is not set: name it in `env` of the deploy"
    if kind is EOFError and "reading a line" in text:
        return "nobody types here: input() reads the message while a handler or a script runs, and has nothing when the file is imported"
    if kind is SystemExit and innermost(error) in ("argparse", "optparse", "click.core"):
        return "a function is called without a command line: let it take the message, and give what is read from the command line a default"
    if kind.__name__ == "TclError" and "display" in text:
        return "an agent has no display: leave windows out, and let plots be drawn with matplotlib.use('Agg')"
    if kind is MemoryError:
        return "a process of the agent may use so much memory: HOISTWAY_AGENT_LIMITS__MEMORY"
    if kind.__name__ == "BrokenProcessPool" or kind.__name__ == "CalledProcessError" and error.returncode in (-9, 137):
        return "a process that the agent had started crashed or was killed, as the kernel does where memory runs out: HOISTWAY_AGENT_LIMITS__MEMORY"
    if "can't start new thread" in text or kind is BlockingIOError and innermost(error) in ("subprocess", "os", "multiprocessing.popen_fork"):
        return "the agent has as many threads and processes as it may have: HOISTWAY_AGENT_LIMITS__PROCESSES"
    if kind is EOFError and "multiprocessing.managers" in modules(error):  # the manager's process has ended with that
        return UNIX_SOCKETS
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.EPERM and (frame := last_frame(error)) and frame.f_locals.get("family") == socket.AF_UNIX:
        return UNIX_SOCKETS
    if Mask.closed_network and (kind.__name__ == "gaierror" or error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)):
        return ("the network is closed: an agent reaches its tools and models alone, by HTTP. Register the host as a tool and name it in required_tools; "
                "other protocols need `hoistway up --network open`")
    if error.errno == errno.EXDEV:
        return "the working directory, HOME and TMPDIR are file systems of their own: use shutil.move, or make the file where it is to stay"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the working directory, HOME and TMPDIR together are as large as HOISTWAY_AGENT_LIMITS__DISK says: delete what is not needed any more"
    if error.errno == errno.EROFS:
        return "an agent may write to its working directory, HOME and TMPDIR"
    if error.errno in (errno.EACCES, errno.EADDRINUSE) and "bind" in called(error):
        return "an agent needs no port: name the application app, or define handler(message)"
    if kind is FileNotFoundError and isinstance(error.filename, str) and not os.path.isabs(error.filename):
        if innermost(error) == "subprocess" and os.sep not in error.filename:
            return f"there is no program {error.filename} here: take a package that brings it, or a library that does the same"
        return "the working directory has what was deployed: send the file along; a relative path begins at the root of the source"
    return None


def of_threads(error, kind, text):
    """Returns the remedy for the use of an object from another thread or loop than its own."""
    if kind.__module__ == "sqlite3" and "thread" in text:
        return "the connection was opened in another thread, at import: open one in each invoke, or pass check_same_thread=False"
    if kind is AttributeError and isinstance(error.obj, _thread._local):
        return "what the import stored in threading.local() is in its own thread: use a contextvars.ContextVar, or set it in each invoke"
    if kind is RuntimeError and any(words in text for words in RUNNING):
        return "in an async def handler write await in its place; or make the handler a plain def"
    if kind is RuntimeError and any(words in text for words in LOOPS):
        return "what belongs to an event loop is made in the invoke that uses it, or at import for handlers that are async def"
    if MAIN_THREAD in text:
        return SIGNALS
    return None


def of_modules(error, kind, text):
    """Returns the remedy for a module that cannot be imported, or is not the intended one."""
    if kind is ModuleNotFoundError and error.name and error.name.partition(".")[0] not in sys.modules:
        return f"nothing that is installed has the module {error.name.partition('.')[0]}: name its package in requirements.txt"
    if isinstance(error, ImportError) and ".so" in text and "cannot open shared object file" in text:
        return "the package needs a library of the system that is not there: take one whose wheel brings it"
    module = error.obj if kind is AttributeError else sys.modules.get(error.name) if isinstance(error, ImportError) and error.name else None
    if type(module) is not type(os):
        return None
    name, path = module.__name__, getattr(module, "__file__", None) or getattr(error, "path", None) or ""
    if any(path.startswith(app + os.sep) for app, place in Mask.places if place == "/app") and is_elsewhere(name, path):
        return f"{os.path.basename(path)} of the agent has the name of a package, and is imported in its place: rename it"
    if name in sys.stdlib_module_names and any(os.path.isfile(os.path.join(app, f"{name}.py")) for app, place in Mask.places if place == "/app"):
        return f"{name}.py of the agent has the name of a standard module, which is imported in its place: rename it"
    return None


def is_elsewhere(name, path):
    """Whether the standard library or a package has a module of this name, too."""
    top = name.partition(".")[0]
    others = (os.path.join(place, top) for place in sys.path if not path.startswith(place + os.sep))
    return top in sys.stdlib_module_names or any(os.path.exists(f"{other}.py") or os.path.exists(os.path.join(other, "__init__.py")) for other in others)


def last_frame(error):
    """Returns the frame in which an error was raised, or None."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback and traceback.tb_frame


def modules(error):
    """Returns the modules whose code an error passed through."""
    found, traceback = set(), error.__traceback__
    while traceback is not None:
        found.add(traceback.tb_frame.f_globals.get("__name__", ""))
        traceback = traceback.tb_next
    return found


def innermost(error):
    """Returns the module in which an error was raised."""
    frame = last_frame(error)
    return frame.f_globals.get("__name__", "") if frame else ""


def called(error):
    """Returns the names of the function, and those that it uses, in which an error was raised."""
    frame = last_frame(error)
    return (frame.f_code.co_name, *frame.f_code.co_names) if frame else ()


def is_of_the_environment(error):
    """Whether the key was looked up in os.environ."""
    frame = last_frame(error)
    return frame is not None and frame.f_locals.get("self") is os.environ
