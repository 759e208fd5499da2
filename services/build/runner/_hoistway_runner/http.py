"""One connection: reads its request, lets the agent answer it, and closes."""

import json
import os
import socket
import sys
import time
from _operator import _compare_digest as same_in_constant_time  # hmac.compare_digest, without loading OpenSSL

from .arguments import Request
from .callers import HERE, PeerGone, standing
from .errors import Unfit, flush_output, report
from .results import Pieces, answer_of, as_text, is_chunks, pieces, to_json, whole

INVOKES = 64  # at once; further ones are asked to retry
BODY_LIMIT = 32 << 20
HEAD_LIMIT = 64 << 10
HEAD_SECONDS = 5  # between connecting and the last header
SOCKET_SECONDS = 60  # for a peer that stops reading or writing
STATEMENT = "x-hoistway-end-user"


REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
           411: "Length Required", 413: "Content Too Large", 431: "Request Header Fields Too Large",
           500: "Internal Server Error", 503: "Service Unavailable"}


class HttpError(Exception):
    """An answer other than the agent's."""

    def __init__(self, status, code, text, *headers, details=()):
        super().__init__(text)
        self.status, self.code, self.headers, self.details = status, code, headers, details


class Exchange:
    """One connection and its one request. Connections are not kept: a drain could close an idle one just when the
    gateway sends an invoke on it, and an invoke is never sent twice."""

    def __init__(self, server, peer):
        self.server, self.peer, self.file = server, peer, peer.makefile("rb")
        self.chunked, self.unread = False, False

    def run(self):
        """Reads the request, answers it and closes the connection."""
        if decimal := sys.modules.get("decimal"):  # its context is an object that copies of ours share
            decimal.setcontext(decimal.getcontext().copy())
        try:
            self.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                self.handle(*self.read_head())
            except HttpError as error:
                told = {"details": list(error.details)} if error.details else {}
                self.send_json(error.status, {"error": str(error), "code": error.code, **told}, *error.headers)
            self.hang_up()
        except (PeerGone, OSError):  # or silent for too long
            pass
        finally:
            self.file.close()
            self.peer.close()

    def read_head(self):
        """Returns method, path and headers (names in lower case)."""
        lines, size, until = [], 0, time.monotonic() + HEAD_SECONDS
        while not lines or lines[-1]:
            self.peer.settimeout(max(until - time.monotonic(), 0.001))
            line = self.file.readline(HEAD_LIMIT)
            size += len(line)
            if not line:
                raise PeerGone
            if size > HEAD_LIMIT or not line.endswith(b"\n"):
                self.unread = True
                raise HttpError(431, "invalid_argument", "the request's headers are too large")
            if not line.endswith(b"\r\n"):  # some servers accept this as a line's end and some do not
                self.unread = True
                raise HttpError(400, "invalid_argument", "a line of the request's head does not end with CR LF")
            lines.append(line.decode("latin-1").strip())
        self.peer.settimeout(SOCKET_SECONDS)
        try:
            method, target, version = lines[0].split(" ")
        except ValueError:
            raise HttpError(400, "invalid_argument", "the request line is not HTTP") from None
        self.chunked = version == "HTTP/1.1"
        headers, hosts = {}, 0
        for line in lines[1:-1]:
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
            hosts += name.lower() == "host"
        if hosts > 1 or self.chunked and not hosts:
            self.unread = True
            raise HttpError(400, "invalid_argument", "a request needs the header Host, once")
        return method, target, headers

    def handle(self, method, target, headers):
        """Routes the request."""
        self.unread = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        path, of_app = target.partition("?")[0], target.startswith("/app/")
        methods = {"/healthz": "GET", "/readyz": "GET", "/stack": "GET", "/invoke": "POST", "/invoke/stream": "POST"}
        if path not in methods and not of_app:
            raise HttpError(404, "not_found", f"there is no {path} here")
        if not of_app and method != methods[path]:
            raise HttpError(405, "method_not_allowed", f"{path} takes {methods[path]}", f"Allow: {methods[path]}")
        if path == "/healthz":
            return self.send_json(200, {"status": "ok", "agent": self.server.name})
        if path == "/readyz":  # nothing is accepted before the import is done
            return self.send_json(200, {"status": "ready"})
        token = headers.get("x-hoistway-invoke-token", "")
        if self.server.token and not same_in_constant_time(token.encode("latin-1"), self.server.token.encode()):
            raise HttpError(403, "permission_denied", "only the gateway may invoke this agent")
        self.server.knows(self.peer)
        if path == "/stack":
            request_id = headers.get("x-request-id", "").encode("latin-1").decode("utf-8", "replace")
            return self.send_json(200, {"details": standing(self.server.slots, request_id)})
        statement = headers.pop(STATEMENT, "")
        if not self.server.slots.take(self.peer):
            raise HttpError(503, "unavailable", f"the agent is busy with {INVOKES} invokes", "Retry-After: 1")
        try:
            body = self.read_body(headers)
            if of_app:
                from .app_routes import routed

                request_id, answer = routed(self, method, target, headers, body)
            else:
                request = self.read_request(path, headers, body)
                request_id, respond = request.seen["request_id"], self.stream if path == "/invoke/stream" else self.invoke
                answer = lambda: respond(request.seen, self.prepared(request))
            self.server.slots.name(self.peer, request_id)
            HERE.peer, HERE.log = self.peer, lambda error: report(error, self.server.mask, {"request_id": request_id})
            if statement:  # this thread answers nothing else, and its context is its own
                from .end_users import END_USER, END_USERS

                END_USERS.install(self.server.closed_network)
                END_USER.set(statement)
            agent = self.server.agent
            if not agent.blocking or not (agent.loops or "asyncio" in sys.modules):
                return answer()
            from .loop import own_loop

            with own_loop():
                answer()
        finally:
            self.server.slots.give_back(self.peer)
            flush_output()

    def prepared(self, request):
        """Returns the call that answers a request. The agent's own code that it runs, such as a model's validators, may
        fail like the call itself."""
        try:
            return self.server.agent.prepare(request)
        except Unfit as unfit:
            raise self.unfit(unfit) from None
        except BaseException as error:
            failure = error

        def call():
            raise failure

        return call

    def unfit(self, error):
        """Returns the error for a request that does not fit."""
        return HttpError(400, "invalid_argument", self.server.mask(str(error)), details=tuple(map(self.server.mask, error.details)))

    def read_body(self, headers):
        """Reads the whole body of the request."""
        if "transfer-encoding" in headers:
            raise HttpError(411, "invalid_argument", "the body needs a Content-Length")
        digits = headers.get("content-length", "0")
        if not (digits.isascii() and digits.isdigit()):
            raise HttpError(400, "invalid_argument", "Content-Length is not a number")
        if int(digits) > BODY_LIMIT:
            raise HttpError(413, "payload_too_large", f"the body is larger than {BODY_LIMIT >> 20} MiB")
        if headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self.file.read(int(digits))
        if len(body) < int(digits):
            raise PeerGone
        self.unread = False
        return body

    def read_request(self, path, headers, body):
        """Returns the request: as it was sent, and with history, its id and its user as a handler receives it."""
        try:
            sent = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            raise HttpError(400, "invalid_argument", "invalid JSON body") from None
        if not isinstance(sent, dict):
            raise HttpError(400, "invalid_argument", "the body must be a JSON object")
        unverified = sent.pop("user_id", None)  # only the gateway's verified user counts
        seen = {**sent, "history": sent.get("history") or []}
        for key, header in (("request_id", "x-request-id"), ("run_id", "x-run-id"), ("user_id", "x-end-user-id")):
            if headers.get(header):
                seen[key] = headers[header].encode("latin-1").decode("utf-8", "replace")
        if not seen.get("request_id"):
            seen["request_id"] = os.urandom(16).hex()
        return Request(path, headers, body, sent, seen, unverified)

    def complete(self, answer, request, started):
        """Completes an answer with the standard members; the agent's own ones take precedence."""
        answer.setdefault("model", os.environ.get("LLM_MODEL", ""))
        answer.setdefault("usage", {})
        answer.setdefault("tool_calls_made", [])
        answer.setdefault("duration_ms", int((time.monotonic() - started) * 1000))
        answer.setdefault("request_id", request["request_id"])
        answer.setdefault("handler", "user")
        return answer

    def invoke(self, request, call):
        """Answers with one JSON object."""
        started = time.monotonic()
        try:
            result = call()
            if is_chunks(result):
                result = whole(result)
            status, body = 200, to_json(self.complete(answer_of(result), request, started))
        except PeerGone:
            raise
        except Unfit as unfit:
            raise self.unfit(unfit) from None
        except BaseException as error:  # exit() in a handler ends that invoke, not the agent
            text, details = report(error, self.server.mask, request)
            status, body = 500, json.dumps({"error": text, "code": "agent_error", "details": details})
        self.send_json(status, body)

    def stream(self, request, call):
        """Answers with server-sent events, each piece of the answer as soon as the agent produces it."""
        started = time.monotonic()
        extra = "Transfer-Encoding: chunked\r\nTrailer: X-Hoistway-Outcome\r\n" if self.chunked else ""
        self.send((f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n{extra}"
                   f"Connection: close\r\n\r\n").encode())
        answer, outcome, chunks = {}, "ok", None
        try:
            result = call()
            if isinstance(result, Pieces) and result.events:
                chunks = result
                for piece in result.raw:  # its own events, unchanged
                    self.send_part(piece)
                return self.end_stream(outcome)
            if is_chunks(result):
                chunks = pieces(result)
            else:
                answer = answer_of(result)
                chunks = (text for text in (as_text(answer.pop("response")),) if text)
            for piece in chunks:
                self.send_event({"type": "content", "delta": piece} if isinstance(piece, str) else piece.value)
            self.send_event({**self.complete(answer, request, started), "type": "done"})
        except PeerGone:
            if chunks is not None:
                chunks.close()
            raise
        except BaseException as error:
            if isinstance(error, Unfit):  # the agent's own message
                told = {"message": self.server.mask(str(error)), "code": "invalid_argument", "details": list(map(self.server.mask, error.details))}
            else:
                told = {"message": report(error, self.server.mask, request)[0], "code": "agent_error"}
            outcome = "agent_error"
            self.send_event({"type": "error", **told, "request_id": request["request_id"]})
        self.send_part(b"data: [DONE]\n\n")
        self.end_stream(outcome)

    def end_stream(self, outcome):
        """Ends a stream with its outcome for the gateway: the agent's stream may be in any format."""
        if self.chunked:
            self.send(f"0\r\nX-Hoistway-Outcome: {outcome}\r\n\r\n".encode())

    def send_event(self, event):
        self.send_part(f"data: {to_json(event)}\n\n".encode())

    def send_part(self, data):
        if data:  # an empty chunk would be the last
            self.send(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def send_json(self, status, body, *headers):
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        head = [f"HTTP/1.1 {status} {REASONS[status]}", "Content-Type: application/json",
                f"Content-Length: {len(data)}", "Connection: close", *headers, "", ""]
        self.send("\r\n".join(head).encode("latin-1") + data)

    def send(self, data):
        try:
            self.peer.sendall(data)
        except OSError as error:
            raise PeerGone from error

    def hang_up(self):
        """Closes the connection. With a body unread, closing at once would reset it and destroy the answer on its
        way."""
        self.peer.shutdown(socket.SHUT_WR)
        if self.unread:
            until = time.monotonic() + HEAD_SECONDS
            while (left := until - time.monotonic()) > 0:
                self.peer.settimeout(left)
                if not self.peer.recv(1 << 16):
                    break
