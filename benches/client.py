"""A client of agents that run outside of Hoistway, and a load of invokes."""

import asyncio
import http.client
import json
import statistics
import subprocess
import time

from hoistway import TIMEOUT, check

BODY = json.dumps({"message": "hello"})


def first_answer(port, expected, alive=lambda: True):
    """Waits until the agent at `port` gives its first answer. Nothing reports that an agent of an alternative listens,
    so it is asked every 5 ms."""
    end = time.monotonic() + TIMEOUT
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("POST", "/invoke", BODY, {"Content-Type": "application/json"})
            return check(json.load(connection.getresponse())["response"], expected)
        except (OSError, http.client.HTTPException) as e:
            if time.monotonic() > end or not alive():
                raise RuntimeError(f"nothing answers at port {port}: {e}") from e
            time.sleep(0.005)
        finally:
            connection.close()


class Connection(asyncio.Protocol):
    """One request after the other."""

    def connection_made(self, transport):
        self.transport, self.answer = transport, None

    def ask(self, request):
        """Returns a future that ends with the answer."""
        self.seen, self.length = b"", None
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer

    def data_received(self, data):
        self.seen += data
        if self.length is None:
            head, found, _ = self.seen.partition(b"\r\n\r\n")
            if not found:
                return
            lines = head.lower().split(b"\r\n")
            if b" 200 " not in lines[0]:
                return self.connection_lost(RuntimeError(self.seen.decode(errors="replace")))
            self.length = len(head) + 4 + next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
            self.closes = b"connection: close" in lines
        if len(self.seen) >= self.length and not self.answer.done():
            self.answer.set_result(None)

    def connection_lost(self, error):
        self.closes = True
        if self.answer and not self.answer.done():
            self.answer.set_exception(error or ConnectionError("the connection was closed"))


def load(port, path, headers, connections, seconds):
    """Asks over so many connections at a time. Returns the median of the times in milliseconds, and the answers per
    second. Connections are kept if the server keeps them; Hoistway's runner closes each."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{lines}Content-Length: {len(BODY)}\r\n\r\n"
    request, times = (head + BODY).encode(), []

    async def ask_until(end):
        connection = None
        while (start := time.perf_counter()) < end:
            if connection is None or connection.closes:
                _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
            await connection.ask(request)
            times.append(time.perf_counter() - start)
        if connection:
            connection.transport.close()

    async def run():
        start = time.perf_counter()
        await asyncio.gather(*(ask_until(start + seconds) for _ in range(connections)))
        return statistics.median(times) * 1000, len(times) / (time.perf_counter() - start)

    return asyncio.run(run())


class Echo(asyncio.Protocol):
    """Answers each request at once: what loopback and this client can do at most."""

    ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"response": "0"}'

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data.endswith(BODY.encode()):
            self.transport.write(self.ANSWER)


def serve_echo():
    """Serves on a free port of loopback, which is printed, until it is ended."""

    async def run():
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(run())


class EchoServer:
    """The echo in a process of its own."""

    def __init__(self, python):
        self.process = subprocess.Popen([python, __file__], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()


if __name__ == "__main__":
    serve_echo()
