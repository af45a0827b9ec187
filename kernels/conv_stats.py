"""Convolutions as implicit matrix products, with the statistics of what they store.

Pictures lie as [n, h + 2b, w + 2b, c] with the border written out, so that no tap needs a check. Each program makes a
tile of block_m pixels by block_n channels of one picture, and for each channel its mean m and sum of squares about it

    m = sum v / count,   M2 = sum (v - m)^2

of the values as they were stored (rounded to y's type): a constant plane has M2 = 0 exactly. No atomics: the partial
results are merged by `merge_stats` in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class ConvConfig:
    """How a convolution is cut into tiles; `form` is "pointer" or, for 3x3 of stride 1 on sm_90 and newer, "tma"."""

    block_m: int = 128
    block_n: int = 64
    block_k: int = 32
    warps: int = 4
    stages: int = 3
    form: str = "pointer"


@triton.jit
def matrix_product(
    rows,  # pointers [BLOCK_M], the first element that each output pixel reads
    weight,  # [COUT, TAPS_Y * TAPS_X * C]
    columns,  # [BLOCK_N]
    row_stride,
    pixel_stride,
    C: tl.constexpr,
    COUT: tl.constexpr,
    TAPS_Y: tl.constexpr,
    TAPS_X: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """sum over taps (i, j) and channels k of x[i, j, k] weight[., i, j, k]: fp32 [BLOCK_M, BLOCK_N]."""
    STEPS: tl.constexpr = (C + BLOCK_K - 1) // BLOCK_K
    K: tl.constexpr = TAPS_Y * TAPS_X * C
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(TAPS_Y * TAPS_X * STEPS):
        tap = step // STEPS
        k = (step % STEPS) * BLOCK_K + tl.arange(0, BLOCK_K)
        offset = (tap // TAPS_X) * row_stride + (tap % TAPS_X) * pixel_stride
        a_at = rows[:, None] + offset + k[None, :]  # [BLOCK_M, BLOCK_K]
        b_at = weight + columns[:, None] * K + tap * C + k[None, :]  # [BLOCK_N, BLOCK_K]
        if C % BLOCK_K == 0 and COUT % BLOCK_N == 0:
            a = tl.load(a_at)
            b = tl.load(b_at)
        else:
            inner = (k < C)[None, :]
            a = tl.load(a_at, mask=inner, other=0.0)
            b = tl.load(b_at, mask=inner & (columns < COUT)[:, None], other=0.0)
        acc = tl.dot(a, tl.trans(b), acc, input_precision=PRECISION)
    return acc


@triton.jit
def store_with_stats(
    acc,  # fp32 [BLOCK_M, BLOCK_N]
    y_at,  # pointers [BLOCK_M] to each pixel's channel 0
    inside,  # [BLOCK_M], whether the pixel exists
    count,  # how many do, fp32
    columns,
    partials,  # pointer to this tile's [2, COUT]: mean, M2
    COUT: tl.constexpr,
):
    stored = acc.to(y_at.dtype.element_ty)
    wanted = columns < COUT
    tl.store(y_at[:, None] + columns[None, :], stored, mask=inside[:, None] & wanted[None, :])
    values = tl.where(inside[:, None], stored.to(tl.float32), 0.0)
    mean = tl.div_rn(tl.sum(values, 0), count + tl.zeros_like(tl.sum(values, 0)))
    if stored.dtype == tl.float32:  # a sum of 24-bit numbers rounds; one of half types does not
        mean += tl.sum(tl.where(inside[:, None], values - mean[None, :], 0.0), 0) / count
    centred = tl.where(inside[:, None], values - mean[None, :], 0.0)
    tl.store(partials + columns, mean, mask=wanted)
    tl.store(partials + COUT + columns, tl.sum(centred * centred, 0), mask=wanted)


@triton.jit
def conv_stats_kernel(
    x,  # the pixel that tap (0, 0) of output pixel (0, 0) reads
    weight,  # [COUT, TAPS_Y * TAPS_X * C]
    y,  # output pixel (0, 0)
    partials,  # fp32 [n, tiles, 2, COUT]: mean, M2
    counts,  # fp32 [tiles]
    h,
    w,  # of the output
    x_image,
    x_row,
    x_pixel,
    y_image,
    y_row,
    y_pixel,
    tiles,
    first_tile,
    C: tl.constexpr,
    COUT: tl.constexpr,
    TAPS_Y: tl.constexpr,
    TAPS_X: tl.constexpr,
    STRIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """y[oy, ox] = sum over i, j of weight[i, j] x[oy STRIDE + i, ox STRIDE + j], any kernel and stride."""
    ACROSS: tl.constexpr = (COUT + BLOCK_N - 1) // BLOCK_N
    tile = tl.program_id(0) // ACROSS
    columns = (tl.program_id(0) % ACROSS) * BLOCK_N + tl.arange(0, BLOCK_N)
    image = tl.program_id(1).to(tl.int64)
    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = m < h * w
    pixel = tl.minimum(m, h * w - 1)  # those beyond the end read the last pixel, and are not stored
    oy, ox = (pixel // w).to(tl.int64), (pixel % w).to(tl.int64)
    rows = x + image * x_image + oy * STRIDE * x_row + ox * STRIDE * x_pixel
    acc = matrix_product(
        rows, weight, columns, x_row, x_pixel, C, COUT, TAPS_Y, TAPS_X, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION
    )
    count = tl.minimum(BLOCK_M, h * w - tile * BLOCK_M).to(tl.float32)
    if tl.program_id(1) == 0:
        tl.store(counts + first_tile + tile, count)
    y_at = y + image * y_image + oy * y_row + ox * y_pixel
    here = partials + (image * tiles + first_tile + tile) * 2 * COUT
    store_with_stats(acc, y_at, inside, count, columns, here, COUT)


@triton.jit
def flat_conv_stats_kernel(
    x,  # descriptor of [n * (h + 2) * (w + 2), C], box [BLOCK_M, BLOCK_K]
    weight,  # descriptor of [COUT, 9 * C], box [BLOCK_N, BLOCK_K]
    y,  # pixel (0, 0) of [n, h + 2, w + 2, COUT]'s inside
    scales,  # EIGHTH: fp32 [COUT], what a step of x times a step of weight stands for
    partials,
    counts,
    h,
    w,
    tiles,
    C: tl.constexpr,
    COUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    EIGHTH: tl.constexpr,  # x and weight are int8
):
    """3x3, stride 1: with the pitch w + 2 of the bordered picture, nine products of one matrix with itself shifted.

    Row m of the product is pixel m of the pitch; the two at each line's end fall on the border and count for nothing.
    """
    ACROSS: tl.constexpr = COUT // BLOCK_N
    STEPS: tl.constexpr = C // BLOCK_K
    tile = tl.program_id(0) // ACROSS
    column = (tl.program_id(0) % ACROSS) * BLOCK_N
    image = tl.program_id(1)
    pitch = w + 2
    first = tile * BLOCK_M
    start = image * (h + 2) * pitch + first  # row of the matrix; below 2^31, which the launcher checks
    SUM: tl.constexpr = tl.int32 if EIGHTH else tl.float32
    acc = tl.zeros((BLOCK_M, BLOCK_N), SUM)
    for step in range(9 * STEPS):
        tap = step // STEPS
        k = (step % STEPS) * BLOCK_K
        a = x.load([start + (tap // 3) * pitch + tap % 3, k])
        b = weight.load([column, tap * C + k])
        acc = tl.dot(a, b.T, acc, input_precision=PRECISION, out_dtype=SUM)
    m = first + tl.arange(0, BLOCK_M)
    inside = (m < h * pitch) & (m % pitch < w)
    last = tl.minimum(first + BLOCK_M, h * pitch)
    before = (first // pitch) * w + tl.minimum(first % pitch, w)
    count = ((last // pitch) * w + tl.minimum(last % pitch, w) - before).to(tl.float32)
    if tl.program_id(1) == 0:
        tl.store(counts + tile, count)
    y_at = y + (image.to(tl.int64) * (h + 2) * pitch + m) * COUT
    here = partials + (image.to(tl.int64) * tiles + tile) * 2 * COUT
    columns = column + tl.arange(0, BLOCK_N)
    if EIGHTH:
        acc = acc.to(tl.float32) * tl.load(scales + columns)[None, :]
    store_with_stats(acc, y_at, inside, tl.maximum(count, 1.0), columns, here, COUT)


def tile_count(h: int, w: int, config: ConvConfig) -> int:
    """Tiles of an output of h x w."""
    return triton.cdiv(h * (w + 2) if config.form == "tma" else h * w, config.block_m)


def conv_stats(
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    partials: Tensor,
    counts: Tensor,
    *,
    taps: tuple[int, int],
    stride: int = 1,
    first_tile: int = 0,
    config: ConvConfig,
    tf32: bool = False,
    scales: Tensor | None = None,
) -> None:
    """Fills y [n, h, w, cout] and the tiles from `first_tile` on of partials [n, tiles, 2, cout] and counts [tiles].

    x and y are views of bordered pictures: x [n, ., ., c] begins at the pixel that tap (0, 0) of y's first reads.
    weight [cout, taps_y * taps_x * c] is contiguous. In the "tma" form both may be int8: `scales`, fp32 [cout], then
    says what a step of one times a step of the other stands for.
    """
    n, h, w, cout = y.shape
    precision = "tf32" if tf32 else "ieee"
    across = triton.cdiv(cout, config.block_n)
    grid = (tile_count(h, w, config) * across, n)
    blocks = {"BLOCK_M": config.block_m, "BLOCK_N": config.block_n, "BLOCK_K": config.block_k}
    shape = {"C": weight.shape[1] // (taps[0] * taps[1]), "COUT": cout, "PRECISION": precision}
    launch = {"num_warps": config.warps, "num_stages": config.stages}
    if config.form == "tma":
        from triton.tools.tensor_descriptor import TensorDescriptor

        c = x.shape[3]
        matrix = x.as_strided((n * x.stride(0) // c, c), (c, 1))
        inside = ((h + 2) * (w + 2) * cout, (w + 2) * cout, cout, 1)
        if c % config.block_k or cout % config.block_n or y.stride() != inside:
            raise ValueError(
                f"tma needs channels in whole blocks and y within a border of 1, got {c} and {cout} channels, "
                f"strides {y.stride()}, {config}"
            )
        if matrix.shape[0] >= 2**31 or taps != (3, 3) or stride != 1:
            raise ValueError(f"tma needs 3x3 taps, stride 1 and below 2^31 pixels, got {taps}, {stride}, {n * h * w}")
        box = TensorDescriptor.from_tensor(matrix, [config.block_m, config.block_k])
        weights = TensorDescriptor.from_tensor(weight, [config.block_n, config.block_k])
        eighth = scales is not None
        flat_conv_stats_kernel[grid](
            box,
            weights,
            y,
            scales if eighth else partials,
            partials,
            counts,
            h,
            w,
            counts.shape[0],
            **shape,
            **blocks,
            EIGHTH=eighth,
            **launch,
        )
        return
    if scales is not None:
        raise ValueError("8-bit convolutions have the form 'tma' only, got 'pointer'")
    conv_stats_kernel[grid](
        x,
        weight,
        y,
        partials,
        counts,
        h,
        w,
        *x.stride()[:3],
        *y.stride()[:3],
        counts.shape[0],
        first_tile,
        **shape,
        TAPS_Y=taps[0],
        TAPS_X=taps[1],
        STRIDE=stride,
        **blocks,
        **launch,
    )
