"""How apply_psf rounds to the types of pixels: as torch does, and uint8 to the nearest level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from blur_cases import (
    ONE,
    SIGNED,
    same,
)
from torch import Tensor

from deblurgan.blur import (
    apply_psf,
)


def every_half(dtype: torch.dtype) -> Tensor:
    """All 65,536 bit patterns as a picture."""
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).view(1, 1, 256, 256)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_half_comes_back_from_the_identity(dtype: torch.dtype, device: torch.device) -> None:
    """But -0, which a sum that starts with 0 makes 0."""
    x = every_half(dtype)
    got = apply_psf(x.to(device), ONE.to(device)).cpu()
    nan = x.isnan()
    assert torch.equal(got.isnan(), nan)
    assert same(got[~nan], torch.where(x == 0, 0, x)[~nan])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("factor", [1 / 3, 3.0, 1 + 2**-12, 2**-9, 1.5 * 2**-20, 300.0])
def test_halves_are_rounded_as_torch_rounds_them(dtype: torch.dtype, factor: float, device: torch.device) -> None:
    """Ties, denormals and what overflows among them."""
    x = every_half(dtype)
    weight = torch.full((1, 1), factor)
    got = apply_psf(x.to(device), weight.to(device)).cpu()
    wanted = (x.float() * weight).to(dtype)
    assert torch.equal(got.isnan(), wanted.isnan())
    assert torch.equal(got.nan_to_num(), wanted.nan_to_num())


@pytest.mark.parametrize("factor", [0.5, 0.25, 1 / 3, 1.5])
def test_levels_are_rounded_to_nearest_halves_up(factor: float, device: torch.device) -> None:
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    got = apply_psf(x.to(device), torch.full((1, 1), factor, device=device)).cpu()
    assert np.array_equal(got.numpy(), np.minimum(np.floor(x.numpy() * np.float32(factor) + 0.5), 255))


@pytest.mark.parametrize("signed", SIGNED, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8], ids=str)
def test_signed_values_are_rounded_as_torch_rounds_them(
    dtype: torch.dtype, signed: torch.dtype, device: torch.device
) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    x, white = (levels, 255) if dtype == torch.uint8 else (every_half(dtype), 1)
    got = apply_psf(x.to(device), ONE.to(device), signed=signed).cpu()
    wanted = (x.float() * (2 / white) - 1).clamp(-1, 1).to(signed)
    assert torch.equal(got.isnan(), wanted.isnan())
    assert torch.equal(got.nan_to_num(), wanted.nan_to_num())
    if dtype == torch.uint8:
        assert (got[0, 0, 0, 0], got[0, 0, -1, -1]) == (-1, 1)
