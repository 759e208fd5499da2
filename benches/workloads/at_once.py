"""Deploys of many agents at once."""

import concurrent.futures
import subprocess

import agents
from measure import Contestant, Table, alternate, milliseconds

AGENTS = 64


def at_once(context, rounds, seconds):
    """From 64 deploys that begin together to the last of 64 first answers; the agents have no packages."""
    with context.running("at-once") as stack, concurrent.futures.ThreadPoolExecutor(AGENTS) as pool:

        def each(work):
            """`work` for each agent, all at the same time."""
            return list(pool.map(work, range(AGENTS)))

        def deploy(_):
            version = context.version()

            def one(agent):
                stack.deploy(f"many-{agent}", agents.source("plain", version))
                stack.invoke(f"many-{agent}", str(version))

            return milliseconds(each, one)

        def build(docker, installer, _):
            version, started = context.version(), []

            def one(agent):
                name = f"many-{agent}"
                docker.push(name, installer, "plain", version)
                started.append(docker.start(name, str(version)))

            try:
                return milliseconds(each, one)
            finally:
                docker.remove(*started)

        def by_hand(_):
            version, started = context.version(), []

            def one(agent):
                started.append(context.uv.start("plain", version, name=f"many-{agent}"))

            try:
                context.uv_directory
                return milliseconds(each, one)
            finally:
                for process in started:
                    process.stop()

        def floor(_):
            return milliseconds(bare, context.python)

        docker = context.containers(build)[0]  # without packages, pip and uv do the same
        docker.rounds = 1
        contestants = [Contestant("Hoistway", deploy), docker, Contestant("uv run by hand", by_hand, 1),
                       Contestant(f"floor: {AGENTS} × bare python3 -c 'pass'", floor, floor=True)]
        results = alternate(contestants, rounds, seconds)
    return [Table("at-once", f"deploys of {AGENTS} agents at once → {AGENTS} first answers", "ms", results)]


def bare(python):
    processes = [subprocess.Popen([python, "-c", "pass"]) for _ in range(AGENTS)]
    for process in processes:
        if process.wait(60):
            raise RuntimeError("a bare interpreter failed")
