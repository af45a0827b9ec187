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
    """At the most in the pass of that number, in `dtype`; the rows of the planes `away` must be copied to be read.

    Counted for the first two strips: others are as the second.
    """
    counts = _Counts(shape, number, dtype, away)
    stage = shape.passes[number].stage
    h, rows = (side // shape.spec.stages[stage].scale_out for side in (shape.h, shape.rows))
    return max(counts.output(stage, start, min(start + rows, h)).peak for start in range(0, min(2 * rows, h), rows))


class _Counts:
    """Of rows start ... stop - 1, after those before them, if there are any, were asked for in one go."""

    def __init__(self, shape: Shape, number: int, dtype: torch.dtype, away: Collection[int]) -> None:
        self.shape, self.stages, self.source = shape, shape.spec.stages, shape.passes[number].source
        self.size, self.wide = dtype.itemsize, max(4, dtype.itemsize)
        self.unfolds = dtype == torch.float16  # a CPU copies the window of every pixel
        self.fused = dtype in (torch.float32, torch.bfloat16)  # nothing comes between y and what is stored of it
        self.is_away = shape.reads[number] in away
        self.residual_is_away = any(shape.planes[i].name == "residual" for i in away)

    def output(self, i: int, start: int, stop: int) -> Bytes:
        """Of a stage's output and its moments; of the head's, of restored rows."""
        stage = self.stages[i]
        window = self.window(i, start, stop)
        first, beyond = rows_read(stage, start, stop)
        rows = 2 * (beyond - first - 2) if stage.kind == "up" else stop - start
        pixels = rows * (self.shape.w // stage.scale_out)
        elements = pixels * stage.channels_out
        copies = 2 if self.size < self.wide or stage.kind == "head" else 1
        after = 0 if self.fused and stage.kind != "head" else elements * self.wide * copies
        copied = pixels * stage.size**2 * stage.channels_in * self.size if self.unfolds else 0
        if stage.kind == "up":  # on a CPU each thread of a transposed convolution copies what it reads
            copied = max(copied, torch.get_num_threads() * (beyond - first) * self.row(i))
        return Bytes(max(window.peak, window.kept + elements * self.size + max(after, copied)), window.kept)

    def row(self, i: int) -> int:
        """Of a row of what stage i reads."""
        stage = self.stages[i]
        return (self.shape.w // stage.scale_in + 2 * stage.halo) * stage.channels_in * self.size

    def window(self, i: int, start: int, stop: int) -> Bytes:
        """Of what stage i reads."""
        stage = self.stages[i]
        h, w, row = self.shape.h // stage.scale_in, self.shape.w // stage.scale_in, self.row(i)
        first, beyond = rows_read(stage, start, stop)
        top, foot = rows_read(stage, 0, start) if start else (0, 0)
        filling = self.source_of(i, min(foot, h), min(beyond, h), w)
        kept = (beyond - first) * row
        return Bytes(kept + (foot - top) * row + filling.peak, kept + filling.kept)

    def source_of(self, i: int, start: int, stop: int, w: int) -> Bytes:
        """Of filling rows of what stage i reads."""
        elements = (stop - start) * w * self.stages[i].channels_in
        if i == 0:
            return Bytes(2 * elements * self.wide, 0)
        activated = 0 if self.fused else elements * self.wide
        if self.residual_is_away and self.stages[i - 1].adds_residual:
            activated += elements * self.size
        if i - 1 == self.source:
            return Bytes(elements * self.size * self.is_away + activated, 0)
        if start == stop:
            return self.output(i - 1, start - 1, stop)  # nothing is computed: what is kept counts
        computed = self.output(i - 1, start, stop)
        return Bytes(max(computed.peak, computed.kept + elements * self.size + activated), computed.kept)
