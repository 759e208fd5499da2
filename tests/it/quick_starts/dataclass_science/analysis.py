"""Statistics of numbers that come with the request."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Samples:
    values: list[float]
    bins: int = 2


@dataclass
class Summary:
    mean: np.float64
    quartiles: np.ndarray
    histogram: dict = field(default_factory=dict)


def handler(samples: Samples) -> Summary:
    values = np.array(samples.values)
    counts, edges = np.histogram(values, bins=samples.bins)
    return Summary(values.mean(), np.percentile(values, [25, 50, 75]), dict(zip(edges[:-1].round(2), counts)))
