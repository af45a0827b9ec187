"""Picture files opened: which of the formats one is, and that it is not too large, before anything is decoded.

Pillow's own `Image.open` has a limit of pixels, for the whole process, that some photos exceed.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from deblurgan.images import isobmff, png
from deblurgan.images.picture import ImageError, StrPath

Opener = Callable[[io.BytesIO, str], ImageFile.ImageFile]
MAX_PIXELS = 500_000_000
_TIFFS = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+")  # some have the mark in the other byte order
# Where width and height are, how many bits the height lies behind, which bits they have, and what is to be added
_WEBP_SIZES = {
    b"VP8X": (24, 24, 0xFFFFFF, 1),
    b"VP8L": (21, 14, 0x3FFF, 1),
    b"VP8 ": (26, 16, 0x3FFF, 0),
}


class _Tiff(TiffImagePlugin.TiffImageFile):
    """Loads without Pillow's limit."""

    def load_prepare(self) -> None:
        if self._im is None:
            self.im = Image.core.new(self.mode, self._tile_size)
        super().load_prepare()


def open_image(data: bytes, path: StrPath, max_pixels: int | None = None) -> ImageFile.ImageFile:
    """The image in a file's bytes, its pixels not decoded. Raises ImageError, with the path, for a format that is not
    read and for more than `max_pixels`; None sets no limit."""
    if data.startswith(b"RIFF"):  # whose decoder takes memory for all pixels at once
        _require_size(_webp_size(data), path, max_pixels)
    image = _opener(data, path)(io.BytesIO(data), "")
    _require_size(image.size, path, max_pixels)
    return image


def _require_size(size: tuple[int, int], path: StrPath, max_pixels: int | None) -> None:
    w, h = size
    if max_pixels is not None and w * h > max_pixels:
        raise ImageError(path, f"{w}x{h} are more than {max_pixels} pixels (max_pixels sets the limit)")


def _webp_size(data: bytes) -> tuple[int, int]:
    at, shift, mask, more = _WEBP_SIZES.get(data[12:16], (0, 0, 0, 0))
    packed = int.from_bytes(data[at : at + 6], "little")
    return (packed & mask) + more, (packed >> shift & mask) + more


def _opener(data: bytes, path: StrPath) -> Opener:
    """What opens a file of the format that its first bytes name."""
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.jpeg_factory  # an MPO too
    if data.startswith(png.SIGNATURE):
        return PngImagePlugin.PngImageFile
    if data.startswith(_TIFFS):
        return _Tiff
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if data.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile
    if data.startswith((b"GIF87a", b"GIF89a")):
        return GifImagePlugin.GifImageFile
    brands = isobmff.brands(data)
    if brands & isobmff.AVIF_BRANDS:
        return _avif_opener(path)
    if brands & isobmff.HEIC_BRANDS:
        return _heic_opener(path)
    raise ImageError(path, "damaged, or not a JPEG, PNG, TIFF, WebP, AVIF, HEIC, BMP or GIF picture")


def _avif_opener(path: StrPath) -> Opener:
    try:
        from PIL import AvifImagePlugin
    except ImportError:
        supported = False
    else:
        supported = AvifImagePlugin.SUPPORTED
    if not supported:
        raise ImageError(path, "AVIF needs Pillow 11.3 or newer, built with it: pip install -U pillow")
    return AvifImagePlugin.AvifImageFile


def _heic_opener(path: StrPath) -> Opener:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageError(path, "HEIC needs pillow_heif: pip install 'deblurgan[heic]'") from error
    return HeifImageFile
