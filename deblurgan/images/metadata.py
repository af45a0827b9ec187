"""What a file says about its picture beside the pixels: orientation, EXIF, XMP, resolution, comments, in and out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import SAMPLESPERPIXEL, TiffImageFile

from deblurgan.images import isobmff, jpeg, png, tiff, xmp
from deblurgan.images.picture import Chunk, Picture, Segment, valid_dpi

_FOLLOWING = "what follows the picture in its file (gain map, video, further pictures)"
_IN_BOXES = ("AVIF", "HEIF")
_NOT_ALL_READ = ("JPEG", "MPO", "TIFF", "GIF", "BMP", "WEBP", *_IN_BOXES)  # of whose files Pillow passes over a part
_BMP_WITH_PROFILE, _BMP_PROFILES = 124, (b"DEBM", b"KNIL")  # bytes of the header; a profile in the file, or beside it
_GIF_EXTENSION = re.compile(rb"!\xff\x0b([ -~]{8})...", re.DOTALL)
_GIF_LOOPS = ("NETSCAPE", "ANIMEXTS")
_WEBP_CHUNKS = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP ")


class Unloaded(NamedTuple):
    """What can be read only before Pillow has loaded the pixels, and has closed the file."""

    tags: tiff.Tags | None = None
    """Of a TIFF file, but for its resources."""
    resources: bytes = b""
    """Photoshop's in a TIFF file, and its IPTC data as one of them."""
    lost: tuple[str, ...] = ()
    """What else is in the file, in words."""
    chunks: tuple[Chunk, ...] = ()
    """That a PNG would have for the colours of an AVIF or HEIC file."""
    lossless: bool = False
    """Whether the file is a lossless WebP."""


class Metadata(NamedTuple):
    """The orientation, 1 to 8, and fields of `Picture`."""

    orientation: int
    exif: bytes | None
    xmp: bytes | None
    dpi: tuple[float, float] | None
    segments: tuple[Segment, ...]
    lost: tuple[str, ...]


def before_loading(image: Image.Image) -> Unloaded:
    """Reads an opened image's file, and leaves it as it was; nothing where the image has been loaded, or is at a frame
    other than the first, which the file tells of elsewhere."""
    file = getattr(image, "fp", None)
    if file is None or file.closed or image.format not in _NOT_ALL_READ:
        return Unloaded()
    if image.tell() > 0 and image.format != "HEIF":  # whose primary picture need not be the first
        return Unloaded()
    at = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(at)
    if image.format in _IN_BOXES:
        return _from_boxes(image, isobmff.read(data))
    if not isinstance(image, TiffImageFile):
        return Unloaded(lost=tuple(_passed_over(image, data)), lossless=b"VP8L" in _webp_chunks(data))
    tags = tiff.read_tags(data)
    resources, iptc, layers = (tags.pop(tag) for tag in (tiff.PHOTOSHOP, tiff.IPTC, tiff.LAYERS))
    if iptc and not jpeg.iptc(resources):
        resources += jpeg.iptc_resource(iptc)
    return Unloaded(tags, resources, ("Photoshop layers",) if layers else ())


def _from_boxes(image: Image.Image, said: isobmff.Said) -> Unloaded:
    lost = list(said.lost)
    if said.bits > 8:
        lost.append(f"{said.bits - 8} of {said.bits} bits a channel")  # what both decoders give
    if getattr(image, "n_frames", 1) > 1:
        lost.append("further pictures")
    return Unloaded(lost=tuple(lost), chunks=() if said.cicp is None else ((b"cICP", said.cicp),))


def _passed_over(image: Image.Image, data: bytes) -> list[str]:
    """What Pillow passes over in a file that is no TIFF, in words."""
    if isinstance(image, JpegImageFile):
        return [_FOLLOWING] if jpeg.is_followed(data) else []
    if image.format == "BMP":
        return ["colour profile"] if data[14] >= _BMP_WITH_PROFILE and data[70:74] in _BMP_PROFILES else []
    if image.format == "GIF":
        names = (name.decode() for name in _GIF_EXTENSION.findall(data))
        return sorted({f"{name} extension" for name in names if name not in _GIF_LOOPS})
    return _unknown_webp_chunks(data)


def _unknown_webp_chunks(data: bytes) -> list[str]:
    unknown = (kind for kind in _webp_chunks(data) if kind not in _WEBP_CHUNKS)
    found = [f"{kind.decode('ascii', 'backslashreplace')} chunk" for kind in unknown]
    end = 8 + int.from_bytes(data[4:8], "little")
    return [*found, _FOLLOWING] if data.startswith(b"RIFF") and data[end:].strip(b"\0") else found


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    """The kind of each chunk; none where Pillow has put the pixels in place of the file, as of a loaded image."""
    at, end = 12, 8 + int.from_bytes(data[4:8], "little") if data.startswith(b"RIFF") else 0
    while at + 8 <= end:
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        yield kind
        at += 8 + size + size % 2


def collect(image: Image.Image, unloaded: Unloaded) -> Metadata:
    """What a loaded image says beside its pixels.

    Where EXIF and XMP both name an orientation, EXIF's counts, as it does in Pillow, which has applied that of a TIFF.
    """
    found = jpeg.segments(image)
    segments = jpeg.kept(found) + jpeg.split("APP13", jpeg.PHOTOSHOP_HEAD, unloaded.resources)
    if image.format == "GIF":
        segments += jpeg.split("COM", b"", image.info.get("comment", b""))
    lost = [*unloaded.lost, *jpeg.unknown(found)]
    if jpeg.have(found, jpeg.PROFILE_HEAD) and not image.info.get("icc_profile"):
        lost.append("incomplete colour profile")
    in_boxes = image.format in _IN_BOXES
    block = (image.info.get("exif") or b"") if in_boxes else exif_block(image, unloaded.tags)
    exif_orientation, exif = tiff.split_orientation(block)
    if exif is None and block.strip(tiff.EXIF_HEAD):
        lost.append("unreadable EXIF")
    xmp_orientation, packet = _xmp(image, lost)
    orientation = xmp_orientation if exif_orientation is None else exif_orientation
    if in_boxes:  # Pillow tells by EXIF how an AVIF lies, whatever XMP says; a HEIC comes upright
        orientation = exif_orientation
    if isinstance(image, TiffImageFile):
        orientation = 1
        if image.tag_v2.get(SAMPLESPERPIXEL, 1) > len(image.getbands()):
            lost.append("further channels")
    if image.info.get("jfif_unit") == 0 and len(set(image.info["jfif_density"])) > 1:
        lost.append("aspect of the pixels")
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


def left_out(picture: Picture, format: str) -> tuple[str, ...]:
    """What a file of the format lacks of the picture and of the file that it came from, in words."""
    kinds = {name for name, _ in picture.segments}
    bare, no_density = format == "BMP", format in ("WEBP", "AVIF")
    lacking = {
        "EXIF": picture.exif is not None and bare,
        "XMP": picture.xmp is not None and bare,
        "colour profile": picture.icc is not None and bare,
        "resolution": picture.dpi is not None and no_density and not tiff.resolution(picture.exif or b""),
        "comment": "COM" in kinds and format != "JPEG",
        "IPTC and Photoshop data": "APP13" in kinds and format not in ("JPEG", "TIFF"),
    }
    chunks = png.left_out(picture) if format != "PNG" else []
    return (*picture.lost, *(word for word, lacks in lacking.items() if lacks), *chunks)


def tiff_file(picture: Picture) -> bytes:
    """A TIFF file of the picture and all that it says."""
    resources = jpeg.photoshop_resources(picture.segments)
    further = {
        tiff.XMP: (tiff.BYTE, picture.xmp),
        tiff.ICC: (tiff.UNDEFINED, picture.icc),
        tiff.PHOTOSHOP: (tiff.BYTE, resources),
        tiff.IPTC: (tiff.UNDEFINED, jpeg.iptc(resources)),  # again: some programs look for it in one place only
    }
    fields: tiff.Directory = {tag: (kind, len(value), value) for tag, (kind, value) in further.items() if value}
    if picture.pixels.dtype == np.uint16 and picture.alpha is not None:
        picture = dataclasses.replace(picture, grey=False)  # Pillow opens no TIFF of grey and alpha in 16 bits
    return tiff.encode(picture.values(), picture.exif, picture.dpi, fields)
