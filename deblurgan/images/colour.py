"""Colour modes of Pillow's images, and what they become: RGB with or without alpha."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from deblurgan.images.picture import ImageError, Pixels, StrPath, one_line

_DEEP_GREY_MODES = frozenset({"I;16", "I;16B"})
_DEEP_MODES = _DEEP_GREY_MODES | {"RGB", "RGBA"}
_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr", "CMYK"})

_KIND_OF_PAGE = 254  # a tag of TIFF; its first bit is set for a smaller copy of another page
_MOST_COPIES = 32  # more than halving a picture makes
_ROWS = 256  # that are taken at a time
_SIGNED = 2  # a value of TIFF's SampleFormat
_PLANES = 2  # of its PlanarConfiguration: each channel by itself


def refuse_unsupported(image: Image.Image, path: StrPath, *, from_file: bool = True) -> None:
    """Raises ImageError, with the path, for a picture that RGB of 8 or 16 bits a channel cannot hold, and for 16-bit
    colours that can no more be read `from_file`."""
    if image.mode == "F":
        raise ImageError(path, "floating-point pixels are not supported: convert to 16 bits first")
    depth = bits(image)
    if depth > 8 and depth != 16:
        raise ImageError(path, f"{depth} bits a channel are not supported: convert to 16 bits first")
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if _SIGNED in tags.get(TiffImagePlugin.SAMPLEFORMAT, ()):
        raise ImageError(path, "signed pixels are not supported: convert to unsigned ones first")
    if depth == 16 and image.mode not in _DEEP_MODES:
        raise ImageError(path, f"16 bits a channel are not supported in {image.mode}: convert to RGB first")
    if depth == 16 and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == _PLANES:
        raise ImageError(path, "16 bits a channel are not supported in separate planes: save them interleaved first")
    if depth == 16 and not from_file and image.mode not in _DEEP_GREY_MODES:
        raise ImageError(path, "16 bits a channel are not supported in colour, but from a file: use images.read")
    if image.mode not in _GREY_MODES | _DEEP_GREY_MODES | _COLOUR_MODES:
        raise ImageError(path, f"{image.mode} colours are not supported: convert to RGB first")
    if 0 in image.size:
        raise ImageError(path, "no pixels")


def refuse_many_frames(image: Image.Image, path: StrPath) -> None:
    """Raises ImageError, with the path, for a file of several frames or pages other than an MPO or HEIC. Smaller copies
    of the first page of a TIFF are none. They are not counted, which takes long where there are many."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        if not _others_are_smaller_copies(image):
            raise ImageError(path, "many-paged: save one page as a picture first")
    elif image.format not in ("MPO", "HEIF") and getattr(image, "is_animated", False):
        raise ImageError(path, "animated: save one frame as a picture first")


def _others_are_smaller_copies(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether all pages but the first are; True where it is the only one."""
    for page in range(1, _MOST_COPIES + 2):
        try:
            image.seek(page)
        except EOFError:
            image.seek(0)
            return True
        if not image.tag_v2.get(_KIND_OF_PAGE, 0) & 1:
            return False
    return False


def bits(image: Image.Image) -> int:
    """Bits a channel in the file. Pillow's mode does not tell: it reads 16-bit colour as 8-bit."""
    if image.mode == "I":
        return 32
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))))
    if image.mode.startswith("I;16"):
        return 16
    if isinstance(image, PngImagePlugin.PngImageFile):
        return 16 if any(";16" in str(tile[3]) for tile in image.tile) else 8
    return 8


def values(image: Image.Image) -> Pixels:
    """uint8 [h, w, c]: grey or RGB, and alpha where there is any, of a loaded image.

    It is taken in parts, since NumPy has Pillow make two more copies of what it takes.
    """
    mode, (w, h) = _plain_mode(image), image.size
    image = image if image.mode == mode else image.convert(mode)
    found = np.empty((h, w, len(mode)), np.uint8)
    part = Image.new(mode, (w, min(h, _ROWS)))
    for y in range(0, h, part.height):
        part.paste(image, (0, -y))
        found[y : y + part.height] = np.asarray(part).reshape(-1, w, len(mode))[: h - y]
    return found


def _plain_mode(image: Image.Image) -> str:
    """L, LA, RGB or RGBA: what the image is to be converted to."""
    colours = "L" if image.mode in _GREY_MODES else "RGB"
    return colours + "A" if image.has_transparency_data else colours


def split(values: Pixels) -> tuple[Pixels, Pixels | None]:
    """Pixels [h, w, 3] and alpha [h, w] or None, from values [h, w, c] of grey or RGB, with or without alpha."""
    c = values.shape[2]
    colours, alpha = (values[..., :-1], np.ascontiguousarray(values[..., -1])) if c in (2, 4) else (values, None)
    return np.repeat(colours, 3, axis=2) if c < 3 else np.ascontiguousarray(colours), alpha


def cmyk_to_srgb(image: Image.Image, path: StrPath) -> Image.Image:
    """A CMYK image in sRGB, by its embedded profile. Raises ImageError where that is missing or unusable."""
    icc = image.info.get("icc_profile")
    if not icc:
        raise ImageError(path, "CMYK without a colour profile has no certain colours: convert to RGB first")
    try:
        converted = ImageCms.profileToProfile(
            image,
            io.BytesIO(icc),
            io.BytesIO(srgb_profile()),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except ImageCms.PyCMSError as error:
        raise ImageError(path, f"CMYK with an unusable colour profile ({one_line(error)})") from error
    if converted is None:  # only with inPlace=True
        raise ImageError(path, "CMYK that could not be converted")
    return converted


@functools.cache
def srgb_profile() -> bytes:
    """The bytes of an sRGB colour profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
