"""What a file says about its picture beside the pixels: orientation, EXIF, XMP and resolution, read and written."""

from __future__ import annotations

import re
import struct
from typing import Any

from PIL import Image, TiffTags

from deblurgan.images.picture import Picture

_EXIF_HEAD = b"Exif\0\0"
_ORIENTATION = 0x0112
_XMP_TAG = 700
_XMP_ORIENTATION = re.compile(rb"""\s*tiff:Orientation=["']([0-9])["']|<tiff:Orientation>([0-9])</tiff:Orientation>""")
# Tags that say how the pixels lie in a TIFF file, and those that a Picture holds in a field of its own
_TIFF_LAYOUT = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, _ORIENTATION, 277, 278, 279, 280, 281, 284, 301, 317, 320}
    | {322, 323, 324, 325, 330, 332, 333, 334, 338, 339, 340, 341, 347, 512, 513, 514, 515, 519, 520, 521}
    | {529, 530, 531, 532, _XMP_TAG, 34675}
)


def valid_dpi(value: Any) -> tuple[float, float] | None:
    """The resolution, pixels an inch across and down, if every format can hold it; else None, as for 0 or 0/0."""
    try:
        x, y = (float(part) for part in value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return (x, y) if 1 <= x <= 65535 and 1 <= y <= 65535 else None


def orientation_exif_xmp(image: Image.Image) -> tuple[int, bytes | None, bytes | None]:
    """The orientation, 1 to 8, and the EXIF and XMP blocks without it; None for a block that is absent.

    Where both blocks name an orientation, EXIF's counts, as it does in Pillow.
    """
    orientation, exif = _split_orientation(exif_block(image))
    xmp = image.info.get("xmp")
    if not isinstance(xmp, bytes) or not xmp:
        return orientation or 1, exif, None
    found = _XMP_ORIENTATION.search(xmp)
    if orientation is None and found:
        orientation = int(found[1] or found[2])
    return orientation or 1, exif, _XMP_ORIENTATION.sub(b"", xmp)


def exif_block(image: Image.Image) -> bytes:
    """The EXIF bytes as the file holds them. A TIFF holds none: its tags are made into a block."""
    block = image.info.get("exif")
    if isinstance(block, bytes):
        return block
    try:
        tags = Image.Exif()
        tags.load(image.getexif().tobytes())  # a copy, so that the image's own tags stay
        for tag in (_TIFF_LAYOUT - {_ORIENTATION}) & set(tags):
            del tags[tag]
        return tags.tobytes() if len(tags) else b""
    except MemoryError:
        raise
    except Exception:
        return b""


def _split_orientation(block: bytes) -> tuple[int | None, bytes | None]:
    """The orientation in an EXIF block, and the block without it; (None, None) if it cannot be parsed.

    Only entries of the first directory move, so that all offsets in the block, also those in maker notes, stay valid.
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
    others = [entry for entry in entries if struct.unpack(order + "H", entry[:2]) != (_ORIENTATION,)]
    if len(others) == count:
        return None, _EXIF_HEAD + body
    turned = next(entry for entry in entries if entry not in others)
    orientation = _short_value(turned, order)
    # The thumbnail of a turned picture would lie on its side: unlink it.
    thumbnail = body[end : end + 4] if orientation == 1 else bytes(4)
    directory = struct.pack(order + "H", len(others)) + b"".join(others) + thumbnail
    padding = bytes(12 * (count - len(others)))
    return orientation, _EXIF_HEAD + body[:start] + directory + padding + body[end + 4 :]


def _short_value(entry: bytes, order: str) -> int:
    """The number in a directory entry of type BYTE, SHORT or LONG; 1 for any other type."""
    (kind,) = struct.unpack_from(order + "H", entry, 2)
    code = {1: "B", 3: "H", 4: "I"}.get(kind)
    return int(struct.unpack_from(order + code, entry, 8)[0]) if code else 1


def tiff_options(picture: Picture) -> dict[str, Any]:
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
