"""Child processes find the agent's packages and modules, and none of the host's."""

import os
import subprocess
import sys
import unittest

from test_runner import Agent

CODE = """
    import os, subprocess, sys
    def go(*command, **options):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, **options)
        return done.stdout.strip() or done.stderr.strip()[-300:]
    worker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
    program = os.path.join(os.environ["TMPDIR"], "program")
    with open(program, "w") as file:
        file.write("#!/usr/bin/env python3\\nimport worker")
    os.chmod(program, 0o755)
    def forms():
        version = "python%d.%d" % sys.version_info[:2]
        return {
            "sys.executable": go(sys.executable, worker), "python": go("python", worker), "python3": go("python3", worker),
            "version": go(version, "-c", "import worker"), "-m": go(sys.executable, "-m", "worker"), "-I": go("python3", "-I", "-c", "import worker"),
            "-E": go("python3", "-E", "-c", "import worker"), "elsewhere": go("python3", "-c", "import worker", cwd="/"),
            "little": go("python3", "-c", "import worker", cwd="/", env={"PATH": os.environ["PATH"]}),
            "nothing": go("python3", "-c", "import worker", cwd="/", env={}), "shell": go("sh", "-c", "python3 -c 'import worker'"),
            "env": go("/usr/bin/env", "python3", "-c", "import worker"), "program": go(program),
            "child of a child": go("python3", "-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import worker'], env={})")}
    """
FILES = {"agent.py": CODE + "\n    def handler(): return forms()", "worker.py": "import dep, helper, own\nprint('worker', dep.D, helper.H, own.O)",
         "helper.py": "H = 5", "src/own.py": "O = 6"}
SITES = {"deps/dep.py": "D = 4", "deps/bin/tool": "#!/bin/sh\n"}


class Children(unittest.TestCase):
    def test_every_way_to_start_a_python_finds_packages_and_modules(self):
        script = {"agent.py": CODE + "\n    import json\n    print(json.dumps(forms()))"}
        for files in (FILES, {**FILES, **script}):
            for flags in (("-s", "-S"), ("-I", "-S")):
                with Agent(files, sites=SITES, flags=flags) as agent:
                    response = agent.response()
                    if isinstance(response, str):
                        import json

                        response = json.loads(response)
                    self.assertEqual(response, dict.fromkeys(response, "worker 4 5 6"), agent.stderr())
                    self.assertEqual(len(response), 14)

    def test_nothing_of_the_host_is_seen(self):
        look = "import importlib.metadata, json, sys\n" \
               "print(json.dumps([[p for p in sys.path if p.endswith('-packages') and not p.startswith(sys.prefix)],\n" \
               "                  [d.name for d in importlib.metadata.distributions()], sys.prefix != sys.base_prefix]))"
        code = "import json, shutil, subprocess, sys\ndef handler():\n" \
               "  return [json.loads(subprocess.check_output([sys.executable, __file__.replace('agent', 'look')])), shutil.which('pip')]"
        own = os.pathsep.join([os.path.dirname(os.path.realpath(sys.executable)), "/usr/bin", "/bin"])
        with Agent({"agent.py": code, "look.py": look}, flags=("-s", "-S"), env={"PATH": own}) as agent:
            response = agent.response()
            self.assertEqual(response[0], [[], [], True], agent.stderr())
            if os.path.dirname(os.path.realpath(sys.executable)) not in ("/bin", "/usr/bin"):
                self.assertFalse(str(response[1]).startswith(os.path.dirname(os.path.realpath(sys.executable))))

    def test_the_path_has_the_commands_of_packages(self):
        code = "import os, sys\ndef handler(): return [os.environ['PATH'].split(os.pathsep), sys.executable, sys.prefix]"
        with Agent({"agent.py": code}, sites=SITES, env={"PATH": "/usr/bin:/bin"}) as agent:
            path, executable, prefix = agent.response()
            self.assertEqual(path, [os.path.dirname(executable), os.path.join(agent.dir.name, "deps", "bin"), "/usr/bin", "/bin"])
            self.assertEqual(prefix, os.path.join(agent.dir.name, ".hoistway", "python"))

    def test_an_entry_file_takes_no_standard_module_away(self):
        code = """
            import concurrent.futures, subprocess, sys
            def double(x): return 2 * x
            def answer(message):
                done = subprocess.run([sys.executable, "-c", "import asyncio, concurrent.futures, email.message, json, logging; print('child')"],
                                      cwd=__file__.rpartition("/")[0], capture_output=True, text=True)
                with concurrent.futures.ProcessPoolExecutor(1) as pool:
                    return [message, done.stdout.strip() or done.stderr[-300:], pool.submit(double, 4).result()]
            """
        handler, script = code + "\n            async def handler(message): yield answer(message)", code + "\n            if __name__ == '__main__': print(answer('x')[1:])"
        for name in ("asyncio", "email", "json", "logging", "queue", "types"):
            with self.subTest(name), Agent({f"{name}.py": handler}, f"{name}.py") as agent:
                self.assertEqual(agent.event, {"event": "ready"}, agent.stderr())
                self.assertEqual(agent.response(), [["x", "child", 8]], agent.stderr())
        for entry in ("logging.py", "bot/queue.py"):
            with self.subTest(entry), Agent({entry: script}, entry) as agent:
                self.assertEqual(agent.response(), "['child', 8]", agent.stderr())

    def test_a_second_start_in_the_same_home_is_fine_and_one_without_a_home_tells(self):
        with Agent({"agent.py": "def handler(): return 1"}) as agent:
            self.assertEqual(agent.response(), 1)
            again = subprocess.run([sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1])\n"
                                    "from _hoistway_runner.environment import make\nfor _ in range(2): make(sys.argv[2], '/app', [], 'agent.py', True)",
                                    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.join(agent.dir.name, ".hoistway", "python")])
            self.assertEqual(again.returncode, 0)
