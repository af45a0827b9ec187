"""Pictures to files."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

from deblurgan.images import metadata
from deblurgan.images.files import replace_file
from deblurgan.images.picture import ImageError, Picture, StrPath, one_line

FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp"), "JPEG"),
    ".mpo": "JPEG",  # an MPO of one picture is a JPEG
    ".png": "PNG",
    ".apng": "PNG",  # as is an APNG of one frame a PNG
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".dib": "BMP",
}
_OPAQUE_FORMATS = frozenset({"JPEG", "BMP"})


def write(picture: Picture, path: StrPath, *, quality: int = 95) -> None:
    """Writes the picture in the format of the path's suffix, whole or not at all; an older file is replaced.

    PNG, TIFF and BMP are lossless. JPEG keeps full colour resolution and takes `quality` 1..100; so does WebP,
    lossless at 100. WebP has no one-channel form, so a grey picture is RGB there.

    Raises ImageError for an unknown suffix, for alpha that the format cannot hold (an alpha of 255 throughout
    says nothing and is left out), and for what the encoder refuses; OSError for trouble with the disk.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be 1..100, got {quality}")
    format = _format_for(path)
    picture = _without_idle_alpha(picture, format, path)
    if format == "WEBP" and picture.icc is not None and picture.icc[16:20] == b"GRAY":
        raise ImageError(path, "WebP cannot hold a grey colour profile: write PNG, TIFF or JPEG")
    try:
        data = _encode(picture, format, quality)
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(path, f"cannot be written as {format} ({one_line(error)})") from error
    replace_file(path, data)


def _without_idle_alpha(picture: Picture, format: str, path: StrPath) -> Picture:
    """The picture, without an alpha of 255 throughout where the format can hold none; ImageError for another alpha."""
    if picture.alpha is None or format not in _OPAQUE_FORMATS:
        return picture
    if picture.alpha.min() < 255:
        raise ImageError(path, f"{format} cannot hold the alpha channel: write PNG, WebP or TIFF")
    return dataclasses.replace(picture, alpha=None)


def _format_for(path: StrPath) -> str:
    suffix = Path(path).suffix.lower()
    if suffix == ".gif":
        raise ImageError(path, "GIF would lose colours: write PNG, WebP, TIFF or JPEG")
    if suffix not in FORMATS:
        raise ImageError(path, f"unknown suffix {suffix!r}: use one of {', '.join(sorted(FORMATS))}")
    return FORMATS[suffix]


def _encode(picture: Picture, format: str, quality: int) -> bytes:
    options = picture.pillow_info()
    if format == "JPEG":
        options |= {"quality": quality, "subsampling": 0, "optimize": True}
    elif format == "WEBP":
        options |= {"quality": quality, "lossless": quality == 100, "exact": True}
    elif format == "PNG" and picture.xmp is not None:
        options["pnginfo"] = metadata.png_xmp(picture.xmp)
    elif format == "TIFF":
        options |= metadata.tiff_options(picture)
    buffer = io.BytesIO()
    picture.to_pil().save(buffer, format, **options)
    return buffer.getvalue()
