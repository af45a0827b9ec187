"""How finely a file holds its pixels comes back as it was, unless a quality is asked for."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from conftest import texture
from deblurgan import images
from deblurgan.images import Picture, jpeg

TABLES = [[1 + (7 * i + k) % 250 for i in range(64)] for k in (3, 90, 17)]


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def rewritten(data: bytes, suffix: str, quality: int | None = None) -> bytes:
    return images.encode(images.read(io.BytesIO(data)), f"a{suffix}", quality=quality)[0]


def coding(data: bytes) -> tuple[list[list[int]], int, bool]:
    """The table of each channel, the subsampling, and whether the file is progressive."""
    image = Image.open(io.BytesIO(data))
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    tables = [list(image.quantization[layer[3]]) for layer in image.layer]
    return tables, JpegImagePlugin.get_sampling(image), bool(image.info.get("progressive"))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        *({"quality": 35, "subsampling": sampling} for sampling in (0, 1, 2)),
        {"quality": 97, "subsampling": 2},
        {"qtables": TABLES[:1], "subsampling": 0},
        {"qtables": TABLES[:2], "subsampling": 2},
        {"qtables": TABLES, "subsampling": 1},
    ],
    ids=lambda options: f"{options.get('quality', len(options.get('qtables', '')))}-{options['subsampling']}",
)
def test_a_jpeg_keeps_its_tables_subsampling_and_order(options: dict[str, Any], progressive: bool) -> None:
    for mode in ("RGB", "L"):
        image = Image.fromarray(texture(50, 70)).convert(mode)
        data = encoded(image, "JPEG", progressive=progressive, **options)
        assert coding(rewritten(data, ".jpg")) == coding(data)


def test_a_jpeg_turned_sideways_has_its_tables_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(texture(48, 64))
    for sampling, kept in ((1, 0), (2, 2)):
        data = encoded(image, "JPEG", qtables=TABLES[:2], subsampling=sampling, exif=exif)
        tables, written, _ = coding(rewritten(data, ".jpg"))
        assert written == kept  # halved across would now be halved down: nothing is
        assert [np.reshape(table, (8, 8)).T.tolist() for table in tables[:2]] == [
            np.reshape(table, (8, 8)).tolist() for table in TABLES[:2]
        ]


@pytest.mark.parametrize("sideways", [False, True])
@pytest.mark.parametrize(
    ("factors", "upright", "turned"),
    [
        ("11 11 11", 0, 0),
        ("22 22 22", 0, 0),
        ("21 11 11", 1, 0),
        ("22 12 12", 1, 0),  # the same, as FFmpeg and webcams write it
        ("12 11 11", 0, 1),
        ("22 21 21", 0, 1),
        ("22 11 11", 2, 2),
        ("42 21 21", 2, 2),
        ("41 11 11", 0, 0),
        ("22 21 12", 0, 0),
    ],
)
def test_subsampling_is_the_ratio_of_the_factors(factors: str, upright: int, turned: int, sideways: bool) -> None:
    data = bytearray(encoded(Image.new("RGB", (64, 64)), "JPEG"))
    header = data.find(b"\xff\xc0")
    for i, factor in enumerate(bytes.fromhex(factors)):
        data[header + 11 + 3 * i] = factor
    found = jpeg.coding(Image.open(io.BytesIO(data)), sideways=sideways)
    assert found is not None
    assert found.subsampling == (turned if sideways else upright)


def test_an_asked_for_quality_counts() -> None:
    image = Image.fromarray(texture(50, 70))
    data = encoded(image, "JPEG", quality=35, progressive=True)
    expected = coding(encoded(image, "JPEG", quality=60, subsampling=0))
    assert coding(rewritten(data, ".jpg", quality=60)) == expected


def test_other_sources_become_jpegs_of_quality_95_and_full_colour() -> None:
    image = Image.fromarray(texture(50, 70))
    assert coding(rewritten(encoded(image, "PNG"), ".jpg")) == coding(encoded(image, "JPEG", quality=95, subsampling=0))


@pytest.mark.parametrize("size", [(2, 3), (150, 201)])
def test_grain_too_long_for_pillow_s_guess_is_written_in_one_scan(size: tuple[int, int], capfd: Any) -> None:
    grain = Image.fromarray(np.random.default_rng(0).integers(0, 2, (*size, 3), dtype=np.uint8) * np.uint8(255))
    picture = images.read(io.BytesIO(encoded(grain, "JPEG", quality=100, subsampling=0)))
    assert picture.jpeg is not None
    progressive = Picture(picture.pixels, jpeg=picture.jpeg._replace(progressive=True))
    data = images.encode(progressive, "a.jpg")[0]
    assert coding(data)[2] == (size == (2, 3))
    assert images.read(io.BytesIO(data)).pixels.shape == picture.pixels.shape
    assert capfd.readouterr().err == ""  # where libjpeg complains


@pytest.mark.parametrize("alpha", [False, True])
def test_a_lossless_webp_stays_lossless_and_a_lossy_one_lossy(tmp_path: Path, alpha: bool) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3 + alpha), dtype=np.uint8)
    data = encoded(Image.fromarray(values), "WEBP", lossless=True, exact=True)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(rewritten(data, ".webp")))), values)
    assert len(rewritten(data, ".webp", quality=60)) < len(data) / 2
    lossy = encoded(Image.fromarray(values), "WEBP", quality=60)
    picture = images.read(io.BytesIO(lossy))
    assert not picture.lossless
    assert images.encode(picture, "a.webp") == images.encode(picture, "a.webp", quality=95)


def test_encode_gives_what_write_writes(tmp_path: Path) -> None:
    picture = Picture(texture(9, 8), segments=(("COM", b"by hand"),))
    for name in ("a.jpg", "a.png", "a.tif", "a.webp", "a.bmp"):
        data, lacking = images.encode(picture, name)
        assert images.write(picture, tmp_path / name) == lacking
        assert (tmp_path / name).read_bytes() == data


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "a.hif"])
def test_heic_is_not_written_and_the_error_says_what_is(tmp_path: Path, name: str) -> None:
    with pytest.raises(images.ImageError, match="HEIC cannot be written: write JPEG"):
        images.require_writable(Picture(texture(9, 8)), tmp_path / name)
