"""Resident memory: idle, after a thousand deploys, with a hundred agents."""

import concurrent.futures
import subprocess
import time

import agents
from measure import Result, Table

DEPLOYS = 1_000
AGENTS = 100
AT_ONCE = 4
SERVERS = ("dockerd", "containerd", "docker-registry")


def fields(path):
    with open(path) as file:
        return {name: rest.split() for name, _, rest in (line.partition(":") for line in file)}


def resident(pid):
    return int(fields(f"/proc/{pid}/status")["VmRSS"][0]) / 1024


def proportional(pid):
    """Memory without what is shared with other processes, of which it has its part; none of a process that has ended."""
    try:
        return int(fields(f"/proc/{pid}/smaps_rollup")["Pss"][0]) / 1024
    except (FileNotFoundError, ProcessLookupError, KeyError):
        return 0


def processes():
    """(pid, parent, name) of every process."""
    lines = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True, timeout=30)
    return [(int(pid), int(parent), name.strip()) for pid, parent, name in
            (line.split(None, 2) for line in lines.stdout.splitlines())]


def descendants(root):
    found, all_processes = {root}, processes()
    while more := {pid for pid, parent, _ in all_processes if parent in found} - found:
        found |= more
    return found - {root}


def servers():
    """The resident memory of Docker's servers, which run anyway: other work of theirs is in it."""
    sizes = {name: resident(pid) for pid, _, name in processes() if name in SERVERS}
    return Result("dockerd, containerd, docker-registry", False, [sum(sizes.values())] if "dockerd" in sizes else [],
                  "" if "dockerd" in sizes else "dockerd does not run here")


def many_deploys(context, stack, seconds):
    """Deploys changed source, of a few agents at the same time. Returns the number of deploys."""
    end = time.monotonic() + seconds

    def deploy(agent):
        done = 0
        while done < DEPLOYS // AT_ONCE and time.monotonic() < end:
            stack.deploy(f"agent-{agent}", agents.source("plain", context.version()))
            done += 1
        return done

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(pool.map(deploy, range(AT_ONCE)))


def memory(context, _, seconds):
    with context.running("memory") as stack:
        pid = stack.process.pid
        idle = [Result("Hoistway", False, [resident(pid)]), servers()]
        deploys = many_deploys(context, stack, seconds * 0.7)
        after = [Result("Hoistway", False, [resident(pid)])]
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda n: stack.deploy(f"agent-{n}", agents.source("plain", 0)), range(AGENTS)))
        hundred = [Result("Hoistway", False, [resident(pid)])]
        sizes = [proportional(each) for each in descendants(pid)]
        bare = subprocess.Popen([context.python, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            time.sleep(0.2)  # until it waits for its input
            floor = Result("floor: a bare python3", True, [proportional(bare.pid)])
        finally:
            bare.communicate(b"\n", timeout=30)
        return [
            Table("memory-idle", "resident memory, idle", "MiB", idle),
            Table("memory-deploys", f"resident memory after {deploys:,} deploys", "MiB", after),
            Table("memory-agents", f"resident memory with {AGENTS} agents, without theirs", "MiB", hundred),
            Table("memory-agent", f"memory of one of {AGENTS} agents", "MiB",
                  [Result("Hoistway", False, [sum(sizes) / AGENTS]), floor]),
        ]
