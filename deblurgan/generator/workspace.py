"""The memory of the engine's activations."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from deblurgan.kernels.config import PACKED_CHANNELS
from deblurgan.ops.layers import QUANTIZED_DTYPES, Quantize
from deblurgan.spec import GeneratorSpec

ALIGNMENT = 256  # bytes, of every tensor in shared memory: as torch's own


def room(size: int) -> int:
    """`size` bytes, rounded up so that what follows is aligned."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Bordered(NamedTuple):
    """A picture within its border: `whole` [n, h + 2b, w + 2b, c] and `inside` [n, h, w, c] of it."""

    whole: Tensor
    inside: Tensor


class Workspace:
    """Where the activations of one shape lie: those that are never needed together share their memory.

    Stages read from one of two memories and write into the other. The residual blocks keep three pictures in one of
    them, in turn: the residual, the inner activation and the block's output.

    Args:
        allocate: gives a flat uint8 Tensor of at least so many bytes, which workspaces of other shapes may share.
    """

    TRUNK_BUFFERS = 3

    def __init__(
        self,
        spec: GeneratorSpec,
        n: int,
        h: int,
        w: int,
        dtype: torch.dtype,
        allocate: Callable[[int], Tensor],
        quantize: Quantize | None = None,
    ) -> None:
        halo = spec.stages[0].halo
        packed = torch.Size((n, h + 2 * halo, w + 2 * halo + 1, PACKED_CHANNELS))
        sizes, side, turn = [packed.numel(), 0], 0, 0
        positions: list[tuple[int, int, torch.Size, int]] = []  # memory, offset, shape, border
        for stage, following in zip(spec.stages[:-1], spec.stages[1:], strict=True):
            if stage.kind == "trunk":
                turn = (turn + 1) % self.TRUNK_BUFFERS
            else:
                side, turn = 1 - side, 0
            border = following.halo
            rows, columns = (length // stage.scale_out + 2 * border for length in (h, w))
            shape = torch.Size((n, rows, columns, stage.channels_out))
            offset = turn * shape.numel()
            sizes[side] = max(sizes[side], offset + shape.numel())
            positions.append((side, offset, shape, border))
        deepest = positions[spec.downsamplings][2]  # of the last downsampling's output, after the stem's
        narrow = torch.Size((2, *(deepest if quantize else (0, 2, 2, 0))))
        parts = [room(count * dtype.itemsize) for count in sizes] + [room(narrow.numel())]
        self.bytes = sum(parts)
        *memories, last = allocate(self.bytes)[: self.bytes].split(parts)
        self.packed = memories[0].view(dtype)[: packed.numel()].view(packed)
        self.outputs = [
            _bordered(memories[side].view(dtype)[offset : offset + shape.numel()].view(shape), border)
            for side, offset, shape, border in positions
        ]
        # The residual and the inner activation of a block in 8 bits; empty where nothing is quantised
        levels = torch.int8 if quantize is None else QUANTIZED_DTYPES[quantize]
        self.residual8, self.inner8 = (_bordered(half, 1) for half in last.view(levels)[: narrow.numel()].view(narrow))


def _bordered(whole: Tensor, border: int) -> Bordered:
    return Bordered(whole, whole[:, border:-border, border:-border])


@lru_cache
def workspace_bytes(
    spec: GeneratorSpec, n: int, h: int, w: int, dtype: torch.dtype, quantize: Quantize | None = None
) -> int:
    """The memory that a Workspace takes."""
    return Workspace(
        spec, n, h, w, dtype, lambda size: torch.empty(size, dtype=torch.uint8, device="meta"), quantize
    ).bytes
