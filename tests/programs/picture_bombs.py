"""Reads files that claim, or unpack to, far more than they are. Prints what became of each and by how many MiB the peak
of memory has grown in the end."""

from __future__ import annotations

import io
import resource
import struct
import sys
import zlib
from collections.abc import Iterator
from typing import Any

from PIL import Image, features

from deblurgan import images

SMALL = Image.new("RGB", (16, 16), (90, 120, 150))
ZEROS = bytes(100_000)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(w: int, h: int, depth: int, colour: int, *chunks: bytes, interlaced: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, interlaced))
    rows = chunk(b"IDAT", zlib.compress(bytes(1 << 22) if w > 99 else bytes(h * (1 + 3 * w))))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + rows + chunk(b"IEND", b"")


def deflated(size: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)), packer.flush()])


def tiff(w: int, h: int, compression: int, *more: tuple[int, int], big: bool = False) -> bytes:
    """Its pixels are 100 kB."""
    shape = [(256, w), (257, h), (258, 8), (259, compression), (262, 1), (277, 1)]
    place = more or [(273, 500), (278, h), (279, len(ZEROS))]
    tags, width = sorted([*shape, *place]), "Q" if big else "I"
    cells = b"".join(struct.pack(f"<HH{width}{width}", tag, 16 if big else 4, 1, value) for tag, value in tags)
    head = (
        struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(tags))
        if big
        else struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    )
    return (head + cells).ljust(500, b"\0") + ZEROS


def tiff_of_pages(n: int) -> bytes:
    """All of one pixel, which they share."""
    tags = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1)]
    cells = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    size = len(cells) + 4
    return (
        b"II*\0"
        + struct.pack("<I", 10)
        + b"\0\0"
        + b"".join(cells + struct.pack("<I", 10 + (i + 1) * size if i + 1 < n else 0) for i in range(n))
    )


def jpeg(progressive: bool) -> bytes:
    data = encoded(SMALL, "JPEG", progressive=progressive)
    at = data.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 65500, 65500) + data[at + 4 :]


def webp(kind: bytes, content: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(content)) + content + encoded(SMALL, "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def in_boxes(file: bytes) -> bytes:
    """An AVIF or HEIC file whose property of the picture's extent claims 60000 x 60000."""
    at = file.index(b"ispe") + 8
    return file[:at] + struct.pack(">II", 60000, 60000) + file[at + 8 :]


def claims() -> Iterator[tuple[str, bytes]]:
    """Files that say they have more pixels than may be."""
    yield "PNG", png(30000, 30000, 8, 2)
    yield "PNG of one bit", png(60000, 60000, 1, 0)
    yield "PNG of 16 bits", png(30000, 30000, 16, 6)
    yield "interlaced PNG", png(30000, 30000, 8, 6, interlaced=1)
    yield "largest PNG", png(2**31 - 1, 2**31 - 1, 8, 0)
    yield "JPEG", jpeg(progressive=False)
    yield "progressive JPEG", jpeg(progressive=True)
    yield "TIFF", tiff(60000, 60000, 1)
    yield "LZW TIFF", tiff(60000, 60000, 5)
    yield "fax TIFF", tiff(60000, 60000, 4)
    yield "tiled TIFF", tiff(60000, 60000, 8, (322, 60000), (323, 60000), (324, 500), (325, len(ZEROS)))
    yield "BigTIFF", tiff(60000, 60000, 8, big=True)
    yield "extended WebP", webp(b"VP8X", bytes(4) + struct.pack("<I", 59999)[:3] + struct.pack("<I", 59999)[:3])
    yield "lossless WebP", webp(b"VP8L", b"\x2f" + struct.pack("<I", 0x0FFFFFFF) + ZEROS)
    yield "lossy WebP", webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383) + ZEROS)
    yield "BMP", encoded(SMALL, "BMP")[:18] + struct.pack("<ii", 60000, 60000) + encoded(SMALL, "BMP")[26:]
    gif = encoded(SMALL, "GIF")
    yield "GIF", gif[:6] + b"\xff\xff\xff\xff" + gif[10:]
    frame = gif.index(b",") + 5
    yield "frame of a GIF", gif[:frame] + b"\xff\xff\xff\xff" + gif[frame + 4 :]
    if "avif" in features.modules and features.check("avif"):
        yield "AVIF", in_boxes(encoded(SMALL, "AVIF"))
    try:
        import pillow_heif
    except ImportError:
        return
    buffer = io.BytesIO()
    pillow_heif.from_pillow(SMALL).save(buffer)
    yield "HEIC", in_boxes(buffer.getvalue())


def packed() -> Iterator[tuple[str, bytes]]:
    """Small pictures with something beside them that unpacks to much."""
    bomb = deflated(1 << 28)
    yield "profile", png(4, 4, 8, 2, chunk(b"iCCP", b"name\0\0" + bomb))
    yield "text", png(4, 4, 8, 2, chunk(b"zTXt", b"Comment\0\0" + bomb))
    yield "EXIF in a text", png(4, 4, 8, 2, chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb))
    yield "XMP", png(4, 4, 8, 2, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb))
    entity = b"".join(b'<!ENTITY a%d "%s">' % (i + 1, b"&a%d;" % i * 99) for i in range(9))
    laughs = b'<!DOCTYPE x [<!ENTITY a0 "a">' + entity + b"]><x MotionPhoto='1'>&a9;</x>"
    yield "XML", encoded(SMALL, "JPEG", xmp=laughs)
    yield "nested XML", encoded(SMALL, "JPEG", xmp=b"<x MotionPhoto='1'>" * 3000)
    scans = encoded(SMALL, "JPEG", progressive=True)
    last = scans[scans.rfind(b"\xff\xc4", 0, scans.rfind(b"\xff\xda")) : -2]
    yield "many scans", scans[:-2] + last * 20_000 + scans[-2:]
    yield "many pages", tiff_of_pages(20_000)


def main() -> None:
    bombs = [*claims(), *packed()]
    images.read(io.BytesIO(encoded(SMALL, "PNG")))  # what is loaded once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, data in bombs:
        try:
            became = ", ".join(("read", *images.read(io.BytesIO(data), max_pixels=100_000_000).lost))
        except images.ImageError as error:
            became = error.reason
        print(f"{name} ({len(data)} bytes): {became}")
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)


if __name__ == "__main__":
    sys.exit(main())
