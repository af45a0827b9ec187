"""What csrc/ reads and writes has the types it assumes, whatever torch's default dtype and device are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from blur_cases import COUNTER, corners, kernels, picture
from torch import Tensor

from deblurgan import ops
from deblurgan.blur import MotionBlur, apply_psf, psf_taps, random_trajectories, random_windows, rasterize_psf

# Made before the defaults change
ANXIETY, SHARES, NOISE = torch.full((3,), 0.01), torch.full((3,), 0.7), torch.full((3,), 0.1)
PATHS = ops.random_trajectories(ANXIETY, 3, 5, 300, 8.0)
PSF, WINDOWS = kernels(3, 5), corners(3, (20, 31), (7, 11))
DENSE = PSF + 0.1
FLOATS, LEVELS = picture(3, 3, 20, 31), picture(3, 3, 20, 31, dtype=torch.uint8)
GRADIENT = picture(3, 3, 20, 31)


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
}
GRADIENTS = {"apply_psf's gradient": gradient_of_apply}
MODULES: dict[str, Callable[[], Tensor | tuple[Tensor, ...]]] = {
    "MotionBlur": lambda: MotionBlur(noise=(0.0, 0.1), p=0.5)(FLOATS, index=0, return_psf=True),
    "MotionBlur.psf": lambda: MotionBlur(anxiety=(0.0, 0.01), mode="released").psf(3, seed=1),
}
CALLS_BY_DTYPE = CALLS | GRADIENTS | MODULES


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CALLS_BY_DTYPE)
def test_the_default_dtype_changes_nothing(
    name: str, dtype: torch.dtype, restored_defaults: None, poisoned: None
) -> None:
    wanted = CALLS_BY_DTYPE[name]()
    torch.set_default_dtype(dtype)
    assert_same(CALLS_BY_DTYPE[name](), wanted)


@pytest.mark.parametrize("name", CALLS)
def test_the_default_device_changes_nothing(name: str, restored_defaults: None, poisoned: None) -> None:
    wanted = CALLS[name]()
    torch.set_default_device("meta")
    assert_same(CALLS[name](), wanted)
