"""What a restoration changed: the mean, the words, and the sheet of crops where it changed most."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import texture
from deblurgan.images.compare import Change, change, compare_sheet

GAP, BAND = 4, 16


def changed_at(picture: NDArray[np.uint8], *places: tuple[int, int], side: int = 40, by: int = 50) -> NDArray[np.uint8]:
    """The picture with squares whose top left corners are `places` made brighter or darker by `by`."""
    after = picture.copy()
    for y, x in places:
        square = after[y : y + side, x : x + side].astype(int)
        after[y : y + side, x : x + side] = np.where(square < 128, square + by, square - by)
    return after


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("grey", [False, True])
def test_the_mean_change_is_in_levels_of_255(dtype: Any, grey: bool) -> None:
    before = texture(600, 40)[..., 0] if grey else texture(600, 40)  # three strips, the last one short
    after = changed_at(before, (0, 0), (560, 0), by=51)
    scale = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
    found = change((before * dtype(scale)).astype(dtype), (after * dtype(scale)).astype(dtype))
    assert found.mean == pytest.approx(51 * 2 * 40 / 600, rel=1e-5)


def test_the_contrast_is_that_of_neighbours_before() -> None:
    before = np.zeros((300, 4), np.uint8)
    before[:, 2:] = 60  # one of three steps across, none of those down
    assert change(before, before).contrast == pytest.approx(60 * 300 / (3 * 300 + 4 * 299))
    assert change(np.ones((1, 1)), np.ones((1, 1))).contrast == 0


def test_the_words_tell_a_picture_that_was_sharp_and_one_that_hardly_changed() -> None:
    assert str(Change(mean=3.0, contrast=1.0)) == "changed by 3.00 levels of 255 on average"
    assert "sharp already" in str(Change(mean=3.0, contrast=6.0))
    assert "sharp already" in str(Change(mean=0.0, contrast=0.0))
    assert "no blur that the network knows" in str(Change(mean=0.4, contrast=0.1))


def test_crops_are_where_the_change_is_largest_the_largest_first() -> None:
    before = texture(700, 900)
    after = changed_at(changed_at(before, (600, 50)), (20, 700), by=100)
    sheet = np.asarray(compare_sheet(before, after, size=128, count=2))
    assert sheet.shape == (2 * (BAND + 128) + GAP, 2 * 128 + 3 * GAP, 3)
    for row, (top, left) in enumerate([(20, 700), (600, 50)]):
        rows = slice(row * (BAND + 128) + BAND, (row + 1) * (BAND + 128))
        old, new = sheet[rows, GAP : GAP + 128], sheet[rows, 128 + 2 * GAP : 256 + 2 * GAP]
        ys, xs = np.nonzero((old != new).any(2))
        assert (np.ptp(ys), np.ptp(xs)) == (39, 39)  # the whole square is in the crop, and is its only change
        y, x = top - ys.min(), left - xs.min()
        assert np.array_equal(old, before[y : y + 128, x : x + 128])
        assert np.array_equal(new, after[y : y + 128, x : x + 128])


@pytest.mark.parametrize("h, w", [(105, 300), (333, 257), (64, 64), (1, 1), (3, 500), (513, 70)])
def test_crops_lie_in_the_picture_and_not_over_one_another(h: int, w: int) -> None:
    rng = np.random.default_rng(h)
    place = np.stack(
        np.broadcast_arrays(
            np.arange(h)[:, None] % 256, np.arange(w) % 256, np.arange(h)[:, None] // 256 * 2 + np.arange(w) // 256
        ),
        axis=2,
    ).astype(np.uint8)
    after = (255 - place * (rng.random((h, w, 1)) < 0.5)).astype(np.uint8)
    sheet = np.asarray(compare_sheet(place, after, size=64))
    high, wide = min(64, h), min(64, w)
    crops = [sheet[top : top + high, GAP : GAP + wide] for top in range(BAND, sheet.shape[0] - GAP, BAND + high)]
    assert 1 <= len(crops) <= 3
    seen = np.concatenate([crop.reshape(-1, 3) for crop in crops])
    assert len(np.unique(seen, axis=0)) == len(seen)  # each pixel once: its colour is its place


def test_a_picture_that_did_not_change_has_one_row() -> None:
    picture = texture(300, 300)
    assert compare_sheet(picture, picture, size=64).size == (2 * 64 + 3 * GAP, BAND + 64 + GAP)


@pytest.mark.parametrize("dtype, white", [(np.uint16, 65535), (np.float32, 1.0)])
def test_deep_and_grey_pictures_are_shown_in_8_bits(dtype: Any, white: float) -> None:
    picture = texture(50, 60)[..., 0]
    deep = (picture * (white / 255)).astype(dtype)
    sheet = np.asarray(compare_sheet(deep, deep))
    assert np.array_equal(sheet[BAND : BAND + 50, GAP : GAP + 60], np.repeat(picture[..., None], 3, axis=2))


def test_pictures_that_differ_in_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"after must be uint8 \[4, 5\] as before is, got uint8 \[5, 4\]"):
        change(np.zeros((4, 5), np.uint8), np.zeros((5, 4), np.uint8))
    with pytest.raises(ValueError, match="got float64"):
        compare_sheet(np.zeros((4, 5), np.uint8), np.zeros((4, 5)))
