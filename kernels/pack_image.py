"""A picture [n, c, h, w] as the first convolution reads it: channels last, padded to 4, its border written out."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deblurgan.kernels.config import PACKED_CHANNELS, Border
from deblurgan.kernels.launch import launch_early, wait_for_previous


@triton.jit(do_not_specialize=["c", "h", "w", "i_image", "i_channel", "i_row"])
def pack_image_kernel(
    image,  # [n, c, h, w], any strides
    out,  # [n, h + 2b, w + 2b + 1, CHANNELS], contiguous
    c,
    h,
    w,
    i_image,
    i_channel,
    i_row,
    i_pixel,
    EIGHT_BIT: tl.constexpr,
    REFLECT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """out[y, x, k] = image[k, reflect(y - b), reflect(x - b)], zero in channels from c on and in the last column."""
    wait_for_previous(PDL)
    n = tl.program_id(2).to(tl.int64)
    row = tl.program_id(1)
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, CHANNELS)
    pitch = w + 2 * WIDTH + 1
    from_y, from_x = row - WIDTH, x - WIDTH
    if REFLECT:
        from_y = tl.abs(from_y)
        from_y = tl.where(from_y >= h, 2 * (h - 1) - from_y, from_y)
        from_x = tl.abs(from_x)
        from_x = tl.where(from_x >= w, 2 * (w - 1) - from_x, from_x)
    inside = (from_y >= 0) & (from_y < h) & (from_x >= 0) & (from_x < w) & (x < pitch - 1)
    at = (
        image
        + n * i_image
        + from_y.to(tl.int64) * i_row
        + from_x.to(tl.int64)[:, None] * i_pixel
        + k[None, :] * i_channel
    )
    value = tl.load(at, mask=inside[:, None] & (k < c)[None, :], other=0).to(tl.float32)
    if EIGHT_BIT:
        value = tl.where(inside[:, None] & (k < c)[None, :], value * (2.0 / 255.0) - 1.0, 0.0)
    line = out + (n * (h + 2 * WIDTH) + row) * pitch * CHANNELS
    tl.store(line + x[:, None] * CHANNELS + k[None, :], value.to(out.dtype.element_ty), mask=(x < pitch)[:, None])


def pack_image(image: Tensor, out: Tensor, *, border: Border) -> None:
    """Fills out [n, h + 2 b, w + 2 b + 1, 4], b = border.width, from image [n, c <= 4, h, w]: uint8, or in [-1, 1]."""
    n, c, h, w = image.shape
    block = 128
    pack_image_kernel[(triton.cdiv(out.shape[2], block), out.shape[1], n)](
        image,
        out,
        c,
        h,
        w,
        *image.stride(),
        EIGHT_BIT=image.dtype == torch.uint8,
        REFLECT=border.mode == "reflect",
        WIDTH=border.width,
        CHANNELS=PACKED_CHANNELS,
        BLOCK=block,
        **launch_early(),
    )
