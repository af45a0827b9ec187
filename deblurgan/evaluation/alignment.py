"""Bringing a restored picture onto its truth before the two are compared: gain, whole-pixel shift, homography."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # fp64, unless it says otherwise

ITERATIONS = 100  # of ECC; the authors of RealBlur stop by no other rule
SMOOTHED = 5  # px, side of the Gaussian under which ECC looks at both pictures


def matching_gain(picture: Array, truth: Array) -> float:
    """The factor that brings `picture` closest to `truth` in least squares. Raises ValueError for a black picture."""
    energy = float(np.vdot(picture, picture))
    if energy == 0:
        raise ValueError("a black picture has no gain that brings it to the sharp one")
    return float(np.vdot(picture, truth)) / energy


def whole_pixel_shift(truth: Array, spectrum: Array) -> tuple[int, int]:
    """The pixels, down and to the right, by which a picture [h, w] is moved onto `truth`: where their circular
    cross-correlation is largest. `spectrum` is `np.fft.rfft2` of the picture."""
    height, width = truth.shape
    correlation = np.fft.irfft2(np.fft.rfft2(truth) * spectrum.conj(), s=(height, width))
    right, down = divmod(int(correlation.T.argmax()), height)  # of equal ones MATLAB takes the leftmost
    # From half a side on they count as negative; of an odd side from below its half, as in the official code
    return down - height * (down >= height // 2), right - width * (right >= width // 2)


def shifted(picture: Array, shift: tuple[int, int]) -> Array:
    """`picture` [h, w] moved down and to the right, zero where nothing of it comes to lie."""
    moved = np.zeros_like(picture)
    (to_rows, rows), (to_columns, columns) = (
        (slice(max(0, by), size + min(0, by)), slice(max(0, -by), size - max(0, by)))
        for by, size in zip(shift, picture.shape, strict=True)
    )
    moved[to_rows, to_columns] = picture[rows, columns]
    return moved


def warped_onto(picture: Array, truth: Array) -> tuple[Array, Array]:
    """`picture`, fp32 [h, w, 3] in [0, 1], under the homography by which ECC brings it onto `truth`, and where it comes
    to lie: fp32 [h, w], 0 or 1.

    As in the evaluation of RealBlur's authors: 100 iterations on grey pictures, cubic interpolation, and the mask by
    nearest neighbours. Raises ImportError without OpenCV, ValueError where ECC finds none.
    """
    cv2 = opencv()
    size = truth.shape[1::-1]
    greys = (cv2.cvtColor(part, cv2.COLOR_RGB2GRAY) for part in (truth, picture))
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ITERATIONS, 0)
    start = np.eye(3, dtype=np.float32)
    try:
        _, homography = cv2.findTransformECC(*greys, start, cv2.MOTION_HOMOGRAPHY, criteria, None, SMOOTHED)
    except cv2.error as error:
        raise ValueError(f"ECC finds no homography onto the sharp picture ({error.err})") from error
    cubic, nearest = (how | cv2.WARP_INVERSE_MAP for how in (cv2.INTER_CUBIC, cv2.INTER_NEAREST))
    moved = cv2.warpPerspective(picture, homography, size, flags=cubic, borderMode=cv2.BORDER_REFLECT)
    return moved, cv2.warpPerspective(np.ones_like(picture[..., 0]), homography, size, flags=nearest)


def opencv() -> Any:
    """The module cv2. Raises ImportError, which says how to get it."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError("realblur needs OpenCV: pip install 'deblurgan[realblur]'") from error
    return cv2
