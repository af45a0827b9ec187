"""What a file says about its picture beside the pixels: orientation, EXIF, XMP, resolution, comments, in and out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from deblurgan.images import jpeg, png, tiff, xmp
from deblurgan.images.picture import Picture, Segment

_FOLLOWING = "what follows the picture in its file (gain map, video, further pictures)"


class Unloaded(NamedTuple):
    """What can be read only before Pillow has loaded the pixels, and has closed the file."""

    tags: tiff.Tags | None = None
    """Of a TIFF file, but for Photoshop's."""
    resources: bytes = b""
    """Photoshop's in a TIFF file."""
    lost: tuple[str, ...] = ()
    """What else is in the file, in words."""


class Metadata(NamedTuple):
    """The orientation, 1 to 8, and fields of `Picture`."""

    orientation: int
    exif: bytes | None
    xmp: bytes | None
    dpi: tuple[float, float] | None
    segments: tuple[Segment, ...]
    lost: tuple[str, ...]


def before_loading(image: Image.Image) -> Unloaded:
    """Reads an opened image's file, and leaves it as it was; nothing where the image has been loaded."""
    file = getattr(image, "fp", None)
    if file is None or file.closed or not isinstance(image, TiffImageFile | JpegImageFile):
        return Unloaded()
    at = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(at)
    if isinstance(image, JpegImageFile):
        return Unloaded(lost=(_FOLLOWING,) if jpeg.is_followed(data) else ())
    tags = tiff.read_tags(data)
    resources, layers = tags.pop(tiff.PHOTOSHOP), tags.pop(tiff.LAYERS)
    return Unloaded(tags, resources, ("Photoshop layers",) if layers else ())


def collect(image: Image.Image, unloaded: Unloaded) -> Metadata:
    """What a loaded image says beside its pixels.

    Where EXIF and XMP both name an orientation, EXIF's counts, as it does in Pillow. That of a TIFF Pillow has applied.
    """
    found = jpeg.segments(image)
    segments = jpeg.kept(found) + jpeg.split("APP13", jpeg.PHOTOSHOP_HEAD, unloaded.resources)
    if image.format == "GIF":
        segments += jpeg.split("COM", b"", image.info.get("comment", b""))
    lost = [*unloaded.lost, *jpeg.unknown(found)]
    if jpeg.have(found, jpeg.PROFILE_HEAD) and not image.info.get("icc_profile"):
        lost.append("incomplete colour profile")
    block = exif_block(image, unloaded.tags)
    exif_orientation, exif = tiff.split_orientation(block)
    if exif is None and block.strip(tiff.EXIF_HEAD):
        lost.append("unreadable EXIF")
    xmp_orientation, packet = _xmp(image, lost)
    orientation = xmp_orientation if exif_orientation is None else exif_orientation
    if isinstance(image, TiffImageFile):
        orientation = xmp_orientation
    return Metadata(orientation or 1, exif, packet, valid_dpi(_dpi(image, exif)), segments, tuple(lost))


def exif_block(image: Image.Image, tags: tiff.Tags | None = None) -> bytes:
    """The EXIF bytes as the file holds them, or the tags of a TIFF as such a block."""
    block = image.info.get("exif")
    if isinstance(block, bytes):
        return block
    try:
        return tiff.pack(tags or tiff.read_tags(image.getexif().tobytes().removeprefix(tiff.EXIF_HEAD)))
    except MemoryError:
        raise
    except Exception:
        return b"unreadable"


def _xmp(image: Image.Image, lost: list[str]) -> tuple[int | None, bytes | None]:
    """The orientation in the XMP packet and the packet without it; adds to `lost` what cannot be kept."""
    packet = image.info.get("xmp")
    if not isinstance(packet, bytes) or not packet:
        return None, None
    orientation, packet = xmp.split_orientation(packet)
    found, identifier = jpeg.segments(image), xmp.extension_identifier(packet)
    extension = jpeg.extended_xmp(found, identifier) if identifier else None
    if extension is None and jpeg.have(found, jpeg.EXTENSION_HEAD):
        lost.append("incomplete extended XMP")
    whole = xmp.standalone(packet, extension)
    if whole is None:
        lost.append("unreadable XMP")
    return orientation, whole


def _dpi(image: Image.Image, exif: bytes | None) -> Any:
    """The resolution as the file states it. Pillow makes one up for a JPEG or TIFF without."""
    if isinstance(image, TiffImageFile) or (
        isinstance(image, JpegImageFile) and image.info.get("jfif_unit") not in (1, 2)  # per inch, per cm
    ):
        return tiff.resolution(exif or b"")
    return image.info.get("dpi")


def valid_dpi(value: Any) -> tuple[float, float] | None:
    """The resolution, pixels an inch across and down, if every format can hold it; else None, as for 0 or 0/0."""
    try:
        x, y = (float(part) for part in value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return (x, y) if 1 <= x <= 65535 and 1 <= y <= 65535 else None


def left_out(picture: Picture, format: str) -> tuple[str, ...]:
    """What a file of the format lacks of the picture and of the file that it came from, in words."""
    kinds = {name for name, _ in picture.segments}
    lacking = {
        "EXIF": picture.exif is not None and format == "BMP",
        "XMP": picture.xmp is not None and format == "BMP",
        "colour profile": picture.icc is not None and format == "BMP",
        "resolution": picture.dpi is not None and format == "WEBP" and not tiff.resolution(picture.exif or b""),
        "comment": "COM" in kinds and format != "JPEG",
        "IPTC and Photoshop data": "APP13" in kinds and format not in ("JPEG", "TIFF"),
    }
    chunks = png.left_out(picture) if format != "PNG" else []
    return (*picture.lost, *(word for word, lacks in lacking.items() if lacks), *chunks)


def tiff_file(image: Image.Image, picture: Picture) -> bytes:
    """The image, the pixels of the picture, as a TIFF file with all that the picture says."""
    values = np.asarray(image).reshape(image.height, image.width, -1)
    further = {
        tiff.XMP: (tiff.BYTE, picture.xmp),
        tiff.ICC: (tiff.UNDEFINED, picture.icc),
        tiff.PHOTOSHOP: (tiff.BYTE, jpeg.photoshop_resources(picture.segments)),
    }
    fields: tiff.Directory = {tag: (kind, len(value), value) for tag, (kind, value) in further.items() if value}
    return tiff.encode(values, picture.exif, picture.dpi, fields)
