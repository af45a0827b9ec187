"""Pictures whose blur is wider than the network knows: restored smaller, and the difference put on the full picture.

Pixels are arrays [h, w, 3] or [h, w], uint8, uint16 or float in [0, 1]. Everything full-sized is done by strips of
rows, so that a picture never exists as floats as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Gradients = tuple[NDArray[np.float32], NDArray[np.float32]]  # across and down, levels of 255

MIN_PIXELS = 1_500_000  # of a picture that "auto" looks at; the benchmarks' frames (720x1280) have fewer
MIN_SIDE = 256  # px
KNOWN_WIDTH = 20.0  # px of blur that the network restores best, as blur_width measures it
MAX_REDUCTION = 8

_STRIP = 128  # rows
# blur_width
_LEVELS = 8  # of the pyramid, each half as large as the one before; a strip has a row at the last
_SAMPLES = 1_500_000  # gradients looked at on a level, about
_LOOKING = 60_000_000  # bytes that these take at the most
_STRONGEST = 0.0005  # the share of a level's gradients that are stronger than the one that stands for it
_ANGLES = np.arange(8) * (math.pi / 8)
_LEAST = 0.3  # levels of 255; a weaker gradient is rounding
_DISTANCES = 2.0 ** np.arange(_LEVELS)  # px between the pixels whose difference is a gradient
_CONTRAST = 0.1  # octaves that gradients of sharp pictures grow by over an octave of distance, from photographs
_RAMPS = 2.0 ** np.arange(0, 8.25, 0.25)  # px
_NOISES = np.array([0, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2])  # beside the picture's gradients on the last level
_WIDTH_OF_RAMP = 3.5  # extent of a shake over the ramp that its strongest edges show, from simulated shakes


def pick_scale(pixels: NDArray[Any]) -> float:
    """The scale at which the picture's blur is as wide as the network knows it: 1, 1/2, 1/3, ... or 1/8.

    1 for a picture of fewer than 1.5 megapixels or narrower than 256 px, and for one that is sharp.
    """
    if not is_looked_at(*pixels.shape[:2]):
        return 1.0
    reduction = round(blur_width(pixels) / KNOWN_WIDTH)
    return 1 / min(max(reduction, 1), MAX_REDUCTION)


def is_looked_at(h: int, w: int) -> bool:
    """Whether a picture of h x w can get another scale than 1."""
    return h * w >= MIN_PIXELS and min(h, w) >= MIN_SIDE


def blur_width(pixels: NDArray[Any]) -> float:
    """How far a camera shake has smeared the picture along its longest direction, px, within an octave or so.

    The pixels at a sharp edge differ as much 1 px apart as 64 px apart; where a shake has smeared it to a ramp of r px,
    they differ by d / (d + r) of that at distance d. So the strongest gradients on the levels of a pyramid tell r, by
    the best fit, in the direction where r is largest. White noise, which halves from level to level, is fitted too.

    Both sides must be at least 256 px.
    """
    strengths = np.array([_strengths(*gradients) for gradients in _pyramid(pixels)])
    ramps = [_fitted_ramp(strengths[:, direction]) for direction in range(len(_ANGLES))]
    return _WIDTH_OF_RAMP * max(ramps)


def restore_at(scale: float, restore: Callable[[NDArray[Any]], NDArray[Any]], pixels: NDArray[Any]) -> NDArray[Any]:
    """The picture restored at `scale`, in (0, 1]: what `restore` changes in the reduced picture, enlarged, is added to
    the full one, which keeps its details. Same shape and dtype. At scale 1 it is `restore(pixels)`.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale must be in (0, 1], got {scale}")
    size = reduced_size(pixels.shape[0], pixels.shape[1], scale)
    if size == pixels.shape[:2]:
        return restore(pixels)
    small = _reduced(pixels, size)
    restored = restore(small)
    full = np.empty_like(pixels)
    h, w = pixels.shape[:2]
    for top in range(0, h, _STRIP):
        rows = slice(top, min(top + _STRIP, h))
        change = _resized_rows(
            lambda a, b: np.subtract(restored[a:b], small[a:b], dtype=np.float32), size, (h, w), rows, BICUBIC
        )
        full[rows] = _as_dtype(pixels[rows] + change.reshape(full[rows].shape), pixels.dtype)
    return full


def reduced_size(h: int, w: int, scale: float) -> tuple[int, int]:
    """(h, w) of the picture that is restored for one of h x w."""
    return max(1, round(h * scale)), max(1, round(w * scale))


def scale_bytes(h: int, w: int, scale: float | str, network: int) -> int:
    """The most that a picture of h x w px, 8 bits, takes beyond itself and its result, about, where the network takes
    `network` bytes of it: `pick_scale` before it, the reduced pictures beside it, `restore_at` after it.
    """
    if isinstance(scale, str):
        return max(network, _LOOKING + h * w)
    size = reduced_size(h, w, scale)
    reduced = 0 if size == (h, w) else 2 * 3 * size[0] * size[1]
    return reduced + max(network, 64 * _STRIP * w if reduced else 0)


BOX, BICUBIC = Image.Resampling.BOX, Image.Resampling.BICUBIC
_REACH = {BOX: 0.5, BICUBIC: 2.0}  # px of the coarser picture, to either side


def _reduced(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    small = np.empty((*size, *pixels.shape[2:]), pixels.dtype)
    for top in range(0, size[0], _STRIP):
        rows = slice(top, min(top + _STRIP, size[0]))
        values = _resized_rows(lambda a, b: pixels[a:b], pixels.shape[:2], size, rows, BOX)
        small[rows] = _as_dtype(values.reshape(small[rows].shape), pixels.dtype)
    return small


def _resized_rows(
    read: Callable[[int, int], NDArray[Any]],
    source: tuple[int, ...],
    target: tuple[int, ...],
    rows: slice,
    resample: Image.Resampling,
) -> NDArray[np.float32]:
    """Some rows of a picture of (h, w) `source` resized to (h, w) `target`: [rows, w, c].

    `read` gives the source's rows from one up to another.
    """
    ratio = source[0] / target[0]
    first, last = rows.start * ratio, min(rows.stop * ratio, source[0])
    reach = math.ceil(_REACH[resample] * max(ratio, 1)) + 1
    a, b = max(0, math.floor(first) - reach), min(source[0], math.ceil(last) + reach)
    values = read(a, b).astype(np.float32).reshape(b - a, source[1], -1)
    size, box = (target[1], rows.stop - rows.start), (0, first - a, source[1], last - a)
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(values, 2, 0)]
    return np.stack([np.asarray(plane.resize(size, resample, box)) for plane in planes], axis=2)


def _as_dtype(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values clipped to the range of pixels of the dtype, and rounded where these are integers."""
    if np.issubdtype(dtype, np.integer):
        return np.rint(values).clip(0, np.iinfo(dtype).max).astype(dtype)
    return values.clip(0, 1).astype(dtype)


def _pyramid(pixels: NDArray[Any]) -> list[Gradients]:
    """The gradients on each level of the pyramid of grey values; on the fine levels those of some rows."""
    h, w = (side // _STRIP * _STRIP for side in pixels.shape[:2])
    white = np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else 1
    levels: list[list[Gradients]] = [[] for _ in range(_LEVELS)]
    coarse = []  # the whole picture, on the first level that is small
    for top in range(0, h, _STRIP):
        grey = pixels[top : top + _STRIP, :w].reshape(_STRIP, w, -1).mean(2, dtype=np.float32) * np.float32(255 / white)
        for level in range(3):
            levels[level].append(_gradients(grey, every=max(1, round(h * w / _SAMPLES / 4**level))))
            grey = _halved(grey)
        coarse.append(grey)
    grey = np.concatenate(coarse)
    for level in range(3, _LEVELS):
        levels[level].append(_gradients(grey))
        grey = _halved(grey)
    return [tuple(np.concatenate(part) for part in zip(*level, strict=True)) for level in levels]  # type: ignore[misc]


def _halved(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    h, w = (side // 2 * 2 for side in grey.shape)
    rows = grey[0:h:2, :w] + grey[1:h:2, :w]
    return (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)


def _gradients(grey: NDArray[np.float32], *, every: int = 1) -> Gradients:
    """Of the cells of 2x2 pixels in each `every`-th row, flat."""
    upper, lower = grey[:-1:every], grey[1::every]
    sums, differences = upper + lower, lower - upper
    half = np.float32(0.5)
    return np.diff(sums).ravel() * half, (differences[:, 1:] + differences[:, :-1]).ravel() * half


def _strengths(across: NDArray[np.float32], down: NDArray[np.float32]) -> NDArray[np.float64]:
    """The strong gradient that stands for a level, along each of the angles."""
    rank = int(len(across) * _STRONGEST)
    squares = across * across + down * down
    candidates = np.argpartition(squares, -min(len(squares), 100 * (rank + 1)))[-100 * (rank + 1) :]
    x, y = across[candidates], down[candidates]
    along = np.abs(np.outer(np.cos(_ANGLES), x) + np.outer(np.sin(_ANGLES), y))
    return np.partition(along, -1 - rank)[:, -1 - rank].astype(np.float64)


def _fitted_ramp(strengths: NDArray[np.float64]) -> float:
    """The ramp, px, that explains a direction's gradients [levels] best; one contrast and one noise go with it."""
    edges = _DISTANCES**_CONTRAST * _DISTANCES / (_DISTANCES + _RAMPS[:, None, None])  # [ramps, 1, levels]
    noises = _NOISES[:, None] * edges[..., -1:] / _DISTANCES
    misses = np.log2(np.maximum(strengths, _LEAST)) - np.log2(np.hypot(edges, noises))  # [ramps, noises, levels]
    errors = np.abs(misses - np.median(misses, axis=-1, keepdims=True)).mean(-1)
    return float(_RAMPS[errors.min(axis=1).argmin()])
