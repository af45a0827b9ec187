"""Means with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES, SEED = 2000, 0
ENDS = (2.5, 97.5)  # percent, of a 95 % interval
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
    """The mean of values, each of which belongs to one of the samples that are independent of one another.

    The interval is by the bootstrap: the middle of the means of `draws`.
    """
    if not values:
        return Mean(0, math.nan, None, math.nan, math.nan)
    numbers: dict[Hashable, int] = {}
    of = np.array([numbers.setdefault(sample, len(numbers)) for sample in samples])
    sums, counts, drawn = np.bincount(of, weights=values), np.bincount(of), draws(len(numbers))
    interval = middle(sums[drawn].sum(1) / counts[drawn].sum(1))
    return Mean(len(values), sum(values) / len(values), interval, min(values), max(values))


def draws(samples: int) -> npt.NDArray[np.int64]:
    """Samples drawn 2000 times with replacement, the same at every call: [2000, samples]. None of a single sample,
    which does not tell how others differ."""
    return np.random.default_rng(SEED).integers(samples, size=(RESAMPLES if samples > 1 else 0, samples))


def middle(values: npt.NDArray[np.float64]) -> Interval | None:
    """Between which the middle 95 % of those lie that are no NaN; None where there are none."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, ENDS)
    return float(low), float(high)
