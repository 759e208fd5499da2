"""The other routes of a web application: `/app/…` here is `/…` there, with any method, query, headers and body."""

import os
import re  # already imported by json

from .callers import PeerGone
from .errors import Explained, report
from .http import REASONS, HttpError
from .web import HOST, WebAgent, WebRequest, is_bodiless

PREFIX = "/app"
ROOT = "x-hoistway-app-root"  # the path at which callers find the application
ANSWERED = "X-Hoistway-Answer: application"  # distinguishes its answers from the runner's
NOT_PASSED_ON = frozenset((
    "connection", "content-length", "expect", "host", "keep-alive", "proxy-authenticate", "proxy-authorization",
    "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"))  # hop-by-hop headers
PAGES = ("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc")  # of FastAPI itself
MOST_ROUTES = 20
NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")


def is_passed_on(name):
    """Whether a header is passed on, in either direction."""
    return name not in NOT_PASSED_ON and not name.startswith("x-hoistway-")


def routed(exchange, method, target, headers, body):
    """Returns the id of a request for the application, and a call that answers it."""
    agent = exchange.server.agent
    if not isinstance(agent, WebAgent):
        raise HttpError(404, "no_application", "the agent has no web application")
    root, request_id = headers.get(ROOT) or PREFIX, headers.get("x-request-id") or os.urandom(16).hex()
    passed = {name: value for name, value in headers.items() if is_passed_on(name)} | {"host": HOST}
    if body or method in ("POST", "PUT", "PATCH"):
        passed["content-length"] = str(len(body))
    path, _, query = target.removeprefix(PREFIX).partition("?")
    request = WebRequest(method, path, passed, body, query, root)
    return request_id, lambda: pass_on(exchange, agent, request, request_id)


def pass_on(exchange, agent, request, request_id):
    """Streams the application's answer."""
    seen, reply = {"request_id": request_id}, None
    try:
        reply = agent.call(request, explain=False)
        head, length = head_of(reply, request)
        bodiless = is_bodiless(request.method, reply.status)
        chunked = exchange.chunked and length is None and not bodiless
        head += ["Transfer-Encoding: chunked"] * chunked + ["Connection: close", "", ""]
        head = "\r\n".join(head).encode("latin-1")
    except PeerGone:
        raise
    except BaseException as error:
        if reply is not None:
            reply.close()
        text, details = report(error, exchange.server.mask, seen)
        return exchange.send_json(500, {"error": text, "code": "agent_error", "details": details})
    try:
        exchange.send(head)
        if bodiless:
            if not agent.blocking:  # after its next message an ordinary answer is complete, and is not cancelled
                next(reply.raw, None)
            return
        for piece in reply.raw:
            if not piece:
                continue
            if length is not None:
                length -= len(piece)
                if length < 0:
                    raise Explained("the app sends more than its Content-Length")
            exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if length:
            raise Explained("the app sends less than its Content-Length")
        if chunked:
            exchange.send(b"0\r\n\r\n")
    except PeerGone:
        raise
    except BaseException as error:  # a broken answer must not look complete
        report(error, exchange.server.mask, seen)
        raise PeerGone from None
    finally:
        reply.close()


def head_of(reply, request):
    """Returns the lines of an answer's head, and the length of its body if the application declares it."""
    if not 200 <= reply.status <= 599:
        raise Explained(f"the app answered {request.method} {request.path} with status {reply.status}")
    lines, length = [f"HTTP/1.1 {reply.status} {REASONS.get(reply.status, '')}", ANSWERED], None
    for name, value in reply.fields:
        if not NAME.fullmatch(name) or re.search("[^\t\x20-\x7e\x80-\xff]", value):
            raise Explained(f"the app answers with a header that is none: {name!r}")
        if name == "content-length" and value.isascii() and value.isdigit() and reply.status not in (204, 304):
            length = int(value)
            lines.append(f"{name}: {length}")
        if is_passed_on(name):
            lines.append(f"{name}: {relocated(value, request.root) if name in ('location', 'content-location') else value}")
    return lines, length


def no_invoke(app):
    """Advises on an application without a route for invokes: lists its own routes and their addresses."""
    found = []
    try:
        rules = app.url_map.iter_rules() if hasattr(app, "url_map") else getattr(app, "routes", ())  # of Flask and Quart; of Starlette
        for rule in rules:
            path = getattr(rule, "rule", None) or getattr(rule, "path", "")
            methods = sorted({*(getattr(rule, "methods", None) or ())} - {"HEAD", "OPTIONS"})
            if path and path not in PAGES and not path.startswith("/static/"):
                found.append(" ".join(filter(None, ("|".join(methods), path))))
    except Exception:  # of a framework whose attribute has another meaning
        pass
    if found:
        yield f"its routes: {', '.join(found[:MOST_ROUTES])}" + (f" and {len(found) - MOST_ROUTES} more" if len(found) > MOST_ROUTES else "")
    yield (f"an invoke is POST /invoke or POST / of the app: add such a route, or call the others at "
           f"/api/agents/{os.environ.get('AGENT_NAME') or 'NAME'}{PREFIX}/…")


def relocated(address, root):
    """Returns the application's address of a resource as its callers can follow it: without the application's own host
    name, and below its root."""
    own = f"http://{HOST}"
    if address == own or address.startswith((f"{own}/", f"{own}?", f"{own}#")):
        address = address.removeprefix(own)
        address = address if address.startswith("/") else f"/{address}"
    below = address == root or address.startswith((f"{root}/", f"{root}?", f"{root}#"))
    return root + address if address.startswith("/") and not address.startswith("//") and not below else address
