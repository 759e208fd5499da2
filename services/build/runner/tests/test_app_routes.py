"""The other routes of web applications."""

import contextlib
import http.client
import json
import unittest

from _hoistway_runner.app_routes import no_invoke, relocated
from _hoistway_runner.web import HOST
from test_runner import WAIT, Agent, read_all, source, until

ASGI = """
    import asyncio, json

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        body = (await receive())["body"].decode()
        headers = {k.decode(): v.decode("latin-1") for k, v in scope["headers"]}

        async def answer(status, fields=(), *pieces):
            await send({"type": "http.response.start", "status": status, "headers": [(k.encode(), v.encode()) for k, v in fields]})
            for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})

        at = scope["path"]
        if at == "/see":
            seen = {"method": scope["method"], "path": scope["path"], "raw": scope["raw_path"].decode(),
                    "query": scope["query_string"].decode(), "body": body, "headers": headers}
            await answer(201, [("Content-Type", "application/json"), ("X-Twice", "a"), ("X-Twice", "b")], json.dumps(seen).encode())
        elif at == "/events":
            await answer(200, [("Content-Type", "text/event-stream")], b"data: 1\\n\\n", b"data: 2\\n\\n")
        elif at == "/redirect":
            await answer(307, [("Location", "http://" + headers["host"] + "/see/?a=1")])
        elif at == "/empty":
            await answer(204, [("Connection", "keep-alive"), ("X-Hoistway-Answer", "forged")])
        elif at == "/fail":
            await answer(500, [("Content-Length", "4")], b"oops")
            raise ValueError("behind it")
        elif at == "/raise":
            raise ValueError("no answer")
        elif at == "/split":
            await answer(200, [("X-A", "a\\r\\nX-B: b")], b"x")
        elif at in ("/long", "/short"):
            await answer(200, [("Content-Length", "3")], b"ab" if at == "/short" else b"abcd")
        elif at == "/breaks":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            raise ValueError("on the way")
        elif at == "/hang":
            try:
                await asyncio.sleep(600)
            finally:
                print("cancelled", flush=True)
        else:
            await answer(404, [("Content-Type", "text/plain")], b"mine: no such route")
    """

WSGI = """
    import json

    def app(environ, start_response):
        seen = {k: v for k, v in environ.items() if isinstance(v, str)} | {"body": environ["wsgi.input"].read().decode()}
        start_response("202 Accepted", [("Content-Type", "application/json"), ("Location", "/there")])
        return [json.dumps(seen).encode()]
    """


WSGI_CASES = """
    import sys

    class Body:
        def __init__(self, pieces, end="closed"): self.pieces, self.end = iter(pieces), end
        def __iter__(self): return self.pieces
        def close(self):
            print(self.end, flush=True)
            if self.end == "fails": raise ValueError("in close()")

    def endless(piece):
        while True: yield piece

    def late(start_response):
        yield b""
        raise ValueError("before its first piece")

    def changed(start_response, sent):
        yield sent
        try:
            raise ValueError("on the way")
        except ValueError:
            start_response("500 Sorry", [("X-Second", "yes")], sys.exc_info())
        yield b"sorry"

    def app(environ, start_response):
        path, fields, status = environ["PATH_INFO"], [("Content-Type", "text/plain")], "200 OK"
        if path == "/none": status = "204 No Content"
        if path == "/control": fields.append(("X-Control", "a\x07b"))
        start_response(status, fields)
        if path == "/late": return late(start_response)
        if path in ("/early-change", "/late-change"): return changed(start_response, b"" if path == "/early-change" else b"begun")
        if path == "/close": return Body([b"", b"whole"], "fails")
        return Body(endless(b"" if path in ("/empty", "/none") else b"x" * 100))
    """


def call(agent, method, path, body=None, **headers):
    """Returns status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=WAIT)
    with contextlib.closing(connection):
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


class Routes(unittest.TestCase):
    def test_an_asgi_application_gets_the_request_and_gives_the_answer(self):
        with source(ASGI, config={"token": "t0ken-1"}) as agent:
            proof = {"X_Hoistway_Invoke_Token": "t0ken-1", "X_Hoistway_App_Root": "/api/agents/a/app"}
            status, headers, body = call(agent, "PATCH", "/app/see?q=a%20b&q=c", "text", X_Mine="1", Content_Type="text/plain", **proof)
            seen = json.loads(body)
            self.assertEqual((status, headers["Content-Type"], headers.get_all("X-Twice")), (201, "application/json", ["a", "b"]))
            self.assertEqual(headers["X-Hoistway-Answer"], "application")
            told = seen.pop("headers")
            self.assertEqual(seen, {"method": "PATCH", "path": "/see", "raw": "/see",
                                    "query": "q=a%20b&q=c", "body": "text"})
            self.assertEqual((told["x-mine"], told["content-type"], told["content-length"]), ("1", "text/plain", "4"))
            self.assertTrue(told["host"].startswith("localhost:"))
            self.assertFalse([name for name in told if name.startswith("x-hoistway-")])
            status, _, body = call(agent, "GET", "/app/no%20such%2Froute", **proof)
            self.assertEqual((status, body), (404, b"mine: no such route"))
            self.assertEqual(call(agent, "GET", "/app/events", **proof)[2], b"data: 1\n\ndata: 2\n\n")
            status, headers, _ = call(agent, "GET", "/app/redirect", **proof)
            self.assertEqual((status, headers["Location"]), (307, "/api/agents/a/app/see/?a=1"))
            status, headers, body = call(agent, "DELETE", "/app/empty", **proof)
            self.assertEqual((status, headers["Connection"], headers.get_all("X-Hoistway-Answer"), body),
                             (204, "close", ["application"], b""))
            status, headers, body = call(agent, "HEAD", "/app/see", **proof)
            self.assertEqual((status, body), (201, b""))
            self.assertEqual(call(agent, "GET", "/app/see")[0], 403)

    def test_an_asgi_application_is_mounted_where_it_is_known_to_find_its_routes(self):
        code = """
            import json
            from %s import %s as Base
            class Own(Base):
                root_path = ""
                async def __call__(self, scope, receive, send):
                    if scope["type"] == "http":
                        await send({"type": "http.response.start", "status": 200, "headers": [(b"location", b"/there")]})
                        await send({"type": "http.response.body", "body": json.dumps([scope["root_path"], scope["path"]]).encode()})
            app = Own()
            """
        starlette = {"starlette/__init__.py": "__version__ = '0.33.0'", "starlette/applications.py": "class Starlette: pass"}
        others = {"quart.py": "class Quart: pass", "django/core.py": "class ASGIHandler: pass\nclass Other: pass"}
        root, bare = "/api/agents/a/app", ["", "/x"]
        mounted = [root, root + "/x"]
        for wanted, names, old, new in (
            (mounted, ("starlette.applications", "Starlette"), "", ""), (mounted, ("quart", "Quart"), "", ""),
            (bare, ("starlette.applications", "Starlette"), "0.33", "0.32"), (bare, ("io", "StringIO"), "", ""),
            (bare, ("starlette.applications", "Starlette"), 'root_path = ""', 'root_path = "/prod"'),
            (bare, ("django.core", "Other"), "", ""),
        ):
            files = {"agent.py": code % names, **starlette, **others}
            with Agent({name: text.replace(old, new) if old else text for name, text in files.items()}) as agent:
                _, headers, body = call(agent, "GET", "/app/x", X_Hoistway_App_Root=root)
                self.assertEqual((json.loads(body), headers["Location"]), (wanted, root + "/there"), (names, new))

    def test_a_wsgi_application_is_mounted_at_its_root(self):
        with source(WSGI) as agent:
            status, headers, body = call(agent, "PUT", "/app/a%C3%A9/b?x=1", "text", Content_Encoding="mine",
                                         X_Hoistway_App_Root="/api/agents/a/app")
            seen = json.loads(body)
            self.assertEqual((status, headers["Location"]), (202, "/api/agents/a/app/there"))
            self.assertEqual((seen["REQUEST_METHOD"], seen["SCRIPT_NAME"], seen["QUERY_STRING"]), ("PUT", "/api/agents/a/app", "x=1"))
            self.assertEqual(seen["PATH_INFO"], "/a\u00e9/b".encode().decode("latin-1"))
            self.assertEqual((seen["body"], seen["CONTENT_LENGTH"], seen["HTTP_CONTENT_ENCODING"]), ("text", "4", "mine"))
            _, seen, _ = agent.request("GET", "/app/", headers={"X-End-User-Id": "ann", "X_End_User_Id": "root"})
            self.assertEqual((seen["PATH_INFO"], seen["HTTP_X_END_USER_ID"]), ("/", "ann"))

    def test_what_fails_says_so_and_what_breaks_off_does_not_look_whole(self):
        with source(ASGI) as agent:
            self.assertEqual(call(agent, "GET", "/app/fail")[::2], (500, b"oops"))
            until(lambda: "ValueError: behind it" in agent.stderr())
            for path, error in (("raise", "ValueError: no answer"), ("split", "the app answers with a header that is none: 'x-a'")):
                status, headers, body = call(agent, "GET", f"/app/{path}")
                self.assertEqual((status, json.loads(body)["error"], headers["X-Hoistway-Answer"]), (500, error, None))
            for path, logged in (("long", "more than its Content-Length"), ("short", "less than its Content-Length"),
                                 ("breaks", "ValueError: on the way")):
                with self.assertRaises(http.client.IncompleteRead, msg=path):
                    call(agent, "GET", f"/app/{path}")
                self.assertIn(logged, agent.stderr())

    def test_an_answer_without_a_body_does_not_wait_for_one(self):
        with source(WSGI_CASES) as agent:
            for count, (method, path, status) in enumerate((("HEAD", "/endless", 200), ("HEAD", "/empty", 200), ("GET", "/none", 204)), 1):
                self.assertEqual(call(agent, method, f"/app{path}")[::2], (status, b""), path)
                until(lambda: agent.stdout().count("closed") == count)
            agent.connect(path="/app/empty").close()
            until(lambda: agent.stdout().count("closed") == 4)
        code = """
            async def app(scope, receive, send):
                if scope["type"] == "http":
                    await send({"type": "http.response.start", "status": 204, "headers": []})
                    await send({"type": "http.response.body"})
                    import asyncio
                    await asyncio.sleep(0)
                    print("afterwards", flush=True)
            """
        with source(code) as agent:
            self.assertEqual(call(agent, "DELETE", "/app/x")[0], 204)
            until(lambda: "afterwards" in agent.stdout())

    def test_a_wsgi_application_may_change_its_mind_until_its_first_piece(self):
        with source(WSGI_CASES) as agent:
            status, _, body = call(agent, "GET", "/app/late")
            self.assertEqual((status, json.loads(body)["error"]), (500, "ValueError: before its first piece"))
            status, headers, body = call(agent, "GET", "/app/early-change")
            self.assertEqual((status, headers["X-Second"], body), (500, "yes", b"sorry"))
            with self.assertRaises(http.client.IncompleteRead):
                call(agent, "GET", "/app/late-change")
            self.assertIn("ValueError: on the way", agent.stderr())
            self.assertEqual(call(agent, "GET", "/app/close")[::2], (200, b"whole"))
            self.assertIn("ValueError: in close()", agent.stderr())
            status, _, body = call(agent, "GET", "/app/control")
            self.assertEqual((status, json.loads(body)["error"]), (500, "the app answers with a header that is none: 'x-control'"))

    def test_what_fails_behind_an_answer_is_logged_with_its_request_and_without_secrets(self):
        code = """
            async def app(scope, receive, send):
                if scope["type"] == "http":
                    await send({"type": "http.response.start", "status": 500, "headers": []})
                    await send({"type": "http.response.body", "body": b"oops"})
                    raise ValueError("the key is s3cret-key")
            """
        with source(code, config={"mask": ["s3cret-key"]}) as agent:
            call(agent, "GET", "/app/x", X_Request_ID="r-1")
            until(lambda: "ValueError" in agent.stderr())
            self.assertIn("request r-1 failed\nTraceback", agent.stderr())
            self.assertIn("the key is ********", agent.stderr())

    def test_a_lost_caller_ends_the_request(self):
        with source(ASGI) as agent:
            agent.connect(path="/app/hang").close()
            until(lambda: "cancelled" in agent.stdout())

    def test_what_is_no_application_has_no_routes(self):
        with source("def handler(message): return message") as agent:
            status, answer, _ = agent.request("GET", "/app/see")
            self.assertEqual((status, answer), (404, {"error": "the agent has no web application", "code": "no_application"}))
            self.assertIn(b" 404 ", read_all(agent.connect(path="/app")))

    def test_redirects_lead_to_where_callers_find_the_application(self):
        root = "/api/agents/a/app"
        for given, seen in (
            ("/login", f"{root}/login"), (f"{root}/login", f"{root}/login"), (root, root), (f"{root}?a", f"{root}?a"),
            (f"{root}lication", f"{root}{root}lication"), ("login", "login"), ("//other.example/x", "//other.example/x"),
            ("https://other.example/x", "https://other.example/x"), (f"http://{HOST}/x?y", f"{root}/x?y"),
            (f"http://{HOST}{root}/x", f"{root}/x"), (f"http://{HOST}", f"{root}/"), (f"http://{HOST}1/x", f"http://{HOST}1/x"),
        ):
            self.assertEqual(relocated(given, root), seen, given)


class Thing:
    def __init__(self, **members): self.__dict__.update(members)


class Advice(unittest.TestCase):
    """The advice for an application without a route for an invoke."""

    def test_the_routes_are_named_without_those_of_the_framework(self):
        starlette = Thing(routes=[Thing(path="/openapi.json", methods={"GET", "HEAD"}), Thing(path="/chat", methods={"POST"}), Thing(path="/mcp")])
        flask = Thing(url_map=Thing(iter_rules=lambda: [Thing(rule="/static/<path:filename>", methods={"GET"}), Thing(rule="/", methods={"GET", "OPTIONS"})]))
        for app, want in ((starlette, "its routes: POST /chat, /mcp"), (flask, "its routes: GET /"),
                          (Thing(routes=[Thing(path=f"/{n}") for n in range(22)]), "its routes: " + ", ".join(f"/{n}" for n in range(20)) + " and 2 more")):
            self.assertEqual(list(no_invoke(app))[0], want)
        for app in (object(), Thing(routes=3), Thing(routes=[3])):
            self.assertEqual([line[:9] for line in no_invoke(app)], ["an invoke"])

    def test_an_invoke_finds_the_host_that_routes_find(self):
        code = "def app(environ, start_response):\n  start_response('200 OK', [])\n  return [environ['HTTP_HOST'].encode()]"
        with source(code) as agent:
            self.assertEqual(agent.invoke("x", {"Host": "shop"})[1]["response"], HOST.replace("8080", "1"))
