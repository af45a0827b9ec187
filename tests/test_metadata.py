"""What a file says beside its pixels comes back as it was, or is said to be left out."""

from __future__ import annotations

import hashlib
import io
import struct
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, IptcImagePlugin

from deblurgan import images
from deblurgan.images import Picture

CARRIERS = (".jpg", ".png", ".tif", ".webp")
BLANK = Image.new("RGB", (8, 4), (90, 120, 150))
SIGN = "\u00a9 2024 Anne"
XMP_HEAD, EXTENSION_HEAD = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
IPTC = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x0e\x1c\x02\x78\0\x09Sharp cat"
FOLLOWING = "what follows the picture in its file (gain map, video, further pictures)"
Tag = tuple[int, int, int, bytes]  # tag, type, count, value


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def directory(order: str, at: int, tags: list[Tag]) -> bytes:
    """A TIFF directory at an offset, and behind it the values that are longer than 4 bytes."""
    cells, values = struct.pack(order + "H", len(tags)), b""
    free = at + 2 + 12 * len(tags) + 4
    for tag, kind, count, value in tags:
        cell = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", free + len(values))
        cells += struct.pack(order + "HHI", tag, kind, count) + cell
        values += value + bytes(len(value) % 2) if len(value) > 4 else b""
    return cells + bytes(4) + values


def exif(order: str, tags: list[Tag], nested: dict[int, list[Tag]] | None = None) -> bytes:
    """An EXIF block with directories that the given tags point to."""
    nested = nested or {}
    pointers: dict[int, bytes] = dict.fromkeys(nested, bytes(4))
    for _ in range(2):  # the second time with the offsets that the first time has found
        first = sorted(tags + [(tag, 4, 1, value) for tag, value in pointers.items()])
        block = directory(order, 8, first)
        for tag, inner in nested.items():
            block += bytes(len(block) % 2)
            pointers[tag] = struct.pack(order + "I", 8 + len(block))
            block += directory(order, 8 + len(block), inner)
    return b"Exif\0\0" + {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8) + block


def parsed(data: bytes, at: int | None = None) -> dict[int, Any]:
    """All tags of a TIFF file or EXIF block: type, count and bytes, or the directory that the tag points to."""
    data = data.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    at = struct.unpack_from(order + "I", data, 4)[0] if at is None else at
    found: dict[int, Any] = {}
    for i in range(struct.unpack_from(order + "H", data, at)[0]):
        tag, kind, count, offset = struct.unpack_from(order + "HHII", data, at + 2 + 12 * i)
        size = count * {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}[kind]
        start = offset if size > 4 else at + 2 + 12 * i + 8
        found[tag] = parsed(data, offset) if tag in (34665, 34853, 40965) else (kind, count, data[start : start + size])
    return found


def segments(jpeg: bytes) -> list[tuple[int, bytes]]:
    """Marker and payload of a JPEG's segments before its pixels."""
    found, at = [], 2
    while jpeg[at + 1] != 0xDA:
        length = struct.unpack_from(">H", jpeg, at + 2)[0]
        found.append((jpeg[at + 1], jpeg[at + 4 : at + 2 + length]))
        at += 2 + length
    return found


def with_segments(jpeg: bytes, *added: tuple[int, bytes]) -> bytes:
    inserted = b"".join(bytes([0xFF, marker]) + struct.pack(">H", 2 + len(data)) + data for marker, data in added)
    return jpeg[:20] + inserted + jpeg[20:]


def rewritten(tmp_path: Path, data: bytes, source: str, target: str) -> tuple[bytes, tuple[str, ...]]:
    """The file that a file of these bytes becomes, and what that is said to lack."""
    (tmp_path / f"in{source}").write_bytes(data)
    lacking = images.write(images.read(tmp_path / f"in{source}"), tmp_path / f"out{target}")
    return (tmp_path / f"out{target}").read_bytes(), lacking


def jpeg_of(packet: bytes) -> bytes:
    return with_segments(encoded(BLANK, "JPEG"), (0xE1, XMP_HEAD + packet))


# EXIF and TIFF tags

ODD_TAGS: list[Tag] = [
    (270, 2, 4, b"L\xe4h\0"),  # Latin-1
    (271, 2, 3, b"ab\0"),
    (315, 2, 13, SIGN.encode()[:12] + b"\0"),
    (33432, 2, len(SIGN.encode()) + 1, SIGN.encode() + b"\0"),
    (40091, 1, 6, "\u00dcb\0".encode("utf-16-le")),  # XPTitle
    (65000, 6, 3, b"\xff\x80\x01"),
    (65001, 11, 2, struct.pack("<ff", 0.1, -3e38)),
    (65002, 10, 1, struct.pack("<ii", -300000, 7000)),
    (65003, 12, 1, struct.pack("<d", 1e-300)),
    (65004, 8, 2, b"\xfe\xff\x02\0"),
    (65005, 7, 5, b"\0\1\2\3\4"),
    (65006, 2, 4, b"\xff\xfe\xfd\0"),
]
CAMERA: list[Tag] = [
    (33434, 5, 1, struct.pack("<II", 10, 80000)),
    (37500, 7, 9, b"maker\0\xff\0\1"),
    (37510, 7, 14, b"UNICODE\0\xdc\0b\0\xa9\0"),
    (41988, 5, 1, struct.pack("<II", 0, 0)),
]
PLACE: list[Tag] = [(1, 2, 2, b"N\0"), (2, 5, 3, struct.pack("<6I", 51, 1, 30, 1, 2600, 100))]
ODD_EXIF = exif("<", ODD_TAGS, {34665: CAMERA, 34853: PLACE})


def about(tags: dict[int, Any]) -> dict[int, Any]:
    """The tags of a TIFF file but for those of its pixels."""
    return {tag: value for tag, value in tags.items() if not (256 <= tag < 280 or tag == 284) or tag in (270, 271, 272)}


@pytest.mark.parametrize("target", CARRIERS)
@pytest.mark.parametrize("source", CARRIERS)
def test_every_tag_comes_back_as_the_same_bytes(tmp_path: Path, source: str, target: str) -> None:
    made = tmp_path / f"made{source}"
    images.write(Picture(np.asarray(BLANK), exif=ODD_EXIF), made)
    images.write(images.read(made), tmp_path / f"out{target}")
    again = images.read(tmp_path / f"out{target}").exif
    assert again is not None
    assert parsed(again) == parsed(ODD_EXIF)


def pillow_tiff(**options: Any) -> bytes:
    tags = Image.Exif()
    tags.load(exif("<", [(271, 2, 6, b"Maker\0"), (65000, 3, 3, b"\1\0\2\0\3\0")], {34665: CAMERA, 34853: PLACE}))
    return encoded(BLANK, "TIFF", exif=tags, **options)


def test_tags_stay_in_a_tiff_of_anothers_making(tmp_path: Path) -> None:
    data, lacking = rewritten(tmp_path, pillow_tiff(), ".tif", ".tif")
    assert about(parsed(data)) == about(parsed(pillow_tiff()))
    assert about(parsed(data)).keys() == {271, 65000, 34665, 34853}
    assert lacking == ()


def test_big_tiff_keeps_its_tags(tmp_path: Path) -> None:
    data = pillow_tiff(big_tiff=True)
    assert data.startswith(b"II+\0")
    assert about(parsed(rewritten(tmp_path, data, ".tif", ".tif")[0])) == about(parsed(pillow_tiff()))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_tiff_grows_from_the_exif_block(tmp_path: Path, mode: str, order: str) -> None:
    block = exif(
        order, [(271, 2, 6, b"Maker\0"), (305, 2, 7, b"Editor\0")], {34665: [(37500, 7, 9, b"maker\0\xff\0\1")]}
    )
    values = np.random.default_rng(0).integers(0, 256, (300, 211, len(mode)), dtype=np.uint8)
    image = Image.fromarray(values if len(mode) > 1 else values[..., 0])
    image.info["exif"] = block
    images.write(images.from_pil(image), tmp_path / "out.tif")
    data = (tmp_path / "out.tif").read_bytes()
    assert data[8:].startswith(block[14:])  # maker notes may point to any place in the block
    assert about(parsed(data)).keys() >= {271, 305, 34665}
    with Image.open(tmp_path / "out.tif") as again:
        assert again.info["compression"] == "tiff_adobe_deflate"
        assert again.n_frames == 1
        assert again.mode == mode
        assert np.array_equal(np.asarray(again), np.asarray(image))


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.filterwarnings("ignore:Tag data larger")
def test_tags_that_lie_over_one_another_are_refused(tmp_path: Path) -> None:
    """Each would be copied: together they would fill the memory."""
    data = bare_tiff(*((40000 + i, 7, 5000, b"%05d" % i * 1000) for i in range(9)))
    assert images.read(saved(tmp_path / "ordinary.tif", data)).exif is not None
    first = data.index(struct.pack("<HHI", 40000, 7, 5000)) + 8
    hostile = bytearray(data)
    for at in range(first, first + 9 * 12, 12):
        hostile[at : at + 4] = data[first : first + 4]
    del hostile[-20000:]
    with pytest.raises(images.ImageError, match="over one another"):
        images.read(saved(tmp_path / "hostile.tif", bytes(hostile)))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(("mark", "order"), [(b"II*\0", "<"), (b"MM\0*", ">"), (b"II\0*", "<")])
def test_orientation_is_found_behind_any_head(tmp_path: Path, format: str, heads: int, mark: bytes, order: str) -> None:
    block = exif(order, [(271, 2, 6, b"Maker\0"), (274, 3, 1, struct.pack(order + "H", 6))])
    data = encoded(BLANK, format, exif=b"Exif\0\0" * (heads - 1) + block[:6] + mark + block[10:])
    with Image.open(io.BytesIO(data)) as image:
        assert ImageOps.exif_transpose(image).size == (4, 8)  # viewers turn it
    picture = images.read(saved(tmp_path / "picture", data))
    assert picture.pixels.shape == (8, 4, 3)
    assert picture.exif is not None
    assert parsed(picture.exif) == {271: (2, 6, b"Maker\0")}
    assert picture.lost == ()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    ("block", "turned"),
    [
        (exif("<", [(274, 3, 1, b"\0\0")]), False),
        (exif("<", [(274, 3, 1, b"\x09\0")]), False),
        (exif("<", [(274, 8, 1, b"\x06\0")]), True),
        (exif("<", [(274, 4, 1, b"\x06\0\0\0")]), True),
        (exif("<", [(274, 3, 1, b"\x06\0")]).replace(b"\x08\0\0\0\1\0", b"\x08\0\0\0\5\0"), True),  # cut short
        (exif("<", [(271, 2, 4, b"abc\0")])[:-4] + b"\x1a\0\0\0" + directory("<", 26, [(274, 3, 1, b"\x06\0")]), False),
    ],
    ids=["zero", "nine", "signed", "long", "cut", "thumbnail's"],
)
def test_odd_orientations_are_taken_as_viewers_take_them(block: bytes, turned: bool) -> None:
    with Image.open(io.BytesIO(encoded(BLANK, "JPEG", exif=block))) as image:
        assert ImageOps.exif_transpose(image).size == ((4, 8) if turned else (8, 4))
        assert images.from_pil(image).pixels.shape[:2] == ((8, 4) if turned else (4, 8))


@pytest.mark.parametrize("block", [b"Exif\0\0\0\0II*\0\x08\0\0\0\0\0", b"Exif\0\0rubbish"], ids=["padded", "rubbish"])
def test_unreadable_exif_is_left_out_and_said(tmp_path: Path, block: bytes) -> None:
    data, lacking = rewritten(tmp_path, encoded(BLANK, "JPEG", exif=block), ".jpg", ".jpg")
    assert b"Exif\0\0" not in data
    assert lacking == ("unreadable EXIF",)


@pytest.mark.parametrize("source", [".png", ".tif", ".webp", ".jpg"])
def test_exif_longer_than_a_segment(tmp_path: Path, source: str) -> None:
    long = np.random.default_rng(0).bytes(150_000)
    block = exif("<", [(271, 2, 6, b"Maker\0"), (65000, 7, len(long), long)])
    images.write(Picture(np.asarray(BLANK), exif=block), tmp_path / f"in{source}")
    images.write(images.read(tmp_path / f"in{source}"), tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.getexif()[65000] == long


# Resolution


def bare_tiff(*tags: Tag) -> bytes:
    """A grey TIFF of 1x1 with no more tags than it needs, and these."""
    needed = [(tag, 3, 1, struct.pack("<H", value)) for tag, value in {256: 1, 257: 1, 258: 8, 259: 1, 262: 1}.items()]
    needed += [(273, 4, 1, struct.pack("<I", 8)), (278, 3, 1, b"\1\0"), (279, 4, 1, struct.pack("<I", 1))]
    return b"II*\0" + struct.pack("<I", 10) + b"\x80\0" + directory("<", 10, sorted([*needed, *tags]))


def inches(x: tuple[int, int], y: tuple[int, int], unit: int) -> list[Tag]:
    return [(282, 5, 1, struct.pack("<II", *x)), (283, 5, 1, struct.pack("<II", *y)), (296, 3, 1, bytes([unit, 0]))]


@pytest.mark.parametrize("target", [".jpg", ".png", ".tif", ".bmp"])
@pytest.mark.parametrize(
    "tags", [[], inches((1, 1), (1, 1), 1), inches((300, 0), (300, 0), 2)], ids=["none", "aspect", "0"]
)
def test_no_resolution_is_made_up(tmp_path: Path, tags: list[Tag], target: str) -> None:
    source = bare_tiff(*tags)
    data, _ = rewritten(tmp_path, source, ".tif", target)
    with Image.open(io.BytesIO(data)) as image:
        if target == ".tif":
            assert {tag: value for tag, value in parsed(data).items() if tag in (282, 283, 296)} == {
                tag: (kind, count, value) for tag, kind, count, value in tags
            }
        elif target == ".jpg":
            assert data[6:11] == b"JFIF\0"
            assert data[13] == 0  # no unit
        else:
            assert image.info.get("dpi", (0, 0)) == (0, 0)


@pytest.mark.parametrize(
    ("tags", "dpi"),
    [
        (inches((3005, 10), (150, 1), 2), (300.5, 150)),
        (inches((100, 1), (50, 1), 3), (254, 127)),
        (inches((2999994, 10000), (72, 1), 2)[:2], (299.9994, 72)),  # an inch is the unit by default
    ],
)
def test_resolution_of_a_tiff_stays_the_same_bytes(tmp_path: Path, tags: list[Tag], dpi: tuple[float, float]) -> None:
    source = bare_tiff(*tags)
    assert images.read(saved(tmp_path / "in.tif", source)).dpi == pytest.approx(dpi)
    data, _ = rewritten(tmp_path, source, ".tif", ".tif")
    assert {tag: parsed(data).get(tag) for tag in (282, 283, 296)} == {
        tag: parsed(source).get(tag) for tag in (282, 283, 296)
    }


@pytest.mark.parametrize("jfif", [True, False])
@pytest.mark.parametrize(("tags", "dpi"), [([], None), (inches((300, 1), (150, 1), 2), (300, 150))])
def test_resolution_of_a_jpeg_whose_header_has_none(
    jfif: bool, tags: list[Tag], dpi: tuple[float, float] | None
) -> None:
    data = encoded(BLANK, "JPEG", exif=exif("<", [(271, 2, 6, b"Maker\0"), *tags]))
    data = data if jfif else data[:2] + data[20:]
    with Image.open(io.BytesIO(data)) as image:
        assert images.from_pil(image).dpi == dpi


def test_fractions_of_a_resolution_stay_in_a_tiff(tmp_path: Path) -> None:
    images.write(Picture(np.asarray(BLANK), dpi=(299.9994, 72.25)), tmp_path / "out.tif")
    with Image.open(tmp_path / "out.tif") as image:
        assert image.info["dpi"] == pytest.approx((299.9994, 72.25), abs=1e-6)


def test_webp_says_that_it_holds_no_resolution(tmp_path: Path) -> None:
    assert images.write(Picture(np.asarray(BLANK), dpi=(300, 300)), tmp_path / "out.webp") == ("resolution",)


# Segments of JPEG files


def test_iptc_and_comments_stay_in_a_jpeg(tmp_path: Path) -> None:
    kept = [(0xED, IPTC), (0xFE, b"made by hand"), (0xED, b"Photoshop 3.0\0more"), (0xFE, b"\xe9t\xe9")]
    data, lacking = rewritten(tmp_path, with_segments(encoded(BLANK, "JPEG"), *kept), ".jpg", ".jpg")
    assert [segment for segment in segments(data) if segment[0] in (0xED, 0xFE)] == kept
    assert lacking == ()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (".png", ("comment", "IPTC and Photoshop data")),
        (".webp", ("comment", "IPTC and Photoshop data")),
        (".tif", ("comment",)),
        (".bmp", ("comment", "IPTC and Photoshop data")),
    ],
)
def test_other_formats_say_that_they_lack_comments_and_iptc(
    tmp_path: Path, target: str, expected: tuple[str, ...]
) -> None:
    source = with_segments(encoded(BLANK, "JPEG"), (0xED, IPTC), (0xFE, b"made by hand"))
    assert rewritten(tmp_path, source, ".jpg", target)[1] == expected


def test_iptc_goes_from_jpeg_to_tiff_and_back(tmp_path: Path) -> None:
    source = with_segments(encoded(BLANK, "JPEG"), (0xED, IPTC))
    tiff, _ = rewritten(tmp_path, source, ".jpg", ".tif")
    assert parsed(tiff)[34377][2] == IPTC.removeprefix(b"Photoshop 3.0\0")
    jpeg, lacking = rewritten(tmp_path, tiff, ".tif", ".jpg")
    assert (0xED, IPTC) in segments(jpeg)
    assert lacking == ()


def test_iptc_of_a_tiff_without_photoshops_resources_goes_into_a_jpeg(tmp_path: Path) -> None:
    caption = b"\x1c\x02\x78\0\x0aSharp cats"
    jpeg, lacking = rewritten(tmp_path, bare_tiff((33723, 7, len(caption), caption)), ".tif", ".jpg")
    assert lacking == ()
    for data in (jpeg, rewritten(tmp_path, jpeg, ".jpg", ".tif")[0]):
        with Image.open(io.BytesIO(data)) as image:
            assert IptcImagePlugin.getiptcinfo(image) == {(2, 120): b"Sharp cats"}


def test_long_photoshop_resources_of_a_tiff_take_several_segments(tmp_path: Path) -> None:
    resources = b"8BIM" + np.random.default_rng(0).bytes(100_000)
    jpeg, _ = rewritten(tmp_path, bare_tiff((34377, 7, len(resources), resources)), ".tif", ".jpg")
    parts = [data.removeprefix(b"Photoshop 3.0\0") for marker, data in segments(jpeg) if marker == 0xED]
    assert b"".join(parts) == resources


def test_comment_of_a_gif_goes_into_a_jpeg(tmp_path: Path) -> None:
    jpeg, _ = rewritten(tmp_path, encoded(BLANK, "GIF", comment=b"hand-made"), ".gif", ".jpg")
    assert (0xFE, b"hand-made") in segments(jpeg)


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    source = with_segments(
        encoded(BLANK, "JPEG"),
        (0xE1, b"FLIR\0\1\0\0"),
        (0xEE, b"Adobe\0\x64\0\0\0\0\1"),
        (0xEB, b"JP\0\1"),
        (0xEB, b"JP\0\2"),
        (0xE2, b"ICC_PROFILE\0\2\2half"),
    )
    data, lacking = rewritten(tmp_path, source, ".jpg", ".jpg")
    assert lacking == ("APP1 segment", "APP11 segment", "incomplete colour profile")
    assert {marker for marker, _ in segments(data)} & {0xE1, 0xE2, 0xEB, 0xEE} == set()


def test_bmp_says_what_it_lacks(tmp_path: Path) -> None:
    picture = Picture(np.asarray(BLANK), exif=ODD_EXIF, icc=b"profile", xmp=b"<x/>", dpi=(72, 72))
    assert images.write(picture, tmp_path / "out.bmp") == ("EXIF", "XMP", "colour profile")


def test_layers_of_a_tiff_are_not_kept_and_that_is_said(tmp_path: Path) -> None:
    source = bare_tiff((305, 2, 7, b"Editor\0"), (37724, 7, 6, b"layers"))
    for target in CARRIERS:
        data, lacking = rewritten(tmp_path, source, ".tif", target)
        assert b"Editor" in data
        assert b"layers" not in data
        assert lacking == ("Photoshop layers",)


@pytest.mark.parametrize(("channels", "mode"), [(4, "RGB"), (2, "L"), (5, "RGBA")])
def test_further_channels_of_a_tiff_are_said(tmp_path: Path, channels: int, mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (4, 8, channels), dtype=np.uint8)
    extra = {4: [0], 2: [0], 5: [2, 0]}[channels]
    tags: list[Tag] = [
        (256, 3, 1, b"\x08\0"),
        (257, 3, 1, b"\x04\0"),
        (258, 3, channels, struct.pack(f"<{channels}H", *[8] * channels)),
        (262, 3, 1, bytes([1 if channels == 2 else 2, 0])),
        (273, 4, 1, struct.pack("<I", 8)),
        (277, 3, 1, bytes([channels, 0])),
        (279, 4, 1, struct.pack("<I", values.size)),
        (338, 3, len(extra), struct.pack(f"<{len(extra)}H", *extra)),
    ]
    at = 8 + values.size
    source = b"II*\0" + struct.pack("<I", at) + values.tobytes() + directory("<", at, tags)
    data, lacking = rewritten(tmp_path, source, ".tif", ".png")
    assert lacking == ("further channels",)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == mode
        assert np.array_equal(np.asarray(image).reshape(4, 8, -1), values[..., : len(mode)])


@pytest.mark.parametrize(("x", "y", "expected"), [(2, 1, ("aspect of the pixels",)), (1, 1, ())])
def test_the_aspect_of_a_jpegs_pixels_is_said(tmp_path: Path, x: int, y: int, expected: tuple[str, ...]) -> None:
    data = encoded(BLANK, "JPEG")
    source = data[:13] + struct.pack(">BHH", 0, x, y) + data[18:]
    assert rewritten(tmp_path, source, ".jpg", ".jpg")[1] == expected


def test_extensions_of_a_gif_are_said(tmp_path: Path) -> None:
    data = encoded(BLANK, "GIF")
    for name, lacking in ((b"XMP DataXMP", ("XMP Data extension",)), (b"NETSCAPE2.0", ())):
        source = data[:-1] + b"!\xff\x0b" + name + b"\x03\1\0\0\0;"
        assert rewritten(tmp_path, source, ".gif", ".png")[1] == lacking


def test_the_profile_of_a_bmp_is_said(tmp_path: Path) -> None:
    pixels, profile = np.arange(4 * 3 * 8, dtype=np.uint8).tobytes(), b"profile"
    for kind, expected in ((b"DEBM", ("colour profile",)), (b"BGRs", ())):
        head = struct.pack("<IiiHHIIiiII", 124, 8, -4, 1, 24, 0, len(pixels), 0, 0, 0, 0) + bytes(16) + kind + bytes(48)
        head += struct.pack("<4I", 4, 124 + len(pixels), len(profile), 0)
        file = struct.pack("<2sIII", b"BM", 14 + len(head) + len(pixels) + len(profile), 0, 14 + len(head))
        assert rewritten(tmp_path, file + head + pixels + profile, ".bmp", ".png")[1] == expected


def test_unknown_chunks_of_a_webp_are_said(tmp_path: Path) -> None:
    data = encoded(BLANK, "WEBP", lossless=True, exif=ODD_EXIF)
    body = data[8:] + b"C2PA\x03\0\0\0abc\0"
    source = b"RIFF" + struct.pack("<I", len(body)) + body
    assert rewritten(tmp_path, data, ".webp", ".webp")[1] == ()
    assert rewritten(tmp_path, source, ".webp", ".webp")[1] == ("C2PA chunk",)
    assert rewritten(tmp_path, source + b"video", ".webp", ".webp")[1] == ("C2PA chunk", FOLLOWING)
    with Image.open(io.BytesIO(source)) as image:
        image.load()
        assert images.from_pil(image).lost == ()


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b"", ()),
        (bytes(700), ()),
        (encoded(BLANK, "JPEG"), (FOLLOWING,)),
        (b"\0\0\0\x18ftypmp42", (FOLLOWING,)),
        (bytes(3) + b"SEFT", (FOLLOWING,)),
    ],
    ids=["nothing", "padding", "picture", "video", "trailer"],
)
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"exif": ODD_EXIF}, {"restart_marker_blocks": 1}], ids=str
)
def test_what_follows_the_picture_is_said(
    tmp_path: Path, options: dict[str, Any], tail: bytes, expected: tuple[str, ...]
) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    assert rewritten(tmp_path, encoded(noise, "JPEG", **options) + tail, ".jpg", ".jpg")[1] == expected


def test_second_picture_of_an_mpo_is_said(tmp_path: Path) -> None:
    source = encoded(BLANK, "MPO", save_all=True, append_images=[BLANK])
    data, lacking = rewritten(tmp_path, source, ".mpo", ".jpg")
    assert b"MPF\0" not in data
    assert lacking == (FOLLOWING,)


# XMP

PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" %s
 xmp:Rating="5" photoshop:Instructions="one&#xA;two &lt;b&gt; &quot;"><dc:creator>\u00dcmit &amp; Co.</dc:creator>%s
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""
HDRGM = "xmlns:hdrgm='http://ns.adobe.com/hdr-gain-map/1.0/'"
CONTAINER = (
    'xmlns:Container="http://ns.google.com/photos/1.0/container/" '
    'xmlns:Item="http://ns.google.com/photos/1.0/container/item/"'
)
ITEMS = (
    '<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap" '
    'Item:Mime="image/jpeg" Item:Length="31337"/></rdf:li></rdf:Seq></Container:Directory>'
)
CAMERA_NAMES = "xmlns:GCamera='http://ns.google.com/photos/1.0/camera/'"
APPLE = 'xmlns:HDRGainMap="http://ns.apple.com/HDRGainMap/1.0/"'


@pytest.mark.parametrize(
    ("attributes", "elements"),
    [
        (f"{HDRGM} {CONTAINER} hdrgm:Version='1.0'", ITEMS),
        (f'{HDRGM} hdrgm:Version="1.0" hdrgm:GainMapMax="2.3"', ""),
        (
            HDRGM,
            "<hdrgm:Version>1.0</hdrgm:Version><hdrgm:GainMapMax><rdf:Seq><rdf:li>2</rdf:li></rdf:Seq></hdrgm:GainMapMax>",
        ),
        (f'{CAMERA_NAMES} GCamera:MotionPhoto="1" GCamera:MotionPhotoPresentationTimestampUs="9"', ""),
        (f"{CAMERA_NAMES} GCamera:MicroVideoOffset='4711'", "<GCamera:MicroVideo>1</GCamera:MicroVideo>"),
        (APPLE, "<HDRGainMap:HDRGainMapVersion>65536</HDRGainMap:HDRGainMapVersion>"),
        ("xmlns:g2='http://ns.adobe.com/hdr-gain-map/1.0/' g2:Version='1.0'", ""),
        ("xmlns:n='http://ns.adobe.com/xmp/note/' n:HasExtendedXMP='0123456789ABCDEF0123456789ABCDEF'", ""),
    ],
    ids=["ultra hdr", "attributes", "elements", "motion", "micro video", "apple", "another prefix", "no extension"],
)
@pytest.mark.parametrize("target", CARRIERS)
def test_announcements_of_what_is_left_out_leave_the_xmp(
    tmp_path: Path, target: str, attributes: str, elements: str
) -> None:
    data, _ = rewritten(tmp_path, jpeg_of((PACKET % (attributes, elements)).encode()), ".jpg", target)
    packet = images.read(saved(tmp_path / f"out{target}", data)).xmp
    assert packet is not None
    assert canonical(packet) == canonical((PACKET % ("", "")).encode())
    for word in (b"GainMap", b"hdr-gain-map", b"MotionPhoto", b"MicroVideo", b"HasExtended"):
        assert word not in data
    assert packet.startswith(b'<?xpacket begin="\xef\xbb\xbf"')


def xml(packet: bytes) -> ElementTree.Element:
    return ElementTree.fromstring(packet)  # noqa: S314 (our own)


def canonical(packet: bytes) -> str:
    """The packet without white space that says nothing, namespaces that nothing is of, and the ways of quoting."""
    text = packet.decode().partition("?>")[2].rpartition("<?")[0]
    return ElementTree.canonicalize(text.strip(), strip_text=True)


def test_other_properties_of_the_camera_stay(tmp_path: Path) -> None:
    packet = PACKET % (f"{CAMERA_NAMES} GCamera:BurstID='b' GCamera:MotionPhoto='1'", "")
    data, _ = rewritten(tmp_path, jpeg_of(packet.encode()), ".jpg", ".jpg")
    assert b'GCamera:BurstID="b"' in data
    assert b"MotionPhoto" not in data


def test_xmp_that_announces_nothing_keeps_its_bytes(tmp_path: Path) -> None:
    packet = (PACKET % ("", "<!-- ' -->")).encode()
    data, _ = rewritten(tmp_path, jpeg_of(packet), ".jpg", ".jpg")
    assert (0xE1, XMP_HEAD + packet) in segments(data)


@pytest.mark.parametrize(
    "packet",
    [
        b"<x hdrgm='http://ns.adobe.com/hdr-gain-map/1.0/'",
        b"\xff MotionPhoto",
        b'<!DOCTYPE x [<!ENTITY a "MotionPhoto">]><x>&a;</x>',
        b"<MotionPhoto>" * 5000 + b"</MotionPhoto>" * 5000,
    ],
    ids=["torn", "no text", "entities", "deep"],
)
def test_xmp_that_cannot_be_cleaned_is_left_out_and_said(tmp_path: Path, packet: bytes) -> None:
    data, lacking = rewritten(tmp_path, jpeg_of(packet[:65000]), ".jpg", ".jpg")
    assert XMP_HEAD not in data
    assert lacking == ("unreadable XMP",)


LONG = ("<dc:description>" + "".join(map(chr, range(0x4E00, 0x9000))) * 3 + "</dc:description>").encode()


def long_packet() -> bytes:
    return (PACKET % ("", LONG.decode())).encode()


def test_long_xmp_becomes_extended_xmp_in_a_jpeg(tmp_path: Path) -> None:
    images.write(Picture(np.asarray(BLANK), xmp=long_packet()), tmp_path / "in.png")
    images.write(images.read(tmp_path / "in.png"), tmp_path / "out.jpg")
    found = [data for marker, data in segments((tmp_path / "out.jpg").read_bytes()) if marker == 0xE1]
    standard = found[0].removeprefix(XMP_HEAD)
    portions = [(*struct.unpack_from(">32sII", data, 35), data[75:]) for data in found[1:]]
    extended = b"".join(portion for *_, portion in portions)
    identifier = hashlib.md5(extended, usedforsecurity=False).hexdigest().upper().encode()
    assert len(portions) > 1
    assert all(data.startswith(EXTENSION_HEAD) for data in found[1:])
    assert b'xmpNote:HasExtendedXMP="' + identifier + b'"' in standard
    assert [(name, size) for name, size, *_ in portions] == [(identifier, len(extended))] * len(portions)
    assert [at for _, _, at, _ in portions] == np.cumsum([0] + [len(part) for *_, part in portions[:-1]]).tolist()
    assert b"<?xpacket" not in extended
    assert xml(extended).tag == "{adobe:ns:meta/}xmpmeta"


@pytest.mark.parametrize("target", CARRIERS)
def test_long_xmp_comes_back_whole_from_a_jpeg(tmp_path: Path, target: str) -> None:
    images.write(Picture(np.asarray(BLANK), xmp=long_packet()), tmp_path / "in.jpg")
    assert images.write(images.read(tmp_path / "in.jpg"), tmp_path / f"out{target}") == ()
    packet = images.read(tmp_path / f"out{target}").xmp
    assert packet is not None
    assert LONG in packet
    assert b'xmp:Rating="5"' in packet
    assert b"HasExtendedXMP" not in packet


def two_part_jpeg(drop: int = 0) -> bytes:
    """A JPEG of a standard packet and an extension in portions that do not follow one another; some may be missing."""
    extension = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        f'xmlns:h="urn:h"><rdf:Description rdf:about=""><h:Data>{"A" * 90_000}</h:Data></rdf:Description></rdf:RDF>'
        "</x:xmpmeta>"
    ).encode()
    identifier = hashlib.md5(extension, usedforsecurity=False).hexdigest().upper()
    note = f"xmlns:n='http://ns.adobe.com/xmp/note/' n:HasExtendedXMP='{identifier}'"
    portions = [
        (
            0xE1,
            EXTENSION_HEAD + struct.pack(">32sII", identifier.encode(), len(extension), at) + extension[at:][:40_000],
        )
        for at in range(0, len(extension), 40_000)
    ]
    standard = (0xE1, XMP_HEAD + (PACKET % (note, "")).encode())
    return with_segments(encoded(BLANK, "JPEG"), *portions[drop:][::-1], standard)


def test_extended_xmp_joins_the_packet(tmp_path: Path) -> None:
    picture = images.read(saved(tmp_path / "in.jpg", two_part_jpeg()))
    assert picture.xmp is not None
    root = xml(picture.xmp)
    assert [len(node.text or "") for node in root.iter("{urn:h}Data")] == [90_000]
    assert b'xmp:Rating="5"' in picture.xmp
    assert picture.lost == ()


def test_incomplete_extended_xmp_is_said_and_not_announced(tmp_path: Path) -> None:
    data, lacking = rewritten(tmp_path, two_part_jpeg(drop=1), ".jpg", ".jpg")
    assert lacking == ("incomplete extended XMP",)
    assert b"HasExtendedXMP" not in data
    assert b'xmp:Rating="5"' in data
