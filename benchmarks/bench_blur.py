"""A picture blurred with a kernel of its own, kernel included: ours against the plain Python way."""

from __future__ import annotations

import cmath
import math
import random

import numpy as np
import pytest
import torch
from harness import measure
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.signal import fftconvolve
from torch import Tensor

from deblurgan import reference
from deblurgan.blur import MotionBlur, apply_psf

SIZES = [(256, 256), (720, 1280)]


def python_trajectory(steps: int = 2000, length: float = 60.0, anxiety: float = 0.005) -> list[complex]:
    """The recurrence as a loop over complex numbers, as a user would write it."""
    step = length / (steps - 1)
    spring, shake, gauss = 0.7 * random.random(), 0.2 * random.random(), 10 * random.random()
    v = anxiety * cmath.exp(2j * math.pi * random.random())
    path = [0j]
    for _ in range(steps - 1):
        thrown = 0j
        if random.random() < shake * anxiety:
            thrown = 2 * v * cmath.exp(1j * (math.pi + random.random() - 0.5))
        noise = complex(random.gauss(0, 1), random.gauss(0, 1))
        v += thrown + anxiety * (gauss * noise - spring * path[-1]) * step
        v *= step / abs(v)
        path.append(path[-1] + v)
    return path


def python_psf(path: list[complex], size: int = 65) -> np.ndarray:
    """Bilinear splats in a loop, centred, unit sum."""
    centre = sum(path[1:]) / (len(path) - 1)
    psf = np.zeros((size, size))
    for point in path[1:]:
        x, y = point.real - centre.real + size // 2, point.imag - centre.imag + size // 2
        column, row = int(x), int(y)
        for i in (row, row + 1):
            for j in (column, column + 1):
                psf[i, j] += (1 - abs(x - j)) * (1 - abs(y - i))
    return psf / psf.sum()


def python_apply(picture: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """A reflected border and one FFT convolution a channel."""
    r = psf.shape[0] // 2
    padded = np.pad(picture, ((0, 0), (r, r), (r, r)), mode="reflect")
    return np.stack([fftconvolve(channel, psf, mode="valid") for channel in padded])


def picture(size: tuple[int, int]) -> Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def bench_ours(benchmark: BenchmarkFixture, size: tuple[int, int]) -> None:
    x, blur = picture(size), MotionBlur(exposure=1.0, anxiety=0.005)
    wanted = torch.from_numpy(python_apply(x[0].double().numpy(), blur.psf(1)[0].double().numpy()))[None]
    measure(benchmark, lambda: blur(x, seed=0, index=0), wanted, tolerance=1e-5)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def bench_plain_python(benchmark: BenchmarkFixture, size: tuple[int, int]) -> None:
    x = picture(size)

    def call() -> Tensor:
        random.seed(0)
        return torch.from_numpy(python_apply(x[0].numpy(), python_psf(python_trajectory())))[None]

    random.seed(0)
    psf = torch.from_numpy(python_psf(python_trajectory()))
    measure(benchmark, call, apply_psf(x, psf), tolerance=1e-5)


def bench_kernels_alone(benchmark: BenchmarkFixture) -> None:
    blur = MotionBlur(exposure=1.0, anxiety=0.005)
    paths = reference.random_trajectories(torch.full((16,), 0.005), seed=0)
    wanted = reference.rasterize_psf(paths, torch.ones(16), 65)
    measure(benchmark, lambda: blur.psf(16, seed=0), wanted, tolerance=1e-2, kernels=16)
