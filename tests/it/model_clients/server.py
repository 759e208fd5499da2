"""A stand-in for the APIs of OpenAI and Anthropic, with TLS; the requested host selects the API."""

import http.server
import json
import ssl
import sys

ARGUMENTS = {"city": "Paris"}


class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.request_body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        host, path = self.headers["Host"], self.path.split("?")[0]
        answers = {
            ("api.openai.com", "/v1/chat/completions"): self.chat_completion,
            ("api.openai.com", "/v1/embeddings"): self.embeddings,
            ("api.anthropic.com", "/v1/messages"): self.message,
            ("api.anthropic.com", "/v1/messages/count_tokens"): lambda: self.answer({"input_tokens": 3}),
        }
        return answers.get((host, path), lambda: self.answer({"error": {"message": "no such path"}}, 404))()

    def fails(self, error):
        """Answers a message that requests an error with one in the API's own format."""
        said = json.dumps(self.request_body["messages"][-1]["content"])
        for status, kind in [(401, "authentication_error"), (429, "rate_limit_error"), (500, "api_error")]:
            if f"status {status}" in said:
                self.answer(error(kind), status, {"Retry-After": "7"} if status == 429 else {})
                return True
        return False

    def is_cut(self):
        return "cut" in json.dumps(self.request_body["messages"][-1]["content"])

    def message(self):
        if self.fails(lambda kind: {"type": "error", "error": {"type": kind, "message": "No."}}):
            return None
        request = self.request_body
        if self.headers["X-Api-Key"] != "sk-of-anthropic" or self.headers["Authorization"]:
            return self.answer({"type": "error", "error": {"type": "authentication_error", "message": "key"}}, 401)
        last = request["messages"][-1]["content"]
        has_result = isinstance(last, list) and any(block["type"] == "tool_result" for block in last)
        texts = ["claude ", "after tool" if has_result else "says hi"]
        if request.get("output_config", {}).get("format", {}).get("type") == "json_schema":
            texts = [json.dumps(ARGUMENTS), ""]
        usage = {"input_tokens": 10, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 3, "output_tokens": 4}
        content, reason = [{"type": "text", "text": "".join(texts)}], "end_turn"
        uses_tool = bool(request.get("tools")) and not has_result
        if uses_tool:
            tool = {"type": "tool_use", "id": "toolu_1", "name": request["tools"][0]["name"], "input": ARGUMENTS}
            content, reason = [*content, tool], "tool_use"
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": request["model"], "content": content,
                   "stop_reason": reason, "stop_sequence": None, "usage": usage}
        if not request.get("stream"):
            return self.answer(message, headers={"Request-Id": "req_1"})
        start = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
        events = [{"type": "message_start", "message": start}, {"type": "ping"}]
        events += self.block(0, {"type": "text", "text": ""}, [{"type": "text_delta", "text": text} for text in texts])
        if uses_tool:
            pieces = ["", json.dumps(ARGUMENTS)[:5], json.dumps(ARGUMENTS)[5:]]
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
            events += self.block(1, {**tool, "input": {}}, deltas)
        delta = {"stop_reason": reason, "stop_sequence": None}
        events += [{"type": "message_delta", "delta": delta, "usage": {"output_tokens": 4}}, {"type": "message_stop"}]
        return self.stream(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)

    @staticmethod
    def block(index, block, deltas):
        events = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        start = {"type": "content_block_start", "index": index, "content_block": block}
        return [start, *events, {"type": "content_block_stop", "index": index}]

    def chat_completion(self):
        if self.fails(lambda kind: {"error": {"message": "No.", "type": kind, "param": None, "code": kind}}):
            return None
        request = self.request_body
        if self.headers["Authorization"] != "Bearer sk-of-openai":
            return self.answer({"error": {"message": "key", "code": "invalid_api_key"}}, 401)
        base = {"id": "c", "created": 1, "model": request["model"]}
        usage = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
        message, reason = {"role": "assistant", "content": "gpt says hi"}, "stop"
        if request.get("tools"):
            function = {"name": request["tools"][0]["function"]["name"], "arguments": json.dumps(ARGUMENTS)}
            message["tool_calls"] = [{"id": "call", "type": "function", "function": function}]
            reason = "tool_calls"
        if not request.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": reason}
            return self.answer({**base, "object": "chat.completion", "choices": [choice], "usage": usage})
        pieces = [{"role": "assistant", "content": "gpt "}, {"content": "says hi"}]
        choices = [[{"index": 0, "delta": piece, "finish_reason": None}] for piece in pieces]
        choices.append([{"index": 0, "delta": {}, "finish_reason": reason}])
        chunks = [{**base, "object": "chat.completion.chunk", "choices": choice} for choice in choices]
        if request.get("stream_options", {}).get("include_usage"):
            chunks.append({**base, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        return self.stream([*(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks), "data: [DONE]\n\n"])

    def embeddings(self):
        inputs = self.request_body["input"]
        inputs = inputs if isinstance(inputs, list) else [inputs]
        # A list of four numbers in base64, if the client requests that.
        vector = "AACAPwAAgD8AAIA/AACAPw==" if self.request_body.get("encoding_format") == "base64" else [1.0] * 4
        data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(len(inputs))]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        self.answer({"object": "list", "model": self.request_body["model"], "data": data, "usage": usage})

    def stream(self, events):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, event in enumerate(events):
            if self.is_cut() and number == 2:
                self.close_connection = True
                return
            self.wfile.write(f"{len(event.encode()):x}\r\n{event}\r\n".encode())
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

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
