"""Web applications of ASGI (FastAPI, Starlette, Quart, Litestar ...), on the agent's event loop."""

import asyncio
import gc
import sys
import traceback
from queue import Empty, SimpleQueue

from . import EXIT_SECONDS
from .callers import HERE, PeerGone
from .data import of
from .errors import HERE as OURS
from .errors import StartError, StartTimeout, headline
from .loop import LOOP, Caller, LoopBlocked
from .remedies import MAIN_THREAD, SIGNALS
from .results import Pieces
from .web import PORT, WebAgent

AHEAD = 4  # the maximum number of messages that are sent and not yet taken
BLOCKED_SECONDS = 0.2  # after which a start-up that outlasts its own time limit is known to block the loop
REMEDY = "an endless loop belongs into a task of its own; a start that needs more time: HOISTWAY_AGENT_START_SECONDS"


def finds_itself(app):
    """Whether an ASGI application is known to route below a root_path. Others compare the whole path, or have a root of
    their own."""
    kind = type(app)
    if isinstance(app, getattr(sys.modules.get("starlette.applications"), "Starlette", ())):
        major, minor = sys.modules["starlette"].__version__.split(".")[:2]
        return (int(major), int(minor)) >= (0, 33) and not getattr(app, "root_path", "")
    return of(kind, "quart") or of(kind, "django") and kind.__name__ == "ASGIHandler"


def is_last(message):
    """Whether a message of an ASGI application ends its answer."""
    return message["type"] == "http.response.body" and not message.get("more_body")


class AsgiAgent(WebAgent):
    """An ASGI application."""

    blocking = False

    def __init__(self, app):
        super().__init__(app)
        self.state, self.lifespan, self.tasks, self.mountable = {}, None, set(), finds_itself(app)

    def call(self, request, explain=True):
        root = request.root if self.mountable else ""
        path = root + request.path_bytes().decode("utf-8", "replace")
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": request.method, "scheme": "http", "path": path, "raw_path": (root + request.path).encode("latin-1"),
            "query_string": request.query.encode("latin-1"), "root_path": root,
            "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in request.headers.items()],
            "client": ("127.0.0.1", 0), "server": ("localhost", int(PORT)), "state": dict(self.state)}
        messages = self.exchange(scope, request.body, explain, HERE.log)
        head = next(messages)
        fields = [(bytes(k).decode("latin-1").lower(), bytes(v).decode("latin-1")) for k, v in head.get("headers") or ()]

        def pieces():
            try:
                yield b""
                for message in messages:
                    if piece := message.get("body"):
                        yield bytes(piece)
            finally:
                messages.close()

        raw = pieces()
        next(raw)
        return Pieces(head["status"], fields, raw)

    def exchange(self, scope, body, explain, log):
        """Yields the messages that the application sends for one request, each at once, since the application may block
        the loop next. The task is cancelled when the messages are no longer needed."""
        ready, wanted, gone, unread, caller = SimpleQueue(), asyncio.Semaphore(AHEAD), asyncio.Event(), [body], Caller()
        status, told, closed, complete = 0, False, False, False

        async def receive():
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            nonlocal status, told
            if closed or told:
                await asyncio.sleep(0)  # lets the cancellation reach an application that sends for ever
                return
            await wanted.acquire()
            status = message.get("status", status)
            if is_last(message):  # it may finish its work after the answer
                told = True
                caller.__exit__()
            ready.put(message)

        async def run():
            task = asyncio.current_task()
            self.tasks.add(task)
            try:
                with caller:
                    await self.app(scope, receive, send)
                ready.put(None if told else RuntimeError("the ASGI application ended without a complete answer"))
            except BaseException as error:
                if not told or explain and status >= 500:
                    ready.put(PeerGone() if caller.gone else error)
                elif not isinstance(error, asyncio.CancelledError):
                    log(error)
            finally:
                self.tasks.discard(task)

        running = LOOP.submit(run())
        running.add_done_callback(lambda _: ready.put(RuntimeError("the event loop has ended")))
        try:
            while not complete:
                message = ready.get()
                if isinstance(message, BaseException):
                    raise message
                complete = is_last(message)
                yield message
                LOOP.soon(wanted.release)
            if status >= 500 and explain:  # frameworks answer first and raise the exception then, which says more
                try:
                    error = ready.get(timeout=1)
                except Empty:
                    return
                if error is not None:
                    raise error
        finally:
            closed = True
            LOOP.soon(gone.set)
            if not complete:
                running.cancel()

    def start(self, seconds=None):
        try:
            LOOP.wait(self.begin(seconds), seconds and seconds + BLOCKED_SECONDS)
        except LoopBlocked as blocked:
            raise StartTimeout("the app's start-up (lifespan) does not end", *lines_of(reversed(list(traceback.walk_stack(blocked.frame)))), REMEDY) from None

    async def begin(self, seconds):
        """Runs the application's start-up, if it has one."""
        inbox, outbox = asyncio.Queue(), asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}

        async def run():
            try:
                await self.app(scope, inbox.get, outbox.put)
                await outbox.put(None)
            except BaseException as error:
                await outbox.put(error)

        task = asyncio.ensure_future(run())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        await inbox.put({"type": "lifespan.startup"})
        try:
            message = await asyncio.wait_for(outbox.get(), seconds)
        except (TimeoutError, asyncio.TimeoutError):
            frames = [(frame, frame.f_lineno) for frame in suspended(task.get_coro())]
            raise StartTimeout("the app's start-up (lifespan) does not end", *lines_of(frames), REMEDY) from None
        if isinstance(message, (SystemExit, KeyboardInterrupt)) or isinstance(message, Exception) and MAIN_THREAD in headline(message):
            raise message
        if not isinstance(message, dict):  # it ended or failed at once: it has no start-up
            return
        if message["type"] == "lifespan.startup.failed":
            try:
                error = await asyncio.wait_for(outbox.get(), 1)  # the cause, if it is raised
            except (TimeoutError, asyncio.TimeoutError):
                error = None
            text = message.get("message") or "it does not say why"
            raise error if isinstance(error, BaseException) else StartError(f"the app's start-up failed: {text}", *[SIGNALS] * (MAIN_THREAD in text))
        self.lifespan = inbox, outbox

    def stop(self):
        if not self.lifespan:
            return
        async def end():
            inbox, outbox = self.lifespan
            await inbox.put({"type": "lifespan.shutdown"})
            await asyncio.wait_for(outbox.get(), EXIT_SECONDS - 1)

        try:
            LOOP.wait(end())
        except Exception as error:
            print(f"the app's shutdown did not end: {headline(error)}", file=sys.stderr)


def suspended(waiting):
    """Returns the frames in which a coroutine waits, the outermost first. The awaitable of an asynchronous generator
    does not refer to its generator."""
    while waiting is not None:
        names = [name for name in ("cr", "ag", "gi") if hasattr(waiting, f"{name}_frame")]
        if not names:
            waiting = next((one for one in gc.get_referents(waiting) if hasattr(one, "ag_frame")), None)
            continue
        if frame := getattr(waiting, f"{names[0]}_frame"):
            yield frame
        waiting = getattr(waiting, "gi_yieldfrom" if names[0] == "gi" else f"{names[0]}_await")


def lines_of(frames):
    """Formats frames as the lines of a traceback, without those of the runner."""
    stack = traceback.StackSummary.extract(frames)
    return "".join(traceback.format_list([frame for frame in stack if not frame.filename.startswith(OURS)])).splitlines()
