"""PNG files by their chunks: those that the pixels need must be whole, the others harm nothing and stay."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from conftest import texture
from deblurgan import images
from deblurgan.images import ImageError, Picture

Chunk = tuple[bytes, bytes]

PIXELS = texture(6, 5)
TEXTS = [
    (b"tEXt", b"Author\0Jane Doe"),
    (b"zTXt", b"parameters\0\0" + zlib.compress(b"steps 20")),
    (b"iTXt", b"Title\0\0\0de\0Titel\0Stra\xc3\x9fe"),
    (b"tEXt", b"Author\0John Doe"),
]
LINEAR = [(b"gAMA", struct.pack(">I", 100000)), (b"cHRM", struct.pack(">8I", 31270, 32900, *[1000] * 6))]
SRGB_GAMMA = (b"gAMA", struct.pack(">I", 45455))
SRGB_PRIMARIES = (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
PQ = (b"cICP", bytes([9, 16, 0, 1]))
XMP_KEY = b"XML:com.adobe.xmp"


def packed(kind: bytes, content: bytes, *, sound: bool = True) -> bytes:
    checksum = zlib.crc32(kind + content) ^ (not sound)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def header(w: int, h: int, depth: int = 8, colour: int = 2, interlaced: int = 0) -> Chunk:
    return b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, interlaced)


def png(*chunks: Chunk) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed(*chunk) for chunk in (*chunks, (b"IEND", b"")))


def rows(values: np.ndarray) -> bytes:
    """The pixels of a PNG file, each row unfiltered."""
    return b"".join(b"\0" + row.tobytes() for row in values)


IHDR, IDAT = header(5, 6), (b"IDAT", zlib.compress(rows(PIXELS)))


def chunks_of(path: Path) -> list[Chunk]:
    data, at, found = path.read_bytes(), 8, []
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def read(path: Path, data: bytes) -> Picture:
    path.write_bytes(data)
    return images.read(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.png"


def rewritten(path: Path, *chunks: Chunk) -> list[Chunk]:
    """The chunks of the file that a picture between these chunks and its end becomes."""
    images.write(read(path, png(IHDR, *chunks, IDAT)), path)
    assert np.array_equal(images.read(path).pixels, PIXELS)
    return chunks_of(path)


# Damage


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pHYs", b"iCCP", b"eXIf", b"gAMA", b"prVt"])
@pytest.mark.parametrize("after", [False, True])
def test_a_damaged_chunk_beside_the_pixels_is_left_out(path: Path, kind: bytes, after: bool) -> None:
    damaged, pixels = packed(kind, b"key\0\0" + bytes(20), sound=False), packed(*IDAT)
    data = png(IHDR, IDAT)
    picture = read(path, data.replace(pixels, pixels + damaged if after else damaged + pixels))
    images.write(picture, path)
    assert picture.lost == (f"damaged {kind.decode()} chunk",)
    assert np.array_equal(images.read(path).pixels, PIXELS)
    assert kind not in dict(chunks_of(path))


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS", b"IDAT"])
def test_a_wrong_checksum_of_what_the_pixels_need_is_refused(path: Path, kind: bytes) -> None:
    palette, alpha = (b"PLTE", bytes(range(6))), (b"tRNS", b"\x80")
    index = zlib.compress(rows(np.array([[0, 1], [1, 0]], np.uint8)))
    chunks = [header(2, 2, colour=3), palette, alpha, (b"IDAT", index)]
    data = png(*chunks)
    assert read(path, data).alpha is not None
    content = dict(chunks)[kind]
    with pytest.raises(ImageError, match=f"checksum of {kind.decode()} is wrong"):
        read(path, data.replace(packed(kind, content), packed(kind, content, sound=False)))


@pytest.mark.parametrize("after", [(), TEXTS])
def test_the_end_chunk_may_be_missing_and_no_more(path: Path, after: list[Chunk]) -> None:
    data = png(IHDR, IDAT, *after)
    with_pixels = len(data) - len(png(*after)) + 8
    for size in range(with_pixels - 30, len(data)):
        if size < with_pixels:
            with pytest.raises(ImageError, match="damaged or truncated"):
                read(path, data[:size])
        else:
            assert np.array_equal(read(path, data[:size]).pixels, PIXELS)


def test_what_follows_the_end_is_left_out(path: Path) -> None:
    picture = read(path, png(IHDR, IDAT) + packed(*TEXTS[0]) + b"more")
    assert np.array_equal(picture.pixels, PIXELS)
    assert picture.png_chunks == ()
    assert picture.lost == ("what follows the picture in its file",)
    assert read(path, png(IHDR, IDAT) + bytes(20)).lost == ()


def adam7(values: np.ndarray) -> list[np.ndarray]:
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    return [values[y::dy, x::dx] for y, x, dy, dx in starts]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 2), (9, 13), (16, 8)])
def test_a_missing_row_is_refused(path: Path, depth: int, interlaced: bool, size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 2**depth, size, np.uint8)
    passes = [part for part in (adam7(values) if interlaced else [values]) if part.size]
    bits = [[np.unpackbits(row[:, None], axis=1)[:, 8 - depth :].ravel() for row in part] for part in passes]
    lines = [b"\0" + np.packbits(row).tobytes() for part in bits for row in part]
    head = header(size[1], size[0], depth, 0, int(interlaced))
    picture = read(path, png(head, (b"IDAT", zlib.compress(b"".join(lines)))))
    assert np.array_equal(picture.pixels[..., 0], values * np.uint8(255 // (2**depth - 1)))
    with pytest.raises(ImageError, match="bytes of the pixels are missing"):
        read(path, png(head, (b"IDAT", zlib.compress(b"".join(lines[:-1])))))


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_a_missing_byte_of_any_colour_is_refused(path: Path, colour: int, channels: int) -> None:
    values = rows(np.arange(12 * channels, dtype=np.uint8).reshape(4, 3 * channels))
    assert read(path, png(header(3, 4, colour=colour), (b"IDAT", zlib.compress(values)))).pixels.shape == (4, 3, 3)
    with pytest.raises(ImageError, match="1 bytes of the pixels are missing"):
        read(path, png(header(3, 4, colour=colour), (b"IDAT", zlib.compress(values[:-1]))))


def test_pixels_may_lie_in_any_number_of_chunks(path: Path) -> None:
    values = texture(700, 900)  # more than is unpacked at once
    data = zlib.compress(rows(values), 1)
    parts = [(b"IDAT", data[at : at + 5000]) for at in range(0, len(data), 5000)]
    assert np.array_equal(read(path, png(header(900, 700), *parts, (b"IDAT", b""))).pixels, values)
    with pytest.raises(ImageError):
        read(path, png(header(900, 700), *parts[:-1]))


# Texts


def test_texts_stay_byte_for_byte_and_in_order(path: Path) -> None:
    cut = (b"zTXt", b"cut\0\0" + zlib.compress(bytes(1000))[:-7])
    private = (b"prVt", b"safe to copy")
    images.write(read(path, png(IHDR, *TEXTS, cut, IDAT, private, *TEXTS[:1])), path)
    assert chunks_of(path)[1:-2] == [*TEXTS, cut, private, *TEXTS[:1]]
    with Image.open(path) as image:
        image.load()
        assert image.text["parameters"] == "steps 20"


@pytest.mark.parametrize(
    "large",
    [(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 21))), (b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(1 << 21)))],
    ids=["zTXt", "iTXt"],
)
def test_a_text_that_pillow_refuses_stays(path: Path, large: Chunk) -> None:
    assert large in rewritten(path, large)


@pytest.mark.parametrize(
    "head", [b"zTXta\0\0", b"iTXt" + XMP_KEY + b"\0\1\0\0\0", b"iCCPa\0\0", b"zTXtRaw profile type exif\0\0"]
)
def test_a_text_that_unpacks_to_much_costs_no_memory(path: Path, head: bytes) -> None:
    path.write_bytes(png(IHDR, (head[:4], head[4:] + zlib.compress(bytes(100 << 20), 1)), IDAT))
    tracemalloc.start()
    try:
        assert np.array_equal(images.read(path).pixels, PIXELS)
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


def test_other_formats_are_written_without_texts(path: Path) -> None:
    source = read(path, png(IHDR, *TEXTS, SRGB_GAMMA, (b"prVt", b"private"), IDAT))
    assert images.write(source, path) == ()
    assert images.write(source, path.with_suffix(".tif")) == ("texts of the PNG file", "prVt chunk")
    picture = images.read(path.with_suffix(".tif"))
    assert np.array_equal(picture.pixels, PIXELS)
    assert picture.png_chunks == ()


@pytest.mark.parametrize("kind", [b"tIME", b"sBIT", b"hIST", b"caBX", b"iDOT"])
def test_what_held_for_the_old_pixels_is_left_out(path: Path, kind: bytes) -> None:
    assert kind not in dict(rewritten(path, (kind, bytes(8))))
    lost = read(path, png(IHDR, (kind, bytes(8)), IDAT)).lost
    assert lost == (("caBX chunk",) if kind == b"caBX" else ())


def test_a_background_stays_where_it_is_the_same_number(path: Path) -> None:
    background = (b"bKGD", bytes([0, 1, 0, 2, 0, 3]))
    assert background in rewritten(path, background)
    palette = png(header(1, 1, colour=3), (b"PLTE", bytes(3)), (b"bKGD", b"\0"), (b"IDAT", zlib.compress(b"\0\0")))
    images.write(read(path, palette), path)
    assert b"bKGD" not in dict(chunks_of(path))


def test_resolution_and_aspect_stay(path: Path) -> None:
    aspect, metres = (b"pHYs", struct.pack(">IIB", 2, 1, 0)), (b"pHYs", struct.pack(">IIB", 11811, 5906, 1))
    assert aspect in rewritten(path, aspect)
    assert metres in rewritten(path, metres)
    assert images.read(path).dpi == pytest.approx((300, 150), abs=0.02)


@pytest.mark.parametrize("a_metre", [10, 10_000_000])
def test_a_resolution_that_other_formats_cannot_hold_stays_a_chunk(path: Path, a_metre: int) -> None:
    scale = (b"pHYs", struct.pack(">IIB", a_metre, a_metre, 1))
    assert scale in rewritten(path, scale)
    assert images.write(images.read(path), path.with_suffix(".jpg")) == ("pHYs chunk",)


# EXIF, XMP and profiles


def exif_block(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    return exif.tobytes()


def raw_profile(name: bytes, block: bytes) -> bytes:
    digits = block.hex().encode()
    lines = b"\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    return b"Raw profile type " + name + b"\0\n" + name + b"\n%8d\n" % len(block) + lines + b"\n"


XMP = b'<x xmp:Rating="5" tiff:Orientation="6"/>'


@pytest.mark.parametrize(
    ("name", "block"),
    [
        (b"exif", exif_block(6)),
        (b"exif", exif_block(6)[6:]),
        (b"APP1", exif_block(6)),
        (b"xmp", XMP),
        (b"APP1", b"http://ns.adobe.com/xap/1.0/\0" + XMP),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_exif_and_xmp_in_a_text_are_read_as_such(path: Path, name: bytes, block: bytes, compressed: bool) -> None:
    key, _, text = raw_profile(name, block).partition(b"\0")
    chunk = (b"zTXt", key + b"\0\0" + zlib.compress(text)) if compressed else (b"tEXt", key + b"\0" + text)
    images.write(read(path, png(IHDR, IDAT, chunk)), path)
    kinds = [kind for kind, _ in chunks_of(path)]
    assert kinds.count(b"tEXt") + kinds.count(b"zTXt") == 0  # which would turn the picture a second time
    picture = images.read(path)
    assert np.array_equal(picture.pixels, np.rot90(PIXELS, -1))
    if block is not XMP and not block.endswith(XMP):
        assert picture.exif is not None
        assert b"Maker" in picture.exif
    else:
        assert picture.xmp == b'<x xmp:Rating="5"/>'


@pytest.mark.parametrize("text", [b"", b"\nexif\n 4\nxyz", b"\nexif\n"])
def test_a_raw_profile_that_cannot_be_read_stays_a_text(path: Path, text: bytes) -> None:
    chunk = (b"tEXt", b"Raw profile type exif\0" + text)
    assert chunk in rewritten(path, chunk)


def test_an_exif_chunk_overrules_a_text(path: Path) -> None:
    chunks = [(b"tEXt", raw_profile(b"exif", exif_block(3))), (b"eXIf", exif_block(6)[6:])]
    for order in (chunks, chunks[::-1]):
        assert np.array_equal(read(path, png(IHDR, *order, IDAT)).pixels, np.rot90(PIXELS, -1))


def test_large_compressed_xmp_and_profile_stay(path: Path) -> None:
    xmp = b"<x>" + bytes(range(32, 60)) * 80_000 + b"</x>"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(2 << 20)
    chunks = [
        (b"iTXt", XMP_KEY + b"\0\1\0\0\0" + zlib.compress(xmp)),
        (b"iCCP", b"wide\0\0" + zlib.compress(profile)),
    ]
    picture = read(path, png(IHDR, *chunks, IDAT))
    assert (picture.xmp, picture.icc) == (xmp, profile)
    images.write(picture, path)
    again = images.read(path)
    assert (again.xmp, again.icc) == (xmp, profile)


# Colours


@pytest.mark.parametrize("chunks", [LINEAR, [SRGB_GAMMA], [(b"sRGB", b"\1")], [PQ, (b"mDCV", bytes(24)), *LINEAR]])
def test_colour_chunks_stay_before_the_pixels(path: Path, chunks: list[Chunk]) -> None:
    written = rewritten(path, *chunks)
    assert written[1 : 1 + len(chunks)] == chunks
    assert written[-2][0] == b"IDAT"


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".bmp"])
def test_other_formats_refuse_colours_they_cannot_hold(path: Path, suffix: str) -> None:
    with pytest.raises(ImageError, match="cannot hold colours given by a cICP, gAMA or cHRM chunk: write PNG"):
        images.write(read(path, png(IHDR, *LINEAR, IDAT)), path.with_suffix(suffix))
    assert list(path.parent.iterdir()) == [path]


PROFILE = (b"iCCP", b"sRGB\0\0" + zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()))
SAYS_SRGB = (b"cICP", bytes([1, 13, 0, 1]))
NEARLY_SRGB = [
    (b"gAMA", struct.pack(">I", 45000)),
    (b"cHRM", struct.pack(">8I", 31271, 32902, 63990, 33010, 30010, 59990, 15000, 6000)),
]


@pytest.mark.parametrize(
    ("chunks", "own"),
    [
        ([SRGB_GAMMA], False),
        ([SRGB_GAMMA, SRGB_PRIMARIES], False),
        (NEARLY_SRGB, False),
        (LINEAR[:1], True),
        ([(b"gAMA", struct.pack(">I", 55556))], True),
        ([SRGB_GAMMA, LINEAR[1]], True),
        ([LINEAR[1]], True),
        ([(b"sRGB", b"\0"), *LINEAR], False),
        ([PROFILE, *LINEAR], False),
        ([SAYS_SRGB, *LINEAR], False),
        ([PQ], True),
        ([PQ, PROFILE], True),
        ([PQ, (b"sRGB", b"\0")], True),
        ([(b"gAMA", b"\0")], False),
    ],
)
def test_only_colours_other_than_the_profile_or_srgb_say_are_refused(
    path: Path, chunks: list[Chunk], own: bool
) -> None:
    picture, target = read(path, png(IHDR, *chunks, IDAT)), path.with_suffix(".tif")
    if own:
        with pytest.raises(ImageError, match="cannot hold colours"):
            images.write(picture, target)
    else:
        images.write(picture, target)
        assert np.array_equal(images.read(target).pixels, PIXELS)


def test_colours_of_an_opened_image_stay_or_are_refused(path: Path) -> None:
    chunks = [*LINEAR, (b"sRGB", b"\2")]
    for count in (2, 3):
        with Image.open(io.BytesIO(png(IHDR, *chunks[:count], IDAT))) as image:
            picture = images.from_pil(image)
            again = images.from_pil(images.to_pil_like(picture, image))
        assert again.png_chunks == picture.png_chunks == tuple(chunks[:count])
    images.write(picture, path)
    assert chunks_of(path)[1:4] == chunks
