"""Convolutions as implicit matrix products, with the statistics of what they store.

Pictures lie as [n, h + 2b, w + 2b, c] with the border written out, so that no tap needs a check. Each program makes a
tile of block_m pixels by block_n channels of one picture, and for each channel its mean m and sum of squares about it

    m = sum v / count,   M2 = sum (v - m)^2

of the values as they were stored (rounded to y's type): a constant plane has M2 = 0 exactly. No atomics: the partial
results are merged by `merge_stats` in a fixed order.

The gradient g of activations a = relu(xhat) dropout_scale is such a convolution too. In place of statistics it may
take the sums over each tile that the gradient of the norm before them needs, with g' = g dropout_scale (a > 0):

    sum g' = dropout_scale sum over a > 0 of g,   sum g' xhat = sum over a > 0 of g a
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from deblurgan.kernels.config import ConvConfig, Gate, PackedWeight, TileStats
from deblurgan.kernels.launch import launch_early, wait_for_previous


@triton.jit
def add_product(acc, a, b, PRECISION: tl.constexpr):
    """acc + a b^T, with a [BLOCK_M, BLOCK_K] and b [BLOCK_N, BLOCK_K]; "fp16" sums these BLOCK_K products in fp16."""
    if PRECISION == "fp16":
        acc += tl.dot(a, tl.trans(b), out_dtype=tl.float16)
    else:
        acc = tl.dot(a, tl.trans(b), acc, input_precision=PRECISION, out_dtype=acc.dtype)
    return acc


@triton.jit
def load_pixels(rows, offset, k, C: tl.constexpr, BLOCK_K: tl.constexpr):
    """Channels k [BLOCK_K] of the pixels at rows [BLOCK_M] + offset, and zeros past C."""
    at = rows[:, None] + offset + k[None, :]  # [BLOCK_M, BLOCK_K]; added in another order it takes more registers
    return tl.load(at) if C % BLOCK_K == 0 else tl.load(at, mask=(k < C)[None, :], other=0.0)


@triton.jit
def load_weight(
    weight,  # [COUT, K]
    columns,
    offset,  # of the tap in a column
    k,
    K: tl.constexpr,
    C: tl.constexpr,
    COUT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Channels k [BLOCK_K] of one tap of a weight's columns [BLOCK_N], and zeros past C and COUT."""
    at = weight + columns[:, None] * K + offset + k[None, :]  # [BLOCK_N, BLOCK_K]
    whole: tl.constexpr = C % BLOCK_K == 0 and COUT % BLOCK_N == 0
    return tl.load(at) if whole else tl.load(at, mask=(k < C)[None, :] & (columns < COUT)[:, None], other=0.0)


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
    """sum over taps (i, j) and channels k of x[i, j, k] weight[., i, j, k]: fp32, of int8 int32 [BLOCK_M, BLOCK_N]."""
    STEPS: tl.constexpr = (C + BLOCK_K - 1) // BLOCK_K
    K: tl.constexpr = TAPS_Y * TAPS_X * C
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.int32 if weight.dtype.element_ty == tl.int8 else tl.float32)
    for step in range(TAPS_Y * TAPS_X * STEPS):
        tap = step // STEPS
        k = (step % STEPS) * BLOCK_K + tl.arange(0, BLOCK_K)
        offset = (tap // TAPS_X) * row_stride + (tap % TAPS_X) * pixel_stride
        a = load_pixels(rows, offset, k, C, BLOCK_K)
        b = load_weight(weight, columns, tap * C, k, K, C, COUT, BLOCK_N, BLOCK_K)
        acc = add_product(acc, a, b, PRECISION)
    return acc


@triton.jit
def dequantize(
    acc,  # [BLOCK_M, BLOCK_N]
    scales,  # 8 bits: fp32 [COUT], what a step of x times a step of weight stands for; else None
    offsets,  # int8: int32 [COUT], added to the sum, since x's zero is not 0; else None
    columns,
    COUT: tl.constexpr,
):
    """(acc + offsets) * scales, fp32."""
    if offsets is not None:
        acc += tl.load(offsets + columns, mask=columns < COUT)[None, :]
    if scales is not None:
        acc = acc.to(tl.float32) * tl.load(scales + columns, mask=columns < COUT)[None, :]
    return acc


@triton.jit
def store_with_stats(
    acc,  # fp32 [BLOCK_M, BLOCK_N]
    y,
    at,  # [BLOCK_M], where each pixel's channel 0 lies from there
    inside,  # [BLOCK_M], whether the pixel exists
    count,  # how many do, fp32
    columns,
    partials,  # fp32 [., 2, COUT] or None: STATS: mean and M2, else the sums of g' and g' xhat
    tile,  # which of them
    gate,  # not STATS: the activations, laid out as y is
    dropout_scale,
    COUT: tl.constexpr,
    STATS: tl.constexpr,
):
    stored = acc.to(y.dtype.element_ty)
    wanted = columns < COUT
    here = inside[:, None] & wanted[None, :]
    tl.store((y + at)[:, None] + columns[None, :], stored, mask=here)
    if partials is not None:
        to = partials + tile * 2 * COUT + columns
        if STATS:
            values = tl.where(inside[:, None], stored.to(tl.float32), 0.0)
            mean = tl.div_rn(tl.sum(values, 0), count + tl.zeros_like(tl.sum(values, 0)))
            if stored.dtype == tl.float32:  # a sum of 24-bit numbers rounds; one of half types does not
                mean += tl.sum(tl.where(inside[:, None], values - mean[None, :], 0.0), 0) / count
            centred = tl.where(inside[:, None], values - mean[None, :], 0.0)
            tl.store(to, mean, mask=wanted)
            tl.store(to + COUT, tl.sum(centred * centred, 0), mask=wanted)
        else:
            a = tl.load((gate + at)[:, None] + columns[None, :], mask=here, other=0.0)
            passed = tl.where(a > 0, stored, 0.0)
            tl.store(to + COUT, tl.sum(passed.to(tl.float32) * a.to(tl.float32), 0), mask=wanted)
            tl.store(to, tl.sum(passed.to(tl.float32), 0) * dropout_scale, mask=wanted)


@triton.jit(do_not_specialize=["h", "w", "x_image", "x_row", "tiles"])
def conv_stats_kernel(
    x,  # the pixel that tap (0, 0) of output pixel (0, 0) reads
    weight,  # [COUT, TAPS_Y * TAPS_X * C]
    y,  # output pixel (0, 0)
    scales,  # see `dequantize`
    offsets,
    partials,  # fp32 [n, tiles, 2, COUT], see `store_with_stats`
    counts,  # STATS: fp32 [tiles]
    gate,
    dropout_scale,
    h,
    w,  # of the output
    x_image,  # in pixels
    x_row,
    y_image,
    y_row,
    y_pixel,
    tiles,
    X_PIXEL: tl.constexpr,  # a constant, since wide loads need to know that the stem's is 4
    C: tl.constexpr,
    COUT: tl.constexpr,
    TAPS_Y: tl.constexpr,
    TAPS_X: tl.constexpr,
    STRIDE: tl.constexpr,
    STATS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    """y[oy, ox] = sum over i, j of weight[i, j] x[oy STRIDE + i, ox STRIDE + j], any kernel and stride."""
    wait_for_previous(PDL)
    ACROSS: tl.constexpr = (COUT + BLOCK_N - 1) // BLOCK_N
    tile = tl.program_id(0) // ACROSS
    columns = (tl.program_id(0) % ACROSS) * BLOCK_N + tl.arange(0, BLOCK_N)
    image = tl.program_id(1).to(tl.int64)
    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = m < h * w
    pixel = tl.minimum(m, h * w - 1)  # those beyond the end read the last pixel, and are not stored
    oy, ox = (pixel // w).to(tl.int64), (pixel % w).to(tl.int64)
    rows = x + (image * x_image + oy * STRIDE * x_row + ox * STRIDE) * X_PIXEL
    row = x_row * X_PIXEL
    acc = matrix_product(
        rows, weight, columns, row, X_PIXEL, C, COUT, TAPS_Y, TAPS_X, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION
    )
    acc = dequantize(acc, scales, offsets, columns, COUT)
    count = tl.minimum(BLOCK_M, h * w - tile * BLOCK_M).to(tl.float32)
    if STATS and tl.program_id(1) == 0:
        tl.store(counts + tile, count)
    at = image * y_image + oy * y_row + ox * y_pixel
    store_with_stats(
        acc, y, at, inside, count, columns, partials, image * tiles + tile, gate, dropout_scale, COUT, STATS
    )


@triton.jit(do_not_specialize=["h", "w", "part"])
def up_conv_stats_kernel(
    x,  # the pixel that output pixel (0, 0) reads
    weight,  # [COUT, 9 * C], the taps of phase (0, 0), then those of (0, 1), (1, 0) and (1, 1)
    y,  # output pixel (0, 0)
    partials,  # fp32 [n, 4 * part, 2, COUT], see `store_with_stats`
    counts,  # STATS: fp32 [4 * part]
    gate,
    dropout_scale,
    h,
    w,  # of a phase, that is half of the output's
    part,  # tiles of a phase
    x_image,
    x_row,
    x_pixel,
    y_image,
    y_row,
    y_pixel,
    C: tl.constexpr,
    COUT: tl.constexpr,
    STATS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    PAIRS: tl.constexpr,
    PDL: tl.constexpr,
):
    """y[2 a + u, 2 b + v] = sum over i <= u, j <= v of weight_uv[i, j] x[a + i, b + j]: 3x3, stride 2, transposed.

    Programs of phase (1, 1), with its four taps, come first. PAIRS: a program makes phases (u, 0) and (u, 1), which
    read the same pixels.
    """
    wait_for_previous(PDL)
    ACROSS: tl.constexpr = (COUT + BLOCK_N - 1) // BLOCK_N
    STEPS: tl.constexpr = (C + BLOCK_K - 1) // BLOCK_K
    turn = tl.program_id(0) // (part * ACROSS)
    phase = 2 - 2 * turn if PAIRS else 3 - turn  # the first of a pair
    u, v = phase // 2, phase % 2
    program = tl.program_id(0) % (part * ACROSS)
    tile = program // ACROSS
    columns = (program % ACROSS) * BLOCK_N + tl.arange(0, BLOCK_N)
    image = tl.program_id(1).to(tl.int64)
    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = m < h * w
    pixel = tl.minimum(m, h * w - 1)
    rows = x + image * x_image + (pixel // w).to(tl.int64) * x_row + (pixel % w).to(tl.int64) * x_pixel
    taps = (1 + u) * (1 + v)
    weight += (2 * phase - (phase > 0)) * C  # past the 0, 1, 3 or 5 taps of the phases before
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    odd = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)  # PAIRS: of phase (u, 1)
    for step in range(taps * STEPS):
        tap = step // STEPS
        k = (step % STEPS) * BLOCK_K + tl.arange(0, BLOCK_K)
        offset = (tap >> v) * x_row + (tap & v) * x_pixel
        a = load_pixels(rows, offset, k, C, BLOCK_K)
        b = load_weight(weight, columns, tap * C, k, 9 * C, C, COUT, BLOCK_N, BLOCK_K)
        acc = add_product(acc, a, b, PRECISION)
        if PAIRS:
            beside = (taps + 2 * tap) * C
            b = load_weight(weight, columns, beside, k, 9 * C, C, COUT, BLOCK_N, BLOCK_K)
            odd = add_product(odd, a, b, PRECISION)
            a = load_pixels(rows, offset + x_pixel, k, C, BLOCK_K)
            b = load_weight(weight, columns, beside + C, k, 9 * C, C, COUT, BLOCK_N, BLOCK_K)
            odd = add_product(odd, a, b, PRECISION)
    count = tl.minimum(BLOCK_M, h * w - tile * BLOCK_M).to(tl.float32)
    tile += phase * part
    at = image * y_image + u * y_row + v * y_pixel
    at += (m // w).to(tl.int64) * (2 * y_row) + (m % w).to(tl.int64) * (2 * y_pixel)
    here = image * 4 * part + tile
    if STATS and tl.program_id(1) == 0:
        tl.store(counts + tile, count)
        if PAIRS:
            tl.store(counts + tile + part, count)
    store_with_stats(acc, y, at, inside, count, columns, partials, here, gate, dropout_scale, COUT, STATS)
    if PAIRS:
        at, here = at + y_pixel, here + part
        store_with_stats(odd, y, at, inside, count, columns, partials, here, gate, dropout_scale, COUT, STATS)


@triton.jit(do_not_specialize=["h", "w", "pitch", "x_image", "y_image", "tiles"])
def flat_conv_stats_kernel(
    x,  # descriptor of all its pixels, borders included, [., C], box [BLOCK_M, BLOCK_K]
    weight,  # descriptor of [COUT, 9 * C], box [BLOCK_N, BLOCK_K]
    y,  # pixel (0, 0)
    scales,  # see `dequantize`
    offsets,
    partials,
    counts,
    gate,
    dropout_scale,
    h,
    w,
    pitch,  # pixels from row to row, of x and of y
    x_image,  # pixels from picture to picture
    y_image,
    tiles,
    C: tl.constexpr,
    COUT: tl.constexpr,
    STATS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    """3x3, stride 1: with the pitch of the bordered picture, nine products of one matrix with itself shifted.

    Row m of the product is pixel m of the pitch; those from w on fall on the border and count for nothing.
    """
    wait_for_previous(PDL)
    ACROSS: tl.constexpr = COUT // BLOCK_N
    STEPS: tl.constexpr = C // BLOCK_K
    tile = tl.program_id(0) // ACROSS
    column = (tl.program_id(0) % ACROSS) * BLOCK_N
    image = tl.program_id(1)
    first = tile * BLOCK_M
    start = image * x_image + first  # row of the matrix; below 2^31, which the launcher checks
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32 if offsets is None else tl.int32)
    for step in range(9 * STEPS):
        tap = step // STEPS
        k = (step % STEPS) * BLOCK_K
        a = x.load([start + (tap // 3) * pitch + tap % 3, k])
        b = weight.load([column, tap * C + k])
        acc = add_product(acc, a, b, PRECISION)
    m = first + tl.arange(0, BLOCK_M)
    inside = (m < h * pitch) & (m % pitch < w)
    last = tl.minimum(first + BLOCK_M, h * pitch)
    before = (first // pitch) * w + tl.minimum(first % pitch, w)
    count = ((last // pitch) * w + tl.minimum(last % pitch, w) - before).to(tl.float32)
    if STATS and tl.program_id(1) == 0:
        tl.store(counts + tile, count)
    at = (image.to(tl.int64) * y_image + m) * COUT
    here = image.to(tl.int64) * tiles + tile
    columns = column + tl.arange(0, BLOCK_N)
    acc = dequantize(acc, scales, offsets, columns, COUT)
    count = tl.maximum(count, 1.0)
    store_with_stats(acc, y, at, inside, count, columns, partials, here, gate, dropout_scale, COUT, STATS)


def tile_count(h: int, w: int, config: ConvConfig, *, pitch: int | None = None) -> int:
    """Tiles of an output of h x w, its rows `pitch` pixels apart, by default w + 2."""
    return triton.cdiv(h * (pitch or w + 2) if config.form == "tma" else h * w, config.block_m)


def _epilogue(y: Tensor, stats: TileStats | None, gate: Gate | None) -> tuple[Tensor | None, ...]:
    """Partials, counts and activations for a kernel. Raises ValueError unless the gate is laid out as y is."""
    if gate is None:
        return (None, None, None) if stats is None else (*stats, None)
    if stats is not None:
        raise ValueError("stats must be None where there is a gate: a convolution takes one or the other")
    a = gate.activations
    if (a.shape, a.stride(), a.dtype) != (y.shape, y.stride(), y.dtype):
        raise ValueError(
            f"gate must be laid out as y is, {y.dtype} {tuple(y.shape)} of strides {y.stride()}, got {a.dtype} "
            f"{tuple(a.shape)} of strides {a.stride()}"
        )
    return gate.partials, None, a


def conv_stats(
    x: Tensor,
    weight: PackedWeight,
    y: Tensor,
    stats: TileStats | None = None,
    *,
    gate: Gate | None = None,
    config: ConvConfig,
    tf32: bool = False,
) -> None:
    """Fills y [n, h, w, cout], and `stats` or the partials of `gate`, where there is one.

    x and y are views of bordered pictures: x [n, ., ., c] begins at the pixel that tap (0, 0) of y's first reads. In
    the "tma" form their rows are equally far apart, and x's pixels follow each other through all pictures.
    """
    if config.form == "tma":
        _flat_conv_stats(x, weight, y, stats, gate, config, tf32)
        return
    n, h, w, cout = y.shape
    partials, counts, activations = _epilogue(y, stats, gate)
    pixel = x.stride(2)
    conv_stats_kernel[triton.cdiv(h * w, config.block_m) * triton.cdiv(cout, config.block_n), n](
        x,
        weight.rows,
        y,
        weight.scales,
        weight.offsets,
        partials,
        counts,
        activations,
        1.0 if gate is None else gate.dropout_scale,
        h,
        w,
        x.stride(0) // pixel,
        x.stride(1) // pixel,
        *y.stride()[:3],
        0 if partials is None else partials.shape[1],
        X_PIXEL=pixel,
        C=weight.channels,
        COUT=cout,
        STATS=counts is not None,
        **launch_early(),
        TAPS_Y=weight.taps[0],
        TAPS_X=weight.taps[1],
        STRIDE=weight.stride,
        **config.launch_options(x.dtype, tf32),
    )


def _flat_conv_stats(
    x: Tensor,
    weight: PackedWeight,
    y: Tensor,
    stats: TileStats | None,
    gate: Gate | None,
    config: ConvConfig,
    tf32: bool,
) -> None:
    """`conv_stats` in the "tma" form."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    n, h, _, cout = y.shape
    partials, counts, activations = _epilogue(y, stats, gate)
    c = x.shape[3]
    matrix = x.as_strided((n * x.stride(0) // c, c), (c, 1))
    pitch = x.stride(1) // c
    if c % config.block_k or cout % config.block_n or y.stride()[1:] != (pitch * cout, cout, 1):
        raise ValueError(
            f"tma needs channels in whole blocks and rows of x and y equally far apart, got {c} and {cout} "
            f"channels, strides {x.stride()} and {y.stride()}, {config}"
        )
    if matrix.shape[0] >= 2**31 or weight.taps != (3, 3) or weight.stride != 1:
        raise ValueError(
            f"tma needs 3x3 taps, stride 1 and below 2^31 pixels, got {weight.taps}, {weight.stride}, {matrix.shape[0]}"
        )
    flat_conv_stats_kernel[triton.cdiv(h * pitch, config.block_m) * triton.cdiv(cout, config.block_n), n](
        TensorDescriptor.from_tensor(matrix, [config.block_m, config.block_k]),
        TensorDescriptor.from_tensor(weight.rows, [config.block_n, config.block_k]),
        y,
        weight.scales,
        weight.offsets,
        partials,
        counts,
        activations,
        1.0 if gate is None else gate.dropout_scale,
        h,
        y.shape[2],
        pitch,
        x.stride(0) // c,
        y.stride(0) // cout,
        0 if partials is None else partials.shape[1],
        C=weight.channels,
        COUT=cout,
        STATS=counts is not None,
        **launch_early(),
        **config.launch_options(x.dtype, tf32),
    )


def up_conv_stats(
    x: Tensor,
    weight: PackedWeight,
    y: Tensor,
    stats: TileStats | None = None,
    *,
    gate: Gate | None = None,
    config: ConvConfig,
    tf32: bool = False,
) -> None:
    """The transposed convolution 3x3, stride 2: fills y [n, 2 h, 2 w, cout], and the tiles of its four phases.

    x is as in `conv_stats` and reads one row and one column past [n, h, w, c]; the weight has the taps of phase (0, 0),
    then those of (0, 1), (1, 0) and (1, 1). `stats` or the partials of `gate` have four times the tiles of h x w.
    """
    n, rows, columns, cout = y.shape
    h, w = rows // 2, columns // 2
    partials, counts, activations = _epilogue(y, stats, gate)
    phase_tiles = tile_count(h, w, config)
    pairs = config.form == "pairs"
    up_conv_stats_kernel[(2 if pairs else 4) * phase_tiles * triton.cdiv(cout, config.block_n), n](
        x,
        weight.rows,
        y,
        partials,
        counts,
        activations,
        1.0 if gate is None else gate.dropout_scale,
        h,
        w,
        phase_tiles,
        *x.stride()[:3],
        *y.stride()[:3],
        C=weight.channels,
        COUT=cout,
        STATS=counts is not None,
        **launch_early(),
        PAIRS=pairs,
        **config.launch_options(x.dtype, tf32),
    )
