"""The last convolution and all that follows it: image + tanh(conv), clamped, as floats or 8 bits.

Three results a pixel would leave most of a tensor core idle, and read every pixel 49 times. So the taps of a row and
the results of several rows are the columns of one product, and the products of neighbours are added afterwards:

    out[y + t, x, o] = sum over j of P[x + j, j, t, o]
    P[x, j, t, o] = sum over i, c of weight[o, c, i, j] in[y + t + i, x, c]
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deblurgan.kernels.config import ConvConfig
from deblurgan.kernels.conv_stats import add_product
from deblurgan.kernels.launch import launch_early, wait_for_previous


@triton.jit(do_not_specialize=["h"])
def output_tail_kernel(
    x,  # [n, h + TAPS - 1, w + TAPS - 1, C]
    weight,  # [BLOCK_N, (TAPS - 1 + LINES) * C], see `pack_tail_weight`
    bias,  # fp32 [OUT]
    image,  # [n, OUT, h, w], any strides
    out,  # [n, OUT, h, w], any strides
    saved,  # SAVE: fp32 [n, OUT, h, w], contiguous
    not_finite,  # FLAG: int32 [1]
    h,
    w,
    x_image,
    x_row,
    i_image,
    i_channel,
    i_row,
    i_pixel,
    o_image,
    o_channel,
    o_row,
    o_pixel,
    C: tl.constexpr,
    OUT: tl.constexpr,
    TAPS: tl.constexpr,
    LINES: tl.constexpr,  # rows of results
    EIGHT_BIT: tl.constexpr,
    SAVE: tl.constexpr,
    FLAG: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,  # 8 taps of LINES * OUT results, padded
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    """out = clamp(image + tanh(sum over i, j of weight[i, j] x[y + i, x + j] + bias), -1, 1).

    A program reads BLOCK_M pixels of each row of x; the last TAPS - 1 of them only as neighbours. EIGHT_BIT: image and
    out are uint8, v for 2 v / 255 - 1; rounded to nearest, halfway up. SAVE: tanh goes into `saved`. FLAG: `not_finite`
    becomes 1 where a value before the clamp is not finite, of which 8 bits show nothing; else it stays.
    """
    wait_for_previous(PDL)
    STEPS: tl.constexpr = (C + BLOCK_K - 1) // BLOCK_K
    ROWS: tl.constexpr = TAPS - 1 + LINES
    OWN: tl.constexpr = BLOCK_M - TAPS + 1
    RESULTS: tl.constexpr = BLOCK_N // 8
    n, top = tl.program_id(2).to(tl.int64), tl.program_id(1) * LINES
    m = tl.arange(0, BLOCK_M)
    px = tl.program_id(0) * OWN + m
    columns = tl.arange(0, BLOCK_N)
    pixels = tl.minimum(px, w + TAPS - 2) * C  # those beyond the end read the last pixel, and are not stored
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(ROWS * STEPS):
        tap = step // STEPS
        k = (step % STEPS) * BLOCK_K + tl.arange(0, BLOCK_K)
        row = tl.minimum(top + tap, h + TAPS - 2).to(tl.int64)
        a_at = x + n * x_image + row * x_row + pixels[:, None] + k[None, :]
        b_at = weight + columns[:, None] * (ROWS * C) + tap * C + k[None, :]
        if C % BLOCK_K == 0:
            a = tl.load(a_at)
            b = tl.load(b_at)
        else:
            a = tl.load(a_at, mask=(k < C)[None, :], other=0.0)
            b = tl.load(b_at, mask=(k < C)[None, :], other=0.0)
        acc = add_product(acc, a, b, PRECISION)

    neighbour = tl.minimum(m[:, None] + columns[None, :] // RESULTS, BLOCK_M - 1)
    result = tl.arange(0, RESULTS)
    y, o = (top + result // OUT).to(tl.int64), (result % OUT).to(tl.int64)
    value = tl.sum(tl.reshape(tl.gather(acc, neighbour, 0), (BLOCK_M, 8, RESULTS)), 1) + tl.load(bias + o)[None, :]
    tanh = 1.0 - 2.0 / (tl.exp(2.0 * value) + 1.0)
    wanted = ((m < OWN) & (px < w))[:, None] & ((result < LINES * OUT) & (y < h))[None, :]
    i_at = image + n * i_image + (y * i_row + o * i_channel)[None, :] + (px.to(tl.int64) * i_pixel)[:, None]
    before = tl.load(i_at, mask=wanted, other=0).to(tl.float32)
    if EIGHT_BIT:
        before = before * (2.0 / 255.0) - 1.0
    total = before + tanh
    if FLAG:  # each writes the same, so the order is of no matter
        f_at = not_finite + tl.zeros((BLOCK_M, RESULTS), tl.int32)
        tl.store(f_at, 1, mask=wanted & ~(tl.abs(total) < float("inf")))
    sharp = tl.clamp(total, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
    if EIGHT_BIT:
        sharp = (sharp + 1.0) * 127.5 + 0.5
    o_at = out + n * o_image + (y * o_row + o * o_channel)[None, :] + (px.to(tl.int64) * o_pixel)[:, None]
    tl.store(o_at, sharp.to(out.dtype.element_ty), mask=wanted)
    if SAVE:
        s_at = saved + (((n * OUT + o) * h + y) * w)[None, :] + px[:, None]
        tl.store(s_at, tanh, mask=wanted)


def rows_per_product(block_n: int, k: int) -> int:
    """Rows of pixels, of k results each, that one product of block_n columns makes. ValueError where none fits."""
    rows = block_n // 8 // k
    if rows == 0:
        raise ValueError(f"block_n must be at least eight times the {k} results of a pixel, got {block_n}")
    return rows


def pack_tail_weight(weight: Tensor, block_n: int, dtype: torch.dtype) -> Tensor:
    """weight [k, c, s, s], s at most 8, as the kernel reads it: [block_n, (s - 1 + rows) * c].

    Row j * (block_n // 8) + t * k + o holds weight[o, :, i, j] at column (t + i) * c, and zeros.
    """
    (k, c, size), rows, results = weight.shape[:3], rows_per_product(block_n, weight.shape[0]), block_n // 8
    read = size - 1 + rows
    full = torch.zeros(8, results, read, c, dtype=dtype, device=weight.device)
    strides = (results * read * c, (k * read + 1) * c, read * c, c, 1)  # of axes j, t, o, i, c
    full.as_strided((size, rows, k, size, c), strides).copy_(weight.detach().permute(3, 0, 2, 1)[:, None])
    return full.view(block_n, read * c)


def output_tail(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    image: Tensor,
    out: Tensor,
    *,
    config: ConvConfig,
    tf32: bool = False,
    saved: Tensor | None = None,
    not_finite: Tensor | None = None,
) -> None:
    """Fills out [n, k, h, w] from image, the same shape, and x [n, h + s - 1, w + s - 1, c], its pixels side by side.

    weight [k, c, s, s] is packed by `pack_tail_weight` for config.block_n, bias fp32 [k]. Both pictures are uint8, or
    floats in [-1, 1].
    `saved`, fp32 [n, k, h, w] and contiguous, takes tanh before the picture is added. `not_finite`, int32 [1], becomes
    1 where a value before the clamp is not finite.
    """
    n, k, h, w = out.shape
    taps, rows = x.shape[1] - h + 1, rows_per_product(config.block_n, k)
    output_tail_kernel[(triton.cdiv(w, config.block_m - taps + 1), triton.cdiv(h, rows), n)](
        x,
        weight,
        bias,
        image,
        out,
        out if saved is None else saved,
        out if not_finite is None else not_finite,
        h,
        w,
        *x.stride()[:2],
        *image.stride(),
        *out.stride(),
        C=x.shape[3],
        OUT=k,
        TAPS=taps,
        LINES=rows,
        EIGHT_BIT=out.dtype == torch.uint8,
        SAVE=saved is not None,
        **launch_early(),
        FLAG=not_finite is not None,
        **config.launch_options(x.dtype, tf32),
    )
