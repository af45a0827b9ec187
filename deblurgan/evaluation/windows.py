"""Pictures under small windows, of which similarities are made."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from deblurgan.evaluation.alignment import Array

GAUSSIAN = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))  # SSIM's, of sigma 1.5
GAUSSIAN /= GAUSSIAN.sum()


def correlated(picture: Array, taps: Array = GAUSSIAN, *, step: int = 1) -> Array:
    """`picture` [h, w] under the taps along both sides, where they lie within it; every `step`-th pixel."""
    for _ in range(2):
        picture = (sliding_window_view(picture, len(taps), 0)[::step] @ taps).T
    return picture
