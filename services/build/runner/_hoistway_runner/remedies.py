"""What to do about errors that come from how agents are run: their import and their invokes are in different threads."""

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
    return None
