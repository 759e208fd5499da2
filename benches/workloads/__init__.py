"""The workloads, in the order of the table. Each has a function that returns its tables."""

import dataclasses

from workloads import at_once, cold_start, invokes, memory, packages, present, source_changed


@dataclasses.dataclass
class Workload:
    """`seconds` is its share of the quarter of an hour; `rounds` is used where the command names none."""

    key: str
    measure: object
    seconds: int
    rounds: int


ALL = [
    Workload("pushed", source_changed.pushed, 40, 7),
    Workload("answers", source_changed.answers, 60, 7),
    Workload("cold", packages.cold, 90, 3),
    Workload("cached", packages.wheels_cached, 60, 3),
    Workload("requirement", packages.requirement_added, 90, 4),
    Workload("langgraph", packages.langgraph, 180, 2),
    Workload("unchanged", source_changed.unchanged, 20, 7),
    Workload("at-once", at_once.at_once, 90, 3),
    Workload("invokes", invokes.invokes, 60, 5),
    Workload("present", present.present, 60, 20),
    Workload("memory", memory.memory, 90, 1),
    Workload("cold-start", cold_start.cold_start, 30, 7),
]
