"""Files of 16 bits a channel: read and written as they are, whoever made them, or rounded to 8 bits in words."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from deblurgan import images
from deblurgan.images import ImageError, Picture

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
EXIF = b"Exif\0\0II*\0\x08\0\0\0\1\0\x0f\1\2\0\6\0\0\0\x1a\0\0\0\0\0\0\0Maker\0"


def deep(c: int, h: int = 6, w: int = 7) -> np.ndarray:
    return np.random.default_rng(c).integers(0, 65536, (h, w, c), dtype=np.uint16)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values: np.ndarray, *chunks: bytes) -> bytes:
    """Its rows have all five filters, one after the other."""
    h, w, c = values.shape
    rows = values.astype(">u2").view(np.uint8).reshape(h, w, 2 * c).astype(int)
    left, up = np.pad(rows, ((0, 0), (1, 0), (0, 0)))[:, :-1], np.pad(rows, ((1, 0), (0, 0), (0, 0)))[:-1]
    corner = np.pad(up, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    guess = left + up - corner
    nearest = np.argmin([abs(guess - left), abs(guess - up), abs(guess - corner)], axis=0)
    paeth = np.choose(nearest, [left, up, corner])
    predicted = [np.zeros_like(rows), left, up, (left + up) // 2, paeth]
    filtered = b"".join(
        bytes([y % 5]) + ((rows - predicted[y % 5])[y] % 256).astype(np.uint8).tobytes() for y in range(h)
    )
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, COLOUR_TYPES[c], 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(filtered)) + chunk(b"IEND", b"")
    )


def tiff(values: np.ndarray, **options: Any) -> bytes:
    c = values.shape[2]
    kind: dict[str, Any] = {"photometric": "minisblack" if c == 1 else "rgb"}
    if c == 4:
        kind["extrasamples"] = ["unassalpha"]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values[..., 0] if c == 1 else values, **kind | options)
    return buffer.getvalue()


def read(data: bytes) -> Picture:
    return images.read(io.BytesIO(data))


@pytest.mark.parametrize("c", [1, 2, 3, 4])
def test_a_png_is_read_exactly(c: int) -> None:
    picture = read(png(deep(c)))
    assert picture.pixels.dtype == np.uint16
    assert picture.grey == (c < 3)
    assert (picture.alpha is not None) == (c in (2, 4))
    assert np.array_equal(picture.values(), deep(c))
    assert picture.pixels.flags.c_contiguous
    assert picture.pixels.flags.writeable


@pytest.mark.parametrize("c", [1, 3])
def test_a_colour_key_becomes_alpha(c: int) -> None:
    key = deep(c)[2, 3]
    picture = read(png(deep(c), chunk(b"tRNS", key.astype(">u2").tobytes())))
    expected = np.full((6, 7), 65535)
    expected[2, 3] = 0
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, expected)
    assert np.array_equal(picture.values()[..., :-1], deep(c))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib", "predictor": True}, {"tile": (16, 16)}, {"rowsperstrip": 2}], ids=str
)
@pytest.mark.parametrize("c", [1, 3, 4])
def test_a_tiff_of_anothers_making_is_read_exactly(c: int, options: dict[str, Any], order: str) -> None:
    picture = read(tiff(deep(c), byteorder=order, **options))
    assert picture.pixels.dtype == np.uint16
    assert np.array_equal(picture.values(), deep(c))


def test_white_may_be_zero() -> None:
    assert np.array_equal(read(tiff(65535 - deep(1), photometric="miniswhite")).values(), deep(1))


def test_colours_that_alpha_has_multiplied_are_divided() -> None:
    values = deep(4) | 0x8000  # so that little is lost
    multiplied = values.copy()
    multiplied[..., :3] = np.rint(values[..., :3] * (values[..., 3:] / 65535))
    got = read(tiff(multiplied, extrasamples=["assocalpha"])).values()
    assert np.array_equal(got[..., 3], values[..., 3])
    assert np.abs(got.astype(int) - values).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("c", [1, 3])
def test_orientation_turns_both_bytes(c: int, orientation: int) -> None:
    tag = (274, 3, 1, orientation, True)
    exif = b"II*\0" + struct.pack("<IHHHIHxxI", 8, 1, 274, 3, 1, orientation, 0)
    eight = images.from_pil(Image.open(io.BytesIO(tiff(deep(3).astype(np.uint8), extratags=[tag])))).pixels
    for picture in (read(tiff(deep(3), extratags=[tag])), read(png(deep(3), chunk(b"eXIf", exif)))):
        assert np.array_equal(picture.pixels.astype(np.uint8), eight)
    grey = read(tiff(deep(3)[..., :1], extratags=[tag]))
    assert np.array_equal(grey.pixels[..., 0].astype(np.uint8), eight[..., 0])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(np.moveaxis(deep(3), 2, 0), planarconfig="separate", photometric="rgb"), "separate planes"),
        (tiff(deep(4), photometric="separated", extrasamples=()), "16 bits a channel are not supported in CMYK"),
        (tiff(deep(1).astype(np.uint32)), "32 bits|damaged"),
        (tiff(deep(1).astype(np.int16)), "32 bits"),
        (tiff(deep(1).astype(np.float32)), "floating-point"),
    ],
    ids=["planes", "CMYK", "32 bits", "signed", "float"],
)
def test_what_is_not_read_is_refused_in_words(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read(data)


def test_deep_colours_of_a_pillow_image_are_refused() -> None:
    with pytest.raises(ImageError, match=r"but from a file: use images\.read"):
        images.from_pil(Image.open(io.BytesIO(png(deep(3)))))


def test_deep_grey_goes_through_pillow() -> None:
    picture = images.from_pil(Image.open(io.BytesIO(png(deep(1)))))
    image = picture.to_pil()
    assert image.mode == "I;16"
    assert np.array_equal(np.asarray(image), deep(1)[..., 0])
    assert np.array_equal(images.from_pil(image).values(), deep(1))


def full(c: int) -> Picture:
    """A picture with all that a PNG and a TIFF can say."""
    pixels, alpha = (
        (deep(3), deep(4)[..., 3].copy()) if c > 2 else (np.repeat(deep(1), 3, axis=2), deep(2)[..., 1].copy())
    )
    return Picture(
        pixels, alpha if c in (2, 4) else None, c < 3, EXIF, bytes(16) + b"RGB " + bytes(200), (300, 150), xmp=b"<x/>"
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("c", [1, 2, 3, 4])
def test_what_is_written_is_read_again(tmp_path: Path, c: int, suffix: str) -> None:
    picture = full(c)
    assert images.write(picture, tmp_path / f"a{suffix}") == ()
    again = images.read(tmp_path / f"a{suffix}")
    assert np.array_equal(again.pixels, picture.pixels)
    assert np.array_equal(again.alpha, picture.alpha) if picture.alpha is not None else again.alpha is None
    assert again.grey == picture.grey or (c, suffix) == (2, ".tif")
    assert (again.icc, again.xmp) == (picture.icc, picture.xmp)
    assert again.exif is not None
    assert b"Maker" in again.exif
    assert again.dpi == pytest.approx((300, 150), abs=0.02)


@pytest.mark.parametrize("order", [b"II*\0", b"MM\0*"])
@pytest.mark.parametrize("c", [1, 3, 4])
def test_others_read_what_is_written(tmp_path: Path, c: int, order: bytes) -> None:
    picture = Picture(full(c).pixels, full(c).alpha, c < 3, b"Exif\0\0" + order + bytes(4))
    images.write(picture, tmp_path / "a.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif").reshape(6, 7, c), picture.values())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages.first.bitspersample == 16


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_formats_of_8_bits_round_and_say_so(tmp_path: Path, suffix: str) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    picture = Picture(np.dstack([ramp] * 3), np.full((256, 256), 65535, np.uint16))
    assert images.write(picture, tmp_path / f"a{suffix}", quality=100) == ("8 of 16 bits a channel",)
    rounded = picture.in_8_bits()
    assert np.array_equal(rounded.pixels, np.rint(picture.pixels / 257))
    assert rounded.in_8_bits() is rounded
    if suffix == ".bmp":
        assert np.array_equal(images.read(tmp_path / f"a{suffix}").pixels, rounded.pixels)


def test_transparency_of_16_bits_is_no_opaque_alpha(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="alpha"):
        images.write(Picture(deep(3), np.full((6, 7), 65534, np.uint16)), tmp_path / "a.jpg")


def test_with_pixels_keeps_the_depth() -> None:
    picture = Picture(deep(3))
    assert picture.with_pixels(deep(3) // 2).pixels.dtype == np.uint16
    with pytest.raises(ValueError, match=r"pixels must stay uint16 \[6, 7, 3\], got uint8"):
        picture.with_pixels(deep(3).astype(np.uint8))
    with pytest.raises(ValueError, match="alpha must be uint16"):
        Picture(deep(3), np.zeros((6, 7), np.uint8))
