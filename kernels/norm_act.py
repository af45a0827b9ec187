"""Normalise, activate, add the residual, and write the border that the next convolution reads."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deblurgan.kernels.config import Border, NormActInputs, Quantized, TileStats
from deblurgan.kernels.dropout import keep_mask, keep_threshold
from deblurgan.kernels.launch import launch_early, wait_for_previous

BORDER_MODES = {"reflect": 1, "zero": 2}
SIDES_ALONE = 2  # added to a mode where nothing is written above and below
MOST_TILES = 64  # more are merged by a launch of `merge_stats`


@triton.jit
def store_bordered(
    base,  # pixel (0, 0) of this picture
    stride,  # of rows
    value,  # [BLOCK_P, BLOCK_C], of pixels x of `row`
    row,
    first,  # of x
    x,
    c,
    h,
    w,
    C: tl.constexpr,
    BORDER: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_P: tl.constexpr,
    ZERO: tl.constexpr,  # the level that stands for zero
):
    """Stores pixels, and the border pixels that mirror them."""
    here = (x < w)[:, None] & (c < C)[None, :]
    tl.store(base + row.to(tl.int64) * stride + x[:, None] * C + c[None, :], value, mask=here)
    if BORDER > 0:
        # reflect leaves the edge pixel out: pixel i stands again at -i and 2 (side - 1) - i; zero at -1 - i and
        # 2 side - 1 - i, as good a position as any
        SKIP: tl.constexpr = BORDER % 2
        COPIES: tl.constexpr = 3 if BORDER <= 2 else 1
        edge = value if SKIP == 1 else tl.zeros_like(value) + ZERO
        left = (x >= SKIP) & (x < WIDTH + SKIP) & (x < w)
        right = (x < w - SKIP) & (x >= w - WIDTH - SKIP)
        near_left = first < WIDTH + SKIP
        near_right = first + BLOCK_P > w - WIDTH - SKIP
        x_left = SKIP - 1 - x
        x_right = 2 * w - 1 - SKIP - x
        for copy in tl.static_range(COPIES):  # this row, its copy above, its copy below
            if copy == 0:
                to = row
                wanted = row >= 0
            elif copy == 1:
                to = SKIP - 1 - row
                wanted = (row >= SKIP) & (row < WIDTH + SKIP)
            else:
                to = 2 * h - 1 - SKIP - row
                wanted = (row < h - SKIP) & (row >= h - WIDTH - SKIP)
            if wanted:
                line = base + to.to(tl.int64) * stride + c[None, :]
                if copy > 0:
                    tl.store(line + x[:, None] * C, edge, mask=here)
                if near_left:
                    tl.store(line + x_left[:, None] * C, edge, mask=here & left[:, None])
                if near_right:
                    tl.store(line + x_right[:, None] * C, edge, mask=here & right[:, None])


@triton.jit
def load_tiles(
    partials,  # fp32 [tiles, 2, C]: mean, M2
    counts,  # fp32 [tiles]
    tiles,
    c,
    C: tl.constexpr,
    TILES: tl.constexpr,  # a power of two
):
    """count [TILES], m and M2 [TILES, BLOCK_C] of channels c, and m_0 [BLOCK_C]."""
    t = tl.arange(0, TILES)
    here = (t < tiles)[:, None] & (c < C)[None, :]
    at = partials + t[:, None] * 2 * C + c[None, :]
    count = tl.load(counts + t, mask=t < tiles, other=0.0)
    m = tl.load(at, mask=here, other=0.0)
    part = tl.load(at + C, mask=here, other=0.0)
    pivot = tl.load(partials + c, mask=c < C, other=0.0)
    return count, m, part, pivot


@triton.jit
def merge_tiles(count, m, part, pivot, pixels, eps):
    """mean and 1 / std, each [BLOCK_C], of what `load_tiles` gives; the formula is that of `merge_stats`."""
    mean = pivot + tl.sum(count[:, None] * (m - pivot[None, :]), 0) / pixels
    m2 = tl.sum(part + count[:, None] * (m - mean[None, :]) * (m - mean[None, :]), 0)
    return mean, 1.0 / tl.sqrt(m2 / pixels + eps)


@triton.jit(do_not_specialize=["tiles", "h", "w", "rng_stream"])
def norm_act_kernel(
    y,  # pixel (0, 0) of [n, h, w, C]
    stats,  # fp32 [n, 2, C]: mean, 1 / std; TILES: [n, tiles, 2, C], of conv_stats
    counts,  # TILES: fp32 [tiles]
    residual,  # pixel (0, 0), or y again
    out,  # pixel (0, 0) of [n, h + 2b, w + 2b, C]'s inside; may be y
    quantized,  # int8 or fp8, laid out as out is
    counter,  # THRESHOLD: int64 [2], of the masks
    tiles,
    h,
    w,
    y_image,
    y_row,
    r_image,
    r_row,
    o_image,
    o_row,
    q_image,
    q_row,
    inverse_step,  # 1 / what a level of `quantized` stands for
    rng_stream,
    dropout_scale,
    eps,
    C: tl.constexpr,
    SLOPE: tl.constexpr,  # of the activation below 0: 0 is ReLU, 1 none
    RESIDUAL: tl.constexpr,
    BORDER: tl.constexpr,  # 0 none, 1 reflect, 2 zero, 3 and 4 the same at the sides alone
    WIDTH: tl.constexpr,  # of the border
    WRITE: tl.constexpr,  # whether out is written
    QUANTIZED: tl.constexpr,  # 1: quantized is int8, 2: fp8
    ZERO: tl.constexpr,  # int8: the level that stands for zero
    THRESHOLD: tl.constexpr,  # of the words that keep an element, 0 without dropout
    TILES: tl.constexpr,  # at least the tiles to merge; 0 where stats are merged already
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PDL: tl.constexpr,
):
    """out = residual + mask dropout_scale act((y - mean) / std), in fp32, rounded once;
    quantized = out inverse_step + ZERO, clamped to its type.

    act(v) = max(v, SLOPE v).

    A program has BLOCK_P pixels of one row. Those within WIDTH of an edge also write the border pixels that mirror
    them, so that in place no pixel is read after it has changed. All is read before tiles are merged, whose sums wait
    for one another.
    """
    wait_for_previous(PDL)
    ACROSS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    first = (tl.program_id(0) // ACROSS) * BLOCK_P
    channel = (tl.program_id(0) % ACROSS) * BLOCK_C
    x, c = first + tl.arange(0, BLOCK_P), channel + tl.arange(0, BLOCK_C)
    row = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    here = (x < w)[:, None] & (c < C)[None, :]
    if TILES > 0:
        count, m, part, pivot = load_tiles(stats + image * tiles * 2 * C, counts, tiles, c, C, TILES)
    else:
        mean = tl.load(stats + image * 2 * C + c, mask=c < C, other=0.0)
        scale = tl.load(stats + image * 2 * C + C + c, mask=c < C, other=0.0)
    y_at = y + image * y_image + row.to(tl.int64) * y_row + x[:, None] * C + c[None, :]
    value = tl.load(y_at, mask=here, other=0.0)
    if RESIDUAL:
        r_at = residual + image * r_image + row.to(tl.int64) * r_row + x[:, None] * C + c[None, :]
        added = tl.load(r_at, mask=here, other=0.0)
    if TILES > 0:
        tl.debug_barrier()  # behind which loads would be moved, to wait for memory after the merge's sums have
        mean, scale = merge_tiles(count, m, part, pivot, (h * w).to(tl.float32), eps)
    value = (value.to(tl.float32) - mean[None, :]) * scale[None, :]
    if SLOPE != 1:
        low = value * SLOPE if SLOPE > 0 else 0.0
        value = tl.maximum(value, low, propagate_nan=tl.PropagateNan.ALL)
    if THRESHOLD > 0:
        mask = keep_mask(counter, image, row, x, channel, w, rng_stream, C, THRESHOLD, BLOCK_C)
        value *= tl.where(mask, dropout_scale, 0.0)
    if RESIDUAL:
        value += added.to(tl.float32)
    if WRITE:
        result = value.to(out.dtype.element_ty)
        store_bordered(out + image * o_image, o_row, result, row, first, x, c, h, w, C, BORDER, WIDTH, BLOCK_P, 0)
    if QUANTIZED > 0:
        level = value * inverse_step
        if QUANTIZED == 1:
            level = tl.minimum(tl.maximum(tl.floor(level + 0.5) + ZERO, -127.0), 127.0)
        else:
            level = tl.minimum(tl.maximum(level, -448.0), 448.0)
        level = level.to(quantized.dtype.element_ty)
        to = quantized + image * q_image
        store_bordered(to, q_row, level, row, first, x, c, h, w, C, BORDER, WIDTH, BLOCK_P, ZERO)


def norm_act(
    inputs: NormActInputs,
    out: Tensor | None,
    *,
    residual: Tensor | None = None,
    border: Border | None = None,
    sides_alone: bool = False,
    quantized: Quantized | None = None,
    eps: float = 0.0,
) -> None:
    """Fills out [n, h, w, c], the inside of a bordered picture, and its border, or the part that is beside its rows.

    out may be inputs.y itself; residual [n, h, w, c] may not. Pixels of a row lie side by side. `quantized`, as wide as
    out, takes the same in 8 bits, clamped to 127 levels either way, or 448 in fp8; `out` is None where it alone is
    needed.

    inputs.stats may be at most MOST_TILES tiles, of variance + eps; each program merges them for its channels.
    """
    y, stats, slope, dropout = inputs
    counts = stats
    tiles = 0
    if isinstance(stats, TileStats):
        stats, counts = stats
        tiles = counts.shape[0]
    if tiles > MOST_TILES:
        raise ValueError(f"stats must be at most {MOST_TILES} tiles, got {tiles}: merge_stats takes more")
    n, h, w, c = y.shape
    threshold = keep_threshold(dropout, h, w, c)
    block_c = min(triton.next_power_of_2(c), 64) if tiles else triton.next_power_of_2(c)
    block_p = max(1, min(4096 // block_c, triton.next_power_of_2(w)))
    added = y if residual is None else residual
    wide = y if out is None else out
    narrow = wide if quantized is None else quantized.tensor
    norm_act_kernel[(triton.cdiv(w, block_p) * triton.cdiv(c, block_c), h, n)](
        y,
        stats,
        counts,
        added,
        wide,
        narrow,
        stats if dropout is None else dropout.counter,
        tiles,
        h,
        w,
        *y.stride()[:2],
        *added.stride()[:2],
        *wide.stride()[:2],
        *narrow.stride()[:2],
        1.0 if quantized is None else 1.0 / quantized.step,
        0 if dropout is None else dropout.rng_stream,
        1.0 if dropout is None else dropout.scale,
        eps,
        C=c,
        SLOPE=slope,
        RESIDUAL=residual is not None,
        BORDER=0 if border is None else BORDER_MODES[border.mode] + SIDES_ALONE * sides_alone,
        WIDTH=0 if border is None else border.width,
        WRITE=out is not None,
        QUANTIZED=0 if quantized is None else 1 if narrow.dtype == torch.int8 else 2,
        ZERO=0 if quantized is None else quantized.zero,
        THRESHOLD=threshold,
        TILES=triton.next_power_of_2(tiles) if tiles else 0,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
        num_warps=4,
        **launch_early(),
    )
