"""How sharp a picture is, and whether its halves show the same: what pixels tell of a photo before it is trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deblurgan.data.cache import Pixels

SOFT = 0.15  # the sharpness below which a photo is called soft
LARGEST = 4096  # px; of a picture with longer sides the middle is looked at
SAME = 0.75  # the correlation from which two halves show the same
GRID = 32  # cells in a column of the halves that are compared

Plane = NDArray[np.float32]


def sharpness(pixels: Pixels) -> float:
    """How much finer the picture's gradients are than they need be, of uint8 [h, w, 3]; about 0.2 to 2 in photos.

    It is the energy of the differences of neighbours over that of the picture at a quarter of its size, along the axis
    where it is smaller: both grow with the picture's contrast, but blur takes away the first alone. Noise adds to it.
    Flat pictures, and those with less than 8 px on a side, have 1.
    """
    fine = _middle(pixels)[..., 1].astype(np.float32)
    coarse = _halved(_halved(fine))
    if min(coarse.shape) < 2:
        return 1.0
    shares = [_energy(fine, axis) / energy for axis in (0, 1) if (energy := _energy(coarse, axis)) > 1]
    return min(shares, default=1.0)


def halves_agree(pixels: Pixels) -> bool:
    """Whether the left and the right half of uint8 [h, w, 3] show the same, one of them blurrier, as in an A|B picture.

    What rows have in common, as a sky above ground, does not count. A picture with an odd width, or less than 64 px on
    a side of a half, has no such halves.
    """
    height, width = pixels.shape[:2]
    if width % 2 or min(height, width // 2) < 2 * GRID:
        return False
    halves = pixels[:, : width // 2], pixels[:, width // 2 :]
    left, right = (_details(half) for half in halves)
    length = float(np.sqrt((left**2).sum() * (right**2).sum()))
    if length == 0 or float((left * right).sum()) / length < SAME:
        return False
    lower, upper = sorted(sharpness(half) for half in halves)
    return lower < 0.9 * upper


def _details(half: Pixels) -> Plane:
    """The half in cells of its height / GRID, each less the mean of its row."""
    side = half.shape[0] // GRID
    cells = half[: GRID * side, : half.shape[1] // side * side, 1].reshape(GRID, side, -1, side)
    means = cells.mean((1, 3), dtype=np.float32)
    return means - means.mean(1, keepdims=True)


def _middle(pixels: Pixels) -> Pixels:
    top, left = (max(0, side - LARGEST) // 2 for side in pixels.shape[:2])
    return pixels[top : top + LARGEST, left : left + LARGEST]


def _halved(plane: Plane) -> Plane:
    h, w = (side // 2 * 2 for side in plane.shape)
    return plane[:h, :w].reshape(h // 2, 2, w // 2, 2).mean((1, 3), dtype=np.float32)


def _energy(plane: Plane, axis: int) -> float:
    """Mean square of the differences of neighbours along the axis."""
    return float(np.mean(np.diff(plane, axis=axis) ** 2, dtype=np.float64))
