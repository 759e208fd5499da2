"""Ordinary programs: code that works without the platform also works with it."""

import os
import tempfile
import textwrap
import unittest

from test_runner import Agent, source, until


class Scripts(unittest.TestCase):
    """Scripts write as on a terminal."""

    def test_output_is_in_order_and_nothing_of_it_is_lost(self):
        with source("import subprocess\nprint('first')\nsubprocess.run(['echo', 'second'])\nprint('third')") as agent:
            self.assertEqual(agent.response(), "first\nsecond\nthird")
        with source("import os\nprint('answer')\nos._exit(0)") as agent:
            self.assertEqual(agent.response(), "answer")
        with source("import sys\nprint(sys.stdout.mode)") as agent:
            self.assertEqual(agent.response(), "w")

    def test_each_line_is_sent_when_it_is_printed(self):
        code = "import os, time\nprint('first')\nwhile not os.path.exists('GO'): time.sleep(0.01)\nprint('second')"
        with tempfile.TemporaryDirectory() as directory:
            go = os.path.join(directory, "go")
            with source(code.replace("GO", go)) as agent, agent.connect("x", "/invoke/stream") as peer:
                got = b""
                while b"first" not in got:
                    got += peer.recv(1 << 10)
                open(go, "w").close()
                while b"second" not in got:
                    got += peer.recv(1 << 10)

    def test_a_stdin_of_the_programs_own_is_read(self):
        code = "import io, sys\nsys.stdin = io.StringIO('from the agent')\n"
        for form in ("def handler(message): return input()", "print(input())"):
            with source(code + form) as agent:
                self.assertEqual(agent.response("x"), "from the agent", form)


class Functions(unittest.TestCase):
    """Functions receive the arguments that they request."""

    def answers(self, code, want, files=None, headers=None, **body):
        with self.subTest(code), Agent({"agent.py": textwrap.dedent(code), **(files or {})}) as agent:
            self.assertEqual(agent.event, {"event": "ready"}, agent.stderr())
            status, answer = agent.invoke("hi", headers=headers, **body)
            self.assertEqual((status, answer.get("response")), (200, want), answer)

    def test_a_main_block_beside_a_function_of_the_request_is_another_way_to_it(self):
        guard = "\nif __name__ == '__main__':\n    import sys\n    print(main({'message': sys.argv[1]}))\n"
        for parameter in ("payload", "request: dict", "event: dict[str, str]"):
            name = parameter.split(":")[0]
            self.answers(f"def main({parameter}): return {name}['n']{guard}", 3, n=3)

    def test_models_learn_who_asks(self):
        code = "from dataclasses import dataclass\n@dataclass\nclass Asked:\n    message: str\n    user_id: str\n" \
               "def handler(asked: Asked): return asked.user_id"
        self.answers(code, "ann", headers={"X-End-User-ID": "ann"})

    def test_a_parameter_or_member_user_id_gets_the_bodys_where_nobody_is_verified(self):
        model = "from dataclasses import dataclass\n@dataclass\nclass Asked:\n    message: str\n    user_id: str = 'anon'\n"
        for code in ("def handler(message, *, user_id: str): return user_id", "def handler(message, user_id='anon'): return user_id",
                     "def handler(message, **rest): return rest.get('user_id', 'ann')  # what is left of the body", model + "def handler(asked: Asked): return asked.user_id"):
            self.answers(code, "bob", user_id="bob")
            self.answers(code, "ann", headers={"X-End-User-ID": "ann"}, user_id="bob")
        self.answers(model + "def handler(asked: Asked = None): return asked.user_id", "anon")
        self.answers("def handler(request, context, user_id): return [request.get('user_id'), context.session.get('user_id'), user_id]",
                     [None, None, "bob"], user_id="bob")
        self.answers("import os, sys\nsys.argv\nprint([os.environ['AGENT_USER_ID']])", "['']", user_id="bob")
        with source("def handler(message, user_id: str): return user_id") as agent:
            self.assertEqual(agent.invoke()[1]["error"], "user_id is required")

    def test_the_second_parameter_may_be_anything(self):
        self.answers("from typing import Any\ndef handler(request: dict, ctx: Any): return type(ctx).__name__", "RunContext")

    def test_a_handler_may_import_asyncio_itself(self):
        self.answers("def handler(message):\n    import asyncio\n    return asyncio.get_event_loop().run_until_complete("
                     "asyncio.sleep(0, 'done'))", "done")

    def test_yielded_members_of_an_enum_are_their_values(self):
        self.answers("from enum import Enum\nclass Kind(str, Enum):\n    A = 'a'\ndef handler(message):\n    yield Kind.A", "a")


class Sources(unittest.TestCase):
    """Directories of a project do not hide the standard library, and a module is one."""

    def test_a_module_below_src_does_not_hide_the_standard_librarys(self):
        files = {"agent.py": "from src.logging import LEVEL\nimport asyncio\nasync def handler(message): return LEVEL",
                 "src/logging.py": "LEVEL = 'debug'\n"}
        with Agent(files) as agent:
            self.assertEqual(agent.response(), "debug", agent.stderr())

    def test_an_entry_that_says_src_is_one_module_with_what_others_import(self):
        files = {"src/shop/__init__.py": "", "src/shop/tools.py": "registry = []\n",
                 "src/shop/plugin.py": "from src.shop.tools import registry\nregistry.append('p')\n",
                 "src/shop/main.py": "from .tools import registry\nimport src.shop.plugin\ndef handler(message): return registry\n"}
        with Agent(files, entry="src/shop/main.py") as agent:
            self.assertEqual(agent.response(), ["p"], agent.stderr())
        with Agent({"src.py": "def handler(message): return 1", "src/x.py": ""}, entry="src.py") as agent:
            self.assertEqual(agent.response(), 1, agent.stderr())


class WebObjects(unittest.TestCase):
    """Objects that only resemble a web application are none."""

    def test_helpers_and_proxies_beside_an_application_are_none(self):
        code = """
        def setting(env, key): return env.get(key)
        class Proxy:
            def __getattribute__(self, name): raise RuntimeError("outside of a request")
            def __call__(self, environ, start_response): pass
        proxy = Proxy()
        def server(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"served"]
        """
        with source(textwrap.dedent(code)) as agent:
            self.assertEqual(agent.event, {"event": "ready"}, agent.stderr())
            self.assertEqual(agent.response(), "served")

    def test_an_answer_is_read_in_the_encoding_that_it_declares(self):
        for declared, data in (("; charset=latin-1", b"caf\xe9"), ('; charset="utf-16"', "café".encode("utf-16")), ("", b"caf\xc3\xa9"),
                               ("; charset=unheard-of", b"caf\xc3\xa9"), ("; charset=zlib", b"caf\xc3\xa9")):
            code = f"""
            def server(environ, start_response):
                start_response("200 OK", [("Content-Type", 'text/plain{declared}')])
                return [{data!r}]
            """
            with self.subTest(declared), source(textwrap.dedent(code)) as agent:
                self.assertEqual(agent.response(), "café")

    def test_an_application_that_answers_at_the_root_is_cancelled_as_well(self):
        code = """
        import asyncio
        async def app(scope, receive, send):
            if scope["type"] == "lifespan": raise RuntimeError
            found = scope["path"] == "/"
            await send({"type": "http.response.start", "status": 200 if found else 404, "headers": []})
            try:
                while found:
                    await send({"type": "http.response.body", "body": b"tick", "more_body": True})
                    await asyncio.sleep(0.02)
            finally:
                if found: print("cancelled", flush=True)
            await send({"type": "http.response.body"})
        """
        with source(textwrap.dedent(code)) as agent:
            with agent.connect("x", path="/invoke/stream") as peer:
                got = b""
                while b"tick" not in got:
                    got += peer.recv(1 << 10)
            until(lambda: "cancelled" in agent.stdout())


if __name__ == "__main__":
    unittest.main()
