"""MotionBlur's camera: its options one by one and as a preset, what is drawn for whom, and JPEG as Pillow does it."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from blur_cases import picture, same
from PIL import Image
from scipy.stats import chisquare, kstest
from torch import Tensor

from deblurgan import ops
from deblurgan.blur import MotionBlur, apply_psf
from deblurgan.blur.camera import CAMERA, OFF, camera_options
from deblurgan.blur.draws import CAMERA_STREAM
from deblurgan.blur.jpeg import jpeg, through_jpeg

SINGLE = {
    "gamma": 2.2,
    "highlights": (0.25, 1.75),
    "shot": (0.5e-4, 1.5e-4),
    "read": (4.6e-4, 13.7e-4),
    "jpeg": (75, 95),
}


def lights(*shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Pictures with white spots."""
    x = picture(*shape, dtype=dtype)
    x[..., 3:6, 4:9] = 255 if dtype == torch.uint8 else 1
    return x


def jpeg_of(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Pixels [h, w] or [h, w, 3] as Pillow alone writes and reads them."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality)
    return np.asarray(Image.open(io.BytesIO(file.getvalue())))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_preset_is_its_single_options(dtype: torch.dtype) -> None:
    x = lights(3, 3, 24, 32, dtype=dtype)
    camera, single = MotionBlur(realism="camera", length=8.0), MotionBlur(**SINGLE, length=8.0)
    assert same(camera(x, index=4), single(x, index=4))
    assert camera.camera == single.camera == CAMERA == camera_options("none", **SINGLE)
    assert MotionBlur().camera == OFF


@pytest.mark.parametrize(
    ("name", "value"), [("gamma", 1.0), ("highlights", 0.0), ("shot", 0.01), ("read", (0, 0)), ("jpeg", 0)]
)
def test_an_option_that_is_given_takes_the_presets_place(name: str, value: Any) -> None:
    x = lights(3, 3, 24, 32)
    got = MotionBlur(realism="camera", length=8.0, **{name: value})(x, index=4)
    assert same(got, MotionBlur(**{**SINGLE, name: value}, length=8.0)(x, index=4))
    assert not same(got, MotionBlur(realism="camera", length=8.0)(x, index=4))


def test_the_camera_changes_no_other_draw() -> None:
    x = lights(3, 3, 24, 32)
    plain, camera = (MotionBlur(realism=realism, length=8.0, p=0.8, noise=0.0) for realism in ("none", "camera"))
    (y, psf), (z, kernels) = (blur(x, index=4, return_psf=True) for blur in (plain, camera))
    assert same(psf, kernels) and not same(y, z)
    off = MotionBlur(realism="camera", gamma=1, highlights=0, shot=0, read=0, jpeg=0, length=8.0, p=0.8)
    assert same(off(x, index=4), y)


def test_a_picture_gets_the_same_camera_in_any_batch() -> None:
    x, blur = lights(5, 3, 16, 20), MotionBlur(realism="camera", length=8.0, seed=3)
    whole = blur(x, index=7)
    assert same(torch.cat([blur(x[:2], index=7), blur(x[2:], index=9)]), whole)
    assert same(blur(x[4], index=11), whole[4])
    assert not same(blur(x, index=7, seed=4), whole)


def test_effects_are_those_of_apply_psf_with_the_cameras_draws() -> None:
    x = lights(4, 3, 24, 32)
    y, psf = MotionBlur(realism="camera", jpeg=0, length=8.0)(x, seed=5, index=6, return_psf=True)
    uniform = ops.uniforms(4, seed=5 ^ CAMERA_STREAM, first=6)
    sensor = torch.stack([0.5e-4 + 1e-4 * uniform[:, 1], 4.6e-4 + 9.1e-4 * uniform[:, 2]], 1)
    highlights = 0.25 + 1.5 * uniform[:, 0]
    assert same(y, apply_psf(x, psf, gamma=2.2, highlights=highlights, sensor=sensor, seed=5, first=6))


def test_draws_fill_their_ranges() -> None:
    uniform = ops.uniforms(4000, seed=1 ^ CAMERA_STREAM)
    highlights, sensor, quality = CAMERA.effects(uniform)
    assert highlights is not None and sensor is not None and quality is not None
    drawn = {"highlights": highlights, "shot": sensor[:, 0], "read": sensor[:, 1]}
    for name, values in drawn.items():
        low, high = getattr(CAMERA, name)
        assert kstest((values.double() - low).numpy() / (high - low), "uniform").pvalue > 0.001, name
    levels = torch.bincount(quality)
    assert levels[:75].sum() == 0 and len(levels) == 96
    assert chisquare(levels[75:].numpy()).pvalue > 0.001
    assert abs(np.corrcoef([*(v.numpy() for v in drawn.values()), quality.numpy()])[np.triu_indices(4, 1)]).max() < 0.06


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_jpeg_is_pillows(channels: int, dtype: torch.dtype) -> None:
    x = picture(2, channels, 21, 30, dtype=dtype)
    white = 1 if dtype == torch.uint8 else 255
    blur = MotionBlur(jpeg=(40, 60), length=8.0)
    sharp = MotionBlur(length=8.0)(x, index=3).float().mul(white).add(0.5 if white == 255 else 0).to(torch.uint8)
    quality = 40 + (ops.uniforms(2, seed=CAMERA_STREAM, first=3)[:, 3] * 21).long()
    for given, got, wanted in zip(quality.tolist(), blur(x, index=3), sharp, strict=True):
        pixels = wanted.permute(1, 2, 0).squeeze(-1).numpy()
        coded = torch.from_numpy(jpeg_of(pixels, given).reshape(21, 30, channels).copy()).permute(2, 0, 1)
        assert same(got, coded if white == 1 else (coded.float() / 255).to(dtype))
        assert not torch.equal(coded, wanted)


def test_jpeg_is_of_the_crop_and_comes_before_the_step_to_a_network_s_values() -> None:
    x, crop = lights(2, 3, 24, 32), {"windows": torch.tensor([[3, 4, 0], [0, 1, 1]]), "size": (16, 16)}
    got, uncoded = (MotionBlur(realism="camera", length=8.0, jpeg=q)(x, index=3, **crop) for q in (80, 0))
    assert same(got, jpeg(uncoded, torch.tensor([80, 80])))
    signed = MotionBlur(realism="camera", length=8.0, jpeg=80)(x, index=3, signed=torch.float32, **crop)
    assert same(signed, got.float() / 127.5 - 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16])
def test_jpeg_keeps_the_memory_layout(dtype: torch.dtype) -> None:
    x = lights(2, 3, 9, 12, dtype=dtype)
    got = MotionBlur(realism="camera", length=8.0)(x.contiguous(memory_format=torch.channels_last), index=3)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert same(got, MotionBlur(realism="camera", length=8.0)(x, index=3))


def test_nan_is_black_in_jpeg_and_infinity_white() -> None:
    x = torch.stack([torch.full((3, 8, 8), value) for value in (math.nan, -math.inf, math.inf, 2.0)])
    assert through_jpeg(x, torch.full((4,), 90))[:, 0, 0, 0].tolist() == [0, 0, 1, 1]


def test_empty_pictures_have_no_jpeg() -> None:
    assert MotionBlur(realism="camera")(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)
    assert MotionBlur(realism="camera")(torch.zeros(2, 3, 0, 8)).shape == (2, 3, 0, 8)


def test_jpeg_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(ValueError, match="jpeg takes pictures of 1 or 3 channels, got 4"):
        MotionBlur(jpeg=80)(torch.rand(1, 4, 8, 8))
    with pytest.raises(ValueError, match="jpeg has no gradient: give a picture that requires none, or jpeg=0"):
        MotionBlur(jpeg=80)(torch.rand(1, 3, 8, 8, requires_grad=True))
    with pytest.raises(ValueError, match=r"signed must be a floating-point type, got torch\.int32"):
        MotionBlur(jpeg=80)(torch.rand(1, 3, 8, 8), signed=torch.int32)
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    MotionBlur(realism="camera", jpeg=0, length=8.0)(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"realism": "film"}, "realism must be one of none, camera, got 'film'"),
        ({"highlights": -1}, r"highlights must be >= 0, or a \(low, high\) pair of such, got -1"),
        ({"shot": (2, 1)}, r"shot must be >= 0, .*, got \(2, 1\)"),
        ({"read": float("nan")}, "read must be >= 0"),
        ({"jpeg": 101}, "jpeg must be a quality in 1 ... 100"),
        (
            {"jpeg": (0, 90)},
            r"jpeg must be a quality in 1 ... 100, a \(low, high\) pair of such, or 0 for none, got \(0,",
        ),
        ({"jpeg": 80.5}, "jpeg must be a quality"),
        ({"realism": "camera", "gamma": 0.0}, r"gamma must be in \[0.1, 10\], got 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MotionBlur(**options)
