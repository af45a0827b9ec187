"""Blur synthesis: C++ against the reference, NumPy transcriptions of the released code, and what a blur must keep."""

from __future__ import annotations

import functools
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import deblurgan
from conftest import assert_matches, relative_error
from deblurgan import ops, reference
from deblurgan.blur import MotionBlur, apply_psf, random_trajectories, rasterize_psf


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


@pytest.mark.parametrize("anxiety", [0.0, 0.003, 0.01, 0.1])
def test_trajectories_match_the_reference(anxiety: float, poisoned: None) -> None:
    """fp32 against fp64: a path bends with its own history, so single paths may drift by a tenth of a pixel."""
    got = random_trajectories(50, seed=3, first=7, anxiety=anxiety)
    wanted = reference.random_trajectories(torch.full((50,), anxiety), seed=3, first=7)
    drift = (got - wanted).abs().amax((1, 2))
    assert drift.median() < 1e-3
    assert drift.max() < 0.1


def test_path_length_is_exact() -> None:
    for steps, length in ((2000, 60.0), (100, 25.0), (2, 3.0)):
        paths = random_trajectories(20, seed=1, steps=steps, length=length).double()
        assert torch.allclose(paths.diff(dim=1).norm(dim=-1).sum(1), torch.tensor(length).double(), rtol=1e-4)


def test_no_anxiety_is_a_straight_line() -> None:
    paths = random_trajectories(10, seed=1, anxiety=0.0).double()
    assert torch.allclose(paths[:, -1].norm(dim=-1), torch.tensor(60.0).double(), rtol=1e-4)


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


def test_same_index_gives_the_same_kernel_in_any_batch() -> None:
    whole = MotionBlur().psf(12, seed=9)
    parts = [MotionBlur().psf(n, seed=9, index=first) for first, n in ((0, 5), (5, 1), (6, 6))]
    assert torch.equal(whole, torch.cat(parts))


def test_other_seeds_and_indices_give_other_kernels() -> None:
    kernels = [MotionBlur().psf(1, seed=seed, index=index) for seed in (0, 1, 2**40) for index in (0, 1, 2**33, 2**62)]
    for i, a in enumerate(kernels):
        for b in kernels[:i]:
            assert not torch.equal(a, b)


@functools.cache
def blurred_in_fp64(padding: reference.Padding, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """A picture that every dtype holds exactly, its PSFs (at times wider than it), and the truth."""
    x = torch.randint(0, 128, (2, 3, *size), generator=torch.Generator().manual_seed(1)) / 128
    psf = MotionBlur(length=20.0 if max(size) > 64 else 60.0).psf(2, seed=1)
    return x, psf, reference.apply_psf(x.double(), psf.double(), padding)


@pytest.mark.parametrize("padding", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (31, 33), (70, 130)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_apply_psf_matches_the_reference(
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


def test_mean_brightness_is_kept() -> None:
    x = torch.randint(0, 256, (8, 3, 128, 128), dtype=torch.uint8)
    y = MotionBlur(exposure=1.0)(x, seed=5, index=0)
    assert (y.double().mean((1, 2, 3)) - x.double().mean((1, 2, 3))).abs().max() < 0.5


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


def test_opcheck() -> None:
    paths = random_trajectories(2, seed=1, steps=20, length=4.0)
    torch.library.opcheck(torch.ops.deblurgan.rasterize_psf.default, (paths, torch.ones(2), 9, "centered"))
    torch.library.opcheck(torch.ops.deblurgan.random_trajectories.default, (torch.ones(2) * 0.01, 1, 0, 20, 4.0))


def test_empty_batches() -> None:
    assert random_trajectories(0, seed=1).shape == (0, 2000, 2)
    assert MotionBlur().psf(0).shape == (0, 65, 65)
    assert MotionBlur()(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)
    for padding in ("reflect", "replicate", "zero"):
        for size in ((0, 8), (8, 0), (0, 0)):
            assert MotionBlur(padding=padding)(torch.zeros(2, 3, *size), index=0).shape == (2, 3, *size)


def test_module_numbers_pictures_as_they_come() -> None:
    x = torch.rand(3, 3, 16, 16)
    blur = MotionBlur(seed=7)
    first, second = blur(x), blur(x)
    assert torch.equal(first, MotionBlur(seed=7)(x, index=0))
    assert torch.equal(second, MotionBlur(seed=7)(x, index=3))
    assert torch.equal(blur(x[0], index=2), MotionBlur(seed=7)(x[:1], index=2)[0])


def test_module_replays_a_psf_and_takes_a_generator() -> None:
    x = torch.rand(2, 3, 16, 16)
    y, psf = MotionBlur(seed=1)(x, return_psf=True)
    assert torch.equal(MotionBlur(seed=2)(x, psf=psf), y)
    draws = [MotionBlur()(x, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.nn.Sequential(MotionBlur(seed=1))(x), y)


def test_probability_and_one_kernel_for_a_batch() -> None:
    x = torch.rand(1, 1, 20, 20).expand(400, -1, -1, -1)
    same = (MotionBlur(p=0.3, exposure=1.0)(x, index=0) == x).flatten(1).all(1)
    assert 0.6 < same.double().mean() < 0.8
    assert torch.equal(MotionBlur(p=0.0)(x), x)
    psf = MotionBlur(same_on_batch=True).psf(5)
    assert (psf == psf[:1]).all()


@pytest.mark.parametrize("mode", ["centered", "released"])
@pytest.mark.parametrize("length", [1.0, 7.5, 25.0, 60.0, 100.0])
def test_default_canvas_holds_every_path(length: float, mode: str) -> None:
    blur = MotionBlur(length=length, anxiety=(0.0, 0.01), exposure=1.0, mode=mode)
    assert blur.psf(50, seed=1).isfinite().all()
    if (length, mode) == (60.0, "released"):
        assert blur.size == 64  # the released canvas, one px short of a straight path; no released anxiety draws one
        return
    turns = torch.arange(16) * (torch.pi / 8)
    straight = torch.linspace(0, length, 2000)[:, None] * torch.stack([turns.cos(), turns.sin()], 1)[:, None]
    assert rasterize_psf(straight, size=blur.size, mode=mode).isfinite().all()


def test_loader_workers() -> None:
    """A named draw is the same in every process; the module's own draws never repeat, whatever the worker and epoch."""
    program = (
        "import torch; from deblurgan.blur import MotionBlur\n"
        "class Named(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 6\n"
        "    def __getitem__(self, i): return MotionBlur().psf(1, seed=3, index=i)[0]\n"
        "class Own(torch.utils.data.Dataset):\n"
        "    blur = MotionBlur(length=8.0, exposure=1.0)\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, i): return self.blur(torch.zeros(1, 4, 4), return_psf=True)[1][0]\n"
        "whole = MotionBlur().psf(6, seed=3)\n"
        "for workers in (0, 2):\n"
        "    loader = torch.utils.data.DataLoader(Named(), batch_size=3, num_workers=workers)\n"
        "    assert torch.equal(torch.cat(list(loader)), whole), workers\n"
        "loader = torch.utils.data.DataLoader(Own(), batch_size=None, num_workers=2)\n"
        "kernels = [psf for epoch in range(2) for psf in loader]\n"
        "assert len({psf.numpy().tobytes() for psf in kernels}) == 8\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


X, K = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: apply_psf(torch.rand(2, 17), K), r"image must be \[n, c, h, w\] or \[c, h, w\], got \(2, 17\)"),
        (lambda: apply_psf(X.int(), K), "image must be uint8 or floating point, got torch.int32"),
        (lambda: apply_psf(X, torch.rand(3, 3, 3)), "psf must hold one kernel a picture, 2, got 3"),
        (lambda: apply_psf(X, torch.rand(2, 3, 4)), r"psf must be \[n, k, k\], got \(2, 3, 4\)"),
        (lambda: apply_psf(X, torch.rand(2, 0, 0)), "psf must not be empty"),
        (lambda: apply_psf(X, K.int()), "psf must be floating point, got torch.int32"),
        (lambda: apply_psf(X, K * float("nan")), "psf must be finite"),
        (lambda: apply_psf(X, K.double() * 1e300), "psf must be finite in fp32"),
        (lambda: apply_psf(X, K.clone().requires_grad_()), "psf must not require a gradient"),
        (lambda: apply_psf(X, K, padding="circular"), "padding must be one of reflect, replicate, zero"),  # type: ignore[arg-type]
        (lambda: apply_psf(X, K.to("meta")), "psf must be on the picture's device cpu, got meta"),
        (lambda: random_trajectories(-1, seed=0), "n must be >= 0, got -1"),
        (lambda: random_trajectories(1, seed=-1), r"seed must be in \[0, 2\^63\), got -1"),
        (lambda: random_trajectories(1, seed=0, steps=1), r"steps must be in \[2, 4194304\], got 1"),
        (lambda: random_trajectories(1, seed=0, length=-5.0), r"length must be in \(0, 1e\+06\] px, got -5"),
        (lambda: random_trajectories(1, seed=0, anxiety=-0.1), r"anxiety must be in \[0, 1000\]"),
        (lambda: random_trajectories(1, seed=0, anxiety=(0.2, 0.1)), r"anxiety must be in \[0, 1000\]"),
        (lambda: random_trajectories(1, seed=0, length=1e300), "length must be in"),
        (lambda: ops.random_trajectories(torch.tensor([float("nan")]), 0, 0, 9, 1.0), "anxiety must be in"),
        (lambda: ops.random_trajectories(torch.tensor([float("inf")]), 0, 0, 9, 1.0), "anxiety must be in"),
        (lambda: rasterize_psf(torch.rand(2, 9)), r"trajectories must be \[n, steps, 2\], got \(2, 9\)"),
        (lambda: rasterize_psf(torch.rand(2, 9, 2), exposure=0.0), r"exposure must be in \(0, 1\]"),
        (lambda: rasterize_psf(torch.rand(2, 9, 2), exposure=1.5), r"exposure must be in \(0, 1\]"),
        (lambda: rasterize_psf(torch.rand(2, 9, 2), size=1), r"size must be in \[3, 32768\], got 1"),
        (lambda: rasterize_psf(torch.rand(2, 9, 2), mode="best"), "mode must be 'centered' or 'released', got 'best'"),  # type: ignore[arg-type]
        (lambda: rasterize_psf(random_trajectories(4, seed=0, anxiety=0.0), size=33), "4 of 4 paths leave a canvas"),
        (lambda: rasterize_psf(torch.full((1, 9, 2), float("nan"))), "1 of 1 paths leave a canvas"),
        (lambda: MotionBlur(exposure=()), "exposure must be one or more shares"),
        (lambda: MotionBlur(p=2.0), r"p must be in \[0, 1\], got 2"),
        (lambda: MotionBlur(size=0), r"size must be in \[3, 32768\], got 0"),
        (lambda: MotionBlur(mode="best"), "mode must be one of centered, released, got 'best'"),  # type: ignore[arg-type]
        (lambda: MotionBlur(padding="circular"), "padding must be one of"),  # type: ignore[arg-type]
        (lambda: MotionBlur(anxiety=-1.0), "anxiety must be in"),
        (lambda: MotionBlur(seed=-1), "seed must be in"),
        (lambda: MotionBlur()(torch.rand(8, 8)), "image must be"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


def test_public_names() -> None:
    assert deblurgan.blur.apply_psf is apply_psf
    assert deblurgan.MotionBlur is MotionBlur
