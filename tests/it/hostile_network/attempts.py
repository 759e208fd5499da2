"""The attempts of a hostile agent in a closed network. Each function returns whether it succeeded; an exception means
that it did not. Content that must not arrive at a tool contains `MARK` and the function's name: the tool searches for
them.

The targets are in the message: see `mod.rs`.
"""
import asyncio
import base64
import ctypes
import json
import os
import re
import socket
import ssl
import struct
import urllib.error
import urllib.request
from urllib.parse import urlsplit

LIBC = ctypes.CDLL(None, use_errno=True)
MARK, SECONDS = "hostile-mark-", 3
PROXY = urlsplit(os.environ["HTTP_PROXY"])
EGRESS, TOKEN = (PROXY.hostname, PROXY.port), PROXY.password
FACTS, REFUSED = {}, []


class Stopped(Exception):
    """An answer that does not come from a host."""


def call(function, *arguments):
    result = function(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def some(attempts):
    """Returns the ways that succeeded, after trying all of them."""
    reached, errors = [], []
    for name, attempt in attempts:
        try:
            if attempt(): reached.append(name)
        except Exception as error: errors.append("%s: %s" % (name, error))
    if errors and not reached: raise Stopped("; ".join(errors))
    return reached


# Egress as a proxy.
def auth(token):
    return "" if token is None else "Proxy-Authorization: Basic %s\r\n" % base64.b64encode(b"agent:" + token.encode()).decode()


def judge(data):
    """Returns the answers of hosts. Refusals of egress have a header and are recorded, for comparison with its
    records."""
    heads = re.findall(rb"HTTP/1\.[01] (\d{3})[^\n]*\r\n(.*?)\r\n\r\n", data, re.DOTALL)
    if not heads: raise Stopped("no answer")
    hosts = []
    for status, head in heads:
        reason = re.search(rb"(?im)^x-hoistway-egress: ([a-z_]+)", head)
        if reason: REFUSED.append([int(status), reason[1].decode()])
        elif not (status in (b"400", b"431", b"505") and b"content-length: 0" in head.lower()): hosts.append(status.decode())
    if not hosts: raise Stopped("egress: %s" % [status.decode() for status, _ in heads])
    return hosts


def connect(address=EGRESS):
    return socket.create_connection(address, SECONDS)


def read(stream):
    data = b""
    try:
        while piece := stream.recv(65536): data += piece
    except (ConnectionResetError, TimeoutError): pass
    return data


def exchange(text, address=EGRESS):
    with connect(address) as stream:
        stream.sendall(text.encode("latin-1"))
        return judge(read(stream))


def get(url, extra="", token=TOKEN, host=None, method="GET", version="1.1", line=""):
    host = host or url.split("/")[2]
    return exchange(f"{method} {url} HTTP/{version}\r\nHost: {host}\r\n{auth(token)}{extra}{line}Connection: close\r\n\r\n")


def tunnel(place, token=TOKEN, host=None):
    stream = connect()
    stream.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {host or place}\r\n{auth(token)}\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = stream.recv(1)
        if not piece: raise Stopped("hung up")
        head += piece
    if b" 200 " not in head.split(b"\r\n")[0]: judge(head)
    return stream


def shake(stream, name, reason):
    """Begins TLS for the host `name`. Egress refuses with an alert; the refusal is recorded as `reason`."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try: return context.wrap_socket(stream, server_hostname=name)
    except ssl.SSLError as error:
        if "UNRECOGNIZED_NAME" in str(error): REFUSED.append([0, reason])
        raise


def both(places):
    """Yields requests for an address through egress, in both of HTTP's ways."""
    for place in places:
        yield "http " + place, lambda place=place: get("http://%s/" % place)
        yield "CONNECT " + place, lambda place=place: tunnel(place)


def harmless(attempts):
    """Tools may answer: the tool itself checks that forbidden content has not arrived."""
    for _, attempt in attempts:
        try: attempt()
        except (Stopped, OSError): pass
    return False


# Direct connections.
def platform_directly(): return some((name, lambda port=port: connect(("127.0.0.1", port))) for name, port in FACTS["platform"].items() if name != "egress")
def other_agent_directly(): return connect(("127.0.0.1", FACTS["other_port"]))
def metadata_directly(): return some((host, lambda host=host: connect((host, 80))) for host in ("169.254.169.254", "fd00:ec2::254"))
def internet_directly(): return some((host, lambda host=host: connect((host, 443))) for host in ("1.1.1.1", "2606:4700:4700::1111"))
def machine_directly():
    hosts = "127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "127.8.9.10", "2130706433", "0x7f.1", "0177.0.0.1", FACTS["machine"]
    return some((host, lambda host=host: connect((host, FACTS["victim"]))) for host in hosts)
def egress_port_elsewhere(): return connect((FACTS["elsewhere"], FACTS["platform"]["egress"]))


# Through egress.
def platform_through_egress(): return some(both("127.0.0.1:%d" % port for port in FACTS["platform"].values() if port != EGRESS[1]))
def others_source():
    registry, manifest = "http://localhost:%d/v2/" % FACTS["platform"]["registry"], "Accept: application/vnd.oci.image.manifest.v1+json\r\n"
    def read_it(path): return "200" in get(registry + path, manifest)
    return some((path, lambda path=path: read_it(path)) for path in ("_catalog", "other/tags/list", "other/manifests/latest", "token?scope=repository:other:pull"))
def other_agent_through_egress(): return some(both(["127.0.0.1:%d" % FACTS["other_port"]]))
def metadata_through_egress():
    return some(both(["169.254.169.254:80", "[fd00:ec2::254]:80", "[::ffff:169.254.169.254]:80", "metadata.google.internal:80", "0xa9fea9fe:80"]))
def internet_through_egress(): return some(both(["example.com:443", "1.1.1.1:443", "8.8.8.8:53"]))
def machine_through_egress():
    hosts = ["127.0.0.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.1", "127.0.0.1.", "0.0.0.0", "[::ffff:127.0.0.1]", "[::]", "[::1]",
             "[0:0:0:0:0:ffff:7f00:1]", "localhost", "LOCALHOST.", "a.localhost", "[::127.0.0.1]", "[64:ff9b::7f00:1]", FACTS["machine"]]
    return some(both("%s:%d" % (host, FACTS["victim"]) for host in hosts))
def others_tool(): return some([*both(["other.example:80"]), ("base URL", lambda: get("http://%s:%d/tools/other/" % EGRESS))])
def others_tool_otherwise(): return some(both(["OTHER.EXAMPLE:80", "other.example.:80", "Other.Example.:80", "other.example:0080"]))
def user_in_url():
    victim = "127.0.0.1:%d" % FACTS["victim"]
    urls = "http://plain.example@%s/" % victim, "http://%s@plain.example/" % victim, "http://plain.example:80#@%s/" % victim, "http://plain.example\\@%s/" % victim
    return some((url, lambda url=url: get(url, host=victim)) for url in urls)
def tool_at_another_port(): return some(both(["plain.example:%d" % FACTS["victim"], "plain.example:22", "api.stripe.com:80"]))
def rebound_name():
    def inside(place):
        stream = tunnel(place)
        stream.sendall(f"GET / HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n".encode())
        return judge(read(stream))
    def by_its_name(place):
        host, port = place.rsplit(":", 1)
        return exchange(f"GET / HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n", (host, int(port)))
    ways = (lambda place: get("http://%s/" % place)), inside, by_its_name
    return some((place, lambda place=place, way=way: way(place)) for place in FACTS["rebound"] for way in ways)
def redirect_to_machine():
    urls = ["http://127.0.0.1:%d/healthz" % FACTS["platform"]["gateway"], "http://169.254.169.254/", "http://other.example/"]
    def follow(url):
        try: return urllib.request.urlopen("http://plain.example/redirect?" + url, timeout=SECONDS).read()
        except urllib.error.HTTPError as error:
            if "x-hoistway-egress" in error.headers: REFUSED.append([error.code, error.headers["x-hoistway-egress"]])
            raise
    return some((url, lambda url=url: follow(url)) for url in urls)
def beside_the_base_url():
    paths = "/../secret", "/%2e%2e/secret", "/..%2fsecret", "/..;/secret", "/%252e%252e/secret", "/..\\secret", "/.%2e/secret", "/a/../../secret"
    return some((path, lambda path=path: get("http://scoped.example/v1" + path)) for path in [*paths, "/../v1secret"])
def not_covered_by_the_base_url(): return some((path, lambda path=path: get("http://scoped.example" + path)) for path in ("/secret", "/v10", "/", "//v1/x"))


# With another identity.
def with_token(token):
    return some([("http", lambda: get("http://other.example/", token=token)), ("CONNECT", lambda: tunnel("other.example:80", token)),
                 ("base URL", lambda: get("http://%s:%d/tools/other/" % EGRESS, token=token))])
def without_token(): return with_token(None)
def others_token(): return with_token(FACTS["other_token"])
def made_up_token():
    token, digits = FACTS["other_token"], FACTS["own_token"][36:]
    return some((made, lambda made=made: with_token(made)) for made in ("", "hwe_", token[:-1], token + "A", token[:36] + digits, token.swapcase()))
def preface(token, flavour="http"):
    host = "other.example" if flavour == "http" else "x"
    return exchange(f"HOISTWAY-EGRESS/1 {token} {flavour} 80\nGET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
def others_preface(): return preface(FACTS["other_token"])
def made_up_preface(): return some((made, lambda made=made: preface(made)) for made in ("hwe_x", FACTS["other_token"][:-1], "%s http 80\nHOISTWAY-EGRESS/1 x" % FACTS["own_token"]))


# Ambiguous requests.
def smuggle(lines, path="/", head=None):
    head = head or f"POST http://plain.example{path} HTTP/1.1\r\nHost: plain.example\r\n{auth(TOKEN)}Connection: close\r\n"
    return "smuggle", lambda: exchange(head + lines)
def two_hosts():
    other = "other.example"
    return some([("URI", lambda: get("http://other.example/", host="plain.example")), ("header", lambda: get("http://plain.example/", host=other)),
                 ("twice", lambda: get("http://plain.example/", "Host: %s\r\n" % other)), ("folded", lambda: get("http://plain.example/", "X: a\r\n Host: %s\r\n" % other)),
                 ("CONNECT", lambda: tunnel("api.stripe.com:443", host="other.example:443")), ("CONNECT", lambda: tunnel("other.example:443", host="api.stripe.com:443"))])
def two_lengths():
    second = f"GET http://plain.example/{MARK}two_lengths HTTP/1.1\r\nHost: plain.example\r\n\r\n"
    return harmless([smuggle(f"Content-Length: {len(second) + 5}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{second}"), smuggle(f"Content-Length: 0\r\nContent-Length: {len(second)}\r\n\r\n{second}"),
                     smuggle(f"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{second}"), smuggle(f"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n{second}"),
                     smuggle(f"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n{second}"), smuggle(f"Content-Length: 0x0\r\n\r\n{second}")])
def line_breaks():
    head = f"X-{MARK}line_breaks: 1"
    return harmless([smuggle("\r\n", f"/%0d%0a{head}\r\n"), smuggle(f"X: a\r\n {head}\r\n\r\n"), smuggle(f"X: a\n{head}\r\n\r\n", "/\r\nX: a\rb"), smuggle(f"X: a\r{head}\r\n\r\n"), smuggle(f"X: a\0\n{head}\r\n\r\n", "/ HTTP/1.1\r\nA: ")])
def old_http():
    first = f"GET http://other.example/ HTTP/1.0\r\n{auth(TOKEN)}\r\n"
    return some([("1.0", lambda: exchange(first)), ("0.9", lambda: exchange("GET http://other.example/\r\n")), ("kept", lambda: exchange(f"GET http://plain.example/ HTTP/1.0\r\n{auth(TOKEN)}Connection: keep-alive\r\n\r\n{first}") and 0)])
def second_request():
    first = f"GET http://plain.example/ HTTP/1.1\r\nHost: plain.example\r\n{auth(TOKEN)}\r\n"
    second = f"GET http://other.example/{MARK}second_request HTTP/1.1\r\nHost: other.example\r\n{auth(TOKEN)}Connection: close\r\n\r\n"
    return harmless([("pipelined", lambda: exchange(first + second))])
def other_protocols():
    upgrade = "Upgrade: %s\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    switched = lambda url, name: "101" in exchange(f"GET {url} HTTP/1.1\r\nHost: {url.split('/')[2]}\r\n{auth(TOKEN)}{upgrade % name}Connection: Upgrade, HTTP2-Settings, close\r\n\r\n")
    return some([(name, lambda name=name, url=url: switched(url, name)) for name in ("h2c", "websocket", "TLS/1.0") for url in ("http://plain.example/", "http://other.example/")]
                + [("h2 at once", lambda: exchange("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")), ("trace", lambda: get("http://plain.example/", method="TRACE"))])
def raw_bytes_in_a_tunnel():
    def send():
        stream = tunnel("plain.example:80")
        stream.sendall(("SSH-2.0-%sraw_bytes_in_a_tunnel\r\n" % MARK).encode() * 4)
        return read(stream)
    return harmless([("raw", send)])
def tunnel_to_another_host():
    def inside(request):
        stream = shake(tunnel("api.stripe.com:443"), "api.stripe.com", "")
        stream.sendall(request.encode())
        return judge(read(stream))
    def plainly():
        stream = tunnel("plain.example:80")
        stream.sendall(b"GET http://other.example/ HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n")
        return judge(read(stream))
    return some([("SNI", lambda: shake(tunnel("api.stripe.com:443"), "other.example", "misdirected")), ("plain", plainly),
                 ("Host", lambda: inside("GET / HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n")),
                 ("URI", lambda: inside("GET http://other.example/ HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n")),
                 ("CONNECT", lambda: inside("CONNECT other.example:80 HTTP/1.1\r\nHost: other.example:80\r\nConnection: close\r\n\r\n"))])
def as_a_user():
    fields = "X-End-User-ID", "x-end-user-id", "X_End_User_ID", "X-End_User-Id"
    return harmless((field, lambda field=field: get("http://plain.example/", f"{field}: {MARK}as_a_user\r\n")) for field in fields)
def own_credential():
    fields = "Authorization", "authorization", "Proxy-Authorization"
    keep = "Connection: authorization\r\n"
    return harmless((field, lambda field=field, extra=extra: get("http://keyed.example/", f"{field}: Bearer {MARK}own_credential\r\n{extra}")) for field in fields for extra in ("", keep))


# The names of its tools, in a network of its own.
NAMED = "plain.example", 80
def by_name(target, host): return exchange(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n", NAMED)
def others_tool_by_name():
    victim = "127.0.0.1:%d" % FACTS["victim"]
    return some([("Host", lambda: by_name("/", "other.example")), ("URI", lambda: by_name("http://other.example/", "other.example")), ("port", lambda: by_name("/", victim)),
                 ("URI and Host", lambda: by_name("http://other.example/", "plain.example")), ("CONNECT", lambda: exchange("CONNECT %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (victim, victim), NAMED)),
                 ("base URL", lambda: by_name("/tools/other/", "127.0.0.1:3128")), ("SNI", lambda: shake(connect(("api.stripe.com", 443)), "other.example", "host_not_allowed")),
                 ("no SNI", lambda: shake(connect(("api.stripe.com", 443)), None, "host_not_allowed")), ("preface", lambda: exchange("HOISTWAY-EGRESS/1 %s http 80\nGET / HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n" % FACTS["other_token"], NAMED))])


# Sockets other than TCP, and the network itself.
def send(family, kind, protocol, address):
    return socket.socket(family, kind, protocol).sendto(b"\x08\0\xf7\xff" + bytes(12), address)
def datagrams(): return some((host, lambda host=host: send(socket.AF_INET, socket.SOCK_DGRAM, 0, (host, 53))) for host in ("8.8.8.8", "255.255.255.255", "224.0.0.251", FACTS["machine"]))
def datagrams_v6(): return some((host, lambda host=host: send(socket.AF_INET6, socket.SOCK_DGRAM, 0, (host, 53))) for host in ("2001:4860:4860::8888", "ff02::fb%1"))
def ping(): return send(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP, ("8.8.8.8", 0))
def raw_socket(): return some((p, lambda p=p: socket.socket(socket.AF_INET, socket.SOCK_RAW, p)) for p in (socket.IPPROTO_ICMP, socket.IPPROTO_TCP, socket.IPPROTO_RAW))
def packet_socket(): return some((kind, lambda kind=kind: socket.socket(socket.AF_PACKET, kind, socket.htons(3))) for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM))
def sctp(): return some((kind, lambda kind=kind: socket.socket(socket.AF_INET, kind, 132).connect(("8.8.8.8", 443)) is None) for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET))
def vsock(): return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).connect((2, 22)) is None
def other_families(): return some((family, lambda family=family: socket.socket(family, kind, 0)) for family in (16, 17, 21, 29, 30, 31, 38, 41, 42, 43, 44) for kind in (1, 2, 3) if family != 16)
def netlink(kind, flags, body):
    stream = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    stream.settimeout(SECONDS)
    stream.send(struct.pack("=IHHII", 16 + len(body), kind, flags | 5, 1, 0) + body)
    error = -struct.unpack_from("=i", stream.recv(4096), 16)[0]
    if error: raise OSError(error, os.strerror(error))
    return True
def change_network():
    attribute = lambda kind, value: struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
    return some([("route", lambda: netlink(24, 0x400, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 3, 253, 1, 0) + attribute(4, struct.pack("=I", 1)))),
                 ("address", lambda: netlink(20, 0x400, struct.pack("=BBBBI", 2, 32, 0, 0, 1) + attribute(2, bytes([10, 9, 9, 9])))),
                 ("interface", lambda: netlink(16, 0x600, struct.pack("=BBHiII", 0, 0, 0, 0, 1, 1) + attribute(18, attribute(1, b"dummy")))),
                 ("lo down", lambda: netlink(16, 0, struct.pack("=BBHiII", 0, 0, 0, 1, 0, 1)))])
def other_namespace():
    NEWNET, NEWUSER = 0x40000000, 0x10000000
    def enter(pid):
        with open("/proc/%s/ns/net" % pid) as file: return call(LIBC.setns, file.fileno(), NEWNET) == 0
    pids = [pid for pid in os.listdir("/proc") if pid.isdigit()]
    return some([("unshare", lambda: call(LIBC.unshare, NEWNET) == 0), ("with user", lambda: call(LIBC.unshare, NEWNET | NEWUSER) == 0), *((pid, lambda pid=pid: enter(pid)) for pid in pids)])
def unix_sockets():
    return some((name, lambda name=name: socket.socket(socket.AF_UNIX).connect(name) is None) for name in ("\0" + FACTS["abstract"], FACTS["unix"], "/run/docker.sock", "/var/run/docker.sock"))
def signal_by_socket():
    """A Unix socket connection identifies its peer by a descriptor that can be signalled. An event loop of the agent has
    sockets whose peer is the agent itself."""
    SO_PEERPIDFD, PIDFD_SEND_SIGNAL = 77, 424
    def probe(fd):
        pidfd = socket.socket(fileno=os.dup(fd)).getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
        with open("/proc/self/fdinfo/%d" % pidfd) as file: peer = re.search(r"(?m)^Pid:\s*(-?\d+)", file.read())
        return int(peer.group(1)) != os.getpid() and call(LIBC.syscall, ctypes.c_long(PIDFD_SEND_SIGNAL), pidfd, 0, None, 0) == 0
    return some((fd, lambda fd=fd: probe(fd)) for fd in map(int, os.listdir("/proc/self/fd")))
def take_egress_port():
    def bind(host, port):
        stream = socket.socket()
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT): stream.setsockopt(socket.SOL_SOCKET, option, 1)
        stream.bind((host, port))
        return stream.listen() is None
    return some((host, lambda host=host, port=port: bind(host, port)) for host, port in (EGRESS, ("0.0.0.0", EGRESS[1]), ("127.0.0.2", 80), ("127.0.0.2", 443)))
def see_connections():
    port = "%04X" % FACTS["victim"]
    def look(name):
        with open("/proc/net/" + name) as file: return ":" + port in file.read()
    return some((name, lambda name=name: look(name)) for name in ("tcp", "tcp6"))


def control():
    """The control: allowed requests arrive, so that missing ones were stopped."""
    return get("http://plain.example/", f"X-Control: {MARK}control\r\n") and get("http://keyed.example/") and get("http://scoped.example/v1/x")
HELD = []
def hold_connections():
    """Opens as many connections as it can get; the test checks that another agent still reaches its tools."""
    for _ in range(600):
        try: HELD.append(connect())
        except OSError: break
    return False


def handler(message):
    FACTS.update(json.loads(message))
    verdicts = {}
    for name in FACTS["attempts"]:
        REFUSED.clear()
        try: result = globals()[name]()
        except Exception as error: verdicts[name] = {"reached": False, "said": "%s: %s" % (type(error).__name__, error)}
        else: verdicts[name] = {"reached": bool(result), "said": repr(result)}
        verdicts[name]["refused"] = list(REFUSED)
    return {"response": verdicts}
