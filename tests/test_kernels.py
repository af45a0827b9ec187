"""The Triton kernels one by one against torch in fp64, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import KERNEL_DEVICE, KERNEL_DTYPES, OP_TOLERANCE, assert_matches, relative_error
from deblurgan import reference
from deblurgan.ops import convolution

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels import conv_stats as conv_stats_module
from deblurgan.kernels import norm_act as norm_act_module
from deblurgan.kernels import norm_act_bend as norm_act_bend_module
from deblurgan.kernels import tile_stats as tile_stats_module
from deblurgan.kernels.conv_stats import ConvConfig, conv_stats, tile_count, up_conv_stats
from deblurgan.kernels.merge_stats import BLOCK_TILES, merge_stats
from deblurgan.kernels.norm_act import norm_act
from deblurgan.kernels.norm_act_bend import norm_act_bend, norm_act_tangent
from deblurgan.kernels.norm_act_grad import norm_act_grad, norm_act_reduce
from deblurgan.kernels.output_tail import folded, output_tail
from deblurgan.kernels.pack_image import pack_image
from deblurgan.kernels.tile_stats import TILE, plane_stats, tile_stats

ROOT = Path(__file__).parent.parent
NAN = float("nan")
each_dtype = pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(KERNEL_DEVICE, dtype)


def poison(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, NAN, dtype=dtype, device=KERNEL_DEVICE)


def bordered(n: int, h: int, w: int, c: int, border: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Poisoned memory of n pictures and one more on either side; those n with their borders; their insides."""
    memory = poison(n + 2, h + 2 * border, w + 2 * border, c, dtype=dtype)
    whole = memory[1:-1]
    return memory, whole, whole[:, border : border + h, border : border + w]


def packed(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1).contiguous()


def nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


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


class Conv(NamedTuple):
    n: int
    c: int
    k: int
    h: int  # of the output
    w: int
    config: ConvConfig
    taps: tuple[int, int] = (3, 3)
    stride: int = 1


def pointer(block_m: int, block_n: int, block_k: int) -> ConvConfig:
    return ConvConfig(block_m, block_n, block_k)


def flat(block_m: int, block_n: int, block_k: int) -> ConvConfig:
    return ConvConfig(block_m, block_n, block_k, form="tma")


def supported(config: ConvConfig) -> None:
    if config.form == "tma" and KERNEL_DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("tma needs compute capability 9.0")


def members(h: int, w: int, config: ConvConfig) -> list[Tensor]:
    """Which pixels of h x w each tile holds."""
    pitch = w + 2 if config.form == "tma" else w
    places = torch.arange(h * pitch).split(config.block_m)
    return [(p // pitch * w + p % pitch)[p % pitch < w].to(KERNEL_DEVICE) for p in places]


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


def convolved(case: Conv, x: Tensor, weight: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Runs the kernel: the poisoned partials and counts that it filled."""
    tiles = tile_count(case.h, case.w, case.config)
    partials, counts = poison(case.n, tiles, 2, case.k), poison(tiles)
    conv_stats(x, packed(weight), y, partials, counts, taps=case.taps, stride=case.stride, config=case.config)
    return partials, counts


def merged(partials: Tensor, counts: Tensor) -> Tensor:
    stats = poison(partials.shape[0], 2, partials.shape[3])
    merge_stats(partials, counts, stats, eps=reference.EPS)
    return stats


POINTER = {
    "tiles of several rows, odd channels": Conv(1, 24, 48, 5, 7, pointer(16, 32, 16)),
    "rows of several tiles": Conv(3, 32, 64, 2, 40, pointer(16, 64, 32)),
    "one tile, larger than the picture": Conv(1, 96, 24, 3, 4, pointer(64, 32, 64)),
    "whole tiles": Conv(3, 16, 16, 4, 8, pointer(16, 16, 16)),
    "one pixel": Conv(2, 16, 16, 1, 1, pointer(16, 16, 16)),
    "stride 2": Conv(3, 24, 48, 4, 6, pointer(16, 16, 32), stride=2),
    "stride 2, row of several tiles": Conv(1, 48, 96, 2, 19, pointer(16, 128, 16), stride=2),
    "1x1": Conv(2, 48, 24, 5, 6, pointer(16, 16, 64), taps=(1, 1)),
    "1x2": Conv(1, 48, 24, 4, 5, pointer(32, 32, 16), taps=(1, 2)),
    "2x1": Conv(1, 96, 48, 3, 5, pointer(16, 32, 64), taps=(2, 1)),
    "2x2": Conv(2, 32, 16, 4, 5, pointer(16, 16, 32), taps=(2, 2)),
}
FLAT = {
    "2x2, less than a tile": Conv(1, 32, 32, 2, 2, flat(32, 32, 32)),
    "odd sides": Conv(3, 16, 48, 3, 5, flat(16, 16, 16)),
    "tiles of several rows": Conv(2, 32, 64, 7, 9, flat(32, 32, 32)),
    "a last tile of border only": Conv(2, 16, 16, 2, 15, flat(16, 16, 16)),
    "rows of several tiles": Conv(1, 96, 32, 2, 37, flat(16, 32, 32)),
    "one tile of several pictures": Conv(3, 16, 16, 3, 2, flat(128, 16, 16)),
}


CONVS = {
    f"{form}: {name}": case for form, cases in (("pointer", POINTER), ("tma", FLAT)) for name, case in cases.items()
}


@each_dtype
@pytest.mark.parametrize("case", CONVS.values(), ids=CONVS.keys())
def test_conv_stats(case: Conv, dtype: torch.dtype) -> None:
    supported(case.config)
    rows, columns = ((side - 1) * case.stride + taps for side, taps in zip((case.h, case.w), case.taps, strict=True))
    _, x, _ = bordered(case.n, rows, columns, case.c, 0, dtype)
    x.copy_(normal(*x.shape))
    weight = (normal(case.k, case.c, *case.taps) / math.sqrt(case.c)).to(dtype)
    memory, _, y = bordered(case.n, case.h, case.w, case.k, 1, dtype)
    partials, counts = convolved(case, x, weight, y)
    assert untouched(memory, y)
    assert_matches(nchw(y), F.conv2d(nchw(x).double(), weight.double(), stride=case.stride))
    assert_tiles(y, partials, counts, members(case.h, case.w, case.config))
    assert_stats(merged(partials, counts), y)


@each_dtype
def test_conv_stats_of_overlapping_runs(dtype: torch.dtype) -> None:
    """The stem: seven rows of one run each, eight pixels of eight channels; the run's last pixel weighs nothing."""
    n, h, w, k = 2, 5, 9, 24
    _, x, _ = bordered(n, h + 6, w + 7, 8, 0, dtype)
    x.copy_(normal(*x.shape))
    weight = (normal(k, 8, 7, 7) / 10).to(dtype)
    runs = packed(F.pad(weight, (0, 1)))
    memory, _, y = bordered(n, h, w, k, 1, dtype)
    config = pointer(16, 32, 32)
    tiles = tile_count(h, w, config)
    partials, counts = poison(n, tiles, 2, k), poison(tiles)
    conv_stats(x, runs, y, partials, counts, taps=(7, 1), config=config)
    assert untouched(memory, y)
    assert_matches(nchw(y), F.conv2d(nchw(x).double(), weight.double())[..., :w])
    assert_tiles(y, partials, counts, members(h, w, config))


UPS = {
    "several tiles a phase": (2, 3, 5, 32, 24, pointer(16, 16, 32)),
    "several column blocks": (1, 4, 4, 16, 48, pointer(16, 16, 16)),
    "one tile a phase, odd channels": (3, 2, 3, 24, 16, pointer(32, 16, 16)),
}


@each_dtype
@pytest.mark.parametrize(("n", "h", "w", "c", "k", "config"), UPS.values(), ids=UPS.keys())
def test_up_conv_stats(n: int, h: int, w: int, c: int, k: int, config: ConvConfig, dtype: torch.dtype) -> None:
    """torch's transposed convolution, and to the last bit four convolutions into every other pixel."""
    _, x, _ = bordered(n, h + 2, w + 2, c, 0, dtype)
    x.copy_(F.pad(normal(n, h, w, c), (0, 0, 1, 1, 1, 1)))
    weight = (normal(c, k, 3, 3) / math.sqrt(c)).to(dtype)
    layer = convolution.up(weight, dtype)
    memory, _, y = bordered(n, 2 * h, 2 * w, k, 3, dtype)
    tiles = tile_count(h, w, config)
    partials, counts = poison(n, 4 * tiles, 2, k), poison(4 * tiles)
    up_conv_stats(x[:, 1:, 1:], layer.packed, y, partials, counts, config=config)
    assert untouched(memory, y)
    inside = nchw(x[:, 1:-1, 1:-1]).double()
    assert_matches(
        nchw(y), F.conv_transpose2d(inside, weight.double(), stride=2, padding=1, output_padding=1), name="y"
    )
    assert_stats(merged(partials, counts), y)
    rows = layer.packed.split([c * i * j for i, j in layer.taps], 1)
    for i, taps in enumerate(layer.taps):
        part, own = y[:, i // 2 :: 2, i % 2 :: 2], slice(i * tiles, (i + 1) * tiles)
        assert_tiles(part, partials[:, own], counts[own], members(h, w, config))
        alone, its_partials, its_counts = torch.empty_like(part), poison(n, tiles, 2, k), poison(tiles)
        conv_stats(x[:, 1:, 1:], rows[i].contiguous(), alone, its_partials, its_counts, taps=taps, config=config)
        assert torch.equal(alone, part)
        assert torch.equal(its_partials, partials[:, own])
        assert torch.equal(its_counts, counts[own])
    y.fill_(NAN)
    up_conv_stats(x[:, 1:, 1:], layer.packed, y, None, None, config=config)
    assert torch.equal(y[:, 1::2, 1::2], alone)
    assert untouched(memory, y)


@pytest.mark.parametrize("config", [pointer(16, 16, 16), flat(16, 16, 16)], ids=lambda config: config.form)
@pytest.mark.parametrize(
    ("dtype", "ratio"),
    [(torch.float32, 1000.0), *((dtype, 90.0) for dtype in KERNEL_DTYPES if dtype == torch.float16)],
    ids=str,
)
def test_statistics_of_large_means(config: ConvConfig, dtype: torch.dtype, ratio: float) -> None:
    supported(config)
    case = Conv(2, 16, 16, 5, 9, config)
    _, x, _ = bordered(case.n, case.h + 2, case.w + 2, case.c, 0, dtype)
    x.copy_(normal(*x.shape))
    x[..., 0] = ratio
    weight = torch.zeros(case.k, case.c, 3, 3, device=KERNEL_DEVICE, dtype=dtype)
    weight[:, 0, 1, 1] = 1
    weight[:, 1:, 1, 1] = torch.eye(case.k, case.c - 1, device=KERNEL_DEVICE, dtype=dtype)
    weight[-1, 1, 1, 1] = 1
    _, _, y = bordered(case.n, case.h, case.w, case.k, 1, dtype)
    partials, counts = convolved(case, x, weight, y)
    assert_tiles(y, partials, counts, members(case.h, case.w, config))
    stats = merged(partials, counts)
    assert_stats(stats, y)
    wanted = reference.norm_act(nchw(y).double())
    norm_act(y, stats, y, relu=True, border="zero", width=1)
    assert relative_error(nchw(y), wanted) <= max(OP_TOLERANCE[dtype], 1e-4)


@each_dtype
@pytest.mark.parametrize(
    "config", [pointer(64, 64, 16), pointer(16, 32, 16), flat(16, 16, 16)], ids=lambda c: f"{c.form} {c.block_m}"
)
def test_constant_planes_normalise_to_zero(config: ConvConfig, dtype: torch.dtype) -> None:
    supported(config)
    case = Conv(2, 16, 48, 3, 15, config)
    values = normal(case.n, 1, 1, case.c, dtype=dtype)
    x = values.expand(-1, case.h + 2, case.w + 2, -1).contiguous()
    weight = normal(case.k, case.c, 3, 3, dtype=dtype)
    _, whole, y = bordered(case.n, case.h, case.w, case.k, 1, dtype)
    partials, counts = convolved(case, x, weight, y)
    means = partials[:, counts > 0, 0]
    assert torch.equal(means, y[:, 0, 0].float()[:, None].expand_as(means))
    assert not partials[:, :, 1].any()
    assert counts.sum() == case.h * case.w
    norm_act(y, merged(partials, counts), y, relu=False, border="reflect", width=1)
    assert not whole.any()


@pytest.mark.parametrize(
    ("change", "border", "config"),
    [
        ({"taps": (1, 1)}, 1, flat(16, 16, 16)),
        ({"stride": 2}, 1, flat(16, 16, 16)),
        ({}, 1, flat(16, 16, 32)),
        ({}, 1, flat(16, 32, 16)),
        ({}, 0, flat(16, 16, 16)),
    ],
    ids=["taps", "stride", "channels that block_k does not divide", "channels that block_n does not", "no border"],
)
def test_flat_convolution_refuses_what_it_cannot_do(
    change: dict[str, Any], border: int, config: ConvConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv_stats_module, "flat_conv_stats_kernel", Launches())  # it would write past the end
    case = Conv(1, 48, 48, 2, 4, config)._replace(**change)
    rows, columns = ((side - 1) * case.stride + taps for side, taps in zip((case.h, case.w), case.taps, strict=True))
    x, weight = normal(1, rows, columns, 48), normal(48, 48, *case.taps)
    _, _, y = bordered(1, case.h, case.w, 48, border, torch.float32)
    with pytest.raises(ValueError, match="tma"):
        convolved(case, x, weight, y)


def tiles_of(y: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
    """The statistics of y [n, pixels, c] cut into tiles, from fp64."""
    parts = y.double().split(counts, 1)
    means = torch.stack([part.mean(1) if part.shape[1] else part.sum(1) for part in parts], 1)
    m2 = torch.stack([(part - means[:, [t]]).square().sum(1) for t, part in enumerate(parts)], 1)
    return torch.stack([means, m2], 2).float().contiguous(), torch.tensor(counts, device=y.device).float()


@pytest.mark.parametrize("ratio", [0.0, 1000.0])
@pytest.mark.parametrize(
    "counts",
    [[7], [1], [16, 16, 16, 5], [0, 9], [4] * 300 + [1], [3] * (4 * BLOCK_TILES + 5) + [2]],
    ids=["one tile", "one pixel", "uneven last tile", "an empty tile", "several blocks", "groups"],
)
def test_merge_stats(counts: list[int], ratio: float) -> None:
    y = normal(2, sum(counts), 12) + ratio
    partials, sizes = tiles_of(y, counts)
    assert_stats(merged(partials, sizes), y[:, None])


@pytest.mark.filterwarnings("ignore:invalid")
def test_merge_stats_of_a_group_without_pixels() -> None:
    """The flat convolution's last tile may lie on the border alone, and be alone in its group."""
    counts = [2] * (4 * BLOCK_TILES) + [0]
    y = normal(1, sum(counts), 8)
    partials, sizes = tiles_of(y, counts)
    assert_stats(merged(partials, sizes), y[:, None])


def test_merge_stats_is_deterministic() -> None:
    partials, counts = tiles_of(normal(1, 3 * 1500, 8), [3] * 1500)
    assert torch.equal(merged(partials, counts), merged(partials, counts))


@pytest.mark.parametrize("tiles", [3, 4 * BLOCK_TILES + 2])
def test_merge_stats_of_constants(tiles: int) -> None:
    value = torch.tensor([1 / 3, -1e4, 0.1], device=KERNEL_DEVICE)
    partials = poison(1, tiles, 2, 3)
    partials[:, :, 0], partials[:, :, 1] = value, 0
    stats = merged(partials, torch.full((tiles,), 37.0, device=KERNEL_DEVICE))
    assert torch.equal(stats[0, 0], value)
    assert ((stats[0, 1] * math.sqrt(reference.EPS) - 1).abs() <= 1e-6).all()


@each_dtype
@pytest.mark.parametrize(
    ("n", "h", "w", "c"), [(1, 1, 3, 24), (3, 17, 19, 16), (1, 16, 16, 96), (2, 3, 200, 32)], ids=str
)
def test_tile_stats(n: int, h: int, w: int, c: int, dtype: torch.dtype) -> None:
    _, _, y = bordered(n, h, w, c, 1, dtype)
    y.copy_(normal(*y.shape) + 1)
    tiles = math.ceil(h * w / TILE)
    assert tile_stats_module.tile_count(h, w) == tiles
    partials, counts = poison(n, tiles, 2, c), poison(tiles)
    tile_stats(y, partials, counts)
    assert_tiles(y, partials, counts, list(torch.arange(h * w, device=y.device).split(TILE)))


@each_dtype
@pytest.mark.parametrize("kind", ["large mean", "constant"])
def test_tile_stats_keep_digits(kind: str, dtype: torch.dtype) -> None:
    mean = 1000.0 if dtype == torch.float32 else 90.0
    y = (normal(1, 13, 21, 16) + mean).to(dtype)
    if kind == "constant":
        y = y[:, :1, :1].expand(-1, 13, 21, -1).contiguous()
    tiles = tile_stats_module.tile_count(13, 21)
    partials, counts = poison(1, tiles, 2, 16), poison(tiles)
    tile_stats(y, partials, counts)
    assert_tiles(y, partials, counts, list(torch.arange(13 * 21, device=y.device).split(TILE)))
    assert_stats(merged(partials, counts), y)
    if kind == "constant":
        assert not partials[:, :, 1].any()


def test_tile_stats_launches_for_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA allows 65535 programs along any axis but the first."""
    launches = Launches()
    monkeypatch.setattr(tile_stats_module, "tile_stats_kernel", launches)
    h, w = 4320, 7680
    tiles = tile_stats_module.tile_count(h, w)
    y = torch.empty(1, h, w, 64, device="meta")
    tile_stats(y, torch.empty(1, tiles, 2, 64, device="meta"), torch.empty(tiles, device="meta"))
    assert all(side <= 65535 for side in launches.grids[0][1:]), launches.grids[0]


class Norm(NamedTuple):
    h: int
    w: int
    c: int
    border: reference.Border | None
    width: int
    relu: bool = True
    residual: bool = False
    in_place: bool = False
    n: int = 1
    leak: float = 0.0

    @property
    def act(self) -> reference.Act:
        return "none" if not self.relu else "leaky_relu" if self.leak else "relu"


NORMS = {
    "in place": Norm(3, 7, 24, "reflect", 1, in_place=True, n=2),
    "in place, residual": Norm(3, 5, 48, "reflect", 1, relu=False, residual=True, in_place=True, n=2),
    "residual after ReLU": Norm(2, 3, 96, "zero", 1, residual=True, in_place=True, n=3),
    "row of several blocks": Norm(2, 17, 256, "reflect", 1),
    "mirrored across blocks": Norm(4, 18, 256, "reflect", 3, relu=False),
    "wide border in place": Norm(5, 6, 24, "reflect", 3, in_place=True, n=2),
    "least reflect": Norm(2, 2, 32, "reflect", 1, in_place=True),
    "least wide reflect": Norm(4, 4, 32, "reflect", 3),
    "least zero": Norm(1, 2, 32, "zero", 1, in_place=True),
    "least wide zero": Norm(3, 3, 32, "zero", 3),
    "zero, row of several blocks": Norm(3, 33, 128, "zero", 1, relu=False, residual=True),
    "no border": Norm(3, 5, 64, None, 0, relu=False, residual=True),
    "leaky": Norm(3, 5, 24, None, 0, leak=reference.SLOPE, n=2),
    "leaky, residual": Norm(2, 17, 256, "reflect", 1, leak=reference.SLOPE, residual=True),
}


@each_dtype
@pytest.mark.parametrize("case", NORMS.values(), ids=NORMS.keys())
def test_norm_act(case: Norm, dtype: torch.dtype) -> None:
    memory, whole, out = bordered(case.n, case.h, case.w, case.c, case.width, dtype)
    y = out if case.in_place else bordered(case.n, case.h, case.w, case.c, 2, dtype)[2]
    y.copy_(normal(*y.shape) * 3 + 1)
    _, _, residual = bordered(case.n, case.h, case.w, case.c, 1, dtype)
    residual.copy_(normal(*residual.shape))
    wide = nchw(y).double()
    wanted = reference.norm_act(wide, act=case.act, residual=nchw(residual).double() if case.residual else None)
    mean, var = wide.mean((2, 3)), wide.var((2, 3), unbiased=False)
    stats = torch.stack([mean, (var + reference.EPS).rsqrt()], 1).float()
    norm_act(
        y,
        stats,
        out,
        relu=case.relu,
        leak=case.leak,
        residual=residual if case.residual else None,
        border=case.border,
        width=case.width,
    )
    assert_matches(nchw(out), wanted)
    assert torch.equal(nchw(whole), reference.pad(nchw(out), case.width, case.border or "zero"))
    assert untouched(memory, whole)


@each_dtype
@pytest.mark.parametrize("leak", [0.0, reference.SLOPE])
def test_gradient_where_a_plane_is_constant(leak: float, dtype: torch.dtype) -> None:
    """Each pixel is then exactly at the activation's corner, where the slope is that below it."""
    y = normal(2, 1, 1, 24).expand(-1, 3, 5, -1).to(dtype).contiguous()
    g, out = normal(*y.shape, dtype=dtype), poison(2 * 3, 5, 24, dtype=dtype)
    stats = plane_stats(y, eps=reference.EPS)
    sums = norm_act_reduce(g, y, stats, relu=True, leak=leak)
    norm_act_grad(g, y, stats, sums, out, relu=True, leak=leak, rows=3, top=0, left=0)
    wanted = leak * (g.double() - g.double().mean((1, 2), keepdim=True)) * reference.EPS**-0.5
    assert_matches(out.view_as(y), wanted)


BENDS = {
    "odd": (2, 5, 7, 24, 0.0),
    "many channels": (1, 3, 5, 300, 0.0),
    "programs of several blocks": (1, 20, 21, 64, 0.0),
    "large means": (2, 7, 9, 16, 50.0),
    "three pixels": (2, 1, 3, 16, 0.0),
    "one pixel": (2, 1, 1, 16, 0.0),
}


@each_dtype
@pytest.mark.parametrize(("n", "h", "w", "c", "mean"), BENDS.values(), ids=BENDS.keys())
def test_how_the_gradient_of_norm_act_bends(
    n: int, h: int, w: int, c: int, mean: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(norm_act_bend_module, "TILES", 7)
    y, (v, e, t) = (normal(n, h, w, c) + mean).to(dtype), (normal(n, h, w, c, dtype=dtype) for _ in range(3))
    exact = nchw(y).double().requires_grad_()
    result = reference.norm_act(exact, act="leaky_relu")
    (back,) = torch.autograd.grad(result, exact, nchw(e).double(), create_graph=True)
    (bent,) = torch.autograd.grad((result * nchw(v)).sum() + (back * nchw(t)).sum(), exact)
    tangent = torch.func.jvp(leaky, (nchw(y).double(),), (nchw(t).double(),))[1]

    options: dict[str, Any] = {"leak": reference.SLOPE}
    stats = plane_stats(y, eps=reference.EPS)
    signal, along, out = (poison(n, h, w, c, dtype=dtype) for _ in range(3))
    signal_sums = norm_act_reduce(e, y, stats, relu=True, **options)
    norm_act_grad(e, y, stats, signal_sums, signal.view(n * h, w, c), relu=True, rows=h, top=0, left=0, **options)
    tangent_sums = norm_act_reduce(t, y, stats, relu=False)
    norm_act_tangent(t, y, stats, tangent_sums, along, **options)
    assert_matches(nchw(signal), back, name="signal")
    assert_matches(nchw(along), tangent, name="tangent")
    pairs = {"signal": signal, "signal_sums": signal_sums, "tangent": along, "tangent_sums": tangent_sums}
    norm_act_bend(v, y, stats, out=out, eps=reference.EPS, **pairs, **options)
    assert_matches(nchw(out), bent)
    norm_act_bend(v, y, stats, out=v, eps=reference.EPS, **pairs, **options)
    assert torch.equal(v, out), "in place"


def leaky(y: Tensor) -> Tensor:
    """norm_act with LeakyReLU of y [n, c, h, w], in operations that know tangents."""
    centred = y - y.mean((2, 3), keepdim=True)
    variance = centred.square().mean((2, 3), keepdim=True)
    return F.leaky_relu(centred * (variance + reference.EPS).rsqrt(), reference.SLOPE)


DROPS = {
    "seed and picture of more than 32 bits": (2, 3, 5, 24, 0.3, 2**40 + 3, 2**33 + 9, 1),
    "rows of several blocks, a later block": (1, 2, 40, 256, 0.5, 7, 0, 8),
    "most are dropped": (2, 4, 4, 16, 0.9, 2**63 - 1, 2**63 - 3, 0),
}


@pytest.mark.parametrize(("n", "h", "w", "c", "p", "seed", "first", "stream"), DROPS.values(), ids=DROPS.keys())
def test_norm_act_drops_what_the_reference_drops(
    n: int, h: int, w: int, c: int, p: float, seed: int, first: int, stream: int
) -> None:
    y, stats = normal(n, h, w, c), torch.zeros(n, 2, c, device=KERNEL_DEVICE)
    stats[:, 1] = 1
    counter = torch.tensor([seed, first], device=KERNEL_DEVICE)
    mask = reference.dropout_mask((n, c, h, w), p, seed=seed, first=first, rng_stream=stream).to(KERNEL_DEVICE)
    residual = normal(n, h, w, c)
    memory, whole, out = bordered(n, h, w, c, 1, torch.float32)
    eighth = torch.full(whole.shape, 99, dtype=torch.int8, device=KERNEL_DEVICE)
    drop: dict[str, Any] = {"drop": p, "counter": counter, "stream": stream}
    norm_act(y, stats, out, relu=True, border="reflect", width=1, eighth=eighth[:, 1:-1, 1:-1], step=0.05, **drop)
    wanted = nchw(y).double().relu() * mask / (1 - p)
    assert_matches(nchw(out), wanted)
    assert torch.equal(nchw(out) != 0, mask & (nchw(y) > 0))
    assert torch.equal(nchw(whole), reference.pad(nchw(out), 1, "reflect"))
    assert untouched(memory, whole)
    assert torch.equal(eighth, (whole / 0.05 + 0.5).floor().clamp(-127, 127).to(torch.int8))
    norm_act(y, stats, out, relu=False, residual=residual, **drop)
    assert_matches(nchw(out), nchw(residual) + nchw(y).double() * mask / (1 - p))


def test_norm_act_refuses_what_it_cannot_drop() -> None:
    counter, stats = torch.zeros(2, dtype=torch.int64, device=KERNEL_DEVICE), torch.ones(1, 2, 6, device=KERNEL_DEVICE)
    y = normal(1, 2, 2, 6)
    for drop, match in ((0.5, "channels in fours"), (0.0, r"drop must be in \(0, 1\)"), (1.0, "drop must be")):
        with pytest.raises(ValueError, match=match):
            norm_act(y, stats, y, relu=True, drop=drop, counter=counter)


def test_norm_act_is_one_kernel_wherever_8_bits_have_their_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is written in 8 bits."""
    launches = Launches()
    monkeypatch.setattr(norm_act_module, "norm_act_kernel", launches)
    y, stats = normal(1, 2, 2, 16), torch.ones(1, 2, 16, device=KERNEL_DEVICE)
    eighth = torch.zeros(1, 2, 2, 16, dtype=torch.int8, device=KERNEL_DEVICE)
    for zero in (0, -127):
        norm_act(y, stats, y, relu=True, zero=zero)
    norm_act(y, stats, y, relu=True, zero=-127, eighth=eighth)
    plain, shifted, narrow = launches.options
    assert shifted == plain
    assert narrow["ZERO"] == -127


@each_dtype
@pytest.mark.parametrize("pixels", [[35], [0, 16, 16, 3], [1] * 35], ids=["a tile", "an empty one", "a pixel each"])
def test_norm_act_merges_tiles(pixels: list[int], dtype: torch.dtype) -> None:
    """As after `merge_stats`, but for the order of the sums; channels in two blocks."""
    n, h, w, c = 2, 5, 7, 96
    memory, whole, out = bordered(n, h, w, c, 3, dtype)
    y = (normal(n, h, w, c) * 3 + 10).to(dtype)
    y[..., 5] = 0.1
    partials, counts = tiles_of(y.flatten(1, 2), pixels)
    partials[:, 0 if pixels[0] else 1 :, 0, 5] = y[0, 0, 0, 5].float()
    residual = normal(n, h, w, c, dtype=dtype)
    counter = torch.tensor([3, 4], device=KERNEL_DEVICE)
    more: dict[str, Any] = {"relu": True, "border": "reflect", "width": 3, "drop": 0.5, "counter": counter}
    norm_act(y, partials, out, residual=residual, counts=counts, eps=reference.EPS, **more)
    mask = reference.dropout_mask((n, c, h, w), 0.5, seed=3, first=4).to(KERNEL_DEVICE)
    wanted = reference.norm_act(nchw(y).double()) * mask * 2 + nchw(residual)
    assert_matches(nchw(out), wanted)
    assert torch.equal(nchw(whole), reference.pad(nchw(out), 3, "reflect"))
    assert untouched(memory, whole)
    if pixels[0]:
        assert torch.equal(out[..., 5], residual[..., 5]), "a constant plane is not exactly zero"
    apart = torch.empty_like(out)
    norm_act(y, merged(partials, counts), apart, residual=residual, **{**more, "border": None, "width": 0})
    assert relative_error(out, apart) <= (1e-6 if dtype == torch.float32 else OP_TOLERANCE[dtype])


def test_norm_act_refuses_many_tiles() -> None:
    y = normal(1, 5, 13, 16)
    partials, counts = tiles_of(y.flatten(1, 2), [1] * 65)
    with pytest.raises(ValueError, match="at most 64 tiles, got 65"):
        norm_act(y, partials, y, relu=True, counts=counts, eps=reference.EPS)


class Tail(NamedTuple):
    h: int
    w: int
    c: int
    config: ConvConfig
    n: int = 1
    layout: str = "contiguous"


TAILS = {
    "several tiles": Tail(5, 13, 16, pointer(16, 32, 16), n=2),
    "channels that block_k does not divide": Tail(4, 6, 24, pointer(32, 64, 16)),
    "fewer rows than a program makes, channels last": Tail(4, 5, 16, pointer(64, 128, 16), 2, "channels last"),
    "a last row of another picture, sliced": Tail(7, 11, 16, pointer(16, 128, 16), 2, "sliced"),
}


def pictures(case: Tail, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`like` [n, 3, h, w] in the memory layout of the case, a result beside it, and the result's memory."""
    n, k, h, w = like.shape
    if case.layout == "sliced":
        memory = torch.zeros(n, k, h + 2, 2 * w, device=like.device).to(like.dtype)
        image = memory[:, :, 1:-1, ::2]
        image.copy_(like)
    else:
        order = torch.channels_last if case.layout == "channels last" else torch.contiguous_format
        memory = image = like.contiguous(memory_format=order)
    fill = NAN if like.is_floating_point() else 77
    result = torch.full_like(memory, fill)
    return image, result[:, :, 1:-1, ::2] if case.layout == "sliced" else result, result


def tail_of(case: Tail, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x with its border, a weight and a bias, of which some results saturate."""
    _, whole, _ = bordered(case.n, case.h, case.w, case.c, 3, dtype)
    whole.copy_(normal(*whole.shape))
    weight = (normal(3, case.c, 7, 7) / math.sqrt(30 * case.c)).to(dtype)
    return whole, weight, normal(3)


def run_tail(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    image: Tensor,
    out: Tensor,
    config: ConvConfig,
    saved: Tensor | None = None,
) -> None:
    output_tail(x, folded(weight, config.block_n, weight.dtype), bias, image, out, config=config, saved=saved)


@each_dtype
@pytest.mark.parametrize("case", TAILS.values(), ids=TAILS.keys())
def test_output_tail(case: Tail, dtype: torch.dtype) -> None:
    x, weight, bias = tail_of(case, dtype)
    image, out, memory = pictures(case, normal(case.n, 3, case.h, case.w, dtype=dtype).clamp(-1, 1))
    saved = poison(*image.shape)
    run_tail(x, weight, bias, image, out, case.config, saved)
    residual = torch.tanh(F.conv2d(nchw(x).double(), weight.double(), bias.double()))
    wanted = (image.double() + residual).clamp(-1, 1)
    assert_matches(out, wanted)
    assert relative_error(saved, residual) <= OP_TOLERANCE[torch.float32]  # summed in fp32 whatever x is
    assert untouched(memory, out)
    assert 0 < int((wanted.abs() == 1).sum()) < wanted.numel()
    assert torch.equal(out[wanted == 1], torch.ones_like(out[wanted == 1]))


@each_dtype
@pytest.mark.parametrize("case", TAILS.values(), ids=TAILS.keys())
def test_output_tail_in_8_bits(case: Tail, dtype: torch.dtype) -> None:
    x, weight, bias = tail_of(case, dtype)
    levels = torch.randint(0, 256, (case.n, 3, case.h, case.w), dtype=torch.uint8).to(KERNEL_DEVICE)
    image, out, memory = pictures(case, levels)
    run_tail(x, weight, bias, image, out, case.config)
    residual = torch.tanh(F.conv2d(nchw(x).double(), weight.double(), bias.double()))
    exact = ((levels.double() / 127.5 - 1 + residual).clamp(-1, 1) + 1) * 127.5
    difference = out.double() - exact
    assert difference.abs().max() <= 0.501, "not the nearest level"
    assert abs(float(difference.mean())) <= 4 * 0.29 / math.sqrt(out.numel())
    if case.layout == "sliced":
        assert (memory[:, :, :, 1::2] == 77).all()
        assert (memory[:, :, [0, -1]] == 77).all()


@each_dtype
def test_output_tail_without_a_residual_returns_the_picture(dtype: torch.dtype) -> None:
    x, weight, bias = normal(1, 22, 22, 16, dtype=dtype), torch.zeros(3, 16, 7, 7), torch.zeros(3)
    weight, bias = weight.to(x), bias.to(KERNEL_DEVICE)
    levels = torch.arange(256, dtype=torch.uint8, device=KERNEL_DEVICE).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    out = torch.full_like(levels, 77).contiguous()
    run_tail(x, weight, bias, levels, out, pointer(64, 32, 16))
    assert torch.equal(out, levels)


@pytest.mark.filterwarnings("ignore:overflow")
def test_output_tail_saturates() -> None:
    x, weight = normal(1, 8, 8, 16), torch.zeros(3, 16, 7, 7, device=KERNEL_DEVICE)
    image = torch.linspace(-1, 1, 12, device=KERNEL_DEVICE).view(1, 3, 2, 2)
    for sign in (-1, 1):
        out = poison(1, 3, 2, 2)
        run_tail(x, weight, torch.full((3,), sign * 200.0, device=KERNEL_DEVICE), image, out, pointer(16, 32, 16))
        assert torch.equal(out, (image + sign).clamp(-1, 1))


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_what_is_not_finite_stays_so() -> None:
    """Deblurrer refuses such pictures; ReLU and clamp must not turn them into valid ones."""
    y, stats = normal(1, 2, 4, 16), torch.ones(1, 2, 16, device=KERNEL_DEVICE)
    y[0, 0, 1, 3] = NAN
    for leak in (0.0, reference.SLOPE):
        out = normal(*y.shape)
        norm_act(y, stats, out, relu=True, leak=leak)
        assert torch.equal(out.isnan(), y.isnan())
    x, weight, image = normal(1, 8, 8, 16), normal(3, 16, 7, 7), normal(1, 3, 2, 2)
    x[0, 0, 0, 0] = NAN
    out = normal(1, 3, 2, 2)
    run_tail(x, weight, torch.zeros(3, device=KERNEL_DEVICE), image, out, pointer(16, 32, 16))
    assert out[0, :, 0, 0].isnan().all()


def test_compiled_kernels_keep_nan() -> None:
    """The interpreter's maximum keeps NaN in any case; PTX's only where asked to."""
    program = """
import re, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from deblurgan.kernels.norm_act import norm_act_kernel
from deblurgan.kernels.output_tail import output_tail_kernel
norm = dict(C=64, RESIDUAL=False, BORDER=0, WIDTH=0, WRITE=True, EIGHTH=0, ZERO=0)
norm |= dict(THRESHOLD=1, TILES=64, BLOCK_P=64, BLOCK_C=64)
tail = dict(C=16, OUT=3, TAPS=7, LINES=1, EIGHT_BIT=False, SAVE=False)
tail |= dict(BLOCK_M=64, BLOCK_N=32, BLOCK_K=16, PRECISION="ieee")
halves = ("x", "y", "weight", "image", "residual", "out", "saved")
acts = [(norm_act_kernel, {**norm, "SLOPE": slope}) for slope in (0.0, 0.2)]
for kernel, constants in (*acts, (output_tail_kernel, tail)):
    types = {**dict.fromkeys(halves, "*fp16"), **dict.fromkeys(("stats", "counts", "bias"), "*fp32"), "counter": "*i64"}
    signature = {a: "constexpr" if a in constants else types.get(a, "i32") for a in kernel.arg_names}
    ptx = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 80, 32)).asm["ptx"]
    found = set(re.findall(r"(?:max|min)[.\\w]*[.]f(?:16|32)\\w*", ptx))
    assert found and all(".NaN" in name for name in found), f"{kernel.__name__}: {found}"
"""
    compiled = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, "-c", program], env=compiled, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_no_size_of_a_picture_compiles_a_kernel_anew() -> None:
    """But for the rows of the caller's own picture: wide loads go by whether they are aligned."""
    program = """
import json
import torch
from triton import knobs
from triton.runtime import driver
from benchmarks.compile_report import Absent
from deblurgan.generator.engine import Engine
from deblurgan.kernels.conv_stats import ConvConfig
from deblurgan.kernels.table import from_table
from deblurgan.nn import Generator
from deblurgan.ops.critic_gradients import KernelNormAct
from deblurgan.generator.tape import Tape

SIZES = (1, 8, 8), (1, 64, 64), (2, 48, 60), (2, 56, 56), (1, 76, 84), (1, 252, 260), (1, 512, 516)
seen = {}  # what a kernel of such constants takes its integers for


def note(*, fn, compile, **_):
    names = fn.jit_function.arg_names
    constants, attributes = compile["constants"], compile["configs"][0]
    fixed, known = ({names[at]: v for (at, *_), v in values.items()} for values in (constants, attributes))
    constants = str(sorted((name, value) for name, value in fixed.items() if name.isupper()))
    for name, type in compile["signature"].items():
        if type in ("i32", "i64") or isinstance(fixed.get(name), int) and not name.isupper():
            taken = type, fixed.get(name), str(known.get(name))
            seen.setdefault((fn.name, constants, name), set()).add(taken)
    return True  # that is enough: do not compile


def choose(kind, pixels, dtype):
    return ConvConfig(64, 64, 32, form="tma" if kind.startswith("trunk") else "pointer")


driver.set_active(Absent(90))
knobs.runtime.jit_cache_hook = note
with torch.device("meta"):
    net = Generator("paper", width=16, blocks=2)
    weights = {name: weight.detach() for name, weight in net.named_parameters()}
    engines = [Engine(net.spec, weights, dtype=torch.float16, choose=way) for way in (choose, from_table("", []))]
    tape = Tape(net.spec, torch.float16, choose)
    counter = torch.empty(2, dtype=torch.int64)
    for n, h, w in SIZES:
        image = torch.empty(n, 3, h, w)
        for engine in engines:
            engine(image)
        tape.backward(image, image, weights, counter, *tape.forward(image, weights, counter)[1:], set(tape.names))
        for rows, columns in ((h, w), (h - 1, w - 1)):
            z = torch.empty(n, 64, rows, columns, dtype=torch.float16, memory_format=torch.channels_last)
            y, norm_act = KernelNormAct.make(z)
            norm_act.adjoint(y, *norm_act.signal(y), *norm_act.tangent(y))
several = {(kernel, name) for (kernel, _, name), taken in seen.items() if len(taken) > 1}
print(json.dumps([sorted({kernel for kernel, *_ in seen}), sorted(several)]))
"""
    compiled = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=compiled, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    kernels, several = json.loads(ran.stdout)
    source = "".join(path.read_text() for path in (ROOT / "kernels").glob("*.py"))
    assert kernels == sorted(re.findall(r"^def (\w+_kernel)\(", source, re.M))
    of_rows = {"output_tail_grad_kernel": ("g_row", "i_row", "w"), "output_tail_kernel": ("i_row", "o_row", "w")}
    assert several == [[kernel, name] for kernel, names in of_rows.items() for name in names]


PACKED = [torch.uint8, torch.float32, torch.float16]


@each_dtype
@pytest.mark.parametrize("source", PACKED, ids=str)
@pytest.mark.parametrize("border", ["reflect", "zero"])
def test_pack_image(border: reference.Border, source: torch.dtype, dtype: torch.dtype) -> None:
    n, h, w, width = 2, 4, 6, 3
    image = normal(n, 3, h + 2, 2 * w).clamp(-1, 1)
    if source == torch.uint8:
        image = (image + 1) * 127.5
    image = image.to(source)[:, :, 1:-1, ::2]
    memory = poison(n + 2, h + 2 * width, w + 2 * width + 1, 8, dtype=dtype)
    out = memory[1:-1]
    pack_image(image, out, border=border, width=width)
    wide = image.double() / 127.5 - 1 if source == torch.uint8 else image.double()
    assert_matches(nchw(out)[:, :3, :, :-1], reference.pad(wide, width, border))
    inner = nchw(out)[:, :3, :, :-1]
    assert torch.equal(inner, reference.pad(inner[..., width:-width, width:-width], width, border))
    assert not out[..., 3:].any()
    assert not out[:, :, -1].any()
    assert untouched(memory, out)
    if source != torch.uint8:
        assert torch.equal(inner[..., width:-width, width:-width], image.to(dtype))


@pytest.mark.parametrize(
    ("n", "c", "h", "w", "width"), [(1, 3, 4, 250, 3), (1, 1, 2, 2, 1), (2, 8, 3, 5, 2), (1, 3, 5, 121, 3)], ids=str
)
def test_pack_image_of_any_size(n: int, c: int, h: int, w: int, width: int) -> None:
    image = normal(n, c, h, w).to(memory_format=torch.channels_last)
    out = poison(n, h + 2 * width, w + 2 * width + 1, 8)
    pack_image(image, out, border="reflect", width=width)
    assert torch.equal(nchw(out)[:, :c, :, :-1], reference.pad(image, width, "reflect"))
    assert not out[..., c:].any()
    assert not out[:, :, -1].any()
