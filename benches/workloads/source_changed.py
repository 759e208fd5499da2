"""A change of the source of an agent whose packages are installed, and no change."""

import agents
import floors
from context import hoistway
from measure import Contestant, Table, alternate, milliseconds

IMPORTS = "openai, requests"


def pushed(context, rounds, seconds):
    stack = context.packages_stack

    def deploy(number):
        source = agents.source("packages", context.version())
        took = milliseconds(stack.deploy, "agent", source, agents.PACKAGES, "built")
        stack.deploy("agent", source, agents.PACKAGES)  # its start must not slow the next one
        return took

    def build(docker, installer, number):
        version = context.version()
        return milliseconds(docker.push, f"changed-{installer}", installer, "packages", version, agents.PACKAGES)

    contestants = [Contestant("Hoistway", deploy), *context.containers(build), floors.fsync(context.directory)]
    results = alternate(contestants, rounds, seconds, warm_up=1)
    return [Table("pushed", "source changed → image pushed", "ms", results)]


def answers(context, rounds, seconds):
    stack = context.packages_stack

    def deploy(number):
        version = context.version()
        stack.deploy("agent", agents.source("packages", version), agents.PACKAGES)
        stack.invoke("agent", f"{version} ")

    def build(docker, installer, number):
        version = context.version()
        return docker.time_to_answer(f"changed-{installer}", installer, "packages", version, agents.PACKAGES)

    def by_hand(number):
        return timed_by_hand(context.uv, "packages", context.version(), agents.PACKAGES)

    floor = floors.bare_import(context.python, IMPORTS, lambda: context.site("packages", agents.PACKAGES))
    contestants = [hoistway(deploy), *context.containers(build), Contestant("uv run by hand", by_hand), floor]
    results = alternate(contestants, rounds, seconds, warm_up=1)
    return [Table("answers", "source changed → agent answers", "ms", results)]


def timed_by_hand(uv, *arguments):
    """The time until the first answer of `uv run`, without its end."""
    started = []
    try:
        return milliseconds(lambda: started.append(uv.start(*arguments)))
    finally:
        for process in started:
            process.stop()


def unchanged(context, rounds, seconds):
    stack, source = context.packages_stack, agents.source("packages", 0)

    def build(docker, installer, number):
        return milliseconds(docker.push, f"unchanged-{installer}", installer, "packages", 0, agents.PACKAGES)

    contestants = [
        hoistway(lambda _: stack.deploy("agent", source, agents.PACKAGES)), *context.containers(build),
        floors.fsync(context.directory)]
    results = alternate(contestants, rounds, seconds, warm_up=1)
    return [Table("unchanged", "unchanged redeploy", "ms", results)]
