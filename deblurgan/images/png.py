"""PNG files by their chunks. Pillow gets those that the pixels need; the others are read here, or kept as they are.

Pillow refuses a picture for a damaged or large text, and looks neither at the checksum of the pixels nor for missing
rows.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deblurgan.images.jpeg import XMP_HEAD
from deblurgan.images.picture import COLOUR_CHUNKS, Chunk, Picture, valid_dpi
from deblurgan.images.tiff import EXIF_HEAD

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
_HEADER_END = len(SIGNATURE) + 12 + 13
_XMP_KEY = b"XML:com.adobe.xmp"
_RAW_KEYS = frozenset({b"Raw profile type exif", b"Raw profile type xmp", b"Raw profile type APP1"})  # ImageMagick's
_MOST_UNPACKED = 16 << 20  # bytes that a compressed profile or XMP packet may come to
_STEP = 16 << 10  # bytes of packed pixels; zlib makes a thousand times as many of them at most

_PIXELS = frozenset({b"tRNS", b"acTL", b"fcTL", b"fdAT"})  # by their names not critical, yet the picture needs them
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_OF_OLD_PIXELS = frozenset({b"tIME", b"sBIT", b"bKGD", b"hIST", b"sPLT", b"iDOT"})
_SRGB_CICP = bytes([1, 13, 0, 1])
_SRGB_GAMMA = (45455,)  # in units of 1e-5, as the chunk has it; so are the primaries
_SRGB_PRIMARIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_SAME = 1000  # the difference up to which libpng takes primaries for sRGB's

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_LESS_LEFT = 1  # the filter of a row
_PART = 1 << 20  # bytes of rows
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass(frozen=True)
class Parts:
    """A PNG file taken apart.

    pixels: a PNG file of the chunks that the pixels depend on.
    info:   EXIF, profile, XMP and resolution, as far as there are any, under Pillow's names.
    kept:   what only a PNG file can hold.
    lost:   what else the file held, in words, but for chunks that are of use with the old pixels alone.
    """

    pixels: bytes
    info: dict[str, Any]
    kept: tuple[Chunk, ...]
    lost: tuple[str, ...]


def split(data: bytes) -> Parts:
    """The parts of a PNG file, up to its end chunk or where the file breaks off.

    Left out is what viewers pass over, chunks with a wrong checksum, and what would no longer be true. Raises
    ValueError for a wrong checksum of what the pixels depend on.
    """
    pixels: list[bytes | memoryview] = [SIGNATURE]
    others, lost, end = list[Chunk](), list[str](), len(SIGNATURE)
    for kind, chunk, sound in _chunks(data):
        end += len(chunk)
        if kind[:1].isupper() or kind in _PIXELS:
            if not sound:
                raise ValueError(f"the checksum of {kind.decode()} is wrong or missing")
            pixels.append(chunk)
        elif sound:
            others.append((kind, bytes(chunk[8:-4])))
        else:
            lost.append(f"damaged {kind.decode()} chunk")
    if data[end + len(_END) :].strip(b"\0"):
        lost.append("what follows the picture in its file")
    info, kept, unfit = _sorted_out(others, layout=data[24:26])
    return Parts(b"".join([*pixels, _END]), info, tuple(kept), (*lost, *unfit))


def _sorted_out(chunks: list[Chunk], layout: bytes) -> tuple[dict[str, Any], list[Chunk], list[str]]:
    """What the chunks beside the pixels say, those to be kept as they are, and in words those that can be neither."""
    info, kept, unfit = dict[str, Any](), list[Chunk](), list[str]()
    for kind, content in chunks:
        found = _read(kind, content)
        if found is not None and kind in _TEXTS - {b"iTXt"}:
            info.setdefault(*found)  # a proper chunk of the same overrules the text
        elif found is not None:
            info[found[0]] = found[1]
        elif _outlives_change(kind, layout):
            kept.append((kind, content))
        elif kind not in _OF_OLD_PIXELS:
            unfit.append(f"{kind.decode()} chunk")
    return info, kept, unfit


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
    """The kind of each chunk before the end chunk, the whole chunk, and whether its checksum is right."""
    view, at = memoryview(data), len(SIGNATURE)
    while at + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, chunk = data[at + 4 : at + 8], view[at : at + 12 + size]
        if kind == b"IEND" or not kind.isalpha():
            return
        whole = len(chunk) == 12 + size
        yield kind, chunk, whole and struct.pack(">I", zlib.crc32(chunk[4:-4])) == chunk[-4:]
        at += 12 + size


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _read(kind: bytes, content: bytes) -> tuple[str, Any] | None:
    """Pillow's name of what a chunk holds, and its value; None where a Picture has no field for it or it is damaged."""
    key, _, rest = content.partition(b"\0")
    if kind == b"eXIf":
        return "exif", EXIF_HEAD + content.removeprefix(EXIF_HEAD)
    if kind == b"pHYs" and len(content) == 9 and content[8] == 1:  # pixels a metre
        return _named("dpi", valid_dpi(pixels * 0.0254 for pixels in struct.unpack_from(">II", content)))
    if kind == b"iCCP":
        return _named("icc_profile", _inflated(rest[1:]))
    if kind == b"iTXt" and key == _XMP_KEY:
        packet = rest[2:].split(b"\0", 2)[-1]  # after the language and a translation of the key
        return _named("xmp", _inflated(packet) if rest[:1] == b"\1" else packet)
    if kind in (b"tEXt", b"zTXt") and key in _RAW_KEYS:
        return _raw_profile(_inflated(rest[1:]) if kind == b"zTXt" else rest)
    return None


def _named(name: str, value: Any) -> tuple[str, Any] | None:
    return None if value is None else (name, value)


def _inflated(data: bytes) -> bytes | None:
    """What zlib unpacks; None where that is damaged, cut or too large."""
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(data, _MOST_UNPACKED)
    except zlib.error:
        return None
    return unpacked if unpacker.eof else None


def _raw_profile(text: bytes | None) -> tuple[str, bytes] | None:
    """EXIF or XMP in a text: a line with its type, one with its length, and hexadecimal digits in lines."""
    try:
        block = bytes.fromhex((text or b"").split(b"\n", 3)[3].decode())
    except (IndexError, ValueError):
        return None
    if block.startswith((EXIF_HEAD, b"II*\0", b"MM\0*")):
        return "exif", EXIF_HEAD + block.removeprefix(EXIF_HEAD)
    return "xmp", block.removeprefix(XMP_HEAD)


def _outlives_change(kind: bytes, layout: bytes) -> bool:
    """Whether a chunk still holds when the pixels have changed and are RGB or grey, of 8 or 16 bits, with or without
    alpha.

    The fourth letter of its kind says so where PNG does not define it otherwise. `layout` is the depth and the colour
    type that the pixels had.
    """
    if kind == b"bKGD":
        return layout[0] >= 8 and layout[1] != 3  # else it counts in the old depth or palette
    return kind in COLOUR_CHUNKS or kind[3:].islower()


def left_out(picture: Picture) -> list[str]:
    """What formats other than PNG lack of the picture's chunks, in words."""
    kinds = {
        kind for kind, _ in picture.png_chunks
    } - COLOUR_CHUNKS  # another format is refused, or needs none to say so
    texts = ["texts of the PNG file"] if kinds & _TEXTS else []
    return texts + [f"{kind.decode()} chunk" for kind in sorted(kinds - _TEXTS)]


def with_layout(file: bytes, *, depth: int, colour: int) -> bytes:
    """A PNG file whose header states another depth and type of colour."""
    header = file[len(SIGNATURE) + 8 : _HEADER_END - 4]
    header = header[:8] + bytes([depth, colour]) + header[10:]
    return SIGNATURE + _chunk(b"IHDR", header) + file[_HEADER_END:]


def require_all_rows(file: bytes) -> None:
    """Raises ValueError where the pixels of a PNG file end before its last row."""
    (header, *others) = _chunks(file)
    unpacker, missing = zlib.decompressobj(), _size_of_rows(header[1][8:-4])
    for data in (chunk[8:-4] for kind, chunk, _ in others if kind == b"IDAT"):
        for at in range(0, len(data), _STEP):
            if missing > 0 and not unpacker.eof:
                missing -= len(unpacker.decompress(data[at : at + _STEP]))
    if missing > 0:
        raise ValueError(f"{missing} bytes of the pixels are missing")


def _size_of_rows(header: memoryview) -> int:
    """Bytes of the unpacked pixels, by the content of IHDR."""
    w, h, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", header[:13])
    bits = depth * _CHANNELS[colour]
    size = 0
    for x, y, dx, dy in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((x - w) // dx), -((y - h) // dy)
        size += rows * (1 + -(-columns * bits // 8)) if columns > 0 else 0
    return size


def colour_chunks(info: dict[Any, Any]) -> tuple[Chunk, ...]:
    """The chunks behind what Pillow's `info` says of a PNG file's colours."""
    numbers = {b"gAMA": [info.get("gamma")], b"cHRM": info.get("chromaticity", [None])}
    chunks = [
        (kind, struct.pack(f">{len(values)}I", *(round(value * 1e5) for value in values)))
        for kind, values in numbers.items()
        if None not in values
    ]
    return (*chunks, (b"sRGB", bytes([info["srgb"]]))) if "srgb" in info else tuple(chunks)


def colours_of_its_own(picture: Picture) -> bool:
    """Whether chunks give the picture colours that neither its profile nor, where it has none, sRGB gives."""
    said = dict(picture.png_chunks)  # in the order of precedence: cICP, the profile, sRGB, gAMA with cHRM
    if b"cICP" in said:
        return said[b"cICP"] != _SRGB_CICP
    if picture.icc is not None or b"sRGB" in said:
        return False
    return _differs(said.get(b"gAMA"), _SRGB_GAMMA) or _differs(said.get(b"cHRM"), _SRGB_PRIMARIES)


def _differs(content: bytes | None, expected: tuple[int, ...]) -> bool:
    if content is None or len(content) != 4 * len(expected):
        return False  # viewers pass over one of a wrong length
    values = struct.unpack(f">{len(expected)}I", content)
    return any(abs(value - other) > _SAME for value, other in zip(values, expected, strict=True))


def with_chunks(file: bytes, picture: Picture) -> bytes:
    """The bytes of a PNG file with the picture's XMP and chunks after the header."""
    chunks = picture.png_chunks
    if picture.xmp is not None:
        xmp = _XMP_KEY + bytes(5) + picture.xmp  # 5: no compression, no language, no translation
        chunks = (*chunks, (b"iTXt", xmp))
    return file[:_HEADER_END] + b"".join(_chunk(*chunk) for chunk in chunks) + file[_HEADER_END:]


def encode_deep(picture: Picture) -> bytes:
    """A PNG file of a 16-bit picture with its EXIF, profile and resolution, which Pillow writes of 8-bit pictures."""
    values = picture.values()
    h, w, c = values.shape
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, _COLOUR_TYPES[c], 0, 0, 0))]
    if picture.icc is not None:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.icc)))
    if picture.dpi is not None:
        x, y = (round(number / 0.0254) for number in picture.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", x, y, 1)))
    if picture.exif is not None:
        chunks.append((b"eXIf", picture.exif.removeprefix(EXIF_HEAD)))
    packed = (_chunk(b"IDAT", part) for part in _packed(values))
    return b"".join([SIGNATURE, *(_chunk(*chunk) for chunk in chunks), *packed, _END])


def _packed(values: NDArray[np.uint16]) -> Iterator[bytes]:
    """All rows, each byte less the one in the pixel to its left, packed in parts."""
    h, w, c = values.shape
    packer, rows = zlib.compressobj(), max(1, _PART // (2 * w * c))
    for y in range(0, h, rows):
        part = np.ascontiguousarray(values[y : y + rows], ">u2").view(np.uint8).reshape(-1, w, 2 * c)
        filtered = np.empty((len(part), 1 + 2 * w * c), np.uint8)
        filtered[:, 0] = _LESS_LEFT
        filtered[:, 1:] = np.diff(part, axis=1, prepend=np.uint8(0)).reshape(len(part), -1)
        yield packer.compress(filtered.tobytes())
    yield packer.flush()
