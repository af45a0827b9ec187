"""What the tests of the kernels share: tensors on their device, poisoned memory, tilings."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import KERNEL_DEVICE, KERNEL_DTYPES
from deblurgan import ops, reference
from deblurgan.kernels.config import ConvConfig, TileStats

each_dtype = pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(KERNEL_DEVICE, dtype)


def whole_numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """-8 to 8: sums of their products are exact in fp32, in whatever order a processor adds them."""
    return torch.randint(-8, 9, shape).to(KERNEL_DEVICE, dtype)


def poison(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, math.nan, dtype=dtype, device=KERNEL_DEVICE)


def nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def pointer(block_m: int, block_n: int, block_k: int) -> ConvConfig:
    return ConvConfig(block_m, block_n, block_k)


def flat(block_m: int, block_n: int, block_k: int) -> ConvConfig:
    return ConvConfig(block_m, block_n, block_k, form="tma")


def supported(config: ConvConfig | None) -> None:
    if config and config.form == "tma" and KERNEL_DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("tma needs compute capability 9.0")


def norm_act_with_dropout(y: Tensor, act: reference.Act, p: float, counter: Tensor | None) -> Tensor:
    """By the reference, with the masks of RNG stream 3."""
    out = reference.norm_act(y, act=act)
    if counter is not None:
        out = out * ops.dropout_mask(list(y.shape), p, counter, 3) / (1 - p)
    return out


def bordered(n: int, h: int, w: int, c: int, border: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Poisoned memory of n pictures and one more on either side; those n with their borders; their insides."""
    memory = poison(n + 2, h + 2 * border, w + 2 * border, c, dtype=dtype)
    whole = memory[1:-1]
    return memory, whole, whole[:, border : border + h, border : border + w]


def untouched(memory: Tensor, inside: Tensor) -> bool:
    """Whether only `inside` of the poisoned memory was written, and all of it."""
    written = int(inside.isfinite().sum())
    return written == inside.numel() == int(memory.isfinite().sum())


class Launches:
    """Stands for a kernel: only notes its grids and what it was given by name."""

    def __init__(self) -> None:
        self.grids: list[tuple[int, ...]] = []
        self.options: list[dict[str, Any]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.grids.append(grid)
        return lambda *args, **options: self.options.append(options)


def members(h: int, w: int, config: ConvConfig) -> list[Tensor]:
    """Which pixels of h x w each tile holds."""
    pitch = w + 2 if config.form == "tma" else w
    positions = torch.arange(h * pitch).split(config.block_m)
    return [(p // pitch * w + p % pitch)[p % pitch < w].to(KERNEL_DEVICE) for p in positions]


def assert_tiles(y: Tensor, partials: Tensor, counts: Tensor, tiles: list[Tensor]) -> None:
    """partials and counts are the statistics of these pixels of y [n, h, w, c], as it was stored."""
    flattened = y.double().flatten(1, 2)
    assert counts.tolist() == [len(tile) for tile in tiles]
    assert partials.isfinite().all()
    for t, tile in enumerate(tiles):
        if len(tile) == 0:
            assert not partials[:, t, 1].any()
            continue
        values = flattened[:, tile]
        mean = values.mean(1)
        m2 = (values - mean[:, None]).square().sum(1)
        got = partials[:, t].double()
        rounding = 2**-23 * mean.abs().max()  # of a mean kept in fp32
        assert (got[:, 0] - mean).abs().max() <= rounding + 2e-6 * values.std()
        assert (got[:, 1] - m2).abs().max() <= len(tile) * rounding**2 + 1e-5 * m2.max() + 1e-30


def assert_stats(stats: Tensor, y: Tensor) -> None:
    """stats [n, 2, c] are the mean and 1 / std of y [n, h, w, c], to the last digits that fp32 has for the mean."""
    values = y.double().flatten(1, 2)
    mean, var = values.mean(1), values.var(1, unbiased=False)
    std = (var + reference.EPS).sqrt()
    assert ((stats[:, 0] - mean).abs() <= 2**-23 * mean.abs() + 2e-6 * std).all()
    assert ((stats[:, 1].double() * std - 1).abs() <= 1e-5).all()


def merge(partials: Tensor, counts: Tensor) -> Tensor:
    from deblurgan.kernels.merge_stats import merge_stats

    stats = poison(partials.shape[0], 2, partials.shape[3])
    merge_stats(TileStats(partials, counts), stats, eps=reference.EPS)
    return stats


def tiles_of(y: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
    """The statistics of y [n, pixels, c] cut into tiles, from fp64."""
    parts = y.double().split(counts, 1)
    means = torch.stack([part.mean(1) if part.shape[1] else part.sum(1) for part in parts], 1)
    m2 = torch.stack([(part - means[:, [t]]).square().sum(1) for t, part in enumerate(parts)], 1)
    return torch.stack([means, m2], 2).float().contiguous(), torch.tensor(counts, device=y.device).float()
