"""The marker segments of JPEG files: what they say beside the pixels, and what stands behind a picture."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from deblurgan.images.picture import JpegCoding, Picture, Segment
from deblurgan.images.tiff import EXIF_HEAD

PHOTOSHOP_HEAD = b"Photoshop 3.0\0"
XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
EXTENSION_HEAD = b"http://ns.adobe.com/xmp/extension/\0"
PROFILE_HEAD = b"ICC_PROFILE\0"
_OTHERS = (b"JFIF\0", b"JFXX\0", b"Adobe", b"MPF\0", b"urn:iso:std:iso:ts:21496:")  # of the pixels, or further pictures
_KNOWN = (EXIF_HEAD, XMP_HEAD, EXTENSION_HEAD, PROFILE_HEAD, PHOTOSHOP_HEAD, *_OTHERS)
_IPTC_RESOURCE = re.compile(rb"8BIM\x04\x04\0\0(.{4})", re.DOTALL)  # with its length
_SUBSAMPLINGS = {(2.0, 1.0): 1, (2.0, 2.0): 2}  # pixels across and down that a colour holds for: as Pillow counts it
_LONGEST = 65533  # bytes in a segment
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")  # but for those of restarts, which are in the midst of a scan
_STANDARD_PACKET = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="%s"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


def coding(image: Image.Image, *, sideways: bool) -> JpegCoding | None:
    """How an opened JPEG holds its pixels, for a picture that is to be turned sideways or not; None for another format,
    and for CMYK, which is not written."""
    if not isinstance(image, JpegImageFile) or len(image.layer) not in (1, 3):
        return None
    try:
        tables = [tuple(image.quantization[number]) for *_, number in image.layer]
    except KeyError:  # a table is missing; libjpeg has its own
        return None
    if tables[1:2] == tables[2:]:
        del tables[2:]
    if sideways:
        tables = [tuple(table[8 * x + y] for y in range(8) for x in range(8)) for table in tables]
    progressive = bool(image.info.get("progressive"))
    return JpegCoding(len(image.layer) == 1, tuple(tables), _subsampling(image, sideways), progressive)


def _subsampling(image: JpegImageFile, sideways: bool) -> int:
    """Of the colours as Pillow counts it; none where it does not write theirs, such as one that halves down alone."""
    (_, x, y, _), *colours = image.layer
    if len({colour[1:3] for colour in colours}) != 1:
        return 0
    across, down = x / colours[0][1], y / colours[0][2]
    return _SUBSAMPLINGS.get((down, across) if sideways else (across, down), 0)


def segments(image: Image.Image) -> tuple[Segment, ...]:
    """The segments before the pixels; none where the image does not come from a JPEG."""
    return tuple(image.applist) if isinstance(image, JpegImageFile) else ()


def kept(found: Iterable[Segment]) -> tuple[Segment, ...]:
    """Comments and Photoshop's resources, which hold the IPTC data."""
    return tuple((name, data) for name, data in found if name == "COM" or data.startswith(PHOTOSHOP_HEAD))


def unknown(found: Iterable[Segment]) -> list[str]:
    """Names of those that are not kept, but for what a `Picture` holds elsewhere or a JPEG file says of itself."""
    return sorted({f"{name} segment" for name, data in found if name != "COM" and not data.startswith(_KNOWN)})


def have(found: Iterable[Segment], head: bytes) -> bool:
    """Whether any segment starts so."""
    return any(data.startswith(head) for _, data in found)


def extended_xmp(found: Iterable[Segment], identifier: bytes) -> bytes | None:
    """The extended XMP of an identifier; None where it is absent, or portions of it are."""
    head, length, portions = EXTENSION_HEAD + identifier, 0, {}
    for _, data in found:
        if data.startswith(head):
            length, at = (int.from_bytes(data[i : i + 4], "big") for i in (len(head), len(head) + 4))
            portions[at] = data[len(head) + 8 :]
    whole = b"".join(portions[at] for at in sorted(portions))
    return whole if len(whole) == length > 0 else None


def is_followed(data: bytes) -> bool:
    """Whether more than padding stands behind the first picture of a JPEG file."""
    at = 2
    while marker := _MARKER.search(data, at):
        at = marker.end()
        if marker[1] == b"\xd9":  # end of image
            return bool(data[at:].strip(b"\0\xff"))
        at += int.from_bytes(data[at : at + 2], "big")
    return False


def photoshop_resources(found: Iterable[Segment]) -> bytes:
    """Photoshop's resources, joined as in a TIFF tag."""
    return b"".join(data.removeprefix(PHOTOSHOP_HEAD) for name, data in found if name == "APP13")


def iptc(resources: bytes) -> bytes:
    """The IPTC data among Photoshop's resources; no bytes where there are none."""
    found = _IPTC_RESOURCE.search(resources)
    return resources[found.end() :][: int.from_bytes(found[1], "big")] if found else b""


def iptc_resource(value: bytes) -> bytes:
    """IPTC data as one of Photoshop's resources."""
    return b"8BIM\x04\x04\0\0" + len(value).to_bytes(4, "big") + value + bytes(len(value) % 2)


def with_segments(data: bytes, picture: Picture) -> bytes:
    """A JPEG file with the picture's EXIF, XMP, Photoshop resources and comments.

    EXIF that is too long for a segment goes on in further ones, as ExifTool and Pillow read it; XMP in extended XMP.
    """
    at = 4 + int.from_bytes(data[4:6], "big")  # behind the JFIF segment, which comes first
    added = split("APP1", EXIF_HEAD, (picture.exif or b"").removeprefix(EXIF_HEAD)) + _xmp_segments(picture.xmp or b"")
    return data[:at] + b"".join(_segment(*segment) for segment in added + picture.segments) + data[at:]


def split(name: str, head: bytes, value: bytes) -> tuple[Segment, ...]:
    """The value in as many segments as it needs, each with the head; none for no bytes."""
    return tuple((name, head + part) for _, part in _parts(value, len(head)))


def _xmp_segments(xmp: bytes) -> tuple[Segment, ...]:
    if len(XMP_HEAD + xmp) <= _LONGEST:
        return split("APP1", XMP_HEAD, xmp)
    extension = re.sub(rb"<\?xpacket.*?\?>", b"", xmp).strip()
    identifier = hashlib.md5(extension, usedforsecurity=False).hexdigest().upper().encode()
    head = EXTENSION_HEAD + identifier + len(extension).to_bytes(4, "big")
    portions = [("APP1", head + at.to_bytes(4, "big") + part) for at, part in _parts(extension, len(head) + 4)]
    return (("APP1", XMP_HEAD + _STANDARD_PACKET % identifier), *portions)


def _parts(value: bytes, overhead: int) -> list[tuple[int, bytes]]:
    """The value cut to what a segment holds beside so many bytes: each part's offset, and the part."""
    size = _LONGEST - overhead
    return [(at, value[at : at + size]) for at in range(0, len(value), size)]


def _segment(name: str, data: bytes) -> bytes:
    marker = 0xFE if name == "COM" else 0xE0 + int(name.removeprefix("APP"))
    return bytes([0xFF, marker]) + (2 + len(data)).to_bytes(2, "big") + data
