"""The gradient of norm_act: back through the border, the residual, dropout, the ReLU and the norm.

Two passes over a picture, with `norm_act_reduce` taking the two sums that the norm's gradient needs and
`norm_act_grad` making it, amid the zeros that the gradients of the convolution before it read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deblurgan.kernels.dropout import keep_mask, threshold

TILES = 256  # of a picture, about: enough for every SM, and few to add


@triton.jit
def folded(
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
def through_activation(
    value,  # fp32 [BLOCK_P, BLOCK_C], of pixels x of `row`
    y,  # pixel (0, 0) of this picture
    y_row,
    stats,  # fp32 [2, C]: mean, 1 / std
    counter,
    image,
    row,
    x,
    c,
    w,
    stream,
    kept,
    C: tl.constexpr,
    SLOPE: tl.constexpr,
    THRESHOLD: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """g' = value mask kept (1 if xhat > 0 else SLOPE), the gradient of the norm's result xhat = (y - mean) / std."""
    here = ((x >= 0) & (x < w))[:, None] & (c < C)[None, :]
    mean = tl.load(stats + c, mask=c < C, other=0.0)
    scale = tl.load(stats + C + c, mask=c < C, other=0.0)
    raw = tl.load(y + row.to(tl.int64) * y_row + x[:, None] * C + c[None, :], mask=here, other=0.0).to(tl.float32)
    xhat = tl.where(here, (raw - mean[None, :]) * scale[None, :], 0.0)
    if THRESHOLD > 0:
        mask = keep_mask(counter, image, row, x, 0, w, stream, C, THRESHOLD, BLOCK_C)
        value *= tl.where(mask, kept, 0.0)
    if SLOPE != 1:
        value = tl.where(xhat > 0, value, value * SLOPE if SLOPE > 0 else 0.0)
    return value, xhat


@triton.jit(do_not_specialize=["h", "w", "rows", "stream"])
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
    stream,
    kept,
    C: tl.constexpr,
    SLOPE: tl.constexpr,
    WIDTH: tl.constexpr,
    EXTRA: tl.constexpr,
    TOTAL: tl.constexpr,
    THRESHOLD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """total = fold(g) + extra;   partials: sum g' and sum g' xhat of each tile, see `through_activation`."""
    first = tl.program_id(0) * BLOCK_P
    x = first + tl.arange(0, BLOCK_P)
    image = tl.program_id(2).to(tl.int64)
    c = tl.arange(0, BLOCK_C)
    here = (x < w)[:, None] & (c < C)[None, :]
    plain = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    along = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    start = tl.program_id(1) * rows
    for step in range(tl.minimum(rows, h - start)):
        row = start + step
        value = folded(g + image * g_image, g_row, row, first, x, c, h, w, C, WIDTH, BLOCK_P)
        at = x[:, None] * C + c[None, :]
        if EXTRA:
            line = extra + image * e_image + row.to(tl.int64) * e_row
            value += tl.load(line + at, mask=here, other=0.0).to(tl.float32)
        if TOTAL:
            result = value.to(total.dtype.element_ty)
            tl.store(total + image * t_image + row.to(tl.int64) * t_row + at, result, mask=here)
            value = result.to(tl.float32)  # which the second pass reads
        value, xhat = through_activation(
            value,
            y + image * y_image,
            y_row,
            stats + image * 2 * C,
            counter,
            image,
            row,
            x,
            c,
            w,
            stream,
            kept,
            C,
            SLOPE,
            THRESHOLD,
            BLOCK_C,
        )
        plain += value
        along += value * xhat
    tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    to = partials + (image * tl.num_programs(0) * tl.num_programs(1) + tile) * 2 * C + c
    tl.store(to, tl.sum(plain, 0), mask=c < C)
    tl.store(to + C, tl.sum(along, 0), mask=c < C)


@triton.jit(do_not_specialize=["h", "w", "rows", "pitch", "top", "left", "stream"])
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
    stream,
    kept,
    C: tl.constexpr,
    SLOPE: tl.constexpr,
    WIDTH: tl.constexpr,
    THRESHOLD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out = (g' - mean of g' - xhat mean of g' xhat) / std from (top, left) of each picture on, zero around.

    g' and xhat are those of `through_activation`; the means are over the picture's plane. A program has BLOCK_P pixels
    of one of out's rows; the spare ones follow the last picture.
    """
    first = tl.program_id(0) * BLOCK_P - left
    x = first + tl.arange(0, BLOCK_P)
    row = tl.program_id(1) - top
    image = tl.program_id(2).to(tl.int64)
    c = tl.arange(0, BLOCK_C)
    value = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    if (row >= 0) & (row < h):
        value = folded(g + image * g_image, g_row, row, first, x, c, h, w, C, WIDTH, BLOCK_P)
        value, xhat = through_activation(
            value,
            y + image * y_image,
            y_row,
            stats + image * 2 * C,
            counter,
            image,
            row,
            x,
            c,
            w,
            stream,
            kept,
            C,
            SLOPE,
            THRESHOLD,
            BLOCK_C,
        )
        pixels = tl.cast(h * w, tl.float32)
        plain = tl.load(sums + image * 2 * C + c, mask=c < C, other=0.0) / pixels
        along = tl.load(sums + image * 2 * C + C + c, mask=c < C, other=0.0) / pixels
        scale = tl.load(stats + image * 2 * C + C + c, mask=c < C, other=0.0)
        value = (value - plain[None, :] - xhat * along[None, :]) * scale[None, :]
        value = tl.where(((x >= 0) & (x < w))[:, None], value, 0.0)
    mine = (tl.program_id(1) < rows) | (image == tl.num_programs(2) - 1)
    to = out + (image * rows + tl.program_id(1)) * pitch * C + (x + left)[:, None] * C + c[None, :]
    tl.store(to, value.to(out.dtype.element_ty), mask=((x + left < pitch) & mine)[:, None] & (c < C)[None, :])


def blocks(w: int, c: int) -> tuple[int, int]:
    """Pixels and channels of a program."""
    block_c = triton.next_power_of_2(c)
    return max(1, min(2048 // block_c, triton.next_power_of_2(w))), block_c


def norm_act_reduce(
    g: Tensor,
    y: Tensor,
    stats: Tensor,
    *,
    relu: bool,
    leak: float = 0.0,
    width: int = 0,
    extra: Tensor | None = None,
    total: Tensor | None = None,
    drop: float = 0.0,
    counter: Tensor | None = None,
    stream: int = 0,
) -> Tensor:
    """The sums of g' and g' xhat over each plane, fp32 [n, 2, c], as `norm_act_grad` wants them.

    g [n, h, w, c] is the gradient of norm_act's result; with `width` it is the inside of that of a picture with so wide
    a reflected border, and what the border received is added to the pixels it mirrors. `extra` [n, h, w, c] is added
    too; `total` [n, h, w, c], which may be `extra`, takes the sum. y, stats, leak and dropout are those of norm_act.
    Pixels of a row lie side by side.
    """
    n, h, w, c = y.shape
    block_p, block_c = blocks(w, c)
    across = triton.cdiv(w, block_p)
    rows = triton.cdiv(h * across, TILES)
    down = triton.cdiv(h, rows)
    partials = torch.empty(n, across * down, 2, c, device=y.device)
    more, kept = g if extra is None else extra, g if total is None else total
    norm_act_reduce_kernel[across, down, n](
        g,
        more,
        kept,
        y,
        stats,
        stats if counter is None else counter,
        partials,
        h,
        w,
        rows,
        *g.stride()[:2],
        *more.stride()[:2],
        *kept.stride()[:2],
        *y.stride()[:2],
        stream,
        1.0 / (1.0 - drop),
        C=c,
        SLOPE=leak if relu else 1.0,
        WIDTH=width,
        EXTRA=extra is not None,
        TOTAL=total is not None,
        THRESHOLD=0 if counter is None else threshold(drop, h, w, c),
        BLOCK_P=block_p,
        BLOCK_C=block_c,
        num_warps=4,
    )
    return partials.sum(1)


def norm_act_grad(
    g: Tensor,
    y: Tensor,
    stats: Tensor,
    sums: Tensor,
    out: Tensor,
    *,
    relu: bool,
    leak: float = 0.0,
    width: int = 0,
    rows: int,
    top: int,
    left: int,
    drop: float = 0.0,
    counter: Tensor | None = None,
    stream: int = 0,
) -> None:
    """Fills out [n * rows + spare, pitch, c] with the gradient of y [n, h, w, c], what norm_act read.

    Each picture has `rows` rows, its pixel (0, 0) at (top, left), and is zero elsewhere. sums [n, 2, c] are those of
    `norm_act_reduce`, which tells of the other arguments; where its `total` was given, g must be that, without `width`.
    """
    n, h, w, c = y.shape
    block_p, block_c = blocks(w, c)
    pitch = out.shape[1]
    norm_act_grad_kernel[triton.cdiv(pitch, block_p), out.shape[0] - (n - 1) * rows, n](
        g,
        y,
        stats,
        sums,
        stats if counter is None else counter,
        out,
        h,
        w,
        rows,
        pitch,
        top,
        left,
        *g.stride()[:2],
        *y.stride()[:2],
        stream,
        1.0 / (1.0 - drop),
        C=c,
        SLOPE=leak if relu else 1.0,
        WIDTH=width,
        THRESHOLD=0 if counter is None else threshold(drop, h, w, c),
        BLOCK_P=block_p,
        BLOCK_C=block_c,
        num_warps=4,
    )
