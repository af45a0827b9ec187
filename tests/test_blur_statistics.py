"""Kernels by the ten thousand: what every one must hold, and their distribution against the released algorithm's."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp
from torch import Tensor

from deblurgan.blur import RELEASED_ANXIETIES, MotionBlur, random_trajectories, rasterize_psf
from transcriptions import released_paths

EXPOSURES = (0.1, 0.5, 1.0)

# Of 40,000 simulated paths a row, in px: the extent, max(width, height), exposed at 1/10, 1/2 and 1 (quantiles 5, 50
# and 95 %), and the median distance from start to end.
RELEASED = {
    0.01: ((2.98, 4.71, 5.85), (6.77, 10.39, 17.25), (8.28, 12.45, 24.63), 3.77),
    0.009: ((3.13, 4.85, 5.87), (7.07, 10.93, 17.87), (8.65, 13.08, 25.80), 3.96),
    0.008: ((3.27, 4.98, 5.89), (7.38, 11.50, 18.43), (9.13, 13.84, 26.99), 4.24),
    0.007: ((3.45, 5.08, 5.90), (7.78, 12.17, 19.82), (9.67, 14.80, 28.56), 4.55),
    0.005: ((3.90, 5.29, 5.93), (9.03, 13.63, 22.80), (11.30, 17.55, 31.70), 5.54),
    0.003: ((4.24, 5.43, 5.95), (10.94, 14.85, 26.88), (14.53, 22.73, 37.00), 7.48),
}


@dataclass(frozen=True)
class Paths:
    """Figures of n paths: extents [3, n] at EXPOSURES and distances [n] from start to end in px, and the turns of all
    their impulses [m], in radians from 0 to 2 pi."""

    extents: np.ndarray
    distances: np.ndarray
    turns: np.ndarray

    @classmethod
    def of(cls, points: Tensor) -> Paths:
        """Of paths [n, steps, 2]. Noise and spring turn a step by some degrees; only an impulse turns it by 90."""
        exposed = [points[:, : int(exposure * points.shape[1])] for exposure in EXPOSURES]
        steps = points.diff(dim=1)
        thrown = (steps[:, 1:] * steps[:, :-1]).sum(2) < 0
        before, after = (torch.view_as_complex(part[thrown]) for part in (steps[:, :-1], steps[:, 1:]))
        return cls(
            torch.stack([(part.amax(1) - part.amin(1)).amax(1) for part in exposed]).numpy(),
            (points[:, -1] - points[:, 0]).norm(dim=1).numpy(),
            ((after * before.conj()).angle() % (2 * np.pi)).numpy(),
        )

    @classmethod
    def joined(cls, parts: list[Paths]) -> Paths:
        return cls(
            np.concatenate([part.extents for part in parts], 1),
            np.concatenate([part.distances for part in parts]),
            np.concatenate([part.turns for part in parts]),
        )


@functools.cache
def ours(anxiety: float, *, length: float = 60.0) -> Paths:
    """Of 10,000 paths."""
    parts = (
        random_trajectories(2000, seed=11, first=first, anxiety=anxiety, length=length)
        for first in range(0, 10_000, 2000)
    )
    return Paths.joined([Paths.of(part) for part in parts])


@functools.cache
def theirs(anxiety: float) -> Paths:
    """Of 8000 paths of an independent simulation, with NumPy's random numbers."""
    random = np.random.RandomState(5)
    parts = [released_paths(1000, anxiety, random) for _ in range(8)]
    return Paths.joined([Paths.of(torch.view_as_real(torch.from_numpy(part))) for part in parts])


@pytest.mark.parametrize("anxiety", RELEASED_ANXIETIES)
def test_every_kernel_is_a_centered_blur(anxiety: float) -> None:
    exposure = torch.tensor(EXPOSURES).repeat(667)[:2000]
    cells = torch.arange(65, dtype=torch.float64) - 32
    for first in range(0, 10_000, 2000):
        paths = random_trajectories(2000, seed=12, first=first, anxiety=anxiety)
        psf = rasterize_psf(paths, exposure=exposure, mode="centered")
        assert psf.shape == (2000, 65, 65)
        assert psf.min() >= 0
        rows, columns = psf.sum(2, dtype=torch.float64), psf.sum(1, dtype=torch.float64)
        assert (rows.sum(1) - 1).abs().max() < 1e-6
        assert (rows @ cells).abs().max() < 0.05
        assert (columns @ cells).abs().max() < 0.05


@pytest.mark.parametrize("anxiety", RELEASED_ANXIETIES)
def test_extents_are_those_of_the_released_code(anxiety: float) -> None:
    got = np.quantile(ours(anxiety).extents, (0.05, 0.5, 0.95), axis=1).T
    assert np.allclose(got, RELEASED[anxiety][:3], rtol=0.05), got


@pytest.mark.parametrize("anxiety", RELEASED_ANXIETIES)
def test_distances_are_those_of_the_released_code(anxiety: float) -> None:
    assert np.median(ours(anxiety).distances) == pytest.approx(RELEASED[anxiety][3], rel=0.05)


@pytest.mark.parametrize("anxiety", RELEASED_ANXIETIES)
def test_impulses_are_as_many_as_their_probability_says(anxiety: float) -> None:
    """0.1 anxiety a step on average; one at the first step, which has none before it, cannot be seen."""
    assert len(ours(anxiety).turns) / 10_000 == pytest.approx(1998 * 0.1 * anxiety, rel=0.05)


@pytest.mark.parametrize("anxiety", [0.01, 0.003])
def test_distributions_pass_a_ks_test_against_an_independent_simulation(anxiety: float) -> None:
    a, b = ours(anxiety), theirs(anxiety)
    for exposure, mine, wanted in zip(EXPOSURES, a.extents, b.extents, strict=True):
        assert ks_2samp(mine, wanted).pvalue > 0.001, f"extent at exposure {exposure}"
    assert ks_2samp(a.distances, b.distances).pvalue > 0.001, "distance from start to end"
    assert ks_2samp(a.turns, b.turns).pvalue > 0.001, "turn at an impulse"


@pytest.mark.parametrize("anxiety", [0.01, 0.003])
def test_the_ks_test_of_the_extents_sees_an_error_of_5_percent(anxiety: float) -> None:
    """Not so that of the distances, which are spread too widely."""
    for mine, wanted in zip(ours(anxiety, length=63.0).extents, theirs(anxiety).extents, strict=True):
        assert ks_2samp(mine, wanted).pvalue < 0.001


def test_anxiety_and_exposure_are_drawn_uniformly_and_independently() -> None:
    """A kernel drawn from the lists is that of one (anxiety, exposure), which tells the draw."""
    drawn = MotionBlur(length=8.0, steps=200, exposure=EXPOSURES).psf(3600, seed=13)
    same = [
        (MotionBlur(length=8.0, steps=200, anxiety=a, exposure=e).psf(3600, seed=13) == drawn).all(2).all(1)
        for a in RELEASED_ANXIETIES
        for e in EXPOSURES
    ]
    chosen = torch.stack(same)
    assert (chosen.sum(0) == 1).all()
    assert chisquare(chosen.sum(1).numpy()).pvalue > 0.001
