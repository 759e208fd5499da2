"""Packages that have to be fetched: the first deploy, LangGraph, and one more requirement."""

import agents
import floors
from measure import Contestant, Table, alternate, milliseconds
from workloads.source_changed import IMPORTS, timed_by_hand

# Small ones without requirements of their own, a new one in each round.
ADDED = ["tabulate", "humanize", "toolz", "termcolor", "wcwidth", "colorama", "zipp", "blinker", "itsdangerous",
         "docutils", "tomlkit", "pyparsing"]


def first_deploys(context, key, title, agent, requirements, imports, rounds, seconds):
    """First deploys: nothing of the packages is on the machine. Hoistway has an empty data directory in each round, and
    the alternatives have empty caches."""

    def deploy(number):
        name, version = f"{key}-{number}", context.version()

        def work():
            stack.deploy("agent", agents.source(agent, version), requirements)
            stack.invoke("agent", f"{version} ")

        with context.running(name) as stack:
            return milliseconds(work)

    def build(docker, installer, number):
        return docker.time_to_answer(f"{key}-{installer}", installer, agent, context.version(), requirements, cold=True)

    def by_hand(number):
        # It stays until the end: for half a minute ext4 makes files more slowly where many were removed.
        return timed_by_hand(context.uv, agent, context.version(), requirements, f"cache-{key}-{number}")

    def floor(name, **options):
        return floors.install_and_import(lambda: context.uv, context.python, lambda _: requirements, imports,
                                         lambda number: f"cache-{name}-{key}-{number}", **options)

    bare = floors.bare_import(context.python, imports, lambda: context.site(agent, requirements))
    contestants = [Contestant("Hoistway", deploy), *context.containers(build),
                   Contestant("uv run by hand", by_hand), floor("floor"), floor("image", archived=True), bare]
    return [Table(key, title, "ms", alternate(contestants, rounds, seconds))]


def cold(context, rounds, seconds):
    title = "first deploy, packages cold → agent answers"
    return first_deploys(context, "cold", title, "packages", agents.PACKAGES, IMPORTS, rounds, seconds)


def langgraph(context, rounds, seconds):
    title = "LangGraph (43 packages), cold → agent answers"
    imports = "langchain_openai, langgraph.graph, openai, requests"
    return first_deploys(context, "langgraph", title, "langgraph", agents.LANGGRAPH, imports, rounds, seconds)


def wheels_cached(context, rounds, seconds):
    """Nothing is downloaded by those who cache wheels: pip does not, in an image."""
    stack = context.packages_stack

    def deploy(number):
        name, version = f"another-{number}", context.version()
        stack.deploy(name, agents.source("packages", version), agents.PACKAGES)
        stack.invoke(name, f"{version} ")

    def build(docker, installer, number):
        return docker.time_to_answer(
            f"changed-{installer}", installer, "packages", context.version(), agents.PACKAGES, anew=True)

    def by_hand(number):
        return timed_by_hand(context.uv, "packages", context.version(), agents.PACKAGES)

    bare = floors.bare_import(context.python, IMPORTS, lambda: context.site("packages", agents.PACKAGES))
    contestants = [Contestant("Hoistway", lambda n: milliseconds(deploy, n)), *context.containers(build),
                   Contestant("uv run by hand", by_hand), bare]
    title = "first deploy of another agent, wheels cached → agent answers"
    return [Table("cached", title, "ms", alternate(contestants, rounds, seconds, warm_up=1))]


def requirement_added(context, rounds, seconds):
    stack = context.packages_stack

    def requirements(number):
        return agents.PACKAGES + ADDED[number] + "\n"

    def add(number):
        version = context.version()
        stack.deploy("agent", agents.source("packages", version), requirements(number))
        stack.invoke("agent", f"{version} ")

    def deploy(number):
        took = milliseconds(add, number)
        # The next one is added to what was there, and not put in the place of this one.
        stack.deploy("agent", agents.source("packages", context.version()), agents.PACKAGES)
        return took

    def build(docker, installer, number):
        version = context.version()
        return docker.time_to_answer(f"changed-{installer}", installer, "packages", version, requirements(number))

    def by_hand(number):
        return timed_by_hand(context.uv, "packages", context.version(), requirements(number))

    def site():
        return context.site("packages", agents.PACKAGES)

    # A cache of its own: the one of `uv run` has the package of this round. The others are in `site`.
    install = floors.install_and_import(
        lambda: context.uv, context.python, lambda number: ADDED[number], IMPORTS, lambda _: "cache-floor", site)
    bare = floors.bare_import(context.python, IMPORTS, site)
    contestants = [Contestant("Hoistway", deploy), *context.containers(build),
                   Contestant("uv run by hand", by_hand), install, bare]
    results = alternate(contestants, min(rounds, len(ADDED) - 1), seconds, warm_up=1)
    return [Table("requirement", "one requirement added → agent answers", "ms", results)]
