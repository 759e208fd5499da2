"""WSGI web applications (Flask, Django, Bottle ...), called in the thread that answers."""

import io
import sys

from .callers import HERE, PeerGone, is_gone
from .results import Pieces
from .web import PORT, WebAgent, is_bodiless


class WsgiAgent(WebAgent):
    """A WSGI application."""

    def __init__(self, app):
        super().__init__(app)
        for name in ("flask", "django.core.signals"):  # they answer with a page, and do not raise the exception
            if signal := getattr(sys.modules.get(name), "got_request_exception", None):
                signal.connect(note_failure, weak=False)

    def call(self, request, explain=True):
        headers = request.headers
        environ = {
            "REQUEST_METHOD": request.method, "SCRIPT_NAME": request.root, "PATH_INFO": request.path_bytes().decode("latin-1"),
            "QUERY_STRING": request.query, "SERVER_NAME": "localhost", "SERVER_PORT": PORT, "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1", "wsgi.version": (1, 0), "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(request.body), "wsgi.errors": sys.stderr, "wsgi.multithread": True,
            "wsgi.multiprocess": False, "wsgi.run_once": False,
            **{"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()
               if name not in ("content-type", "content-length") and "_" not in name},  # it may be another one's
            "CONTENT_TYPE": headers.get("content-type", ""), "CONTENT_LENGTH": headers.get("content-length", "")}
        head, written, begun, peer, log = {}, [], False, HERE.peer, HERE.log

        def start_response(status, fields, exc_info=None):
            if exc_info and (begun or written):  # it is too late for another answer
                raise exc_info[1].with_traceback(exc_info[2])
            if head and not exc_info:
                raise AssertionError("start_response was called twice")
            head.update(status=int(status.split()[0]), fields=[(name.lower(), value) for name, value in fields])
            return written.append

        HERE.failure = None
        result = self.app(environ, start_response)

        def pieces():
            try:
                yield b""  # starts the generator, so that closing it closes the result
                for piece in result:
                    while written:
                        yield written.pop(0)
                    if not piece and is_gone(peer):
                        raise PeerGone
                    yield piece
                yield from written
            finally:
                try:
                    if hasattr(result, "close"):
                        result.close()
                except Exception as error:  # the answer itself is complete
                    log(error)

        raw = pieces()
        first = next(raw)
        while first is not None and not (first or head and is_bodiless(request.method, head["status"])):
            first = next(raw, None)  # until then it may change its answer, or fail
        begun = True
        if not head:
            raise RuntimeError("the WSGI application did not call start_response")
        if explain and HERE.failure and head["status"] >= 500:
            raw.close()
            raise HERE.failure
        return Pieces(head["status"], head["fields"], continued(first, raw) if first else raw)


def note_failure(*_, exception=None, **__):
    """Keeps the failure of a request for the thread that answers it."""
    HERE.failure = exception or sys.exc_info()[1]


class continued:
    """An iterator with one piece put back; unlike a generator it can be closed before it has started."""

    def __init__(self, first, rest):
        self.first, self.rest = [first], rest

    def __iter__(self):
        return self

    def __next__(self):
        return self.first.pop() if self.first else next(self.rest)

    def close(self):
        self.rest.close()
