"""TIFF directories, those of EXIF blocks and of TIFF files. Values are copied as the bytes they are, whatever they say.

An EXIF block is b"Exif\\0\\0" and a TIFF file without a picture.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal, NamedTuple, Union

from numpy.typing import NDArray

EXIF_HEAD = b"Exif\0\0"
ORIENTATION, XMP, IPTC, PHOTOSHOP, ICC, LAYERS = 274, 700, 33723, 34377, 34675, 37724
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
# Tags of a TIFF file that say how its pixels lie, and those that are read and written by themselves
_NOT_COPIED = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 280, 281, 284, 301, 317, 320, 322, 323, 324, 325}
    | {330, 332, 333, 334, 338, 339, 340, 341, 347, 512, 513, 514, 515, 519, 520, 521, 529, 530, 531, 532}
    | {XMP, ICC}
)
# Tags that point to directories: of EXIF, in that of interoperability, and of GPS
_NESTED: dict[int, Any] = {34665: {40965: {}}, 34853: {}}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: 1, 3: 2, 4: 4, 8: 2, 9: 4}  # sizes
BYTE, SHORT, LONG, RATIONAL, UNDEFINED = 1, 3, 4, 5, 7
_CLASSIC, _BIG = b"*", b"+"  # what marks a TIFF and a BigTIFF file
_STRIP = 1 << 16  # bytes before compression

Order = Literal["little", "big"]
_HEADS: dict[Order, bytes] = {"little": b"II*\0", "big": b"MM\0*"}
# Tag -> type, count, and the value: its bytes, or the directory that it points to
Directory = dict[int, tuple[int, int, Union[bytes, "Directory"]]]


class Tags(NamedTuple):
    """Tags of a first directory, and the byte order of their values."""

    order: Order
    values: Directory

    def pop(self, tag: int) -> bytes:
        """Takes a tag away; returns its bytes, none where it is absent."""
        value = self.values.pop(tag, (0, 0, b""))[2]
        return value if isinstance(value, bytes) else b""


class Block(NamedTuple):
    """An EXIF block without its head, and the first directory in it: where it starts, and its cells of 12 bytes."""

    body: bytes
    order: Order
    start: int
    cells: list[bytes]

    def tag(self, cell: bytes) -> int:
        return int.from_bytes(cell[:2], self.order)

    def integer(self, tag: int) -> int | None:
        """The value of a tag, 1 where it is no unsigned integer; None for a tag that is absent."""
        for cell in self.cells:
            if self.tag(cell) == tag:
                size = _INTEGERS.get(int.from_bytes(cell[2:4], self.order))
                return int.from_bytes(cell[8 : 8 + size], self.order) if size else 1
        return None

    def rational(self, tag: int) -> float | None:
        """The value of a tag; None where it is absent, of another type, or 1/0."""
        for cell in self.cells:
            if self.tag(cell) == tag and int.from_bytes(cell[2:4], self.order) == RATIONAL:
                at = int.from_bytes(cell[8:], self.order)
                above, below = (int.from_bytes(self.body[i : i + 4], self.order) for i in (at, at + 4))
                return above / below if below else None
        return None

    def raw_tags(self) -> Directory:
        """The first directory, each value as its cell holds it: itself, or its offset in the block."""
        return {
            self.tag(cell): (int.from_bytes(cell[2:4], self.order), int.from_bytes(cell[4:8], self.order), cell[8:])
            for cell in self.cells
            if self.tag(cell) not in _NOT_COPIED
        }


def parse(exif: bytes) -> Block | None:
    """The EXIF block, with one head, two as some cameras write, or none; None if it is not one, or holds nothing."""
    body = re.sub(rb"^(Exif\0\0){0,2}", b"", exif)
    order, mark = _head(body)
    if order is None or mark != _CLASSIC:
        return None
    start = int.from_bytes(body[4:8], order)
    cells = list(_cells(body, order, start))
    return Block(_HEADS[order] + body[4:], order, start, cells) if cells else None


def _head(data: bytes) -> tuple[Order | None, bytes]:
    """The byte order, None for none, and the mark, which some files hold in the other byte order."""
    orders: dict[bytes, Order] = {b"II": "little", b"MM": "big"}
    return orders.get(data[:2]), data[2:4].strip(b"\0")


def _cells(data: bytes, order: Order, at: int, *, big: bool = False) -> Iterator[bytes]:
    """The cells of the directory at an offset, 12 bytes each, in BigTIFF 20; of one cut short those that there are."""
    head, width = (8, 20) if big else (2, 12)
    count = min(int.from_bytes(data[at : at + head], order), (len(data) - at - head) // width)
    return (data[i : i + width] for i in range(at + head, at + head + width * count, width))


def split_orientation(exif: bytes) -> tuple[int | None, bytes | None]:
    """The orientation in an EXIF block, and the block without it; (None, None) if it cannot be parsed.

    Only cells of the first directory move, so that all offsets in the block, also those in maker notes, stay valid.
    """
    block = parse(exif)
    if block is None:
        return None, None
    body, order, start, cells = block
    orientation = block.integer(ORIENTATION)
    others = [cell for cell in cells if block.tag(cell) != ORIENTATION]
    end = start + 2 + 12 * len(cells)
    # The thumbnail of a turned picture would lie on its side: unlink it.
    thumbnail = bytes(4) if orientation in range(2, 9) else body[end : end + 4].ljust(4, b"\0")
    padding = bytes(12 * (len(cells) - len(others)))
    directory = len(others).to_bytes(2, order) + b"".join(others) + thumbnail + padding
    return orientation, EXIF_HEAD + body[:start] + directory + body[end + 4 :]


def resolution(exif: bytes) -> tuple[float, float] | None:
    """The resolution that an EXIF block states, pixels an inch across and down."""
    block = parse(exif)
    if block is None:
        return None
    scale = {None: 1.0, 2: 1.0, 3: 2.54}.get(block.integer(RESOLUTION_UNIT))  # per inch where it says nothing
    x, y = block.rational(X_RESOLUTION), block.rational(Y_RESOLUTION)
    return None if scale is None or x is None or y is None else (x * scale, y * scale)


def read_tags(data: bytes) -> Tags:
    """The tags of a TIFF or BigTIFF file, but for those that its pixels need.

    A value that lies outside the file is left out. Raises ValueError for what is no TIFF file, and for values that lie
    over one another, which would fill the memory.
    """
    order, mark = _head(data)
    if order is None or mark not in (_CLASSIC, _BIG):
        raise ValueError("not a TIFF file")
    big = mark == _BIG
    start = int.from_bytes(data[8:16] if big else data[4:8], order)
    return Tags(order, _read(data, order, start, big, _NESTED))


def _read(data: bytes, order: Order, at: int, big: bool, nested: dict[int, Any]) -> Directory:
    """The directory at an offset; `nested` names the tags that point to further ones, and those in these."""
    inline, total = 8 if big else 4, 0
    found: Directory = {}
    for cell in _cells(data, order, at, big=big):
        tag, kind = int.from_bytes(cell[:2], order), int.from_bytes(cell[2:4], order)
        count, pointer = int.from_bytes(cell[4:-inline], order), int.from_bytes(cell[-inline:], order)
        size = 0 if tag in _NOT_COPIED else _SIZES.get(kind, 0) * count
        total += size if pointer + size <= len(data) else 0
        if total > len(data):
            raise ValueError("values of tags lie over one another")
        value = cell[-inline:] if size <= inline else data[pointer : pointer + size]
        if tag in nested:
            found[tag] = (LONG, 1, _read(data, order, pointer, big, nested[tag]))
        elif len(value) >= size > 0:
            found[tag] = (kind, count, value[:size])
    return found


def pack(tags: Tags) -> bytes:
    """The EXIF block of these tags; no bytes where there are none."""
    if not tags.values:
        return b""
    order = tags.order
    return EXIF_HEAD + _HEADS[order] + (8).to_bytes(4, order) + _packed(order, tags.values, 8)


def _packed(order: Order, tags: Directory, at: int) -> bytes:
    """The directory that is to lie at an offset of its block: cells, and after them the values that are too long."""
    cells, values = len(tags).to_bytes(2, order), b""
    free = at + 2 + 12 * len(tags) + 4
    for tag, (kind, count, value) in sorted(tags.items()):
        data = _packed(order, value, free + len(values)) if isinstance(value, dict) else value
        if isinstance(value, dict) or len(data) > 4:
            pointer = (free + len(values)).to_bytes(4, order)
            values += data + bytes(len(data) % 2)
            data = pointer
        cells += tag.to_bytes(2, order) + kind.to_bytes(2, order) + count.to_bytes(4, order) + data.ljust(4, b"\0")
    return cells + bytes(4) + values


def encode(values: NDArray[Any], exif: bytes | None, dpi: tuple[float, float] | None, further: Directory) -> bytes:
    """A TIFF file of 8 or 16 bits from values [h, w, c], c = 1 to 4 for grey, grey and alpha, RGB, RGBA; lossless.

    It begins with the EXIF block, so that all offsets in that stay valid; the tags of the block's first directory, but
    for its thumbnail, are among the file's. `dpi` and the `further` tags replace what the block says.
    """
    h, w, c = values.shape
    size = values.itemsize
    block = parse(exif or b"") or Block(_HEADS["little"] + bytes(4), "little", 0, [])
    order, data = block.order, bytearray(block.body)
    tags = block.raw_tags()

    def numbers(kind: int, *values: int) -> tuple[int, int, bytes]:
        return kind, len(values), b"".join(value.to_bytes(_SIZES[kind], order) for value in values)

    values = values.astype(values.dtype.newbyteorder(order), copy=False)
    rows = max(1, _STRIP // (w * c * size))
    strips = [zlib.compress(values[y : y + rows].tobytes()) for y in range(0, h, rows)]
    offsets = []
    for strip in strips:
        offsets.append(len(data))
        data += strip
    data += bytes(len(data) % 2)
    tags |= {
        256: numbers(LONG, w),
        257: numbers(LONG, h),
        258: numbers(SHORT, *[8 * size] * c),
        259: numbers(SHORT, 8),  # compression: Deflate
        262: numbers(SHORT, 2 if c > 2 else 1),  # RGB, or grey with 0 as black
        273: numbers(LONG, *offsets),
        277: numbers(SHORT, c),
        278: numbers(LONG, rows),
        279: numbers(LONG, *map(len, strips)),
    }
    if c in (2, 4):
        tags[338] = numbers(SHORT, 2)  # alpha that the colours are not multiplied by
    if dpi is not None and dpi != resolution(exif or b""):
        for tag, value in zip((X_RESOLUTION, Y_RESOLUTION), dpi, strict=True):
            ratio = Fraction(value).limit_denominator(1 << 16)
            tags[tag] = (RATIONAL, 1, numbers(LONG, *ratio.as_integer_ratio())[2])
        tags[RESOLUTION_UNIT] = numbers(SHORT, 2)  # per inch
    tags |= further
    data[4:8] = len(data).to_bytes(4, order)
    return bytes(data) + _packed(order, tags, len(data))
