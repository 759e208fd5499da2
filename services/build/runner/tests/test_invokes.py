"""The context of an invoke, the pieces of its answer, and the remedies in its errors."""

import concurrent.futures
import time
import unittest

from _hoistway_runner.results import Data, pieces, whole
from test_runner import Agent, source, until


class Contexts(unittest.TestCase):
    """An invoke has the context of the import and an event loop, each of its own."""

    VARIABLE = "import contextvars\nuser = contextvars.ContextVar('user')\nuser.set('root')\n"

    def test_context_variables_of_the_import(self):
        for handler in ("def handler(message):\n  before = user.get()\n  user.set(message)\n  return before",
                        "async def handler(message):\n  before = user.get()\n  user.set(message)\n  return before",
                        "def handler(message):\n  yield user.get()\n  user.set(message)",
                        "async def handler(message):\n  yield user.get()\n  user.set(message)"):
            with self.subTest(handler), source(self.VARIABLE + handler) as agent:
                self.assertEqual([agent.response("a"), agent.response("b")], ["root", "root"])
        with source("import decimal\ndecimal.getcontext().prec = 5\ndef handler(): return decimal.Decimal(1) / 3") as agent:
            self.assertEqual(agent.response(), "0.33333")

    def test_plain_handlers_have_an_event_loop(self):
        code = """
        import asyncio, os
        async def work(text):
            await asyncio.sleep(0)
            return text.upper()
        def handler(message):
            loop = asyncio.get_event_loop()
            future = asyncio.Future()
            future.set_result(message)
            return [loop.run_until_complete(work(message)), loop.run_until_complete(future), len(os.listdir("/proc/self/fd"))]
        """
        with source(code) as agent:
            first = agent.response("a")
            self.assertEqual(first[:2], ["A", "a"])
            # Those of the last invokes may still be open, for a moment.
            counts = [agent.response("a")[2] for _ in range(60)]
            self.assertLess(min(counts[-10:]), first[2] + 30, "descriptors do not pile up")
        code = "import asyncio\nasync def work(): return 'a'\ndef handler(message):\n  yield asyncio.get_event_loop().run_until_complete(work())"
        with source(code) as agent:
            self.assertEqual((agent.response(), agent.stream()[0]["delta"]), ("a", "a"))
        code = "import asyncio\nasync def work(): return 'a'\ndef handler(message): return asyncio.run(work())"
        with source(code) as agent:
            self.assertEqual([agent.response(), agent.response()], ["a", "a"])

    def test_an_answer_does_not_wait_for_others_that_block_the_loop(self):
        code = "import time\nasync def handler(message):\n  time.sleep(0.5)\n  return message"
        with source(code) as agent, concurrent.futures.ThreadPoolExecutor(4) as callers:
            begun = time.monotonic()

            def call(message):
                agent.response(message)
                return time.monotonic() - begun

            times = sorted(callers.map(call, "abcd"))
            self.assertLess(times[0], 1, "the first one is answered while the second one runs")
            self.assertLess(times[2], times[3] - 0.3)


class Remedies(unittest.TestCase):
    """Errors that result from the agents' environment have a remedy."""

    def test_the_last_line_says_what_to_do(self):
        for code, error, remedy in (
                ("import sqlite3\ndb = sqlite3.connect(':memory:')\ndef handler(): db.execute('select 1')", "sqlite3.ProgrammingError: ",
                 "check_same_thread=False"),
                ("import threading\nstate = threading.local()\nstate.a = 1\ndef handler(): return state.a", "AttributeError: ", "contextvars.ContextVar"),
                ("import asyncio\nloop = asyncio.new_event_loop()\nloop.close()\ndef handler(): loop.run_until_complete(None)",
                 "RuntimeError: Event loop is closed", "event loop"),
                ("def handler(): import nosuch.module", "ModuleNotFoundError: ", "has the module nosuch: name its package"),
                ("import os\ndef handler(): return os.environ['NO_SUCH_KEY']", "KeyError: 'NO_SUCH_KEY'", "NO_SUCH_KEY is not set"),
                ("import sqlite3\ndb = sqlite3.connect(':memory:')\ndef handler():\n  try: db.execute('select 1')\n  except sqlite3.Error as e: raise LookupError('store') from e",
                 "LookupError: store", "check_same_thread=False"),
                ("import asyncio\nasync def f(): pass\nasync def handler(): asyncio.run(f())", "RuntimeError: ", "make the handler a plain def"),
                ("import signal\ndef handler(): signal.signal(signal.SIGALRM, print)", "ValueError: signal only works", "set a handler when the file is imported"),
                ("import os\ndef handler(): raise OSError(18, 'Invalid cross-device link')", "OSError: ", "shutil.move"),
                ("import os\ndef handler(): raise OSError(28, 'No space left on device')", "OSError: ", "HOISTWAY_AGENT_LIMITS__DISK"),
                ("import socket\ndef handler(): raise socket.gaierror(-2, 'Name or service not known')", "socket.gaierror: ", "required_tools"),
                ("import socket, os\ndef handler():\n  s = socket.create_server(('127.0.0.1', 0))\n  socket.socket().bind(s.getsockname())", "OSError: ", "needs no port"),
                ("def handler(): raise RuntimeError(\"can't start new thread\")", "RuntimeError: ", "HOISTWAY_AGENT_LIMITS__PROCESSES"),
                ("def handler(): open('data/none.csv')", "FileNotFoundError: ", "root of the source"),
                ("import subprocess\ndef handler(): subprocess.run(['nosuchprogram'])", "FileNotFoundError: ", "no program nosuchprogram"),
                ("import subprocess\ndef handler(): subprocess.run('kill -9 $$', shell=True, check=True)", "subprocess.CalledProcessError: ", "where memory runs out"),
                ("import os, signal\nfrom concurrent.futures import ProcessPoolExecutor\ndef die(): os.kill(os.getpid(), signal.SIGKILL)\n"
                 "def handler():\n  with ProcessPoolExecutor(1) as pool: pool.submit(die).result()", "concurrent.futures.process.BrokenProcessPool: ", "where memory runs out"),
                ("import socket\nclass Socket(socket.socket):\n  def __init__(self, family): raise PermissionError(1, 'Operation not permitted')\n"
                 "def handler(): Socket(socket.AF_UNIX)", "PermissionError: ", "multiprocessing.get_context('spawn')"),
                ("import multiprocessing.managers as m, os\nclass Gone(m.SyncManager):\n  @classmethod\n  def _run_server(cls, *_): os._exit(1)\n"
                 "def handler(): Gone(ctx=m.get_context('fork')).start()", "EOFError", "not by a Manager"),
                ("def handler(): bytes(1 << 60)", "MemoryError", "HOISTWAY_AGENT_LIMITS__MEMORY")):
            with self.subTest(code), source(code, config={"closed_network": True}) as agent:
                status, answer = agent.invoke()
                self.assertEqual(status, 500)
                self.assertTrue(answer["error"].startswith(error), answer)
                self.assertIn(remedy, answer["details"][-1])
                self.assertTrue(agent.stderr().endswith(answer["details"][-1] + "\n"))


    def test_a_start_that_fails_says_it_too(self):
        for files, want in (({"agent.py": "import colorsys\ncolorsys.rgb_to_hsv(1, 2, 3)\ndef handler(m): pass", "colorsys.py": ""}, "colorsys.py of the agent has the name of a package"),
                            ({"agent.py": "from openai import Client", "openai.py": ""}, "openai.py of the agent has the name of a package"),
                            ({"agent.py": "from types import Order", "types.py": "class Order: pass"}, "types.py of the agent has the name of a standard module"),
                            ({"agent.py": "input('name? ')\ndef handler(m): pass"}, "input() reads the message while a handler")):
            with self.subTest(want), Agent(files, sites={"site/openai/__init__.py": ""}) as agent:
                self.assertEqual(agent.event["event"], "failed")
                self.assertIn(want, agent.stderr())
        with Agent({"agent.py": "from own import nothing", "own.py": ""}) as agent:
            self.assertNotIn("rename it", agent.stderr())

    def test_what_a_web_framework_keeps_to_itself_is_told(self):
        flask = """
        class Signal:
            def connect(self, receiver, weak): self.send = receiver
        got_request_exception = Signal()
        """
        code = """
        import flask
        def app(environ, start_response):
            try: raise OSError(28, "No space left on device")
            except OSError as error: flask.got_request_exception.send(None, exception=error)
            start_response("500 Internal Server Error", [])
            return [b"a page"]
        """
        with Agent({"agent.py": code}, sites={"site/flask.py": flask}) as agent:
            status, answer = agent.invoke()
            self.assertEqual((status, answer["error"]), (500, "OSError: [Errno 28] No space left on device"))
            self.assertIn("HOISTWAY_AGENT_LIMITS__DISK", answer["details"][-1])


class Pieces(unittest.TestCase):
    """The values that handlers yield."""

    def test_bytes_are_decoded_across_pieces(self):
        self.assertEqual(whole(iter([b"caf\xc3", b"\xa9 ok"])), "café ok")
        self.assertEqual(whole(iter([bytearray(b"caf\xc3"), None, memoryview(b"\xa9 ok")])), "café ok")
        self.assertEqual(whole(iter([b"caf\xc3"])), "caf\ufffd")
        self.assertEqual(whole(iter([b"caf\xc3", "|", b"\xa9"])), "caf\ufffd|\ufffd")
        for head in ("def", "async def"):
            with source(f"{head} handler(message):\n  yield b'caf\\xc3'\n  yield b'\\xa9 ok'") as agent:
                self.assertEqual(agent.response(), "café ok")
                self.assertEqual("".join(event["delta"] for event in agent.stream()[:-2]), "café ok")

    def test_objects_stay_objects(self):
        for yielded, want in (([{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 2}]), ([[1, 2], [3]], [[1, 2], [3]]), ([1, 2], [1, 2]),
                              (["x", "y", {"a": {1}}, "z"], ["xy", {"a": [1]}, "z"]), (["a", None, "", "b"], "ab"), ([], ""), ([None], ""),
                              ([(1, 2)], [[1, 2]]), ([True], [True])):
            self.assertEqual(whole(iter(yielded)), want)
        with source("def handler(message): return map(str.upper, message.split())") as agent:
            self.assertEqual(agent.response("a b"), ["A", "B"])
        self.assertEqual(whole(map({"a": 1}.get, "aba")), [1, None, 1])
        self.assertEqual(whole(filter(None, [])), [])
        self.assertEqual([type(piece) for piece in pieces(iter(["a", {}]))], [str, Data])

    def test_message_chunks_are_texts(self):
        class Chunk:
            def __init__(self, content):
                self.content = content

        class Model(Chunk):
            def model_dump(self, mode="python"):
                return {"content": self.content}

        self.assertEqual(whole(map(Chunk, ["a", [{"text": "b"}], "c"])), "abc")
        self.assertEqual(whole(map(Model, ["a"])), [{"content": "a"}])
        Model.__module__ = "langchain_core.messages.ai"
        self.assertEqual(whole(map(Model, ["a"])), "a")

    def test_a_stream_has_an_event_for_each_object(self):
        for head in ("def", "async def"):
            with self.subTest(head), source(f"{head} handler(message):\n  yield 'text'\n  yield {{'type': 'done', 'x': 1}}\n  yield [2]") as agent:
                events = agent.stream()
                self.assertEqual(events[:3], [{"type": "content", "delta": "text"}, {"type": "done", "x": 1}, [2]])
                self.assertEqual((events[3]["type"], events[4]), ("done", "[DONE]"))
                self.assertEqual(agent.response(), ["text", {"type": "done", "x": 1}, [2]])

    def test_one_that_is_no_data_is_an_error(self):
        with source("def handler(message):\n  yield {'a': 1}\n  yield {'a': object()}") as agent:
            self.assertEqual(agent.invoke()[1]["error"], "the type object is no data, at response[1].a")
            first, error, _ = agent.stream()
            self.assertEqual((first, error["message"]), ({"a": 1}, "the type object is no data, at response[1].a"))


class Ends(unittest.TestCase):
    """The agent's own handler of SIGTERM runs when all requests are answered."""

    def test_it_runs_after_the_drain_and_before_the_exit_hooks(self):
        code = """
        import atexit, signal, sys, time
        atexit.register(lambda: print("exit hook"))
        def term(number, frame):
            print("term", number)
            sys.exit(3)
        signal.signal(signal.SIGTERM, term)
        def handler(message):
            print("in")
            time.sleep(0.3)
            print("out")
            return "answered"
        """
        with source(code) as agent:
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                answer = pool.submit(agent.response)
                until(lambda: "in" in agent.stdout())
                self.assertEqual((agent.terminate(), answer.result()), (0, "answered"))
            self.assertEqual(agent.stdout(), "in\nout\nterm 15\nexit hook\n")

    def test_one_that_fails_or_hangs_does_not_hold_the_end(self):
        with source("import signal\ndef term(*_): raise ValueError('late')\nsignal.signal(signal.SIGTERM, term)\ndef run(): pass") as agent:
            self.assertEqual(agent.terminate(), 0)
            self.assertIn("ValueError: late", agent.stderr())
        with source("import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: time.sleep(600))\ndef run(): pass") as agent:
            self.assertEqual(agent.terminate(), 0)
