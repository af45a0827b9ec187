"""The blur of a camera: light beyond white, a sensor's noise, and the clipping."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from blur_cases import DTYPES, ONE, kernels, picture, same
from blur_formulas import assert_follows, drawn_case
from scipy.signal import convolve2d
from scipy.stats import kstest
from torch import Tensor

from deblurgan import ops
from deblurgan.blur import MotionBlur, apply_psf


def lit(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A picture a quarter of which is white."""
    x = (1.3 * picture(*shape, dtype=torch.float64)).clamp(max=1)
    return (255 * x).to(dtype) if dtype == torch.uint8 else x.to(dtype)


def test_with_all_options_at_random_it_follows_the_formulas(device: torch.device, poisoned: None) -> None:
    draw = random.Random(0)
    for _ in range(40):
        x, psf, options = drawn_case(draw)
        assert_follows(x, psf, options, device)


def test_a_light_draws_a_streak(device: torch.device) -> None:
    """Of one white pixel in the dark: by four px it is the fourth of its light, clipped where that is white."""
    x = torch.zeros(4, 3, 5, 15, device=device)
    x[..., 2, 7] = 1
    line = torch.zeros(1, 5, 5, device=device)
    line[0, 2, :4] = 0.25
    got = apply_psf(x, line, gamma=2.2, highlights=torch.tensor([0.0, 1.0, 3.0, 9.0], device=device)).cpu()
    streak = torch.tensor([0.25, 0.5, 1.0, 1.0]).double() ** (1 / 2.2)
    assert (got[:, :, 2, 5:9].double() - streak[:, None, None]).abs().max() < 1e-6
    assert got.count_nonzero() == 4 * 3 * 4


@pytest.mark.parametrize("gamma", [1.0, 2.2])
def test_white_is_as_white_as_its_light(gamma: float, device: torch.device) -> None:
    """Far beyond white no noise shows, as where a sensor is full; at white it only darkens."""
    white = torch.full((2, 3, 40, 40), 255, dtype=torch.uint8, device=device)
    options: dict[str, Any] = {"gamma": gamma, "sensor": (1e-3, 0.02)}
    light = torch.tensor([0.0, 0.5], device=device)
    at, beyond = apply_psf(white, ONE.to(device), highlights=light, **options).cpu()
    assert (beyond == 255).all()
    assert 0.4 < (at == 255).double().mean() < 0.7


def test_the_noise_of_a_sensor_grows_with_light() -> None:
    light = torch.tensor([0.0, 0.1, 0.6])[:, None, None, None]
    flat = (light ** (1 / 2.2)).expand(3, 3, 64, 64).contiguous()
    got = apply_psf(flat + 0.0, ONE, gamma=2.2, sensor=(4e-4, 0.01), seed=8).double() ** 2.2
    for i, level in enumerate((0.0, 0.1, 0.6)):
        deviation = math.sqrt(4e-4 * level + 0.01**2)
        if level == 0:
            assert 0.4 < (got[i] == 0).double().mean() < 0.6  # clipped to black
        else:
            assert kstest(((got[i] - level) / deviation).flatten().numpy(), "norm").pvalue > 0.001


def test_both_noises_are_independent() -> None:
    grey = torch.full((1, 3, 64, 64), 0.5)
    sensed = apply_psf(grey, ONE, sensor=(0.0, 0.05), seed=3) - 0.5
    added = apply_psf(grey, ONE, noise=0.05, seed=3) - 0.5
    both = apply_psf(grey, ONE, noise=0.05, sensor=(0.0, 0.05), seed=3) - 0.5
    assert (both - sensed - added).abs().max() < 1e-6
    assert abs(torch.corrcoef(torch.stack([sensed.flatten(), added.flatten()]))[0, 1]) < 4.5 / math.sqrt(grey.numel())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_quiet_sensor_and_no_highlights_change_no_byte(dtype: torch.dtype, device: torch.device) -> None:
    x, psf = lit(3, 3, 21, 36, dtype=dtype).to(device), 0.999 * kernels(3, 5).to(device)  # no average is above white
    plain = apply_psf(x, psf, gamma=2.2, noise=0.01)
    assert same(apply_psf(x, psf, gamma=2.2, noise=0.01, highlights=0.0, sensor=(0.0, 0.0)), plain)


@pytest.mark.parametrize("gamma", [1.0, 2.2])
def test_nan_stays_and_spoils_what_its_taps_reach_and_infinity_is_white(gamma: float, device: torch.device) -> None:
    x, psf = picture(1, 1, 40, 70), MotionBlur(length=20.0).psf(1, seed=3)
    options: dict[str, Any] = {"gamma": gamma, "highlights": 1.0, "sensor": (1e-3, 0.01), "padding": "zero"}
    x[0, 0, [5, 33], [4, 60]] = math.nan
    reached = convolve2d(x[0, 0].isnan().int().numpy(), (psf[0] != 0).int().numpy(), mode="same") > 0
    assert np.array_equal(apply_psf(x.to(device), psf.to(device), **options)[0, 0].isnan().cpu().numpy(), reached)
    infinite = torch.full((1, 1, 3, 3), math.inf, device=device)
    assert (apply_psf(infinite, ONE.to(device), **options) == 1).all()


def test_numbers_stand_for_every_picture() -> None:
    x, psf = lit(2, 3, 9, 9), kernels(2, 3)
    wanted = ops.apply_psf(
        x, psf, "reflect", 2.2, highlights=torch.tensor([0.5, 0.5]), sensor=torch.tensor([[0.001, 0.02]] * 2)
    )
    assert same(apply_psf(x, psf, gamma=2.2, highlights=0.5, sensor=(0.001, 0.02)), wanted)
    assert same(apply_psf(x[0], psf[0], gamma=2.2, highlights=0.5, sensor=(0.001, 0.02)), wanted[0])


def test_gradient_is_the_true_adjoint() -> None:
    """Where no average is clipped; white pixels included."""
    x, psf = 0.5 * picture(2, 1, 3, 4, dtype=torch.float64), kernels(2, 3).double()
    x[..., 1, 2] = 1.1
    sensor = torch.tensor([[1e-4, 9e-4], [2e-3, 0.0]])
    options: dict[str, Any] = {"gamma": 2.2, "highlights": torch.tensor([0.1, 0.0]), "sensor": sensor, "seed": 3}
    assert apply_psf(x, psf, **options).amax() < 1
    assert torch.autograd.gradcheck(lambda x: apply_psf(x, psf, **options), (x.requires_grad_(),))
    assert torch.autograd.gradgradcheck(lambda x: apply_psf(x, psf, **options), (x,))


def test_gradient_is_none_where_light_is_clipped_and_finite_in_the_dark() -> None:
    x = torch.zeros(1, 1, 9, 9)
    x[..., 5:] = 1
    x.requires_grad_()
    apply_psf(x, ONE, gamma=2.2, highlights=1.0, sensor=(1e-3, 0.0)).sum().backward()
    assert x.grad is not None and not x.grad.any()
