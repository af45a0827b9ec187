"""The statistics that `conv_stats` takes of its own tiles, for the output of a library's convolution."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deblurgan.kernels.config import TileStats
from deblurgan.kernels.launch import launch_early, wait_for_previous
from deblurgan.kernels.merge_stats import merge_stats

TILE, BLOCK_C = 256, 64


@triton.jit(do_not_specialize=["h", "w", "tiles"])
def tile_stats_kernel(
    y,  # [n, h, w, C]
    partials,  # fp32 [n, tiles, 2, C]: mean, M2
    counts,  # fp32 [tiles]
    h,
    w,
    y_image,
    y_row,
    y_pixel,
    tiles,
    C: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PDL: tl.constexpr,
):
    """m = sum v / count,   M2 = sum (v - m)^2   of TILE pixels."""
    wait_for_previous(PDL)
    tile = tl.program_id(0)
    image = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m = tile * TILE + tl.arange(0, TILE)
    inside = (m < h * w)[:, None] & (c < C)[None, :]
    at = y + image * y_image + (m // w).to(tl.int64) * y_row + (m % w).to(tl.int64) * y_pixel
    values = tl.load(at[:, None] + c[None, :], mask=inside, other=0.0).to(tl.float32)
    count = tl.minimum(TILE, h * w - tile * TILE).to(tl.float32)
    total = tl.sum(values, 0)
    mean = tl.div_rn(total, count + tl.zeros_like(total))
    mean += tl.sum(tl.where(inside, values - mean[None, :], 0.0), 0) / count  # a sum of fp32 numbers has rounded
    centred = tl.where(inside, values - mean[None, :], 0.0)
    here = partials + (image * tiles + tile) * 2 * C
    tl.store(here + c, mean, mask=c < C)
    tl.store(here + C + c, tl.sum(centred * centred, 0), mask=c < C)
    if (tl.program_id(1) == 0) & (tl.program_id(2) == 0):
        tl.store(counts + tile, count)


def tile_count(h: int, w: int) -> int:
    """Tiles of a picture of h x w."""
    return triton.cdiv(h * w, TILE)


def tile_stats(y: Tensor, tiles: TileStats) -> None:
    """Fills the statistics of the tiles of y [n, h, w, c], channels side by side."""
    n, h, w, c = y.shape
    total = tiles.counts.shape[0]
    grid = (total, triton.cdiv(c, BLOCK_C), n)
    shape = {"C": c, "TILE": TILE, "BLOCK_C": BLOCK_C, **launch_early()}
    tile_stats_kernel[grid](y, *tiles, h, w, *y.stride()[:3], total, **shape, num_warps=8)  # 4 would spill


def plane_stats(y: Tensor, *, eps: float) -> Tensor:
    """mean and 1 / sqrt(variance + eps) of the planes of y [n, h, w, c], channels side by side: fp32 [n, 2, c]."""
    n, h, w, c = y.shape
    total = tile_count(h, w)
    partials = torch.empty(n, total, 2, c, dtype=torch.float32, device=y.device)
    tiles = TileStats(partials, torch.empty(total, dtype=torch.float32, device=y.device))
    stats = torch.empty(n, 2, c, dtype=torch.float32, device=y.device)
    tile_stats(y, tiles)
    merge_stats(tiles, stats, eps=eps)
    return stats
