"""The generator strip by strip: the same result, in memory that no picture is too large for.

InstanceNorm needs the statistics of a whole plane before it can change one pixel, so the network falls into passes, one
for each convolution. A pass makes the pre-norm output of its stage from the top of the picture to its foot, a strip of
rows at a time, and takes its statistics. It starts from what an earlier pass stored, or from the picture; stages whose
output is larger than it is costly are not stored but computed once more on the way.

This is no tiling: a strip is as wide as the picture, every stage reads its own 1 or 3 rows above and below, and rows
that two strips read are kept from the one to the next. Rows are [rows, w, c], channels last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from deblurgan.kernels.config import Border
from deblurgan.reference import EPS
from deblurgan.spec import GeneratorSpec, Stage

IMAGE = -1  # the source of the first passes, in place of a stage


class Plane(Protocol):
    """Rows of a whole picture, wherever they lie. What was read may be overwritten."""

    def read(self, start: int, stop: int) -> Tensor:
        """Rows [stop - start, w, c], on the device that computes."""

    def write(self, start: int, rows: Tensor) -> None: ...


class Moments(NamedTuple):
    """Of the pixels of a strip."""

    pixels: int
    mean: Tensor  # [c]
    m2: Tensor  # [c], the sum of squares about the mean


class StripOps(Protocol):
    """The arithmetic: in plain torch, or in our kernels."""

    dtype: torch.dtype
    device: torch.device

    def window(self, stage: Stage, rows: int, w: int) -> Tensor:
        """Memory for what the stage reads, [rows, w + 2b, c]: rows of w pixels with their border at the sides.

        The first stage's may have more columns and channels, whose values are the business of `pack`.
        """

    def pack(self, pixels: Tensor, out: Tensor, border: Border) -> None:
        """Rows of the picture, fp32 [rows, w, 3] in [-1, 1], into a window's, with their border at the sides."""

    def conv(self, stage: Stage, x: Tensor) -> tuple[Tensor, Moments]:
        """The stage's convolution of a whole window x, in which all borders are, [rows', w', c'], and its moments."""

    def activate(
        self, stage: Stage, y: Tensor, stats: Tensor, residual: Tensor | None, out: Tensor, border: Border
    ) -> None:
        """residual + act((y - mean) / std) into out [rows, w + 2b, c], with its border at the sides.

        y and the residual are [rows, w, c], stats fp32 [2, c]: mean and 1 / std.
        """

    def head(self, x: Tensor, pixels: Tensor) -> Tensor:
        """clamp(pixels + tanh(conv(x))), fp32 [rows, w, 3]; NaN where the network overflows."""


@dataclass(frozen=True)
class Pass:
    """What makes a stage's output: all stages after `source`, which is a stored stage or IMAGE, up to `stage`."""

    source: int
    stage: int
    stores: bool


def passes(spec: GeneratorSpec, *, keep: int) -> list[Pass]:
    """The passes of the network in order; the last is the head's. See `Shape.keep`."""
    found, source = list[Pass](), IMAGE
    for i, stage in enumerate(spec.stages):
        stores = stage.scale_out >= keep and stage.kind != "head"
        found.append(Pass(source, i, stores))
        source = i if stores else source
    return found


def rows_read(stage: Stage, start: int, stop: int) -> tuple[int, int]:
    """The rows that the stage reads for its output rows start ... stop - 1; some may lie in the border."""
    if stage.kind == "down":
        return 2 * start - 1, 2 * stop
    if stage.kind == "up":
        return start // 2 - 1, (stop + 1) // 2 + 1
    return start - stage.halo, stop + stage.halo


class Source(Protocol):
    """What a stage reads."""

    def fill(self, start: int, stop: int, out: Tensor, border: Border) -> None:
        """The rows into out [stop - start, w + 2b, c]. Each row is asked for once, from the top."""


class Picture:
    """The picture, as the first stage reads it."""

    def __init__(self, pixels: Callable[[int, int], Tensor], ops: StripOps) -> None:
        self.pixels, self.ops = pixels, ops

    def fill(self, start: int, stop: int, out: Tensor, border: Border) -> None:
        self.ops.pack(self.pixels(start, stop), out, border)


class Window:
    """What a stage reads for some rows of its output, with all borders; what the next rows need of it is kept."""

    def __init__(self, stage: Stage, source: Source, ops: StripOps, h: int, w: int) -> None:
        self.stage, self.source, self.ops = stage, source, ops
        self.h, self.w = h // stage.scale_in, w // stage.scale_in
        self.border = Border(stage.border, stage.halo)
        self.last = torch.empty(0)  # rows `top` ... `foot` - 1 of the picture, and its border
        self.top = self.foot = 0

    def read(self, start: int, stop: int) -> Tensor:
        """[rows, w + 2b, c] for output rows start ... stop - 1, which follow on those of the last call."""
        first, beyond = rows_read(self.stage, start, stop)
        rows = self.ops.window(self.stage, beyond - first, self.w)
        kept = max(first, 0)
        if kept < self.foot:
            rows[kept - first : self.foot - first] = self.last[kept - self.top : self.foot - self.top]
        begin, end = max(first, self.foot), min(beyond, self.h)
        if begin < end:
            self.source.fill(begin, end, rows[begin - first : end - first], self.border)
        self._fill_border(rows, above=max(0, -first), below=max(0, beyond - self.h))
        self.last, self.top, self.foot = rows, first, end
        return rows

    def _fill_border(self, rows: Tensor, above: int, below: int) -> None:
        foot = len(rows) - below
        if self.border.mode == "zero":
            rows[:above] = 0
            rows[foot:] = 0
            return
        for i in range(1, above + 1):
            rows[above - i] = rows[above + i]
        for i in range(1, below + 1):
            rows[foot - 1 + i] = rows[foot - 1 - i]


class Output:
    """A stage's pre-norm output, computed."""

    def __init__(self, window: Window) -> None:
        self.window, self.stage, self.ops = window, window.stage, window.ops

    def read(self, start: int, stop: int) -> Tensor:
        return self.measured(start, stop)[0]

    def measured(self, start: int, stop: int) -> tuple[Tensor, Moments]:
        """Rows start ... stop - 1 and their moments. Of a transposed convolution these need even numbers."""
        y, moments = self.ops.conv(self.stage, self.window.read(start, stop))
        above = start % 2 if self.stage.kind == "up" else 0
        return y[above : above + stop - start], moments


class Activation:
    """What a stage reads that follows another: that one's output, normalised and activated.

    `residual` holds what a block adds to its own output; with `keeps` that of the next block is put in its place.
    """

    def __init__(
        self,
        stage: Stage,
        output: Plane | Output,
        stats: Tensor,
        ops: StripOps,
        residual: Plane | None = None,
        keeps: bool = False,
    ) -> None:
        self.stage, self.output, self.stats, self.ops = stage, output, stats, ops
        self.residual, self.keeps = residual, keeps

    def fill(self, start: int, stop: int, out: Tensor, border: Border) -> None:
        y = self.output.read(start, stop)
        added = self.residual.read(start, stop) if self.residual and self.stage.adds_residual else None
        self.ops.activate(self.stage, y, self.stats, added, out, border)
        if self.residual and self.keeps:
            self.residual.write(start, out[:, border.width : out.shape[1] - border.width])


class PlaneUse(NamedTuple):
    """A plane [h, w, c], and the first and the last pass, by number, that need it."""

    name: str
    size: tuple[int, int, int]
    first: int
    last: int


@dataclass(frozen=True)
class Shape:
    """How a picture goes through the network: its sides, multiples of spec.size_multiple, and how they are cut."""

    spec: GeneratorSpec
    h: int
    w: int
    rows: int
    """Of the picture that a strip covers, a multiple of spec.size_multiple."""
    keep: int
    """Outputs whose sides are the picture's divided by `keep` or more are stored, others computed again where they are
    read: 1 stores all, spec.size_multiple those of the lowest resolution alone, where nearly all the work is."""

    @cached_property
    def passes(self) -> list[Pass]:
        return passes(self.spec, keep=self.keep)

    @cached_property
    def planes(self) -> list[PlaneUse]:
        """In the order in which `Strips` allocates them."""
        return self._schedule[0]

    @cached_property
    def reads(self) -> list[int | None]:
        """By pass the number of the plane that its source lies in; None is the picture."""
        return self._schedule[1]

    @cached_property
    def _schedule(self) -> tuple[list[PlaneUse], list[int | None]]:
        found, plane_of, residual = list[PlaneUse](), dict[int, int](), None
        reads = list[int | None]()
        for i, one in enumerate(self.passes):
            stage, size = self.spec.stages[one.stage], self.plane(one.stage)
            read = plane_of.get(one.source)
            if stage.kind == "trunk" and residual is None:
                residual = len(found)
                found.append(PlaneUse("residual", size, i, i))
            if one.stores:
                if read is None or found[read].size != size:
                    plane_of[one.stage] = len(found)
                    found.append(PlaneUse(stage.name, size, i, i))
                else:
                    plane_of[one.stage] = read
            works_on_blocks = "trunk" in (stage.kind, self.spec.stages[one.source].kind)
            for plane in (read, residual if works_on_blocks else None):
                if plane is not None:
                    found[plane] = found[plane]._replace(last=i)
            reads.append(read)
        return found, reads

    def plane(self, i: int) -> tuple[int, int, int]:
        """The size [h, w, c] of stage i's output."""
        stage = self.spec.stages[i]
        return self.h // stage.scale_out, self.w // stage.scale_out, stage.channels_out

    def work(self, one: Pass) -> int:
        """Multiplications of a pass."""
        stages = self.spec.stages[one.source + 1 : one.stage + 1]
        return sum(self.h * self.w * multiplications(stage) // stage.scale_out**2 for stage in stages)

    @cached_property
    def total_work(self) -> int:
        return sum(self.work(one) for one in self.passes)


def multiplications(stage: Stage) -> int:
    """Of the stage's convolution, for each pixel of its output."""
    return stage.size**2 * stage.channels_in * stage.channels_out // (4 if stage.kind == "up" else 1)


class Strips:
    """One picture's way through the network.

    Args:
        pixels: gives rows start ... stop - 1 of the picture, fp32 [rows, w, 3] in [-1, 1] on the device of `ops`.
        put: takes the restored rows from `start` on, alike.
        allocate: gives the memory of a plane [h, w, c].
        done: called after each strip with the share of the whole work that is done.
    """

    def __init__(
        self,
        shape: Shape,
        ops: StripOps,
        *,
        pixels: Callable[[int, int], Tensor],
        put: Callable[[int, Tensor], None],
        allocate: Callable[[int, int, int], Plane],
        done: Callable[[float], object],
    ) -> None:
        self.shape, self.stages, self.ops = shape, shape.spec.stages, ops
        self.pixels, self.put, self.allocate, self.done = pixels, put, allocate, done
        self.stats: dict[int, Tensor] = {}
        self.stored: tuple[int, Plane] | None = None  # the last stage that stored its output
        self.residual: Plane | None = None
        self.work_done = 0

    def run(self) -> None:
        """Restores the picture. Raises FloatingPointError where statistics are not finite."""
        *measured, last = self.shape.passes
        for one in measured:
            self._measure(one)
        self._finish(last)

    def _measure(self, one: Pass) -> None:
        """Takes the statistics of a stage's output, and stores it where that is planned."""
        if self.stages[one.stage].kind == "trunk" and self.residual is None:
            self.residual = self.allocate(*self.shape.plane(one.stage))
        output, plane = Output(self._window(one.stage)), self._plane(one)
        statistics = Statistics(self.stages[one.stage].channels_out, self.ops.device)
        for start, stop in self._strips(one):
            self._strip(output, plane, start, stop, statistics)
        stats = statistics.normalisation()
        if not bool(stats.isfinite().all()):
            raise FloatingPointError(f"the network gave values that are not finite in {self.ops.dtype}")
        self.stats[one.stage] = stats
        if plane is not None:
            self.stored = one.stage, plane
            if self.stages[one.stage].kind == "up":
                self.residual = None

    def _strip(self, output: Output, plane: Plane | None, start: int, stop: int, statistics: Statistics) -> None:
        y, moments = output.measured(start, stop)
        statistics.add(moments)
        if plane is not None:
            plane.write(start, y)

    def _finish(self, one: Pass) -> None:
        """The head, whose output is the restored picture."""
        window = self._window(one.stage)
        for start, stop in self._strips(one):
            self.put(start, self.ops.head(window.read(start, stop), self.pixels(start, stop)))

    def _plane(self, one: Pass) -> Plane | None:
        """Where the pass stores. It may overwrite what it reads, if that is of one shape: no row is read twice."""
        if not one.stores:
            return None
        shape = self.shape.plane(one.stage)
        if self.stored is not None and self.shape.plane(self.stored[0]) == shape:
            return self.stored[1]
        return self.allocate(*shape)

    def _window(self, i: int) -> Window:
        return Window(self.stages[i], self._source(i), self.ops, self.shape.h, self.shape.w)

    def _source(self, i: int) -> Source:
        """What stage i reads: from the last stored stage on, or from the picture, it is computed."""
        if i == 0:
            return Picture(self.pixels, self.ops)
        stage, before = self.stages[i], self.stages[i - 1]
        is_stored = self.stored is not None and self.stored[0] == i - 1
        output = self.stored[1] if self.stored is not None and is_stored else Output(self._window(i - 1))
        keeps = before.is_residual and stage.kind == "trunk"
        return Activation(before, output, self.stats[i - 1], self.ops, self.residual, keeps)

    def _strips(self, one: Pass) -> Iterator[tuple[int, int]]:
        """The rows of the pass's output; each strip is reported when the next is asked for."""
        scale, work = self.stages[one.stage].scale_out, self.shape.work(one)
        h, rows = self.shape.h // scale, self.shape.rows // scale
        for start in range(0, h, rows):
            stop = min(h, start + rows)
            yield start, stop
            self.done((self.work_done + work * stop // h) / self.shape.total_work)
        self.work_done += work


class Statistics:
    """Of a plane, gathered in fp64 from the moments of its strips.

    They are gathered at once: small tensors that stay would keep the heap from using the gaps between them.
    """

    def __init__(self, channels: int, device: torch.device) -> None:
        self.pixels = 0
        self.mean, self.m2 = torch.zeros(2, channels, dtype=torch.float64, device=device)

    def add(self, part: Moments) -> None:
        self.pixels += part.pixels
        share = part.pixels / self.pixels
        apart = part.mean.double() - self.mean
        self.mean += share * apart
        self.m2 += part.m2 + (1 - share) * part.pixels * apart.square()

    def normalisation(self) -> Tensor:
        """Mean and 1 / std, fp32 [2, c]."""
        return torch.stack([self.mean, (self.m2 / self.pixels + EPS).rsqrt()]).float()
