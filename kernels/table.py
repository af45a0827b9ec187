"""How each convolution runs: measured rows of tables, then the defaults of `heuristics`, then cuDNN."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch

from deblurgan.kernels.config import ConvConfig, ConvShape, Gpu
from deblurgan.kernels.heuristics import default_config, head_default, programs
from deblurgan.kernels.rows import SHIPPED, Row, read, software, user_rows

# A convolution -> the tiling of our kernel, or None for cuDNN
PickConfig = Callable[[ConvShape], ConvConfig | None]

ALIKE = ("H200", "H100", "GH200")  # one chip under several names
FOREIGN_SMS = 1.5  # rows of another GPU of the same capability count where its SMs differ by no more than this factor
SMALLER = 2.0  # the row of fewest waves answers down to 1 / SMALLER of them: below, its tiles are too few


class Choice(NamedTuple):
    """How a convolution runs, and who says so."""

    config: ConvConfig | None  # None: cuDNN
    source: str


def current_gpu(device: torch.device) -> Gpu | None:
    """What tilings are chosen by; None where the device is no GPU."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return Gpu(properties.name, (properties.major, properties.minor), properties.multi_processor_count)


def head_config(pick_config: PickConfig, shape: ConvShape) -> ConvConfig:
    """The last convolution's. It is fused with all that follows it, so cuDNN is no choice."""
    return pick_config(shape) or head_default(shape.c_in, shape.dtype)


@dataclass(frozen=True)
class Table:
    """Picks the tilings of one GPU from rows and defaults; see `choice`. `gpu` is None for none."""

    gpu: Gpu | None
    user: tuple[Row, ...] = ()
    shipped: tuple[Row, ...] = ()

    def __call__(self, shape: ConvShape) -> ConvConfig | None:
        return self.choice(shape).config

    def choice(self, shape: ConvShape) -> Choice:
        """From the user's table, else a shipped row of this GPU, else of one of its capability and about as many SMs,
        else by default, else cuDNN. Of rows of the same layer the one that keeps the SMs busy for the most similar time
        answers."""
        if shape not in self._chosen:
            self._chosen[shape] = self._choose(shape)
        return self._chosen[shape]

    @cached_property
    def _chosen(self) -> dict[ConvShape, Choice]:
        """Every layer asks in every call that no graph replays."""
        return {}

    def _choose(self, shape: ConvShape) -> Choice:
        if self.gpu is None:
            return Choice(default_for(shape, None), "no GPU to choose for")
        for source, rows in self._sources:
            row = nearest(rows, shape, self.gpu)
            if row is not None:
                return Choice(row.config, source)
        config = default_for(shape, self.gpu)
        return Choice(config, f"{'the' if config else 'no row and no'} default for {_by_capability(self.gpu)}")

    @cached_property
    def _sources(self) -> list[tuple[str, list[Row]]]:
        if self.gpu is None:
            return []
        name, capability, sms = self.gpu
        same = [row for row in self.shipped if alike(row.gpu.name, name)]
        kin = [
            row
            for row in self.shipped
            if row.gpu.capability == capability and 1 / FOREIGN_SMS <= row.gpu.sms / sms <= FOREIGN_SMS
        ]
        mine = [row for row in self.user if row.gpu == self.gpu and row.software == software()]
        return [
            ("the user's table", mine),
            ("the shipped table", same),
            (f"the shipped table's rows for {_by_capability(self.gpu)}", kin),
        ]


def _by_capability(gpu: Gpu) -> str:
    return "sm_" + "".join(map(str, gpu.capability))


def default_for(shape: ConvShape, gpu: Gpu | None) -> ConvConfig | None:
    """The tiling of a convolution that no row knows; `gpu` is None for none."""
    kind, c_in, c_out, pixels, dtype = shape
    name, capability, sms = gpu or ("", None, 1)
    return default_config(
        kind,
        c_in=c_in,
        c_out=c_out,
        pixels=pixels,
        dtype=dtype,
        capability=capability,
        sms=sms,
        geforce="GeForce" in name,
    )


def alike(one: str, other: str) -> bool:
    """Whether two GPUs' names mean the same chip."""
    return one == other or all(any(part in ALIKE for part in name.split()) for name in (one, other))


def nearest(rows: Iterable[Row], shape: ConvShape, gpu: Gpu) -> Row | None:
    """The row of the same layer and type that is most alike in waves; None where all are for much larger pictures."""
    distances = [
        (math.log2(waves(row.config, row.shape, row.gpu) / waves(row.config, shape, gpu)), row)
        for row in rows
        if row.shape._replace(pixels=shape.pixels) == shape
    ]
    if not distances or min(ahead for ahead, _ in distances) > math.log2(SMALLER):
        return None
    return min(distances, key=lambda pair: abs(pair[0]))[1]


def waves(config: ConvConfig | None, shape: ConvShape, gpu: Gpu) -> float:
    """Programs for each SM; cuDNN's are taken for ours of 128 by 128."""
    return programs(config or ConvConfig(128, 128), shape.pixels, shape.c_out) / gpu.sms


@lru_cache
def config_picker(gpu: Gpu | None) -> Table:
    """The table of this GPU, read once; `config_picker.cache_clear()` has it read anew."""
    return Table(gpu, tuple(user_rows()), tuple(read(SHIPPED))) if gpu else Table(None)
