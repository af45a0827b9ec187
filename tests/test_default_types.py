"""What csrc/ and the kernels read and write has the types they assume, whatever torch's defaults and modes are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from blur_cases import COUNTER, corners, kernels, picture
from torch import Tensor

from conftest import lively, texture
from deblurgan import Deblurrer, Generator, ops
from deblurgan.blur import MotionBlur, apply_psf, psf_taps, random_trajectories, random_windows, rasterize_psf

# Made before the defaults change
ANXIETY, SHARES, NOISE = torch.full((3,), 0.01), torch.full((3,), 0.7), torch.full((3,), 0.1)
PATHS = ops.random_trajectories(ANXIETY, 3, 5, 300, 8.0)
PSF, WINDOWS = kernels(3, 5), corners(3, (20, 31), (7, 11))
DENSE = PSF + 0.1
FLOATS, LEVELS = picture(3, 3, 20, 31), picture(3, 3, 20, 31, dtype=torch.uint8)
GRADIENT = picture(3, 3, 20, 31)
SIGNED = picture(1, 3, 8, 12) * 2 - 1
PHOTO = texture(13, 18)


def gradient_of_apply() -> Tensor:
    x = FLOATS.clone().requires_grad_()
    return torch.autograd.grad(apply_psf(x, PSF), x, GRADIENT)[0]


CALLS: dict[str, Callable[[], Tensor | tuple[Tensor, ...]]] = {
    "uniforms": lambda: ops.uniforms(300, seed=3),
    "uniforms by counter": lambda: ops.uniforms(300, counter=COUNTER),
    "random_windows": lambda: random_windows(300, picture=(20, 31), size=(7, 11), seed=3),
    "dropout_mask": lambda: ops.dropout_mask([2, 12, 3, 5], 0.5, COUNTER, 1),
    "random_trajectories": lambda: ops.random_trajectories(ANXIETY, 3, 5, 300, 8.0),
    "blur.random_trajectories": lambda: random_trajectories(3, seed=3),
    "rasterize_psf": lambda: ops.rasterize_psf(PATHS, SHARES, 15, "centered"),
    "blur.rasterize_psf": lambda: rasterize_psf(PATHS, exposure=0.5, size=15),
    "psf_taps": lambda: psf_taps(DENSE),
    "apply_psf": lambda: apply_psf(FLOATS, PSF, noise=0.1),
    "apply_psf, uint8": lambda: apply_psf(LEVELS, PSF, noise=NOISE, gamma=2.2),
    "apply_psf, windows": lambda: apply_psf(LEVELS, PSF, windows=WINDOWS, size=(7, 11), signed=torch.float16),
    "apply_psf's gradient": gradient_of_apply,
    "MotionBlur": lambda: MotionBlur(noise=(0.0, 0.1), p=0.5)(FLOATS, index=0, return_psf=True),
    "MotionBlur.psf": lambda: MotionBlur(anxiety=(0.0, 0.01), mode="released").psf(3, seed=1),
}
SETTINGS: dict[str, Callable[[], None]] = {
    "fp64": lambda: torch.set_default_dtype(torch.float64),
    "bf16": lambda: torch.set_default_dtype(torch.bfloat16),
    "fp16": lambda: torch.set_default_dtype(torch.float16),
    "meta": lambda: torch.set_default_device("meta"),
}


@pytest.fixture
def restored_defaults() -> Iterator[None]:
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)
    torch.set_default_device(None)


def assert_same(got: Tensor | tuple[Tensor, ...], wanted: Tensor | tuple[Tensor, ...]) -> None:
    assert isinstance(got, Tensor) == isinstance(wanted, Tensor)
    pairs = [(got, wanted)] if isinstance(got, Tensor) else zip(got, wanted, strict=True)
    for a, b in pairs:
        assert isinstance(a, Tensor) and isinstance(b, Tensor)
        assert (a.dtype, a.device, a.shape, a.stride()) == (b.dtype, b.device, b.shape, b.stride())
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_torch_s_defaults_change_nothing(name: str, setting: str, restored_defaults: None, poisoned: None) -> None:
    wanted = CALLS[name]()
    SETTINGS[setting]()
    assert_same(CALLS[name](), wanted)


def network() -> Generator:
    torch.manual_seed(0)
    return lively(Generator("paper", width=16, blocks=1)).eval()


def gradients(net: Generator) -> tuple[Tensor, ...]:
    return torch.autograd.grad(net(SIGNED, seed=3), [net.stem.weight, net.head.weight], SIGNED)


@pytest.mark.parametrize("setting", ["bf16", "meta"])
@pytest.mark.parametrize("path", ["reference", "kernels"])
def test_torch_s_defaults_do_not_change_a_network(
    path: str, setting: str, request: pytest.FixtureRequest, restored_defaults: None, poisoned: None
) -> None:
    if path == "kernels":
        request.getfixturevalue("kernels")
    net = network()
    with torch.no_grad():
        wanted = net(SIGNED)
    wanted_gradients = gradients(net)
    SETTINGS[setting]()
    with torch.no_grad():
        assert_same(net(SIGNED), wanted)
    assert_same(gradients(net), wanted_gradients)


@pytest.mark.parametrize("setting", SETTINGS)
def test_torch_s_defaults_do_not_change_a_deblurrer(setting: str, restored_defaults: None) -> None:
    net = network()
    wanted = Deblurrer(net, dtype="fp32", device="cpu")(PHOTO)
    SETTINGS[setting]()
    assert np.array_equal(Deblurrer(net, dtype="fp32", device="cpu")(PHOTO), wanted)


@pytest.mark.parametrize("name", [name for name in CALLS if "gradient" not in name])
def test_inference_mode_changes_nothing(name: str, poisoned: None) -> None:
    wanted = CALLS[name]()
    with torch.inference_mode():
        got = CALLS[name]()
    assert_same(got, wanted)


def test_a_module_made_in_inference_mode_counts_outside_it() -> None:
    with torch.inference_mode():
        blur = MotionBlur(seed=4)
    assert_same((blur(FLOATS), blur(FLOATS)), (MotionBlur(seed=4)(FLOATS), MotionBlur()(FLOATS, seed=4, index=3)))
