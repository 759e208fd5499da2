"""The event loop of the agent."""

import sys
import threading
from contextlib import contextmanager

from . import EXIT_SECONDS
from .callers import HERE, PeerGone, Slots, is_gone
from .errors import headline, leave


class EventLoop:
    """One loop for all async code of the agent, so that a client bound to it at the first call keeps working."""

    def __init__(self):
        self._lock, self._loop, self._ending = threading.Lock(), None, False

    def _started(self):
        import asyncio

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, name="event-loop", daemon=True)
                self._thread.start()
                Slots.loop = self
        return self._loop

    def _run(self):
        import asyncio

        asyncio.set_event_loop(self._loop)
        while not self._ending:
            try:
                self._loop.run_forever()  # and again when the agent's code has stopped it: other invokes wait for it
            except (SystemExit, KeyboardInterrupt) as error:  # a background task called exit(): only it ends
                print(f"a task ended with {headline(error)}", file=sys.stderr)
            except Exception as error:  # it was closed, or its selector was
                leave(f"its event loop broke: {headline(error)}")

    def submit(self, coroutine):
        """Runs a coroutine on the loop; returns a concurrent Future of its result."""
        import asyncio

        return asyncio.run_coroutine_threadsafe(coroutine, self._started())

    def soon(self, function):
        """Calls a function on the loop, which may have ended."""
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            pass

    def wait(self, awaitable, seconds=None):
        """Returns the result of an awaitable as soon as it exists: the loop may be about to run code that blocks.
        Exceptions are passed as values: asyncio would let SystemExit end the loop. Raises LoopBlocked after
        `seconds`."""
        done, results, caller = threading.Event(), [], Caller()

        async def outcome():
            try:
                with caller:
                    results.append((await awaitable, None))
            except BaseException as error:
                results.append((None, error))
            done.set()

        self.submit(outcome()).add_done_callback(lambda _: done.set())  # also if it was cancelled before it began
        if not done.wait(seconds):
            raise LoopBlocked(sys._current_frames().get(self._thread.ident))
        value, error = results[0] if results else (None, RuntimeError("the event loop has ended"))
        if caller.gone:
            raise PeerGone
        if error is not None:
            raise error
        return value

    def standing(self, peer):
        """Returns the stack of the task that works for a connection."""
        task = next((caller.task for caller in list(Caller.watching.values()) if caller.peer is peer), None)
        if task is None:
            return ""
        import asyncio

        from .asgi import lines_of, suspended
        from .callers import shown

        if asyncio.current_task(self._loop) is task:  # it does not wait: it blocks the loop
            return shown(sys._current_frames().get(self._thread.ident))
        return "\n".join(lines_of((frame, frame.f_lineno) for frame in suspended(task.get_coro())))

    def held_for(self):
        """Returns the connections that the loop may be working for: the one whose task it runs, or, if it runs another
        task, all with a task, since any of them may have started it."""
        import asyncio

        running, callers = asyncio.current_task(self._loop), list(Caller.watching.values())
        return [caller.peer for caller in [caller for caller in callers if caller.task is running] or callers]

    def thread_id(self):
        return self._thread.ident

    def iterate(self, chunks):
        """Turns an async iterator into a plain one. A single task drives it: time-outs and task groups may span its
        yields."""
        import asyncio
        from queue import SimpleQueue

        ready, wanted, end, caller = SimpleQueue(), asyncio.Semaphore(0), object(), Caller()

        async def drive():
            try:
                with caller:
                    async for chunk in chunks:
                        ready.put((chunk, None))
                        await wanted.acquire()
                ready.put((end, None))
            except BaseException as error:
                ready.put((end, PeerGone() if caller.gone else error))
            finally:
                if hasattr(chunks, "aclose"):
                    await chunks.aclose()

        task = self.submit(drive())
        try:
            while True:
                chunk, error = ready.get()
                if error is not None:
                    raise error
                if chunk is end:
                    return
                yield chunk
                self._loop.call_soon_threadsafe(wanted.release)
        finally:
            task.cancel()

    def close(self):
        """Cancels the remaining tasks and gives them a moment to clean up."""
        if self._loop is None:
            return
        import asyncio

        async def cancel_all():
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._loop.shutdown_asyncgens()

        try:
            self.submit(cancel_all()).result(EXIT_SECONDS)
        except Exception as error:
            print(f"tasks did not end: {headline(error)}", file=sys.stderr)
        self._ending = True
        self._loop.call_soon_threadsafe(self._loop.stop)


class LoopBlocked(Exception):
    """The loop is blocked; `frame` is its current frame."""

    def __init__(self, frame):
        super().__init__("the event loop is blocked")
        self.frame = frame


class Caller:
    """The caller that waits for a task of the loop, if this thread answers one. The task is cancelled when the caller
    is gone; its later output belongs to no answer."""

    watching = {}  # callers by descriptor: an application that is called twice has two tasks on one connection

    def __init__(self):
        self.peer, self.gone, self.looked = getattr(HERE, "peer", None), False, False

    def __enter__(self):
        if self.peer is not None:
            import asyncio

            self.loop, self.task, self.fd = asyncio.get_running_loop(), asyncio.current_task(), self.peer.fileno()
            try:
                self.loop.add_reader(self.fd, self.look)
                self.watching[self.fd] = self
            except (OSError, ValueError):  # it cannot be watched: the loss is detected when the answer is sent
                self.peer = None

    def __exit__(self, *_):
        if self.peer is not None and self.watching.get(self.fd) is self:
            del self.watching[self.fd]
            if not self.looked:  # afterwards the descriptor may be another connection's, also one of the agent's own
                self.loop.remove_reader(self.fd)

    def look(self):
        """Handles readability, which after the request can only be the connection's end."""
        self.loop.remove_reader(self.fd)
        self.looked = True
        if is_gone(self.peer):
            self.gone = True
            self.task.cancel()


@contextmanager
def own_loop():
    """Provides an event loop for the code of this thread, like the main thread's in a program: plain handlers run
    coroutines on it."""
    import asyncio

    try:
        loop = asyncio.new_event_loop()
    except OSError:  # no descriptor is left for one, and most handlers need none
        loop = None
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        if loop is not None:
            loop.close()


LOOP = EventLoop()
