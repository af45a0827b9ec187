"""Many PSFs in one picture, to look at."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LINE = 96  # grey of the lines between PSFs


def psf_sheet(psf: NDArray[np.floating], *, columns: int | None = None) -> NDArray[np.uint8]:
    """PSFs [n, k, k], n and k at least 1, as one grey picture [H, W], row by row with lines between them.

    Each PSF is scaled to its own maximum, drawn as its square root, which makes faint tails visible, and enlarged by a
    whole factor to 128 px or more. The grid is nearly square unless `columns` is given. Raises ValueError for another
    shape.
    """
    psf = np.asarray(psf)
    if psf.ndim != 3 or psf.shape[1] != psf.shape[2] or 0 in psf.shape:
        raise ValueError(f"psf must be [n, k, k], n and k at least 1, got {psf.shape}")
    n, k, _ = psf.shape
    columns = columns or math.ceil(math.sqrt(n))
    scale = math.ceil(128 / k)
    tiles = _shades(psf).repeat(scale, 1).repeat(scale, 2)
    side = scale * k
    sheet = np.full((math.ceil(n / columns) * (side + 1) - 1, columns * (side + 1) - 1), LINE, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = (side + 1) * (i // columns), (side + 1) * (i % columns)
        sheet[top : top + side, left : left + side] = tile
    return sheet


def _shades(psf: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Square roots of PSFs [n, k, k], the maximum of each being 255."""
    peak = psf.max((1, 2), keepdims=True)
    shares = np.clip(psf / np.where(peak > 0, peak, 1), 0, 1)
    return np.rint(255 * np.sqrt(shares)).astype(np.uint8)
