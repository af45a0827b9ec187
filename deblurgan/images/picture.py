"""A picture in memory, and the error for one that cannot be read or written."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

StrPath = str | os.PathLike[str]
Segment = tuple[str, bytes]  # of a JPEG file: "COM", or "APP0" to "APP15", and what it holds
Chunk = tuple[bytes, bytes]  # of a PNG file: its kind, and what it holds
Pixels = NDArray[Any]  # uint8 or uint16
COLOUR_CHUNKS = frozenset({b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI"})
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


class JpegCoding(NamedTuple):
    """How finely a JPEG file holds its pixels, and in what order."""

    grey: bool
    """Whether it has one channel."""
    tables: tuple[tuple[int, ...], ...]
    """Quantisation tables of the channels, row by row; the last one serves those that follow, too."""
    subsampling: int
    """Of the colours, as Pillow counts it: 0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0."""
    progressive: bool


@dataclass(frozen=True, eq=False)
class Picture:
    """One upright picture of 8 or 16 bits and what its file said about it.

    pixels: uint8 or uint16 [h, w, 3], RGB, h and w at least 1; a grey picture has its value three times.
    alpha:  [h, w] of the same dtype, or None.
    grey:   the file held one colour channel, and is written back as one.
    exif:   EXIF block starting with b"Exif\\0\\0", without the orientation tag, or None.
    icc:    embedded colour profile, or None.
    dpi:    horizontal and vertical resolution, or None.
    format: Pillow's name of the file format ("JPEG", "PNG", ...); "" for a picture made in memory.
    xmp:    XMP packet without its orientation and what announces other parts of the file, or None.
    segments: comments and Photoshop resources (with IPTC data) of a JPEG; comments of a GIF.
    png_chunks: texts, colours and the like of a PNG file, which only such a file can hold, in order.
    jpeg:   how a JPEG file held the pixels, or None.
    lossless: the file was a lossless WebP.
    lost:   what else the file said or held, in words: it cannot be kept.

    Raises ValueError for arrays of another shape or dtype.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    grey: bool = False
    exif: bytes | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    format: str = ""
    xmp: bytes | None = None
    segments: tuple[Segment, ...] = ()
    png_chunks: tuple[Chunk, ...] = ()
    jpeg: JpegCoding | None = None
    lossless: bool = False
    lost: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype not in (np.uint8, np.uint16) or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ValueError(f"pixels must be uint8 or uint16 [h, w, 3], got {dtype} {list(shape)}")
        if self.alpha is not None and (self.alpha.dtype != dtype or self.alpha.shape != shape[:2]):
            raise ValueError(
                f"alpha must be {dtype} {list(shape[:2])}, got {self.alpha.dtype} {list(self.alpha.shape)}"
            )

    def with_pixels(self, pixels: Pixels) -> Picture:
        """The same picture with other pixels, [h, w, 3] of the same size and dtype; ValueError otherwise."""
        expected, given = (f"{array.dtype} {list(array.shape)}" for array in (self.pixels, pixels))
        if given != expected:
            raise ValueError(f"pixels must stay {expected}, got {given}")
        return dataclasses.replace(self, pixels=pixels)

    def without_metadata(self) -> Picture:
        """The same picture without what tells of its maker, place or time: EXIF, XMP, comments, IPTC data, texts and
        resolution. Alpha, the colour profile and PNG's chunks of colours stay, as the pixels look otherwise without."""
        chunks = tuple(chunk for chunk in self.png_chunks if chunk[0] in COLOUR_CHUNKS)
        return dataclasses.replace(self, exif=None, xmp=None, dpi=None, segments=(), png_chunks=chunks)

    def in_8_bits(self) -> Picture:
        """The same picture, its values rounded to 8 bits where it has 16; `lost` then says so."""
        if self.pixels.dtype == np.uint8:
            return self
        alpha = None if self.alpha is None else _rounded(self.alpha)
        return dataclasses.replace(
            self, pixels=_rounded(self.pixels), alpha=alpha, lost=(*self.lost, "8 of 16 bits a channel")
        )

    def is_opaque(self) -> bool:
        """Whether alpha is absent or says nothing."""
        return self.alpha is None or bool(self.alpha.min() == np.iinfo(self.alpha.dtype).max)

    def values(self) -> Pixels:
        """[h, w, c]: grey or RGB, and alpha where there is any. Grey is the rounded mean of the three channels."""
        dtype, colours = self.pixels.dtype, self.pixels
        if self.grey:
            colours = ((colours.sum(axis=2, dtype=np.uint32, keepdims=True) + 1) // 3).astype(dtype)
        return colours if self.alpha is None else np.dstack([colours, self.alpha])

    def to_pil(self) -> Image.Image:
        """A Pillow image of mode L, LA, RGB or RGBA, with EXIF, XMP, profile and resolution in its `info`.

        16 bits are rounded to 8, since Pillow has no such colours; grey without alpha keeps them, in mode I;16.
        """
        deep_grey = self.grey and self.alpha is None
        values = (self if deep_grey else self.in_8_bits()).values()
        image = Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[2] == 1 else values))
        image.info.update(self.pillow_info())
        return image

    def pillow_info(self) -> dict[str, Any]:
        """EXIF, profile, resolution and XMP, as far as there are any, under Pillow's names."""
        fields = {"exif": self.exif, "icc_profile": self.icc, "dpi": self.dpi, "xmp": self.xmp}
        return {name: value for name, value in fields.items() if value is not None}


def _rounded(values: Pixels) -> Pixels:
    """16-bit values in 8 bits, of which each stands for 257 times itself."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


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
