"""Means with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

RESAMPLES, SEED = 2000, 0
ENDS = (2.5, 97.5)  # percent, of a 95 % interval


class Mean(NamedTuple):
    """Of `number` values: their mean, its 95 % interval, the lowest and the highest. NaN where there are none; no
    interval where they are of one sample."""

    number: int
    mean: float
    interval: tuple[float, float] | None
    lowest: float
    highest: float

    def to_mapping(self) -> dict[str, Any]:
        """For JSON, which knows no NaN."""
        if not self.number:
            return {"number": 0, "mean": None, "interval": None, "lowest": None, "highest": None}
        interval = None if self.interval is None else [round(end, 6) for end in self.interval]
        ends = {"lowest": round(self.lowest, 6), "highest": round(self.highest, 6)}
        return {"number": self.number, "mean": round(self.mean, 6), "interval": interval, **ends}


def mean_of(values: Sequence[float], samples: Sequence[Hashable]) -> Mean:
    """The mean of values, each of which belongs to one of the samples that are independent of one another.

    The interval is by the bootstrap over samples: percentiles of the means of 2000 draws with replacement, the same
    draws at every call.
    """
    if not values:
        return Mean(0, math.nan, None, math.nan, math.nan)
    numbers: dict[Hashable, int] = {}
    of = np.array([numbers.setdefault(sample, len(numbers)) for sample in samples])
    interval = None
    if len(numbers) > 1:
        sums, counts = np.bincount(of, weights=values), np.bincount(of)
        drawn = np.random.default_rng(SEED).integers(len(numbers), size=(RESAMPLES, len(numbers)))
        low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), ENDS)
        interval = (float(low), float(high))
    return Mean(len(values), sum(values) / len(values), interval, min(values), max(values))
