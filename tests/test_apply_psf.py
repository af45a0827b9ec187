"""apply_psf: the reference's and SciPy's convolution, every layout and type, light, and what a blur must keep."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from blur_cases import (
    COUNTER,
    DTYPES,
    ONE,
    SIGNED,
    W,
    corners,
    kernels,
    picture,
    same,
)
from scipy.signal import convolve2d
from torch import Tensor

import deblurgan
from conftest import assert_matches
from deblurgan import reference
from deblurgan.blur import (
    MotionBlur,
    apply_psf,
    psf_taps,
    random_windows,
)


@functools.cache
def blurred_in_fp64(padding: reference.Padding, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """A picture that every dtype holds exactly, its PSFs (at times wider than it), and the truth."""
    x = torch.randint(0, 128, (2, 3, *size), generator=torch.Generator().manual_seed(1)) / 128
    psf = MotionBlur(length=20.0 if max(size) > 64 else 60.0).psf(2, seed=1)
    return x, psf, reference.apply_psf(x.double(), psf.double(), padding)


@pytest.mark.parametrize("padding", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (31, 33), (70, 130)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_plain_blur_matches_the_reference(
    padding: reference.Padding, size: tuple[int, int], dtype: torch.dtype, poisoned: None
) -> None:
    x, psf, wanted = blurred_in_fp64(padding, size)
    got = apply_psf(x.to(dtype), psf.to(dtype) if dtype == torch.float64 else psf, padding=padding)
    assert got.dtype == dtype
    assert_matches(got, wanted)


@pytest.mark.parametrize("padding", ["reflect", "replicate", "zero"])
def test_uint8_is_rounded_to_nearest(padding: reference.Padding) -> None:
    x = torch.randint(0, 256, (2, 3, 40, 51), dtype=torch.uint8)
    psf = MotionBlur().psf(2, seed=2)
    exact = reference.apply_psf(x.double(), psf.double(), padding)
    assert (apply_psf(x, psf, padding=padding).double() - exact).abs().max() <= 0.5 + 1e-4


def test_dense_and_even_sized_kernels() -> None:
    for k in (1, 2, 6, 9):
        psf = torch.rand(2, k, k)
        x = torch.rand(2, 1, 20, 23)
        assert_matches(apply_psf(x, psf), reference.apply_psf(x.double(), psf.double()))


def test_non_contiguous_pictures_and_kernels() -> None:
    psf = MotionBlur().psf(2, seed=3)
    x = torch.rand(2, 3, 24, 40)
    wanted = apply_psf(x, psf)
    assert torch.equal(apply_psf(x.contiguous(memory_format=torch.channels_last), psf), wanted)
    assert torch.equal(apply_psf(x.transpose(2, 3).contiguous().transpose(2, 3), psf), wanted)
    assert torch.equal(apply_psf(x, psf.transpose(1, 2).contiguous().transpose(1, 2)), wanted)
    assert torch.equal(apply_psf(x[:, :, ::2, 3:], psf), apply_psf(x[:, :, ::2, 3:].clone(), psf))


def test_flat_stays_flat_and_a_ramp_stays_a_ramp() -> None:
    psf = MotionBlur().psf(8, seed=4)
    flat = torch.full((8, 3, 50, 50), 137, dtype=torch.uint8)
    assert torch.equal(apply_psf(flat, psf), flat)
    ramp = torch.arange(200.0).expand(8, 1, 150, 200) + torch.arange(150.0)[:, None]
    inner = (..., slice(35, -35), slice(35, -35))
    assert (apply_psf(ramp, psf) - ramp)[inner].abs().max() < 0.05


class Case(NamedTuple):
    c: int
    size: tuple[int, int]
    k: int
    padding: reference.Padding
    gamma: float = 1.0
    part: tuple[int, int] | None = None
    noise: float = 0.0

    def options(self, n: int, device: torch.device | str = "cpu") -> dict[str, Any]:
        options: dict[str, Any] = {"padding": self.padding, "gamma": self.gamma}
        if self.part is not None:
            options |= {"windows": corners(n, self.size, self.part).to(device), "size": self.part}
        if self.noise:
            deviation = self.noise * torch.arange(n, dtype=torch.float32, device=device)
            options |= {"noise": deviation, "seed": 7, "first": 2**33}
        return options


CASES = [
    Case(1, (1, 1), 9, "reflect", gamma=2.2, noise=0.1),
    Case(3, (1, 9), 4, "replicate", part=(1, 5)),
    Case(3, (33, 131), 7, "zero", gamma=2.2, part=(32, 129), noise=0.02),
    Case(6, (13, 17), 39, "reflect", part=(5, 17), noise=0.05),
    Case(3, (21, 10), 6, "replicate", gamma=0.45),
    Case(1, (70, 33), 9, "reflect", gamma=2.2, part=(65, 1)),
    Case(3, (15, 15), 1, "zero", noise=0.3),
    Case(6, (11, 8), 5, "zero"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "x".join(map(str, (case.c, *case.size))))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_apply_psf_matches_the_reference(dtype: torch.dtype, case: Case, device: torch.device, poisoned: None) -> None:
    x, psf = picture(3, case.c, *case.size, dtype=dtype), kernels(3, case.k)
    white = 255.0 if dtype == torch.uint8 else 1.0
    light = reference.apply_psf(x.double() / white, psf.double(), **case.options(3))
    last = x.to(device, memory_format=torch.channels_last)
    for signed in (None, *SIGNED):
        options = case.options(3, device) | {"signed": signed}
        got = apply_psf(x.to(device), psf.to(device), **options)
        assert got.dtype == (signed or dtype) and got.is_contiguous()
        if signed is not None:
            assert_matches(got, (2 * light - 1).clamp(-1, 1), name=f"signed {signed}")
        elif dtype == torch.uint8:
            assert (got.cpu().double() - (white * light).clamp(0, 255)).abs().max() <= 0.5 + 1e-3
        else:
            assert_matches(got, light)
        other = apply_psf(last, psf.to(device), **options)
        assert other.is_contiguous(memory_format=torch.channels_last)
        assert same(other, got)


def test_a_single_picture_keeps_its_layout() -> None:
    """As a file gives it: rows of pixels."""
    x = picture(20, 30, 3, dtype=torch.uint8).permute(2, 0, 1)
    window: dict[str, Any] = {"windows": corners(1, (20, 30), (8, 9)), "size": (8, 9)}
    for options in ({}, window, {"signed": torch.float32, "noise": 0.1}):
        got = apply_psf(x, kernels(1, 5)[0], **options)
        assert got.permute(1, 2, 0).is_contiguous()
        assert same(got, apply_psf(x.contiguous(), kernels(1, 5)[0], **options))


def test_empty_batches() -> None:
    nothing: dict[str, Any] = {"windows": torch.zeros(0, 3, dtype=torch.int64), "size": (4, 5)}
    got = apply_psf(torch.zeros(0, 3, 8, 8), ONE, signed=torch.float16, noise=0.1, gamma=2.2, **nothing)
    assert (got.shape, got.dtype) == ((0, 3, 4, 5), torch.float16)
    assert apply_psf(torch.zeros(2, 3, 0, 8), ONE, signed=torch.float16, noise=0.1).shape == (2, 3, 0, 8)
    assert random_windows(0, picture=(8, 8), size=(4, 4), seed=0).shape == (0, 3)
    assert [part.shape for part in psf_taps(torch.zeros(0, 3, 3))] == [(0, 9, 2), (0, 9), (0,)]


def test_fp64_keeps_its_digits_and_layout(poisoned: None) -> None:
    x, psf = picture(2, 3, 9, 12, dtype=torch.float64), kernels(2, 5).double()
    options = {"gamma": 2.2, "windows": corners(2, (9, 12), (4, 5)), "size": (4, 5)}
    wanted = reference.apply_psf(x, psf, **options)  # type: ignore[arg-type]
    got = apply_psf(x.contiguous(memory_format=torch.channels_last), psf, **options)  # type: ignore[arg-type]
    assert got.dtype == torch.float64 and got.is_contiguous(memory_format=torch.channels_last)
    assert_matches(got, wanted)
    assert apply_psf(x.float(), psf, signed=torch.float64).dtype == torch.float64


@pytest.mark.parametrize("padding", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize(("size", "k"), [((15, 9), 5), ((7, 21), 7), ((3, 5), 11), ((1, 13), 3)], ids=str)
def test_it_is_scipy_s_convolution(padding: reference.Padding, size: tuple[int, int], k: int) -> None:
    x, psf = picture(1, 1, *size), kernels(1, k)
    mode = {"reflect": "reflect", "replicate": "edge", "zero": "constant"}[padding]
    padded = np.pad(x[0, 0].double().numpy(), k // 2, mode=mode)  # type: ignore[call-overload]
    wanted = torch.from_numpy(convolve2d(padded, psf[0].double().numpy(), mode="valid"))
    assert_matches(apply_psf(x, psf, padding=padding)[0, 0], wanted)


@pytest.mark.parametrize("gamma", [1.0, 2.2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(value: float, gamma: float, device: torch.device) -> None:
    x = torch.full((1, 1, 1, 1), value, device=device)
    got = apply_psf(x, ONE.to(device), gamma=gamma).cpu()
    assert torch.equal(got, x.cpu()) or bool(got.isnan() & x.cpu().isnan())


def test_a_nan_spoils_what_its_taps_reach_and_nothing_else(device: torch.device) -> None:
    x, psf = picture(1, 1, 70, 140), MotionBlur(length=20.0).psf(1, seed=3)
    x[0, 0, [5, 34, 63], [4, 127, 60]] = math.nan
    reached = convolve2d(x[0, 0].isnan().int().numpy(), (psf[0] != 0).int().numpy(), mode="same") > 0
    got = apply_psf(x.to(device), psf.to(device), padding="zero").cpu()
    assert np.array_equal(got[0, 0].isnan().numpy(), reached)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_psf_of_one_cell_cuts_the_sharp_twin(dtype: torch.dtype, device: torch.device) -> None:
    x, size = picture(4, 3, 20, 31, dtype=dtype), (7, 11)
    windows = corners(4, (20, 31), size)
    wanted = torch.stack([x[0, :, :7, :11], x[1, :, 13:, 20:].flip(-1), x[2, :, :7, :11], x[3, :, 13:, 20:].flip(-1)])
    got = apply_psf(x.to(device), ONE.to(device), windows=windows.to(device), size=size)
    assert same(got.cpu(), wanted)


def test_gamma_averages_light(device: torch.device) -> None:
    """Stripes of 51 and 204, 1/5 and 4/5 of white: half of each in light is (0.32053)^(1/2.2) = 0.5962, 152 of 255."""
    stripes = torch.tensor([51, 204], dtype=torch.uint8, device=device).repeat(8).expand(1, 3, 16, 16)
    half = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0], [0, 0, 0]], device=device)
    inner = (..., slice(1, -1))
    assert (apply_psf(stripes, half, gamma=2.2)[inner] == 152).all()
    assert (apply_psf(stripes, half)[inner] == 128).all()
    light = apply_psf(stripes.float() / 255, half, gamma=2.2).double().cpu()[inner]
    assert (light - ((0.2**2.2 + 0.8**2.2) / 2) ** (1 / 2.2)).abs().max() < 1e-6


@pytest.mark.parametrize("gamma", [0.1, 0.45, 2.2, 10.0])
def test_gamma_leaves_flat_levels_alone(gamma: float, device: torch.device) -> None:
    flat = torch.arange(256, dtype=torch.uint8, device=device)[:, None, None, None].expand(-1, 1, 5, 7)
    assert torch.equal(apply_psf(flat, MotionBlur().psf(1, seed=0, device=device), gamma=gamma), flat)


ALL = (2.2, corners(2, (8, 9), (4, 5)), [4, 5], torch.tensor([0.1, 0.2]))
OPS = torch.ops.deblurgan
LAST = picture(2, 3, 8, 9).contiguous(memory_format=torch.channels_last)
CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "plain": (OPS.apply_psf, (picture(2, 3, 8, 9).requires_grad_(), kernels(2, 3), "reflect")),
    "uint8": (OPS.apply_psf, (picture(2, 3, 8, 9, dtype=torch.uint8), kernels(2, 3), "reflect")),
    "light": (OPS.apply_psf, (LAST.clone().requires_grad_(), kernels(2, 3), "zero", 2.2, None, None, ALL[3], 3, 5)),
    "windows": (OPS.apply_psf, (LAST.clone().requires_grad_(), kernels(2, 3), "reflect", 1.0, *ALL[1:3])),
    "all": (OPS.apply_psf, (LAST.half(), kernels(2, 3), "zero", *ALL, 3, 5, None, torch.bfloat16, 9)),
    "camera": (OPS.apply_psf, (LAST, kernels(2, 3), "zero", *ALL, 3, 5, None, None, 0, ALL[3], W[:, 1:] + 0.01)),
    "counter": (OPS.apply_psf, (LAST, kernels(2, 3), "zero", *ALL, 0, 0, COUNTER, torch.float32, 9)),
    "psf_taps": (OPS.psf_taps, (torch.rand(2, 3, 3) + 0.1, 9)),
    "random_trajectories": (OPS.random_trajectories, (torch.full((2,), 0.01), 0, 0, 20, 4.0, COUNTER)),
}


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name: str) -> None:
    op, arguments = CALLS[name]
    torch.library.opcheck(op.default, arguments)


def test_public_names() -> None:
    assert deblurgan.blur.apply_psf is apply_psf
    assert deblurgan.MotionBlur is MotionBlur
