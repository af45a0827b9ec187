"""Picture files without their end, single frames of many, and Pillow images that come back as they lay."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, ImageSequence

from conftest import texture
from deblurgan import Deblurrer, Generator, images
from deblurgan.images import ImageError

ORIENTATION, MAKER = 0x0112, 0x010F


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def read(path: Path, data: bytes) -> np.ndarray:
    path.write_bytes(data)
    return images.read(path).pixels


# The end of a file


JPEGS: list[dict[str, Any]] = [
    {"quality": 30},
    {"quality": 95, "subsampling": 0},
    {"optimize": True},
    {"restart_marker_blocks": 1},
    {"restart_marker_rows": 1},
    {"progressive": True},
]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", JPEGS, ids=str)
def test_a_jpeg_that_lacks_its_end_marker_alone_is_read(tmp_path: Path, mode: str, options: dict[str, Any]) -> None:
    for seed, size in enumerate([(16, 16), (50, 70), (33, 17)]):
        data = encoded(Image.fromarray(texture(*size, seed=seed)).convert(mode), "JPEG", **options)
        whole = read(tmp_path / "a.jpg", data)
        for lost in (1, 2):
            assert np.array_equal(read(tmp_path / "a.jpg", data[:-lost]), whole)


@pytest.mark.parametrize("size", [(16, 16), (50, 70), (17, 33)])
@pytest.mark.parametrize("options", JPEGS, ids=str)
def test_a_jpeg_that_lacks_pixels_is_refused(tmp_path: Path, size: tuple[int, int], options: dict[str, Any]) -> None:
    data = encoded(Image.fromarray(texture(*size)), "JPEG", **options)
    scan = data.rfind(b"\xff\xda") + 14
    for size in [*range(scan, len(data) - 4, 1 + (len(data) - scan) // 12), len(data) - 6, len(data) - 5]:
        with pytest.raises(ImageError, match="truncated"):
            read(tmp_path / "a.jpg", data[:size])


def test_a_jpeg_that_lacks_whole_scans_is_refused(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(texture(50, 70)), "JPEG", progressive=True)
    scans = [found.start() for found in re.finditer(b"\xff\xda", data)]
    assert len(scans) > 4
    for at in scans[1:]:  # before its header, and before its tables
        for end in (at, data.rfind(b"\xff\xc4", 0, at)):
            with pytest.raises(ImageError, match="truncated"):
                read(tmp_path / "a.jpg", data[:end])


def test_zeros_are_no_pixels(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(texture(50, 70)), "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        read(tmp_path / "a.jpg", data[: len(data) // 2] + bytes(4096))


def test_a_gif_may_lack_its_trailer(tmp_path: Path) -> None:
    image = Image.fromarray(texture(20, 30)).quantize(16)
    data = encoded(image, "GIF")
    assert np.array_equal(read(tmp_path / "a.gif", data[:-1]), image.convert("RGB"))
    with pytest.raises(ImageError, match="truncated"):
        read(tmp_path / "a.gif", data[:-20])


@pytest.mark.parametrize("format", ["JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_what_follows_the_end_changes_nothing(tmp_path: Path, format: str) -> None:
    data = encoded(Image.fromarray(texture(20, 30)), format)
    assert np.array_equal(read(tmp_path / "a", data), read(tmp_path / "a", data + b"\xff\xda more" * 9))


# Frames


def frames_of(count: int) -> list[Image.Image]:
    return [Image.fromarray(texture(20, 30, seed=seed)).quantize(64) for seed in range(count)]


def many_framed(format: str) -> Image.Image:
    first, *others = [frame if format == "GIF" else frame.convert("RGB") for frame in frames_of(3)]
    lossless = {"lossless": True} if format == "WEBP" else {}
    return Image.open(io.BytesIO(encoded(first, format, save_all=True, append_images=others, **lossless)))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_frame_that_an_image_is_at_is_taken(format: str) -> None:
    image = many_framed(format)
    frames = [frame.convert("RGB") for frame in frames_of(3)]
    for at in (0, 1, 2, 1, 0):
        image.seek(at)
        assert np.array_equal(images.from_pil(image).pixels, frames[at])
        assert image.tell() == at
    taken = [images.from_pil(frame).pixels for frame in ImageSequence.Iterator(many_framed(format))]
    assert all(np.array_equal(*pair) for pair in zip(taken, frames, strict=True))


def test_a_page_keeps_its_own_tags() -> None:
    pages = [Image.fromarray(texture(6, 5)) for _ in range(3)]
    for i, page in enumerate(pages):
        page.encoderinfo = {"tiffinfo": {MAKER: f"page {i}"}, "dpi": (100 + i, 100)}
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:], **pages[0].encoderinfo)
    image = Image.open(io.BytesIO(data))
    for i in (1, 2, 0):
        image.seek(i)
        picture = images.from_pil(image)
        assert picture.dpi == (100 + i, 100)
        assert picture.exif is not None
        assert b"page %d" % i in picture.exif


def test_a_file_of_many_frames_is_refused(tmp_path: Path) -> None:
    data = encoded(frames_of(1)[0], "GIF", save_all=True, append_images=frames_of(3)[1:])
    with pytest.raises(ImageError, match="animated"):
        read(tmp_path / "a.gif", data)


# Pillow images lie as they lay


@pytest.fixture
def deblurrer(small_generator: Generator) -> Deblurrer:
    return Deblurrer(small_generator, device="cpu")


def turned_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKER] = orientation, "Maker"
    return exif


def turned_xmp(orientation: int) -> bytes:
    return b'<x xmp:Rating="5" tiff:Orientation="%d"/>' % orientation


SAVED = {
    "exif": ("JPEG", lambda n: {"exif": turned_exif(n)}),
    "png": ("PNG", lambda n: {"exif": turned_exif(n)}),
    "xmp": ("JPEG", lambda n: {"xmp": turned_xmp(n)}),
    "both": ("WEBP", lambda n: {"exif": turned_exif(n).tobytes(), "xmp": turned_xmp(3), "lossless": True}),
}


@pytest.mark.parametrize("form", SAVED)
def test_a_turned_image_comes_back_as_it_lay(deblurrer: Deblurrer, tmp_path: Path, form: str) -> None:
    format, options = SAVED[form]
    path = tmp_path / "a"
    for orientation in range(1, 9):
        path.write_bytes(encoded(Image.fromarray(texture(9, 14)), format, dpi=(300, 150), **options(orientation)))
        with Image.open(path) as image:
            restored = deblurrer(image)
            assert restored.size == image.size == (14, 9)
            assert restored.getexif().get(ORIENTATION) == image.getexif().get(ORIENTATION) == orientation
            assert restored.getexif().get(MAKER) == image.getexif().get(MAKER)
            assert restored.info.get("xmp") == image.info.get("xmp")
            assert restored.info.get("dpi") == image.info.get("dpi")
        upright = ImageOps.exif_transpose(restored)
        assert upright.tobytes() == deblurrer(path).tobytes()
        assert upright.size == deblurrer(path).size


@pytest.mark.parametrize("orientation", [2, 6])
def test_a_tiff_comes_back_upright_as_pillow_opens_it(deblurrer: Deblurrer, tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(encoded(Image.fromarray(texture(9, 14)), "TIFF", exif=turned_exif(orientation)))
    with Image.open(path) as image:
        restored = deblurrer(image)
        assert restored.size == image.size
        assert ORIENTATION not in image.getexif()
        assert dict(restored.getexif()) == {MAKER: "Maker"}
    assert restored.tobytes() == deblurrer(path).tobytes()


@pytest.mark.parametrize("orientation", [1, 5, 6])
def test_an_image_in_memory_comes_back_as_it_lay(deblurrer: Deblurrer, orientation: int) -> None:
    image = Image.fromarray(texture(9, 14))
    image.info["exif"] = turned_exif(orientation).tobytes()
    tagged = Image.fromarray(texture(9, 14))
    tagged.getexif().update(turned_exif(orientation))
    for given in (image, tagged):
        restored = deblurrer(given)
        assert restored.size == given.size
        assert dict(restored.getexif()) == dict(turned_exif(orientation))
        assert restored.tobytes() == deblurrer(image).tobytes()
    upright = deblurrer(ImageOps.exif_transpose(image))
    assert ImageOps.exif_transpose(restored).tobytes() == upright.tobytes()


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}], ids=str)
@pytest.mark.parametrize(("tag", "packet"), [(1, 6), (6, 1), (6, 3), (None, 6)])
def test_a_tiff_lies_as_its_tag_says_and_else_as_its_xmp(
    tmp_path: Path, tag: int | None, packet: int, options: dict[str, Any]
) -> None:
    pixels, tags = texture(9, 14), {700: turned_xmp(packet)} | ({ORIENTATION: tag} if tag else {})
    lying = read(tmp_path / "a.tif", encoded(Image.fromarray(pixels), "TIFF", tiffinfo=tags, **options))
    assert np.array_equal(lying, np.rot90(pixels, {1: 0, 6: -1}[tag or packet]))


def test_a_turned_picture_keeps_its_resolution_the_right_way_up(tmp_path: Path) -> None:
    for orientation, dpi in ((3, (300, 150)), (6, (150, 300))):
        data = encoded(Image.fromarray(texture(9, 14)), "JPEG", dpi=(300, 150), exif=turned_exif(orientation))
        (tmp_path / "a.jpg").write_bytes(data)
        assert images.read(tmp_path / "a.jpg").dpi == dpi
