"""The routes of a web application that answer an invoke, and its own refusals."""

import os
import unittest
from importlib.util import find_spec
from types import SimpleNamespace as Thing

from _hoistway_runner.web import has_route
from test_runner import source

PATHS = ("/invoke/stream", "/invoke", "/")


class Route:
    """A route of Starlette: `match` is 2 for a full match, 1 for one of another method."""

    def __init__(self, path, match=2, **more):
        self.path, self.match = path, match
        vars(self).update(more)

    def matches(self, scope):
        found = scope["method"] == "POST" and scope["path"] == self.path
        return Thing(value=self.match if found else 0), {}


class Routes(unittest.TestCase):
    def test_routes_are_known_where_they_say_so(self):
        for routes, want in (([Route("/invoke", endpoint=1, app=1)], [False, True, False]), ([Route("/invoke")], [False, True, False]),
                             ([Route("/", 1), Route("/")], [False, False, True]), ([Route("/invoke", 1)], [False, None, False]),
                             ([Route("/invoke", app="mounted")], [False, None, False])):
            self.assertEqual([has_route(Thing(routes=routes), path) for path in PATHS], want)
        for app in (print, Thing(routes=[Thing()]), Thing(url_map=3)):
            self.assertIsNone(has_route(app, "/invoke"))

    @unittest.skipUnless(find_spec("flask"), "flask is not installed")
    def test_a_handler_of_all_errors_does_not_stand_in_for_routes_that_are_not_there(self):
        packages = os.path.dirname(os.path.dirname(find_spec("flask").origin))
        for handler in ("@app.errorhandler(Exception)\ndef failed(error): return {'failed': str(error)}, 500",
                        "@app.errorhandler(404)\ndef failed(error): return {'failed': str(error)}"):
            for path in ("/invoke", "/"):
                code = f"import sys\nsys.path.append({packages!r})\nfrom flask import Flask\napp = Flask('x')\n{handler}\n" \
                       f"@app.post({path!r})\ndef invoke(): return {{'response': 'hi'}}"
                with self.subTest(code), source(code) as agent:
                    self.assertEqual((agent.response(), agent.stream()[0].get("delta")), ("hi", "hi"), agent.stderr())


class Refusals(unittest.TestCase):
    def test_only_a_request_that_is_wrong_is_the_callers_error(self):
        code = """
            import json
            def app(environ, start_response):
                start_response(json.load(environ["wsgi.input"])["message"], [])
                return [b"city is s3cr3t"]
            """
        with source(code, config={"mask": ["s3cr3t"]}) as agent:
            for status in ("400 Bad Request", "422 Unprocessable Content"):
                got, answer = agent.invoke(status)
                self.assertEqual((got, answer), (400, {"error": f"the app answered POST /invoke with status {status[:3]}",
                                                       "code": "invalid_argument", "details": ["city is ********"]}))
            self.assertEqual(agent.stderr(), "")
            for status in ("401 Unauthorized", "409 Conflict", "500 Internal Server Error"):
                got, answer = agent.invoke(status)
                self.assertEqual((got, answer["code"]), (500, "agent_error"))
