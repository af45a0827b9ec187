"""What a restoration changed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def change(before: NDArray[Any], after: NDArray[Any]) -> float:
    """The mean absolute change of pixels [h, w, 3], uint8 or uint16, in levels of 255."""
    difference = np.abs(after.astype(np.float32) - before)
    return float(difference.mean()) * 255 / np.iinfo(before.dtype).max


def compare_sheet(before: NDArray[Any], after: NDArray[Any]) -> Image.Image:
    """Both pictures side by side."""
    return Image.fromarray(np.concatenate([before, after], 1))
