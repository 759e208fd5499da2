"""ASGI applications whose code blocks the shared event loop."""

import http.client
import json
import os
import unittest

from test_runner import WAIT, Agent, source

APP = """
    import os, time

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"first", "more_body": %s})
        while not os.path.exists("seen"):  # the caller has the first piece
            time.sleep(0.01)
        await send({"type": "http.response.body", "body": b"second"})
    """


def write(agent):
    open(os.path.join(agent.dir.name, "seen"), "w").close()


class Blocked(unittest.TestCase):
    def test_what_is_sent_leaves_before_the_code_that_blocks_behind_it(self):
        with source(APP % True) as agent:
            connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=WAIT)
            connection.request("POST", "/invoke/stream", json.dumps({"message": "x"}))
            response = connection.getresponse()
            self.assertIn(b"first", response.readline(), "while the application blocks")
            write(agent)
            self.assertIn(b"second", response.read())
            connection.close()

    def test_an_answer_leaves_before_the_work_behind_it(self):
        with source(APP % False) as agent:
            self.assertEqual(agent.response(), "first")
            write(agent)

    def test_a_start_up_that_sets_a_signal_handler_fails_and_says_where_it_belongs(self):
        app = """
        import asyncio, signal
        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                %s
        """
        told = "try: signal.signal(signal.SIGTERM, print)\n                except ValueError as e: await send({'type': 'lifespan.startup.failed', 'message': str(e)})"
        for call in ("signal.signal(signal.SIGTERM, print)", "asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)", told):
            with self.subTest(call), Agent({"agent.py": app % call}) as agent:
                self.assertEqual(agent.event["event"], "failed")
                self.assertIn("only works in main thread", agent.event["error"])
                self.assertTrue(agent.stderr().splitlines()[-1].startswith("signals are for the main thread: set a handler when the file is imported"), agent.stderr())

    def test_a_start_up_that_does_not_end_shows_where_it_is(self):
        waits = """
        import asyncio, contextlib, time
        async def inner(): await asyncio.Event().wait()
        @contextlib.asynccontextmanager
        async def lifespan():
            await inner()
            yield
        async def app(scope, receive, send):
            async with lifespan(): pass
        """
        for code, lines in ((waits, ("await inner()", "asyncio.Event().wait()")), (waits.replace("await asyncio.Event().wait()", "time.sleep(60)"), ("await inner()", "time.sleep(60)"))):
            with self.subTest(lines), Agent({"agent.py": code}, config={"start_seconds": 1.5}) as agent:
                self.assertEqual(agent.event["code"], "start_timeout")
                text = "\n".join(agent.event["details"])
                places = [text.find(line) for line in lines]
                self.assertTrue(0 < places[0] < places[1], text)
                self.assertNotIn("_hoistway_runner", text)
