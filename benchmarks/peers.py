"""The other ways to a blurred picture, each written plainly."""

from __future__ import annotations

import cmath
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import fftconvolve
from torch import Tensor

from deblurgan.blur import Mode

ANXIETY, STEPS, LENGTH = 0.005, 2000, 60.0
FRACTIONS = (1 / 100, 1 / 10, 1 / 2, 1)


def released_path(seed: int) -> np.ndarray:
    """The loop of the released generate_trajectory.py: complex128 [steps], from 0."""
    rng = np.random.RandomState(seed)
    step = LENGTH / (STEPS - 1)
    spring, shake, gauss = 0.7 * rng.uniform(), 0.2 * rng.uniform(), 10 * rng.uniform()
    angle = np.deg2rad(360 * rng.uniform())
    v = complex(np.cos(angle), np.sin(angle)) * ANXIETY
    x = np.zeros(STEPS, complex)
    for t in range(STEPS - 1):
        thrown = 0
        if rng.uniform() < shake * ANXIETY:
            thrown = 2 * v * np.exp(1j * (np.pi + (rng.uniform() - 0.5)))
        v += thrown + ANXIETY * (gauss * complex(rng.randn(), rng.randn()) - spring * x[t]) * step
        v = v / float(np.abs(v)) * step
        x[t + 1] = x[t] + v
    return x


def released_place(x: np.ndarray, canvas: int) -> np.ndarray:
    """Onto the canvas as released: about the middle, the start on whole numbers."""
    x = x - complex(x.real.min(), x.imag.min())
    x = x - complex(x[0].real % 1, x[0].imag % 1) + complex(1, 1)
    return x + complex(math.ceil((canvas - x.real.max()) / 2), math.ceil((canvas - x.imag.max()) / 2))


def released_weight(t: int, fraction: float, previous: float) -> float:
    """How much of sample t is exposed between two fractions of the path."""
    if fraction * STEPS >= t and previous * STEPS < t - 1:
        return 1
    if fraction * STEPS >= t - 1 and previous * STEPS < t - 1:
        return fraction * STEPS - (t - 1)
    if fraction * STEPS >= t and previous * STEPS < t:
        return t - previous * STEPS
    if fraction * STEPS >= t - 1 and previous * STEPS < t:
        return (fraction - previous) * STEPS
    return 0


def triangle(x: float, y: float) -> float:
    return np.multiply(np.maximum(0, 1 - np.abs(x)), np.maximum(0, 1 - np.abs(y)))


def released_psf(path: np.ndarray, canvas: int = 64) -> np.ndarray:
    """The loop of the released generate_PSF.py; it makes all four exposures, and the whole one is returned."""
    path = released_place(path, canvas)
    psf, psfs, previous = np.zeros((canvas, canvas)), [], 0.0
    for fraction in FRACTIONS:
        for t in range(STEPS):
            weight = released_weight(t, fraction, previous)
            x, y = path[t].real, path[t].imag
            column = int(np.minimum(canvas - 1, np.maximum(1, math.floor(x))))
            row = int(np.minimum(canvas - 1, np.maximum(1, math.floor(y))))
            psf[row, column] += weight * triangle(x - column, y - row)
            psf[row, column + 1] += weight * triangle(x - (column + 1), y - row)
            psf[row + 1, column] += weight * triangle(x - column, y - (row + 1))
            psf[row + 1, column + 1] += weight * triangle(x - (column + 1), y - (row + 1))
        psfs.append(psf / STEPS)
        previous = fraction
    return psfs[-1]


def lean_path(seed: int) -> list[complex]:
    """The same recurrence without NumPy, whose scalars are slow in a loop."""
    rng = random.Random(seed)
    step = LENGTH / (STEPS - 1)
    spring, shake, gauss = 0.7 * rng.random(), 0.2 * rng.random(), 10 * rng.random()
    v = ANXIETY * cmath.exp(2j * math.pi * rng.random())
    path = [0j]
    for _ in range(STEPS - 1):
        thrown = 0j
        if rng.random() < shake * ANXIETY:
            thrown = 2 * v * cmath.exp(1j * (math.pi + rng.random() - 0.5))
        noise = complex(rng.gauss(0, 1), rng.gauss(0, 1))
        v += thrown + ANXIETY * (gauss * noise - spring * path[-1]) * step
        v *= step / abs(v)
        path.append(path[-1] + v)
    return path


def lean_psf(path: Sequence[complex], size: int = 65) -> np.ndarray:
    """One exposure, bilinear splats without NumPy, centred, unit sum."""
    centre = sum(path[1:]) / (len(path) - 1)
    psf = [[0.0] * size for _ in range(size)]
    for point in path[1:]:
        x, y = point.real - centre.real + size // 2, point.imag - centre.imag + size // 2
        column, row = int(x), int(y)
        right, down = x - column, y - row
        psf[row][column] += (1 - right) * (1 - down)
        psf[row][column + 1] += right * (1 - down)
        psf[row + 1][column] += (1 - right) * down
        psf[row + 1][column + 1] += right * down
    return np.array(psf) / (len(path) - 1)


def rounded(y: Tensor, dtype: torch.dtype) -> Tensor:
    """y in the dtype of the picture it was made of."""
    return (y + 0.5).clamp(0, 255).to(dtype) if dtype == torch.uint8 else y.to(dtype)


def bordered(x: Tensor, k: int) -> Tensor:
    """x as floats with the mirrored border that a convolution about cell k // 2 of a k x k kernel reads."""
    wide = x.float() if x.dtype == torch.uint8 else x
    before, after = k - 1 - k // 2, k // 2
    return F.pad(wide, (before, after, before, after), mode="reflect")


def scipy_fft(x: Tensor, psf: Tensor) -> Tensor:
    """scipy.signal.fftconvolve a channel; the released code does so on a kernel padded to the picture's size."""
    wide = bordered(x, psf.shape[-1])
    kernels = psf.to(wide.dtype).numpy()
    channels = [fftconvolve(c, k, mode="valid") for p, k in zip(wide.numpy(), kernels, strict=True) for c in p]
    return rounded(torch.from_numpy(np.stack(channels)).view(x.shape), x.dtype)


def torch_fft(x: Tensor, psf: Tensor) -> Tensor:
    """A circular convolution of the bordered picture, less the border, where alone it wraps around."""
    k = psf.shape[-1]
    wide = bordered(x, k)
    sides = wide.shape[-2:]
    product = torch.fft.rfft2(wide) * torch.fft.rfft2(psf.to(wide.dtype), s=sides)[:, None]
    return rounded(torch.fft.irfft2(product, s=sides)[..., k - 1 :, k - 1 :], x.dtype)


def grouped_conv2d(x: Tensor, psf: Tensor) -> Tensor:
    """conv2d with a group a channel and picture."""
    n, c, h, w = x.shape
    wide = bordered(x, psf.shape[-1])
    weight = psf.to(wide.dtype).flip(-1, -2).repeat_interleave(c, 0)[:, None]
    y = F.conv2d(wide.flatten(0, 1)[None], weight, groups=n * c)
    return rounded(y.view(n, c, h, w), x.dtype)


def kornia_filter2d(x: Tensor, psf: Tensor) -> Tensor:
    filters = pytest.importorskip("kornia.filters", reason="kornia is not installed")
    wide = x.float() if x.dtype == torch.uint8 else x
    return rounded(filters.filter2d(wide, psf, border_type="reflect", behaviour="conv"), x.dtype)


APPLICATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grouped conv2d": grouped_conv2d,
    "torch FFT": torch_fft,
    "kornia filter2d": kornia_filter2d,
    "scipy fftconvolve": scipy_fft,
}


@dataclass(frozen=True)
class Camera:
    """A camera's blur as its formulas are written down, around a convolution of light."""

    gamma: float = 2.2
    highlights: float = 1.0
    sensor: tuple[float, float] = (1e-4, 9.1504e-4)  # of RSBlur's camera

    def in_torch(self, convolve: Callable[[Tensor, Tensor], Tensor], x: Tensor, psf: Tensor) -> Tensor:
        white, (shot, read) = 255.0 if x.dtype == torch.uint8 else 1.0, self.sensor
        wide = x.float() if x.dtype == torch.uint8 else x
        average = convolve((wide / white) ** self.gamma + self.highlights * (wide >= white), psf)
        noise = (shot * average.clamp(0, 1) + read**2).sqrt() * torch.randn_like(average)
        return rounded(white * (average + noise).clamp(0, 1) ** (1 / self.gamma), x.dtype)

    def in_numpy(self, x: Tensor, psf: Tensor) -> Tensor:
        white, (shot, read) = 255.0 if x.dtype == torch.uint8 else 1.0, self.sensor
        wide = x.numpy().astype(np.float32)
        light = (wide / white) ** self.gamma + self.highlights * (wide >= white)
        average = scipy_fft(torch.from_numpy(light.astype(np.float32)), psf).numpy()
        deviation = np.sqrt(shot * np.clip(average, 0, 1) + read**2)
        noise = deviation * np.random.default_rng(0).standard_normal(average.shape, np.float32)
        y = white * np.clip(average + noise, 0, 1) ** (1 / self.gamma)
        return rounded(torch.from_numpy(y), x.dtype)


@dataclass(frozen=True)
class PlainPython:
    """A kernel drawn in a loop and splatted in a loop, and scipy's FFT to apply it."""

    path: Callable[[int], Sequence[complex]]
    psf: Callable[..., np.ndarray]
    mode: Mode  # the mode of rasterize_psf that gives the same PSF of the same path

    def kernels(self, n: int) -> Tensor:
        return torch.from_numpy(np.stack([self.psf(self.path(seed)) for seed in range(n)]))

    def blur(self, x: Tensor) -> Tensor:
        return scipy_fft(x, self.kernels(x.shape[0]))

    def paths(self, n: int) -> Tensor:
        return torch.view_as_real(torch.from_numpy(np.stack([np.asarray(self.path(seed)) for seed in range(n)])))


PLAIN_PYTHON = {
    "released": PlainPython(released_path, released_psf, "released"),
    "lean": PlainPython(lean_path, lean_psf, "centered"),
}
