"""Web applications, called without a server of their own.

POST /invoke of the agent is POST /invoke of the application with the same body, or POST / where it answers 404;
POST /invoke/stream tries /invoke/stream first. Its other routes are below /app/ (`app_routes`).
"""

import json
import os
import sys

from . import EXIT_SECONDS
from .arguments import POSITIONAL, STAR, Agent, parameters
from .callers import HERE
from .data import of
from .errors import DETAIL_LINES, AppError, StartError, StartTimeout, headline
from .loop import LOOP
from .results import Pieces

PORT = os.environ.get("PORT") or "8080"
HOST = f"localhost:{PORT}"  # as an application finds itself that is run by hand: some answer no other name


def mcp_mount(thing):
    """What makes the web application of a server of MCP; None for any other thing. An object's own attributes do not count:
    some have one of any name."""
    name = next((name for name in ("http_app", "streamable_http_app") if callable(getattr(type(thing), name, None))), None)
    return name and getattr(thing, name)


def web_agent(app, exactly=False):
    """An ASGI or WSGI application, or a server of MCP, as an agent; None for any other thing. What is not named as one has to
    have their parameters `exactly`: many things can be called with two or three arguments."""
    if mount := mcp_mount(app):
        return web_agent(mount())
    if not callable(app) or isinstance(app, type):
        return None
    if getattr(app, "__globals__", {}).get("__name__") == "werkzeug.wrappers.request":  # made by Request.application
        return wsgi_agent(app)
    import inspect

    found = [(name, way) for name, way, _, _ in parameters(app)]
    count, exact = sum(way in (POSITIONAL, STAR) for _, way in found), STAR not in [way for _, way in found]
    first, second = [name.strip("_") for name, _ in found[:2]] if count > 1 else ("", "")
    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None)):
        if count == 3 and (first, second) == ("scope", "receive") or not exactly and (count == 3 or not exact):
            return AsgiAgent(app)
    elif count == 2 and exact and (first.startswith("env") and second.startswith("start") or not exactly):
        return wsgi_agent(app)
    return None


def wsgi_agent(app):
    """A WSGI application as an agent."""
    from .wsgi import WsgiAgent

    return WsgiAgent(app)


class WebRequest:
    """One request as a server gives it to an application, which is mounted at `root`; `path` is as it was sent."""

    def __init__(self, method, path, headers, body, query="", root=""):
        self.method, self.path, self.headers, self.body, self.query, self.root = method, path, headers, body, query, root

    def path_bytes(self):
        """The path without percent signs."""
        from urllib.parse import unquote_to_bytes

        return unquote_to_bytes(self.path)


def is_bodiless(method, status):
    """Whether an answer ends with its head, whatever the application sends behind it."""
    return method == "HEAD" or status in (204, 304)


class WebAgent(Agent):
    """A web application, called with what the agent was invoked with: POST /invoke, or POST / where that is a 404."""

    def __init__(self, app):
        self.app = app

    def prepare(self, request):
        """It gets the request as it was sent, and judges it itself."""
        return lambda: self.answer(request.path, request.headers, request.body)

    def answer(self, path, headers, body):
        """What it answers to an invoke: JSON read, or pieces of text."""
        headers = {k: v for k, v in headers.items() if k not in (
            "x-hoistway-invoke-token", "connection", "expect", "content-length", "content-type")}
        headers |= {"content-type": "application/json", "content-length": str(len(body))}
        tried = {}
        for path in dict.fromkeys((path, "/invoke", "/")):
            answer = tried[path] = self.call(WebRequest("POST", path, headers, body))
            if answer.status != 404:
                break
        else:  # it knows none of them: what it says to the first tells most
            path, answer = next(iter(tried.items()))
        for other in tried.values():
            if other is not answer:
                other.close()
        if not 200 <= answer.status < 300:
            lines = "".join(answer).splitlines()
            raise AppError(f"the app answered POST {path} with status {answer.status}", lines[-DETAIL_LINES:])
        if answer.kind == "application/json" or answer.kind.endswith("+json"):
            text = "".join(answer)
            return json.loads(text) if text else None
        return answer

    def call(self, request, explain=True):
        """Sends one request; the answer is there as soon as its head is. One that is an error ends with the exception
        behind it, if it is to `explain` itself; otherwise that is for the logs."""
        raise NotImplementedError


def finds_itself(app):
    """Whether an ASGI application is known to find its routes below a root_path. Others compare the whole path, or have a
    root of their own."""
    kind = type(app)
    if isinstance(app, getattr(sys.modules.get("starlette.applications"), "Starlette", ())):
        major, minor = sys.modules["starlette"].__version__.split(".")[:2]
        return (int(major), int(minor)) >= (0, 33) and not getattr(app, "root_path", "")
    return of(kind, "quart") or of(kind, "django") and kind.__name__ == "ASGIHandler"


def is_last(message):
    """Whether a message of an ASGI application ends its answer."""
    return message["type"] == "http.response.body" and not message.get("more_body")


class AsgiAgent(WebAgent):
    """An ASGI application (FastAPI, Starlette, Quart, Litestar ...), on the agent's event loop."""

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
        messages = LOOP.iterate(self.exchange(scope, request.body, explain, HERE.log))
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

    async def exchange(self, scope, body, explain, log):
        """The messages that the application sends for one request. It is cancelled when nobody wants more of them."""
        import asyncio

        ready, gone, unread, status, told = asyncio.Queue(1), asyncio.Event(), [body], 0, False

        async def receive():
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            nonlocal told
            if not gone.is_set():
                await ready.put(message)
                told = told or is_last(message)

        async def run():
            try:
                await self.app(scope, receive, send)
                if not gone.is_set():
                    await ready.put(None if told else RuntimeError("the ASGI application ended without a complete answer"))
            except BaseException as error:
                if not gone.is_set() and (explain or not told):
                    await ready.put(error)
                elif not isinstance(error, asyncio.CancelledError):  # in what it does after its answer
                    log(error)

        task = asyncio.ensure_future(run())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        complete = False
        try:
            while not complete:
                message = await ready.get()
                if isinstance(message, BaseException):
                    raise message
                status = message.get("status", status)
                complete = is_last(message)
                yield message
            if status >= 500 and explain:  # frameworks answer first and let the exception through then: it says more
                try:
                    error = await asyncio.wait_for(ready.get(), 1)
                except (TimeoutError, asyncio.TimeoutError):
                    return
                if error is not None:
                    raise error
        finally:
            gone.set()
            if not complete:  # what it does after its answer it may finish
                task.cancel()

    def start(self, seconds=None):
        LOOP.wait(self.begin(seconds))

    async def begin(self, seconds):
        """Runs the application's start-up, if it has one."""
        import asyncio

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
            import traceback

            frames = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in task.get_stack())
            stack = "".join(frames.format()).splitlines()
            remedy = "an endless loop belongs into a task of its own; a start that needs more time: HOISTWAY_AGENT_START_SECONDS"
            raise StartTimeout("the app's start-up (lifespan) does not end", *stack, remedy) from None
        if isinstance(message, (SystemExit, KeyboardInterrupt)):
            raise message
        if not isinstance(message, dict):  # it ended or failed at once: it has no start-up
            return
        if message["type"] == "lifespan.startup.failed":
            try:
                error = await asyncio.wait_for(outbox.get(), 1)  # what went wrong, if it is let through
            except (TimeoutError, asyncio.TimeoutError):
                error = None
            text = message.get("message") or "it does not say why"
            raise error if isinstance(error, BaseException) else StartError(f"the app's start-up failed: {text}")
        self.lifespan = inbox, outbox

    def stop(self):
        if not self.lifespan:
            return
        import asyncio

        async def end():
            inbox, outbox = self.lifespan
            await inbox.put({"type": "lifespan.shutdown"})
            await asyncio.wait_for(outbox.get(), EXIT_SECONDS - 1)

        try:
            LOOP.wait(end())
        except Exception as error:
            print(f"the app's shutdown did not end: {headline(error)}", file=sys.stderr)
