"""What the strips of a pass take beside the planes, counted as `strips` and `torch_strips` allocate it."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch

from deblurgan.generator.strips import Shape, rows_read


class Bytes(NamedTuple):
    """At the most while rows are computed, and what is kept of them for the next ones."""

    peak: int
    kept: int


def strip_bytes(shape: Shape, number: int, dtype: torch.dtype, away: Collection[int] = ()) -> int:
    """At the most in the pass of that number, in `dtype`; the rows of the planes `away` must be copied to be read."""
    counts = _Counts(shape, number, dtype, away)
    stage = shape.passes[number].stage
    rows = min(shape.rows, shape.h) // shape.spec.stages[stage].scale_out
    strips = (False, True) if shape.h > shape.rows else (False,)
    return max(counts.output(stage, rows, follows).peak for follows in strips)


class _Counts:
    """`follows` tells whether rows above have been computed before."""

    def __init__(self, shape: Shape, number: int, dtype: torch.dtype, away: Collection[int]) -> None:
        self.shape, self.stages, self.source = shape, shape.spec.stages, shape.passes[number].source
        self.size, self.wide = dtype.itemsize, max(4, dtype.itemsize)
        self.unfolds = dtype == torch.float16  # a CPU copies the window of every pixel
        self.is_away = shape.reads[number] in away
        self.residual_is_away = any(shape.planes[i].name == "residual" for i in away)

    def output(self, i: int, rows: int, follows: bool) -> Bytes:
        """Of rows of stage i's output and their moments; of the head's, of restored rows."""
        stage = self.stages[i]
        window = self.window(i, rows, follows)
        pixels = rows * (self.shape.w // stage.scale_out)
        elements = pixels * stage.channels_out
        after = elements * self.wide * (2 if self.size < self.wide or stage.kind == "head" else 1)
        unfolded = pixels * stage.size**2 * stage.channels_in * self.size if self.unfolds else 0
        return Bytes(max(window.peak, window.kept + elements * self.size + max(after, unfolded)), window.kept)

    def window(self, i: int, rows: int, follows: bool) -> Bytes:
        """Of what stage i reads for rows of its output."""
        stage = self.stages[i]
        h, w = self.shape.h // stage.scale_in, self.shape.w // stage.scale_in
        first, beyond = rows_read(stage, 0, rows)
        border = 0 if stage.kind == "up" else stage.halo
        whole = (beyond - first) * (w + 2 * border) * stage.channels_in * self.size
        new = rows * stage.scale_out // stage.scale_in if follows else min(beyond, h)
        source = self.source_of(i, max(new, 1), w, follows)
        return Bytes(whole * (2 if follows else 1) + source.peak, whole + source.kept)

    def source_of(self, i: int, rows: int, w: int, follows: bool) -> Bytes:
        """Of filling so many rows of what stage i reads."""
        elements = rows * w * self.stages[i].channels_in
        if i == 0:
            return Bytes(2 * elements * self.wide, 0)
        activated = elements * self.wide
        if self.residual_is_away and self.stages[i - 1].adds_residual:
            activated += elements * self.size
        if i - 1 == self.source:
            return Bytes(elements * self.size * self.is_away + activated, 0)
        computed = self.output(i - 1, rows, follows)
        return Bytes(max(computed.peak, computed.kept + elements * self.size + activated), computed.kept)
