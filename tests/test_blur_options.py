"""What one pass over a picture can do beside the convolution: dtypes, layouts, windows, light, noise, signed results.

Draws named by a counter, the module around it all, and the GPU against the CPU.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from scipy.stats import chisquare, kstest
from torch import Tensor

from conftest import assert_matches
from deblurgan import ops, reference
from deblurgan.blur import (
    Draws,
    MotionBlur,
    apply_psf,
    psf_taps,
    random_trajectories,
    random_windows,
    rasterize_psf,
    tap_capacity,
)

DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32]
SIGNED = [torch.float16, torch.bfloat16, torch.float32]
ONE = torch.ones(1, 1)


def picture(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Never quite black, where the light's root has no derivative."""
    x = 0.1 + 0.9 * torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (255 * x).to(dtype) if dtype == torch.uint8 else x.to(dtype)


def kernels(n: int, k: int) -> Tensor:
    """PSFs without any symmetry, a third of their cells empty."""
    psf = torch.rand(n, k, k, generator=torch.Generator().manual_seed(4))
    psf = torch.where(psf < 1 / 3, 0, psf)
    psf[:, 0, 0] = 1
    return psf / psf.sum((1, 2), keepdim=True)


def corners(n: int, picture: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Windows in the first and last corner by turns, every other one mirrored."""
    (h, w), (rows, columns) = picture, size
    return torch.tensor([[(h - rows) * (i % 2), (w - columns) * (i % 2), i % 2] for i in range(n)])


def same(a: Tensor, b: Tensor) -> bool:
    """Whether both hold the same bytes."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize(
    ("full", "size"), [((9, 14), (5, 8)), ((720, 1280), (256, 256)), ((31, 7), (31, 7)), ((2**31 - 1, 3), (1, 2))]
)
def test_windows_are_the_reference_s(
    full: tuple[int, int], size: tuple[int, int], flip: bool, device: torch.device
) -> None:
    for seed, first in ((0, 0), (5, 2**33), (2**62, 2**63 - 2)):
        wanted = reference.random_windows(500, picture=full, size=size, flip=flip, seed=seed, first=first)
        got = random_windows(500, picture=full, size=size, flip=flip, seed=seed, first=first, device=device)
        assert same(got.cpu(), wanted)
        again = ops.random_windows(500, picture=full, size=size, flip=flip, seed=seed, first=first, device=device)
        assert same(got, again)


def test_windows_cover_all_places_evenly_and_half_are_mirrored() -> None:
    top, left, mirrored = random_windows(35_000, picture=(9, 14), size=(5, 8), seed=1).unbind(1)
    counts = torch.bincount((top * 7 + left) * 2 + mirrored, minlength=70)
    assert (top.min(), top.max(), left.min(), left.max()) == (0, 4, 0, 6)
    assert chisquare(counts.numpy()).pvalue > 0.001
    assert chisquare(torch.bincount(mirrored).numpy()).pvalue > 0.001


@pytest.mark.parametrize("gamma", [1.0, 2.2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_window_of_the_blur_is_the_blur_s_window(dtype: torch.dtype, gamma: float, device: torch.device) -> None:
    full, size = (40, 150), (33, 70)
    x, psf = picture(6, 3, *full, dtype=dtype).to(device), MotionBlur(length=20.0).psf(6, device=device)
    windows = random_windows(6, picture=full, size=size, seed=2, device=device)
    whole = apply_psf(x, psf, gamma=gamma)
    parts = [y[:, t : t + size[0], q : q + size[1]] for y, (t, q, _) in zip(whole, windows.tolist(), strict=True)]
    wanted = torch.stack([p.flip(-1) if flip else p for p, flip in zip(parts, windows[:, 2].tolist(), strict=True)])
    assert windows[:, 2].unique().tolist() == [0, 1]
    got = apply_psf(x, psf, gamma=gamma, windows=windows, size=size)
    if dtype == torch.uint8:  # sums may be taken in another order, and so a half be rounded the other way
        assert (got.int() - wanted.int()).abs().max() <= 1
        assert (got == wanted).double().mean() > 0.999
    else:
        assert_matches(got, wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_psf_of_one_cell_cuts_the_sharp_twin(dtype: torch.dtype, device: torch.device) -> None:
    x, size = picture(4, 3, 20, 31, dtype=dtype), (7, 11)
    windows = corners(4, (20, 31), size)
    wanted = torch.stack([x[0, :, :7, :11], x[1, :, 13:, 20:].flip(-1), x[2, :, :7, :11], x[3, :, 13:, 20:].flip(-1)])
    got = apply_psf(x.to(device), ONE.to(device), windows=windows.to(device), size=size)
    assert same(got.cpu(), wanted)


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
    assert torch.equal(apply_psf(flat, MotionBlur().psf(1, device=device), gamma=gamma), flat)


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


def drawn_choices(n: int, draws: Draws, device: str) -> Tensor:
    return ops.choices(n, **draws._asdict(), device=device)


def drawn_windows(n: int, draws: Draws, device: str) -> Tensor:
    return ops.random_windows(n, picture=(99, 70), size=(20, 30), **draws._asdict(), device=device)


def drawn_paths(n: int, draws: Draws, device: str, steps: int = 300, length: float = 8.0) -> Tensor:
    anxiety = torch.full((n,), 0.01, device=device)
    return ops.random_trajectories(anxiety, draws.seed, draws.first, steps, length, draws.counter)


def drawn_psfs(n: int, draws: Draws, device: str) -> Tensor:
    paths, share = drawn_paths(n, draws, device), torch.full((n,), 0.7, device=device)
    both = [ops.rasterize_psf(paths, share, 15, mode) for mode in ("centered", "released")]
    return torch.stack(both, 1)


def drawn_taps(n: int, draws: Draws, device: str) -> Tensor:
    """Offset and weight of each tap."""
    offset, weight, counts = ops.psf_taps(drawn_psfs(n, draws, device)[:, 0], 100)
    stored = torch.arange(100, device=device) < counts[:, None]
    return torch.where(stored[..., None], torch.cat([offset.float(), weight[..., None]], 2), 0)


def drawn_noise(n: int, draws: Draws, device: str) -> Tensor:
    x = picture(1, 3, 99, 70).expand(n, -1, -1, -1).to(device)
    noise, windows = torch.full((n,), 0.1, device=device), drawn_windows(n, draws, device)
    psf = drawn_psfs(n, draws, device)[:, 0]
    return ops.apply_psf(x, psf, "reflect", 2.2, windows, [20, 30], noise, *draws)


# As many as keep eight threads busy.
DRAWN: dict[str, tuple[int, Callable[[int, Draws, str], Tensor]]] = {
    "choices": (40_000, drawn_choices),
    "random_windows": (40_000, drawn_windows),
    "random_trajectories": (16, drawn_paths),
    "rasterize_psf": (16, drawn_psfs),
    "psf_taps": (150, drawn_taps),
}
ALL_DRAWN = DRAWN | {"apply_psf": (8, drawn_noise)}


@pytest.mark.parametrize("name", ALL_DRAWN)
def test_same_bytes_whatever_threads_batches_and_naming(name: str) -> None:
    n, drawn = ALL_DRAWN[name]
    with threads(1):
        wanted = drawn(n, Draws(3, 2**33), "cpu")
    for count in (1, 2, 8):
        with threads(count):
            cuts = [0, n // 3, n // 3 + 1, n]
            parts = [drawn(b - a, Draws(3, 2**33 + a), "cpu") for a, b in pairwise(cuts)]
            counter = torch.tensor([3, 2**33])
            assert same(drawn(n, Draws(3, 2**33), "cpu"), wanted)
            assert same(torch.cat(parts), wanted)
            assert same(drawn(n, Draws(counter=counter), "cpu"), wanted)
            assert counter.tolist() == [3, 2**33]
    assert not same(drawn(n, Draws(4, 2**33), "cpu"), wanted)


def test_choices_are_philox_words() -> None:
    wanted = (reference.philox(3, 2**40 + torch.arange(1000), torch.tensor(0), 2) >> 8) * 2.0**-24
    got = ops.choices(1000, seed=3, first=2**40)
    assert torch.equal(got.double(), wanted.double())
    assert kstest(got.flatten().numpy(), "uniform").pvalue > 0.001


GRADIENTS: dict[str, dict[str, Any]] = {
    "gamma": {"gamma": 2.2},
    "windows": {"windows": corners(2, (4, 6), (3, 4)), "size": (3, 4)},
    "signed": {"signed": torch.float64},
    "noise": {"noise": torch.tensor([0.01, 0.02]), "seed": 3, "first": 9},
}
GRADIENTS["all"] = {name: value for options in GRADIENTS.values() for name, value in options.items()}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_is_the_true_adjoint(name: str) -> None:
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


ALL = (2.2, corners(2, (8, 9), (4, 5)), [4, 5], torch.tensor([0.1, 0.2]))
COUNTER = torch.tensor([3, 5])
OPS = torch.ops.deblurgan
LAST = picture(2, 3, 8, 9).contiguous(memory_format=torch.channels_last)
CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "plain": (OPS.apply_psf, (picture(2, 3, 8, 9).requires_grad_(), kernels(2, 3), "reflect")),
    "uint8": (OPS.apply_psf, (picture(2, 3, 8, 9, dtype=torch.uint8), kernels(2, 3), "reflect")),
    "light": (OPS.apply_psf, (LAST.clone().requires_grad_(), kernels(2, 3), "zero", 2.2, None, None, ALL[3], 3, 5)),
    "windows": (OPS.apply_psf, (LAST.clone().requires_grad_(), kernels(2, 3), "reflect", 1.0, *ALL[1:3])),
    "all": (OPS.apply_psf, (LAST.half(), kernels(2, 3), "zero", *ALL, 3, 5, None, torch.bfloat16, 9)),
    "counter": (OPS.apply_psf, (LAST, kernels(2, 3), "zero", *ALL, 0, 0, COUNTER, torch.float32, 9)),
    "psf_taps": (OPS.psf_taps, (torch.rand(2, 3, 3) + 0.1, 9)),
    "random_trajectories": (OPS.random_trajectories, (torch.full((2,), 0.01), 0, 0, 20, 4.0, COUNTER)),
}


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name: str) -> None:
    op, arguments = CALLS[name]
    torch.library.opcheck(op.default, arguments)


def test_module_passes_its_options_on() -> None:
    x = picture(4, 3, 40, 50, dtype=torch.uint8)
    blur = MotionBlur(gamma=2.2, noise=(0.01, 0.1), padding="replicate", seed=5)
    windows = random_windows(4, picture=(40, 50), size=(20, 30), seed=1)
    call: dict[str, Any] = {"windows": windows, "size": (20, 30), "signed": torch.float16}
    y, psf = blur(x, index=6, return_psf=True, **call)
    assert same(psf, blur.psf(4, index=6))
    uniform = ops.choices(4, seed=5, first=6)[:, 3]
    noise = 0.01 + 0.09 * uniform
    wanted = apply_psf(x, psf, gamma=2.2, padding="replicate", noise=noise, seed=5, first=6, **call)
    assert same(y, wanted)
    one = blur(x[2], index=8, windows=windows[2:3], size=(20, 30), signed=torch.float16)
    assert same(one, y[2])


def test_module_draws_noise_from_its_range() -> None:
    flat = torch.full((200, 3, 32, 32), 0.5)
    for low, high in ((0.05, 0.05), (0.02, 0.2)):
        blur = MotionBlur(noise=low if low == high else (low, high), seed=1)
        deviation = (blur(flat, psf=ONE).double() - 0.5).flatten(1).std(1)
        if low == high:
            assert (deviation / low - 1).abs().max() < 5 / math.sqrt(2 * 3 * 32 * 32)
        else:
            assert kstest((deviation - low).numpy() / (high - low), "uniform").pvalue > 0.001


def test_counter_counts_pictures_that_are_drawn() -> None:
    x, blur = torch.rand(3, 1, 8, 8), MotionBlur(seed=4, length=8.0)
    blur(x)
    assert blur.counter.tolist() == [4, 3]
    blur(x[0])
    assert blur.counter.tolist() == [4, 4]
    blur(x, index=70)
    blur(x, psf=ONE)
    blur(x, generator=torch.Generator().manual_seed(1))
    assert blur.counter.tolist() == [4, 4]
    noisy = MotionBlur(noise=0.1, length=8.0)
    noisy(x, psf=ONE)
    assert noisy.counter.tolist() == [0, 3]


def test_generator_draws_noise_too() -> None:
    x, blur = torch.rand(2, 3, 16, 16), MotionBlur(noise=0.1, length=8.0)
    draws = [blur(x, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert same(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    generator = torch.Generator().manual_seed(1)
    assert not torch.equal(blur(x, generator=generator), blur(x, generator=generator))


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda blur: pickle.loads(pickle.dumps(blur)),
        lambda blur: blur.to("cpu"),
        lambda blur: blur.double(),
        lambda blur: blur.half(),
        lambda blur: blur.to(torch.bfloat16),
    ],
    ids=["deepcopy", "pickle", "cpu", "double", "half", "bfloat16"],
)
def test_a_copied_or_moved_module_goes_on_drawing(copied: Callable[[MotionBlur], MotionBlur]) -> None:
    x = torch.rand(8, 3, 16, 16)
    blur = MotionBlur(seed=2, noise=(0.0, 0.1), gamma=2.2)
    blur(x)
    other = copied(blur)
    assert other.state_dict() == {}
    assert same(other(x), MotionBlur(seed=2, noise=(0.0, 0.1), gamma=2.2)(x, index=8))


def test_one_kernel_for_a_batch_blurs_all_of_it_or_none() -> None:
    blur = MotionBlur(p=0.3, same_on_batch=True, length=8.0, exposure=1.0)
    batches = torch.stack([blur.psf(3, index=3 * i) for i in range(200)])
    assert (batches == batches[:, :1]).all()
    impulse = torch.zeros(blur.size, blur.size)
    impulse[blur.size // 2, blur.size // 2] = 1
    sharp = (batches[:, 0] == impulse).all(2).all(1)
    assert 0.6 < sharp.double().mean() < 0.8
    x = torch.rand(3, 1, 20, 20)
    for i in range(10):
        assert torch.equal(blur(x, index=3 * i), x) == bool(sharp[i])


X, K, W = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 3), torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize("counter", [COUNTER.int(), COUNTER[:1], torch.zeros(4, dtype=torch.int64)[::2]], ids=str)
@pytest.mark.parametrize(
    "call",
    [
        lambda counter: ops.choices(2, counter=counter),
        lambda counter: ops.random_windows(2, picture=(8, 8), size=(4, 4), counter=counter),
        lambda counter: ops.random_trajectories(torch.zeros(2), 0, 0, 9, 1.0, counter),
        lambda counter: ops.apply_psf(X, K, "reflect", noise=torch.zeros(2), counter=counter),
    ],
    ids=["choices", "random_windows", "random_trajectories", "apply_psf"],
)
def test_bad_counters_are_named(call: Callable[[Tensor], Tensor], counter: Tensor) -> None:
    with pytest.raises(ValueError, match=r"counter must be int64 \[2\], got"):
        call(counter)


def placed(*window: int) -> Tensor:
    return torch.tensor([[0, 0, 0], window])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: apply_psf(X, K, size=(4, 4)), "size must be given with windows, and only then"),
        (lambda: apply_psf(X, K, windows=W), "size must be given with windows, and only then"),
        (lambda: apply_psf(X, K, windows=W, size=(9, 4)), r"size must fit into the picture \(8, 8\), got \(9, 4\)"),
        (lambda: apply_psf(X, K, windows=W, size=(4, 0)), r"size must fit into the picture \(8, 8\), got \(4, 0\)"),
        (lambda: apply_psf(X, K, windows=W, size=(4, 4, 4)), "size must fit into the picture"),  # type: ignore[arg-type]
        (lambda: apply_psf(X, K, windows=placed(-1, 0, 0), size=(4, 4)), "windows must lie in the picture"),
        (lambda: apply_psf(X, K, windows=placed(5, 0, 0), size=(4, 4)), "windows must lie in the picture"),
        (lambda: apply_psf(X, K, windows=placed(0, 5, 0), size=(4, 4)), "windows must lie in the picture"),
        (lambda: apply_psf(X, K, windows=placed(0, 0, 2), size=(4, 4)), "windows must lie in the picture"),
        (lambda: apply_psf(X, K, windows=placed(2**62, 0, 0), size=(4, 4)), "windows must lie in the picture"),
        (lambda: apply_psf(X, K, windows=W.int(), size=(4, 4)), "windows must be .*got torch.int32"),
        (lambda: apply_psf(X, K, windows=W.float(), size=(4, 4)), "windows must be .*got torch.float32"),
        (lambda: apply_psf(X, K, windows=W[:1], size=(4, 4)), r"windows must be .*\[2, 3\], got torch.int64 \(1, 3\)"),
        (lambda: apply_psf(X, K, windows=W.to("meta"), size=(4, 4)), "windows must be on cpu, got meta"),
        (lambda: apply_psf(X, K, gamma=0.0), r"gamma must be in \[0.1, 10\], got 0"),
        (lambda: apply_psf(X, K, gamma=-2.2), r"gamma must be in \[0.1, 10\], got -2.2"),
        (lambda: apply_psf(X, K, gamma=11.0), r"gamma must be in \[0.1, 10\], got 11"),
        (lambda: apply_psf(X, K, gamma=math.nan), r"gamma must be in \[0.1, 10\], got nan"),
        (lambda: apply_psf(X, K, noise=-0.1), "noise must be finite and >= 0"),
        (lambda: apply_psf(X, K, noise=math.nan), "noise must be finite and >= 0"),
        (lambda: apply_psf(X, K, noise=math.inf), "noise must be finite and >= 0"),
        (lambda: apply_psf(X, K, noise=torch.tensor([0.0, math.nan])), "noise must be finite and >= 0"),
        (lambda: apply_psf(X, K, noise=torch.zeros(3)), r"noise must be .*\[2\], got torch.float32 \(3,\)"),
        (lambda: apply_psf(X, K, noise=torch.zeros(2, dtype=torch.int64)), "noise must be .*got torch.int64"),
        (lambda: apply_psf(X, K, noise=torch.zeros(2, device="meta")), "noise must be on cpu, got meta"),
        (lambda: apply_psf(X, K, noise=0.1, seed=-1), r"seed must be in \[0, 2\^63\), got -1"),
        (lambda: apply_psf(X, K, noise=0.1, first=-1), r"first index must be in \[0, 2\^63\), got -1"),
        (lambda: apply_psf(X, K, signed=torch.uint8), "signed must be a floating-point type, got torch.uint8"),
        (lambda: apply_psf(X, K, signed=torch.int64), "signed must be a floating-point type, got torch.int64"),
        (lambda: psf_taps(K, capacity=0), "capacity must be at least 1, got 0"),
        (lambda: psf_taps(K, capacity=-3), "capacity must be at least 1, got -3"),
        (lambda: psf_taps(K, capacity=8), "capacity must hold all taps: 2 of 2 PSFs have more than 8"),
        (lambda: psf_taps(torch.rand(3, 3)), r"psf must be \[n, k, k\], got \(3, 3\)"),
        (lambda: psf_taps(torch.rand(2, 3, 4)), r"psf must be \[n, k, k\], got \(2, 3, 4\)"),
        (lambda: psf_taps(torch.tensor(1.0)), r"psf must be \[n, k, k\], got \(\)"),
        (lambda: psf_taps(K.int()), "psf must be floating point, got torch.int32"),
        (lambda: random_windows(-1, picture=(8, 8), size=(4, 4), seed=0), "n must be >= 0, got -1"),
        (lambda: random_windows(2, picture=(8, 8), size=(9, 4), seed=0), r"size must fit .*\(8, 8\), got \(9, 4\)"),
        (lambda: random_windows(2, picture=(8, 8), size=(4, 0), seed=0), r"size must fit .*\(8, 8\), got \(4, 0\)"),
        (lambda: random_windows(2, picture=(8, 8), size=(4, 4), seed=-1), r"seed must be in \[0, 2\^63\), got -1"),
        (lambda: random_windows(2, picture=(8, 8), size=(4, 4), seed=2**63), "seed must be in"),
        (lambda: random_windows(2, picture=(8, 8), size=(4, 4), seed=0, first=-1), "first index must be in"),
        (
            lambda: ops.apply_psf(
                X.clone().requires_grad_(), K, "reflect", 2.2, noise=torch.zeros(2), counter=torch.tensor([3, 5])
            ),
            "noise drawn by a counter has no gradient",
        ),
        (lambda: ops.choices(2, counter=COUNTER.to("meta")), "counter must be on cpu, got meta"),
        (lambda: MotionBlur(gamma=0.0), r"gamma must be in \[0.1, 10\], got 0"),
        (lambda: MotionBlur(gamma=math.nan), r"gamma must be in \[0.1, 10\], got nan"),
        (lambda: MotionBlur(noise=-0.1), "noise must be >= 0"),
        (lambda: MotionBlur(noise=math.nan), "noise must be >= 0"),
        (lambda: MotionBlur(noise=math.inf), "noise must be >= 0"),
        (lambda: MotionBlur(noise=(0.2, 0.1)), "noise must be >= 0"),
        (lambda: MotionBlur(length=0.0), "length must be in"),
        (lambda: MotionBlur()(X, size=(4, 4)), "size must be given with windows"),
        (lambda: MotionBlur()(X, windows=W[:1], size=(4, 4)), "windows must be"),
        (lambda: MotionBlur()(X, signed=torch.int8), "signed must be a floating-point type"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture
def cuda() -> torch.device:
    """A GPU that csrc/ works on."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    if not ops.is_native(torch.device("cuda")):
        pytest.skip("deblurgan was built without CUDA")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.mark.gpu
@pytest.mark.parametrize("name", DRAWN)
def test_gpu_draws_the_cpu_s_bytes(name: str, cuda: torch.device, poisoned: None) -> None:
    n, drawn = DRAWN[name]
    wanted = drawn(n, Draws(3, 2**33), "cpu")
    assert same(drawn(n, Draws(3, 2**33), "cuda").cpu(), wanted)
    assert same(drawn(n, Draws(counter=torch.tensor([3, 2**33], device=cuda)), "cuda").cpu(), wanted)


@pytest.mark.gpu
def test_gpu_draws_whole_kernels_as_the_cpu_does(cuda: torch.device) -> None:
    for mode in ("centered", "released"):
        blur = MotionBlur(mode=mode, p=0.8)
        wanted = blur.psf(300, seed=9, index=5)
        assert same(blur.psf(300, seed=9, index=5, device="cuda").cpu(), wanted)


@pytest.mark.gpu
def test_gpu_noise_by_counter(cuda: torch.device) -> None:
    """To the last places: a GPU multiplies and adds in one rounding."""
    wanted = drawn_noise(8, Draws(3, 2**33), "cpu")
    for draws in (Draws(3, 2**33), Draws(counter=torch.tensor([3, 2**33], device=cuda))):
        assert_matches(drawn_noise(8, draws, "cuda"), wanted)


@pytest.mark.gpu
def test_gpu_names_a_path_that_leaves_the_canvas(cuda: torch.device) -> None:
    paths = random_trajectories(4, seed=0, anxiety=0.0, device=cuda)
    assert ops.rasterize_psf(paths, torch.ones(4, device=cuda), 33, "centered").isnan().all()
    for path in (paths, torch.full_like(paths, math.nan)):
        with pytest.raises(ValueError, match="4 of 4 paths leave a canvas of 33"):
            rasterize_psf(path, size=33)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options", [{}, {"mode": "released", "p": 0.5}, {"same_on_batch": True, "noise": (0.01, 0.1), "gamma": 2.2}]
)
def test_module_never_waits_for_the_gpu(options: dict[str, Any], cuda: torch.device) -> None:
    x = picture(4, 3, 64, 64, dtype=torch.uint8)
    blur, wanted = MotionBlur(**options).cuda(), MotionBlur(**options)
    moved, windows = x.to(cuda), corners(4, (64, 64), (32, 32))
    call: dict[str, Any] = {"size": (32, 32), "signed": torch.float32}
    there = windows.to(cuda)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = [blur(moved, windows=there, **call) for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for y in got:
        assert_matches(y, wanted(x, windows=windows, **call))


@pytest.mark.gpu
def test_each_replay_of_a_graph_draws_fresh_blur(cuda: torch.device) -> None:
    options: dict[str, Any] = {"seed": 5, "noise": (0.0, 0.05), "gamma": 2.2, "p": 0.9}
    x = picture(4, 3, 48, 40)
    moved = x.to(cuda)
    MotionBlur(**options).cuda()(moved)  # loads the kernels, which a capture cannot
    blur, graph = MotionBlur(**options).cuda(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, psf = blur(moved, return_psf=True)
    replays = []
    for _ in range(3):
        graph.replay()
        replays.append((y.cpu(), psf.cpu()))
    for i, (blurred, kernel) in enumerate(replays):
        wanted, its_kernel = MotionBlur(**options)(x, index=4 * i, return_psf=True)
        assert same(kernel, its_kernel)
        assert_matches(blurred, wanted, name=f"replay {i}")
        assert not any(torch.equal(kernel, other) for _, other in replays[:i])
    assert blur.counter.tolist() == [5, 12]


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, k: ops.apply_psf(x, k, "reflect", counter=COUNTER), "counter must be on cuda:., got cpu"),
        (
            lambda x, k: ops.random_trajectories(x[:, 0, 0, 0], 0, 0, 9, 1.0, COUNTER),
            "counter must be on cuda:., got cpu",
        ),
        (lambda x, k: ops.apply_psf(x, K, "reflect"), "psf must be on the picture's device cuda:., got cpu"),
        (lambda x, k: apply_psf(x, k, windows=W, size=(4, 4)), "windows must be on cuda:., got cpu"),
        (lambda x, k: apply_psf(x, k, noise=torch.zeros(2)), "noise must be on cuda:., got cpu"),
    ],
)
def test_gpu_names_what_is_on_another_device(
    call: Callable[[Tensor, Tensor], Tensor], message: str, cuda: torch.device
) -> None:
    with pytest.raises(ValueError, match=message):
        call(X.to(cuda), K.to(cuda))


@pytest.mark.gpu
def test_a_module_moved_to_the_gpu_and_back_goes_on_drawing(cuda: torch.device) -> None:
    x, blur = picture(2, 3, 20, 20), MotionBlur(seed=3)
    blur(x)
    assert_matches(blur.cuda()(x.to(cuda)), MotionBlur(seed=3)(x, index=2))
    assert same(blur.cpu()(x), MotionBlur(seed=3)(x, index=4))
    assert_matches(MotionBlur(seed=3)(x.to(cuda)), MotionBlur(seed=3)(x, index=0), name="module left on the CPU")


@pytest.mark.gpu
def test_another_stream(cuda: torch.device) -> None:
    """The sleep would have work on the wrong stream read the picture before it is there."""
    x, stream = picture(2, 3, 64, 64), torch.cuda.Stream()
    blur = MotionBlur(seed=3, noise=0.1).cuda()
    blur(x.to(cuda), index=0)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        late = torch.zeros(2, 3, 64, 64, device=cuda)
        torch.cuda._sleep(50_000_000)
        late.copy_(x.pin_memory(), non_blocking=True)
        y = blur(late, index=6)
    stream.synchronize()
    assert_matches(y, MotionBlur(seed=3, noise=0.1)(x, index=6))


@pytest.mark.gpu
def test_a_second_device(cuda: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    second = torch.device("cuda", 1 - torch.cuda.current_device())
    x, blur = picture(2, 3, 30, 30), MotionBlur(seed=3, noise=0.1).to(second)
    y, psf = blur(x.to(second), return_psf=True)
    wanted, kernel = MotionBlur(seed=3, noise=0.1)(x, return_psf=True)
    assert (y.device, psf.device, torch.cuda.current_device()) == (second, second, cuda.index)
    assert same(psf.cpu(), kernel)
    assert_matches(y, wanted)
