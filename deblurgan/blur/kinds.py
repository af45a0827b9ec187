"""Pictures of other kinds, ndarrays and PIL's, as tensors and back."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deblurgan.arguments import kind_of

Picture = TypeVar("Picture", Tensor, NDArray[Any], Image.Image)

DTYPES = ("uint8", "float16", "float32", "float64")
MODES = ("L", "RGB")
TAKEN = (
    "image must be a torch.Tensor [n, c, h, w] or [c, h, w], a numpy.ndarray [h, w] or [h, w, c] of "
    f"{', '.join(DTYPES)}, or a PIL.Image.Image of mode {' or '.join(MODES)}"
)


def pixels_of(picture: object) -> Tensor:
    """A copy of an ndarray's or PIL picture's pixels, [c, h, w] of its dtype.

    Raises TypeError for what is neither, or of another dtype or mode; ValueError for an ndarray of another shape.
    """
    if isinstance(picture, Image.Image):
        if picture.mode not in MODES:
            hint = "" if picture.mode[0] in "IF" else ": convert('RGB') makes one"  # those it would clip at 255
            raise TypeError(f"{TAKEN}, got one of mode {picture.mode}{hint}")
    elif not isinstance(picture, np.ndarray):
        raise TypeError(f"{TAKEN}, got {kind_of(picture)}")
    elif picture.dtype not in DTYPES:
        raise TypeError(f"{TAKEN}, got one of {picture.dtype}")
    array = np.array(picture, order="C")
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or not 1 <= array.shape[2] <= 4:
        raise ValueError(f"an ndarray must be [h, w], or [h, w, c] of 1 to 4 channels, got {array.shape}")
    return torch.from_numpy(array).permute(2, 0, 1)


def in_kind_of(picture: NDArray[Any] | Image.Image, pixels: Tensor) -> NDArray[Any] | Image.Image:
    """Pixels [c, h, w] in the kind, mode and number of axes of the picture they were made from, and with its `info`."""
    array = np.ascontiguousarray(pixels.detach().cpu().permute(1, 2, 0).numpy())
    if isinstance(picture, Image.Image):
        made = Image.fromarray(array[..., 0] if picture.mode == "L" else array)
        made.info = picture.info.copy()  # its colour profile, as Pillow's own functions keep it
        return made
    return array[..., 0] if picture.ndim == 2 else array
