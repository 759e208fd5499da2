#!/usr/bin/env python3
"""Compares calls of a tool through egress with calls through nginx and direct calls, in one run.

    scripts/compare-egress.py EGRESS [ROUNDS] [SECONDS]

EGRESS is the program, such as target/release/hoistway-egress. The tool is an nginx that answers at once, and the
reverse proxy another one that keeps its connections; all run on loopback. Each round (5) loads each of the three ways
for some seconds (3) with 1 and with 64 connections. Prints latencies, the difference to direct calls, and the ratio
egress / nginx of the latencies. Needs nginx and wrk (Debian: nginx-light, wrk).
"""

import base64
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid

CONNECTIONS = (1, 64)
WAYS = ("direct", "nginx", "egress")
PERCENTILES = ("50%", "99%")
NGINX = """
daemon off; pid {dir}/{name}.pid; error_log {dir}/{name}.log; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000000; client_body_temp_path {dir}/{name}-body; proxy_temp_path {dir}/{name}-proxy;
    fastcgi_temp_path {dir}/{name}-f; uwsgi_temp_path {dir}/{name}-u; scgi_temp_path {dir}/{name}-s;
    {server}
}}
"""
TOOL = 'server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 "{{}}"; }} }}'
PROXY = """
    upstream tool {{ server 127.0.0.1:{tool}; keepalive 64; keepalive_requests 1000000000; }}
    server {{ listen 127.0.0.1:{port}; location / {{
        proxy_pass http://tool; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Authorization "Bearer key";
    }} }}
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def start_nginx(directory, name, server):
    path = os.path.join(directory, f"{name}.conf")
    with open(path, "w") as file:
        file.write(NGINX.format(dir=directory, name=name, server=server))
    return subprocess.Popen(["nginx", "-p", directory, "-e", os.path.join(directory, "error.log"), "-c", path])


def start_egress(program, directory, tool, port):
    """Returns the process, and the header that authenticates the agent."""
    policies = os.path.join(directory, "policies.json")
    credential = {"header": {"name": "authorization", "prefix": "Bearer ", "value": "key"}}
    tools = [{"name": "tool", "base_url": f"http://127.0.0.1:{tool}", "allow_private": True, "credential": credential}]
    with open(policies, "w") as file:
        json.dump({"agents": [{"agent": "a", "revision": str(uuid.uuid4()), "tools": tools}]}, file)
    prefix = "HOISTWAY_EGRESS_"
    environment = {
        **os.environ, prefix + "DATA_DIR": directory, prefix + "LISTEN": f"127.0.0.1:{port}",
        prefix + "GRPC_LISTEN": f"127.0.0.1:{free_port()}", prefix + "USE_PROXY": "false", "HOISTWAY_LOG": "error",
        prefix + "LIMITS__AGENT_RATE": "1000000", prefix + "LIMITS__AGENT_BURST": "1000000"}
    command = [program, "--policies", policies]
    tokens = subprocess.run([*command, "--print-tokens"], env=environment, capture_output=True, text=True, check=True)
    password = tokens.stdout.split()[1]
    header = "Proxy-Authorization: Basic " + base64.b64encode(f"agent:{password}".encode()).decode()
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL), header


def wait_for(url, headers):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(200):
        try:
            with opener.open(urllib.request.Request(url, headers=headers), timeout=5) as answer:
                return answer.read()
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    sys.exit(f"{url} does not answer")


def load(url, header, connections, seconds):
    """Returns milliseconds by percentile."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    if header:
        command += ["-H", header]
    said = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"{url}: {said}")
    factors = {"us": 0.001, "ms": 1, "s": 1000}
    found = {p: re.search(rf"^\s+{p}\s+([\d.]+)(us|ms|s)$", said, re.MULTILINE) for p in PERCENTILES}
    return {p: float(match[1]) * factors[match[2]] for p, match in found.items()}


def main():
    if not 2 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    program, rounds, seconds = [*sys.argv[1:], *("5", "3")[len(sys.argv) - 2:]]
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        tool, proxy, egress = (free_port() for _ in WAYS)
        processes = [
            start_nginx(directory, "tool", TOOL.format(port=tool)),
            start_nginx(directory, "proxy", PROXY.format(port=proxy, tool=tool)),
        ]
        try:
            process, header = start_egress(program, directory, tool, egress)
            processes.append(process)
            ways = {
                "direct": (f"http://127.0.0.1:{tool}/x", None),
                "nginx": (f"http://127.0.0.1:{proxy}/x", None),
                "egress": (f"http://127.0.0.1:{egress}/tools/tool/x", header),
            }
            for url, header in ways.values():
                wait_for(url, dict([header.split(": ", 1)]) if header else {})
            took = {}
            for number in range(int(rounds)):
                for connections in CONNECTIONS:
                    # The order alternates, since the machine is warmer for later ways.
                    for way in WAYS[::1 if number % 2 == 0 else -1]:
                        for percentile, ms in load(*ways[way], connections, seconds).items():
                            took.setdefault((connections, percentile, way), []).append(ms)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
    print(f"{'connections':>11} {'':>4} " + " ".join(f"{way:>9}" for way in WAYS) + "   added: nginx    egress   egress / nginx")
    for connections in CONNECTIONS:
        for percentile in PERCENTILES:
            direct, nginx, egress = (statistics.median(took[connections, percentile, way]) for way in WAYS)
            print(f"{connections:>11} {percentile:>4} {direct:>6.3f} ms {nginx:>6.3f} ms {egress:>6.3f} ms"
                  f"{nginx - direct:>12.3f} ms {egress - direct:>6.3f} ms {egress / nginx:>12.2f}")


if __name__ == "__main__":
    main()
