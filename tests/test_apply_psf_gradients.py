"""The gradient of apply_psf: the true adjoint, with every option and in every type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from blur_cases import (
    SIGNED,
    corners,
    kernels,
    picture,
)

from conftest import assert_matches, relative_error
from deblurgan import reference
from deblurgan.blur import (
    MotionBlur,
    apply_psf,
)


def test_gradient_is_the_true_adjoint() -> None:
    psf = torch.rand(2, 5, 5, dtype=torch.float64)
    for padding in ("reflect", "replicate", "zero"):
        x = torch.randn(2, 2, 4, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, padding=padding: apply_psf(x, psf, padding=padding), (x,))
        assert torch.autograd.gradgradcheck(lambda x, padding=padding: apply_psf(x, psf, padding=padding), (x,))
    x = torch.rand(2, 1, 30, 20, requires_grad=True)
    y, g = torch.rand(2, 1, 30, 20), MotionBlur().psf(2, seed=1)
    apply_psf(x, g).backward(y)
    assert x.grad is not None
    forward = (apply_psf(x.detach(), g).double() * y.double()).sum()
    assert relative_error((x.grad.double() * x.detach().double()).sum(), forward) < 1e-5


GRADIENTS: dict[str, dict[str, Any]] = {
    "gamma": {"gamma": 2.2},
    "windows": {"windows": corners(2, (4, 6), (3, 4)), "size": (3, 4)},
    "signed": {"signed": torch.float64},
    "noise": {"noise": torch.tensor([0.01, 0.02]), "seed": 3, "first": 9},
}
GRADIENTS["all"] = {name: value for options in GRADIENTS.values() for name, value in options.items()}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_with_options_is_the_true_adjoint(name: str) -> None:
    options, psf = GRADIENTS[name], kernels(2, 3).double()
    x = (0.8 * picture(2, 2, 4, 6, dtype=torch.float64)).requires_grad_()  # no value reaches 1, where it is clamped
    assert torch.autograd.gradcheck(lambda x: apply_psf(x, psf, **options), (x,))
    assert torch.autograd.gradgradcheck(lambda x: apply_psf(x, psf, **options), (x,))


@pytest.mark.parametrize("padding", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize("dtype", SIGNED, ids=str)
def test_gradient_matches_fp64(dtype: torch.dtype, padding: reference.Padding, device: torch.device) -> None:
    options: dict[str, Any] = {"padding": padding, "gamma": 2.2, "size": (9, 14), "seed": 3, "first": 9}
    windows, noise = corners(2, (17, 20), (9, 14)), torch.tensor([0.01, 0.02])
    psf, g = kernels(2, 9), picture(2, 3, 9, 14) - 0.5
    x = picture(2, 3, 17, 20, dtype=dtype)
    for signed in (None, torch.float32):
        exact = x.double().requires_grad_()
        y = reference.apply_psf(exact, psf.double(), windows=windows, noise=noise, **options)
        y = y if signed is None else (2 * y - 1).clamp(-1, 1)
        (wanted,) = torch.autograd.grad(y, exact, g.to(signed or dtype).double())
        moved = x.to(device).requires_grad_()
        out = apply_psf(
            moved, psf.to(device), windows=windows.to(device), noise=noise.to(device), signed=signed, **options
        )
        (got,) = torch.autograd.grad(out, moved, g.to(device, out.dtype))
        assert got.dtype == dtype
        assert_matches(got, wanted, name=f"gradient, signed {signed}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradient_of_light_is_finite_where_a_picture_is_black(dtype: torch.dtype) -> None:
    x = picture(1, 1, 9, 9, dtype=dtype)
    x[..., :6] = 0
    x.requires_grad_()
    apply_psf(x, torch.full((3, 3), 1 / 9, dtype=dtype), gamma=2.2).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
