"""Scale: how wide a picture's blur is, and pictures restored at the scale where the network knows it."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from conftest import texture
from deblurgan.blur import apply_psf, random_trajectories, rasterize_psf
from deblurgan.inference import scale as scales
from deblurgan.inference.scale import blur_width, pick_scale, restore_at, scale_bytes


@pytest.fixture(scope="module")
def leaves() -> NDArray[np.uint8]:
    """Dead leaves, 1.6 megapixels: discs over one another, of power-law sizes as the things in photographs."""
    rng = np.random.default_rng(0)
    side, n = 1280, 1500
    radii = (16.0**-2 - rng.random(n) * (16.0**-2 - 400.0**-2)) ** -0.5
    image = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(image)
    for x, y, r, *colour in zip(*rng.random((2, n)) * side, radii, *rng.integers(0, 256, (3, n)), strict=True):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(value) for value in colour))
    return np.array(image)


def shaken(picture: NDArray[np.uint8], width: int, *, seed: int = 2, noise: float = 0.0) -> NDArray[np.uint8]:
    """The picture under a camera shake that is `width` px long in its longest direction."""
    path = random_trajectories(1, seed=seed, length=100.0)
    centred = (path[0] - path[0].mean(0)).double()
    along = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[0]
    psf = rasterize_psf(path * (width / float(along.max() - along.min())), size=2 * width + 9)
    return apply_psf(torch.from_numpy(picture).permute(2, 0, 1), psf[0], noise=noise).permute(1, 2, 0).numpy()


def recorded(seen: list[NDArray[Any]]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """A restoration that changes nothing, and notes what it got."""

    def restore(small: NDArray[Any]) -> NDArray[Any]:
        seen.append(small)
        return small

    return restore


@pytest.mark.parametrize("width, noise", [(10, 0.0), (20, 0.0), (40, 0.01), (80, 0.0), (80, 0.05)])
def test_the_width_of_a_shake_is_seen_within_an_octave(leaves: NDArray[np.uint8], width: int, noise: float) -> None:
    assert abs(math.log2(blur_width(shaken(leaves, width, noise=noise)) / width)) < 1


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_sharp_picture_and_a_slight_shake_stay_at_scale_1(leaves: NDArray[np.uint8], noise: float) -> None:
    assert pick_scale(shaken(leaves, 1, noise=noise)) == 1
    assert pick_scale(shaken(leaves, 8, noise=noise)) == 1


def test_the_scale_brings_the_blur_to_the_width_that_the_network_knows(leaves: NDArray[np.uint8]) -> None:
    picture = shaken(leaves, 80)
    scale = pick_scale(picture)
    assert scale < 1
    assert scale == 1 / round(blur_width(picture) / scales.KNOWN_WIDTH)


@pytest.mark.parametrize("shape", [(720, 1280, 3), (200, 9000, 3), (1, 1)])
def test_a_small_or_narrow_picture_stays_at_scale_1(shape: tuple[int, ...]) -> None:
    assert pick_scale(np.zeros(shape, np.uint8)) == 1


def test_a_picture_without_an_edge_has_a_scale() -> None:
    assert 1 / scales.MAX_REDUCTION <= pick_scale(np.full((1300, 1300), 7, np.uint8)) <= 1


@pytest.mark.parametrize("dtype, factor", [(np.uint16, 257), (np.float32, 1 / 255)])
def test_the_width_is_that_of_the_picture_in_any_dtype(leaves: NDArray[np.uint8], dtype: Any, factor: float) -> None:
    picture = leaves[:300, :400]
    assert blur_width(picture.astype(dtype) * dtype(factor)) == blur_width(picture)
    grey = picture[..., 1].copy()
    assert blur_width(grey) == blur_width(np.repeat(grey[..., None], 3, axis=2))


def test_at_scale_1_it_is_the_restoration_itself() -> None:
    picture, restored = texture(20, 30), texture(20, 30, seed=1)
    assert restore_at(1.0, lambda given: restored if given is picture else given, picture) is restored


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("scale", [0.5, 1 / 3, 0.29])
def test_what_is_not_changed_keeps_every_bit(dtype: Any, grey: bool, scale: float) -> None:
    picture = texture(301, 70)[..., 0] if grey else texture(301, 70)
    pixels = (picture * dtype({np.uint8: 1, np.uint16: 257}.get(dtype, 1 / 255))).astype(dtype)
    seen: list[NDArray[Any]] = []
    kept = restore_at(scale, recorded(seen), pixels)
    assert kept.dtype == dtype
    assert np.array_equal(kept, pixels)
    assert seen[0].dtype == dtype
    assert seen[0].shape == (round(301 * scale), round(70 * scale), *pixels.shape[2:])


def test_the_picture_to_restore_is_the_mean_over_the_pixels_it_stands_for() -> None:
    picture = texture(600, 90)
    seen: list[NDArray[Any]] = []
    restore_at(1 / 3, recorded(seen), picture)
    means = picture.reshape(200, 3, 30, 3, 3).mean((1, 3))
    assert np.abs(seen[0] - means).max() <= 0.5 + 1e-4


def test_a_change_is_enlarged_where_it_belongs_and_added_to_the_details() -> None:
    y, x = np.mgrid[:600, :400]
    detail = 0.4 + 0.1 * ((y + x) % 2)
    low = 0.1 * np.sin(y / 60) * np.cos(x / 45)  # in px of the full picture

    def restore(small: NDArray[np.float64]) -> NDArray[np.float64]:
        rows, columns = (np.arange(side) * 4 + 1.5 for side in small.shape)
        return small + 0.1 * np.sin(rows[:, None] / 60) * np.cos(columns / 45)

    assert np.abs(restore_at(0.25, restore, detail) - (detail + low))[8:-8, 8:-8].max() < 1e-4


def test_the_strips_are_not_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = (texture(500, 60) / 255).astype(np.float32)

    def restore(small: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.flip(small, 0)

    by_strips = restore_at(0.37, restore, picture)
    monkeypatch.setattr(scales, "_STRIP", 10_000)
    assert np.abs(restore_at(0.37, restore, picture) - by_strips).max() < 1e-5


@pytest.mark.parametrize("dtype, white", [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_values_stay_in_their_range(dtype: Any, white: int) -> None:
    pixels = np.zeros((40, 40, 3), dtype)
    pixels[:, 20:] = white
    out = restore_at(0.5, lambda small: np.flip(small, 1), pixels)
    assert (out.min(), out.max()) == (0, white)
    assert out[20, 5, 0] == white
    assert out[20, 35, 0] == 0


@pytest.mark.parametrize("scale", ["auto", 0.5])
def test_what_scaling_takes_is_foretold(scale: Any) -> None:
    picture = np.tile(texture(256, 256), (4, 8, 1))
    tracemalloc.start()
    if scale == "auto":
        pick_scale(picture)
        beyond = 0
    else:
        restore_at(scale, np.copy, picture)
        beyond = picture.nbytes
    most = tracemalloc.get_traced_memory()[1] - beyond
    tracemalloc.stop()
    foretold = scale_bytes(*picture.shape[:2], scale, 0)
    assert 0.7 * foretold <= most <= foretold


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.5, math.nan])
def test_a_scale_out_of_range_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=r"scale must be in \(0, 1\], got"):
        restore_at(scale, lambda small: small, texture(8, 8))
