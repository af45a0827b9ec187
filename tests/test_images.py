"""Picture files: what goes in comes out, and what cannot is refused in words."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import stat
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from deblurgan import images
from deblurgan.images import ImageError, Picture, colour

CARRIERS = ("JPEG", "PNG", "TIFF", "WEBP")  # formats that hold EXIF, XMP and a profile
SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}
ORIENTATION, GPS, EXIF = 0x0112, 0x8825, 0x8769


def same(actual: np.ndarray | None, expected: np.ndarray | None) -> bool:
    return actual is not None and expected is not None and np.array_equal(actual, expected)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[0:h, 0:w].astype(float)
    return np.stack([255 * x / w, 255 * y / h, 255 - 127 * (x / w + y / h)], axis=2).astype(np.uint8)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def saved(folder: Path, image: Image.Image, format: str = "PNG", **options: Any) -> Path:
    path = folder / ("source" + SUFFIX[format])
    path.write_bytes(encoded(image, format, **options))
    return path


def chunk(kind: bytes, data: bytes | bytearray) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(w: int, h: int, depth: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def camera_exif(orientation: int | None = None) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(EXIF)[0x9003] = "2020:01:02 03:04:05"
    exif.get_ifd(EXIF)[0x927C] = b"maker\0note"
    exif.get_ifd(GPS)[1] = "N"
    exif.get_ifd(GPS)[2] = (51.0, 30.0, 26.0)
    if orientation is not None:
        exif[ORIENTATION] = orientation
    return exif


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def cmyk_profile() -> bytes:
    """A profile whose neutral lightness is (1 - mean of C, M, Y) * (1 - K), sampled at the 16 corners."""
    identity = np.eye(3).ravel()
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + b"".join(struct.pack(">i", int(v * 65536)) for v in identity)
    table += bytes(range(256)) * 4
    for corner in np.ndindex(2, 2, 2, 2):
        table += bytes([round(255 * (1 - sum(corner[:3]) / 3) * (1 - corner[3])), 128, 128])
    table += bytes(range(256)) * 3
    tags = struct.pack(">I", 1) + b"A2B0" + struct.pack(">II", 144, len(table))
    head = struct.pack(">I4sI4s4s4s12x4s", 144 + len(table), b"test", 0x02100000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    return head.ljust(68, b"\0") + struct.pack(">iii", 63190, 65536, 54061) + bytes(48) + tags + table


def grey_profile() -> bytes:
    return srgb()[:16] + b"GRAY" + srgb()[20:]


# Reading every mode


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels come out of Pillow in several parts, the last one short."""
    monkeypatch.setattr(colour, "_ROWS", 3)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_rgb_is_read_exactly(tmp_path: Path, format: str) -> None:
    pixels = noise(7, 5, 3)
    picture = images.read(saved(tmp_path, Image.fromarray(pixels), format))
    assert same(picture.pixels, pixels)
    assert picture.pixels.flags.writeable
    assert picture.pixels.flags.c_contiguous
    assert (picture.alpha, picture.grey, picture.exif, picture.icc, picture.format) == (None, False, None, None, format)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_grey_is_read_exactly(tmp_path: Path, format: str) -> None:
    values = noise(7, 5)
    picture = images.read(saved(tmp_path, Image.fromarray(values), format))
    assert picture.grey
    assert same(picture.pixels, np.stack([values] * 3, axis=2))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_one_bit_becomes_grey(tmp_path: Path, format: str) -> None:
    bits = noise(9, 11) > 127
    picture = images.read(saved(tmp_path, Image.fromarray(bits), format))
    assert picture.grey
    assert picture.alpha is None
    assert same(picture.pixels[..., 0], bits * np.uint8(255))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_read_exactly(tmp_path: Path, format: str, mode: str) -> None:
    values = noise(7, 5, len(mode))
    picture = images.read(saved(tmp_path, Image.fromarray(values), format))
    assert same(picture.alpha, values[..., -1])
    assert same(picture.pixels, np.broadcast_to(values[..., :-1], (7, 5, 3)))
    assert picture.grey == (mode == "LA")


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF"])
def test_palette_becomes_rgb(tmp_path: Path, format: str) -> None:
    palette = Image.fromarray(noise(7, 5, 3)).quantize(16)
    picture = images.read(saved(tmp_path, palette, format))
    assert not picture.grey
    assert picture.alpha is None
    assert same(picture.pixels, np.array(palette.convert("RGB")))


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_transparent_palette_becomes_rgba(tmp_path: Path, format: str) -> None:
    palette = Image.fromarray(noise(7, 5, 3)).quantize(16)
    picture = images.read(saved(tmp_path, palette, format, transparency=3))
    index = np.array(palette)
    assert 0 < (index == 3).sum() < index.size
    assert same(picture.alpha, np.where(index == 3, 0, 255))
    assert same(picture.pixels[index != 3], np.array(palette.convert("RGB"))[index != 3])


def test_palette_with_graded_transparency(tmp_path: Path) -> None:
    palette = Image.fromarray(noise(7, 5, 3)).quantize(4)
    picture = images.read(saved(tmp_path, palette, transparency=bytes([0, 90, 180, 255])))
    assert same(picture.alpha, np.array([0, 90, 180, 255])[np.array(palette)])


def test_palette_with_alpha_channel(tmp_path: Path) -> None:
    image = Image.fromarray(noise(7, 5, 3)).quantize(16).convert("PA")
    image.putalpha(Image.fromarray(noise(7, 5, seed=1)))
    picture = images.read(saved(tmp_path, image, "TIFF"))
    assert same(picture.alpha, noise(7, 5, seed=1))
    assert not picture.grey


def test_grey_colour_key_becomes_alpha(tmp_path: Path) -> None:
    values = noise(7, 5) % 4
    picture = images.read(saved(tmp_path, Image.fromarray(values), transparency=2))
    assert picture.grey
    assert same(picture.alpha, np.where(values == 2, 0, 255))
    assert same(picture.pixels[..., 0], values)


def test_rgb_colour_key_becomes_alpha(tmp_path: Path) -> None:
    pixels = noise(7, 5, 3)
    picture = images.read(saved(tmp_path, Image.fromarray(pixels), transparency=tuple(pixels[2, 3].tolist())))
    expected = np.full((7, 5), 255)
    expected[2, 3] = 0
    assert same(picture.alpha, expected)
    assert same(picture.pixels, pixels)


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="older Pillows do not read it")
def test_ycbcr_tiff_becomes_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(smooth(8, 8))
    picture = images.read(saved(tmp_path, image.convert("YCbCr"), "TIFF"))
    assert np.abs(picture.pixels.astype(int) - smooth(8, 8)).max() <= 3


# CMYK


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_goes_through_its_profile(tmp_path: Path, format: str) -> None:
    values = np.zeros((8, 24, 4), np.uint8)
    values[:, 8:16] = (255, 255, 255, 0)
    values[:, 16:, 3] = 128
    path = saved(tmp_path, Image.fromarray(values, "CMYK"), format, icc_profile=cmyk_profile())
    picture = images.read(path)
    assert picture.pixels[:, :8].min() >= 250  # no ink
    assert picture.pixels[:, 8:16].max() <= 5  # all inks
    assert abs(int(picture.pixels[4, 20, 1]) - 119) <= 5  # half black is L* 50, sRGB 119; a plain inversion gives 127
    assert picture.icc is not None
    assert picture.icc[16:20] == b"RGB "


def test_cmyk_without_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="CMYK without a colour profile"):
        images.read(saved(tmp_path, Image.new("CMYK", (4, 4)), "JPEG"))


@pytest.mark.parametrize("profile", [b"rubbish", srgb()], ids=["rubbish", "rgb"])
def test_cmyk_with_unfit_profile_is_refused(tmp_path: Path, profile: bytes) -> None:
    with pytest.raises(ImageError, match="CMYK with an unusable colour profile"):
        images.read(saved(tmp_path, Image.new("CMYK", (4, 4)), "JPEG", icc_profile=profile))


# Depth and colour spaces that are refused


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("I", (4, 3)), "32 bits"),
        (Image.new("F", (4, 3)), "floating-point"),
        (Image.new("LAB", (4, 3)), "LAB colours"),
    ],
)
def test_deep_and_foreign_tiffs_are_refused(tmp_path: Path, image: Image.Image, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        images.read(saved(tmp_path, image, "TIFF"))


def test_signed_pixels_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(noise(6, 6)), "TIFF", tiffinfo={339: 2})
    with pytest.raises(ImageError, match="signed pixels"):
        images.read(path)


@pytest.mark.parametrize("mode", ["I", "F", "HSV", "LAB"])
def test_from_pil_refuses_what_read_refuses(mode: str) -> None:
    with pytest.raises(ImageError, match="not supported") as caught:
        images.from_pil(Image.new(mode, (4, 3)), name="frame 7")
    assert caught.value.path == "frame 7"


def test_from_pil_refuses_no_pixels() -> None:
    with pytest.raises(ImageError, match="no pixels"):
        images.from_pil(Image.new("RGB", (0, 3)))


def test_from_pil_leaves_the_image_alone(tmp_path: Path) -> None:
    with Image.open(saved(tmp_path, Image.fromarray(noise(5, 4, 3)), "TIFF", exif=camera_exif())) as image:
        image.load()
        before = (dict(image.info), dict(image.getexif()), image.tobytes())
        images.from_pil(image)
        assert (dict(image.info), dict(image.getexif()), image.tobytes()) == before


# Animation


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_many_frames_are_refused(tmp_path: Path, format: str) -> None:
    first, second = (Image.fromarray(noise(6, 6, 3, seed=seed)) for seed in (0, 1))
    path = saved(tmp_path, first, format, save_all=True, append_images=[second])
    with pytest.raises(ImageError, match="many-paged" if format == "TIFF" else "animated"):
        images.read(path)


@pytest.mark.parametrize("kinds", [(0, 1), (0, 1, 1), (1, 0), (0, 1, 0)])
def test_smaller_copies_of_a_tiffs_first_page_are_no_pages(tmp_path: Path, kinds: tuple[int, ...]) -> None:
    pages = [Image.fromarray(noise(8 >> i, 8 >> i, 3)) for i in range(len(kinds))]
    path = tmp_path / "source.tif"
    with TiffImagePlugin.AppendingTiffWriter(path, True) as file:  # older Pillows' save_all drops the pages' tags
        for page, kind in zip(pages, kinds, strict=True):
            page.save(file, "TIFF", tiffinfo={254: kind})
            file.newFrame()
    if kinds[0] == 0 and set(kinds[1:]) == {1}:
        assert np.array_equal(images.read(path).pixels, np.asarray(pages[0]))
    else:
        with pytest.raises(ImageError, match="many-paged"):
            images.read(path)


def test_first_picture_of_an_mpo_is_taken(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (16, 8), (200, 0, 0)), Image.new("RGB", (16, 8), (0, 0, 200))
    path = tmp_path / "stereo.mpo"
    path.write_bytes(encoded(first, "MPO", save_all=True, append_images=[second]))
    picture = images.read(path)
    assert picture.format == "MPO"
    assert picture.pixels[4, 8, 0] > 190
    assert picture.pixels[4, 8, 2] < 10


# Orientation and metadata


def stored_as(upright: np.ndarray, orientation: int) -> np.ndarray:
    """How a camera with this EXIF orientation stores an upright picture."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),  # shown turned clockwise, so stored turned back
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_to_colour_and_alpha(tmp_path: Path, format: str, orientation: int) -> None:
    upright = noise(5, 7, 4)
    image = Image.fromarray(np.ascontiguousarray(stored_as(upright, orientation)))
    lossless = {"lossless": True, "exact": True} if format == "WEBP" else {}
    picture = images.read(saved(tmp_path, image, format, exif=camera_exif(orientation).tobytes(), **lossless))
    assert same(picture.pixels, upright[..., :3])
    assert same(picture.alpha, upright[..., 3])
    again = tmp_path / "again.png"
    images.write(picture, again)
    assert same(images.read(again).pixels, upright[..., :3])


@pytest.mark.parametrize("target", CARRIERS)
@pytest.mark.parametrize("source", CARRIERS)
def test_exif_is_kept_but_for_the_orientation(tmp_path: Path, source: str, target: str) -> None:
    path = saved(tmp_path, Image.fromarray(smooth(8, 8)), source, exif=camera_exif(6).tobytes())
    out = tmp_path / ("out" + SUFFIX[target])
    images.write(images.read(path), out)
    with Image.open(out) as image:
        image.load()
        exif = image.getexif()
        assert ORIENTATION not in exif
        assert exif[0x010F] == "Maker"
        assert exif.get_ifd(EXIF)[0x9003] == "2020:01:02 03:04:05"
        assert exif.get_ifd(EXIF)[0x927C] == b"maker\0note"
        assert exif.get_ifd(GPS)[1] == "N"
        assert tuple(float(part) for part in exif.get_ifd(GPS)[2]) == (51.0, 30.0, 26.0)


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_bytes_outside_the_first_directory_stay(tmp_path: Path, source: str, order: str) -> None:
    make = struct.pack(order + "HHI4s", 0x010F, 2, 4, b"abc\0")
    turn = struct.pack(order + "HHIHH", ORIENTATION, 3, 1, 3, 0)
    copyright = struct.pack(order + "HHII", 0x8298, 2, 9, 50)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, 3)
    block = b"Exif\0\0" + head + make + turn + copyright + bytes(4) + b"somebody\0" + b"tail"
    picture = images.read(saved(tmp_path, Image.fromarray(smooth(8, 8)), source, exif=block))
    shorter = head[:8] + struct.pack(order + "H", 2) + make + copyright + bytes(16)
    assert picture.exif == b"Exif\0\0" + shorter + b"somebody\0" + b"tail"
    exif = Image.Exif()
    exif.load(picture.exif)
    assert exif[0x8298] == "somebody"


def test_thumbnail_of_a_turned_picture_is_unlinked(tmp_path: Path) -> None:
    def linked(orientation: int) -> int:
        entry = struct.pack("<HHIHH", ORIENTATION, 3, 1, orientation, 0)
        block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 26) + bytes(6)
        exif = images.read(saved(tmp_path, Image.new("RGB", (4, 4)), exif=block)).exif
        assert exif is not None
        return int(struct.unpack_from("<I", exif, 6 + 10)[0])

    assert linked(1) == 26
    assert linked(6) == 0


@pytest.mark.parametrize(
    "block",
    [b"Exif\0\0", b"Exif\0\0rubbish rubbish", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"],
)
def test_unparsable_exif_does_not_hide_the_picture(tmp_path: Path, block: bytes) -> None:
    picture = images.read(saved(tmp_path, Image.fromarray(noise(4, 4, 3)), exif=block))
    assert same(picture.pixels, noise(4, 4, 3))
    assert picture.exif is None


def png_with_xmp(pixels: np.ndarray, xmp: bytes) -> bytes:
    data = encoded(Image.fromarray(pixels), "PNG")
    return data[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + xmp) + data[33:]


@pytest.mark.parametrize("target", CARRIERS)
def test_xmp_is_kept_but_for_the_orientation(tmp_path: Path, target: str) -> None:
    path, out = tmp_path / "in.png", tmp_path / ("out" + SUFFIX[target])
    path.write_bytes(png_with_xmp(smooth(8, 6), b'<x xmp:Rating="5" tiff:Orientation="3"/>'))
    picture = images.read(path)
    assert same(picture.pixels, smooth(8, 6)[::-1, ::-1])
    images.write(picture, out)
    assert images.read(out).xmp == b'<x xmp:Rating="5"/>'


def test_exif_orientation_overrules_that_of_xmp(tmp_path: Path) -> None:
    upright = noise(4, 6, 3)
    data = png_with_xmp(upright, b"<tiff:Orientation>6</tiff:Orientation>")
    block = camera_exif(1).tobytes().removeprefix(b"Exif\0\0")
    path = tmp_path / "both.png"
    path.write_bytes(data[:33] + chunk(b"eXIf", block) + data[33:])
    images.write(images.read(path), path)
    assert same(images.read(path).pixels, upright)


@pytest.mark.parametrize("target", CARRIERS)
@pytest.mark.parametrize("source", CARRIERS)
def test_profile_bytes_stay_identical(tmp_path: Path, source: str, target: str) -> None:
    profile = srgb() + bytes(range(256)) * 3
    out = tmp_path / ("out" + SUFFIX[target])
    picture = images.read(saved(tmp_path, Image.fromarray(smooth(8, 8)), source, icc_profile=profile))
    images.write(picture, out)
    assert picture.icc == profile
    assert images.read(out).icc == profile


def test_grey_profile_is_kept_or_refused(tmp_path: Path) -> None:
    profile = grey_profile()  # which holds the time
    picture = images.read(saved(tmp_path, Image.fromarray(noise(4, 4)), icc_profile=profile))
    images.write(picture, tmp_path / "out.jpg")
    assert images.read(tmp_path / "out.jpg").icc == profile
    with pytest.raises(ImageError, match="grey colour profile"):
        images.write(picture, tmp_path / "out.webp")


@pytest.mark.parametrize("target", ["JPEG", "PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "TIFF", "BMP"])
def test_resolution_is_kept(tmp_path: Path, source: str, target: str) -> None:
    picture = images.read(saved(tmp_path, Image.fromarray(smooth(8, 8)), source, dpi=(300, 150)))
    out = tmp_path / ("out" + SUFFIX[target])
    images.write(picture, out)
    assert images.read(out).dpi == pytest.approx((300, 150), abs=0.02)


@pytest.mark.parametrize("dpi", [(0, 0), (float("nan"), 72), (1e9, 1e9), (72,), None, ("a", "b")])
def test_nonsense_resolution_is_left_out(dpi: Any) -> None:
    image = Image.new("RGB", (2, 2))
    image.info["dpi"] = dpi
    assert images.from_pil(image).dpi is None


# Writing


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif", ".tiff", ".bmp"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (31, 1), (13, 17), (64, 33)])
def test_lossless_round_trip(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    path = tmp_path / ("out" + suffix)
    images.write(Picture(noise(*size, 3)), path)
    assert same(images.read(path).pixels, noise(*size, 3))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("grey", [False, True])
def test_alpha_round_trip_is_bit_identical(tmp_path: Path, suffix: str, grey: bool) -> None:
    pixels = np.repeat(noise(13, 17, 1), 3, axis=2) if grey else noise(13, 17, 3)
    path = tmp_path / ("out" + suffix)
    images.write(Picture(pixels, noise(13, 17, seed=1), grey), path, quality=100)
    picture = images.read(path)
    assert same(picture.alpha, noise(13, 17, seed=1))
    assert same(picture.pixels, pixels)
    assert picture.grey == (grey and suffix != ".webp")


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".mpo", ".png", ".tif", ".bmp"])
def test_grey_is_written_as_one_channel(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / ("out" + suffix)
    images.write(Picture(np.repeat(smooth(8, 8)[..., :1], 3, axis=2), grey=True), path)
    with Image.open(path) as image:
        assert image.mode == "L"


def test_grey_is_the_rounded_mean() -> None:
    pixels = np.array([[[0, 0, 1], [0, 1, 1], [255, 255, 255], [255, 255, 254], [10, 20, 31]]], np.uint8)
    assert np.array(Picture(pixels, grey=True).to_pil()).tolist() == [[0, 1, 255, 255, 20]]


@pytest.mark.parametrize(("grey", "with_alpha", "mode"), [(1, 0, "L"), (1, 1, "LA"), (0, 0, "RGB"), (0, 1, "RGBA")])
def test_pil_round_trip(grey: int, with_alpha: int, mode: str) -> None:
    pixels = np.repeat(noise(5, 6, 1), 3, axis=2) if grey else noise(5, 6, 3)
    picture = Picture(
        pixels, noise(5, 6) if with_alpha else None, bool(grey), images.from_pil(with_exif()).exif, srgb(), (72, 72)
    )
    image = picture.to_pil()
    again = images.from_pil(image)
    assert image.mode == mode
    assert same(again.pixels, pixels)
    assert (again.grey, again.exif, again.icc, again.dpi) == (picture.grey, picture.exif, picture.icc, picture.dpi)
    assert same(again.alpha, picture.alpha) if with_alpha else again.alpha is None


def with_exif() -> Image.Image:
    image = Image.new("RGB", (2, 2))
    image.info["exif"] = camera_exif(3).tobytes()
    return image


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strided_pixels_are_written(tmp_path: Path, suffix: str, dtype: type) -> None:
    pixels, alpha = (noise(9, 11, *c).astype(dtype)[::-2, ::2].swapaxes(0, 1) for c in ((3,), ()))
    for picture in (Picture(pixels), Picture(pixels, alpha), Picture(pixels, grey=True)):
        images.write(picture, tmp_path / f"out{suffix}")
        assert same(images.read(tmp_path / f"out{suffix}").values(), picture.values())


def test_jpeg_quality_and_full_colour_resolution(tmp_path: Path) -> None:
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0] = 255
    stripes[:, 1::2, 2] = 255
    errors = {}
    for quality in (50, 95):
        images.write(Picture(stripes), tmp_path / "out.jpg", quality=quality)
        errors[quality] = np.abs(images.read(tmp_path / "out.jpg").pixels.astype(int) - stripes).mean()
    assert errors[95] < 5  # 4:2:0 would average red and blue: about 60
    assert errors[95] < errors[50]


def test_webp_quality(tmp_path: Path) -> None:
    sizes = []
    for quality in (20, 80, 100):
        images.write(Picture(noise(32, 32, 3)), tmp_path / "out.webp", quality=quality)
        sizes.append((tmp_path / "out.webp").stat().st_size)
    assert sizes == sorted(set(sizes))
    assert same(images.read(tmp_path / "out.webp").pixels, noise(32, 32, 3))


@pytest.mark.parametrize("quality", [0, 101])
def test_quality_out_of_range(tmp_path: Path, quality: int) -> None:
    with pytest.raises(ValueError, match="quality"):
        images.write(Picture(noise(2, 2, 3)), tmp_path / "out.jpg", quality=quality)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_alpha_is_never_dropped_in_silence(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / ("out" + suffix)
    alpha = np.full((4, 4), 255, np.uint8)
    images.write(Picture(noise(4, 4, 3), alpha), path)  # an opaque alpha says nothing
    assert images.read(path).alpha is None
    path.unlink()
    alpha[3, 3] = 254
    with pytest.raises(ImageError, match="cannot hold the alpha channel: write PNG, WebP or TIFF"):
        images.write(Picture(noise(4, 4, 3), alpha), path)
    assert not path.exists()


@pytest.mark.parametrize(("name", "reason"), [("a.gif", "GIF"), ("a.xyz", r"'\.xyz'.*\.png"), ("a", "unknown suffix")])
def test_suffixes_that_cannot_be_written(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        images.write(Picture(noise(2, 2, 3)), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("target", "error", "expected"),
    [
        ("os.replace", OSError("disk"), OSError),
        ("os.replace", KeyboardInterrupt(), KeyboardInterrupt),
        ("os.fsync", OSError("disk"), OSError),
        ("PIL.Image.Image.save", RuntimeError("encoder"), ImageError),
        ("PIL.Image.Image.save", MemoryError(), MemoryError),
    ],
)
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, error: BaseException, expected: type[BaseException]
) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr(target, failing(error))
        with pytest.raises(expected):
            images.write(Picture(noise(4, 4, 3)), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    images.write(Picture(noise(4, 4, 3)), path)
    assert same(images.read(path).pixels, noise(4, 4, 3))
    assert list(tmp_path.iterdir()) == [path]


def test_writing_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OSError, match=r"folder\.png"):
        images.write(Picture(noise(4, 4, 3)), tmp_path / "folder.png")
    with pytest.raises(FileNotFoundError):
        images.write(Picture(noise(4, 4, 3)), tmp_path / "missing" / "out.png")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        images.write(Picture(noise(2, 2, 3)), tmp_path / "out.png")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.png").stat().st_mode) == 0o666 & ~mask


def test_longest_file_name(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".png")
    images.write(Picture(noise(2, 2, 3)), path)
    assert same(images.read(path).pixels, noise(2, 2, 3))


# Bad files


@pytest.mark.parametrize("format", SUFFIX)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_files(tmp_path: Path, format: str, share: float) -> None:
    path = saved(tmp_path, Image.fromarray(noise(64, 64, 3)), format)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ImageError, match="damaged"):
        images.read(path)


@pytest.mark.parametrize(
    "content", [b"", b"not a picture\n" * 40, b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"%PDF-1.4\n"]
)
def test_files_that_are_no_pictures(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="damaged" if content else "empty file") as caught:
        images.read(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert caught.value.path == path


def test_formats_off_the_list_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(Image.new("RGB", (4, 4)), "PPM"))
    with pytest.raises(ImageError, match="not a JPEG"):
        images.read(path)


def test_decompression_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(raw_png(30_000, 30_000, 8, 2, bytes(1000)))
    with pytest.raises(ImageError, match="30000x30000 are more than 500000000 pixels"):
        images.read(path)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "BMP", "GIF"])
def test_the_limit_of_pixels_is_ours_and_not_the_process_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    path = saved(tmp_path, Image.fromarray(noise(10, 15, 3)), format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.read(path, max_pixels=150).pixels.shape == (10, 15, 3)
    with pytest.raises(ImageError, match="15x10 are more than 149 pixels"):
        images.read(path, max_pixels=149)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_fifo_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe.jpg"
    os.mkfifo(path)
    with pytest.raises(ImageError, match="not a regular file"):
        images.read(path)


def test_folder_and_missing_file(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(ImageError, match="a folder"):
        images.read(tmp_path / "x.jpg")
    with pytest.raises(FileNotFoundError):
        images.read(tmp_path / "y.jpg")


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    images.write(Picture(noise(3, 3, 3)), path)
    assert same(images.read(path).pixels, noise(3, 3, 3))
    assert images.find(tmp_path) == [path]
    path.write_bytes(b"")
    with pytest.raises(ImageError) as caught:
        images.read(path)
    assert str(caught.value).encode() == str(tmp_path).encode() + rb"/caf\xe9.png: empty file"


def test_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.png", "empty")))
    assert (type(error), error.path, error.reason, str(error)) == (
        ImageError,
        "a.png",
        "empty",
        "a.png: empty",
    )


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_errors_that_are_not_the_files_fault_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = saved(tmp_path, Image.fromarray(noise(4, 4, 3)))
    monkeypatch.setattr(PngImagePlugin, "PngImageFile", failing(error))
    with pytest.raises(type(error)):
        images.read(path)


# Picture


def test_with_pixels_keeps_the_rest() -> None:
    picture = Picture(noise(4, 5, 3), noise(4, 5), True, b"Exif\0\0", b"icc", (72, 72), "PNG", b"xmp")
    changed = picture.with_pixels(noise(4, 5, 3, seed=9))
    assert same(changed.pixels, noise(4, 5, 3, seed=9))
    assert changed.alpha is picture.alpha
    assert (changed.grey, changed.exif, changed.icc, changed.dpi, changed.format, changed.xmp) == (
        (True, b"Exif\0\0", b"icc", (72, 72), "PNG", b"xmp")
    )


@pytest.mark.parametrize(
    "pixels", [noise(5, 4, 3), noise(4, 5), noise(4, 5, 4), noise(4, 5, 3).astype(np.float32)], ids=str
)
def test_with_pixels_checks_them(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="pixels must"):
        Picture(noise(4, 5, 3)).with_pixels(pixels)


@pytest.mark.parametrize("alpha", [noise(5, 4), noise(4, 5, 1), noise(4, 5).astype(np.int16)], ids=str)
def test_alpha_is_checked(alpha: np.ndarray) -> None:
    with pytest.raises(ValueError, match="alpha must"):
        Picture(noise(4, 5, 3), alpha)


# find


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_find_is_sorted_recursive_and_by_suffix(tmp_path: Path) -> None:
    wanted = [touch(tmp_path / name) for name in ("b.jpg", "a/z.PNG", "a/deep/er/y.tiff", "c.webp", "a.mpo")]
    for name in ("notes.txt", "b.jpg.part", "noext", ".hidden.png", ".cache/x.png", "a/.thumbs/t.jpg"):
        touch(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    assert images.find(tmp_path) == sorted(wanted)
    assert images.find(str(tmp_path)) == sorted(wanted)


def test_find_of_a_file_a_hidden_root_and_nothing(tmp_path: Path) -> None:
    file = touch(tmp_path / ".set" / "odd.name")
    picture = touch(tmp_path / ".set" / "x.png")
    assert images.find(file) == [file]
    assert images.find(tmp_path / ".set") == [picture]
    with pytest.raises(FileNotFoundError):
        images.find(tmp_path / "missing")


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_find_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    root = tmp_path / "root"
    inside = touch(root / "b" / "x.png")
    outside = touch(tmp_path / "elsewhere" / "y.png")
    for link in ("a", "z"):
        (root / link).symlink_to(root / "b")  # seen already, under its own name
    (root / "b" / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "broken").symlink_to(root / "gone")
    (root / "link").symlink_to(outside.parent)
    assert images.find(root) == [inside, root / "link" / "y.png"]


def test_every_suffix_is_found_and_read(tmp_path: Path) -> None:
    formats = {suffix: format for format, suffix in SUFFIX.items()} | {".tiff": "TIFF", ".apng": "PNG", ".dib": "BMP"}
    for suffix in images.SUFFIXES:
        source = formats.get(suffix, "JPEG")
        shutil.copy(saved(tmp_path, Image.new("RGB", (4, 4)), source), tmp_path / ("picture" + suffix))
    found = [path for path in images.find(tmp_path) if path.stem == "picture"]
    assert {path.suffix for path in found} == images.SUFFIXES
    assert all(images.read(path).pixels.shape == (4, 4, 3) for path in found)
