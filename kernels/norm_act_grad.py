"""The gradient of norm_act: back through the border, the residual, dropout, the ReLU and the norm.

Two passes over a picture: `norm_act_reduce` takes the two sums that the norm's gradient needs, `norm_act_grad` makes
that gradient, with the zeros around it that the gradients of the convolution before it read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deblurgan.kernels.config import NormActInputs, PaddedGradient
from deblurgan.kernels.dropout import keep_mask, keep_threshold

TILES = 256  # of a picture, about: enough for every SM, and few to add


@triton.jit
def fold_reflected_border(
    g,  # pixel (0, 0) of this picture's gradient
    stride,  # of its rows
    row,
    first,  # the lowest of x
    x,  # [BLOCK_P], pixels of `row`
    c,
    h,
    w,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """fp32 [BLOCK_P, BLOCK_C]: g[row, x], and that of the border pixels that mirror (row, x); 0 outside the picture."""
    here = ((x >= 0) & (x < w))[:, None] & (c < C)[None, :]
    value = tl.load(g + row.to(tl.int64) * stride + x[:, None] * C + c[None, :], mask=here, other=0.0).to(tl.float32)
    if WIDTH > 0:
        # the border's pixels -i and side - 1 + i mirror i and side - 1 - i
        left = here & ((x >= 1) & (x <= WIDTH))[:, None]
        right = here & ((x <= w - 2) & (x >= w - 1 - WIDTH))[:, None]
        near_left = first <= WIDTH
        near_right = first + BLOCK_P > w - 1 - WIDTH
        for copy in tl.static_range(3):  # this row, the one that mirrors it above, below
            if copy == 0:
                source = row
                wanted = row >= 0
            elif copy == 1:
                source = -row
                wanted = (row >= 1) & (row <= WIDTH)
            else:
                source = 2 * (h - 1) - row
                wanted = (row <= h - 2) & (row >= h - 1 - WIDTH)
            if wanted:
                line = g + source.to(tl.int64) * stride + c[None, :]
                if copy > 0:
                    value += tl.load(line + x[:, None] * C, mask=here, other=0.0).to(tl.float32)
                if near_left:
                    value += tl.load(line - x[:, None] * C, mask=left, other=0.0).to(tl.float32)
                if near_right:
                    mirrored = 2 * (w - 1) - x
                    value += tl.load(line + mirrored[:, None] * C, mask=right, other=0.0).to(tl.float32)
    return value


@triton.jit
def act_backward(
    value,  # fp32 [BLOCK_P, BLOCK_C], of pixels x of `row`
    raw,  # y there
    mean,  # [BLOCK_C]
    scale,  # [BLOCK_C], 1 / std
    counter,
    image,
    row,
    x,
    c,
    w,
    rng_stream,
    dropout_scale,
    C: tl.constexpr,
    SLOPE: tl.constexpr,
    THRESHOLD: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """g' = value mask dropout_scale (1 if xhat > 0 else SLOPE), the gradient by xhat = (y - mean) / std."""
    here = ((x >= 0) & (x < w))[:, None] & (c < C)[None, :]
    xhat = tl.where(here, (raw.to(tl.float32) - mean[None, :]) * scale[None, :], 0.0)
    if THRESHOLD > 0:
        mask = keep_mask(counter, image, row, x, 0, w, rng_stream, C, THRESHOLD, BLOCK_C)
        value *= tl.where(mask, dropout_scale, 0.0)
    if SLOPE != 1:
        value = tl.where(xhat > 0, value, value * SLOPE if SLOPE > 0 else 0.0)
    return value, xhat


@triton.jit(do_not_specialize=["h", "w", "rows", "rng_stream"])
def norm_act_reduce_kernel(
    g,  # pixel (0, 0) of [n, h, w, C] within a border of WIDTH
    extra,  # EXTRA: pixel (0, 0) of [n, h, w, C]
    total,  # TOTAL: pixel (0, 0) of [n, h, w, C]; may be extra
    y,  # pixel (0, 0) of [n, h, w, C]
    stats,  # fp32 [n, 2, C]: mean, 1 / std
    counter,  # THRESHOLD: int64 [2], of the masks
    partials,  # fp32 [n, tiles, 2, C]
    h,
    w,
    rows,  # that a program walks over
    g_image,
    g_row,
    e_image,
    e_row,
    t_image,
    t_row,
    y_image,
    y_row,
    rng_stream,
    dropout_scale,
    C: tl.constexpr,
    SLOPE: tl.constexpr,
    WIDTH: tl.constexpr,
    EXTRA: tl.constexpr,
    TOTAL: tl.constexpr,
    THRESHOLD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """total = fold(g) + extra;   partials: sum g' and sum g' xhat of each tile, see `act_backward`."""
    first = tl.program_id(0) * BLOCK_P
    x = first + tl.arange(0, BLOCK_P)
    image = tl.program_id(2).to(tl.int64)
    c = tl.arange(0, BLOCK_C)
    here = (x < w)[:, None] & (c < C)[None, :]
    with_one = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    with_xhat = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    mean = tl.load(stats + image * 2 * C + c, mask=c < C, other=0.0)
    scale = tl.load(stats + image * 2 * C + C + c, mask=c < C, other=0.0)
    at = x[:, None] * C + c[None, :]
    start = tl.program_id(1) * rows
    for step in range(tl.minimum(rows, h - start)):
        row = start + step
        raw = tl.load(y + image * y_image + row.to(tl.int64) * y_row + at, mask=here, other=0.0)
        if EXTRA:
            added = tl.load(extra + image * e_image + row.to(tl.int64) * e_row + at, mask=here, other=0.0)
        value = fold_reflected_border(g + image * g_image, g_row, row, first, x, c, h, w, C, WIDTH, BLOCK_P)
        if EXTRA:
            value += added.to(tl.float32)
        if TOTAL:
            result = value.to(total.dtype.element_ty)
            tl.store(total + image * t_image + row.to(tl.int64) * t_row + at, result, mask=here)
            value = result.to(tl.float32)  # which the second pass reads
        value, xhat = act_backward(
            value,
            raw,
            mean,
            scale,
            counter,
            image,
            row,
            x,
            c,
            w,
            rng_stream,
            dropout_scale,
            C,
            SLOPE,
            THRESHOLD,
            BLOCK_C,
        )
        with_one += value
        with_xhat += value * xhat
    tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    to = partials + (image * tl.num_programs(0) * tl.num_programs(1) + tile) * 2 * C + c
    tl.store(to, tl.sum(with_one, 0), mask=c < C)
    tl.store(to + C, tl.sum(with_xhat, 0), mask=c < C)


@triton.jit(do_not_specialize=["h", "w", "rows", "pitch", "top", "left", "rng_stream"])
def norm_act_grad_kernel(
    g,  # pixel (0, 0) of [n, h, w, C] within a border of WIDTH
    y,  # pixel (0, 0) of [n, h, w, C]
    stats,  # fp32 [n, 2, C]: mean, 1 / std
    sums,  # fp32 [n, 2, C]: of g' and g' xhat
    counter,  # THRESHOLD: int64 [2], of the masks
    out,  # [n * rows + spare, pitch, C]
    h,
    w,
    rows,
    pitch,
    top,
    left,
    g_image,
    g_row,
    y_image,
    y_row,
    rng_stream,
    dropout_scale,
    C: tl.constexpr,
    SLOPE: tl.constexpr,
    WIDTH: tl.constexpr,
    THRESHOLD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out = (g' - mean of g' - xhat mean of g' xhat) / std from (top, left) of each picture on, zero around.

    g' and xhat are those of `act_backward`; the means are over the picture's plane. A program has BLOCK_P pixels
    of one of out's rows; the spare ones follow the last picture.
    """
    first = tl.program_id(0) * BLOCK_P - left
    x = first + tl.arange(0, BLOCK_P)
    row = tl.program_id(1) - top
    image = tl.program_id(2).to(tl.int64)
    c = tl.arange(0, BLOCK_C)
    value = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    if (row >= 0) & (row < h):
        here = ((x >= 0) & (x < w))[:, None] & (c < C)[None, :]
        mean = tl.load(stats + image * 2 * C + c, mask=c < C, other=0.0)
        scale = tl.load(stats + image * 2 * C + C + c, mask=c < C, other=0.0)
        pixels = tl.cast(h * w, tl.float32)
        with_one = tl.load(sums + image * 2 * C + c, mask=c < C, other=0.0) / pixels
        with_xhat = tl.load(sums + image * 2 * C + C + c, mask=c < C, other=0.0) / pixels
        y_at = y + image * y_image + row.to(tl.int64) * y_row + x[:, None] * C + c[None, :]
        raw = tl.load(y_at, mask=here, other=0.0)
        value = fold_reflected_border(g + image * g_image, g_row, row, first, x, c, h, w, C, WIDTH, BLOCK_P)
        value, xhat = act_backward(
            value,
            raw,
            mean,
            scale,
            counter,
            image,
            row,
            x,
            c,
            w,
            rng_stream,
            dropout_scale,
            C,
            SLOPE,
            THRESHOLD,
            BLOCK_C,
        )
        value = (value - with_one[None, :] - xhat * with_xhat[None, :]) * scale[None, :]
        value = tl.where(((x >= 0) & (x < w))[:, None], value, 0.0)
    mine = (tl.program_id(1) < rows) | (image == tl.num_programs(2) - 1)
    to = out + (image * rows + tl.program_id(1)) * pitch * C + (x + left)[:, None] * C + c[None, :]
    tl.store(to, value.to(out.dtype.element_ty), mask=((x + left < pitch) & mine)[:, None] & (c < C)[None, :])


def block_shape(w: int, c: int) -> tuple[int, int]:
    """Pixels and channels of a program."""
    block_c = triton.next_power_of_2(c)
    return max(1, min(2048 // block_c, triton.next_power_of_2(w))), block_c


def norm_act_reduce(
    grad: Tensor, inputs: NormActInputs, *, width: int = 0, extra: Tensor | None = None, total: Tensor | None = None
) -> Tensor:
    """The sums of g' and g' xhat over each plane, fp32 [n, 2, c], that `norm_act_grad` takes.

    grad [n, h, w, c] is the gradient of norm_act's output. With `width` it is the inside of the gradient of a picture
    with a reflected border that wide, whose pixels are added to those that they mirror. `extra` [n, h, w, c] is added
    too; `total` [n, h, w, c], which may be `extra`, receives the sum. Pixels of a row lie side by side.
    """
    y, stats, slope, dropout = inputs
    n, h, w, c = y.shape
    threshold = keep_threshold(dropout, h, w, c)
    block_p, block_c = block_shape(w, c)
    across = triton.cdiv(w, block_p)
    rows = triton.cdiv(h * across, TILES)
    down = triton.cdiv(h, rows)
    partials = torch.empty(n, across * down, 2, c, dtype=torch.float32, device=y.device)
    added, sums = grad if extra is None else extra, grad if total is None else total
    norm_act_reduce_kernel[across, down, n](
        grad,
        added,
        sums,
        y,
        stats,
        stats if dropout is None else dropout.counter,
        partials,
        h,
        w,
        rows,
        *grad.stride()[:2],
        *added.stride()[:2],
        *sums.stride()[:2],
        *y.stride()[:2],
        0 if dropout is None else dropout.rng_stream,
        1.0 if dropout is None else dropout.scale,
        C=c,
        SLOPE=slope,
        WIDTH=width,
        EXTRA=extra is not None,
        TOTAL=total is not None,
        THRESHOLD=threshold,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
        num_warps=4,
    )
    return partials.sum(1)


def norm_act_grad(grad: Tensor, inputs: NormActInputs, sums: Tensor, out: PaddedGradient, *, width: int = 0) -> None:
    """Fills out.memory with the gradient of inputs.y [n, h, w, c], zero around it.

    sums [n, 2, c] are those of `norm_act_reduce`, which describes the other arguments; where its `total` was given,
    grad must be that, without `width`.
    """
    y, stats, slope, dropout = inputs
    n, h, w, c = y.shape
    threshold = keep_threshold(dropout, h, w, c)
    block_p, block_c = block_shape(w, c)
    pitch = out.memory.shape[1]
    norm_act_grad_kernel[triton.cdiv(pitch, block_p), out.memory.shape[0] - (n - 1) * out.rows, n](
        grad,
        y,
        stats,
        sums,
        stats if dropout is None else dropout.counter,
        out.memory,
        h,
        w,
        out.rows,
        pitch,
        out.top,
        out.left,
        *grad.stride()[:2],
        *y.stride()[:2],
        0 if dropout is None else dropout.rng_stream,
        1.0 if dropout is None else dropout.scale,
        C=c,
        SLOPE=slope,
        WIDTH=width,
        THRESHOLD=threshold,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
        num_warps=4,
    )
