"""Alternating measurements within a time budget, and their medians and spreads."""

import dataclasses
import statistics
import time


class Unavailable(Exception):
    """Something to compare with cannot be had on this machine; the text says why."""


@dataclasses.dataclass
class Contestant:
    """One way to do a workload. `run` is called with the number of the round and returns what it measured, in the
    workload's unit. `rounds` limits those that take long."""

    name: str
    run: object
    rounds: int = 10**6
    floor: bool = False


@dataclasses.dataclass
class Result:
    name: str
    floor: bool
    samples: list
    missing: str = ""

    @property
    def median(self):
        return statistics.median(self.samples) if self.samples else None


@dataclasses.dataclass
class Table:
    """The results of one workload. `unit` is ms, MiB or /s; of a rate, more is better."""

    key: str
    title: str
    unit: str
    results: list

    def cost(self, result, other):
        """How many times the cost of `other` this is; none where either is missing."""
        if not (result and other and result.median and other.median):
            return None
        return other.median / result.median if self.unit == "/s" else result.median / other.median

    def to_json(self):
        results = [{"name": r.name, "floor": r.floor, "missing": r.missing or None, "median": r.median,
                    "samples": r.samples} for r in self.results]
        return {"workload": self.key, "title": self.title, "unit": self.unit, "results": results}


def milliseconds(work, *arguments):
    start = time.perf_counter()
    work(*arguments)
    return (time.perf_counter() - start) * 1000


def alternate(contestants, rounds, seconds, warm_up=0):
    """Runs the contestants in turn until `rounds` were measured or `seconds` have passed; each at least once. A round
    that would not end in time does not begin. The first `warm_up` rounds are not counted."""
    results = [Result(each.name, each.floor, []) for each in contestants]
    end, longest = time.monotonic() + seconds, 0
    for number in range(warm_up + rounds):
        start = time.monotonic()
        if number > warm_up and start + longest > end:
            break
        for each, result in zip(contestants, results):
            if result.missing or len(result.samples) >= each.rounds:
                continue
            try:
                value = each.run(number)
            except Unavailable as why:
                result.missing = str(why)
                continue
            if number >= warm_up or each.rounds == 1:
                result.samples.append(value)
        longest = time.monotonic() - start
    return results
