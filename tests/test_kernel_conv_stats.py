"""Convolutions with the statistics of their tiles, in our kernels, against torch in fp64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import KERNEL_DEVICE, KERNEL_DTYPES, OP_TOLERANCE, assert_matches, relative_error
from deblurgan import reference
from deblurgan.kernels.config import (
    Border,
    ConvConfig,
    NormActInputs,
    PackedWeight,
    TileStats,
)
from deblurgan.ops.conv import launch_conv
from deblurgan.ops.layers import conv_layer, up_layer
from kernel_cases import (
    Launches,
    assert_stats,
    assert_tiles,
    bordered,
    each_dtype,
    flat,
    members,
    merge,
    nchw,
    normal,
    pointer,
    poison,
    supported,
    untouched,
    whole_numbers,
)

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels import conv_stats as conv_stats_module
from deblurgan.kernels.conv_stats import conv_stats, tile_count, up_conv_stats
from deblurgan.kernels.norm_act import norm_act

pytestmark = pytest.mark.usefixtures("seeded")


def pack(weight: Tensor, taps: tuple[int, int] | None = None, stride: int = 1) -> PackedWeight:
    """weight [cout, c, kh, kw] as conv_stats reads it, in `taps` where a tap is a run of pixels."""
    rows = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1).contiguous()
    return PackedWeight(rows, taps or (weight.shape[2], weight.shape[3]), stride)


class Conv(NamedTuple):
    n: int
    c: int
    k: int
    h: int  # of the output
    w: int
    config: ConvConfig
    taps: tuple[int, int] = (3, 3)
    stride: int = 1


def convolve(case: Conv, x: Tensor, weight: Tensor, y: Tensor) -> TileStats:
    """Runs the kernel: the poisoned partials and counts that it filled."""
    tiles = tile_count(case.h, case.w, case.config)
    stats = TileStats(poison(case.n, tiles, 2, case.k), poison(tiles))
    conv_stats(x, pack(weight, stride=case.stride), y, stats, config=case.config)
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
    partials, counts = convolve(case, x, weight, y)
    assert untouched(memory, y)
    assert_matches(nchw(y), F.conv2d(nchw(x).double(), weight.double(), stride=case.stride))
    assert_tiles(y, partials, counts, members(case.h, case.w, case.config))
    assert_stats(merge(partials, counts), y)


@each_dtype
def test_conv_stats_of_overlapping_runs(dtype: torch.dtype) -> None:
    """The stem: seven rows of one run each, eight pixels of eight channels; the run's last pixel weighs nothing."""
    n, h, w, k = 2, 5, 9, 24
    _, x, _ = bordered(n, h + 6, w + 7, 8, 0, dtype)
    x.copy_(normal(*x.shape))
    weight = (normal(k, 8, 7, 7) / 10).to(dtype)
    runs = pack(F.pad(weight, (0, 1)), (7, 1))
    memory, _, y = bordered(n, h, w, k, 1, dtype)
    config = pointer(16, 32, 32)
    tiles = tile_count(h, w, config)
    partials, counts = poison(n, tiles, 2, k), poison(tiles)
    conv_stats(x, runs, y, TileStats(partials, counts), config=config)
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
    layer = up_layer(weight, dtype)
    memory, _, y = bordered(n, 2 * h, 2 * w, k, 3, dtype)
    tiles = tile_count(h, w, config)
    partials, counts = poison(n, 4 * tiles, 2, k), poison(4 * tiles)
    up_conv_stats(x[:, 1:, 1:], layer.weight, y, TileStats(partials, counts), config=config)
    assert untouched(memory, y)
    inside = nchw(x[:, 1:-1, 1:-1]).double()
    assert_matches(
        nchw(y), F.conv_transpose2d(inside, weight.double(), stride=2, padding=1, output_padding=1), name="y"
    )
    assert_stats(merge(partials, counts), y)
    phases = ((1, 1), (1, 2), (2, 1), (2, 2))
    rows = layer.weight.rows.split([c * i * j for i, j in phases], 1)
    for i, taps in enumerate(phases):
        part, own = y[:, i // 2 :: 2, i % 2 :: 2], slice(i * tiles, (i + 1) * tiles)
        assert_tiles(part, partials[:, own], counts[own], members(h, w, config))
        alone, its_partials, its_counts = torch.empty_like(part), poison(n, tiles, 2, k), poison(tiles)
        weights, stats = PackedWeight(rows[i].contiguous(), taps), TileStats(its_partials, its_counts)
        conv_stats(x[:, 1:, 1:], weights, alone, stats, config=config)
        assert torch.equal(alone, part)
        assert torch.equal(its_partials, partials[:, own])
        assert torch.equal(its_counts, counts[own])
    y.fill_(math.nan)
    up_conv_stats(x[:, 1:, 1:], layer.weight, y, config=config)
    assert torch.equal(y[:, 1::2, 1::2], alone)
    assert untouched(memory, y)


@each_dtype
@pytest.mark.parametrize(("c", "k", "block_k"), [(32, 24, 16), (24, 48, 32)], ids=["whole blocks", "part of a block"])
def test_pairs_are_the_phases(c: int, k: int, block_k: int, dtype: torch.dtype) -> None:
    """To the last bit where no sum is rounded, with statistics or without."""
    x, weight = whole_numbers(2, 5, 6, c, dtype=dtype), whole_numbers(c, k, 3, 3, dtype=dtype)
    layer, config = up_layer(weight, dtype), pointer(16, 32, block_k)
    results = []
    for form in (config, replace(config, form="pairs")):
        _, _, y = bordered(2, 6, 8, k, 1, torch.float32)
        tiles = tile_count(3, 4, config)
        stats = TileStats(poison(2, 4 * tiles, 2, k), poison(4 * tiles))
        up_conv_stats(x[:, 1:, 1:], layer.weight, y, stats, config=form)
        alone = torch.empty_like(y)
        up_conv_stats(x[:, 1:, 1:], layer.weight, alone, config=form)
        assert torch.equal(alone, y)
        results.append((y, *stats))
    for single, paired in zip(*results, strict=True):
        assert torch.equal(single, paired)


def test_forms_that_a_layer_lacks_mean_cudnn() -> None:
    up, trunk = up_layer(normal(32, 16, 3, 3), torch.float32), conv_layer("trunk", normal(16, 32, 3, 3), torch.float32)
    single, flattened = pointer(16, 16, 32), flat(16, 16, 32)
    pairs = replace(single, form="pairs")
    assert [up.fitting(config) for config in (single, flattened, pairs)] == [single, None, pairs]
    assert [trunk.fitting(config) for config in (single, flattened, pairs)] == [single, flattened, None]


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
    partials, counts = convolve(case, x, weight, y)
    assert_tiles(y, partials, counts, members(case.h, case.w, config))
    stats = merge(partials, counts)
    assert_stats(stats, y)
    wanted = reference.norm_act(nchw(y).double())
    norm_act(NormActInputs(y, stats), y, border=Border("zero", 1))
    assert relative_error(nchw(y), wanted) <= max(OP_TOLERANCE[dtype], 1e-4)


@pytest.mark.any_cpu
@each_dtype
@pytest.mark.parametrize(
    "config", [pointer(64, 64, 16), pointer(16, 32, 16), flat(16, 16, 16)], ids=lambda c: f"{c.form} {c.block_m}"
)
def test_constant_planes_normalise_to_zero(config: ConvConfig, dtype: torch.dtype) -> None:
    supported(config)
    case = Conv(2, 16, 48, 3, 15, config)
    values = whole_numbers(case.n, 1, 1, case.c, dtype=dtype)
    x = values.expand(-1, case.h + 2, case.w + 2, -1).contiguous()
    weight = whole_numbers(case.k, case.c, 3, 3, dtype=dtype)
    _, whole, y = bordered(case.n, case.h, case.w, case.k, 1, dtype)
    partials, counts = convolve(case, x, weight, y)
    means = partials[:, counts > 0, 0]
    assert torch.equal(means, y[:, 0, 0].float()[:, None].expand_as(means))
    assert not partials[:, :, 1].any()
    assert counts.sum() == case.h * case.w
    norm_act(NormActInputs(y, merge(partials, counts), 1.0), y, border=Border("reflect", 1))
    assert not whole.any()


FP16_SUMS = {
    "pointer": ("trunk", ConvConfig(16, 16, 64, accumulate="fp16")),
    "pointer, half the channels": ("trunk", ConvConfig(16, 16, 32, accumulate="fp16")),
    "tma": ("trunk", ConvConfig(16, 16, 64, form="tma", accumulate="fp16")),
    "transposed": ("up", ConvConfig(16, 16, 64, accumulate="fp16")),
}


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(("kind", "config"), FP16_SUMS.values(), ids=FP16_SUMS.keys())
def test_sums_in_fp16_are_of_block_k_products(kind: str, config: ConvConfig) -> None:
    """Exact where those are whole numbers below 2048, whatever the whole sum; infinite above 65504, and never wrong."""
    supported(config)
    weight = torch.randint(1, 4, (16, 64, 3, 3)).to(KERNEL_DEVICE).half()
    layer = up_layer(weight.transpose(0, 1), weight.dtype) if kind == "up" else conv_layer(kind, weight, weight.dtype)
    x = torch.randint(3, 10, (1, 4, 5, 64)).to(KERNEL_DEVICE).half()
    side = 2 if kind == "up" else 1
    _, _, y = bordered(1, 2 * side, 3 * side, 16, 1, torch.float32)
    launch_conv(layer, x, y, config=config)
    wanted = F.conv2d(nchw(x).double(), weight.double())
    if kind == "up":  # of which conv_stats reads a border above and to the left, and cuts what lies past the output
        whole = F.conv_transpose2d(nchw(x)[..., 1:, 1:].double(), layer.library.double(), stride=2, padding=1)
        wanted = whole[..., :4, :6]
    assert torch.equal(nchw(y).double(), wanted)
    launch_conv(layer, x * 300, y, config=config)
    assert y.isinf().all()


@pytest.mark.parametrize(("dtype", "block_k"), [(torch.bfloat16, 64), (torch.float32, 32), (torch.float16, 128)])
def test_sums_in_fp16_are_refused(dtype: torch.dtype, block_k: int) -> None:
    message = f'"fp32" unless operands are torch.float16 and block_k at most 64, got "fp16" for {dtype} and {block_k}'
    with pytest.raises(ValueError, match=message):
        ConvConfig(16, 16, block_k, accumulate="fp16").launch_options(dtype, tf32=False)


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
        convolve(case, x, weight, y)
