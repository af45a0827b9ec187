"""Normalise, activate, add the residual, and write the border that the next convolution reads."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BORDERS = {"reflect": 1, "zero": 2}


@triton.jit
def store_bordered(
    base,  # pixel (0, 0) of this picture
    stride,  # of rows
    value,  # [BLOCK_P, BLOCK_C], of pixels x of `row`
    row,
    x,
    c,
    h,
    w,
    C: tl.constexpr,
    BORDER: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Stores pixels, and the border pixels that mirror them."""
    here = (x < w)[:, None] & (c < C)[None, :]
    tl.store(base + row.to(tl.int64) * stride + x[:, None] * C + c[None, :], value, mask=here)
    if BORDER > 0:
        # reflect leaves the edge pixel out: pixel i stands again at -i and 2 (side - 1) - i; zero at -1 - i and
        # 2 side - 1 - i, as good a place as any
        SKIP: tl.constexpr = 1 if BORDER == 1 else 0
        edge = value if BORDER == 1 else tl.zeros_like(value)
        left = (x >= SKIP) & (x < WIDTH + SKIP) & (x < w)
        right = (x < w - SKIP) & (x >= w - WIDTH - SKIP)
        first = tl.program_id(0) * BLOCK_P
        near_left = first < WIDTH + SKIP
        near_right = first + BLOCK_P > w - WIDTH - SKIP
        x_left = SKIP - 1 - x
        x_right = 2 * w - 1 - SKIP - x
        for copy in tl.static_range(3):  # this row, its copy above, its copy below
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
def norm_act_kernel(
    y,  # pixel (0, 0) of [n, h, w, C]
    stats,  # fp32 [n, 2, C]: mean, 1 / std
    residual,  # pixel (0, 0), or y again
    out,  # pixel (0, 0) of [n, h + 2b, w + 2b, C]'s inside; may be y
    eighth,  # int8, like out
    h,
    w,
    y_image,
    y_row,
    r_image,
    r_row,
    o_image,
    o_row,
    e_image,
    e_row,
    inverse,  # 1 / what one step of `eighth` stands for
    C: tl.constexpr,
    RELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BORDER: tl.constexpr,  # 0 none, 1 reflect, 2 zero
    WIDTH: tl.constexpr,  # of the border
    WRITE: tl.constexpr,  # out
    EIGHTH: tl.constexpr,  # eighth
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out = residual + relu((y - mean) / std), in fp32, rounded once; eighth = round(out inverse), in [-127, 127].

    A program has BLOCK_P pixels of one row. Those within WIDTH of an edge also write the border pixels that mirror
    them, so that in place no pixel is read after it has changed.
    """
    x = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    row = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    c = tl.arange(0, BLOCK_C)
    here = (x < w)[:, None] & (c < C)[None, :]
    mean = tl.load(stats + image * 2 * C + c, mask=c < C, other=0.0)
    scale = tl.load(stats + image * 2 * C + C + c, mask=c < C, other=0.0)
    y_at = y + image * y_image + row.to(tl.int64) * y_row + x[:, None] * C + c[None, :]
    value = (tl.load(y_at, mask=here, other=0.0).to(tl.float32) - mean[None, :]) * scale[None, :]
    if RELU:
        value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    if RESIDUAL:
        r_at = residual + image * r_image + row.to(tl.int64) * r_row + x[:, None] * C + c[None, :]
        value += tl.load(r_at, mask=here, other=0.0).to(tl.float32)
    if WRITE:
        result = value.to(out.dtype.element_ty)
        store_bordered(out + image * o_image, o_row, result, row, x, c, h, w, C, BORDER, WIDTH, BLOCK_P)
    if EIGHTH:
        level = tl.minimum(tl.maximum(tl.floor(value * inverse + 0.5), -127.0), 127.0).to(tl.int8)
        store_bordered(eighth + image * e_image, e_row, level, row, x, c, h, w, C, BORDER, WIDTH, BLOCK_P)


def norm_act(
    y: Tensor,
    stats: Tensor,
    out: Tensor | None,
    *,
    relu: bool,
    residual: Tensor | None = None,
    border: str | None = None,
    width: int = 0,
    eighth: Tensor | None = None,
    step: float = 1.0,
) -> None:
    """Fills out [n, h, w, c], the inside of a bordered picture, and `width` border pixels around it.

    y [n, h, w, c] may be `out` itself; residual [n, h, w, c] may not. Pixels of a row lie side by side. `eighth`, int8
    and as wide, takes the same in steps of `step`, at most 127 of them either way; `out` is None where it alone is
    wanted.
    """
    n, h, w, c = y.shape
    block_c = triton.next_power_of_2(c)
    block_p = max(1, min(4096 // block_c, triton.next_power_of_2(w)))
    extra = y if residual is None else residual
    wide = y if out is None else out
    narrow = wide if eighth is None else eighth
    norm_act_kernel[(triton.cdiv(w, block_p), h, n)](
        y,
        stats,
        extra,
        wide,
        narrow,
        h,
        w,
        *y.stride()[:2],
        *extra.stride()[:2],
        *wide.stride()[:2],
        *narrow.stride()[:2],
        1.0 / step,
        C=c,
        RELU=relu,
        RESIDUAL=residual is not None,
        BORDER=0 if border is None else BORDERS[border],
        WIDTH=width,
        WRITE=out is not None,
        EIGHTH=eighth is not None,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
        num_warps=4,
    )
