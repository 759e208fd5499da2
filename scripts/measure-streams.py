#!/usr/bin/env python3
"""Measures how long egress delays the events of models' streams, beside the same streams without egress.

    scripts/measure-streams.py EGRESS [STREAMS] [SECONDS]

EGRESS is the program, such as target/release/hoistway-egress. A server of the OpenAI API sends an event in each of the
streams (64) every 20 ms for some seconds (10); each event contains its time of sending, on the clock that all processes
share. Clients record its arrival: first directly, then through egress, three times in turn. Prints the delay from the
server's event to the client's, the delay added by egress, events that were lost or arrived together, and egress'
memory.
"""

import asyncio
import base64
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

EVERY = 0.02
ROUNDS = 3


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


async def serve(port, seconds):
    """Serves chat completions of many events, each with the time at which it was sent."""

    async def answer(reader, writer):
        writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:  # a connection that only checks that the server runs
            return writer.close()
        length = next(int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: "))
        await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        events = int(seconds / EVERY)
        for _ in range(events):
            await asyncio.sleep(EVERY)
            choice = {"index": 0, "delta": {"content": f"{time.monotonic_ns()}"}, "finish_reason": None}
            chunk = {"id": "c", "object": "chat.completion.chunk", "choices": [choice], "usage": None}
            writer.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        usage = {"id": "c", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": events}}
        writer.write(b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


async def read(port, header, start):
    """Returns the delays of one stream's events in nanoseconds, and the number that arrived together with the previous
    one."""
    await asyncio.sleep(start)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"model": "m", "stream": True, "messages": []})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{header}Content-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    delays, together, rest = [], 0, b""
    while piece := await reader.read(65536):
        now, rest = time.monotonic_ns(), rest + piece
        *lines, rest = rest.split(b"\n")
        sent = [int(line.split(b'"content": "')[1].split(b'"')[0]) for line in lines if b'"content": "' in line]
        delays += [now - at for at in sent]
        together += max(0, len(sent) - 1)
        if any(line.startswith(b"data: [DONE]") for line in lines):
            break
    writer.close()
    return delays, together


async def load(port, header, streams, seconds):
    # Starts are spread over the time between two events, as for streams of different agents.
    read_all = [read(port, header, EVERY * number / streams) for number in range(streams)]
    found = await asyncio.gather(*read_all)
    delays = sorted(delay / 1e6 for delays, _ in found for delay in delays)
    lost = streams * int(seconds / EVERY) - len(delays)
    return delays, lost, sum(together for _, together in found)


def start_egress(program, directory, provider, port):
    """Returns the process, and the header that authenticates the agent."""
    policies = os.path.join(directory, "policies.json")
    model = {"model": "m", "provider": "p", "endpoint": f"http://127.0.0.1:{provider}/v1", "allow_private": True}
    with open(policies, "w") as file:
        agent = {"agent": "a", "revision": str(uuid.uuid4()), "tools": [], "models": [model]}
        json.dump({"agents": [agent]}, file)
    prefix = "HOISTWAY_EGRESS_"
    environment = {
        **os.environ, prefix + "DATA_DIR": directory, prefix + "LISTEN": f"127.0.0.1:{port}",
        prefix + "GRPC_LISTEN": f"127.0.0.1:{free_port()}", prefix + "USE_PROXY": "false", "HOISTWAY_LOG": "error",
        prefix + "LIMITS__AGENT_CALLS": "4096", prefix + "LIMITS__AGENT_CONNECTIONS": "4096"}
    command = [program, "--policies", policies]
    tokens = subprocess.run([*command, "--print-tokens"], env=environment, capture_output=True, text=True, check=True)
    password = tokens.stdout.split()[1]
    header = "Proxy-Authorization: Basic " + base64.b64encode(f"agent:{password}".encode()).decode() + "\r\n"
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL), header


def resident(process):
    with open(f"/proc/{process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def wait_for(port):
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nobody listens at port {port}")


def main():
    if sys.argv[1:2] == ["--serve"]:
        return asyncio.run(serve(int(sys.argv[2]), float(sys.argv[3])))
    if not 2 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    program, streams, seconds = [*sys.argv[1:], *("64", "10")[len(sys.argv) - 2:]]
    streams, seconds = int(streams), float(seconds)
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        provider, port = free_port(), free_port()
        server = subprocess.Popen([sys.executable, __file__, "--serve", str(provider), str(seconds)])
        egress, header = start_egress(program, directory, provider, port)
        try:
            wait_for(provider), wait_for(port)
            asyncio.run(load(port, header, 4, min(seconds, 1)))
            before, ways = resident(egress), {"direct": (provider, ""), "egress": (port, header)}
            found = {way: ([], 0, 0) for way in ways}
            for _ in range(ROUNDS):
                for way, (at, head) in ways.items():
                    delays, lost, together = asyncio.run(load(at, head, streams, seconds))
                    found[way] = (found[way][0] + delays, found[way][1] + lost, found[way][2] + together)
                    if way == "egress":
                        print(f"memory of egress after {streams} streams: {resident(egress):.1f} MiB (before {before:.1f})")
        finally:
            for process in (egress, server):
                process.terminate()
                process.wait()
    print(f"{streams} streams at once, {seconds:g} s, an event every {EVERY * 1000:g} ms")
    shown = {way: [statistics.quantiles(delays, n=100)[at] for at in (49, 89, 98)] for way, (delays, _, _) in found.items()}
    print(f"{'':>8} {'p50':>9} {'p90':>9} {'p99':>9}   events    lost together")
    for way, (delays, lost, together) in found.items():
        times = " ".join(f"{ms:>6.3f} ms" for ms in shown[way])
        print(f"{way:>8} {times} {len(delays):>8} {lost:>7} {together:>8}")
    print("   added " + " ".join(f"{with_egress - direct:>6.3f} ms" for direct, with_egress in zip(shown["direct"], shown["egress"])))


if __name__ == "__main__":
    main()
