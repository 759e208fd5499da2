"""Invokes whose callers are gone."""

import contextlib
import os
import socket
import unittest
from unittest import mock

from _hoistway_runner import callers
from test_runner import WAIT, read_all, source, until


def hang_up(peer):
    peer.close()


def half_close(peer):
    peer.shutdown(socket.SHUT_WR)


class Async(unittest.TestCase):
    """Code on the event loop is cancelled."""

    HANDLER = """
        import asyncio
        state = {"running": 0, "cancelled": 0}
        async def handler(message):
            if message == "count":
                %s
            %s
            state["running"] += 1
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                state["cancelled"] += 1
                raise
            finally:
                state["running"] -= 1
        """
    APP = """
        import asyncio, json
        state = {"running": 0, "cancelled": 0}
        async def app(scope, receive, send):
            if scope["type"] != "http": return
            if json.loads((await receive())["body"])["message"] == "hang":
                state["running"] += 1
                try:
                    await asyncio.sleep(600)
                except asyncio.CancelledError:
                    state["cancelled"] += 1
                    raise
                finally:
                    state["running"] -= 1
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
            await send({"type": "http.response.body", "body": json.dumps({"response": state}).encode()})
        """

    def test_handlers_generators_and_applications_are_cancelled(self):
        generator = self.HANDLER % ("yield state; return", "yield 'begun'")
        for code, path in ((self.HANDLER % ("return state", "pass"), "/invoke"), (generator, "/invoke"), (generator, "/invoke/stream"),
                           (self.APP, "/invoke"), (self.APP, "/invoke/stream")):
            for leave in (hang_up, half_close):
                with self.subTest(code=code[:200], path=path, leave=leave.__name__), source(code) as agent:
                    count = lambda: (lambda answer: answer[0] if isinstance(answer, list) else answer)(agent.response("count"))
                    peers = [agent.connect("hang", path) for _ in range(3)]
                    until(lambda: count() == {"running": 3, "cancelled": 0})
                    for peer in peers:
                        leave(peer)
                    until(lambda: count() == {"running": 0, "cancelled": 3})
                    for peer in peers:
                        peer.close()
                    self.assertEqual(agent.terminate(), 0)
                    self.assertEqual(agent.stderr(), "")

    def test_whoever_waits_is_answered(self):
        code = "import asyncio\nasync def handler(message):\n  await asyncio.sleep(0.3)\n  return message"
        with source(code) as agent:
            lost, kept = agent.connect("lost"), agent.connect("kept")
            lost.close()
            self.assertIn(b'"response": "kept"', read_all(kept))
            self.assertEqual(agent.response("next"), "next")

    def test_a_handler_that_does_not_let_itself_be_cancelled_disturbs_nobody(self):
        code = """
        import asyncio
        async def handler(message):
            if message == "hang":
                print("in", flush=True)
                try:
                    await asyncio.sleep(600)
                except asyncio.CancelledError:
                    print("kept on", flush=True)
            return message
        """
        with source(code) as agent:
            peer = agent.connect("hang")
            until(lambda: "in" in agent.stdout())
            peer.close()
            until(lambda: "kept on" in agent.stdout())
            self.assertEqual((agent.response("x"), agent.stderr()), ("x", ""))


class BlockedLoop(unittest.TestCase):
    """Code that blocks the event loop cannot be cancelled."""

    SOON = """
        import sys
        sys.modules["_hoistway_runner.callers"].HELD_SECONDS = 1
        """
    HANDLER = SOON + """
        import asyncio, time
        def block():
            print("in", flush=True)
            while True:
                time.sleep(0.2)
        async def inner(): block()
        async def handler(message):
            if message == "alive":
                return message
            %s
        """
    APP = SOON + """
        import time
        async def app(scope, receive, send):
            if scope["type"] == "http":
                print("in", flush=True)
                while True:
                    time.sleep(0.2)
        """

    def test_an_agent_whose_loop_is_blocked_for_nobody_ends_with_the_stack(self):
        codes = [self.APP, self.HANDLER % "block()", self.HANDLER % "await asyncio.gather(inner())",
                 (self.HANDLER % "yield 'x'; block()").replace("return message", "return"),
                 self.HANDLER % "try: print('begun', flush=True); await asyncio.sleep(600)\n            finally: block()"]
        with contextlib.ExitStack() as stack:  # all at once, since each takes some time
            agents = [stack.enter_context(source(code)) for code in codes]
            for code, agent in zip(codes, agents):
                blocking = agent.connect("hang")
                until(lambda: ("begun" if "begun" in code else "in") in agent.stdout())
                blocking.close()
                until(lambda: "in\n" in agent.stdout())
                stack.enter_context(contextlib.closing(agent.connect("alive")))
            for code, agent in zip(codes, agents):
                with self.subTest(code):
                    self.assertEqual(agent.process.wait(WAIT), 1)
                    self.assertRegex(agent.stderr(), r"request \w+ was given up and still runs:\n")
                    self.assertRegex(agent.stderr(), r'  File "/app/agent.py", line \d+, in (block|app)\n    time.sleep\(0.2\)\n')
                    self.assertIn("the agent cannot go on: its event loop stays with an invoke whose caller has given up", agent.stderr())
                    self.assertNotIn("hoistway_runner", agent.stderr())

    def test_one_whose_loop_works_for_somebody_goes_on(self):
        both = [socket.socketpair() for _ in range(2)]
        with contextlib.ExitStack() as stack:
            (lost, gone), (kept, _) = [[stack.enter_context(end) for end in pair] for pair in both]
            gone.close()
            patched = stack.enter_context(mock.patch.multiple(callers, HELD_SECONDS=0.05, stacks=lambda lost: "", leave=mock.DEFAULT))
            for held, wanted in (([kept], False), ([kept, lost], False), ([], False), ([lost], True)):
                slots = callers.Slots(4, str)
                slots.loop = mock.Mock(held_for=lambda: held)
                self.assertEqual([slots.take(lost), slots.take(kept)], [True, True])
                until(lambda: patched["leave"].called if wanted else not slots.watched)
                self.assertEqual(patched["leave"].called, wanted, held)

    def test_one_whose_loop_goes_on_in_time_stays(self):
        with source("import time\nasync def handler(message):\n  print('in', flush=True)\n  time.sleep(message == 'slow')\n  return message") as agent:
            slow = agent.connect("slow")
            until(lambda: "in" in agent.stdout())
            slow.close()
            self.assertEqual([agent.response("next"), agent.response("last"), agent.stderr()], ["next", "last", ""])


class Scripts(unittest.TestCase):
    def test_the_processes_of_a_script_end_with_its_caller(self):
        code = """
        import os, subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        with open(os.environ["TMPDIR"] + "/pids", "w") as file: file.write(f"{os.getpid()} {child.pid}")
        child.wait()
        """
        for leave in (hang_up, half_close):
            with self.subTest(leave.__name__), source(code) as agent:
                peer, pids = agent.connect("hang"), os.path.join(agent.dir.name, "pids")
                until(lambda: os.path.exists(pids) and agent.read("pids"))
                leave(peer)
                for pid in agent.read("pids").split():
                    until(lambda: not alive(pid))
                peer.close()
                self.assertEqual(agent.stderr(), "")


def alive(pid):
    """Whether a process runs; an ended one may be a zombie for a while."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Threads(unittest.TestCase):
    CODE = """
    import time
    def handler(message):
        print("in", flush=True)
        if message == "wait":
            time.sleep(7)
        while message == "hang":
            time.sleep(0.2)
        return message
    """

    def test_an_agent_whose_threads_are_all_held_for_nobody_ends_with_their_stacks(self):
        with source(self.CODE) as agent:
            waiting = agent.connect("wait")
            peers = [agent.connect("hang") for _ in range(63)]
            until(lambda: agent.stdout().count("in") == 64)
            for peer in peers:
                peer.close()
            self.assertEqual(agent.invoke("x")[0], 503)
            self.assertIn(b'"response": "wait"', read_all(waiting), "who still waits is answered")
            self.assertEqual(agent.process.wait(WAIT), 1)
            stderr = agent.stderr()
            self.assertRegex(stderr, r"request \w+ and 62 more was given up and still runs:\n")
            self.assertIn('  File "/app/agent.py", line 8, in handler\n    time.sleep(0.2)\n', stderr)
            self.assertIn("the agent cannot go on: 63 invokes still run whose callers have given up", stderr)
            self.assertNotIn("hoistway_runner", stderr)

    def test_full_slots_whose_callers_wait_are_only_busy(self):
        with mock.patch.multiple(callers, GIVEN_UP_SECONDS=0.05, stacks=lambda lost: "", leave=mock.DEFAULT) as patched:
            leave = patched["leave"]
            with contextlib.ExitStack() as stack:
                pairs = [socket.socketpair() for _ in range(2)]
                for pair in pairs:
                    for end in pair:
                        stack.enter_context(end)
                slots = callers.Slots(2, str)
                self.assertEqual([slots.take(pair[0]) for pair in pairs], [True, True])
                self.assertFalse(slots.take(None))
                until(lambda: not slots.watched)
                leave.assert_not_called()
                slots.give_back(pairs[0][0])
                self.assertTrue(slots.take(pairs[0][0]))
                for pair in pairs:
                    pair[1].close()
                self.assertFalse(slots.take(None))
                until(lambda: leave.called)


class Standing(unittest.TestCase):
    """An invoke that takes too long shows its stack."""

    SLEEPS = "import asyncio, time\ndef deep():\n  time.sleep(600)\n"
    WAITS = "import asyncio\nasync def deep():\n  await asyncio.sleep(600)\n"
    APP = "async def app(scope, receive, send):\n  if scope['type'] == 'http': await deep()"

    def standing(self, agent, request_id, token="t"):
        return agent.request("GET", "/stack", headers={"X-Request-ID": request_id, "X-Hoistway-Invoke-Token": token})

    def invoke(self, agent, stack, path="/invoke"):
        body = b'{"message": "x"}'
        peer = stack.enter_context(socket.create_connection(("127.0.0.1", agent.port), WAIT))
        peer.sendall(b"POST %b HTTP/1.1\r\nHost: a\r\nX-Hoistway-Invoke-Token: t\r\nX-Request-ID: slow\r\nContent-Length: %d\r\n\r\n%b" % (
            path.encode(), len(body), body))

    def test_threads_tasks_and_those_that_hold_the_loop(self):
        for code, line in ((self.SLEEPS + "def handler(message):\n  deep()", "time.sleep(600)"),
                           (self.SLEEPS + "def handler(message):\n  deep()\n  yield 1", "time.sleep(600)"),
                           (self.SLEEPS + "async def handler(message):\n  deep()", "time.sleep(600)"),
                           (self.WAITS + "async def handler(message):\n  await deep()", "await asyncio.sleep(600)"),
                           (self.WAITS + "async def handler(message):\n  await deep()\n  yield 1", "await asyncio.sleep(600)"),
                           (self.WAITS + self.APP, "await asyncio.sleep(600)")):
            for path in ("/invoke", "/invoke/stream"):
                with self.subTest(code=code, path=path), source(code, config={"token": "t"}) as agent, contextlib.ExitStack() as stack:
                    self.invoke(agent, stack, path)
                    until(lambda: any(line in one for one in self.standing(agent, "slow")[1]["details"]))
                    text = "\n".join(self.standing(agent, "slow")[1]["details"])
                    self.assertRegex(text, r'File "/app/agent.py", line \d, in (handler|app)\n')
                    self.assertIn('File "/app/agent.py", line 3, in deep', text)
                    self.assertNotIn("hoistway_runner", text)

    def test_a_long_stack_keeps_both_ends(self):
        with source("import time\ndef deeper(n): time.sleep(600) if n == 0 else again(n)\ndef again(n): deeper(n - 1)\n"
                    "def handler(message): deeper(29)", config={"token": "t"}) as agent, contextlib.ExitStack() as stack:
            self.invoke(agent, stack)
            until(lambda: len(self.standing(agent, "slow")[1]["details"]) == 20)
            details = self.standing(agent, "slow")[1]["details"]
            self.assertIn("in handler", details[0])
            self.assertIn("  …", details)
            self.assertIn("time.sleep(600)", details[-1])

    def test_nobody_else_is_told_and_nothing_of_other_requests(self):
        with source(self.SLEEPS + "def handler(message): deep()", config={"token": "t"}) as agent, contextlib.ExitStack() as stack:
            self.invoke(agent, stack)
            until(lambda: self.standing(agent, "slow")[1]["details"])
            self.assertEqual(self.standing(agent, "slow", "guessed")[0], 403)
            self.assertEqual(self.standing(agent, "other")[:2], (200, {"details": []}))
