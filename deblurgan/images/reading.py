"""Pictures from files and from Pillow's images."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator

from PIL import Image, UnidentifiedImageError

from deblurgan.images import colour, metadata
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

# warnings.catch_warnings changes process-wide state, so threads take turns.
_warnings_lock = threading.Lock()


def read(path: StrPath, *, check_size: Callable[[int, int], object] | None = None) -> Picture:
    """The picture in a JPEG, PNG, TIFF, WebP, BMP, GIF or MPO file.

    Orientation is applied, palettes and colour keys become RGB(A), CMYK becomes sRGB through its embedded profile,
    and of an MPO the first picture is taken. An EXIF block that cannot be parsed is left out. `check_size` is called
    with the stored width and height before anything is decoded, so that it can refuse by a MemoryError.

    Raises ImageError for a damaged, truncated, animated, deeper than 8-bit or otherwise unsupported picture, and
    for a folder or a special file. A file that is missing or may not be opened raises its OSError.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(path, "a folder, not a picture file")
    if not stat.S_ISREG(mode):
        raise ImageError(path, "not a regular file")  # opening a FIFO would wait for ever
    with open(path, "rb") as file:
        if not file.read(1):
            raise ImageError(path, "empty file")
        file.seek(0)
        with _decoding(path), _open(file) as image:
            if check_size is not None:
                check_size(*image.size)
            return _picture(image, path)


def from_pil(image: Image.Image, *, name: StrPath = "picture") -> Picture:
    """The picture in a Pillow image, under the rules of `read`; the image itself stays as it is.

    `name` stands for the path in an ImageError. An opened 16-bit colour PNG is recognised only until Pillow
    has loaded its pixels, which makes them 8-bit.
    """
    with _decoding(name):
        return _picture(image, name)


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


def _open(file: io.BufferedReader) -> Image.Image:
    with _warnings_lock, warnings.catch_warnings():
        # Pillow warns at half the size that it refuses; only the refusal counts here.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=_READABLE)


def _picture(image: Image.Image, path: StrPath) -> Picture:
    colour.refuse_unsupported(image, path)
    image.load()
    orientation, exif, xmp = metadata.orientation_exif_xmp(image)
    plain, icc = _plain(image, path)
    pixels, alpha = colour.arrays(plain.transpose(_TURNS[orientation]) if orientation in _TURNS else plain)
    return Picture(
        pixels=pixels,
        alpha=alpha,
        grey=colour.is_grey(image),
        exif=exif,
        icc=icc,
        dpi=metadata.valid_dpi(image.info.get("dpi")),
        format=image.format or "",
        xmp=xmp,
    )


def _plain(image: Image.Image, path: StrPath) -> tuple[Image.Image, bytes | None]:
    """The image in mode L, LA, RGB or RGBA, and the profile of its colours or None."""
    if image.mode == "CMYK":
        return colour.cmyk_to_srgb(image, path), colour.srgb_profile()
    mode, icc = colour.plain_mode(image), image.info.get("icc_profile")
    return image if image.mode == mode else image.convert(mode), icc if isinstance(icc, bytes) and icc else None
