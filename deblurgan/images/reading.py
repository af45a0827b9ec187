"""Pictures from files and from Pillow's images."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from deblurgan.images import colour, deep, jpeg, jpeg_end, metadata, png
from deblurgan.images.files import RAW_SUFFIXES
from deblurgan.images.opening import MAX_PIXELS, open_image
from deblurgan.images.picture import ImageError, Picture, Pixels, StrPath, one_line

# What turns a picture upright, by its orientation, and what turns it back
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda values: values[:, ::-1],
    3: lambda values: values[::-1, ::-1],
    4: lambda values: values[::-1],
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: np.rot90(values, -1),
    7: lambda values: values[::-1, ::-1].swapaxes(0, 1),
    8: lambda values: np.rot90(values),
}
_TURNS_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_MOST_SCANS = 100  # of a JPEG; programs make about ten
_SIDEWAYS = range(5, 9)


def read(
    source: StrPath | BinaryIO,
    *,
    check_size: Callable[[int, int], object] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Picture:
    """The picture in a JPEG, PNG, TIFF, WebP, AVIF, HEIC, BMP, GIF or MPO file, given by its path or opened, in 8 bits
    a channel or, of PNG and TIFF files that have them, 16.

    Orientation is applied, palettes and colour keys become RGB(A), CMYK becomes sRGB through its embedded profile,
    and of an MPO the first picture is taken, of HEIC the primary one, as is that of a TIFF which holds smaller copies
    of it. A file that lacks its end marker and no pixel is read. Before anything is decoded, more than `max_pixels`
    are refused, and `check_size` is called with the stored width and height, so that it can refuse by a MemoryError.

    Of a PNG's chunks those stay that hold for changed pixels too, texts and colours among them; not so tIME and sBIT,
    bKGD of a palette, and chunks with a wrong checksum, which viewers pass over as well. `Picture.lost` says what
    cannot be kept, but for chunks that are of use with the old pixels alone.

    Raises ImageError for a damaged, truncated, animated, deeper than 16-bit or otherwise unsupported picture, and
    for a folder or a special file. A file that is missing or may not be opened raises its OSError. Damage in the midst
    of a JPEG, or of a TIFF whose compression has no checksum, need not show: other pixels come out.
    """
    path, data = _contents(source)
    if not data:
        raise ImageError(path, "empty file")
    with _decoding(path):
        parts = png.split(data) if data.startswith(png.SIGNATURE) else None
        encoded = data if parts is None else parts.pixels
        with open_image(encoded, path, max_pixels) as image:
            if check_size is not None:
                check_size(*image.size)
            colour.refuse_many_frames(image, path)
            if parts is None:
                return _picture(_ended(image, data, path), path, data)
            png.require_all_rows(encoded)
            image.info.update(parts.info)
            picture = _picture(image, path, encoded)
        return dataclasses.replace(picture, png_chunks=parts.kept, lost=parts.lost + picture.lost)


def _contents(source: StrPath | BinaryIO) -> tuple[StrPath, bytes]:
    """A name for errors, and the bytes. Raises ImageError for what is no regular file."""
    if not isinstance(source, str | os.PathLike):
        return str(getattr(source, "name", "picture")), source.read()
    mode = os.stat(source).st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(source, "a folder, not a picture file")
    if Path(source).suffix.lower() in RAW_SUFFIXES:  # many are TIFF files, whose first picture is a thumbnail
        raise ImageError(source, "camera raw files cannot be read: develop to TIFF, PNG or JPEG first")
    if not stat.S_ISREG(mode):
        raise ImageError(source, "not a regular file")  # opening a FIFO would wait for ever
    return source, Path(source).read_bytes()


def from_pil(image: Image.Image, *, name: StrPath = "picture") -> Picture:
    """The picture in a Pillow image, under the rules of `read`; the image itself stays as it is.

    Of an image with many frames or pages it is the one that the image is at. Texts of a PNG file are not taken.
    `name` stands for the path in an ImageError. Of 16 bits grey is taken; colour is refused, but recognised only until
    Pillow has loaded its pixels, which makes them 8-bit.
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
    except Image.DecompressionBombError as error:  # of WebP and of a GIF's frame: the process's limit
        raise ImageError(path, "too many pixels (PIL.Image.MAX_IMAGE_PIXELS sets the limit)") from error
    except Exception as error:
        raise ImageError(path, f"damaged or truncated ({one_line(error)})") from error


def _ended(image: Image.Image, data: bytes, path: StrPath) -> Image.Image:
    """The image just opened; if it is of a JPEG file without an end marker, one of the same file with the marker.

    Raises OSError where such a file lacks pixels, too. Zeros at its end are what was never written. Raises ImageError
    for a JPEG of so many scans that they are there to take time: each is decoded for all pixels.
    """
    if not isinstance(image, JpegImageFile) or image.fp is None:
        return image
    pixels_at = image.fp.tell()
    end = data.find(jpeg_end.END, pixels_at)
    if data.count(jpeg_end.START_OF_SCAN, pixels_at, end if end > 0 else None) > _MOST_SCANS:
        raise ImageError(path, f"a JPEG of more than {_MOST_SCANS} scans")
    if end > 0:
        return image
    data = data.rstrip(b"\xff")  # half of the marker
    header_at = data.rfind(jpeg_end.START_OF_SCAN, 0, pixels_at)
    first, *others = (open_image(ended, path) for ended in jpeg_end.continuations(data, pixels_at))
    whole = jpeg_end.scans_are_complete(data, header_at, len(image.getbands())) and not data.endswith(b"\0\0")
    if not whole or any(other != first for other in others):
        raise OSError("image file is truncated")
    return first


def _picture(image: Image.Image, path: StrPath, data: bytes | None = None) -> Picture:
    """The picture in an image, of whose file the bytes may be given: 16-bit colours are read from them."""
    colour.refuse_unsupported(image, path, from_file=data is not None)
    depth, unloaded = colour.bits(image), metadata.before_loading(image)
    image.load()
    orientation, exif, xmp, dpi, segments, lost = metadata.collect(image, unloaded)
    icc = image.info.get("icc_profile")
    if depth == 16:
        values: Pixels = deep.values(image, path, data or b"")
    elif image.mode == "CMYK":
        values, icc = colour.values(colour.cmyk_to_srgb(image, path)), colour.srgb_profile()
    else:
        values = colour.values(image)
    pixels, alpha = colour.split(_TURNS[orientation](values) if orientation in _TURNS else values)
    return Picture(
        pixels=pixels,
        alpha=alpha,
        grey=values.shape[2] < 3,
        exif=exif,
        icc=icc if isinstance(icc, bytes) and icc else None,
        dpi=dpi and dpi[::-1] if orientation in _SIDEWAYS else dpi,
        format=image.format or "",
        xmp=xmp,
        segments=segments,
        png_chunks=png.colour_chunks(image.info) + unloaded.chunks,
        jpeg=jpeg.coding(image, sideways=orientation in _SIDEWAYS),
        lossless=unloaded.lossless,
        lost=lost,
    )
