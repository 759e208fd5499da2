"""Tests of warm parents, in the role of their launcher."""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

from _hoistway_runner import serving
from test_runner import RUNNER, WAIT, Agent, write_files

CONFINED = {"namespaces": [], "user": None, "filters": []}


def memory_file(content):
    """Returns a descriptor of JSON in memory."""
    file = os.memfd_create("json")
    os.write(file, json.dumps(content).encode())
    os.lseek(file, 0, os.SEEK_SET)
    return file


class Forked(Agent):
    """An agent of a warm parent."""

    def __init__(self, parent, files, entry="agent.py", env=None):
        self.dir = tempfile.TemporaryDirectory()
        self.app = os.path.join(self.dir.name, "app")
        write_files(self.app, files)
        self.out, self.err = (open(os.path.join(self.dir.name, name), "w+b") for name in ("stdout", "stderr"))
        self.start, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.start.settimeout(WAIT)
        self.start.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        socket.send_fds(parent.control, [b"fork only"], [theirs.fileno()])
        theirs.close()
        self.first = self.step(b"forked")
        confined = memory_file(CONFINED)
        socket.send_fds(self.start, [b"file"], [confined])
        os.close(confined)
        if self.step(b"confined") != self.first:
            raise AssertionError("another process than the forked one is confined")
        self.pid = self.step(b"started")
        with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
            self.port = listener.getsockname()[1]
            reader, writer = os.pipe()
            self.notify = open(reader)
            config = memory_file({})
            stack.callback(os.close, writer)
            stack.callback(os.close, config)
            spec = {"args": ["--app", self.app, "--site", parent.site], "cwd": self.app,
                    "fd_options": ["--listen-fd", "--notify-fd", "--config-fd"],
                    "env": {"PATH": os.environ["PATH"], "USER_ENTRY_POINT": entry, "HOME": self.dir.name,
                            "TMPDIR": self.dir.name, **(env or {})}}
            file = memory_file(spec)
            stack.callback(os.close, file)
            fds = [self.out.fileno(), self.err.fileno(), listener.fileno(), writer, config, file]
            socket.send_fds(self.start, [b"file"], fds)

    def step(self, name):
        """Waits until the agent has come so far. Returns the process that says so."""
        said, ancillary, _, _ = self.start.recvmsg(100, socket.CMSG_SPACE(12))
        assert said == name, said
        return struct.unpack("3i", ancillary[0][2])[0]

    def __exit__(self, *_):
        for process in (self.pid, self.first):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, 9)
        for file in (self.notify, self.out, self.err, self.start):
            file.close()
        self.dir.cleanup()


class Parent:
    """A warm parent with packages of its own."""

    def __init__(self, packages, modules, careful=False):
        self.dir = tempfile.TemporaryDirectory()
        self.site = os.path.join(self.dir.name, "site")
        write_files(self.site, packages)
        app = os.path.join(self.dir.name, "app")
        os.mkdir(app)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(WAIT)
        reader, writer = os.pipe()
        config = memory_file({"modules": modules, "careful": careful})
        fds = (theirs.fileno(), writer, config)
        command = [sys.executable, "-s", "-S", RUNNER, "--app", app, "--site", self.site, "--parent-fd", str(fds[0]),
                   "--notify-fd", str(writer), "--config-fd", str(config)]
        self.process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL,
                                        env={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", "HOME": "/nonexistent"})
        for fd in (writer, config):
            os.close(fd)
        theirs.close()
        with open(reader) as notify:
            self.report = json.loads(notify.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.control.close()
        self.process.wait()
        self.dir.cleanup()


class LaterModules(unittest.TestCase):
    """The modules that a forked process has imported by itself."""

    def later(self, earlier, *modules):
        with unittest.mock.patch.object(sys, "modules", dict.fromkeys(modules)):
            return serving.imported_since(frozenset(earlier))

    def test_they_are_in_the_order_of_their_imports(self):
        self.assertEqual(self.later("ab", "a", "b", "d", "c"), ["d", "c"])
        self.assertEqual(self.later("ab", "a", "b"), [])

    def test_one_that_is_imported_again_is_no_later_one(self):
        self.assertEqual(self.later("ab", "b", "c", "a", "d"), ["c", "d"])

    def test_an_import_meanwhile_is_no_failure(self):
        class Changing(dict):
            def __reversed__(self):
                raise RuntimeError("dictionary changed size during iteration")

        with unittest.mock.patch.object(sys, "modules", Changing.fromkeys("abcd")):
            self.assertEqual(serving.imported_since(frozenset("ab")), ["c", "d"])


class WarmParentTest(unittest.TestCase):

    def test_agents_share_imported_packages_and_nothing_else(self):
        package = {"shared/__init__.py": "import os\nimported_by = os.getpid()\nstate = []\n"}
        code = """
            import os, random, shared, sys
            print("started")
            def handler(message):
                shared.state.append(message)
                return [shared.imported_by, os.getpid(), shared.state, os.environ.get("OWN"), random.random(), os.getcwd(),
                        sys.argv, os.getsid(0), sorted(os.listdir("/proc/self/fd"))[:3]]
        """
        with Parent(package, ["shared"]) as parent:
            self.assertEqual((parent.report["left_out"], parent.report["reads"]), ({}, []))
            self.assertIn("shared", parent.report["names"])
            with Forked(parent, {"agent.py": code}, env={"OWN": "one"}) as one, \
                    Forked(parent, {"agent.py": code}, env={"OWN": "two"}) as two:
                self.assertEqual((one.event, two.event), ({"event": "ready"}, {"event": "ready"}))
                first, second = one.response("x"), two.response("y")
                self.assertEqual({first[0], second[0]}, {parent.process.pid})
                self.assertEqual((first[1], second[1]), (one.pid, two.pid))
                self.assertEqual((first[2:4], second[2:4]), ([["x"], "one"], [["y"], "two"]))
                self.assertNotEqual(first[4], second[4])
                self.assertEqual(first[5:8], [one.app, [os.path.join(one.app, "agent.py")], one.pid])
                self.assertEqual((one.stdout(), two.stderr()), ("started\n", ""))

    def test_a_failure_is_told_as_ever_and_the_parent_goes_on(self):
        with Parent({"dep.py": ""}, ["dep"]) as parent:
            with Forked(parent, {"agent.py": "import dep\nraise ValueError('no')\ndef handler(): pass"}) as agent:
                self.assertEqual((agent.event["event"], agent.event["error"]), ("failed", "ValueError: no"))
            with Forked(parent, {"agent.py": "import dep\ndef handler(): return 'yes'"}) as agent:
                self.assertEqual(agent.response(), "yes")

    def test_modules_that_cannot_be_imported_are_left_out(self):
        packages = {"good.py": "", "bad.py": "raise RuntimeError('not here')", "exits.py": "raise SystemExit(3)"}
        with Parent(packages, ["bad", "exits", "missing", "good"]) as parent:
            self.assertEqual(sorted(parent.report["left_out"]), ["bad", "exits", "missing"])
            self.assertEqual(parent.report["left_out"]["bad"], "RuntimeError: not here")
            self.assertIn("good", parent.report["names"])

    def test_packages_with_threads_files_or_processes_are_found_and_left_out(self):
        packages = {
            "good.py": "", "uses.py": "import threaded",
            "threaded.py": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n",
            "opened.py": "import tempfile\nfile = tempfile.TemporaryFile()\n",
            "started.py": "import subprocess\nprocess = subprocess.Popen(['sleep', '60'])\n",
            "exits.py": "import os\nos._exit(3)\n",
            "asks.py": "import socket\nsocket.socket().connect_ex(('127.0.0.1', 1))\n",
            "locks.py": "import mmap\nmemory = mmap.mmap(-1, 4096)\n",
            "timer.py": "import signal\nsignal.setitimer(signal.ITIMER_REAL, 3600)\n",
        }
        with Parent(packages, ["good", "threaded"]) as parent:
            self.assertEqual(parent.report, {"unsuitable": "threaded starts a thread when it is imported"})
        with Parent(packages, ["gevent"]) as parent:
            self.assertEqual(parent.report, {"unsuitable": "gevent changes modules that must not be in use yet"})
        modules = ["uses", "opened", "started", "exits", "asks", "locks", "timer", "good"]
        with Parent(packages, modules, careful=True) as parent:
            left_out = parent.report["left_out"]
            self.assertEqual(sorted(left_out), ["asks", "exits", "locks", "opened", "started", "timer", "uses"])
            self.assertIn("uses the network", left_out["asks"])
            self.assertIn("shares memory", left_out["locks"])
            self.assertIn("starts a timer", left_out["timer"])
            self.assertIn("starts a thread", left_out["uses"])
            self.assertRegex(left_out["opened"], "^opens .* when it is imported$")
            self.assertIn("starts a process", left_out["started"])
            self.assertIn("good", parent.report["names"])
            with Forked(parent, {"agent.py": "import good, uses\ndef handler(): return 'yes'"}) as agent:
                self.assertEqual(agent.response(), "yes")

    def test_what_packages_read_and_change_of_the_environment_is_known(self):
        packages = {"reads.py": "import os\nos.environ.get('LEVEL')\nos.getenv('MODE')\n'KEY' in os.environ\n"
                                "os.environ['SET_BY_PACKAGE'] = '1'\n",
                    "whole.py": "import os\nvariables = dict(os.environ)\n"}
        code = "import os, reads\ndef handler(): return os.environ['SET_BY_PACKAGE']"
        with Parent(packages, ["reads"]) as parent:
            self.assertEqual(parent.report["reads"], ["KEY", "LEVEL", "MODE"])
            with Forked(parent, {"agent.py": code}) as agent:
                self.assertEqual(agent.response(), "1")
        with Parent(packages, ["whole"]) as parent:
            self.assertIsNone(parent.report["reads"])
        with Parent({"early.pth": "import os; os.environb.get(b'EARLY')"}, []) as parent:
            self.assertIn("EARLY", parent.report["reads"])

    def test_files_and_modules_that_packages_look_for_are_known(self):
        packages = {"looks.py": "import os, pathlib\nos.path.exists('settings.toml')\npathlib.Path('conf/a.ini').exists()\n"
                                "try:\n    import fast_version\nexcept ImportError:\n    pass\n",
                    "wide/part.py": ""}
        with Parent(packages, ["looks", "wide.part"]) as parent:
            self.assertEqual(parent.report["files"], ["conf/a.ini", "settings.toml"])
            self.assertLessEqual({"looks", "fast_version", "wide"}, set(parent.report["names"]))
            self.assertIn("wide", parent.report["namespaces"])

    def test_what_packages_look_for_among_others_is_known(self):
        packages = {"looks.py": "import importlib.metadata, importlib.util, os\n"
                                "importlib.util.find_spec('faster')\nimportlib.metadata.entry_points(group='looks')\n"
                                "here = os.path.dirname(__file__)\nos.path.exists(os.path.join(here, 'data', 'list'))\n"
                                "try:\n    importlib.metadata.version('Fast_JSON')\n"
                                "except importlib.metadata.PackageNotFoundError:\n    pass\n",
                    "lists.py": "import pkgutil\nall = list(pkgutil.iter_modules())\n",
                    "names.py": "import importlib.metadata as m\nall = {d.metadata['Name'] for d in m.distributions()}\n",
                    "some-1.dist-info/METADATA": "Name: some\n",
                    "plain.py": ""}
        with Parent(packages, ["looks"]) as parent:
            found = parent.report["packages"]
            self.assertFalse(found["lists"])
            self.assertIn("faster", parent.report["names"])
            self.assertLessEqual({"data", "gevent"}, set(found["entries"]))
            self.assertEqual(found["distributions"], ["fast-json"])
        for module in ("lists", "names"):
            with Parent(packages, [module]) as parent:
                self.assertTrue(parent.report["packages"]["lists"], module)
        with Parent(packages, ["plain"]) as parent:
            self.assertEqual(parent.report["packages"]["entries"], ["eventlet", "gevent"])

    def test_an_agent_finds_packages_that_its_parent_does_not_have(self):
        packages = {"one.py": "import os\npid = os.getpid()\n"}
        code = "import one, two\ndef handler(): return [one.pid, two.VALUE]"
        with Parent(packages, ["one"]) as parent:
            before, more = os.stat(parent.site), parent.site + ".new"
            write_files(more, {**packages, "two.py": "VALUE = 2"})
            os.utime(more, ns=(before.st_atime_ns, before.st_mtime_ns))  # so that a cached listing looks like the newest
            os.rename(parent.site, parent.site + ".old")
            os.rename(more, parent.site)
            with Forked(parent, {"agent.py": code}) as agent:
                self.assertEqual(agent.response(), [parent.process.pid, 2])

    def test_packages_may_keep_the_standard_output(self):
        packages = {"keeps.py": "import logging, sys\nout = sys.stdout\nlog = logging.getLogger('keeps')\n"
                                "log.addHandler(logging.StreamHandler(sys.stdout))\nlog.setLevel('INFO')\n"}
        code = "import keeps\ndef handler():\n    print('one', file=keeps.out)\n    keeps.log.info('two')\n    return 'done'"
        with Parent(packages, ["keeps"]) as parent, Forked(parent, {"agent.py": code}) as agent:
            self.assertEqual(agent.response(), "done")
            self.assertEqual(agent.stdout(), "one\ntwo\n")
            self.assertEqual(agent.stderr(), "")

    def test_exit_hooks_and_threads_of_agents_end_as_elsewhere(self):
        packages = {"hooks.py": "import atexit, weakref\nclass Thing: pass\nthing = Thing()\n"
                                "weakref.finalize(thing, print, 'finalized')\natexit.register(print, 'package')\n"}
        code = ("import atexit, hooks, threading\natexit.register(print, 'agent', end='')\n"
                "event = threading.Event()\n"
                "thread = threading.Thread(target=lambda: (event.wait(), print('thread')))\nthread.start()\n"
                "threading._register_atexit(event.set)\ndef handler():\n    return 'done'")
        with Parent(packages, ["hooks"]) as parent, Forked(parent, {"agent.py": code}) as agent:
            self.assertEqual(agent.response(), "done")
            os.kill(agent.pid, signal.SIGTERM)
            self.assertEqual(json.loads(agent.start.recv(100)), {"code": 0})
            self.assertEqual(agent.stdout(), "thread\nagentpackage\nfinalized\n")

    def test_agents_have_random_numbers_of_their_own(self):
        packages = {"dice.py": "import random\nown, fixed = random.Random(), random.Random(1)\n"}
        code = "import dice, random\ndef handler(): return [dice.own.random(), random.random(), dice.fixed.random()]"
        with Parent(packages, ["dice"]) as parent:
            with Forked(parent, {"agent.py": code}) as one, Forked(parent, {"agent.py": code}) as other:
                mine, theirs = one.response(), other.response()
        self.assertNotEqual(mine[0], theirs[0])
        self.assertNotEqual(mine[1], theirs[1])
        self.assertEqual(mine[2], theirs[2])

    def test_the_parent_ends_with_its_launcher(self):
        with Parent({}, []) as parent:
            parent.control.close()
            self.assertEqual(parent.process.wait(WAIT), 0)

    def test_the_end_of_an_agent_is_as_ever(self):
        code = "import atexit, sys\natexit.register(print, 'goodbye')\ndef handler(): return sys.flags.no_site"
        with Parent({}, []) as parent, Forked(parent, {"agent.py": code}) as agent:
            self.assertEqual(agent.response(), 1)
            os.kill(agent.pid, 15)
            self.assertEqual(agent.notify.read(), "")
            while os.path.exists(f"/proc/{agent.pid}") and "goodbye" not in agent.stdout():
                pass
            self.assertEqual(agent.stdout(), "goodbye\n")
