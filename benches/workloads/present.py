"""Lists and deploys with few and many agents present: they cost the same where every statement finds its rows by an
index.

Ten agents are deployed; the others are rows in the databases, inserted while Hoistway is stopped: a stopped agent, a
deployment, a build, a record of the audit log and a tool for each."""

import contextlib
import os
import sqlite3

import agents
import floors
from client import EchoServer, load
from measure import Contestant, Table, alternate, milliseconds

DEPLOYED = 10
PRESENT = (10, 1_000, 10_000)
ID = "printf('00000000-0000-7000-8000-%012x', n)"
ROWS = {
    "agent/agent.db": "INSERT INTO agents (name, created_at, updated_at, last_number, stopped) "
                      "SELECT 'many-' || n, n, n, 1, TRUE FROM numbers",
    "gateway/gateway.db": f"""
        INSERT INTO deployments (id, agent, state, log, warnings, created_at, completed_at)
            SELECT {ID}, 'many-' || n, 'SUCCEEDED', (SELECT log FROM deployments LIMIT 1), '[]', n, n FROM numbers;
        INSERT INTO audit (id, at, key_id, key_name, action, target, request_id, outcome)
            SELECT {ID}, n, 'k', 'k', 'agent.deploy', 'many-' || n, 'r', 'success' FROM numbers""",
    "build/build.db": "INSERT INTO builds (attempt, public_id, agent, status, inputs, log, created_at, completed_at) "
                      f"SELECT {ID}, 'build-' || n, 'many-' || n, 'FAILED', n, '', n, n FROM numbers",
    "tool-registry/tool-registry.db": """
        INSERT INTO tools (name, description, base_url, port, scheme, auth_type, labels, written_by_operation,
                created_at, updated_at)
            SELECT 'many-' || n, '', base_url, port, scheme, auth_type, labels, written_by_operation, n, n
            FROM numbers, tools WHERE name = 'first' AND n < 9990""",
}


def insert(data, number):
    """Inserts the rows of `number` agents."""
    for path, statements in ROWS.items():
        with contextlib.closing(sqlite3.connect(os.path.join(data, path))) as database:
            database.execute("CREATE TEMP TABLE numbers AS WITH RECURSIVE each(n) AS "
                             f"(SELECT 1 UNION ALL SELECT n + 1 FROM each WHERE n < {number}) SELECT n FROM each")
            for statement in statements.split(";"):
                database.execute(statement)
            database.execute("ANALYZE")
            database.commit()


def prepared(context, number):
    """A running stack in which `number` agents are present."""
    stack = context.stack(f"present-{number}")
    try:
        stack.call("POST", "/api/tools", {"name": "first", "base_url": "https://first.example"})
        for agent in range(DEPLOYED):
            stack.deploy(f"agent-{agent}", agents.source("plain", 0))
            stack.call("POST", f"/api/agents/agent-{agent}/stop")
        stack.stop()
        if number > DEPLOYED:
            insert(os.path.join(stack.directory, "data"), number - DEPLOYED)
        stack.start()
        for agent in range(2):  # a deploy of a stopped agent would start it
            stack.call("POST", f"/api/agents/agent-{agent}/start")
    except BaseException:
        stack.process.kill()
        stack.process.wait(30)
        raise
    return stack


def present(context, rounds, seconds):
    with contextlib.ExitStack() as opened:
        stacks = {}
        for number in PRESENT:
            stacks[number] = prepared(context, number)
            opened.callback(stacks[number].stop)
        echo = EchoServer(context.python)
        opened.callback(echo.stop)
        loopback = Contestant("floor: loopback, an echo", lambda _: load(echo.port, "/", {}, 1, 0.02)[0], floor=True)

        def measure(work, floor=loopback):
            def contestant(number):
                return Contestant(f"Hoistway, {number:,} agents", lambda _: milliseconds(work, stacks[number]))

            return alternate([*map(contestant, PRESENT), floor], rounds, seconds / 6, warm_up=2)

        def get(path):
            return measure(lambda stack: stack.call("GET", path))

        def changed(stack):
            stack.deploy("agent-0", agents.source("plain", context.version()))

        def unchanged(stack):
            stack.deploy("agent-1", agents.source("plain", 0))

        fsync, bare = floors.fsync(context.directory), floors.bare_import(context.python)
        return [
            Table("present-agents", "list of 10 agents, of those present", "ms", get("/api/agents?limit=10")),
            Table("present-deployments", "list of 10 deployments", "ms", get("/api/deployments?limit=10")),
            Table("present-builds", "list of 10 builds", "ms", get("/api/builds?limit=10")),
            Table("present-unchanged", "unchanged redeploy, agents present", "ms", measure(unchanged, fsync)),
            Table("present-changed", "source changed → agent serves, agents present", "ms", measure(changed, bare)),
        ]
