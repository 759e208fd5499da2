"""What to do about errors that come from how agents are run and what they are given."""

import errno
import os
import sys

import _thread

LOOPS = ("different loop", "different event loop", "Event loop is closed", "no current event loop", "no running event loop")


def remedy(error):
    """A line for the details of an error of the agent's, or None."""
    kind = type(error)
    if kind.__module__ == "sqlite3" and "thread" in str(error):
        return "the connection was opened in another thread, at import: open one in each invoke, or pass check_same_thread=False"
    if kind is AttributeError and isinstance(error.obj, _thread._local):
        return "what the import stored in threading.local() is in its own thread: use a contextvars.ContextVar, or set it in each invoke"
    if kind is RuntimeError and any(words in str(error) for words in LOOPS):
        return "what belongs to an event loop is made in the invoke that uses it, or at import for handlers that are async def"
    if kind is ModuleNotFoundError and error.name and error.name.partition(".")[0] not in sys.modules:
        return f"nothing that is installed has the module {error.name.partition('.')[0]}: name its package in requirements.txt"
    if kind is ImportError and ".so" in str(error) and "cannot open shared object file" in str(error):
        return "the package needs a library of the system that is not there: take one whose wheel brings it"
    if kind is KeyError and is_of_the_environment(error):
        return f"the variable {error.args[0]} is not set: name it in `env` of the deploy"
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return "an agent may write to its working directory, HOME and TMPDIR"
    return None


def is_of_the_environment(error):
    """Whether the key was looked up in os.environ."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_locals.get("self") is os.environ
