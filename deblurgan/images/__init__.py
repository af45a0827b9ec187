"""Picture files in and out, nothing lost.

`read` gives a `Picture`: upright 8-bit RGB pixels, with alpha, EXIF, XMP, colour profile and resolution beside them.
`write` puts all of it back. What cannot be kept (16-bit depth, animation, alpha in a JPEG) is refused with an
`ImageError`, never dropped in silence. BMP alone carries no EXIF, XMP or colour profile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import os
import re
import secrets
import stat
import struct
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin, TiffTags, UnidentifiedImageError

__all__ = ["SUFFIXES", "ImageError", "Picture", "contact_sheet", "find", "from_pil", "read", "replace_file", "write"]

StrPath = str | os.PathLike[str]

SUFFIXES: frozenset[str] = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".mpo"})

_READABLE = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")  # Pillow opens MPO as JPEG
_WRITABLE = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".mpo": "JPEG",  # an MPO of one picture is a JPEG
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".bmp": "BMP",
}
_OPAQUE_FORMATS = frozenset({"JPEG", "BMP"})

_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr", "CMYK"})

_EXIF_HEAD = b"Exif\0\0"
_ORIENTATION = 0x0112
_XMP_TAG = 700
_XMP_ORIENTATION = re.compile(rb"""\s*tiff:Orientation=["']([0-9])["']|<tiff:Orientation>([0-9])</tiff:Orientation>""")
# Tags that say how the pixels lie in a TIFF file, and those a Picture carries in a field of its own.
_TIFF_LAYOUT = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, _ORIENTATION, 277, 278, 279, 280, 281, 284, 301, 317, 320}
    | {322, 323, 324, 325, 330, 332, 333, 334, 338, 339, 340, 341, 347, 512, 513, 514, 515, 519, 520, 521}
    | {529, 530, 531, 532, _XMP_TAG, 34675}
)

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


class ImageError(ValueError):
    """A picture that cannot be read or written.

    The message is "PATH: reason"; `path` and `reason` hold the two parts.
    """

    def __init__(self, path: StrPath, reason: str) -> None:
        super().__init__(path, reason)  # both parts as args, so that the error pickles
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        # A name that is not UTF-8 must not break the printing of the message.
        return f"{os.fsencode(self.path).decode('utf-8', 'backslashreplace')}: {self.reason}"


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
    xmp:    XMP packet without its orientation, or None.

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
        image.info.update(_metadata(self))
        return image


def read(path: StrPath) -> Picture:
    """The picture in a JPEG, PNG, TIFF, WebP, BMP, GIF or MPO file.

    Orientation is applied, palettes and colour keys become RGB(A), CMYK becomes sRGB through its embedded profile,
    and of an MPO the first picture is taken. An EXIF block that cannot be parsed is left out.

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
            return _picture(image, path)


def from_pil(image: Image.Image, *, name: StrPath = "picture") -> Picture:
    """The picture in a Pillow image, under the rules of `read`; the image itself stays as it is.

    `name` stands for the path in an ImageError. An opened 16-bit colour PNG is recognised only until Pillow
    has loaded its pixels, which makes them 8-bit.
    """
    with _decoding(name):
        return _picture(image, name)


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
    if format in _OPAQUE_FORMATS and picture.alpha is not None:
        if picture.alpha.min() < 255:
            raise ImageError(path, f"{format} cannot hold the alpha channel: write PNG, WebP or TIFF")
        picture = dataclasses.replace(picture, alpha=None)
    if format == "WEBP" and picture.icc is not None and picture.icc[16:20] == b"GRAY":
        raise ImageError(path, "WebP cannot hold a grey colour profile: write PNG, TIFF or JPEG")
    try:
        data = _encode(picture, format, quality)
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(path, f"cannot be written as {format} ({_words(error)})") from error
    replace_file(path, data)


def contact_sheet(psf: NDArray[np.floating], *, columns: int | None = None) -> NDArray[np.uint8]:
    """Kernels psf [n, k, k], n and k at least 1, as one grey picture [H, W], row by row with lines between them.

    Each is as bright as its own maximum allows, the square root lifting its faint tails, and is enlarged by a whole
    factor to 128 px or more. The grid is nearly square, or has `columns`. Raises ValueError for another shape.
    """
    if psf.ndim != 3 or psf.shape[1] != psf.shape[2] or 0 in psf.shape:
        raise ValueError(f"psf must be [n, k, k], n and k at least 1, got {psf.shape}")
    n, k, _ = psf.shape
    columns = columns or math.ceil(math.sqrt(n))
    scale = math.ceil(128 / k)
    peak = psf.max((1, 2), keepdims=True)
    shades = np.sqrt(np.clip(psf / np.where(peak > 0, peak, 1), 0, 1))
    tiles = np.rint(255 * shades).astype(np.uint8).repeat(scale, 1).repeat(scale, 2)
    side = scale * k
    sheet = np.full((math.ceil(n / columns) * (side + 1) - 1, columns * (side + 1) - 1), 96, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = (side + 1) * (i // columns), (side + 1) * (i % columns)
        sheet[top : top + side, left : left + side] = tile
    return sheet


def find(root: StrPath) -> list[Path]:
    """The picture files below a folder, by suffix, sorted; a file gives itself, whatever its suffix.

    Hidden files and folders are skipped. Linked folders are followed, each folder being visited once.
    Raises FileNotFoundError for a missing root, OSError for a folder that may not be listed.
    """
    root = Path(root)
    if not stat.S_ISDIR(root.stat().st_mode):
        return [root]
    pending, seen, found = deque([root]), set[str](), list[Path]()
    while pending:
        folder = pending.popleft()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                continue
            if entry.is_dir() and entry.is_symlink():
                pending.append(entry)  # after all real folders, so that those keep their own names
            elif entry.is_dir():
                pending.appendleft(entry)
            elif entry.suffix.lower() in SUFFIXES and entry.is_file():
                found.append(entry)
    return sorted(found)


def replace_file(path: StrPath, data: bytes) -> None:
    """Puts a file of these bytes at the path, whole or not at all: after an OSError an older file still stands."""
    temporary = Path(path).with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:  # unlike tempfile's, its permissions follow the umask
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


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
        raise ImageError(path, f"damaged or truncated ({_words(error)})") from error


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _open(file: io.BufferedReader) -> Image.Image:
    with _warnings_lock, warnings.catch_warnings():
        # Pillow warns at half the size that it refuses; only the refusal counts here.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=_READABLE)


def _picture(image: Image.Image, path: StrPath) -> Picture:
    _refuse_unsupported(image, path)
    image.load()
    orientation, exif, xmp = _orientation_exif_xmp(image)
    icc = image.info.get("icc_profile")
    if image.mode == "CMYK":
        upright, icc = _cmyk_to_srgb(image, path), _srgb_profile()
    else:
        upright = image if image.mode == _plain_mode(image) else image.convert(_plain_mode(image))
    if orientation in _TURNS:
        upright = upright.transpose(_TURNS[orientation])
    pixels, alpha = _arrays(upright)
    return Picture(
        pixels=pixels,
        alpha=alpha,
        grey=image.mode in _GREY_MODES,
        exif=exif,
        icc=icc if isinstance(icc, bytes) and icc else None,
        dpi=_dpi(image.info.get("dpi")),
        format=image.format or "",
        xmp=xmp,
    )


def _refuse_unsupported(image: Image.Image, path: StrPath) -> None:
    if image.mode == "F":
        raise ImageError(path, "floating-point pixels are not supported: convert to 8 bits first")
    bits = _bits(image)
    if bits > 8:
        raise ImageError(path, f"{bits} bits a channel are not supported: convert to 8 bits first")
    if image.mode not in _GREY_MODES | _COLOUR_MODES:
        raise ImageError(path, f"{image.mode} colours are not supported: convert to RGB first")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ImageError(path, f"animated or many-paged ({frames} frames): save one frame as a picture first")
    if 0 in image.size:
        raise ImageError(path, "no pixels")


def _bits(image: Image.Image) -> int:
    """Bits a channel as stored. Pillow's mode does not tell: it reads deep colour as 8-bit."""
    if image.mode.startswith("I;16"):
        return 16
    if image.mode == "I":
        return 32
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))))
    if isinstance(image, PngImagePlugin.PngImageFile):
        return 16 if any(";16" in str(tile[3]) for tile in image.tile) else 8
    return 8


def _plain_mode(image: Image.Image) -> str:
    colours = "L" if image.mode in _GREY_MODES else "RGB"
    return colours + "A" if image.has_transparency_data else colours


def _arrays(image: Image.Image) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Pixels [h, w, 3] and alpha [h, w] or None, from mode L, LA, RGB or RGBA."""
    values = np.array(image, dtype=np.uint8).reshape(image.height, image.width, -1)
    alpha = np.ascontiguousarray(values[..., -1]) if image.mode.endswith("A") else None
    if image.mode.startswith("L"):
        return np.repeat(values[..., :1], 3, axis=2), alpha
    return np.ascontiguousarray(values[..., :3]), alpha


def _cmyk_to_srgb(image: Image.Image, path: StrPath) -> Image.Image:
    icc = image.info.get("icc_profile")
    if not icc:
        raise ImageError(path, "CMYK without a colour profile has no certain colours: convert to RGB first")
    try:
        converted = ImageCms.profileToProfile(
            image,
            io.BytesIO(icc),
            io.BytesIO(_srgb_profile()),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except ImageCms.PyCMSError as error:
        raise ImageError(path, f"CMYK with an unusable colour profile ({_words(error)})") from error
    if converted is None:  # only with inPlace=True
        raise ImageError(path, "CMYK that could not be converted")
    return converted


@functools.cache
def _srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _dpi(value: Any) -> tuple[float, float] | None:
    """A resolution that every format can hold, or None: files carry 0, 0/0 and worse."""
    try:
        x, y = (float(part) for part in value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return (x, y) if 1 <= x <= 65535 and 1 <= y <= 65535 else None


def _orientation_exif_xmp(image: Image.Image) -> tuple[int, bytes | None, bytes | None]:
    """Orientation 1..8, and both blocks without it. XMP speaks where EXIF is silent, as Pillow has it."""
    orientation, exif = _split_orientation(_exif_block(image))
    xmp = image.info.get("xmp")
    if not isinstance(xmp, bytes) or not xmp:
        return orientation or 1, exif, None
    said = _XMP_ORIENTATION.search(xmp)
    if orientation is None and said:
        orientation = int(said[1] or said[2])
    return orientation or 1, exif, _XMP_ORIENTATION.sub(b"", xmp)


def _exif_block(image: Image.Image) -> bytes:
    """The EXIF bytes of the file as they stand; for TIFF, which has none, a block of its tags."""
    block = image.info.get("exif")
    if isinstance(block, bytes):
        return block
    try:
        tags = Image.Exif()
        tags.load(image.getexif().tobytes())  # a copy: the image's own tags stay
        for tag in (_TIFF_LAYOUT - {_ORIENTATION}) & set(tags):
            del tags[tag]
        return tags.tobytes() if len(tags) else b""
    except MemoryError:
        raise
    except Exception:
        return b""


def _split_orientation(block: bytes) -> tuple[int | None, bytes | None]:
    """The orientation in an EXIF block, and the block without it; (None, None) if it cannot be parsed.

    Only entries of the first directory move, so every offset in the block, those in maker notes too, stays true.
    """
    body = block.removeprefix(_EXIF_HEAD)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(body[:4])
    if order is None or len(body) < 8:
        return None, None
    (start,) = struct.unpack_from(order + "I", body, 4)
    if start + 2 > len(body):
        return None, None
    (count,) = struct.unpack_from(order + "H", body, start)
    end = start + 2 + 12 * count
    if end > len(body):
        return None, None
    entries = [body[at : at + 12] for at in range(start + 2, end, 12)]
    kept = [entry for entry in entries if struct.unpack(order + "H", entry[:2]) != (_ORIENTATION,)]
    if len(kept) == count:
        return None, _EXIF_HEAD + body
    turned = next(entry for entry in entries if entry not in kept)
    orientation = _short_value(turned, order)
    # The thumbnail of a turned picture would now lie on its side: unlink it.
    thumbnail = body[end : end + 4] if orientation == 1 else bytes(4)
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + thumbnail
    padding = bytes(12 * (count - len(kept)))
    return orientation, _EXIF_HEAD + body[:start] + directory + padding + body[end + 4 :]


def _short_value(entry: bytes, order: str) -> int:
    """The number in a directory entry of type BYTE, SHORT or LONG; 1 for any other type."""
    (kind,) = struct.unpack_from(order + "H", entry, 2)
    code = {1: "B", 3: "H", 4: "I"}.get(kind)
    return int(struct.unpack_from(order + code, entry, 8)[0]) if code else 1


def _format_for(path: StrPath) -> str:
    suffix = Path(path).suffix.lower()
    if suffix == ".gif":
        raise ImageError(path, "GIF would lose colours: write PNG, WebP, TIFF or JPEG")
    if suffix not in _WRITABLE:
        raise ImageError(path, f"unknown suffix {suffix!r}: use one of {', '.join(sorted(_WRITABLE))}")
    return _WRITABLE[suffix]


def _metadata(picture: Picture) -> dict[str, Any]:
    """What the picture carries besides pixels, under Pillow's names."""
    fields = {"exif": picture.exif, "icc_profile": picture.icc, "dpi": picture.dpi, "xmp": picture.xmp}
    return {name: value for name, value in fields.items() if value is not None}


def _encode(picture: Picture, format: str, quality: int) -> bytes:
    options = _metadata(picture)
    if format == "JPEG":
        options |= {"quality": quality, "subsampling": 0, "optimize": True}
    elif format == "WEBP":
        options |= {"quality": quality, "lossless": quality == 100, "exact": True}
    elif format == "PNG" and picture.xmp is not None:
        options["pnginfo"] = _png_xmp(picture.xmp)
    elif format == "TIFF":
        options |= _tiff_options(picture)
    buffer = io.BytesIO()
    picture.to_pil().save(buffer, format, **options)
    return buffer.getvalue()


def _png_xmp(xmp: bytes) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + xmp)  # 5: no compression, no language, no translation
    return info


def _tiff_options(picture: Picture) -> dict[str, Any]:
    tags = Image.Exif()
    if picture.exif is not None:
        tags.load(picture.exif)
    for tag in _TIFF_LAYOUT & set(tags):
        del tags[tag]
    # Pillow cannot write the EXIF and GPS directories through libtiff, which does the compression.
    nested = any(tag in tags for tag in TiffTags.TAGS_V2_GROUPS)
    if picture.xmp is not None:
        tags[_XMP_TAG] = picture.xmp
    return {"exif": tags, "compression": "raw" if nested else "tiff_deflate"}
