"""The invocable names of an entry file, from its text and from its import, and the refusal of a file without any."""

import textwrap
import unittest

from _hoistway_runner import discovery, loading, servers
from test_runner import Agent, source

WSGI = """
class App:
    def __init__(self, text): self.text = text
    def __call__(self, environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [self.text.encode()]
"""


def found(code):
    return discovery.Found(compile(textwrap.dedent(code), "agent.py", "exec", discovery.ast.PyCF_ONLY_AST))


class Text(unittest.TestCase):
    """The result of the source alone."""

    def test_what_offers_nothing(self):
        for code, want in (
                ("", True), ("'docs'\nimport json", True), ("def chat(message): return 1", True), ("class Support: pass", True),
                ("A = 'x'\nB: str = 'y'\nC = [1]\nD = -1", True), ("from dataclasses import dataclass\n@dataclass\nclass A:\n  x: int = 1", True),
                ("try:\n  import orjson\nexcept ImportError:\n  orjson = None\ndef reply(m): pass", True), ("pass", True),
                ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  from own import agent", True), ("handle_it = lambda m: m", True),
                ("def create_app(config): pass", True), ("def agent(state): pass", True), ("import own", True), ("handler: str", True),
                ("def handler(m): pass", False), ("handler = 3\nx = f()", False), ("def create_app(debug=False): pass", False), ("...", False),
                ("print('x')", False), ("x = f()", False), ("x = y.z", False), ("@tool\ndef f(): pass", False), ("if x: pass", False),
                ("def f(): pass\nif __name__ == '__main__': f()", False), ("from own import api", False), ("from own import *", False),
                ("from elsewhere import handler", False), ("from elsewhere import api", True), ("class handler: pass", False),
                ("def app(environ, start_response): pass", False), ("async def asgi(scope, receive, send): pass", False),
                ("def make_graph(): pass", False), ("def graph(): pass", False), ("def graph(state): pass", True), ("def get_agent(name): pass", True),
                ("import sys\nsys.path.insert(0, 'x')\nload_dotenv()\nlogging.basicConfig()\ndef chat(m): pass", True), ("paths.insert(0)", False),
                ("def helper(a, b): pass", True), ("async def helper(a, b, c): pass", True), ("del x", False), ("x += 1", True)):
            with self.subTest(code):
                self.assertEqual(found(code).offers_nothing(lambda node: node.module == "own"), want)

    def test_what_is_told_of_it(self):
        for code, text in (
                ("", "agent.py offers nothing to invoke: it is empty"), ("import json", "agent.py offers nothing to invoke: it has nothing but imports"),
                ("import json\nA = 1", "agent.py offers nothing to invoke: it has nothing but constants"),
                ("def chat(m): pass\nclass Support: pass", "agent.py offers nothing to invoke: it has chat (function), Support (class)"),
                ("def hanlder(m): pass", 'agent.py offers nothing to invoke: it has hanlder (function); did you mean "handler"?'),
                ("class Handler: pass", 'agent.py offers nothing to invoke: it has Handler (class); did you mean "handler"?'),
                ("def create_app(config): pass", "agent.py offers nothing to invoke: it has create_app (function that needs config)"),
                ("\n".join(f"def f{n}0(): pass" for n in range(7)),
                 "agent.py offers nothing to invoke: it has f00 (function), f10 (function), f20 (function), f30 (function), f40 (function) and 2 more")):
            with self.subTest(code):
                got, details = discovery.nothing_to_invoke("agent.py", found(code))
                self.assertEqual((got, details[-1]), (text, discovery.REMEDY))
        self.assertEqual(discovery.nothing_to_invoke("agent.py", found("x = 1\ndef chat(m): pass"))[1][0], "agent.py, line 2: chat (function)")

    def test_only_what_may_start_a_server_is_parsed_for_it(self):
        for made in (*discovery.WEB_CALLS, "Server", "SocketIO"):
            self.assertTrue(loading.may_start_a_server(f"it = {made}()\nit.run()".encode()), made)
        for full in servers.SERVING:
            module, _, name = full.rpartition(".")
            self.assertTrue(loading.may_start_a_server(f"from {module} import {name}\n{name}()".encode()), full)
        self.assertTrue(loading.may_start_a_server(b"make_server(1).serve_forever()"))
        for plain in (b"asyncio.run(main())", b"subprocess.run([])", b"observe()\nos.environ['OPENAI_API_KEY']", b"Runner.run_sync(agent)", b"from flask import Flask"):
            self.assertFalse(loading.may_start_a_server(plain), plain)

    def test_which_name_is_meant(self):
        for name, want in (("hanlder", "handler"), ("Handler", "handler"), ("handle", "handler"), ("handel", "handler"), ("Main", "main"),
                           ("mian", "main"), ("chat", None), ("reply", None), ("ap", "app"), ("my_handler", "handler"), ("rain", None), ("candle", None), ("graf", None), ("create_ap", "create_app"), ("agents", "agent")):
            with self.subTest(name):
                self.assertEqual(discovery.meant([name]), want)


class Started(unittest.TestCase):
    """The result of importing the file."""

    def answers(self, files, want, **kwargs):
        files = {"agent.py": files} if isinstance(files, str) else files
        with self.subTest(files["agent.py"]), Agent(files, **kwargs) as agent:
            self.assertEqual(agent.event, {"event": "ready"}, agent.stderr())
            self.assertEqual(agent.response("hi"), want, agent.stderr())

    def refused(self, files, text, detail=discovery.REMEDY, **kwargs):
        files = {"agent.py": files} if isinstance(files, str) else files
        with self.subTest(files["agent.py"]), Agent(files, **kwargs) as agent:
            self.assertEqual((agent.event["event"], agent.event.get("code"), agent.event.get("error")), ("failed", "nothing_to_invoke", text))
            self.assertIn(detail, agent.event["details"])

    def test_lambda_handler(self):
        code = "def lambda_handler(event, context): return {'body': event['message'], 'kind': type(context).__name__}"
        self.answers(code, {"body": "hi", "kind": "RunContext"})
        self.answers(code + "\ndef main(): return 'main'\nclass A:\n  def invoke(self, x): return 'agent'\nagent = A()", {"body": "hi", "kind": "RunContext"})
        self.answers("class Event: pass\ndef lambda_handler(message: Event, second: str): return message['message']", "hi")
        self.answers("from dataclasses import dataclass\n@dataclass\nclass Event:\n  message: str\n"
                     "def lambda_handler(event: Event, context): return event.message", "hi")
        self.answers("def lambda_handler(event, context): pass\ndef handler(m): return 'handler'", "handler")

    def test_a_handler_that_is_none(self):
        self.refused("from http.server import BaseHTTPRequestHandler\nclass handler(BaseHTTPRequestHandler): pass",
                     "agent.py: handler is a class for a server of http.server", "define a function handler(message), or an ASGI or WSGI application")
        mangum = {"site/mangum.py": "class Mangum:\n  def __init__(self, app): self.app = app\n  def __call__(self, event, context): raise RuntimeError('no event')"}
        self.answers(WSGI + "from mangum import Mangum\napi = App('behind it')\nhandler = Mangum(api)", "behind it", sites=mangum)
        self.answers("class Say:\n  def __call__(self, message): return message\nhandler = Say()", "hi")

    def test_a_web_application_of_any_name(self):
        self.answers(WSGI + "api = App('wsgi')", "wsgi")
        self.answers(WSGI + "api = again = App('wsgi')\nif __name__ == '__main__': api.run()", "wsgi")
        self.answers(WSGI + "app = App('app')\nadmin = App('admin')", "app")
        self.answers(WSGI + "def Flask(name): return App(name)\nsite = Flask('statements')\nsite.text += ' too'", "statements too")
        self.answers({"agent.py": "from server import api", "server.py": WSGI + "api = App('imported')"}, "imported")
        self.answers("def application(environ, start_response):\n  start_response('200 OK', [])\n  return [b'function']", "function")
        self.answers("async def asgi(scope, receive, send):\n  if scope['type'] == 'http':\n"
                     "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
                     "    await send({'type': 'http.response.body', 'body': b'function'})", "function")

        self.answers(WSGI + "api, settings = App('pair'), {}", "pair")
        self.answers(WSGI + "none = None\napi = none or App('chosen')", "chosen")
        self.answers({"agent.py": "from server import *", "server.py": WSGI + "api = App('star')"}, "star")
        self.answers("class Site:\n  def __init__(self, environ, start_response): self.start = start_response\n"
                     "  def __iter__(self):\n    self.start('200 OK', [])\n    yield b'class'", "class")
        aiohttp = {"site/aiohttp/__init__.py": "", "site/aiohttp/web.py": "class Application:\n  def add_routes(self, routes): pass"}
        with Agent({"agent.py": "from aiohttp import web\nsite = web.Application()\nsite.add_routes([])"}, sites=aiohttp) as agent:
            self.assertEqual(agent.event.get("error"), "agent.py offers nothing to invoke: site is an application of aiohttp, which has a server of its own")

    def test_a_script_does_its_work_in_an_invoke_and_not_at_the_start(self):
        code = "class Table:\n  def insert_one(self, row): print('written')\ntable = Table()\ntable.insert_one(1)"
        with Agent({"agent.py": code}) as agent:
            self.assertEqual((agent.stdout(), agent.response("hi")), ("", "written"))

    def test_a_script_that_prints_nothing_is_told_so_once(self):
        with Agent({"agent.py": "x = len('abc')\ndel x"}) as agent:
            self.assertEqual([agent.response("hi"), agent.response("hi")], ["", ""])
            self.assertEqual(agent.stderr().count("the script printed nothing, so its answer is empty"), 1)

    def test_parts_of_an_application_are_none(self):
        self.answers(WSGI + "class Router(App): pass\nrouter = Router('part')\napi = App('whole')", "whole")
        self.answers(WSGI + "inner = App('part')\nouter = App('whole')\nouter.inner = inner", "whole")

        self.answers(WSGI + "inner = App('part')\nclass Table(App): pass\nouter = Table('whole')\nouter.mounts = {'/': [Table('x')]}\nouter.mounts['/'][0].inner = inner", "whole")
        self.answers(WSGI + "inner = App('whole')\ndef wrap(app):\n  def outer(environ, start_response): return app(environ, start_response)\n"
                     "  return outer\nouter = wrap(inner)", "whole")

    def test_an_application_may_hold_proxies_of_what_is_not_there_yet(self):
        proxy = "class Proxy:\n  def __getattribute__(self, name): raise RuntimeError('outside of a request')\n"
        self.answers(WSGI + proxy + "api = App('holds')\napi.values = {'request': Proxy()}", "holds")

    def test_an_application_beside_what_only_builds_it_or_serves_it(self):
        self.answers(WSGI + "import logging\nsite = App('built')\nlogging.basicConfig()\nif __name__ == '__main__': pass\nfor word in (): site.add_route(word)", "built")
        argv = "\nif __name__ == '__main__':\n  import sys\n  serve(int(sys.argv[1]))"
        self.answers(WSGI + "api = App('served')" + argv, "served")
        self.answers(WSGI + "def create_app(): return App('made')" + argv, "made")
        self.answers(WSGI + "import sys\napi = App('none')\nword = sys.argv[1]\nprint('script', word)", "script hi")

    def test_the_one_agent_of_a_framework(self):
        framework = {"site/langgraph/__init__.py": "class Graph:\n  def __init__(self, word, *parts): self.word = word\n"
                     "  def invoke(self, state, config=None): return self.word\n  def add_node(self, *_): pass\n  def compile(self): return self"}
        head = "from langgraph import Graph\n"
        run = "\nif __name__ == '__main__': print(workflow.invoke('x'))"
        for code, want in (
                ("workflow = Graph('one')", "one"), ("workflow = Graph('one')\nworkflow.add_node('x')" + run, "one"),
                ("workflow = Graph('one')\nimport sys" + run.replace("'x'", "sys.argv[1]") , "one"),
                ("inner = Graph('part')\nouter = Graph('whole', inner)", "whole"), ("workflow = Graph('x')\nprint('script')", "script"),
                ("one, workflow = Graph('a'), Graph('b')" + run, "b"), ("def make_graph(debug=False): return Graph('made')", "made"),
                ("async def graph(): return Graph('made')", "made"), ("graph = Graph\nworkflow = graph('unnamed')", "unnamed"),
                ("from contextlib import asynccontextmanager\n@asynccontextmanager\nasync def make_graph(): yield Graph('entered')", "entered")):
            self.answers(head + code, want, sites=framework)
        self.refused(head + "one = Graph('a')\ntwo = Graph('b')\ntwo.add_node()", "agent.py has 2 agents, one and two",
                     "name the one that is to be invoked agent", sites=framework)
        self.refused("def make_graph(): return 3", "agent.py offers nothing to invoke: make_graph() gives int, which cannot be invoked",
                     "let it return the compiled graph, the chain, the crew or the agent, or define handler(message)")

    def test_a_page_for_a_browser_is_refused(self):
        for package, kind in (("streamlit", "Streamlit"), ("gradio", "Gradio")):
            self.refused(f"import {package} as ui\ndef main(): ui.button('x')\nif __name__ == '__main__': main()",
                         f"agent.py is a page of {kind}, which needs a server of its own and a browser",
                         "deploy the function behind it: define handler(message) in a file without the page, and let the page call POST /api/agents/NAME/invoke")
        run = "def run(message): return 'ran ' + message"
        show = "\nif __name__ == '__main__': gr.Interface(run).launch()"
        self.answers("import gradio as gr\n" + run + show, "ran hi", sites={"site/gradio.py": ""})
        self.answers({"agent.py": "import gradio as gr\nfrom own import go as run" + show, "own.py": run.replace("def run", "def go")}, "ran hi", sites={"site/gradio.py": ""})
        self.answers("try:\n  import streamlit as st\nexcept ImportError:\n  st = None\n" + run.replace("def run", "def main"), "ran hi")
        self.answers({"agent.py": "import streamlit\ndef handler(message): return message", "streamlit.py": ""}, "hi")

    def test_an_application_that_main_serves_comes_before_main(self):
        serve = "import sys\ndef Flask(name): return App('served')\n%s = Flask(__name__)\ndef main():\n  sys.argv\n  run_server(%s)\nif __name__ == '__main__': main()"
        for name, used in (("app", "app"), ("api", "api"), ("api", "'agent:api'")):
            self.answers(WSGI + serve % (name, used), "served")

    def test_a_server_is_not_started_for_what_it_would_serve(self):
        forever = "\n    def run(self, **_): raise SystemExit('it serves')\nApp.serve_forever = App.run\ndef Flask(name): return App(name)\n"
        for code in ("app = Flask('x')\napp.run(debug=True)\napp = None", "site = Flask('x')\nif site: site.run()", "def main(): site.run()\nsite = Flask('x')\nmain()",
                     "site = App('x')\ndef main(port=80): site.serve_forever()\nif __name__ == '__main__': main()",
                     "site = Flask('x')\ntry:\n  site.run()\nfinally:\n  print('ends')",
                     "def create_app(): return Flask('x')\ndef run(): create_app().run()\nif __name__ == '__main__': run()",
                     "import asyncio, uvicorn\nsite = App('x')\nserver = uvicorn.Server(site)\nasyncio.run(server.serve())",
                     "from uvicorn import run\nsite = App('x')\nrun(site)", "import uvicorn as u\nsite = App('x')\nu.run('agent:site', port=8000)"):
            self.answers(WSGI + forever + code, "x", sites={"site/uvicorn.py": "class Server:\n  def __init__(self, app): pass\ndef run(*_): raise SystemExit(1)"})
        self.answers(WSGI + forever + "site = Flask('x')\ndef handler(message): return message\nsite.run()", "hi")
        self.refused("class Server:\n  def serve_forever(self): raise SystemExit('it serves')\nif __name__ == '__main__':\n  Server().serve_forever()",
                     "agent.py starts a server of its own in line 4, and offers no application that could be invoked",
                     "bind an ASGI or WSGI application, or a server of MCP, to a name of the file; or define handler(message)")

    def test_the_application_that_bottle_has_by_default(self):
        bottle = WSGI + """
made = App("none")
def default_app(): return made
made.routes = []
def post(path):
    made.text = path
    made.routes.append(path)
    return lambda function: function
def view(name): return lambda function: function
def run(**_): raise SystemExit("it serves")
"""
        for code in ("from bottle import post, run\n@post('/invoke')\ndef invoke(): pass\nrun(host='localhost')",
                     "import bottle\n@bottle.post('/invoke')\ndef invoke(): pass\nif __name__ == '__main__':\n  bottle.run()"):
            self.answers(code, "/invoke", sites={"site/bottle.py": bottle})
        self.answers("from bottle import view\n@view('x')\ndef page(): pass\n" + WSGI + "web = App('w')", "w", sites={"site/bottle.py": bottle})
        self.refused({"agent.py": "from bottle import post\n@post('/invoke')\ndef invoke(): pass\n" + WSGI + "site = App('x')", "bottle.py": bottle},
                     "agent.py has 2 web applications, site and default_app()", "name the one that is to be invoked app")

    def test_nothing_of_the_authors_runs_at_the_start_of_a_script(self):
        ask = "def ask():\n  print('ran', input())"
        for code in ("from helper import ask\nsettings = dict(a=1)\ndef add_answer(q): pass\nadd_answer(ask())", "from helper import ask\nfound = []\nfound.append(ask())",
                     "import helper\nfound = dict()\nhelper.ask()", "from helper import *\nfound = []\nfound.append(ask())", "from helper import ask as set_up\nfound = dict()\nset_up()",
                     "import sys, helper\nfound = helper.ask()\nif __name__ == '__main__': sys.argv",
                     "class Mailer:\n  def add(self): print('ran', input())\nmailer = Mailer()\nmailer.add()",
                     "import sys\nthing = dict()\nsys.path.extend(thing)\ndef work(): return print('ran', input())\ndone = work()\nif __name__ == '__main__': pass"):
            self.answers({"agent.py": code, "helper.py": ask}, "ran hi")
        for made in ("def crew(): print('ran')\nif __name__ == '__main__': crew()", "def get_agent(): raise SystemExit('no')\nif __name__ == '__main__': print('ran')",
                     "def make_graph(): raise SystemExit('no')\nprint('ran')", "rows = list()\ndef work(): print('ran')\ndone = work()\nrows.append(done)",
                     "import helper\nfound = [].copy()\nfound.append(1)\nif __name__ == '__main__': pass"):
            with self.subTest(made), Agent({"agent.py": made, "helper.py": "print('ran')"}) as agent:
                self.assertEqual((agent.event["event"], agent.stdout(), agent.response("hi")), ("ready", "", "ran"), agent.stderr())

    def test_what_is_no_start_of_a_server_cuts_nothing(self):
        sites = {"site/uvicorn.py": "def run(*_): raise SystemExit(1)", "site/bottle.py": "def run(): raise SystemExit(1)"}
        flask = WSGI + "def Flask(name):\n  app = App(name)\n  app.run = app.run_checks = lambda **_: None\n  return app\napp = Flask('web')\n"
        for code in ("import threading\nthreading.Thread(target=lambda: app.run(port=5000), daemon=True).start()", "app.run_checks()",
                     "import subprocess\nfrom bottle import run\nsubprocess.run(['true'])",
                     "import asyncio\nfrom uvicorn import run\nasync def setup(): pass\nasyncio.run(setup())"):
            self.answers(flask + code + "\ndef handler(message): return message + ' hi'", "hi hi", sites=sites)
        for code in ("def run_app(): print('got', input())\nif __name__ == '__main__':\n  run_app()", "def run_app(): print('got', input())\nrun_app()",
                     "def run_simple(): print('got', input())\nrun_simple()"):
            self.answers(code, "got hi")

    def test_a_handler_behind_a_server_is_told_to_be_left_out(self):
        code = WSGI + "def Flask(name): return App(name)\napp = Flask('x')\napp.run()\ndef handler(message): return message"
        with source(code) as agent:
            self.assertEqual(agent.response("hi"), "x", agent.stderr())
            self.assertIn("agent.py, line 9 starts a server that would not end, so handler below it is left out", agent.stderr())

    def test_a_factory(self):
        self.answers(WSGI + "def create_app(debug=False): return App('made')", "made")
        self.answers(WSGI + "async def make_app(): return App('made')", "made")
        self.answers({"agent.py": "from server import create_app", "server.py": WSGI + "def create_app(): return App('made')"}, "made")
        self.answers(WSGI + "def create_app(): return App('made')\nserver = create_app()\nserver.text = 'bound'", "bound")
        self.refused("def create_app(): return 3", "agent.py offers nothing to invoke: create_app() gives int, which is no web application",
                     "let it return the ASGI or WSGI application")

    def test_what_has_statements_or_a_main_block_stays_a_script(self):
        for code in ("import sys\ndef cli(): print('About', sys.argv[1])\nif __name__ == '__main__': cli()", "print('About hi')",
                     "client = dict()\ndef f(): print('About hi')\nif __name__ == '__main__': f()", "import os\nfor x in ('About hi',): print(x)",
                     "import sys\nopen(sys.argv[1] and '/dev/null').close()\nclass A: pass\nthing = A()\nprint('About hi')"):
            self.answers(code, "About hi")

    def test_nothing_is_refused_with_what_there_is(self):
        self.refused("class Agent:\n  def invoke(self, text): pass\nroot_agent = Agent()",
                     "agent.py offers nothing to invoke: it has Agent (class), root_agent (Agent)", "root_agent can be invoked: name it agent")
        self.refused("class Plain: pass\nagent = Plain()", "agent.py offers nothing to invoke: it has Plain (class), agent (Plain)")
        self.refused("def helper(a, b): pass\nthing = helper\nimport json", "agent.py offers nothing to invoke: it has helper (function), thing (function)")
        own = {"agents/a.py": "import json\nSIZE = 3\nclass Kind: pass\ndef ask(message): pass\ndef handel(message): pass"}
        self.refused({"agent.py": "from agents.a import ask", **own}, "agent.py offers nothing to invoke: it has ask (function, from agents/a.py)")
        self.refused({"agent.py": "from agents.a import *", **own},
                     "agent.py offers nothing to invoke: it has Kind (class, from agents/a.py), ask (function, from agents/a.py), "
                     'handel (function, from agents/a.py); did you mean "handler"?')
        self.refused({"agent.py": "from agents.a import SIZE", **own}, "agent.py offers nothing to invoke: it has nothing but imports")
        self.refused("def app(x): pass", "agent.py offers nothing to invoke: it has app (function)")
        self.refused(WSGI + "public = App('a')\nadmin = App('b')", "agent.py has 2 web applications, public and admin",
                     "name the one that is to be invoked app")
        adk = {"google/adk/agents.py": "class LlmAgent: pass", "agent.py": "from google.adk.agents import LlmAgent\nroot_agent = LlmAgent()"}
        self.refused(adk, "agent.py offers nothing to invoke: it has root_agent (LlmAgent)",
                     "root_agent is an agent of Google ADK: define handler(message) that runs it with google.adk.runners.InMemoryRunner")
