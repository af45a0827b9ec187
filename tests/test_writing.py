"""Writing of pictures: what a format cannot hold is refused beforehand, and everything else is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
        (blank(icc=bytes(255 * 65519)), "a.jpg"),
    ],
)
def test_what_a_format_can_hold_is_written(tmp_path: Path, picture: Picture, name: str) -> None:
    images.require_writable(picture, tmp_path / name)
    images.write(picture, tmp_path / name)
    assert images.read(tmp_path / name).pixels.shape == picture.pixels.shape
