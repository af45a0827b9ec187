"""What a restoration changed: in figures, in words, and as a picture to look at.

Pictures are arrays [h, w, 3] or [h, w], uint8, uint16 or float in [0, 1]; before and after have the same shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SHARP = 0.7  # the change beside the contrast, below which a picture is taken for sharp, from photographs
HARDLY = 0.5  # levels of 255

_STRIP = 256  # rows; beside a picture its floats never exist as a whole
_BAND = 16  # px above a row of crops, for its labels
_GAP = 4  # px between two crops
_PAPER, _INK = (32, 32, 32), (224, 224, 224)


class Change(NamedTuple):
    """How much a restoration changed a picture, in levels of 255; `str` of it is a line for a person.

    mean: mean absolute difference between before and after, over pixels and channels.
    contrast: mean absolute difference between neighbouring pixels of the picture before.
    """

    mean: float
    contrast: float

    @property
    def verdict(self) -> str:
        """What a small change means, in words; "" for one that is not small.

        A sharp picture changes less than its neighbouring pixels differ, a blurred one more. Of 22 sharp photographs 18
        are called sharp, of the same under a shake of 7 px 2, under one of 20 px none.
        """
        if self.mean < SHARP * self.contrast or self.mean == 0:
            return "it was sharp already, its detail is noise, or its blur is none that the network knows"
        return "hardly changed: it has no blur that the network knows" if self.mean < HARDLY else ""

    def __str__(self) -> str:
        text = f"changed by {self.mean:.2f} levels of 255 on average"
        return f"{text}: {self.verdict}" if self.verdict else text


def change(before: NDArray[Any], after: NDArray[Any]) -> Change:
    """Compares a picture before and after its restoration."""
    _require_alike(before, after)
    total = sum(float(difference.sum(dtype=np.float64)) for difference in _differences(before, after))
    return Change(total / before.size, _contrast(before))


def compare_sheet(before: NDArray[Any], after: NDArray[Any], *, size: int = 512, count: int = 3) -> Image.Image:
    """Before | after, as crops of `size` px at 100 %: the `count` places, none over another, that changed most.

    An RGB image; it has fewer rows where the picture has no room for more or did not change elsewhere.
    """
    _require_alike(before, after)
    h, w = (min(size, side) for side in before.shape[:2])
    places = most_changed(before, after, (h, w), count)
    sheet = Image.new("RGB", (2 * w + 3 * _GAP, len(places) * (_BAND + h) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (y, x) in enumerate(places):
        top = row * (_BAND + h)
        for left, name, picture in ((_GAP, f"before ({x}, {y})", before), (w + 2 * _GAP, "after", after)):
            draw.text((left, top + 2), name, fill=_INK)
            sheet.paste(Image.fromarray(_bytes(picture[y : y + h, x : x + w])).convert("RGB"), (left, top + _BAND))
    return sheet


def most_changed(
    before: NDArray[Any], after: NDArray[Any], window: tuple[int, int], count: int = 1
) -> list[tuple[int, int]]:
    """(y, x) of at most `count` windows (h, w), at least one: the one that changed most, then the next beside it.

    The windows must fit the picture.
    """
    h, w = window
    cell = max(1, min(h, w) // 16)  # px, the step from one place to the next
    sums = _window_sums(_cell_sums(before, after, cell), (h // cell, w // cell))
    ys, xs = (
        np.minimum(np.arange(places) * cell, side - length)
        for places, side, length in zip(sums.shape, before.shape[:2], window, strict=True)
    )
    found: list[tuple[int, int]] = []
    while len(found) < count and (not found or sums.max() > 0):
        i, j = np.unravel_index(sums.argmax(), sums.shape)
        found.append((int(ys[i]), int(xs[j])))
        sums[np.ix_(abs(ys - ys[i]) < h, abs(xs - xs[j]) < w)] = 0
    return found


def _require_alike(before: NDArray[Any], after: NDArray[Any]) -> None:
    if before.shape != after.shape or before.dtype != after.dtype:
        wanted, got = f"{before.dtype} {list(before.shape)}", f"{after.dtype} {list(after.shape)}"
        raise ValueError(f"after must be {wanted} as before is, got {got}")


def _white(dtype: np.dtype[Any]) -> int:
    return np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1


def _bytes(picture: NDArray[Any]) -> NDArray[np.uint8]:
    if picture.dtype == np.uint8:
        return np.ascontiguousarray(picture)
    return np.rint(picture.clip(0, _white(picture.dtype)) * (255 / _white(picture.dtype))).astype(np.uint8)


def _contrast(picture: NDArray[Any]) -> float:
    """The mean absolute difference of pixels from those to their right and below, in levels of 255."""
    sides = [(picture[:, :-1], picture[:, 1:]), (picture[:-1], picture[1:])]
    total = sum(float(part.sum(dtype=np.float64)) for a, b in sides if a.size for part in _differences(a, b))
    return total / max(1, sum(a.size for a, _ in sides))


def _differences(before: NDArray[Any], after: NDArray[Any], strip: int = _STRIP) -> Iterator[NDArray[np.float32]]:
    """Absolute differences in levels of 255, strip by strip: [rows, w, c]."""
    h, w = before.shape[:2]
    unit = np.float32(255 / _white(before.dtype))
    for top in range(0, h, strip):
        rows = slice(top, top + strip)
        yield np.abs(np.subtract(after[rows], before[rows], dtype=np.float32)).reshape(-1, w, before[0, 0].size) * unit


def _cell_sums(before: NDArray[Any], after: NDArray[Any], cell: int) -> NDArray[np.float64]:
    """The sum of the differences in each cell of cell x cell pixels, without the pixels left at the right and below."""
    across = before.shape[1] // cell
    sums = []
    for difference in _differences(before, after, _STRIP // cell * cell or cell):
        down = len(difference) // cell
        cells = difference.sum(2)[: down * cell, : across * cell].reshape(down, cell, across, cell)
        sums.append(cells.sum((1, 3), dtype=np.float64))
    return np.concatenate(sums)


def _window_sums(cells: NDArray[np.float64], window: tuple[int, int]) -> NDArray[np.float64]:
    h, w = window
    integral = np.pad(cells.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return integral[h:, w:] - integral[:-h, w:] - integral[h:, :-w] + integral[:-h, :-w]
