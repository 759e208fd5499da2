"""Agents that print, that read their command line and that call input()."""

import concurrent.futures
import os
import textwrap
import unittest
from importlib.util import find_spec

from _hoistway_runner import commands
from test_runner import Agent, source, until

GUARD = "\nif __name__ == '__main__':\n    main()\n"


class Printing(unittest.TestCase):
    """The output of a function that returns nothing is its answer."""

    def answers(self, code, want, message="tea"):
        with self.subTest(code), source(textwrap.dedent(code)) as agent:
            self.assertEqual(agent.response(message), want, agent.stderr())

    def test_what_is_printed_is_the_answer_of_a_function_that_returns_nothing(self):
        self.answers("def main():\n  print('The answer is')\n  print(42)" + GUARD, "The answer is\n42")
        self.answers("def handler(message): print('echo', message)", "echo tea")
        self.answers("import asyncio\nasync def main():\n  await asyncio.sleep(0)\n  print('async')", "async")
        self.answers("import asyncio\nasync def handler(message): await asyncio.to_thread(print, message)", "tea")
        self.answers("import sys\nout = sys.stdout\ndef handler(message):\n  out.write('a\\n\\n')\n  sys.stdout.buffer.write('é'.encode())", "a\n\né")
        to_stdout = "import logging, sys\nlogging.basicConfig(stream=sys.stdout, level='INFO', format='%(message)s')\n"
        self.answers(to_stdout + "def main():\n  logging.info('the answer is 4')", "the answer is 4")
        self.answers("import logging\nlogging.basicConfig(level=logging.INFO)\ndef handler(message):\n  logging.info('log')\n  print('own')", "own")
        self.answers("import io, sys\nassert isinstance(sys.stdout, io.TextIOWrapper)\ndef handler(message): sys.stdout.writelines(['a', 'b'])", "ab")
        self.answers("def handler(message): pass", None)

    def test_what_is_returned_comes_first(self):
        self.answers("def run():\n  print('on the way')\n  return {'charges': 3}", {"charges": 3})
        self.answers("def handler(message):\n  print('x')\n  return 0", 0)
        self.answers("def handler(message):\n  print('x')\n  return ''", "")
        self.answers("def handler(message):\n  print('log')\n  yield 'piece'", "piece")
        self.answers("class C:\n  def kickoff(self, x): print('log')\ncrew = C()", None)

    def test_the_status_of_a_command_is_no_answer(self):
        for end in ("return 0", "import sys; sys.exit(0)", "raise SystemExit"):
            self.answers(f"def main():\n  print('hello')\n  {end}", "hello")
        self.answers("def main():\n  print('hello')\n  return False", False)
        with source("def main():\n  print('hello')\n  raise SystemExit(3)") as agent:
            self.assertEqual(agent.invoke()[1]["error"], "SystemExit: 3")

    def test_a_stream_has_it_too_and_the_logs_have_all(self):
        with source("def main():\n  print('one')\n  print('two', end='')") as agent:
            self.assertEqual(agent.stream()[0], {"type": "content", "delta": "one\ntwo"})
            until(lambda: agent.stdout() == "one\ntwo")

    def test_invokes_at_once_do_not_mix(self):
        code = """
        import asyncio, threading
        both = threading.Barrier(2)
        def handler(message):
            print("start", message)
            both.wait(30)
            print("end", message)
        """
        with source(code) as agent, concurrent.futures.ThreadPoolExecutor(2) as callers:
            self.assertEqual(list(callers.map(agent.response, "ab")), ["start a\nend a", "start b\nend b"])

    def test_more_than_can_be_kept_is_refused_only_where_it_is_the_answer(self):
        code = "def handler(message):\n  for _ in range(10): print('x' * 999_999)\n  return message if message == 'more' else None"
        with source(code) as agent:
            status, answer = agent.invoke()
            self.assertEqual((status, answer["error"]), (500, "the agent printed more than 8 MiB"))
            self.assertEqual(agent.response("more"), "more")


class Input(unittest.TestCase):
    """input() reads the message."""

    def test_in_a_handler_and_in_a_command(self):
        ask = "question = input('Question: ')\n  print('Answer to', question)"
        for code in (f"def handler(message):\n  {ask}", f"def main():\n  {ask}", f"def main():\n  {ask}{GUARD}",
                     "def ask(text, read=input): return read(text)\ndef handler(message): print('Answer to', ask('Question: '))"):
            with self.subTest(code), source(code) as agent:
                self.assertEqual(agent.response("tea"), "Answer to tea")
                self.assertIn("Question: \n", agent.stderr())

    def test_a_loop_of_questions_ends_with_the_message(self):
        loop = "while True:\n    print('re:', input('> '))"
        for code in (f"def handler(message):\n  {loop}", f"def main():\n  {loop}{GUARD}"):
            with self.subTest(code), source(code) as agent:
                self.assertEqual(agent.response("a\nb"), "re: a\nre: b")

    def test_questions_without_an_answer_are_an_error(self):
        ask = "a, b = input('a'), input('b')\n  print(a, b)"
        for code in (f"def handler(message):\n  {ask}", f"def main():\n  {ask}{GUARD}"):
            with self.subTest(code), source(code) as agent:
                self.assertEqual(agent.response("1\n2"), "1 2")
                self.assertEqual(agent.invoke("1")[1]["error"], "EOFError: the message has no more lines for input()")

    def test_what_is_returned_keeps_its_type(self):
        for code in ("def run():\n  x = input()\n  return {'x': x}", "async def main(): return {'x': ask()}\ndef ask(): return input('? ')"):
            with self.subTest(code), source(code) as agent:
                self.assertEqual(agent.response("tea"), {"x": "tea"}, agent.stderr())
                status, answer, _ = agent.request("POST", "/invoke", b"{}")
                self.assertEqual((status, answer["error"]), (400, "message is required"))
        for code in ("x = input()\ndef run(): return {'x': x}", "def ask(): return input()\nx = ask()\ndef run(): return {'x': x}"):
            with self.subTest(code), source(code) as agent:
                self.assertEqual(agent.response("tea"), '{"x": "tea"}', "what the import reads is a script's")

    def test_fileinput_reads_it_too(self):
        for code in ("import fileinput\ndef main():\n  for line in fileinput.input('-'): print(line.title(), end='')",
                     "import fileinput as f\ndef main():\n  for line in f.input(files=('-',)): print(line.title(), end='')",
                     "import fileinput\nfor line in fileinput.input(): print(line.title(), end='')"):
            with self.subTest(code), source(code) as agent:
                self.assertEqual(agent.response("green\ntea"), "Green\nTea", agent.stderr())

    def test_a_parser_beside_fileinput_gets_the_message(self):
        code = "import argparse, fileinput\nparser = argparse.ArgumentParser()\nparser.add_argument('message')\n" \
               "print(parser.parse_args().message.upper(), *fileinput.input('/dev/null'))"
        with source(code) as agent:
            self.assertEqual(agent.response("tea"), "TEA", agent.stderr())
        helper = {"agent.py": "import fileinput, lib\nprint(lib.given())", "lib.py": "import sys\ndef given(): return sys.argv[1:]"}
        with Agent(helper) as agent:
            self.assertEqual(agent.response("tea"), "['tea']", agent.stderr())


class Unread(unittest.TestCase):
    """A script that does not read the message needs none."""

    def test_a_script_that_reads_nothing_runs_without_a_message(self):
        helper = {"lib.py": "from pkg import words\ndef word(): return words.WORD", "pkg/words.py": "WORD = 'hello'"}
        for files in ({"agent.py": "print('hello')"}, {"agent.py": "import lib\nprint(lib.word())", **helper}):
            with self.subTest(files), Agent(files) as agent:
                status, answer, _ = agent.request("POST", "/invoke", b"{}")
                self.assertEqual((status, answer.get("response")), (200, "hello"), answer)

    def test_one_that_may_read_it_needs_one(self):
        for code in ("import sys\nprint(sys.argv)", "print(input())", "import builtins\nprint(builtins.input())", "import os\nprint(os.environ)", "from os import getenv\nprint(getenv('AGENT_MESSAGE'))",
                     "import subprocess\nsubprocess.run(['cat'])", "import argparse\nprint(argparse.ArgumentParser().parse_args())",
                     "from lib import text\nprint(text)", "from pkg import inner\nprint(inner.text)"):
            with self.subTest(code), Agent({"agent.py": code, "lib.py": "import sys\ntext = sys.argv", "pkg/inner.py": "import sys\ntext = sys.argv"}) as agent:
                status, answer, _ = agent.request("POST", "/invoke", b"{}")
                self.assertEqual((status, answer["error"]), (400, "message is required"))


class CommandLines(unittest.TestCase):
    """A file whose main() reads its command line is run as a script, with the message as its argument."""

    PARSE = "import argparse\ndef parse():\n  p = argparse.ArgumentParser()\n  p.add_argument('q')\n  return p.parse_args()\n"

    def test_they_are_run_as_scripts(self):
        argv = "import sys\ndef main():\n  print('About', sys.argv[1])\n"
        for code in (argv + GUARD, argv, self.PARSE + "def main():\n  print('About', parse().q)" + GUARD,
                     "import sys\ndef main(argv=None):\n  print('About', (argv or sys.argv[1:])[0])" + GUARD,
                     "import sys\ndef main(topic): print('About', topic)\nif __name__ == '__main__': main(sys.argv[1])",
                     "import sys\ndef main(): print('About', sys.stdin.read())", "import sys\nasync def main(): return 'About ' + sys.argv[1]",
                     "from sys import argv\ndef run():\n  print('About', argv[1])\n  return 0"):
            with self.subTest(code), source(code) as agent:
                self.assertEqual(agent.response("green tea"), "About green tea", agent.stderr())
        helper = {"agent.py": "from options import parse\ndef main(): print('About', parse().q)" + GUARD, "options.py": self.PARSE}
        with Agent(helper) as agent:
            self.assertEqual(agent.response("green tea"), "About green tea", agent.stderr())
        for lib in (argv, self.PARSE + "def main(): print('About', parse().q)"):
            with self.subTest(lib), Agent({"agent.py": "from cli import main" + GUARD, "cli.py": lib}) as agent:
                self.assertEqual(agent.response("green tea"), "About green tea", agent.stderr())

    def test_what_uses_the_descriptors_of_the_process_has_one_of_its_own(self):
        for code in ("def main():\n  for line in open(0): print('About', line)", "import os\ndef main(): os.write(1, b'About ' + os.read(0, 99))",
                     "import os, sys\ndef main(message):\n  with os.fdopen(1, 'w', closefd=False) as out: out.write('About ' + message)" + GUARD.replace("()", "(sys.argv[1])")):
            with self.subTest(code), source(code) as agent:
                self.assertEqual(agent.response("green tea"), "About green tea", agent.stderr())

    def test_a_function_that_takes_the_message_gets_the_defaults_of_options(self):
        options = self.PARSE.replace("'q'", "'--size', default='big'").replace("def parse", "def options")
        main = "def main(message): return [deeper(), message]\ndef deeper(): return options().size\n"
        files = ({"agent.py": options + main + GUARD.replace("()", "(input())")},
                 {"agent.py": "from lib import options\ndef main(message): return [options().size, message]" + GUARD.replace("()", "('x')"), "lib.py": options},
                 {"agent.py": options + main})
        for case in files:
            with self.subTest(case), Agent(case) as agent:
                self.assertEqual(agent.response("green tea"), ["big", "green tea"], agent.stderr())
        deep = "import sys\ndef main(message): print('About', first())\ndef first(): return second()\ndef second(): return sys.argv[1]"
        with source(deep + GUARD.replace("()", "(input())")) as agent:
            self.assertEqual(agent.response("green tea"), "About green tea", agent.stderr())

    def test_a_parser_that_needs_arguments_tells_a_function_that_it_has_none(self):
        with source(self.PARSE + "def handler(message): return parse().q") as agent:
            status, answer = agent.invoke()
            self.assertEqual((status, answer["error"]), (500, "SystemExit: 2"))
            self.assertTrue(answer["details"][-1].startswith("a function is called without a command line"), answer)

    def test_a_result_of_theirs_is_printed_as_data(self):
        with source("import sys\ndef main(): return {'topic': {sys.argv[1]}}") as agent:
            self.assertEqual(agent.response("tea"), '{"topic": ["tea"]}')

    def test_the_others_are_functions(self):
        for code in ("import sys\ndef main(message): return [message]\nif __name__ == '__main__': print(main(sys.argv[1]))",
                     "def main(m: str): return [m]\nif __name__ == '__main__': print(main(input()))",
                     "import sys\ndef handler(message): return [message]\ndef main(): print(sys.argv[1])",
                     "import sys\nclass A:\n  def invoke(self, x): return [x]\nagent = A()\ndef main(): print(agent.invoke(sys.argv[1]))"):
            with self.subTest(code), source(code) as agent:
                self.assertEqual(agent.response("tea"), ["tea"], agent.stderr())

    def test_arguments_that_are_refused_say_what_they_are(self):
        code = "import argparse\ndef main():\n  p = argparse.ArgumentParser()\n  p.add_argument('--topic')\n  p.parse_args()" + GUARD
        with source(code) as agent:
            status, answer = agent.invoke()
            self.assertEqual((status, answer["error"]), (500, "agent.py: error: unrecognized arguments: x"))
            self.assertEqual(answer["details"][-1],
                             "the script gets the message as its one argument: let it take that, or define handler(message)")

    @unittest.skipUnless(find_spec("click") and find_spec("typer"), "click and typer are not installed")
    def test_click_and_typer(self):
        packages = f"import sys\nsys.path.append({os.path.dirname(os.path.dirname(find_spec('click').origin))!r})\n"
        for code in ("import click\n@click.command()\n@click.argument('topic')\ndef main(topic): click.echo('About ' + topic)" + GUARD,
                     "import click\n@click.command()\n@click.argument('topic')\ndef main(topic): click.echo('About ' + topic)",
                     "import typer\napp = typer.Typer()\n@app.command()\ndef main(topic: str): print('About', topic)\nif __name__ == '__main__': app()",
                     "import typer\ndef main(topic: str): print('About', topic)\nif __name__ == '__main__': typer.run(main)"):
            with self.subTest(code), source(packages + code) as agent:
                self.assertEqual(agent.response("green tea"), "About green tea", agent.stderr())

    def test_what_reads_a_command_line(self):
        for code, want in (
                ("import sys\ndef main(): sys.argv", True), ("def main(): sys.path", False), ("from sys import argv", True),
                ("from sys import path", False), ("input()", True), ("console.input()", False), ("import click\nclick.echo('x')", False),
                ("from typer import Typer", False), ("from click import command", True), ("import fire\nfire.Fire(main)", True),
                ("import sys as system\nsystem.argv", True), ("import click as c\nc.option", True), ("import os as sys2\nsys2.argv", False),
                ("from .sys import argv", False), ("def main(message): pass\nif __name__ == '__main__': sys.argv", False),
                ("def main(topic): pass\nif __name__ == '__main__': sys.argv", True),
                ("def main(message): pass\ndef cli(): return parser.parse_args()", False),
                ("def main(message): return ask()\ndef ask(): return input()", True),
                ("def main(message): parser.add_argument('-v'); parser.parse_args()", False), ("def main(message): parser.parse_args()", True),
                ("def main(message): parser.add_argument('-v'); parser.add_argument('q'); parser.parse_args()", True),
                ("def main(): parser.add_argument('-v'); parser.parse_args()", True), ("def main(message): sys.argv; parser.add_argument('-v')", True),
                ("import fileinput\nfileinput.input()", True), ("import fileinput\nfileinput.FileInput(files=['-'])", True),
                ("import fileinput\nfileinput.input('notes.txt')", False), ("import fileinput\nfileinput.input(files=['a', 'b'])", False),
                ("open(0)", True), ("open('/dev/stdin')", True), ("import os as o\no.write(1, b'x')", True), ("os.write(2, b'x')", False),
                ("file.write(1)", False), ("self.file.open(0)", False), ("open(path)", False),
                ("def main(topic: 'str'): pass\nif __name__ == '__main__': sys.argv", False)):
            with self.subTest(code):
                tree = compile(code, "agent.py", "exec", commands.ast.PyCF_ONLY_AST)
                self.assertEqual(commands.reads_command_line(tree, "main"), want)
