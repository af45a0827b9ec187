"""AVIF and HEIC files by their boxes: what the decoders do not tell of the picture and of what is beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

AVIF_BRANDS = frozenset({b"avif", b"avis"})
HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"})
_STRUCTURE = frozenset({b"ftyp", b"meta", b"mdat", b"free", b"skip", b"wide", b"moov"})  # boxes of any such file
_ALPHAS = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0")
_SRGB, _UNSPECIFIED, _PQ, _HLG = 1, 2, 16, 18  # code points of primaries and transfer functions

Box = tuple[bytes, bytes]  # its type, and what it holds


class Said(NamedTuple):
    """What a file says of its picture.

    bits: of a channel.
    cicp: what a PNG's cICP chunk holds, where colours are neither sRGB's nor given by a profile; else None.
    lost: in words, what the file holds beside the picture.
    """

    bits: int
    cicp: bytes | None
    lost: tuple[str, ...]


def brands(data: bytes) -> set[bytes]:
    """The formats that the file says it is of; none for one that has no such box at its start."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), len(data), 1024)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}


def read(data: bytes) -> Said:
    """What the boxes say; nothing much where there are none, as of a loaded AVIF, in place of which Pillow has put the
    pixels. Damage shows as IndexError or KeyError, if at all."""
    top = list(_boxes(data)) if brands(data) else []
    lost = [f"{kind.decode('ascii', 'backslashreplace')} box" for kind, _ in top if kind not in _STRUCTURE]
    if b"meta" not in dict(top):
        return Said(8, None, tuple(lost))
    meta = dict(_boxes(dict(top)[b"meta"][4:]))
    item_properties = dict(_boxes(meta[b"iprp"]))
    every = list(_boxes(item_properties[b"ipco"]))
    primary = int.from_bytes(meta[b"pitm"][4:], "big")
    own = [every[i - 1] for i in _associated(item_properties[b"ipma"], primary) if 0 < i <= len(every)]
    colours = [content for kind, content in own if kind == b"colr"]
    bits = [max(content[5:]) for kind, content in own if kind == b"pixi"]
    if any(kind == b"auxC" and not content[4:].startswith(_ALPHAS) for kind, content in every):
        lost.append("a map of depth, gain or the like")
    return Said(max(bits, default=8), _cicp(colours), tuple(dict.fromkeys(lost)))


def _boxes(data: bytes) -> Iterator[Box]:
    at = 0
    while at + 8 <= len(data):
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if size == 0:  # to the end
            size = len(data) - at
        yield data[at + 4 : at + 8], data[at + head : at + size]
        at += max(size, head)


def _associated(ipma: bytes, item: int) -> list[int]:
    """Numbers of an item's properties, counted from 1."""
    wide_item, wide_index = ipma[0] > 0, ipma[3] & 1
    at, width, size = 8, 4 if wide_item else 2, 2 if wide_index else 1
    for _ in range(int.from_bytes(ipma[4:8], "big")):
        found, count = int.from_bytes(ipma[at : at + width], "big"), ipma[at + width]
        at += width + 1
        if found == item:
            essential = 1 << (8 * size - 1)
            return [int.from_bytes(ipma[at + i * size :][:size], "big") & ~essential for i in range(count)]
        at += count * size
    return []


def _cicp(colours: list[bytes]) -> bytes | None:
    """From the contents of colour boxes. Those of common video, which are shown like sRGB, need no word."""
    if any(not content.startswith(b"nclx") for content in colours):  # a profile
        return None
    for content in colours:
        primaries, transfer = content[5], content[7]
        if primaries not in (_SRGB, _UNSPECIFIED) or transfer in (_PQ, _HLG):
            return bytes([primaries, transfer, 0, 1])
    return None
