"""Writing of pictures: what a format cannot hold is refused beforehand, and everything else is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deblurgan import images
from deblurgan.images import ImageError, Picture

OPAQUE = np.full((4, 4), 255, np.uint8)
GREY_PROFILE = bytes(16) + b"GRAY" + bytes(108)


def blank(h: int = 4, w: int = 4, **fields: object) -> Picture:
    return Picture(np.zeros((h, w, 3), np.uint8), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("picture", "name", "reason"),
    [
        (blank(), "a.gif", "GIF"),
        (blank(), "a.xyz", "unknown suffix"),
        (blank(65501, 1), "a.jpg", "at most 65500 pixels a side, got 1x65501: write PNG or TIFF"),
        (blank(1, 65536), "a.jpg", "at most 65500"),
        (blank(1, 16384), "a.webp", "at most 16383"),
        (blank(alpha=OPAQUE - 1), "a.jpg", "alpha"),
        (blank(alpha=OPAQUE - 1), "a.bmp", "alpha"),
        (blank(icc=GREY_PROFILE), "a.webp", "grey colour profile"),
        (blank(icc=bytes(255 * 65519 + 1)), "a.jpg", "profile of 16707346 bytes"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_and_by_the_writing(
    tmp_path: Path, picture: Picture, name: str, reason: str
) -> None:
    with pytest.raises(ImageError, match=reason):
        images.require_writable(picture, tmp_path / name)
    with pytest.raises(ImageError, match=reason):
        images.write(picture, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("picture", "name"),
    [
        (blank(65500, 1), "a.jpg"),
        (blank(1, 16383), "a.webp"),
        (blank(1, 70000), "a.png"),
        (blank(1, 70000), "a.tif"),
        (blank(1, 70000), "a.bmp"),
        (blank(alpha=OPAQUE), "a.jpg"),
    ],
)
def test_what_a_format_can_hold_is_written(tmp_path: Path, picture: Picture, name: str) -> None:
    images.require_writable(picture, tmp_path / name)
    images.write(picture, tmp_path / name)
    assert images.read(tmp_path / name).pixels.shape == picture.pixels.shape


@pytest.mark.parametrize("quality", [1, 90, 94, 100])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 701), (333, 1), (301, 203)])
@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_grain_of_any_size_and_quality_is_written(
    tmp_path: Path, suffix: str, size: tuple[int, int], grey: bool, quality: int
) -> None:
    grain = np.random.default_rng(0).integers(0, 2, (*size, 3), dtype=np.uint8) * np.uint8(255)
    picture = Picture(grain, grey=grey, exif=b"Exif\0\0" + bytes(65527), icc=bytes(128) + bytes(range(256)) * 1000)
    images.write(picture, tmp_path / f"a{suffix}", quality=quality)
    with Image.open(tmp_path / f"a{suffix}") as image:
        image.load()
        assert image.size == size[::-1]
        assert image.info["icc_profile"] == picture.icc
        assert image.info["exif"].removeprefix(b"Exif\0\0") == bytes(65527)


def test_the_log_names_what_a_picture_has_lost(tmp_path: Path) -> None:
    picture = blank(segments=(("COM", b"by hand"),), lost=("APP11 segment",))
    lines: list[str] = []
    plan = images.Plan([(tmp_path / "in.jpg", tmp_path / name) for name in ("out.png", "out.jpg")])
    images.run_plan(plan, lambda source, target: images.write(picture, target), log=lines.append)
    assert lines[0].endswith("out.png, without APP11 segment, comment")
    assert lines[1].endswith("out.jpg, without APP11 segment")
