"""Web applications, called without a server of their own.

POST /invoke of the agent is POST /invoke of the application with the same body, or POST / where it answers 404;
POST /invoke/stream tries /invoke/stream first. Its other routes are below /app/ (`app_routes`).
"""

import json
import os

from .arguments import POSITIONAL, STAR, Agent, parameters
from .errors import DETAIL_LINES, AppError, Unfit

PORT = os.environ.get("PORT") or "8080"
HOST = f"localhost:{PORT}"  # as an application run by hand sees itself: some answer no other name


def mcp_mount(thing):
    """Returns the function that makes the web application of an MCP server; None for other objects. An object's own
    attributes do not count: some objects have an attribute of any name."""
    name = next((name for name in ("http_app", "streamable_http_app") if callable(getattr(type(thing), name, None))), None)
    return name and getattr(thing, name)


def web_agent(app, exactly=False):
    """Returns an ASGI or WSGI application, or an MCP server, as an agent; None for other objects. An object without
    such a name must have their parameters `exactly`: many objects can be called with two or three arguments."""
    if mount := mcp_mount(app):
        return web_agent(mount())
    if isinstance(app, type):
        return wsgi_agent(app) if hasattr(app, "__iter__") and is_wsgi(parameters(app.__init__)[1:]) else None
    if not callable(app):
        return None
    if getattr(app, "__globals__", {}).get("__name__") == "werkzeug.wrappers.request":  # made by Request.application
        return wsgi_agent(app)
    import inspect

    found = [(name, way) for name, way, _, _ in parameters(app)]
    count, exact = sum(way in (POSITIONAL, STAR) for _, way in found), STAR not in [way for _, way in found]
    first, second = [name.strip("_") for name, _ in found[:2]] if count > 1 else ("", "")
    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None)):
        if count == 3 and (first, second) == ("scope", "receive") or not exactly and (count == 3 or not exact):
            from .asgi import AsgiAgent

            return AsgiAgent(app)
    elif count == 2 and exact and (is_wsgi(parameters(app)) or not exactly):
        return wsgi_agent(app)
    return None


def is_wsgi(parameters):
    """Whether parameters have the names of a WSGI application's."""
    names = [name.strip("_") for name, *_ in parameters[:2]]
    return len(names) == 2 and names[0].startswith("env") and names[1].startswith("start")


def wsgi_agent(app):
    """Returns a WSGI application as an agent."""
    from .wsgi import WsgiAgent

    return WsgiAgent(app)


class WebRequest:
    """One request from a server to an application, which is mounted at `root`; `path` is as it was sent."""

    def __init__(self, method, path, headers, body, query="", root=""):
        self.method, self.path, self.headers, self.body, self.query, self.root = method, path, headers, body, query, root

    def path_bytes(self):
        """Returns the path, decoded from percent signs."""
        from urllib.parse import unquote_to_bytes

        return unquote_to_bytes(self.path)


def is_bodiless(method, status):
    """Whether an answer has no body, whatever the application sends after the head."""
    return method == "HEAD" or status in (204, 304)


def has_route(app, path):
    """Whether an application of Flask, Quart or Starlette has a route for POST at a path; None if its routes do not
    decide: an application that it mounts or is wrapped in may have one."""
    try:
        if hasattr(app, "url_map"):
            if getattr(getattr(app, "wsgi_app", None) or app.asgi_app, "__self__", None) is not app:
                return None
            app.url_map.bind("localhost").match(path, method="POST")
            return True
        scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "headers": []}
        found = [(route.matches(scope)[0].value, route) for route in app.routes]  # 2, or 1 for another method
        for match, route in found:
            if match == 2:
                return True if hasattr(route, "endpoint") or not hasattr(route, "app") else None
        return None if any(match for match, _ in found) else False
    except Exception as error:  # also of an application of another kind
        return False if type(error).__name__ == "NotFound" else None


class WebAgent(Agent):
    """A web application, called with the request of the invoke: POST /invoke, or POST / where that is a 404."""

    def __init__(self, app):
        self.app = app

    def prepare(self, request):
        """The application receives the request unchanged, and checks it itself."""
        return lambda: self.answer(request.path, request.headers, request.body)

    def answer(self, path, headers, body):
        """Returns its answer to an invoke: parsed JSON, or pieces of text."""
        headers = {k: v for k, v in headers.items() if k not in (
            "x-hoistway-invoke-token", "connection", "expect", "content-length", "content-type")}
        headers |= {"host": HOST, "content-type": "application/json", "content-length": str(len(body))}
        tried, paths = {}, dict.fromkeys((path, "/invoke", "/"))
        for path in paths:
            if has_route(self.app, path) is False and any(has_route(self.app, other) for other in paths):  # its error handler would answer
                continue
            answer = tried[path] = self.call(WebRequest("POST", path, headers, body))
            if answer.status != 404:
                break
        else:  # it knows none of them: its answer to the first is the most informative
            path, answer = next(iter(tried.items()))
        for other in tried.values():
            if other is not answer:
                other.close()
        if not 200 <= answer.status < 300:
            lines = "".join(answer).splitlines()[-DETAIL_LINES:]
            if answer.status in (404, 405):
                from .app_routes import no_invoke

                lines += no_invoke(self.app)
            text = f"the app answered POST {path} with status {answer.status}"
            raise Unfit(text, *lines) if answer.status in (400, 422) else AppError(text, lines)
        if answer.kind == "application/json" or answer.kind.endswith("+json"):
            text = "".join(answer)
            return json.loads(text) if text else None
        return answer

    def call(self, request, explain=True):
        """Sends one request; returns the answer as soon as its head is complete. For an error, raises the underlying
        exception if it is to `explain` itself; otherwise that goes to the logs."""
        raise NotImplementedError
