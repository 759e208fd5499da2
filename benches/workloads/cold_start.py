"""The start of a stopped agent."""

import agents
import floors
from measure import Contestant, Table, alternate, milliseconds
from workloads.source_changed import IMPORTS, timed_by_hand


def cold_start(context, rounds, seconds):
    stack, containers = context.packages_stack, {}
    stack.deploy("agent", agents.source("packages", 0), agents.PACKAGES)

    def start(number):
        stack.call("POST", "/api/agents/agent/stop")

        def work(_):
            stack.call("POST", "/api/agents/agent/start")
            stack.invoke("agent", "0 ")

        return milliseconds(work, number)

    def container(docker, installer, _):
        if installer not in containers:
            name = f"unchanged-{installer}"
            docker.push(name, installer, "packages", 0, agents.PACKAGES)
            containers[installer] = docker.start(name, "0 ")
        docker.run("stop", "--time", "0", containers[installer])

        def work():
            docker.run("start", containers[installer])
            docker.answer(containers[installer], "0 ")

        return milliseconds(work)

    def by_hand(_):
        return timed_by_hand(context.uv, "packages", 0, agents.PACKAGES)

    docker = context.containers(container)[0]  # who installed the packages makes no difference
    docker.name = "docker start"
    floor = floors.bare_import(context.python, IMPORTS, lambda: context.site("packages", agents.PACKAGES))
    contestants = [Contestant("Hoistway", start), docker, Contestant("uv run by hand", by_hand), floor]
    try:
        results = alternate(contestants, rounds, seconds, warm_up=1)
    finally:
        if containers:
            context.docker.remove(*containers.values())
    return [Table("cold-start", "cold start of a stopped agent → first answer", "ms", results)]
