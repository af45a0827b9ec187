"""What becomes of a photo that is dropped on the page."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from deblurgan import images
from deblurgan.images.compare import change, most_changed
from deblurgan.images.writing import FORMATS
from deblurgan.inference import Deblurrer

PREVIEW = 1600  # longest side of the pictures that the page shows, px
DETAIL = 320  # side of the detail, px


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
    before, after = (images.read(path).in_8_bits() for path in (source, target))
    h, w = before.pixels.shape[:2]
    detail = min(DETAIL, h), min(DETAIL, w)
    [(top, left)] = most_changed(before.pixels, after.pixels, detail)
    box = left, top, left + detail[1], top + detail[0]
    shown = before.to_pil(), after.to_pil()
    parts = [f"{w}x{h} pixels", str(change(before.pixels, after.pixels)), f"{seconds:.1f} s"]
    return Restored(
        file=target,
        whole=save_pair(*shown, folder, "whole"),
        detail=save_pair(shown[0].crop(box), shown[1].crop(box), folder, "detail"),
        summary=" · ".join(parts + [f"without {', '.join(lacking)}"] * bool(lacking)),
    )


def save_pair(before: Image.Image, after: Image.Image, folder: Path, name: str) -> tuple[Path, Path]:
    """Both pictures as PNG files for the page, reduced where they are large."""
    paths = folder / f"{name}-before.png", folder / f"{name}-after.png"
    for image, path in zip((before, after), paths, strict=True):
        shown = image.copy()
        shown.thumbnail((PREVIEW, PREVIEW))
        shown.save(path, compress_level=1)
    return paths
