"""How sharp a picture is, and whether two look like a pair: what pixels tell of photos before they are trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deblurgan.data.cache import Pixels

SOFT = 0.15  # the sharpness below which a photo is called soft
LARGEST = 4096  # px; of a picture with longer sides the middle is looked at
SAME = 0.75  # the correlation from which two pictures show the same
GRID = 32  # cells in the shorter side of pictures that are compared

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
    """Whether the halves of uint8 [h, w, 3] look like a pair, as in an A|B picture. Those of odd widths do not."""
    width = pixels.shape[1]
    return width % 2 == 0 and look_like_pair(pixels[:, : width // 2], pixels[:, width // 2 :])


def look_like_pair(one: Pixels, other: Pixels) -> bool:
    """Whether two pictures, uint8 [h, w, 3], show the same, and one of them is blurrier.

    What rows have in common, as a sky above ground, does not count. Pictures of different sizes, or with less than
    64 px on a side, are no pair.
    """
    if one.shape != other.shape or min(one.shape[:2]) < 2 * GRID:
        return False
    a, b = _details(one), _details(other)
    length = float(np.sqrt((a**2).sum() * (b**2).sum()))
    if length == 0 or float((a * b).sum()) / length < SAME:
        return False
    lower, upper = sorted((sharpness(one), sharpness(other)))
    return lower < 0.9 * upper


def _details(picture: Pixels) -> Plane:
    """The picture in cells of its shorter side / GRID, each less the mean of its row."""
    side = min(picture.shape[:2]) // GRID
    h, w = (length // side for length in picture.shape[:2])
    cells = picture[: h * side, : w * side, 1].reshape(h, side, w, side)
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
