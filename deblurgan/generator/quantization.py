"""Residual blocks in 8 bits: the levels that their inputs are rounded to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from deblurgan.ops.layers import Quantize
from deblurgan.spec import Stage


class QuantRange(NamedTuple):
    """The range of an 8-bit type in standard deviations, where values are clamped, and its number of levels.

    A normalised plane has unit variance by construction, and each block adds one to the residual's, so no calibration
    is needed. Relative error of the generator's residual with the blocks alone in 8 bits: int8 0.06, fp8 0.16 with
    weights drawn from N(0, 0.02) at the paper's size; 0.08 and 0.016 with the shipped weights, whose planes have
    outliers. Either loses less than 0.05 dB there.
    """

    normalized: float  # relu(instance_norm(.)), which is never below 0
    residual: float
    normalized_levels: int
    residual_levels: int

    @property
    def zero(self) -> int:
        """The level that stands for 0 in int8 values that are never below 0."""
        return self.residual_levels - self.normalized_levels

    def normalized_step(self) -> float:
        """What a level of relu(instance_norm(.)) stands for."""
        return self.normalized / self.normalized_levels

    def residual_step(self, block: int) -> float:
        """What a level of the residual before a block stands for; its variance is about 1/2 + block."""
        return self.residual * math.sqrt(0.5 + block) / self.residual_levels


QUANT_RANGES: dict[Quantize, QuantRange] = {
    "int8": QuantRange(7.0, 6.0, 254, 127),
    "fp8": QuantRange(16.0, 16.0, 448, 448),
}


class Levels(NamedTuple):
    """How an input is rounded to 8 bits: a level stands for (level - zero) * step."""

    step: float
    zero: int


def input_levels(stages: Sequence[Stage], quantize: Quantize | None) -> dict[str, Levels]:
    """The levels of each input that is read in 8 bits, by the name of the stage that reads it.

    Raises ValueError for an activation inside a block that may be below 0, where its levels begin.
    """
    if quantize is None:
        return {}
    limits, residuals, found = QUANT_RANGES[quantize], 0, {}
    for before, stage in pairwise(stages):
        residuals += before.is_residual
        if stage.kind == "trunk" and before.is_residual:
            found[stage.name] = Levels(limits.residual_step(residuals - 1), 0)
        elif stage.kind == "trunk":
            if before.act != "relu":
                raise ValueError(f"quantize must be None unless blocks have ReLU, got {before.act} in {before.name}")
            found[stage.name] = Levels(limits.normalized_step(), limits.zero)
    return found
