"""The last convolution and all that follows it: image + tanh(conv), clamped, as floats or 8 bits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deblurgan.kernels.conv_stats import ConvConfig, matrix_product


@triton.jit
def output_tail_kernel(
    x,  # the pixel that tap (0, 0) of output pixel (0, 0) reads
    weight,  # [BLOCK_N, TAPS * TAPS * C], rows from OUT on are zero
    bias,  # fp32 [BLOCK_N]
    image,  # [n, OUT, h, w], any strides
    out,  # [n, OUT, h, w], any strides
    h,
    w,
    x_image,
    x_row,
    x_pixel,
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
    EIGHT_BIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out = clamp(image + tanh(sum over i, j of weight[i, j] x[y + i, x + j] + bias), -1, 1).

    EIGHT_BIT: image and out are uint8, v for 2 v / 255 - 1; rounded to nearest.
    """
    n = tl.program_id(1).to(tl.int64)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    pixel = tl.minimum(m, h * w - 1)
    oy, ox = (pixel // w).to(tl.int64), (pixel % w).to(tl.int64)
    k = tl.arange(0, BLOCK_N)
    rows = x + n * x_image + oy * x_row + ox * x_pixel
    acc = matrix_product(rows, weight, k, x_row, x_pixel, C, BLOCK_N, TAPS, TAPS, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION)
    wanted = (m < h * w)[:, None] & (k < OUT)[None, :]
    at = image + n * i_image + k[None, :] * i_channel + (oy * i_row + ox * i_pixel)[:, None]
    before = tl.load(at, mask=wanted, other=0).to(tl.float32)
    if EIGHT_BIT:
        before = before * (2.0 / 255.0) - 1.0
    value = acc + tl.load(bias + k)[None, :]
    tanh = 1.0 - 2.0 / (tl.exp(2.0 * value) + 1.0)
    result = tl.clamp(before + tanh, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
    to = out + n * o_image + k[None, :] * o_channel + (oy * o_row + ox * o_pixel)[:, None]
    if EIGHT_BIT:
        result = (result + 1.0) * 127.5 + 0.5
    tl.store(to, result.to(out.dtype.element_ty), mask=wanted)


def output_tail(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    image: Tensor,
    out: Tensor,
    *,
    taps: int,
    config: ConvConfig,
    tf32: bool = False,
) -> None:
    """Fills out [n, k, h, w] from image, the same shape, and x [n, ., ., c], which begins at the border's corner.

    weight [block_n, taps * taps * c] and bias fp32 [block_n] have zero rows from k on. Both pictures are uint8, or
    floats in [-1, 1].
    """
    n, k, h, w = out.shape
    output_tail_kernel[(triton.cdiv(h * w, config.block_m), n)](
        x,
        weight,
        bias,
        image,
        out,
        h,
        w,
        *x.stride()[:3],
        *image.stride(),
        *out.stride(),
        C=weight.shape[1] // (taps * taps),
        OUT=k,
        TAPS=taps,
        EIGHT_BIT=out.dtype == torch.uint8,
        BLOCK_M=config.block_m,
        BLOCK_N=weight.shape[0],
        BLOCK_K=config.block_k,
        PRECISION="tf32" if tf32 else "ieee",
        num_warps=config.warps,
        num_stages=config.stages,
    )
