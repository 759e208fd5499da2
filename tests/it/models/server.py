"""A stand-in for the API of OpenAI, with TLS. It returns the key that it received."""

import http.server
import json
import ssl
import sys


class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers["Authorization"] == "Bearer sk-wrong":
            return self.answer({"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}, 401)
        if self.path != "/v1/models":
            return self.answer({"error": {"message": "no such path", "code": "path"}}, 404)
        return self.answer({"object": "list", "data": [{"id": "gpt-4o-mini", "object": "model"}]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Authorization"]
        if self.path == "/v1/embeddings":
            data = [{"object": "embedding", "index": i, "embedding": [0.5, 1.0]} for i in range(len(request["input"]))]
            return self.answer({"object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})
        if self.path == "/v1/responses":
            text = {"type": "output_text", "text": key, "annotations": []}
            message = {"type": "message", "id": "m", "status": "completed", "role": "assistant", "content": [text]}
            return self.answer({"id": "r", "object": "response", "output": [message], "tools": []})
        if self.path != "/v1/chat/completions":
            return self.answer({"error": {"message": "no such path", "code": "path"}}, 404)
        said = request["messages"][-1]["content"]
        if said == "too many":
            error = {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
            return self.answer({"error": error}, 429, {"Retry-After": "7"})
        base = {"id": "c", "created": 1, "model": request["model"], "system_fingerprint": "fp_real"}
        usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
        text = f"{key} {said}"
        if request.get("stream"):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            deltas = [{"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in (text[:5], text[5:])]
            chunks = [{**base, "object": "chat.completion.chunk", "choices": [delta]} for delta in deltas]
            if request.get("stream_options"):
                chunks.append({**base, "object": "chat.completion.chunk", "choices": [], "usage": usage})
            for chunk in chunks:
                self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
                self.wfile.flush()
            self.wfile.write(b"data: [DONE]\n\n")
            self.close_connection = True
            return None
        message, reason = {"role": "assistant", "content": text}, "stop"
        if request.get("tools"):
            function = {"name": request["tools"][0]["function"]["name"], "arguments": '{"city": "Paris"}'}
            message["tool_calls"] = [{"id": "call", "type": "function", "function": function}]
            reason = "tool_calls"
        choice = {"index": 0, "message": message, "finish_reason": reason}
        return self.answer({**base, "object": "chat.completion", "choices": [choice], "usage": usage})

    def answer(self, value, status=200, headers=None):
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(text))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
