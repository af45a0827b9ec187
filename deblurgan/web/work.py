"""What becomes of a photo that is dropped on the page."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from deblurgan import images
from deblurgan.images.writing import FORMATS
from deblurgan.inference import Deblurrer

PREVIEW = 1600  # longest side of the pictures that the page shows, px
DETAIL = 320  # side of the detail, px
CELLS = 8  # steps of the search for the detail, in each direction within one


class Restored(NamedTuple):
    """A restored photo's file, and what the page shows of it; before and after are files of equal size."""

    file: Path
    whole: tuple[Path, Path]
    detail: tuple[Path, Path]  # at 100 %, where the photo changed most
    summary: str


def restore(
    deblurrer: Deblurrer, source: Path, folder: Path, *, progress: Callable[[float], object] | None = None
) -> Restored:
    """Restores a photo's file into an empty folder, as `Deblurrer.file` does, beside previews of both.

    The result is NAME-deblurred with the source's extension, or .png for a format that can be read alone. Raises what
    `Deblurrer.file` does.
    """
    suffix = source.suffix if source.suffix.lower() in FORMATS else ".png"
    target = folder / f"{source.stem}-deblurred{suffix}"
    began = time.monotonic()
    lacking = deblurrer.file(source, target, progress=progress)
    seconds = time.monotonic() - began
    before, after = (images.read(path).in_8_bits().to_pil() for path in (source, target))
    change = np.abs(np.asarray(after.convert("RGB"), np.int16) - np.asarray(before.convert("RGB")))
    box = most_changed(change.sum(2), DETAIL)
    parts = [
        f"{before.width}x{before.height} pixels",
        f"changed by {change.mean():.2f} of 255 on average",
        f"{seconds:.1f} s",
    ]
    return Restored(
        file=target,
        whole=save_pair(before, after, folder, "whole"),
        detail=save_pair(before.crop(box), after.crop(box), folder, "detail"),
        summary=" · ".join(parts + [f"without {', '.join(lacking)}"] * bool(lacking)),
    )


def most_changed(change: NDArray[np.integer], side: int) -> tuple[int, int, int, int]:
    """The square of about `side` px, (left, top, right, bottom), that holds the most of change [h, w]; smaller where
    the picture is."""
    step = max(1, side // CELLS)
    h, w = change.shape
    cells = np.add.reduceat(np.add.reduceat(change, range(0, h, step), 0, np.int64), range(0, w, step), 1)
    window = min(CELLS, cells.shape[0]), min(CELLS, cells.shape[1])
    sums = sliding_window_view(cells, window).sum((2, 3))
    row, column = (int(i) * step for i in np.unravel_index(sums.argmax(), sums.shape))
    return column, row, min(column + side, w), min(row + side, h)


def save_pair(before: Image.Image, after: Image.Image, folder: Path, name: str) -> tuple[Path, Path]:
    """Both pictures as PNG files for the page, reduced where they are large."""
    paths = folder / f"{name}-before.png", folder / f"{name}-after.png"
    for image, path in zip((before, after), paths, strict=True):
        shown = image.copy()
        shown.thumbnail((PREVIEW, PREVIEW))
        shown.save(path, compress_level=1)
    return paths
