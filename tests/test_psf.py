"""PSFs and their taps: the reference's, and those of a NumPy transcription of the released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from blur_cases import (
    kernels,
)
from torch import Tensor

from conftest import assert_matches
from deblurgan import reference
from deblurgan.blur import (
    MotionBlur,
    psf_taps,
    random_trajectories,
    rasterize_psf,
    tap_capacity,
)


def released_psf(path: np.ndarray, exposure: float, canvas: int = 64) -> np.ndarray:
    """The centring of generate_trajectory.py and the loops of generate_PSF.py, for one path [steps, 2]."""
    x = path[:, 0] + 1j * path[:, 1]
    x = x - x.real.min() - 1j * x.imag.min()
    x = x - (x[0].real % 1 + 1j * (x[0].imag % 1)) + 1 + 1j
    x = x + np.ceil((canvas - x.real.max()) / 2) + 1j * np.ceil((canvas - x.imag.max()) / 2)
    psf, total, previous = np.zeros((canvas, canvas)), len(x), 0.0
    for t in range(total):
        if exposure * total >= t and previous * total < t - 1:
            weight = 1.0
        elif exposure * total >= t - 1 and previous * total < t - 1:
            weight = exposure * total - (t - 1)
        elif exposure * total >= t and previous * total < t:
            weight = t - previous * total
        elif exposure * total >= t - 1 and previous * total < t:
            weight = (exposure - previous) * total
        else:
            weight = 0.0
        column = int(min(max(np.floor(x[t].real), 1), canvas - 1))
        row = int(min(max(np.floor(x[t].imag), 1), canvas - 1))
        for i in (row, row + 1):
            for j in (column, column + 1):
                share = max(0, 1 - abs(x[t].real - j)) * max(0, 1 - abs(x[t].imag - i))
                if share:
                    psf[i, j] += weight * share
    return psf / total


def centroid(psf: Tensor) -> Tensor:
    """(row, column) of each PSF relative to the origin cell, [n, 2] px."""
    cells = torch.arange(psf.shape[-1], dtype=torch.float64) - psf.shape[-1] // 2
    wide = psf.double()
    return torch.stack([wide.sum(2) @ cells, wide.sum(1) @ cells], 1) / wide.sum((1, 2))[:, None]


def test_a_short_exposure_is_centered_too() -> None:
    psf = rasterize_psf(random_trajectories(2000, seed=2), exposure=0.01)
    assert psf.shape == (2000, 65, 65)
    assert psf.min() >= 0
    assert (psf.double().sum((1, 2)) - 1).abs().max() < 1e-6
    assert centroid(psf).abs().max() < 0.05


@pytest.mark.parametrize("mode", ["centered", "released"])
@pytest.mark.parametrize("exposure", [0.0003, 0.01, 0.3333, 1.0])
def test_psf_matches_the_reference(mode: str, exposure: float, poisoned: None) -> None:
    paths = random_trajectories(30, seed=4)
    size = 65 if mode == "centered" else 64
    got = rasterize_psf(paths, exposure=exposure, mode=mode)
    assert_matches(got, reference.rasterize_psf(paths, torch.full((30,), exposure), size, mode))


@pytest.mark.parametrize("exposure", [0.01, 0.1, 0.5, 1.0])
def test_released_mode_equals_the_released_code(exposure: float) -> None:
    paths = random_trajectories(5, seed=6)
    got = rasterize_psf(paths, exposure=exposure, mode="released").numpy()
    wanted = np.stack([released_psf(path, exposure) for path in paths.double().numpy()])
    assert np.abs(got - wanted).max() < 1e-6
    assert np.isclose(got.sum() / 5, 0.9995 if exposure == 1 else exposure, atol=1e-5)


def test_exposure_per_picture() -> None:
    paths = random_trajectories(3, seed=8)
    shares = torch.tensor([0.1, 0.5, 1.0])
    together = rasterize_psf(paths, exposure=shares)
    for i, share in enumerate(shares.tolist()):
        assert torch.equal(together[i : i + 1], rasterize_psf(paths[i : i + 1], exposure=share))


def test_opcheck() -> None:
    paths = random_trajectories(2, seed=1, steps=20, length=4.0)
    torch.library.opcheck(torch.ops.deblurgan.rasterize_psf.default, (paths, torch.ones(2), 9, "centered"))
    torch.library.opcheck(torch.ops.deblurgan.random_trajectories.default, (torch.ones(2) * 0.01, 1, 0, 20, 4.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("k", [1, 2, 5, 20, 33])
def test_taps_are_the_reference_s(k: int, dtype: torch.dtype, device: torch.device, poisoned: None) -> None:
    psf = kernels(5, k).to(dtype)
    psf[2] = 0
    wanted = reference.psf_taps(psf)
    capacity = max(len(taps) for taps in wanted)
    for taps in (psf_taps(psf.to(device)), psf_taps(psf.to(device), capacity=capacity)):
        offset, weight, counts = (part.cpu() for part in taps)
        assert (offset.dtype, weight.dtype, counts.dtype) == (torch.int32, torch.float32, torch.int32)
        assert counts.tolist() == [len(rows) for rows in wanted]
        for i, rows in enumerate(wanted):
            assert torch.equal(offset[i, : len(rows)].double(), rows[:, :2])
            assert torch.equal(weight[i, : len(rows)], rows[:, 2].float())
    if capacity > 1:
        with pytest.raises(ValueError, match=f"capacity must hold all taps: . of 5 PSFs have more than {capacity - 1}"):
            psf_taps(psf.to(device), capacity=capacity - 1)


@pytest.mark.parametrize("length", [5.0, 60.0, 100.0])
def test_no_path_needs_more_taps_than_the_capacity(length: float) -> None:
    size = MotionBlur(length=length).size
    for anxiety in (0.0, 0.005, 0.05, 1.0):
        for first in range(0, 1700, 425):
            paths = random_trajectories(425, seed=1, first=first, length=length, anxiety=anxiety)
            assert (rasterize_psf(paths, size=size) != 0).sum((1, 2)).max() <= tap_capacity(length)


def test_a_straight_diagonal_touches_176_cells() -> None:
    paths = random_trajectories(2000, seed=1, anxiety=0.0)
    assert psf_taps(rasterize_psf(paths)).counts.max() == 176
