"""A stand-in for Amazon Bedrock, with TLS. It recomputes the signature of each request and compares."""

import datetime
import hashlib
import hmac
import http.server
import json
import ssl
import struct
import sys
import urllib.parse
import zlib

ACCESS_KEY, SECRET, TOKEN, REGION = "AKIDEXAMPLE", "secret/of+the=test", "session-token", "eu-west-1"
STATUS = {"ThrottlingException": 429, "AccessDeniedException": 403, "ValidationException": 400}


def keyed(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signature(method, path, headers, names, body):
    """Returns the Signature Version 4 of a request without a query, as its documentation describes it."""
    encoded = "/".join(urllib.parse.quote(segment, safe="-_.~") for segment in path.split("/"))
    lines = [f"{name}:{' '.join(headers[name].split())}\n" for name in names]
    parts = [method, encoded, "", "".join(lines), ";".join(names), hashlib.sha256(body).hexdigest()]
    canonical = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    when = headers["x-amz-date"]
    scope = f"{when[:8]}/{REGION}/bedrock/aws4_request"
    key = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        key = keyed(key, part)
    return scope, keyed(key, f"AWS4-HMAC-SHA256\n{when}\n{scope}\n{canonical}").hex()


def frame(headers, payload):
    """Returns a message of application/vnd.amazon.eventstream."""
    encoded = b""
    for name, value in headers.items():
        encoded += struct.pack("!B", len(name)) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
    body = json.dumps(payload).encode()
    prelude = struct.pack("!II", 16 + len(encoded) + len(body), len(encoded))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + encoded + body
    return message + struct.pack("!I", zlib.crc32(message))


def event(kind, payload):
    return frame({":message-type": "event", ":event-type": kind, ":content-type": "application/json"}, payload)


class Bedrock(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def is_signed(self, body):
        scheme, _, rest = self.headers["Authorization"].partition(" ")
        fields = dict(field.strip().split("=", 1) for field in rest.split(","))
        headers = {name.lower(): value for name, value in self.headers.items()}
        names = fields["SignedHeaders"].split(";")
        scope, expected = signature("POST", self.path, headers, names, body)
        when = datetime.datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
        return (
            scheme == "AWS4-HMAC-SHA256"
            and fields["Credential"] == f"{ACCESS_KEY}/{scope}"
            and hmac.compare_digest(fields["Signature"], expected)
            and {"host", "x-amz-date", "x-amz-security-token"} <= set(names)
            and headers["x-amz-security-token"] == TOKEN
            and abs(datetime.datetime.now(datetime.timezone.utc) - when) < datetime.timedelta(minutes=5)
        )

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.is_signed(body):
            return self.fail("InvalidSignatureException", 403)
        request = json.loads(body)
        content = request["messages"][-1]["content"]
        said = content[-1].get("text", "")
        if said in STATUS:
            return self.fail(said, STATUS[said])
        if not self.path.startswith("/model/anthropic.claude-3-haiku-20240307-v1%3A0/converse"):
            return self.fail("ResourceNotFoundException", 404)
        has_result = any("toolResult" in block for block in content)
        text = "after tool" if has_result else f"bedrock heard {said}"
        uses_tool = "toolConfig" in request and not has_result
        usage = {"inputTokens": 10, "outputTokens": 4, "totalTokens": 14}
        reason = "tool_use" if uses_tool else "end_turn"
        tool = {"toolUseId": "tooluse_1", "name": "get_weather"}
        if self.path.endswith("/converse-stream"):
            events = [event("messageStart", {"role": "assistant"})]
            if said == "modelStreamErrorException":
                events.append(frame({":message-type": "exception", ":exception-type": said}, {"message": "It broke."}))
                return self.stream(events)
            delta = lambda value: event("contentBlockDelta", {"contentBlockIndex": 0, "delta": value})
            events += [delta({"text": text[:4]}), delta({"text": text[4:]}), event("contentBlockStop", {"contentBlockIndex": 0})]
            if uses_tool:
                events.append(event("contentBlockStart", {"contentBlockIndex": 1, "start": {"toolUse": tool}}))
                events += [delta({"toolUse": {"input": piece}}) for piece in ['{"city": ', '"Paris"}']]
                events.append(event("contentBlockStop", {"contentBlockIndex": 1}))
            events += [event("messageStop", {"stopReason": reason}), event("metadata", {"usage": usage, "metrics": {}})]
            return self.stream(events)
        blocks = [{"text": text}]
        if uses_tool:
            blocks.append({"toolUse": {**tool, "input": {"city": "Paris"}}})
        output = {"message": {"role": "assistant", "content": blocks}}
        return self.answer({"output": output, "stopReason": reason, "usage": usage, "metrics": {"latencyMs": 1}})

    def stream(self, events):
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.amazon.eventstream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for message in [*events, b""]:
            self.wfile.write(f"{len(message):x}\r\n".encode() + message + b"\r\n")
            self.wfile.flush()

    def fail(self, kind, status):
        self.answer({"message": "No."}, status, {"x-amzn-ErrorType": f"{kind}:http://internal.amazon.com/"})

    def answer(self, value, status=200, headers=None):
        body = json.dumps(value).encode()
        self.send_response(status)
        more = {"Content-Type": "application/json", "Content-Length": len(body), "x-amzn-RequestId": "request-7"}
        for name, text in {**more, **(headers or {})}.items():
            self.send_header(name, str(text))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bedrock)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
