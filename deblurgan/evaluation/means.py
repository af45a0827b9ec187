"""Means with their confidence intervals."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LEVEL = 0.95  # of the intervals
DIGITS = 6  # of figures in files: those beyond may depend on the number of threads

Interval = tuple[float, float]


class Mean(NamedTuple):
    """Of `number` values: their mean, its 95 % interval, the lowest and the highest. NaN where there are none; no
    interval where they are of one sample."""

    number: int
    mean: float
    interval: Interval | None
    lowest: float
    highest: float

    def to_mapping(self) -> dict[str, Any]:
        """For JSON, which knows no NaN."""
        if not self.number:
            return {"number": 0, "mean": None, "interval": None, "lowest": None, "highest": None}
        interval = None if self.interval is None else [round(end, DIGITS) for end in self.interval]
        ends = {"lowest": round(self.lowest, DIGITS), "highest": round(self.highest, DIGITS)}
        return {"number": self.number, "mean": round(self.mean, DIGITS), "interval": interval, **ends}


def mean_of(values: Sequence[float], samples: Sequence[Hashable]) -> Mean:
    """The mean of values, each of which belongs to one of the samples that are independent of one another."""
    if not values:
        return Mean(0, math.nan, None, math.nan, math.nan)
    numbers: dict[Hashable, int] = {}
    of = [numbers.setdefault(sample, len(numbers)) for sample in samples]
    mean = sum(values) / len(values)
    departures = np.bincount(of, weights=np.asarray(values) - mean) / len(values)
    return Mean(len(values), mean, interval(mean, departures), min(values), max(values))


def interval(value: float, departures: npt.NDArray[np.float64]) -> Interval | None:
    """The 95 % interval around a value, by Student's t; None of fewer than two samples.

    departures: how much each sample moves the value, to first order, with sum 0.

    This is the cluster-robust error of a mean over samples of different sizes, and the linearised one of a ratio of
    sums. With 3 samples a bootstrap's percentiles hold the truth in 75 % of cases, these ends in 95 %.
    """
    n = len(departures)
    if n < 2:
        return None
    half = students_t(n - 1) * math.sqrt(n / (n - 1) * math.fsum(departures**2))
    return value - half, value + half


@functools.cache
def students_t(degrees: int) -> float:
    """The size that Student's t of so many degrees of freedom exceeds in 5 % of cases, to 9 digits."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _within(angle, degrees) < LEVEL else (low, angle)
    return round(math.sqrt(degrees) * math.tan(low), 9)  # the rest may depend on the machine's mathematical library


def _within(angle: float, degrees: int) -> float:
    """How probable it is that |t| is at most sqrt(degrees) tan(angle) (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    odd, square = degrees % 2, math.cos(angle) ** 2
    total, term = 0.0, math.cos(angle) if odd else 1.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= square * (power + 1) / (power + 2)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
