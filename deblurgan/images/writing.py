"""Pictures to files."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

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
    ".bmp": "BMP",
    ".dib": "BMP",
}
_OPAQUE_FORMATS = frozenset({"JPEG", "BMP"})
_LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}  # what their encoders take, px
_LARGEST_JPEG_PROFILE = 255 * 65519  # a segment's payload, as often as a byte counts


def write(picture: Picture, path: StrPath, *, quality: int = 95) -> tuple[str, ...]:
    """Writes the picture in the format of the path's suffix, whole or not at all; an older file is replaced.

    PNG, TIFF and BMP are lossless. JPEG keeps full colour resolution and takes `quality` 1..100; so does WebP,
    lossless at 100. WebP has no one-channel form, so a grey picture is RGB there.

    Returns what the file lacks, in words: `picture.lost`, and what its format cannot hold beside pixels.

    Raises ImageError for what `require_writable` refuses, or the encoder; OSError for trouble with the disk.
    """
    quality = converted(DeblurConfig, {"quality": quality})["quality"]
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be 1..100, got {quality}")
    require_writable(picture, path)
    format = _format_for(path)
    if format in _OPAQUE_FORMATS:
        picture = dataclasses.replace(picture, alpha=None)
    try:
        data = _encode(picture, format, quality)
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(path, f"cannot be written as {format} ({one_line(error)})") from error
    replace_file(path, data)
    return metadata.left_out(picture, format)


def require_writable(picture: Picture, path: StrPath) -> None:
    """Raises ImageError where the format of the path's suffix cannot hold the picture, whatever its pixel values are.

    That is an unknown suffix, a side too long, alpha in a JPEG or BMP (an alpha of 255 throughout says nothing and is
    left out), a grey colour profile in a WebP, one above 16 MB in a JPEG, and colours that only chunks of a PNG file
    tell of.
    """
    format = _format_for(path)
    h, w = picture.pixels.shape[:2]
    longest = _LONGEST_SIDE.get(format)
    if longest is not None and max(h, w) > longest:
        raise ImageError(path, f"{format} holds at most {longest} pixels a side, got {w}x{h}: write PNG or TIFF")
    if format in _OPAQUE_FORMATS and picture.alpha is not None and picture.alpha.min() < 255:
        raise ImageError(path, f"{format} cannot hold the alpha channel: write PNG, WebP or TIFF")
    if format != "PNG" and png.colours_of_its_own(picture):
        raise ImageError(path, f"{format} cannot hold colours given by a cICP, gAMA or cHRM chunk: write PNG")
    if picture.icc is None:
        return
    if format == "WEBP" and picture.icc[16:20] == b"GRAY":
        raise ImageError(path, "WebP cannot hold a grey colour profile: write PNG, TIFF or JPEG")
    if format == "JPEG" and len(picture.icc) > _LARGEST_JPEG_PROFILE:
        raise ImageError(
            path, f"JPEG cannot hold a colour profile of {len(picture.icc)} bytes: write PNG, WebP or TIFF"
        )


def _format_for(path: StrPath) -> str:
    suffix = Path(path).suffix.lower()
    if suffix == ".gif":
        raise ImageError(path, "GIF would lose colours: write PNG, WebP, TIFF or JPEG")
    if suffix not in FORMATS:
        raise ImageError(path, f"unknown suffix {suffix!r}: use one of {', '.join(sorted(FORMATS))}")
    return FORMATS[suffix]


def _encode(picture: Picture, format: str, quality: int) -> bytes:
    image = picture.to_pil()
    if format == "TIFF":
        return metadata.tiff_file(image, picture)
    options = picture.pillow_info()
    if format == "JPEG":
        # Not optimised: for that Pillow must guess how long the file will be, and grainy pictures are longer.
        options = {"quality": quality, "subsampling": 0, "icc_profile": picture.icc}
    elif format == "WEBP":
        options |= {"quality": quality, "lossless": quality == 100, "exact": True}
    if format in ("JPEG", "BMP"):
        options["dpi"] = picture.dpi or (0, 0)  # unknown; Pillow would make one up for BMP
    buffer = io.BytesIO()
    image.info.clear()  # the options say it all
    image.save(buffer, format, **options)
    data = buffer.getvalue()
    if format == "JPEG":
        return jpeg.with_segments(data, picture)
    return png.with_chunks(data, picture) if format == "PNG" else data
