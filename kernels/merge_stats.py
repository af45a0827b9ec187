"""The mean and 1 / sqrt(variance + eps) of planes from the statistics of their tiles."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from deblurgan.kernels.config import TileStats
from deblurgan.kernels.launch import launch_early, wait_for_previous

BLOCK_TILES, BLOCK_C = 256, 8  # many programs of few steps: each step waits for memory


@triton.jit(do_not_specialize=["tiles", "group"])
def merge_stats_kernel(
    partials,  # fp32 [n, tiles, 2, C]: mean, M2
    counts,  # fp32 [tiles]
    out,  # FINAL: fp32 [n, 2, C], mean and 1 / std; else [n, groups, 2, C], mean and M2
    out_counts,  # not FINAL: fp32 [groups]
    tiles,
    group,  # tiles that a program merges
    eps,
    C: tl.constexpr,
    FINAL: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PDL: tl.constexpr,
):
    """mean = m_0 + sum count_t (m_t - m_0) / N,   M2 = sum (M2_t + count_t (m_t - mean)^2),   N = sum count_t.

    About m_0 a constant plane keeps its value to the last bit, and a large mean costs no digits.
    """
    wait_for_previous(PDL)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    first = tl.program_id(1) * group
    last = tl.minimum(first + group, tiles)
    image = tl.program_id(2).to(tl.int64)
    wanted = c < C
    at = partials + image * tiles * 2 * C + c[None, :]
    pivot = tl.load(at + first * 2 * C, mask=wanted[None, :], other=0.0)  # [1, BLOCK_C]
    total = tl.zeros((BLOCK_TILES,), tl.float32)
    shift = tl.zeros((BLOCK_C,), tl.float32)
    for start in range(first, last, BLOCK_TILES):
        t = start + tl.arange(0, BLOCK_TILES)
        count = tl.load(counts + t, mask=t < last, other=0.0)
        m = tl.load(at + t[:, None] * 2 * C, mask=(t < last)[:, None] & wanted[None, :], other=0.0)
        total += count
        shift += tl.sum(count[:, None] * (m - pivot), 0)
    pixels = tl.maximum(tl.sum(total, 0), 1.0)  # a group may lie on the border alone
    mean = pivot + (shift / pixels)[None, :]
    m2 = tl.zeros((BLOCK_C,), tl.float32)
    for start in range(first, last, BLOCK_TILES):
        t = start + tl.arange(0, BLOCK_TILES)
        here = (t < last)[:, None] & wanted[None, :]
        count = tl.load(counts + t, mask=t < last, other=0.0)
        m = tl.load(at + t[:, None] * 2 * C, mask=here, other=0.0)
        part = tl.load(at + t[:, None] * 2 * C + C, mask=here, other=0.0)
        m2 += tl.sum(part + count[:, None] * (m - mean) * (m - mean), 0)
    to = out + (image * tl.num_programs(1) + tl.program_id(1)) * 2 * C + c
    tl.store(to[None, :], mean, mask=wanted[None, :])
    if FINAL:
        tl.store(to + C, 1.0 / tl.sqrt(m2 / pixels + eps), mask=wanted)
    else:
        tl.store(to + C, m2, mask=wanted)
        if (tl.program_id(0) == 0) & (tl.program_id(2) == 0):
            tl.store(out_counts + tl.program_id(1), tl.sum(total, 0))


def merge_stats(tiles: TileStats, stats: Tensor, *, eps: float) -> None:
    """Fills stats [n, 2, c] with mean and 1 / std from the statistics of tiles."""
    partials, counts = _grouped(tiles)
    n, total, _, c = partials.shape
    merge_stats_kernel[triton.cdiv(c, BLOCK_C), 1, n](
        partials, counts, stats, counts, total, total, eps, **_shape(c), FINAL=True
    )


def merge_moments(tiles: TileStats) -> TileStats:
    """The statistics of all tiles as if they were one."""
    tiles = _grouped(tiles)
    return _in_groups(tiles, tiles.counts.shape[0])


def _grouped(tiles: TileStats) -> TileStats:
    """Many tiles in groups, so that no program walks over more than a few blocks of them."""
    return _in_groups(tiles, BLOCK_TILES) if tiles.counts.shape[0] > 4 * BLOCK_TILES else tiles


def _in_groups(tiles: TileStats, group: int) -> TileStats:
    """The statistics of each `group` tiles together."""
    partials, counts = tiles
    n, total, _, c = partials.shape
    groups = triton.cdiv(total, group)
    merged = TileStats(partials.new_empty(n, groups, 2, c), counts.new_empty(groups))
    merge_stats_kernel[triton.cdiv(c, BLOCK_C), groups, n](
        partials, counts, *merged, total, group, 0.0, **_shape(c), FINAL=False
    )
    return merged


def _shape(c: int) -> dict[str, int | bool]:
    return {"C": c, "BLOCK_TILES": BLOCK_TILES, "BLOCK_C": BLOCK_C, **launch_early()}
