"""Sensor noise: the reference's, normal, independent, and each picture's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from blur_cases import (
    ONE,
    picture,
    same,
)
from scipy.stats import kstest
from torch import Tensor

from conftest import assert_matches
from deblurgan import reference
from deblurgan.blur import (
    apply_psf,
)


def noise_of(*shape: int, seed: int = 0, first: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Noise of deviation 1 on a black picture [n, c, h, w]."""
    return apply_psf(torch.zeros(shape, device=device), ONE.to(device), noise=1.0, seed=seed, first=first)


@pytest.mark.parametrize("shape", [(3, 3, 8, 9), (2, 1, 5, 7), (1, 6, 1, 1), (4, 3, 65, 130)], ids=str)
def test_noise_is_the_reference_s(shape: tuple[int, int, int, int], device: torch.device) -> None:
    for seed, first in ((0, 0), (5, 2**33), (2**62, 2**40 + 1)):
        got = noise_of(*shape, seed=seed, first=first, device=device)
        assert_matches(got, reference.pixel_noise(shape, seed=seed, first=first))


def test_noise_is_normal_and_independent() -> None:
    noise = noise_of(16, 3, 64, 65, seed=6).double()
    n = noise.numel()
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 0.001
    assert abs(noise.mean()) < 4 / math.sqrt(n)
    assert abs(noise.std() - 1) < 4 / math.sqrt(2 * n)
    pairs = {
        "columns": (noise[..., :-1], noise[..., 1:]),
        "every other column": (noise[..., :-2], noise[..., 2:]),
        "rows": (noise[..., :-1, :], noise[..., 1:, :]),
        "channels": (noise[:, :-1], noise[:, 1:]),
        "pictures": (noise[:-1], noise[1:]),
        "seeds": (noise, noise_of(16, 3, 64, 65, seed=7).double()),
    }
    for name, (a, b) in pairs.items():
        for power in (1, 2):  # of the squares too: a pair shares its radius only if it is drawn wrongly
            correlation = torch.corrcoef(torch.stack([a.flatten() ** power, b.flatten() ** power]))[0, 1]
            assert abs(correlation) < 4.5 / math.sqrt(a.numel()), f"{name}, power {power}"


def test_noise_does_not_depend_on_layout_and_batch(device: torch.device) -> None:
    x = picture(5, 3, 40, 21, dtype=torch.uint8).to(device)
    options: dict[str, Any] = {"noise": 0.1, "seed": 3, "psf": ONE.to(device)}
    whole = apply_psf(x, first=10, **options)
    parts = [apply_psf(x[a:b], first=10 + a, **options) for a, b in ((0, 2), (2, 3), (3, 5))]
    assert same(torch.cat(parts), whole)
    assert same(apply_psf(x.contiguous(memory_format=torch.channels_last), first=10, **options), whole)
    assert not torch.equal(apply_psf(x, first=11, **options), whole)


def test_each_picture_has_its_own_deviation(device: torch.device) -> None:
    flat = torch.full((3, 3, 32, 32), 0.5, device=device)
    deviation = torch.tensor([0.0, 0.05, 0.2], device=device)
    got = apply_psf(flat, ONE.to(device), noise=deviation, seed=1, first=4).double().cpu() - 0.5
    wanted = deviation.double().cpu()[:, None, None, None] * reference.pixel_noise((3, 3, 32, 32), seed=1, first=4)
    assert (got - wanted).abs().max() < 1e-6
    assert same(apply_psf(flat, ONE.to(device), noise=deviation.double(), seed=1, first=4).cpu()[0], flat[0].cpu())


def test_noise_is_a_share_of_white() -> None:
    grey = torch.full((8, 3, 64, 64), 128, dtype=torch.uint8)
    levels = apply_psf(grey, ONE, noise=0.02).double()
    assert abs(levels.mean() - 128) < 0.1
    assert levels.std() == pytest.approx(math.hypot(0.02 * 255, 12**-0.5), rel=0.02)  # 1/12: what rounding adds
