"""Pictures from files and from Pillow's images."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from deblurgan.images import colour, jpeg_end, metadata, png
from deblurgan.images.files import RAW_SUFFIXES
from deblurgan.images.picture import ImageError, Picture, StrPath, one_line

_READABLE = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")  # Pillow opens MPO as JPEG

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNS_BACK = _TURNS | {6: _TURNS[8], 8: _TURNS[6]}
_SIDEWAYS = range(5, 9)

# warnings.catch_warnings changes process-wide state, so threads take turns.
_warnings_lock = threading.Lock()


def read(path: StrPath, *, check_size: Callable[[int, int], object] | None = None) -> Picture:
    """The picture in a JPEG, PNG, TIFF, WebP, BMP, GIF or MPO file.

    Orientation is applied, palettes and colour keys become RGB(A), CMYK becomes sRGB through its embedded profile,
    and of an MPO the first picture is taken, as is that of a TIFF which holds smaller copies of it. A file that lacks
    its end marker and no pixel is read. `check_size` is called with the stored width and height before anything is
    decoded, so that it can refuse by a MemoryError.

    Of a PNG's chunks those stay that hold for changed pixels too, texts and colours among them; not so tIME and sBIT,
    bKGD of a palette, and chunks with a wrong checksum, which viewers pass over as well. `Picture.lost` says what
    cannot be kept, but for chunks that are of use with the old pixels alone.

    Raises ImageError for a damaged, truncated, animated, deeper than 8-bit or otherwise unsupported picture, and
    for a folder or a special file. A file that is missing or may not be opened raises its OSError. Damage in the midst
    of a JPEG, or of a TIFF whose compression has no checksum, need not show: other pixels come out.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(path, "a folder, not a picture file")
    if Path(path).suffix.lower() in RAW_SUFFIXES:  # many are TIFF files, whose first picture is a thumbnail
        raise ImageError(path, "camera raw files cannot be read: develop to TIFF, PNG or JPEG first")
    if not stat.S_ISREG(mode):
        raise ImageError(path, "not a regular file")  # opening a FIFO would wait for ever
    with open(path, "rb") as file:
        if not file.read(1):
            raise ImageError(path, "empty file")
        file.seek(0)
        with _decoding(path):
            parts = png.split(file.read()) if file.peek(8).startswith(png.SIGNATURE) else None
            with _open(file if parts is None else io.BytesIO(parts.pixels)) as image:
                if check_size is not None:
                    check_size(*image.size)
                colour.refuse_many_frames(image, path)
                return _picture(_ended(image, file), path) if parts is None else _png_picture(image, parts, path)


def from_pil(image: Image.Image, *, name: StrPath = "picture") -> Picture:
    """The picture in a Pillow image, under the rules of `read`; the image itself stays as it is.

    Of an image with many frames or pages it is the one that the image is at. Texts of a PNG file are not taken.
    `name` stands for the path in an ImageError. An opened 16-bit colour PNG is recognised only until Pillow
    has loaded its pixels, which makes them 8-bit.
    """
    with _decoding(name):
        return _picture(image, name)


def to_pil_like(picture: Picture, image: Image.Image) -> Image.Image:
    """The picture, which `from_pil` took from the image, as one that lies as that does, by the same orientation tag."""
    said = metadata.collect(image, metadata.before_loading(image))
    as_given = {name: image.info.get(name) for name in ("xmp", "gamma", "chromaticity", "srgb")}
    as_given["dpi"] = said.dpi
    if picture.exif is not None and image.format != "TIFF":  # which Pillow turns itself
        as_given["exif"] = metadata.exif_block(image)
    result = picture.to_pil()
    result.info.update((name, value) for name, value in as_given.items() if value is not None)
    return result.transpose(_TURNS_BACK[said.orientation]) if said.orientation in _TURNS_BACK else result


@contextlib.contextmanager
def _decoding(path: StrPath) -> Iterator[None]:
    """Turns whatever Pillow raises for a bad file into an ImageError."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(path, "too many pixels (PIL.Image.MAX_IMAGE_PIXELS sets the limit)") from error
    except UnidentifiedImageError as error:
        raise ImageError(path, "damaged, or not a JPEG, PNG, TIFF, WebP, BMP or GIF picture") from error
    except Exception as error:
        raise ImageError(path, f"damaged or truncated ({one_line(error)})") from error


def _open(file: BinaryIO) -> Image.Image:
    with _warnings_lock, warnings.catch_warnings():
        # Pillow warns at half the size that it refuses; only the refusal counts here.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=_READABLE)


def _ended(image: Image.Image, file: BinaryIO) -> Image.Image:
    """The image just opened; if it is of a JPEG file without an end marker, one of the same file with the marker.

    Raises OSError where such a file lacks pixels, too. Zeros at its end are what was never written.
    """
    pixels_at = file.tell()
    if image.format != "JPEG":
        return image
    file.seek(0)
    data = file.read()
    if data.find(jpeg_end.END, pixels_at) > 0:
        return image
    data = data.rstrip(b"\xff")  # half of the marker
    header_at = data.rfind(b"\xff\xda", 0, pixels_at)
    first, *others = (_open(io.BytesIO(ended)) for ended in jpeg_end.continuations(data, pixels_at))
    whole = jpeg_end.scans_are_complete(data, header_at, len(image.getbands())) and not data.endswith(b"\0\0")
    if not whole or any(other != first for other in others):
        raise OSError("image file is truncated")
    return first


def _png_picture(image: Image.Image, parts: png.Parts, path: StrPath) -> Picture:
    png.require_all_rows(parts.pixels)
    image.info.update(parts.info)
    picture = _picture(image, path)
    return dataclasses.replace(picture, png_chunks=parts.kept, lost=parts.lost + picture.lost)


def _picture(image: Image.Image, path: StrPath) -> Picture:
    colour.refuse_unsupported(image, path)
    unloaded = metadata.before_loading(image)
    image.load()
    orientation, exif, xmp, dpi, segments, lost = metadata.collect(image, unloaded)
    plain, icc = _plain(image, path)
    pixels, alpha = colour.arrays(plain.transpose(_TURNS[orientation]) if orientation in _TURNS else plain)
    return Picture(
        pixels=pixels,
        alpha=alpha,
        grey=colour.is_grey(image),
        exif=exif,
        icc=icc,
        dpi=dpi and dpi[::-1] if orientation in _SIDEWAYS else dpi,
        format=image.format or "",
        xmp=xmp,
        segments=segments,
        png_chunks=png.colour_chunks(image.info),
        lost=lost,
    )


def _plain(image: Image.Image, path: StrPath) -> tuple[Image.Image, bytes | None]:
    """The image in mode L, LA, RGB or RGBA, and the profile of its colours or None."""
    if image.mode == "CMYK":
        return colour.cmyk_to_srgb(image, path), colour.srgb_profile()
    mode, icc = colour.plain_mode(image), image.info.get("icc_profile")
    return image if image.mode == mode else image.convert(mode), icc if isinstance(icc, bytes) and icc else None
