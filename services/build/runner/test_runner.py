"""Tests of the runner in the role of its supervisor: a real process, a listening socket, pipes and HTTP.

    python3 -m unittest discover -s services/build/runner      these and those of tests/
"""

import concurrent.futures
import contextlib
import http.client
import http.server
import json
import os
import py_compile
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest

RUNNER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hoistway_runner.py")
WAIT = 30  # longer than any step takes; a test never waits this long unless it fails


def write_files(directory, files):
    """Writes files, {path below the directory: text}, with the directories that they are in."""
    for name, text in files.items():
        path = os.path.normpath(os.path.join(directory, name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(textwrap.dedent(text))


class Agent:
    """A runner process in a directory of its own."""

    def __init__(self, files, entry="agent.py", env=None, config=None, sites=(), flags=("-s",), prepare=None,
                 runner=RUNNER):
        self.dir = tempfile.TemporaryDirectory()
        self.app = os.path.join(self.dir.name, "app")
        write_files(self.app, {**files, **{f"../{k}": v for k, v in dict(sites).items()}})
        if prepare:
            prepare(self.app)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        notify_reader, notify_writer = os.pipe()
        config_reader, config_writer = os.pipe()
        command = [sys.executable, *flags, runner, "--app", self.app, "--listen-fd", str(self.listener.fileno()),
                   "--notify-fd", str(notify_writer), "--config-fd", str(config_reader)]
        for site in sorted({name.split("/")[0] for name in dict(sites)}):
            command += ["--site", os.path.join(self.dir.name, site)]
        self.out = open(os.path.join(self.dir.name, "stdout"), "w+b")
        self.err = open(os.path.join(self.dir.name, "stderr"), "w+b")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.err, cwd=self.dir.name,
            pass_fds=(self.listener.fileno(), notify_writer, config_reader),
            env={"PATH": os.environ["PATH"], "USER_ENTRY_POINT": entry, "AGENT_NAME": "tested", "PORT": "1",
                 "TMPDIR": self.dir.name, "PYTHONUNBUFFERED": "1", **(env or {})})
        for fd in (notify_writer, config_reader):
            os.close(fd)
        self.listener.close()  # as a supervisor's copy would keep the queue of connections alive after the runner's end
        with open(config_writer, "w") as pipe:
            json.dump(config or {}, pipe)
        self.notify = open(notify_reader)
        self.event = None

    def __enter__(self):
        line = self.notify.readline()
        self.event = json.loads(line or '{"event": "nothing"}')
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for file in (self.notify, self.out, self.err):
            file.close()
        self.dir.cleanup()

    def read(self, name):
        with open(os.path.join(self.dir.name, name), encoding="utf-8") as file:
            return file.read()

    def stdout(self):
        return self.read("stdout")

    def stderr(self):
        return self.read("stderr")

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, json.loads(response.read()), response.headers

    def invoke(self, message="x", headers=None, **more):
        status, answer, _ = self.request("POST", "/invoke", json.dumps({"message": message, **more}), headers)
        return status, answer

    def response(self, message="x", **more):
        status, answer = self.invoke(message, **more)
        assert status == 200, (status, answer, self.stderr())
        return answer["response"]

    def stream(self, message="x"):
        """Returns the events of a stream, the last one as text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        with contextlib.closing(connection):
            connection.request("POST", "/invoke/stream", body=json.dumps({"message": message}))
            response = connection.getresponse()
            assert response.status == 200 and response.headers["Content-Type"] == "text/event-stream"
            data = [line[6:].strip().decode() for line in response if line.startswith(b"data: ")]
        return [json.loads(d) for d in data[:-1]] + data[-1:]

    def connect(self, message="x", path="/invoke"):
        """Returns a connection on which an invoke has been sent and not yet read."""
        body = json.dumps({"message": message}).encode()
        peer = socket.create_connection(("127.0.0.1", self.port), WAIT)
        peer.sendall(b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body))
        return peer

    def refuses(self):
        """Whether the port is no longer listening."""
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return True
        except ConnectionError:  # accepted by the kernel, and reset in the next moment
            return False
        return False

    def open_gate(self):
        """Lets the handler of GATE continue."""
        open(os.path.join(self.dir.name, "gate"), "w").close()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT)


def read_all(peer):
    with contextlib.closing(peer):
        return b"".join(iter(lambda: peer.recv(1 << 16), b""))


def until(condition):
    """Waits for another process to meet a condition, as long as a failing test may take."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


GATE = """
    import os, time
    def handler(message):
        print("in")
        while not os.path.exists(os.environ["TMPDIR"] + "/gate"):
            time.sleep(0.01)
        return message
"""


def source(code, **kwargs):
    return Agent({"agent.py": code}, **kwargs)


class Shapes(unittest.TestCase):
    """The code that is found, and its arguments."""

    def answers(self, code, want, message="x", **kwargs):
        with source(code, **kwargs) as agent:
            self.assertEqual(agent.event, {"event": "ready"}, agent.stderr())
            self.assertEqual(agent.response(message), want)

    def test_handler(self):
        self.answers("def handler(request, context): return {'response': 'v1:' + request['message']}", "v1:x")

    def test_main_takes_the_request(self):
        self.answers("def main(request): return {'response': 'main ' + request['message']}", "main x")

    def test_run_takes_nothing(self):
        self.answers("def run(): return 'run'", "run")

    def test_message_by_name_and_by_annotation(self):
        self.answers("def handler(message): return 'm ' + message", "m x")
        self.answers("def handler(anything: str): return 'a ' + anything", "a x")
        self.answers("from __future__ import annotations\ndef handler(anything: str): return 'f ' + anything", "f x")
        self.answers("def handler(message: dict): return 'd ' + message['message']", "d x")

    def test_other_signatures(self):
        self.answers("def handler(*, verbose=False): return verbose", False)
        self.answers("def handler(*both): return both[0]['message']", "x")
        self.answers("def handler(request, *rest): return [type(r).__name__ for r in rest]", ["RunContext"])
        self.answers("class C:\n  def answer(self, query): return 'q ' + query\nhandler = C().answer", "q x")
        self.answers("class C:\n  def __call__(self, request, ctx): return request['message']\nhandler = C()", "x")
        self.answers("import functools\ndef f(a, b, c): return a + b['message']\nhandler = functools.partial(f, 'p ')", "p x")

    def test_async(self):
        self.answers("async def handler(request, context): return {'response': 'async ' + request['message']}", "async x")
        self.answers("async def f(m): return 'awaited ' + m\ndef handler(message): return f(message)", "awaited x")

    def test_extra_keys_are_kept_and_win(self):
        with source("def handler(r, c): return {'response': 'r', 'extra': 7, 'model': 'mine'}", env={"LLM_MODEL": "m"}) as agent:
            status, answer = agent.invoke(headers={"X-Request-Id": "id-1"})
        self.assertEqual(status, 200)
        self.assertIsInstance(answer.pop("duration_ms"), int)
        self.assertEqual(answer, {"response": "r", "extra": 7, "model": "mine", "usage": {}, "tool_calls_made": [],
                                  "request_id": "id-1", "handler": "user"})

    def test_results_keep_their_type(self):
        for code, want in (("[1, {'a': None}]", [1, {"a": None}]), ("None", None), ("4.5", 4.5), ("True", True),
                           ("{'response': {'a': [1]}}", {"a": [1]}), ("{'output': 'o'}", "o"),
                           ("{'a': 1}", {"a": 1}), ("{}", {}), ("{'response': float('nan')}", None),
                           ("{'response': {(1, 2): 3}}", {"(1, 2)": 3}), ("__import__('pathlib').Path('/p')", "/p")):
            with self.subTest(code):
                self.answers(f"def handler(r, c): return {code}", want)

    def test_a_dict_without_response_is_the_response(self):
        with source("def handler(m): return {'answer': 42, 'model': 'mine'}") as agent:
            _, answer = agent.invoke()
            self.assertEqual((answer["response"], answer["answer"], answer["model"]),
                             ({"answer": 42, "model": "mine"}, 42, "mine"))
            content, done, _ = agent.stream()
            self.assertEqual((json.loads(content["delta"]), done["answer"]), ({"answer": 42, "model": "mine"}, 42))

    def test_half_a_surrogate_pair_is_replaced(self):
        code = r"""
        def handler(message):
            if message == "chunks": return iter(["a\ud800", "b"])
            return {"response": ["\ud800", "x\udfffy", "\ud83d\ude00", "\U0001f600", "\ud83d\ud83d\ude00", r"\ud800 \\ud800"], "\udc00": 1}
        """
        want = ["\ufffd", "x\ufffdy", "\U0001f600", "\U0001f600", "\ufffd\U0001f600", r"\ud800 \\ud800"]
        with source(code) as agent:
            status, answer = agent.invoke()
            self.assertEqual((status, answer["response"], answer["\ufffd"]), (200, want, 1))
            content, done, _ = agent.stream()
            self.assertEqual((json.loads(content["delta"]), done["\ufffd"]), (want, 1))
            self.assertEqual([e.get("delta") for e in agent.stream("chunks")[:2]], ["a\ufffd", "b"])
            self.assertEqual(agent.response("chunks"), "a\ufffdb")
            self.assertEqual(agent.invoke(request_id="\ud800")[1]["request_id"], "\ufffd")

    def test_a_result_that_is_no_json_is_the_agents_error(self):
        with source("def handler(r, c):\n  loop = []\n  loop.append(loop)\n  return loop") as agent:
            status, answer = agent.invoke()
        self.assertEqual((status, answer["code"]), (500, "agent_error"))

    def test_framework_objects(self):
        invoke = "class G:\n  def invoke(self, x): return %s\n%s = G()"
        self.answers(invoke % ("{'output': 'graph'}", "agent"), "graph")
        self.answers(invoke % ("{'result': x}", "chain"), "x")
        self.answers(invoke % ("{'response': x}", "chain"), "x")
        self.answers(invoke % ("{'answer': x}", "chain"), {"answer": "x"})
        self.answers(invoke % ("x.upper()", "app"), "X")
        self.answers("class C:\n  def kickoff(self, x): return 'crew ' + x\ncrew = C()", "crew x")
        self.answers("class E:\n  agent = 1\n  def invoke(self, x): return {'output': x['input']}\nexecutor = E()", "x")
        self.answers("class G:\n  nodes = ()\n  def invoke(self, x):\n    m = x['messages'][0]\n"
                     "    return {'messages': [m, {'content': 'last ' + m['content']}]}\ngraph = G()", "last x")
        self.answers("class M: content = 'text'\nclass G:\n  def invoke(self, x): return M()\nchain = G()", "text")
        self.answers("class G:\n  async def invoke(self, x): return {'output': 'async ' + x}\nagent = G()", "async x")

    def test_order(self):
        agent = "class G:\n  def invoke(self, x): return 'agent'\nagent = G()\n"
        main, run = "def main(): return 'main'\n", "def run(): return 'run'\n"
        self.answers(agent + main + run + "def handler(): return 'handler'\n", "handler")
        self.answers(main + run + agent, "agent")
        self.answers(run + main, "main")
        self.answers("agent = 'a name'\ngraph = dict()\ndef app(): pass\n" + main, "main")
        self.answers("def agent(state): return 'node'\n" + run, "run")

    def test_every_kind_of_binding_counts(self):
        for code in ("if True:\n  def handler(): return 'here'", "def f(): return 'here'\nhandler = f",
                     "try:\n  import zzz_nothing\nexcept ImportError:\n  handler = lambda: 'here'",
                     "from typing import Any\nhandler: Any = lambda: 'here'", "print(handler := lambda: 'here')",
                     "for handler in [lambda: 'here']: pass", "class handler:\n  def __new__(cls): return 'here'",
                     "import contextlib\nwith contextlib.nullcontext(lambda: 'here') as handler: pass",
                     "handler, x = (lambda: 'here'), 1", "match (lambda: 'here'):\n  case handler: pass"):
            with self.subTest(code):
                self.answers(code, "here")

    def test_imported_handler(self):
        lib = "def handler(message): return 'lib ' + message\nanswer = handler"
        files = {"lib.py": lib, "pkg/__init__.py": "", "pkg/lib.py": lib, "pkg/all.py": "from .lib import *"}
        for entry, code in (("agent.py", "from lib import handler"), ("agent.py", "from lib import answer as handler"),
                            ("agent.py", "from pkg.lib import handler\nif __name__ == '__main__': print(handler('y'))"),
                            ("agent.py", "from lib import handler\nassert callable(handler)\ndef main(): return 'main'"),
                            ("pkg/agent.py", "from .lib import handler"), ("pkg/agent.py", "from .all import *"),
                            ("pkg/sub/agent.py", "from ..lib import handler"), ("pkg/agent.py", "from lib import handler"),
                            ("agent.py", "try:\n  from lib import handler\nexcept ImportError: pass"),
                            ("agent.py", "from pkg.all import *"), ("src/agent.py", "from pkg.lib import handler")):
            with self.subTest(code), Agent({**files, "pkg/sub/__init__.py": "", entry: code}, entry) as agent:
                self.assertEqual(agent.response(), "lib x", agent.stderr())
        with source("from dep import handler", sites={"deps/dep.py": lib}) as agent:
            self.assertEqual(agent.response(), "lib x")

    def test_names_imported_from_own_files(self):
        lib = """
        class Agent:
            def invoke(self, x): return 'object ' + x
        agent = graph = app = Agent()
        def main(message): return 'main ' + message
        def run(message): return 'run ' + message
        class crew:
            def kickoff(self): pass
        """
        for name, want in (("agent", "object x"), ("graph", "object x"), ("app", "object x"), ("main", "main x"),
                           ("run", "run x"), ("Agent as chain, run", "run x"), ("crew, run", "run x")):
            code = f"from lib import {name}\ndef helper(): return {name.split(', ')[-1]}\n" \
                   f"if __name__ == '__main__': print(helper())"
            with self.subTest(name), Agent({"lib.py": lib, "agent.py": code}) as agent:
                self.assertEqual(agent.response(), want, agent.stderr())
        with Agent({"server.py": WSGI, "agent.py": "from server import app"}) as agent:
            self.assertEqual(agent.response("lazy"), "ab")

    def test_imported_names_that_do_not_count(self):
        self.answers("from asyncio import run\nimport sys\nprint('got ' + sys.argv[1])", "got x")
        self.answers("from unittest import main\nprint('script')", "script")
        self.answers("from dep import agent, app, main, run\nprint('script')", "script", sites={
            "deps/dep.py": "class A:\n  def invoke(self, x): pass\nagent = app = A()\ndef main(): pass\nrun = main"})
        for lib, code in (("def run(x): return 'ran ' + x", "import sys\nfrom lib import run\nprint(run(sys.argv[1]))"),
                          ("class A:\n  def run(self, x): return 'ran ' + x\nagent = A()",
                           "import sys\nfrom lib import agent\nif sys.argv[1:]: print(agent.run(sys.argv[1]))")):
            with self.subTest(code), Agent({"lib.py": lib, "agent.py": code}) as agent:
                self.assertEqual(agent.response(), "ran x", agent.stderr())
        for lib in ("handler = object()", "import json as handler"):
            with Agent({"lib.py": lib, "agent.py": "from lib import handler\nprint('script')"}) as agent:
                self.assertEqual(agent.response(), "script", agent.stderr())
        with Agent({"lib.py": "from agent import *", "agent.py": "from lib import *\nif __name__ == '__main__': print('script')"}) as agent:
            self.assertEqual(agent.response(), "script", agent.stderr())

    def test_names_of_inner_scopes_do_not_count(self):
        self.answers("def f():\n  handler = 1\n  def main(): pass\n[run for run in range(3)]\nprint('script')", "script")

    def test_the_main_block_belongs_to_scripts(self):
        self.answers("def run(): return 'imported'\nif __name__ == '__main__': raise SystemExit('ran')", "imported")
        self.answers("def f(): return 'script'\nif __name__ == '__main__':\n  agent = object()\n  print(f())", "script")

    def test_request_and_context(self):
        code = """
        def handler(request, context):
            return {'response': [request, vars(context)]}
        """
        env = {"TOOL_URL_ECHO_TOOL": "http://echo", "LLM_MODEL": "m", "LLM_GATEWAY_URL": "http://llm", "SYSTEM_PROMPT": "p"}
        with source(code, env=env) as agent:
            headers = {"X-Request-Id": "r", "X-Run-ID": "n", "X-End-User-ID": "u"}
            _, answer = agent.invoke("hé", headers, history=[{"role": "user"}], color="red", user_id="forged")
            request, context = answer["response"]
            plain = agent.response()[0]
            forged = agent.invoke("hé", {}, user_id="forged")[1]["response"]
            named = agent.invoke("hé", {"X-End-User-ID": "jürgen".encode().decode("latin-1")})[1]["response"]
        session = {"history": [{"role": "user"}], "request_id": "r", "run_id": "n", "user_id": "u"}
        self.assertEqual(request, {"message": "hé", "color": "red", **session})
        self.assertEqual(context, {"tools": {"echo-tool": "http://echo"}, "llm_url": "http://llm", "model": "m",
                                   "system_prompt": "p", "session": session})
        self.assertTrue("user_id" not in forged[0] and "user_id" not in forged[1]["session"])
        self.assertEqual(named[0]["user_id"], "jürgen")
        self.assertEqual(sorted(plain), ["history", "message", "request_id"])
        self.assertEqual(plain["history"], [])


class Tool(http.server.ThreadingHTTPServer):
    """Answers with the statement of the request, once `wait_for` requests have arrived."""

    def __init__(self, wait_for=1):
        super().__init__(("127.0.0.1", 0), ToolRequest)
        self.together = threading.Barrier(wait_for)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class ToolRequest(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.together.wait(WAIT)
        body = ",".join(self.headers.get_all("X-Hoistway-End-User") or ()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class EndUsers(unittest.TestCase):
    """The statement of an invoke's user is sent with the calls of that invoke, and to tools only."""

    CALL = """
    import urllib.request
    def call(url):
        return urllib.request.urlopen(url).read().decode()
    """

    def invoke(self, agent, url, statement):
        return agent.invoke(url, {"X-Hoistway-End-User": statement} if statement else {})[1]["response"]

    def test_each_of_several_invokes_at_once_has_its_own(self):
        handlers = {
            "in its thread": "def handler(message): return call(message)",
            "on the loop": "import asyncio\nasync def handler(message): return await asyncio.to_thread(call, message)",
            "in a pool": "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(8)\n"
                         "def handler(message): return pool.submit(call, message).result()",
            "while it streams": "def handler(message): yield call(message)",
            "as a script": "import sys\nprint(call(sys.argv[1]))",
        }
        for how, handler in handlers.items():
            with self.subTest(how), Tool(wait_for=3) as tool, \
                    source(textwrap.dedent(self.CALL) + handler, env={"TOOL_URL_T": tool.url}) as agent:
                for _ in range(2):  # threads are used again
                    with concurrent.futures.ThreadPoolExecutor(3) as callers:
                        users = ["hwu_a", "hwu_b", ""]
                        answers = list(callers.map(lambda user: self.invoke(agent, tool.url, user), users))
                    self.assertEqual(answers, users, agent.stderr())
                tool.shutdown()

    def test_it_goes_to_nobody_else_but_to_everybody_behind_egress(self):
        with Tool() as tool, Tool() as other:
            code = textwrap.dedent(self.CALL) + "def handler(message): return call(message)"
            with source(code, env={"TOOL_URL_T": tool.url}) as agent:
                self.assertEqual(self.invoke(agent, tool.url, "hwu_a"), "hwu_a")
                self.assertEqual(self.invoke(agent, other.url, "hwu_a"), "")
            with source(code, env={"LLM_GATEWAY_URL": tool.url + "/v1"}) as agent:
                self.assertEqual(self.invoke(agent, tool.url, "hwu_a"), "hwu_a")
                self.assertEqual(self.invoke(agent, other.url, "hwu_a"), "")
            script = textwrap.dedent(self.CALL) + "import sys\nprint(call(sys.argv[1]))"
            for closed in (code, script):
                with source(closed, config={"closed_network": True}) as agent:
                    self.assertEqual(self.invoke(agent, other.url, "hwu_a"), "hwu_a", "no tool is needed for that")
            tool.shutdown()
            other.shutdown()

    def test_scripts_and_web_applications_do_not_see_it(self):
        script = "import os\nprint([v for v in os.environ.values() if 'hwu_' in v])"
        app = """
        def app(environ, start_response):
            start_response("200 OK", [])
            return [str([k for k, v in environ.items() if "hwu_" in str(v)]).encode()]
        """
        for code in (script, app):
            with source(code) as agent:
                self.assertEqual(self.invoke(agent, "x", "hwu_a"), "[]", agent.stderr())


class Modules(unittest.TestCase):
    """The import of the entry file and its modules."""

    def test_package(self):
        files = {"app/main.py": "from app.lib.words import hi\nfrom .lib import words\n"
                                "def handler(r, c): return [hi, words.hi, __name__]",
                 "app/__init__.py": "", "app/lib/__init__.py": "", "app/lib/words.py": "hi = 'from a package'"}
        with Agent(files, "app/main.py") as agent:
            self.assertEqual(agent.response(), ["from a package", "from a package", "app.main"])

    def test_directory_without_init(self):
        files = {"src/agent.py": "import words, top\nfrom . import words as again\n"
                                 "def handler(r, c): return [words.w, again.w, top.t, __name__]",
                 "src/words.py": "w = 'sibling'", "top.py": "t = 'top'"}
        with Agent(files, "src/agent.py") as agent:
            self.assertEqual(agent.response(), ["sibling", "sibling", "top", "src.agent"])

    def test_modules_below_src(self):
        files = {"src/shop/__init__.py": "", "src/shop/prices.py": "def price(text): return len(text)",
                 "src/shop/main.py": "from shop.prices import price\nimport shop.prices\nfrom . import prices\nimport sys\n"
                                     "def handler(message):\n"
                                     "  import shop.main\n"
                                     "  return [price(message), __name__, shop.main is sys.modules[__name__], prices is shop.prices]"}
        with Agent(files, "src/shop/main.py") as agent:
            self.assertEqual(agent.response(), [1, "shop.main", True, True], agent.stderr())
        with Agent({**files, "agent.py": "from shop.main import handler"}) as agent:
            self.assertEqual(agent.response()[:2], [1, "shop.main"], agent.stderr())
        deep = {f"services/bot/{name}": text for name, text in files.items()}
        with Agent(deep, "services/bot/src/shop/main.py") as agent:
            self.assertEqual(agent.response(), [1, "shop.main", True, True], agent.stderr())
        with Agent({**files, "src/__init__.py": "", "agent.py": "from shop.prices import price\nfrom src.shop.prices import price as same\n"
                    "def handler(message): return [price(message), same(message)]"}) as agent:
            self.assertEqual(agent.response(), [1, 1], agent.stderr())
        library = {"deps/openai.py": "who = 'the package'", "deps/other.py": "import openai\nwho = openai.who"}
        for file in ("src/openai.py", "bot/openai.py"):
            package, entry = file.partition("/")[0], "agent.py" if file[0] == "s" else "bot/main.py"
            code = f"from {package}.openai import who\nimport other\ndef handler(): return [who, other.who]"
            with Agent({f"{package}/__init__.py": "", file: "who = 'own'", entry: code}, entry, sites=library) as agent:
                self.assertEqual(agent.response(), ["own", "the package"], agent.stderr())
        with Agent({"bot/__init__.py": "", "bot/calendar.py": "book = 1", "bot/main.py": "from calendar import book\ndef handler(): return book"},
                   "bot/main.py") as agent:
            self.assertEqual(agent.response(), 1, agent.stderr())
        with Agent({"src/__init__.py": "", "src/util.py": "u = 1", "src/agent.py": "from src.util import u\ndef run(): return [u, __name__]"},
                   "src/agent.py") as agent:
            self.assertEqual(agent.response(), [1, "src.agent"], agent.stderr())

    def test_names_that_cannot_be_imported(self):
        for entry in ("my-agent.py", "json.py", "queue.py", "__main__.py", "sub dir/1.py", "code/x.py", "class.py"):
            with self.subTest(entry), Agent({entry: "def handler(message): return message + __file__"}, entry) as agent:
                self.assertEqual(agent.event, {"event": "ready"}, agent.stderr())
                self.assertEqual(agent.response(), "x" + os.path.join(agent.app, entry))

    def test_path(self):
        code = "import sys, os\ndef handler(): return [sys.path, os.getcwd(), sys.argv]"
        with source(code, sites={"deps/x.py": ""}) as agent:
            path, cwd, argv = agent.response()
            self.assertEqual((path[0], path[-1]), (agent.app, os.path.join(agent.dir.name, "deps")))
            self.assertEqual(argv, [os.path.join(agent.app, "agent.py")])
            self.assertFalse({"", cwd, os.path.dirname(RUNNER)} & set(path), path)
            self.assertFalse([p for p in path[:-1] if p.endswith("-packages")], path)

    def test_site_directories_and_pth(self):
        sites = {"deps/dep.py": "d = 1", "deps/more.pth": "more\n", "deps/more/inner.py": "i = 2", "other/third.py": "t = 3"}
        for flags in (("-s",), ("-s", "-S"), ("-I", "-S")):
            code = "import dep, inner, third\ndef handler(): return [dep.d, inner.i, third.t]"
            with source(code, sites=sites, flags=flags) as agent:
                self.assertEqual(agent.response(), [1, 2, 3])

    def test_prebuilt_bytecode_is_used_and_none_is_written(self):
        def prepare(app):
            words = os.path.join(app, "words.py")
            py_compile.compile(words, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
            with open(words, "w", encoding="utf-8") as file:
                file.write("w = 'source'")

        files = {"agent.py": "import words, plain\ndef handler(): return words.w", "words.py": "w = 'bytecode'", "plain.py": ""}
        with Agent(files, prepare=prepare) as agent:
            self.assertEqual(agent.response(), "bytecode")
            self.assertEqual([f.split(".")[0] for f in os.listdir(os.path.join(agent.app, "__pycache__"))], ["words"])

    def test_multiprocessing(self):
        code = """
        import multiprocessing, os

        def work(numbers):
            return [os.getpid(), sum(numbers)]

        def handler(message):
            with multiprocessing.get_context(message).Pool(1) as pool:
                pid, total = pool.apply(work, ([1, 2],))
            return [pid != os.getpid(), total]
        """
        for method in ("spawn", "fork", "forkserver"):
            with self.subTest(method), source(code) as agent:
                self.assertEqual(agent.response(method), [True, 3], agent.stderr())
                self.assertEqual(agent.response(method), [True, 3])
                self.assertEqual(agent.terminate(), 0)
                self.assertNotIn("Traceback", agent.stderr())

    def test_a_terminated_child_does_not_end_the_agent(self):
        code = """
        import multiprocessing, time

        def handler():
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            child.start()
            child.terminate()
            child.join()
            return child.exitcode
        """
        with source(code) as agent:
            self.assertEqual([agent.response(), agent.response()], [-signal.SIGTERM] * 2)

    def test_a_forked_child_does_not_keep_the_port(self):
        code = """
        import multiprocessing, time

        def handler():
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
            child.start()
            return child.pid
        """
        with source(code) as agent:
            child = agent.response()
            try:
                agent.process.kill()
                agent.process.wait()
                until(agent.refuses)
            finally:
                os.kill(child, signal.SIGKILL)

    def test_main_is_not_the_users_module(self):
        code = """
        import __main__, sys
        secret = 1
        def handler(): return [__name__, sys.modules[__name__].__file__, hasattr(__main__, "secret")]
        """
        with source(code) as agent:
            self.assertEqual(agent.response(), ["agent", os.path.join(agent.app, "agent.py"), False])


class OwnModules(unittest.TestCase):
    """The runner as a package: the cost of a start, and its visibility to the agent's code."""

    PACKAGE = os.path.join(os.path.dirname(RUNNER), "_hoistway_runner")
    NAMES = sorted(name.removesuffix(".py") for name in os.listdir(PACKAGE) if name.endswith(".py"))

    def test_each_module_can_be_imported_alone(self):
        for name in self.NAMES:
            done = subprocess.run([sys.executable, "-B", "-c", f"import _hoistway_runner.{name}"],
                                  cwd=os.path.dirname(RUNNER), capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""), name)

    def test_a_start_compiles_nothing_where_there_is_bytecode(self):
        with tempfile.TemporaryDirectory() as directory:
            shutil.copy(RUNNER, directory)
            package = os.path.join(directory, "_hoistway_runner")
            shutil.copytree(self.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
            for name in self.NAMES:
                path = os.path.join(package, name + ".py")
                py_compile.compile(path, dfile=f"/opt/hoistway/runner/_hoistway_runner/{name}.py",
                                   invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
                with open(path, "w", encoding="utf-8") as file:
                    file.write("raise SystemExit('it was compiled')")
            runner = os.path.join(directory, "hoistway_runner.py")
            for code in ("def handler(message):\n  if message == 'raise': raise ValueError('x')\n  return message",
                         "async def handler(message):\n  if message == 'raise': raise ValueError('x')\n  return message",
                         "import sys\nif sys.argv[1] == 'raise': raise ValueError('x')\nprint(sys.argv[1])"):
                with self.subTest(code), source(code, runner=runner) as agent:
                    self.assertEqual(agent.response(), "x", agent.stderr())
                    status, answer = agent.invoke("raise")  # the runner's frames are recognized by their real path
                    self.assertEqual((status, answer["error"]), (500, "ValueError: x"))
                    self.assertNotIn("hoistway_runner", agent.stderr())
                    self.assertEqual(agent.terminate(), 0)
            with source(WSGI, runner=runner) as agent:
                self.assertEqual(agent.response("lazy"), "ab", agent.stderr())

    def test_what_a_plain_handler_does_not_need_is_not_loaded(self):
        code = """
        import sys
        def handler(): return sorted(n.split(".")[1] for n in sys.modules if n.startswith("_hoistway_runner."))
        """
        with source(code) as agent:
            loaded = set(agent.response())
        self.assertEqual(set(self.NAMES) - {"__init__"} - loaded,
                         {"app_routes", "asgi", "building", "commands", "confinement", "discovery", "end_users", "fitting", "frameworks", "graphs", "import_recording", "kits", "loop", "offered", "own_files", "pages", "remedies", "scripts", "sdks", "servers", "steering", "tables", "unnamed", "warm_parent", "web", "wsgi"})

    def test_an_agents_modules_do_not_take_the_place_of_ours(self):
        files = {"agent.py": "def handler(message): return message", "script.py": "import sys\nprint(sys.argv[1])",
                 **{name: "raise SystemExit('not this one')" for name in ("json.py", "socket.py", "signal.py", "http.py",
                                                                          "_hoistway_runner.py", "loop.py", "web.py")}}
        for entry in ("agent.py", "script.py"):
            with self.subTest(entry), Agent(files, entry) as agent:
                self.assertEqual(agent.response(), "x", agent.stderr())

    def test_settings_that_it_does_not_know_are_ignored_and_options_refused(self):
        with source("def run(): return 1", config={"token": "", "setting_of_tomorrow": {"a": [1]}}) as agent:
            self.assertEqual(agent.response(), 1)
        done = subprocess.run([sys.executable, RUNNER, "--option-of-tomorrow", "1"], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr),
                         (1, "hoistway_runner.py: unknown option or missing value: --option-of-tomorrow\n"))

    def test_a_process_of_the_agents_gets_its_context(self):
        code = """
        import multiprocessing
        def work(context): return context.session["request_id"]
        def handler(request, context):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                return pool.apply(work, (context,)) == request["request_id"]
        """
        with source(code) as agent:
            self.assertEqual(agent.response(), True, agent.stderr())

    def test_a_traceback_has_no_frames_of_ours_wherever_they_are(self):
        code = """
        class Refused(Exception): pass
        def handler(request, context):
            try:
                context.__reduce__.__func__(3)
            except TypeError as error:
                raise Refused("outside") from error
        """
        with source(code) as agent:
            status, answer = agent.invoke()
            self.assertEqual((status, answer["error"]), (500, "agent.Refused: outside"))
            self.assertIn("direct cause", agent.stderr())
            self.assertNotIn("hoistway_runner", agent.stderr())


class Starting(unittest.TestCase):
    """A failed start reports its cause."""

    def fails(self, code, *texts, **kwargs):
        with source(code, **kwargs) as agent:
            self.assertEqual(agent.event["event"], "failed", agent.stderr())
            self.assertEqual(agent.process.wait(WAIT), 1)
            for text in texts:
                self.assertIn(text, agent.event["error"])
            stderr = agent.stderr()
            self.assertNotIn("hoistway_runner", stderr)
            self.assertNotIn("importlib", stderr)
            return stderr

    def test_exception_during_import(self):
        code = "def boot():\n    raise RuntimeError('kaboom-77')\nboot()\ndef handler(r, c): pass"
        with source(code) as agent:
            path = os.path.join(agent.app, "agent.py")
        stderr = self.fails(code, "RuntimeError: kaboom-77").replace("\\", "/")
        first = stderr.splitlines()[1]
        self.assertTrue(first.startswith('  File "') and first.endswith('/agent.py", line 3, in <module>'), (first, path))
        self.assertTrue(stderr.rstrip().endswith("RuntimeError: kaboom-77"), stderr)

    def test_missing_module(self):
        self.fails("import zzz_nobody\ndef handler(): pass", "ModuleNotFoundError: No module named 'zzz_nobody'")

    def test_missing_module_deep_in_a_package(self):
        with Agent({"app/__init__.py": "import zzz_nobody", "app/main.py": "def handler(): pass"}, "app/main.py") as agent:
            self.assertIn("zzz_nobody", agent.event["error"])
            self.assertIn("app/__init__.py", agent.stderr())
            self.assertNotIn("hoistway_runner", agent.stderr())

    def test_syntax_errors(self):
        for code in ("x = 1\n\ndef handler(:\n", "print(1)\n\nreturn 5\n", "x = 1\n\ndef handler(): yield = 1"):
            self.assertIn('agent.py", line 3', self.fails(code, "SyntaxError", "line 3"))

    def test_exit_during_import(self):
        self.fails("import sys\ndef handler(): pass\nsys.exit('no key')", "SystemExit: no key")

    def test_threads_of_a_failed_import_do_not_hold_it(self):
        code = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\ndef run(): pass\n1 / 0"
        self.fails(code, "ZeroDivisionError")

    def test_handler_that_cannot_be_called(self):
        self.fails("handler = int('4')", "handler is int")

    def test_no_entry(self):
        self.fails("", "nope.py cannot be read: No such file", env={"USER_ENTRY_POINT": "nope.py"})
        self.fails("", "USER_ENTRY_POINT", env={"USER_ENTRY_POINT": ""})

    def test_secrets_are_masked(self):
        code = "def handler(): pass\nraise ValueError('key is s3cr3t-99')"
        self.assertNotIn("s3cr3t-99", self.fails(code, "key is ********", config={"mask": ["s3cr3t-99"]}))

    def test_binds_the_port_itself_in_a_container(self):
        with tempfile.TemporaryDirectory() as app, socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
            probe.close()
            with open(os.path.join(app, "agent.py"), "w", encoding="utf-8") as file:
                file.write("def handler(message): return message")
            ready, notify = os.pipe()
            process = subprocess.Popen([sys.executable, RUNNER, "--app", app, "--notify-fd", str(notify)], pass_fds=(notify,),
                                       env={"PATH": os.environ["PATH"], "PORT": str(port), "USER_ENTRY_POINT": "agent.py"})
            os.close(notify)
            with open(ready) as pipe:
                self.assertEqual(pipe.readline(), '{"event": "ready"}\n')
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
            with contextlib.closing(connection):
                connection.request("POST", "/invoke", body='{"message": "x"}')
                self.assertEqual(json.loads(connection.getresponse().read())["response"], "x")
            process.terminate()
            self.assertEqual(process.wait(WAIT), 0)


ASGI = """
    import asyncio, json, os

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["tool"] = "ready"
            await send({"type": "lifespan.startup.complete"})
            await receive()
            print("closed", flush=True)
            return await send({"type": "lifespan.shutdown.complete"})
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        sent, headers = json.loads(body), dict(scope["headers"])

        async def answer(status, kind, *pieces):
            await send({"type": "http.response.start", "status": status, "headers": [(b"Content-Type", kind)]})
            for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})

        do = sent["message"]
        if scope["path"] == "/invoke/stream" and do != "events":
            await answer(404, b"text/plain", b"no stream")
        elif do == "see":
            assert b"x-hoistway-invoke-token" not in headers
            seen = {"path": scope["path"], "more": sent["more"], "type": headers[b"content-type"].decode(),
                    "id": headers[b"x-request-id"].decode(), **scope["state"]}
            await answer(200, b"application/json; charset=utf-8", json.dumps({"response": seen, "extra": 1}).encode())
        elif do == "text":
            snowman = "\u2603".encode()
            await answer(200, b"text/plain", b"one ", snowman[:1], snowman[1:])
        elif do == "events":
            await answer(200, b"text/event-stream", b"data: 1\\n\\n", b"event: x\\ndata: 2\\n\\n")
        elif do == "refuse":
            await answer(422, b"application/json", b'{"detail": "bad"}')
        elif do == "raise":
            await answer(500, b"text/plain", b"Internal Server Error")
            raise ValueError("inside the app")
        elif do == "nothing":
            pass
        elif do == "later":
            await answer(200, b"text/plain", b"now")
            await asyncio.sleep(0.05)
            print("later", flush=True)
        elif do == "wait":
            try:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                while True:
                    await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            finally:
                print("cancelled", flush=True)
    """

WSGI = """
    import json

    def app(environ, start_response):
        sent = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        if environ["PATH_INFO"] != "/":
            start_response("404 NOT FOUND", [])
            return [b"only the root"]
        if sent["message"] == "gone":
            start_response("404 NOT FOUND", [])
            return [b"root neither"]
        if sent["message"] == "raise":
            raise ValueError("inside the app")
        if sent["message"] == "lazy":
            def pieces():
                start_response("200 OK", [("Content-Type", "text/plain")])
                yield b"a"
                yield b"b"
            return pieces()
        if sent["message"] == "write":
            start_response("200 OK", [("Content-Type", "text/plain")])(b"old ")
            return [b"way"]
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps([environ["REQUEST_METHOD"], environ["HTTP_X_REQUEST_ID"], sent["message"]]).encode()]
    """


class WebApplications(unittest.TestCase):
    """`app` as an ASGI or WSGI application, without a server of its own."""

    def test_asgi(self):
        with Agent({"agent.py": ASGI}, config={"token": "t0ken-1"}) as agent:
            self.assertEqual(agent.event, {"event": "ready"}, agent.stderr())
            headers = {"X-Hoistway-Invoke-Token": "t0ken-1", "X-Request-Id": "r-1"}
            status, answer = agent.invoke("see", headers, more=[1])
            seen = {"path": "/invoke", "more": [1], "type": "application/json", "id": "r-1", "tool": "ready"}
            self.assertEqual((status, answer["response"], answer["extra"]), (200, seen, 1))
            self.assertEqual(agent.invoke("text", headers)[1]["response"], "one \u2603")
            self.assertEqual(agent.invoke("events", headers)[1]["response"], "data: 1\n\nevent: x\ndata: 2\n\n")
            status, answer = agent.invoke("refuse", headers)
            self.assertEqual((status, answer["code"], answer["details"]), (400, "invalid_argument", ['{"detail": "bad"}']))
            self.assertEqual(answer["error"], "the app answered POST /invoke with status 422")
            status, answer = agent.invoke("raise", headers)
            self.assertEqual((status, answer["error"]), (500, "ValueError: inside the app"))
            status, answer = agent.invoke("nothing", headers)
            self.assertIn("without a complete answer", answer["error"])
            self.assertEqual(agent.invoke("later", headers)[1]["response"], "now")
            until(lambda: "later" in agent.stdout())
            self.assertEqual(agent.terminate(), 0)
            self.assertIn("closed", agent.stdout())

    def test_asgi_streams(self):
        with Agent({"agent.py": ASGI}) as agent:
            events = agent.stream("text")
            self.assertEqual("".join(e["delta"] for e in events[:-2]), "one \u2603")
            self.assertEqual((events[-2]["type"], events[-1]), ("done", "[DONE]"))
            connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=WAIT)
            with contextlib.closing(connection):
                connection.request("POST", "/invoke/stream", body=json.dumps({"message": "events"}))
                self.assertEqual(connection.getresponse().read(), b"data: 1\n\nevent: x\ndata: 2\n\n")
            refused = agent.stream("refuse")[0]
            self.assertEqual((refused["type"], refused["code"], refused["details"]), ("error", "invalid_argument", ['{"detail": "bad"}']))

    def test_a_lost_client_stops_the_app(self):
        busy = ASGI.replace("while True:\n", "while True:\n                    time.sleep(0.01)\n").replace("import ", "import time, ", 1)
        for code in (ASGI, busy):  # one waits for its client to read, the other is busy when the client leaves
            with self.subTest(code is busy), Agent({"agent.py": code}) as agent:
                body = b'{"message": "wait"}'
                with socket.create_connection(("127.0.0.1", agent.port), WAIT) as peer:
                    peer.sendall(b"POST /invoke/stream HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                    got = b""
                    while b"xxx" not in got:
                        got += peer.recv(1 << 10)
                until(lambda: "cancelled" in agent.stdout())

    def test_asgi_start_up(self):
        failing = ["async def app(scope, receive, send):", "    await receive()",
                   "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})"]
        with Agent({"agent.py": "\n".join(failing)}) as agent:
            self.assertEqual(agent.event, {"event": "failed", "error": "the app's start-up failed: no database"})
        with Agent({"agent.py": "\n".join([*failing, "    raise OSError('no route')"])}) as agent:
            self.assertEqual(agent.event, {"event": "failed", "error": "OSError: no route"})
        without = "async def app(scope, receive, send):\n    assert scope['type'] == 'http'"
        with Agent({"agent.py": without}) as agent:
            self.assertEqual(agent.event, {"event": "ready"})

    def test_wsgi(self):
        with Agent({"agent.py": WSGI}) as agent:
            self.assertEqual(agent.event, {"event": "ready"}, agent.stderr())
            self.assertEqual(agent.invoke("x", {"X-Request-Id": "r"})[1]["response"], ["POST", "r", "x"])
            self.assertEqual(agent.response("lazy"), "ab")
            self.assertEqual(agent.response("write"), "old way")
            status, answer = agent.invoke("raise")
            self.assertEqual((status, answer["error"]), (500, "ValueError: inside the app"))
            status, answer = agent.invoke("gone")
            self.assertEqual(answer["error"], "the app answered POST /invoke with status 404")
            self.assertEqual(answer["details"], ["only the root", "an invoke is POST /invoke or POST / of the app: add such a route, or call the others at /api/agents/tested/app/…"])
            self.assertEqual([e.get("delta") for e in agent.stream("lazy")[:2]], ["a", "b"])

    def test_what_is_no_web_application(self):
        for text in ("class Cli:\n    def __call__(self, *args, **kwargs): pass\napp = Cli()\nprint('ran')",
                     "def app(x): pass\nprint('ran')", "app = 3\nprint('ran')"):
            with Agent({"agent.py": text}) as agent:
                self.assertEqual(agent.response(), "ran", text)

    def test_a_handler_comes_first(self):
        with Agent({"agent.py": "async def app(scope, receive, send): pass\ndef run(): return 'run'"}) as agent:
            self.assertEqual(agent.response(), "run")

    def test_commands_of_packages_are_on_the_path(self):
        code = "import os, shutil\ndef run(): return shutil.which('tool')"
        sites = {"site/bin/tool": "#!/bin/sh\n"}
        executable = lambda app: os.chmod(os.path.join(app, "../site/bin/tool"), 0o755)
        with Agent({"agent.py": code}, sites=sites, prepare=executable) as agent:
            self.assertTrue(os.path.realpath(agent.response()).endswith("site/bin/tool"))


class Scripts(unittest.TestCase):
    """An entry without anything to call is run, as a whole, for each invoke."""

    def test_message_in_three_places(self):
        code = """
        import os, sys
        print(sys.argv[1:], os.environ["AGENT_MESSAGE"], sys.stdin.read(), __name__, os.path.basename(sys.argv[0]))
        exit()
        """
        for flags in (("-s",), ("-I", "-S")):
            with source(code, flags=flags) as agent:
                self.assertEqual(agent.response("hé"), "['hé'] hé hé __main__ agent.py")

    def test_large_message_and_message_with_nul(self):
        code = "import os, sys\nprint(len(sys.argv[1]), len(os.environ.get('AGENT_MESSAGE', '')), len(sys.stdin.read()))"
        with source(code) as agent:
            self.assertEqual(agent.response("é" * 300_000), "300000 300000 300000")
            self.assertEqual(agent.response("a\0b"), "3 0 3")

    def test_not_at_start_and_once_per_invoke(self):
        code = "import os, tempfile\np = os.path.join(tempfile.gettempdir(), 'n')\nopen(p, 'a').write('x')\nprint(len(open(p).read()))"
        with source(code) as agent:
            self.assertEqual([agent.response(), agent.response()], ["1", "2"])

    def test_only_imports(self):
        with source("import json\nimport os\n...") as agent:
            self.assertEqual(agent.event, {"event": "ready"})
            self.assertEqual(agent.response(), "")

    def test_output_to_the_letter(self):
        with source(r"import sys; sys.stdout.buffer.write(b'\na\r\n\n\xc3\xa9\xff\n\n')") as agent:
            self.assertEqual(agent.response(), "\na\r\n\né\ufffd\n")

    def test_failed_run(self):
        code = "import sys\nprint('log', file=sys.stderr)\ndef f():\n    raise ValueError('bad-luck s3cr3t')\nf()"
        with source(code, config={"mask": ["s3cr3t"]}) as agent:
            status, answer = agent.invoke()
            self.assertEqual((status, answer["error"], answer["code"]), (500, "ValueError: bad-luck ********", "agent_error"))
            self.assertEqual(answer["details"][:2], ["log", "Traceback (most recent call last):"])
            self.assertIn("line 5, in <module>", answer["details"][2])
            self.assertIn("ValueError: bad-luck", agent.stderr())
            self.assertNotIn("hoistway_runner", agent.stderr())

    def test_exit_status_and_signal(self):
        with source("import sys, os\nm = sys.argv[1]\nos.abort() if m == 'abort' else sys.exit(int(m) if m.isdigit() else m)") as agent:
            self.assertEqual(agent.invoke("3")[1]["error"], "the script ended with exit status 3")
            self.assertEqual(agent.invoke("sorry")[1]["error"], "sorry")
            self.assertEqual(agent.invoke("abort")[1]["error"], f"the script ended with signal {signal.SIGABRT.value}")
            self.assertEqual(agent.response("0"), "")
        hook = "import atexit, sys\natexit.register(print, 'telemetry was not sent', file=sys.stderr)\n{}['city']\n"
        logged = "import logging, sys\ntry: 1 / 0\nexcept ZeroDivisionError: logging.exception('again')\nsys.exit('no quota left')\n"
        for code, error in ((hook, "KeyError: 'city'"), (logged, "no quota left")):
            with source(code) as agent:
                self.assertEqual(agent.invoke()[1]["error"], error)

    def test_stderr_is_live(self):
        code = "import sys, time\nprint('begun', file=sys.stderr)\nsys.stdin.read()\ntime.sleep(600)"
        with source(code) as agent, contextlib.closing(agent.connect()):
            until(lambda: "begun" in agent.stderr())

    def test_endless_output_is_stopped(self):
        with source("while True: print('a' * 9999)") as agent:
            status, answer = agent.invoke()
            self.assertEqual((status, answer["error"]), (500, "the script printed more than 8 MiB"))

    def test_multiprocessing_spawn(self):
        code = """
        import multiprocessing
        def work(n): return n + 1
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.apply(work, (1,)))
        """
        with source(code) as agent:
            self.assertEqual(agent.response(), "2", agent.stderr())

    def test_name_that_is_no_agent(self):
        with source("class Plain: pass\nagent = Plain()\nprint('script')") as agent:
            self.assertEqual(agent.response(), "script")
            self.assertIn("agent.py: nothing to invoke in agent", agent.stderr())

    def test_stream(self):
        with source("import sys\nprint('one')\nprint('two')\nsys.exit(sys.argv[1] == 'fail')") as agent:
            events = agent.stream()
            self.assertEqual([e.get("delta") for e in events[:-2]], ["one", "\ntwo"])
            self.assertEqual((events[-2]["type"], events[-1]), ("done", "[DONE]"))
            self.assertEqual(agent.stream("fail")[-2]["message"], "the script ended with exit status 1")


class Errors(unittest.TestCase):
    """The answers for the agent's exceptions, and for wrong requests."""

    def test_exception(self):
        with source("def f(): raise ValueError('bad-luck-13')\ndef handler(r, c):\n  f()") as agent:
            status, answer = agent.invoke()
            self.assertEqual((status, answer["error"], answer["code"]), (500, "ValueError: bad-luck-13", "agent_error"))
            self.assertEqual(answer["details"][0], "Traceback (most recent call last):")
            self.assertIn('agent.py", line 3, in handler', answer["details"][1])
            self.assertEqual(answer["details"][-1], "ValueError: bad-luck-13")
            self.assertIn("line 3, in handler", agent.stderr())
            self.assertNotIn("hoistway_runner", agent.stderr())
            self.assertEqual(agent.invoke()[0], 500)

    def test_log_lines_name_the_request(self):
        with source("def handler(r, c): raise ValueError('x')") as agent:
            agent.invoke(headers={"X-Request-Id": "id-1"})
            self.assertIn("request id-1 failed\nTraceback", agent.stderr())
            agent.invoke(request_id="one\ntwo")
            self.assertIn("request one\\ntwo failed\nTraceback", agent.stderr())
        with source("raise SystemExit(3)") as agent:
            agent.invoke(headers={"X-Request-Id": "id-2"})
            self.assertEqual(agent.stderr().splitlines()[-1], "request id-2 failed")

    def test_exits_in_a_handler(self):
        for definition in ("def handler(message):", "async def handler(message):"):
            code = f"""
            import sys
            {definition}
                if message == "exit": sys.exit(3)
                if message == "stop": raise KeyboardInterrupt
                return "alive"
            """
            with source(code) as agent:
                status, answer = agent.invoke("exit")
                self.assertEqual((status, answer["error"], answer["code"]), (500, "SystemExit: 3", "agent_error"))
                self.assertEqual(agent.invoke("stop")[1]["error"], "KeyboardInterrupt")
                self.assertEqual(agent.response(), "alive")
                self.assertNotIn("hoistway_runner", agent.stderr())

    def test_strange_exceptions(self):
        with source("class E(Exception):\n  def __str__(self): raise ValueError\ndef handler(): raise E()") as agent:
            self.assertEqual(agent.invoke()[1]["error"], "agent.E: <exception str() failed>")

    def test_an_object_that_raises_when_it_is_looked_at(self):
        code = """
        class Proxy:
            def __getattr__(self, name): raise RuntimeError("outside of a request") if name.startswith("__") else AttributeError(name, obj=self)
        def handler(message): return Proxy().x
        """
        with source(textwrap.dedent(code)) as agent:
            self.assertEqual(agent.invoke()[1]["error"], "AttributeError: x")

    def test_details_are_bounded(self):
        with source("def handler(r):\n  raise ValueError('\\n'.join(map(str, range(100))))") as agent:
            _, answer = agent.invoke()
            self.assertEqual((len(answer["details"]), answer["details"][-1]), (20, "99"))
            self.assertTrue(answer["error"].startswith("ValueError: 0\n1"))

    def test_secrets_are_masked_in_errors(self):
        secret = 'a"\'b\nc-s3cr3t'
        code = "import os\ndef handler(r): raise KeyError(os.environ['KEY'] + ' and ' + os.environ['LONG'])"
        with source(code, env={"KEY": secret, "LONG": "pass-word"}, config={"mask": [secret, "pass", "pass-word", ""]}) as agent:
            _, answer = agent.invoke()
            self.assertEqual(answer["error"], "KeyError: '******** and ********'")
            self.assertNotIn("s3cr3t", json.dumps(answer) + agent.stderr())
            self.assertEqual(agent.stream()[0]["message"], "KeyError: '******** and ********'")

    def test_secrets_are_masked_as_urls_and_pages_write_them(self):
        code = "import html, urllib.parse\ndef handler(message):\n    raise ValueError(urllib.parse.quote(message, safe=\"!$&'()*+,/:;=?@\") " \
               "+ html.escape(message))"
        with source(code, config={"mask": ["sunny <day>+1/2"]}) as agent:
            self.assertEqual(agent.invoke("sunny <day>+1/2")[1]["error"], "ValueError: ****************")

    def test_wrong_requests(self):
        with source("def handler(message): return 1") as agent:
            for body, text in ((b"{}", "message is required"), (b'{"message": ""}', "message is required"), (b"", "message is required"),
                               (b'{"message": null}', "message is required"), (b'{"message": 5}', "message must be a string"),
                               (b"{nope", "invalid JSON body"), (b"[1]", "must be a JSON object"), (b"\xff", "invalid JSON body"),
                               (b"[" * 200_000, "invalid JSON body")):
                for path in ("/invoke", "/invoke/stream"):
                    status, answer, _ = agent.request("POST", path, body)
                    self.assertEqual((status, answer["code"]), (400, "invalid_argument"), body[:20])
                    self.assertIn(text, answer["error"])
            for method, path, want in (("GET", "/nothing", 404), ("GET", "/invoke", 405), ("POST", "/healthz", 405)):
                self.assertEqual(agent.request(method, path)[0], want)
            for head, want in ((b"POST /invoke HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", b" 400 "),
                               (b"POST /invoke HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b" 411 "),
                               (b"POST /invoke HTTP/1.1\r\nHost: a\r\nContent-Length: 33554433\r\n\r\n", b" 413 "),
                               (b"nonsense\r\n\r\n", b" 400 "), (b"GET /" + b"a" * 70_000, b" 431 "),
                               (b"GET /healthz HTTP/1.0\r\n\r\n", b" 200 "), (b"GET /healthz HTTP/1.1\r\n\r\n", b" 400 "),
                               (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", b" 400 "),
                               (b"GET /healthz HTTP/1.1\r\nHost: a\n\r\n", b" 400 "), (b"GET /healthz HTTP/1.1\nHost: a\r\n\r\n", b" 400 ")):
                peer = socket.create_connection(("127.0.0.1", agent.port), WAIT)
                peer.sendall(head)
                peer.shutdown(socket.SHUT_WR)
                self.assertIn(want, read_all(peer).split(b"\r\n")[0], head[:50])

    def test_a_refused_upload_reads_its_answer(self):
        with source("def handler(m): return 1") as agent:
            status, answer, _ = agent.request("POST", "/invoke", b"a" * (33 << 20))
            self.assertEqual((status, answer["code"]), (413, "payload_too_large"))

    def test_large_bodies_pass(self):
        with source("def handler(message): return message") as agent:
            self.assertEqual(len(agent.response("a" * (20 << 20))), 20 << 20)

    def test_expect_continue(self):
        with source("def handler(message): return message") as agent:
            peer = socket.create_connection(("127.0.0.1", agent.port), WAIT)
            peer.sendall(b"POST /invoke HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 16\r\n\r\n")
            self.assertEqual(peer.recv(99), b"HTTP/1.1 100 Continue\r\n\r\n")
            peer.sendall(b'{"message": "x"}')
            self.assertIn(b'"response": "x"', read_all(peer))

    def test_token(self):
        with source("def handler(m): return 1", config={"token": "t0ken"}) as agent:
            for headers in ({}, {"X-Hoistway-Invoke-Token": "wrong"}, {"X-Hoistway-Invoke-Token": "t0ke\xf1"}):
                status, answer = agent.invoke(headers=headers)
                self.assertEqual((status, answer["code"]), (403, "permission_denied"))
                self.assertEqual(agent.request("POST", "/invoke/stream", "{}", headers)[0], 403)
            self.assertEqual(agent.invoke(headers={"X-Hoistway-Invoke-Token": "t0ken"})[0], 200)
            self.assertEqual(agent.request("GET", "/healthz")[:2], (200, {"status": "ok", "agent": "tested"}))
            self.assertEqual(agent.request("GET", "/readyz")[:2], (200, {"status": "ready"}))


class Serving(unittest.TestCase):
    """Streams, concurrency, and the obligations to the supervisor."""

    def test_generators(self):
        for code in ("def handler(m):\n  yield 'a'\n  yield b'b'\n  yield 'c'",
                     "async def handler(m):\n  for c in 'abc': yield c",
                     "async def f():\n  for c in 'abc': yield c\nasync def handler(m): return f()",
                     "class M:\n  def __init__(self, c): self.content = c\n"
                     "def handler(m): return map(M, ['a', [{'text': 'b'}], 'c'])"):
            with self.subTest(code), source(code) as agent:
                self.assertEqual(agent.response(), "abc")
                events = agent.stream()
                self.assertEqual([e.get("delta") for e in events[:3]], ["a", "b", "c"])
                self.assertEqual((events[3]["type"], events[4]), ("done", "[DONE]"))

    def test_stream_of_a_plain_answer(self):
        with source("def handler(r, c): return {'response': r['message'], 'extra': 7}", env={"LLM_MODEL": "m"}) as agent:
            content, done, end = agent.stream("hé")
            self.assertEqual((content, end), ({"type": "content", "delta": "hé"}, "[DONE]"))
            self.assertEqual((done["type"], done["model"], done["tool_calls_made"], done["extra"]), ("done", "m", [], 7))

    def test_stream_that_fails(self):
        for head in ("def", "async def"):
            with source(f"{head} handler(m):\n  yield 'a'\n  raise ValueError('late')") as agent:
                content, error, end = agent.stream()
                self.assertEqual((content["delta"], end), ("a", "[DONE]"))
                self.assertEqual(len(error.pop("request_id")), 32)
                self.assertEqual(error, {"type": "error", "message": "ValueError: late", "code": "agent_error"})
                for header, told in (("X-Request-Id: my-id\r\n", b'"request_id": "my-id"'), ("", b'"request_id": "body-id"')):
                    body = b'{"message": "x", "request_id": "body-id"}'
                    peer = socket.create_connection(("127.0.0.1", agent.port), WAIT)
                    peer.sendall(f"POST /invoke/stream HTTP/1.1\r\nHost: a\r\n{header}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                    answer = read_all(peer)
                    self.assertIn(told, answer)
                    self.assertIn(b"\r\nTrailer: X-Hoistway-Outcome\r\n", answer)
                    self.assertTrue(answer.endswith(b"\r\n0\r\nX-Hoistway-Outcome: agent_error\r\n\r\n"), answer)

    def test_a_whole_stream_says_so_at_its_end(self):
        with source("def handler(m): return 1") as agent:
            for version, end in (("1.1", b"\r\n0\r\nX-Hoistway-Outcome: ok\r\n\r\n"), ("1.0", b"data: [DONE]\n\n")):
                peer = socket.create_connection(("127.0.0.1", agent.port), WAIT)
                peer.sendall(b'POST /invoke/stream HTTP/%b\r\nHost: a\r\nContent-Length: 16\r\n\r\n{"message": "x"}' % version.encode())
                self.assertTrue(read_all(peer).endswith(end))

    def test_pieces_arrive_at_once_and_a_lost_client_stops_the_agent(self):
        code = """
        import asyncio, os
        def note(text):
            with open(os.environ["TMPDIR"] + "/state", "w") as file: file.write(text)
        %s handler(m):
            note("begun")
            try:
                while True:
                    yield "piece"
                    %s
            finally:
                note("stopped")
        """
        for head, pause in (("def", "pass"), ("async def", "await asyncio.sleep(0.001)")):
            with self.subTest(head), source(code % (head, pause)) as agent:
                peer = socket.create_connection(("127.0.0.1", agent.port), WAIT)
                peer.sendall(b'POST /invoke/stream HTTP/1.1\r\nHost: a\r\nContent-Length: 16\r\n\r\n{"message": "x"}')
                got = b""
                while got.count(b"piece") < 3:
                    got += peer.recv(4096)
                peer.close()
                until(lambda: agent.read("state") == "stopped")
                self.assertEqual(agent.terminate(), 0)
                self.assertEqual(agent.stderr(), "")

    def test_connections_without_the_token_keep_nobody_out(self):
        code = """
        import os, time
        def handler(message):
            if message == "slow":
                with open(os.environ["TMPDIR"] + "/state", "w") as file: file.write("begun")
                time.sleep(1)
            return "answered"
        """
        token = {"X-Hoistway-Invoke-Token": "t"}
        with source(code, config={"token": "t"}) as agent, concurrent.futures.ThreadPoolExecutor(1) as pool:
            slow = pool.submit(agent.invoke, "slow", token)
            until(lambda: os.path.exists(os.path.join(agent.dir.name, "state")))
            silent = [socket.create_connection(("127.0.0.1", agent.port), WAIT) for _ in range(300)]
            begun = time.monotonic()
            self.assertEqual(agent.invoke("x", token)[1]["response"], "answered")
            self.assertLess(time.monotonic() - begun, 4, "it need not wait for them to be silent for too long")
            self.assertEqual(silent[0].recv(1), b"", "the oldest is closed")
            self.assertEqual(slow.result()[1]["response"], "answered", "who has shown it is not")
            for peer in silent:
                peer.close()

    def test_one_event_loop(self):
        code = """
        import asyncio
        seen = []
        async def handler(message):
            seen.append(id(asyncio.get_running_loop()))
            await asyncio.sleep(0)
            return len(set(seen))
        """
        with source(code) as agent:
            self.assertEqual([agent.response() for _ in range(3)], [1, 1, 1])

    def test_one_task_drives_an_async_generator(self):
        code = """
        import asyncio
        async def handler(message):
            task = asyncio.current_task()
            for _ in range(3):
                yield str(task is asyncio.current_task())
                await asyncio.sleep(0)
        """
        with source(code) as agent:
            self.assertEqual(agent.response(), "TrueTrueTrue")

    def test_a_task_that_exits_does_not_end_the_loop(self):
        code = """
        import asyncio, sys
        async def leave(): sys.exit(1)
        async def handler(message):
            task = asyncio.ensure_future(leave())
            await asyncio.sleep(0.05)
            return 'alive'
        """
        with source(code) as agent:
            self.assertEqual([agent.response(), agent.response()], ["alive", "alive"])

    def test_a_stopped_event_loop_goes_on(self):
        code = """
        import asyncio
        async def handler(message):
            asyncio.get_running_loop().stop()
            await asyncio.sleep(0.01)
            return "answered"
        """
        with source(code) as agent:
            self.assertEqual([agent.response(), agent.response()], ["answered", "answered"])
            self.assertEqual((agent.terminate(), agent.stderr()), (0, ""))
        code = """
        import asyncio
        async def handler(message):
            for piece in "abc":
                asyncio.get_running_loop().stop()
                yield piece
        """
        with source(code) as agent:
            self.assertEqual([agent.response(), agent.response()], ["abc", "abc"])

    def test_a_broken_event_loop_ends_the_process(self):
        code = """
        import asyncio, os
        async def handler(message):
            os.close(asyncio.get_running_loop()._selector.fileno())
            await asyncio.sleep(60)
        """
        with source(code) as agent:
            self.assertEqual(read_all(agent.connect()), b"")
            self.assertEqual(agent.process.wait(WAIT), 1)
            self.assertIn("the agent cannot go on: its event loop broke: OSError", agent.stderr())

    def test_closing_the_runners_descriptors_ends_the_process(self):
        for head in ("def", "async def"):
            code = f"""
            import os
            {head} handler(message):
                os.closerange(3, 200)
                return "never seen"
            """
            with self.subTest(head), source(code) as agent:
                self.assertEqual(read_all(agent.connect()), b"")
                self.assertEqual(agent.process.wait(WAIT), 1)
                self.assertIn("the agent cannot go on: ", agent.stderr())
        code = """
        import os, stat
        def handler(message):
            for fd in range(3, 200):  # the listening socket is the first
                try:
                    if stat.S_ISSOCK(os.fstat(fd).st_mode):
                        return os.close(fd)
                except OSError:
                    pass
        """
        with source(code) as agent:
            # The runner notices it when it waits for connections again: before or after this answer, or at the next one.
            with contextlib.suppress(ConnectionError):
                agent.response()
                read_all(agent.connect())
            self.assertEqual(agent.process.wait(WAIT), 1)
            self.assertIn("its listening socket is gone (Bad file descriptor)", agent.stderr())

    def test_a_shortage_of_descriptors_passes(self):
        code = """
        import os, resource
        taken = []
        def handler(message):
            if message == "take":
                resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
                try:
                    while True: taken.append(os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    pass
            return len(taken) > 9
        """
        with source(code) as agent:
            self.assertTrue(agent.response("take"))
            peers = [agent.connect() for _ in range(4)]
            self.assertEqual([b" 200 OK" in read_all(peer) for peer in peers], [True] * 4)
            self.assertIsNone(agent.process.poll())

    def test_concurrent_invokes_and_too_many(self):
        with source(GATE) as agent:
            peers = [agent.connect() for _ in range(64)]
            until(lambda: agent.stdout().count("in") == 64)
            status, answer, headers = agent.request("POST", "/invoke", b'{"message": "x"}')
            self.assertEqual((status, answer["code"], headers["Retry-After"]), (503, "unavailable", "1"))
            self.assertEqual(agent.request("GET", "/healthz")[0], 200)
            agent.open_gate()
            self.assertEqual([b" 200 OK" in read_all(peer) for peer in peers], [True] * 64)
            self.assertEqual(agent.response(), "x")

    def test_prints_are_seen_at_once(self):
        code = r"""
        import sys
        print("importing")
        def handler(message):
            print("hé", message, "\ud800")
            print("err", file=sys.stderr)
            return 1
        """
        with source(code) as agent:
            self.assertEqual(agent.stdout(), "importing\n")
            self.assertEqual(agent.response(), 1)
            self.assertEqual((agent.stdout(), agent.stderr()), ("importing\nhé x \\ud800\n", "err\n"))

    def test_prints_without_a_newline_are_seen_after_each_invoke(self):
        code = """
        import sys
        print("importing", end=" ")
        def handler(message):
            print("out", end=" ")
            print("err", end=" ", file=sys.stderr)
            if message == "close": sys.stdout.close()
        """
        with source(code) as agent:
            self.assertEqual(agent.stdout(), "importing ")
            agent.response()
            until(lambda: (agent.stdout(), agent.stderr()) == ("importing out ", "err "))
            agent.stream()
            until(lambda: (agent.stdout(), agent.stderr()) == ("importing out out ", "err err "))
            agent.response("close")
            self.assertIn("closed file", agent.invoke()[1]["error"])

    def test_descriptors_are_not_inherited(self):
        code = """
        import subprocess, sys
        def handler():
            listing = "import os; print(sorted(os.listdir('/proc/self/fd')))"
            return subprocess.check_output([sys.executable, "-c", listing], close_fds=False, text=True)
        """
        with source(code) as agent:
            self.assertEqual(agent.response().strip(), "['0', '1', '2', '3']")

    def test_drain_answers_whoever_has_connected(self):
        with source("import time\ndef handler(message):\n  time.sleep(0.05)\n  return message") as agent:
            agent.process.send_signal(signal.SIGSTOP)  # so that the connections stay in the kernel's queue
            peers = [agent.connect(f"m{n}") for n in range(100)]
            agent.process.send_signal(signal.SIGTERM)
            agent.process.send_signal(signal.SIGCONT)
            answers = [read_all(peer) for peer in peers]
            self.assertEqual(agent.process.wait(WAIT), 0)
            for n, answer in enumerate(answers):
                self.assertTrue(b" 200 " in answer and b'"m%d"' % n in answer or b" 503 " in answer, answer)
            self.assertGreaterEqual(sum(b" 200 " in a for a in answers), 64)
            self.assertTrue(agent.refuses())

    def test_drain_finishes_what_is_in_flight(self):
        with source(GATE) as agent:
            peer = agent.connect("late")
            until(lambda: "in" in agent.stdout())
            agent.process.send_signal(signal.SIGTERM)
            until(agent.refuses)
            self.assertIsNone(agent.process.poll())
            agent.open_gate()
            self.assertIn(b'"late"', read_all(peer))
            self.assertEqual(agent.process.wait(WAIT), 0)

    def test_drain_ends_threads_tasks_and_runs_exit_hooks(self):
        code = """
        import asyncio, atexit, signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        atexit.register(print, "exit hook")
        async def background():
            try:
                await asyncio.sleep(600)
            finally:
                print("task cleaned up")
        tasks = []
        async def handler():
            tasks.append(asyncio.ensure_future(background()))
            await asyncio.sleep(0)
        """
        with source(code) as agent:
            agent.response()
            self.assertEqual(agent.terminate(), 0)
            self.assertEqual(agent.stdout(), "task cleaned up\nexit hook\n")
            self.assertEqual(agent.stderr(), "")

    def test_threads_that_never_end_do_not_hold_the_exit(self):
        with source("import threading, time\ndef handler(): threading.Thread(target=time.sleep, args=(600,)).start()") as agent:
            agent.response()
            self.assertEqual(agent.terminate(), 0)

    def test_a_crash_is_told_in_the_log(self):
        with source("import ctypes\ndef handler(): ctypes.string_at(0)") as agent:
            self.assertEqual(read_all(agent.connect()), b"")
            self.assertEqual(agent.process.wait(WAIT), -signal.SIGSEGV)
            self.assertIn("Fatal Python error: Segmentation fault", agent.stderr())


if __name__ == "__main__":
    unittest.main()
