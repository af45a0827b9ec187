"""JPEG's traces, by Pillow, which works in the host's memory."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deblurgan.ops.common import operator, require


def through_jpeg(x: Tensor, quality: Tensor, signed: torch.dtype | None = None) -> Tensor:
    """Pictures x [n, c, h, w], uint8 or float, in 8 bits through `jpeg`: of x's dtype or, in [-1, 1], of `signed`.

    NaN gives black. Raises ValueError for pictures that require a gradient, which JPEG has not, or have other than 1 or
    3 channels, and for a `signed` that is no float type.
    """
    require(signed is None or signed.is_floating_point, f"signed must be a floating-point type, got {signed}")
    require(not x.requires_grad, "jpeg has no gradient: give a picture that requires none, or jpeg=0")
    levels = x if x.dtype == torch.uint8 else (x.float().nan_to_num(0).clamp(0, 1) * 255 + 0.5).to(torch.uint8)
    coded = jpeg(levels, quality)
    if signed is not None:
        return (coded.float() / 127.5 - 1).to(signed)
    return coded if x.dtype == torch.uint8 else (coded.float() / 255).to(x.dtype)


@operator
def jpeg(x: Tensor, quality: Tensor) -> Tensor:
    """Pictures x, uint8 [n, c, h, w] of 1 or 3 channels, written as JPEG of `quality`, int64 [n], and read again; in
    x's memory layout.

    Of three channels colour is kept at half the size, Pillow's 4:2:0. On CUDA this waits for the GPU. Raises ValueError
    for other pictures.
    """
    _check(x)
    out = torch.empty_like(x, device="cpu")
    if x.numel():
        for picture, target, wanted in zip(x.cpu(), out, quality.tolist(), strict=True):
            pixels = picture.permute(1, 2, 0).numpy()
            buffer = io.BytesIO()
            Image.fromarray(pixels[..., 0] if len(picture) == 1 else pixels).save(buffer, "JPEG", quality=wanted)
            read = np.array(Image.open(buffer)).reshape(pixels.shape)
            target.copy_(torch.from_numpy(read).permute(2, 0, 1))
    return out.to(x.device)


@torch.library.register_fake("deblurgan::jpeg")
def _(x: Tensor, quality: Tensor) -> Tensor:
    _check(x)
    return torch.empty_like(x)


def _check(x: Tensor) -> None:
    require(
        x.dim() == 4 and x.dtype == torch.uint8, f"image must be uint8 [n, c, h, w], got {x.dtype} {tuple(x.shape)}"
    )
    require(x.shape[1] in (1, 3), f"jpeg takes pictures of 1 or 3 channels, got {x.shape[1]}")
