"""A picture in memory, and the error for one that cannot be read or written."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

StrPath = str | os.PathLike[str]
Segment = tuple[str, bytes]  # of a JPEG file: "COM", or "APP0" to "APP15", and what it holds
Chunk = tuple[bytes, bytes]  # of a PNG file: its kind, and what it holds
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class ImageError(ValueError):
    """A picture that cannot be read or written.

    The message is "PATH: reason"; `path` and `reason` hold the two parts.
    """

    def __init__(self, path: StrPath, reason: str) -> None:
        super().__init__(path, reason)  # both parts as args, so that the error pickles
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{printable(os.fspath(self.path))}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Picture:
    """One upright 8-bit picture and what its file said about it.

    pixels: uint8 [h, w, 3], RGB, h and w at least 1; a grey picture has its value three times.
    alpha:  uint8 [h, w], or None.
    grey:   the file held one colour channel, and is written back as one.
    exif:   EXIF block starting with b"Exif\\0\\0", without the orientation tag, or None.
    icc:    embedded colour profile, or None.
    dpi:    horizontal and vertical resolution, or None.
    format: Pillow's name of the file format ("JPEG", "PNG", ...); "" for a picture made in memory.
    xmp:    XMP packet without its orientation and what announces other parts of the file, or None.
    segments: comments and Photoshop resources (with IPTC data) of a JPEG; comments of a GIF.
    png_chunks: texts, colours and the like of a PNG file, which only such a file can hold, in order.
    lost:   what else the file said or held, in words: it cannot be kept.

    Raises ValueError for arrays of another shape or dtype.
    """

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None
    grey: bool = False
    exif: bytes | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    format: str = ""
    xmp: bytes | None = None
    segments: tuple[Segment, ...] = ()
    png_chunks: tuple[Chunk, ...] = ()
    lost: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ValueError(f"pixels must be uint8 [h, w, 3], got {self.pixels.dtype} {list(shape)}")
        if self.alpha is not None and (self.alpha.dtype != np.uint8 or self.alpha.shape != shape[:2]):
            raise ValueError(f"alpha must be uint8 {list(shape[:2])}, got {self.alpha.dtype} {list(self.alpha.shape)}")

    def with_pixels(self, pixels: NDArray[np.uint8]) -> Picture:
        """The same picture with other pixels, uint8 [h, w, 3] of the same size; ValueError otherwise."""
        if pixels.shape != self.pixels.shape:
            raise ValueError(f"pixels must keep the shape {list(self.pixels.shape)}, got {list(pixels.shape)}")
        return dataclasses.replace(self, pixels=pixels)

    def to_pil(self) -> Image.Image:
        """A Pillow image of mode L, LA, RGB or RGBA, with EXIF, XMP, profile and resolution in its `info`.

        The grey value is the rounded mean of the three channels.
        """
        if self.grey:
            image = Image.fromarray(((self.pixels.sum(axis=2, dtype=np.uint16) + 1) // 3).astype(np.uint8))
        else:
            image = Image.fromarray(np.ascontiguousarray(self.pixels))
        if self.alpha is not None:
            image.putalpha(Image.fromarray(np.ascontiguousarray(self.alpha)))
        image.info.update(self.pillow_info())
        return image

    def pillow_info(self) -> dict[str, Any]:
        """EXIF, profile, resolution and XMP, as far as there are any, under Pillow's names."""
        fields = {"exif": self.exif, "icc_profile": self.icc, "dpi": self.dpi, "xmp": self.xmp}
        return {name: value for name, value in fields.items() if value is not None}


def valid_dpi(value: Any) -> tuple[float, float] | None:
    """The resolution, pixels an inch across and down, if every format can hold it; else None, as for 0 or 0/0."""
    try:
        x, y = (float(part) for part in value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return (x, y) if 1 <= x <= 65535 and 1 <= y <= 65535 else None


def one_line(error: Exception) -> str:
    """The error's text in one line of at most 200 characters, or its type where it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def printable(text: str) -> str:
    """The text, which may hold any file's name, as one line that can be printed: control characters and bytes that are
    not UTF-8 are escaped."""
    decoded = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), decoded)
