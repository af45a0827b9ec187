"""The gradient of output_tail before its convolution: back through the clamp and the tanh."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deblurgan.kernels.config import PaddedGradient


@triton.jit(do_not_specialize=["c", "h"])
def output_tail_grad_kernel(
    g,  # [n, c, h, w], any strides
    image,  # [n, c, h, w], any strides
    tanh,  # fp32 [n, c, h, w], contiguous
    out,  # [n, h + 2b, w + 2b + 1, CHANNELS], contiguous
    partials,  # fp32 [n, tiles, CHANNELS]
    c,
    h,
    w,
    g_image,
    g_channel,
    g_row,
    g_pixel,
    i_image,
    i_channel,
    i_row,
    i_pixel,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out = g (1 - t^2) where |image + t| <= 1, else and in the border 0;   partials: its sums over each program."""
    n = tl.program_id(2).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, x = tl.program_id(1) - WIDTH, column - WIDTH
    k = tl.arange(0, CHANNELS)
    pitch = w + 2 * WIDTH + 1
    inside = ((row >= 0) & (row < h) & (x >= 0) & (x < w))[:, None] & (k < c)[None, :]
    high = row.to(tl.int64)
    t_at = tanh + (n * c + k[None, :]) * h * w + high * w + x[:, None]
    i_at = image + n * i_image + k[None, :] * i_channel + high * i_row + x[:, None] * i_pixel
    g_at = g + n * g_image + k[None, :] * g_channel + high * g_row + x[:, None] * g_pixel
    t = tl.load(t_at, mask=inside, other=0.0)
    before = tl.load(i_at, mask=inside, other=0.0).to(tl.float32) + t
    slope = tl.where((before >= -1.0) & (before <= 1.0), 1.0 - t * t, 0.0)
    value = tl.load(g_at, mask=inside, other=0.0).to(tl.float32) * slope
    line = out + (n * (h + 2 * WIDTH) + tl.program_id(1)) * pitch * CHANNELS
    tl.store(
        line + column[:, None] * CHANNELS + k[None, :], value.to(out.dtype.element_ty), mask=(column < pitch)[:, None]
    )
    tile = (n * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    tl.store(partials + tile * CHANNELS + k, tl.sum(value, 0))


def output_tail_grad(grad: Tensor, image: Tensor, tanh: Tensor, out: PaddedGradient) -> Tensor:
    """Fills out.whole [n, h + 2 b, w + 2 b + 1, p], b = out.top, with the gradient of the last convolution's output.

    grad is the gradient of output_tail's output, image its picture, tanh fp32 what it saved, all [n, c <= p, h, w].
    Returns the bias's gradient, fp32 [c]. At the clamp's bounds the gradient passes, as in torch.
    """
    n, c, h, w = grad.shape
    _, rows, pitch, channels = out.whole.shape
    block = 128
    grid = (triton.cdiv(pitch, block), rows, n)
    partials = torch.empty(grid[0] * rows * n, channels, dtype=torch.float32, device=grad.device)
    output_tail_grad_kernel[grid](
        grad,
        image,
        tanh,
        out.whole,
        partials,
        c,
        h,
        w,
        *grad.stride(),
        *image.stride(),
        WIDTH=out.top,
        CHANNELS=channels,
        BLOCK=block,
    )
    return partials.sum(0)[:c]
