"""What is no tensor is refused at every door of the API, in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deblurgan import (
    Critic,
    Deblurrer,
    Generator,
    MotionBlur,
    evaluate,
    load_generator,
    losses,
    metrics,
    save_generator,
)
from deblurgan.blur import apply_psf, psf_taps, random_trajectories, random_windows, rasterize_psf

X, PSF = torch.rand(1, 3, 16, 16), torch.ones(1, 1)

DOORS: dict[str, Callable[[Any], Any]] = {
    "MotionBlur": lambda x: MotionBlur()(x),
    "MotionBlur, psf": lambda x: MotionBlur()(X, psf=x),
    "apply_psf": lambda x: apply_psf(x, PSF),
    "apply_psf, psf": lambda x: apply_psf(X, x),
    "psf_taps": psf_taps,
    "rasterize_psf": rasterize_psf,
    "psnr": lambda x: metrics.psnr(x, x),
    "psnr, b": lambda x: metrics.psnr(X, x),
    "ssim": lambda x: metrics.ssim(x, X),
    "Generator": lambda x: Generator("tiny", width=2, blocks=1)(x),
    "Critic": lambda x: Critic(2)(x),
    "critic_loss": lambda x: losses.critic_loss(X, x),
    "generator_loss": losses.generator_loss,
    "gradient_penalty": lambda x: losses.gradient_penalty(Critic(2), X, x),
    "content": lambda x: losses.content(x, X),
    "pixel": lambda x: losses.pixel(X, x),
    "total_variation": losses.total_variation,
}
OTHERS = {
    "PIL.Image.Image": Image.new("RGB", (16, 16)),
    "numpy.ndarray": np.zeros((16, 16, 3), np.uint8),
    "list": [[0.0]],
    "str": "photo.png",
    "NoneType": None,
}


TAKEN = [("MotionBlur, psf", "NoneType"), ("MotionBlur", "PIL.Image.Image"), ("MotionBlur", "numpy.ndarray")]


@pytest.mark.parametrize("door, kind", [pair for pair in product(DOORS, OTHERS) if pair not in TAKEN])
def test_what_is_no_tensor_is_named(door: str, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"^\w+ must be a torch\.Tensor .*, got {kind}") as caught:
        DOORS[door](OTHERS[kind])
    assert ("from_numpy" in str(caught.value)) == (kind in ("PIL.Image.Image", "numpy.ndarray"))


def test_the_way_that_is_pointed_out_is_one() -> None:
    picture = torch.from_numpy(np.array(OTHERS["PIL.Image.Image"])).permute(2, 0, 1)
    assert MotionBlur()(picture).shape == (3, 16, 16)


OPTIONS = "length size steps anxiety exposure gamma noise highlights shot read jpeg p seed"


@pytest.mark.parametrize("name", OPTIONS.split())
def test_options_that_are_no_numbers_are_named(name: str) -> None:
    for value in ("0.5", [None], torch.ones(1)):
        with pytest.raises(TypeError, match=f"^{name} must be a number, got "):
            MotionBlur(**{name: value})


@pytest.mark.parametrize("name", ["size", "steps", "seed"])
def test_options_that_are_no_whole_numbers_are_named(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be a whole number, got 9\.5"):
        MotionBlur(**{name: 9.5})


def test_true_is_no_number() -> None:
    with pytest.raises(TypeError, match=r"^jpeg must be a number, got True"):
        MotionBlur(jpeg=True)


def test_what_names_a_call_s_draw_is_checked_too() -> None:
    x, blur = X.byte(), MotionBlur(length=8.0, seed=1)
    for options, message in (({"seed": "1"}, "seed must be a number"), ({"index": 1.5}, "first index must be a whole")):
        with pytest.raises(TypeError, match=message):
            blur(x, **options)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"seed must be in \[0, 2\^63\), got"):
        blur(x, seed=2**63)
    with pytest.raises(ValueError, match="seed and generator contradict each other"):
        blur(x, seed=1, generator=torch.Generator())


def test_numbers_of_numpy_are_numbers() -> None:
    options: dict[str, Any] = {"length": np.float32(8), "exposure": np.float32(0.5), "noise": np.array([0.0, 0.1])}
    plain = MotionBlur(length=8.0, exposure=0.5, noise=(0.0, 0.1))
    assert torch.equal(MotionBlur(**options)(X, index=0), plain(X, index=0))
    assert torch.equal(
        MotionBlur(exposure=np.array([0.5]), length=8.0).psf(2, index=0),
        MotionBlur(exposure=0.5, length=8.0).psf(2, index=0),
    )


def test_numbers_of_numpy_are_numbers_to_measure_and_to_write(small_generator: Generator, photos: Path) -> None:
    deblurrer = Deblurrer(small_generator, device="cpu", dtype="fp32", max_memory=np.int64(2**40))
    plain = evaluate(deblurrer, photos, kernels=1, exposure=0.5, seed=1)
    options: dict[str, Any] = {"kernels": np.float64(1), "exposure": np.array([0.5]), "seed": np.uint8(1)}
    assert evaluate(deblurrer, photos, **options).rows == plain.rows
    deblurrer.file(photos / "0.png", photos / "plain.jpg", quality=50)
    deblurrer.file(photos / "0.png", photos / "numpy.jpg", quality=np.float32(50))  # type: ignore[arg-type]
    assert (photos / "numpy.jpg").read_bytes() == (photos / "plain.jpg").read_bytes()
    with pytest.raises(ValueError, match=r"max_memory must be 'auto' or a positive number of bytes, got nan"):
        Deblurrer(small_generator, device="cpu", max_memory=math.nan)  # type: ignore[arg-type]


def test_a_number_for_a_generator_is_refused() -> None:
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, got 3: seed takes a number"):
        MotionBlur()(X, generator=3)  # type: ignore[call-overload]


@pytest.mark.parametrize("noise", [(0.1,), (0.0, 0.1, 0.2), ()])
def test_a_noise_range_has_two_ends(noise: Any) -> None:
    with pytest.raises(ValueError, match="noise must be >= 0, or a"):
        MotionBlur(noise=noise)


@pytest.mark.parametrize("loss", [losses.pixel, losses.content])
def test_losses_do_not_stretch_pictures_to_fit(loss: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"must have the shape of .* \(1, 3, 16, 16\), got \(1, 1, 16, 16\)"):
        loss(X[:, :1], X)


NUMBERS: dict[str, Callable[[Any], Any]] = {
    "n": lambda x: random_trajectories(x, seed=0),
    "seed": lambda x: random_windows(1, picture=(9, 9), size=(3, 3), seed=x),
    "first index": lambda x: random_trajectories(1, seed=0, first=x),
    "steps": lambda x: random_trajectories(1, seed=0, steps=x),
    "size": lambda x: rasterize_psf(torch.zeros(1, 9, 2), size=x),
    "exposure": lambda x: rasterize_psf(torch.zeros(1, 9, 2), exposure=x),
    "noise": lambda x: apply_psf(X, PSF, noise=x),
    "data_range": lambda x: metrics.psnr(X, X, x),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_arguments_that_are_no_numbers_are_named(name: str) -> None:
    for value in ("1", [1], np.zeros(2)):
        with pytest.raises(TypeError, match=f"^{name} must be a number, got "):
            NUMBERS[name](value)


def test_weights_and_generators_are_not_taken_for_each_other(tmp_path: Path) -> None:
    generator: Any = Generator("tiny", width=2, blocks=1)
    for other in ("a.safetensors", generator.state_dict(), None):
        with pytest.raises(TypeError, match=r"^generator must be a Generator, got \S+"):
            Deblurrer(other)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^generator must be a Generator, got \S+"):
            save_generator(other, tmp_path / "a.safetensors")  # type: ignore[arg-type]
    for load in (load_generator, Deblurrer.from_pretrained):
        with pytest.raises(TypeError, match=r"^path(_or_id)? must be a str or PathLike, got deblurgan\.nn\.Generator"):
            load(generator)
