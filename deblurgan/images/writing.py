"""Pictures to files."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageFile

from deblurgan.config import DeblurConfig, converted
from deblurgan.images import jpeg, metadata, png
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
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".dib": "BMP",
}
_CANNOT_BE_WRITTEN = {
    ".gif": "GIF would lose colours: write PNG, WebP, TIFF or JPEG",
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC cannot be written: write JPEG, AVIF, PNG, WebP or TIFF"),
}
_OPAQUE_FORMATS = frozenset({"JPEG", "BMP"})
_DEEP_FORMATS = frozenset({"PNG", "TIFF"})  # that are written in 16 bits
_LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383, "AVIF": 32768}  # what is encoded and decoded, px
_QUALITY = {"JPEG": 95, "WEBP": 95, "AVIF": 90}  # where the source says nothing; of AVIF as near as 95 of JPEG
_LARGEST_JPEG_PROFILE = 255 * 65519  # a segment's payload, as often as a byte counts


def write(picture: Picture, path: StrPath, *, quality: int | None = None) -> tuple[str, ...]:
    """Writes the picture in the format of the path's suffix, whole or not at all; an older file is replaced.

    PNG, TIFF and BMP are lossless; PNG and TIFF keep 16 bits, which other formats round to 8. JPEG, WebP and AVIF take
    `quality` 1..100, with full colour resolution; WebP is lossless at 100. None means as the source was: a JPEG by its
    own quantisation tables, subsampling and order of scans, a lossless WebP lossless. What came from another format is
    written at 95, an AVIF at 90. WebP has no one-channel form, so a grey picture is RGB there.

    Returns what the file lacks, in words: `picture.lost`, and what its format cannot hold beside pixels.

    Raises ImageError for what `require_writable` refuses, or the encoder; OSError for trouble with the disk.
    """
    data, lacking = encode(picture, path, quality=quality)
    replace_file(path, data)
    return lacking


def encode(picture: Picture, path: StrPath, *, quality: int | None = None) -> tuple[bytes, tuple[str, ...]]:
    """The bytes that `write` puts at the path, and what it returns. Raises ImageError as it does."""
    quality = converted(DeblurConfig, {"quality": quality})["quality"]
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality must be 1..100, got {quality}")
    require_writable(picture, path)
    format = _format_for(path)
    if format in _OPAQUE_FORMATS:
        picture = dataclasses.replace(picture, alpha=None)
    if format not in _DEEP_FORMATS:
        picture = picture.in_8_bits()
    try:
        data = _encoded(picture, format, quality)
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(path, f"cannot be written as {format} ({one_line(error)})") from error
    return data, metadata.left_out(picture, format)


def require_writable(picture: Picture, path: StrPath) -> None:
    """Raises ImageError where the format of the path's suffix cannot hold the picture, whatever its pixel values are.

    That is an unknown suffix, a side too long, alpha in a JPEG or BMP (an opaque one says nothing and is left out), a
    grey colour profile in a WebP or AVIF, one above 16 MB in a JPEG, and colours that only chunks of a PNG file tell
    of.
    """
    format = _format_for(path)
    h, w = picture.pixels.shape[:2]
    longest = _LONGEST_SIDE.get(format)
    if longest is not None and max(h, w) > longest:
        raise ImageError(path, f"{format} holds at most {longest} pixels a side, got {w}x{h}: write PNG or TIFF")
    if format in _OPAQUE_FORMATS and not picture.is_opaque():
        raise ImageError(path, f"{format} cannot hold the alpha channel: write PNG, WebP or TIFF")
    if format != "PNG" and png.colours_of_its_own(picture):
        raise ImageError(path, f"{format} cannot hold colours given by a cICP, gAMA or cHRM chunk: write PNG")
    if picture.icc is None:
        return
    if format in ("WEBP", "AVIF") and picture.icc[16:20] == b"GRAY":
        raise ImageError(path, f"{format} cannot hold a grey colour profile: write PNG, TIFF or JPEG")
    if format == "JPEG" and len(picture.icc) > _LARGEST_JPEG_PROFILE:
        raise ImageError(
            path, f"JPEG cannot hold a colour profile of {len(picture.icc)} bytes: write PNG, WebP or TIFF"
        )


def _format_for(path: StrPath) -> str:
    suffix = Path(path).suffix.lower()
    if suffix in _CANNOT_BE_WRITTEN:
        raise ImageError(path, _CANNOT_BE_WRITTEN[suffix])
    if suffix not in FORMATS:
        raise ImageError(path, f"unknown suffix {suffix!r}: use one of {', '.join(sorted(FORMATS))}")
    return FORMATS[suffix]


def _encoded(picture: Picture, format: str, quality: int | None) -> bytes:
    if format == "TIFF":
        return metadata.tiff_file(picture)
    if format == "JPEG":
        return jpeg.with_segments(_jpeg(picture, quality), picture)
    options = picture.pillow_info()
    if format == "PNG":
        deep = picture.pixels.dtype == np.uint16
        return png.with_chunks(png.encode_deep(picture) if deep else _saved(picture, "PNG", options), picture)
    if format == "WEBP":
        options |= {"lossless": quality == 100 or (quality is None and picture.lossless), "exact": True}
    elif format == "AVIF":
        # Of the speeds 8 takes a third of the time that the default takes, for files of the same size.
        options |= {"subsampling": "4:0:0" if picture.grey else "4:4:4", "speed": 8}
        if picture.alpha is not None:
            options["advanced"] = {"a:lossless": "1"}
    else:
        options["dpi"] = picture.dpi or (0, 0)  # unknown; Pillow would make one up for BMP
    return _saved(picture, format, options | {"quality": quality or _QUALITY.get(format)})


def _jpeg(picture: Picture, quality: int | None) -> bytes:
    options: dict[str, Any] = {"icc_profile": picture.icc, "dpi": picture.dpi or (0, 0)}
    coding = picture.jpeg
    if quality is not None or coding is None or coding.grey != picture.grey:
        # Not optimised: for that Pillow must guess how long the file will be, and grainy pictures are longer.
        return _saved(picture, "JPEG", options | {"quality": quality or _QUALITY["JPEG"], "subsampling": 0})
    options |= {"qtables": coding.tables, "subsampling": coding.subsampling}
    data = _saved(picture, "JPEG", options)
    # As long a progressive file, and hardly any is longer, has to be in what Pillow guesses.
    guessed = max(2 * picture.pixels[..., 0].size, ImageFile.MAXBLOCK)
    if coding.progressive and 1.1 * len(data) < guessed:
        return _saved(picture, "JPEG", options | {"progressive": True})
    return data


def _saved(picture: Picture, format: str, options: dict[str, Any]) -> bytes:
    image, buffer = picture.to_pil(), io.BytesIO()
    image.info.clear()  # the options say it all
    image.save(buffer, format, **options)
    return buffer.getvalue()
