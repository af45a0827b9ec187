"""MotionBlur on ndarrays and PIL pictures: what comes back, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from blur_cases import picture
from PIL import Image

from deblurgan.blur import MotionBlur

BLUR = MotionBlur(length=8.0, exposure=1.0, seed=1)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64], ids=str)
def test_an_array_gives_an_array(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    array = picture(*shape, dtype=dtype).numpy()
    given = array.copy()
    got = BLUR(array, index=2)
    wanted = BLUR(torch.from_numpy(array.reshape(20, 30, -1)).permute(2, 0, 1), index=2).permute(1, 2, 0)
    assert isinstance(got, np.ndarray) and (got.dtype, got.shape) == (array.dtype, array.shape)
    assert np.array_equal(got, wanted.reshape(shape).numpy()) and np.array_equal(array, given)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_pil_picture_gives_a_pil_picture(mode: str) -> None:
    array = picture(20, 30, *([3] if mode == "RGB" else []), dtype=torch.uint8).numpy()
    got, psf = BLUR(Image.fromarray(array), index=2, return_psf=True)
    assert isinstance(got, Image.Image) and (got.mode, got.size) == (mode, (30, 20))
    assert np.array_equal(np.asarray(got), BLUR(array, index=2)) and torch.equal(psf, BLUR.psf(1, index=2))


def test_a_pil_picture_keeps_its_colour_profile() -> None:
    given = Image.new("RGB", (8, 8))
    given.info["icc_profile"] = b"sRGB"
    assert BLUR(given, index=2).info == {"icc_profile": b"sRGB"}


def test_views_are_read_as_they_look() -> None:
    array = picture(20, 30, 3, dtype=torch.uint8).numpy()
    array.flags.writeable = False
    assert np.array_equal(BLUR(array[::-1, ::2], index=2), BLUR(array[::-1, ::2].copy(), index=2))


def test_windows_cut_other_kinds_too() -> None:
    array = picture(20, 30, 3, dtype=torch.uint8).numpy()
    part = BLUR(Image.fromarray(array), index=2, windows=torch.tensor([[3, 4, 0]]), size=(8, 9))
    assert np.array_equal(np.asarray(part), BLUR(array, index=2)[3:11, 4:13])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            Image.new("RGBA", (8, 8)),
            r"PIL\.Image\.Image of mode L or RGB, got one of mode RGBA: convert\('RGB'\) makes",
        ),
        (Image.new("P", (8, 8)), "of mode P"),
        (Image.new("I;16", (8, 8)), "of mode I;16$"),  # RGB would be its levels clipped at 255
        (np.zeros((8, 8, 3), np.uint16), r"numpy\.ndarray \[h, w\] or \[h, w, c\] of uint8, .*, got one of uint16"),
        (np.zeros((8, 8, 3), ">f4"), "got one of >f4"),
        (np.zeros((8, 8, 3), bool), "got one of bool"),
        ("photo.png", r"image must be a torch\.Tensor .*, a numpy\.ndarray .* or a PIL\.Image\.Image .*, got str"),
    ],
)
def test_what_it_does_not_take_is_told_what_it_takes(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        BLUR(given)


@pytest.mark.parametrize("shape", [(8,), (3, 64, 64), (2, 8, 8, 3), (8, 8, 0)], ids=str)
def test_arrays_of_other_shapes_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"an ndarray must be \[h, w\], or \[h, w, c\] of 1 to 4 channels, got \("):
        BLUR(np.zeros(shape, np.uint8))


def test_signed_goes_with_tensors() -> None:
    with pytest.raises(ValueError, match=r"signed goes with a torch\.Tensor, got torch\.float16 and numpy\.ndarray"):
        BLUR(np.zeros((8, 8), np.uint8), signed=torch.float16)
