"""What the blur refuses, and how it says so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from blur_cases import (
    COUNTER,
    K,
    W,
    X,
)
from torch import Tensor
from torch._subclasses import FakeTensorMode

from deblurgan import ops
from deblurgan.blur import (
    MotionBlur,
    apply_psf,
    psf_taps,
    random_trajectories,
    random_windows,
    rasterize_psf,
)


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
        (lambda: apply_psf(X, K, highlights=1e39), r"highlights must be finite and >= 0, got 1e\+39"),
        (lambda: apply_psf(X, K, sensor=(0.0, -1.0)), "sensor must be finite and >= 0, got -1"),
        (lambda: MotionBlur(shot=1e39), r"shot must be >= 0, or a \(low, high\) pair of such, got 1e\+39"),
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


@pytest.mark.parametrize("counter", [COUNTER.int(), COUNTER[:1], torch.zeros(4, dtype=torch.int64)[::2]], ids=str)
@pytest.mark.parametrize(
    "call",
    [
        lambda counter: ops.uniforms(2, counter=counter),
        lambda counter: ops.random_windows(2, picture=(8, 8), size=(4, 4), counter=counter),
        lambda counter: ops.random_trajectories(torch.zeros(2), 0, 0, 9, 1.0, counter),
        lambda counter: ops.apply_psf(X, K, "reflect", noise=torch.zeros(2), counter=counter),
    ],
    ids=["uniforms", "random_windows", "random_trajectories", "apply_psf"],
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
        (lambda: apply_psf(X, K, highlights=-0.1), "highlights must be finite and >= 0"),
        (lambda: apply_psf(X, K, highlights=math.nan), "highlights must be finite and >= 0"),
        (lambda: apply_psf(X, K, highlights=torch.zeros(2, 1)), r"highlights must be float32 \[2\], got .*\(2, 1\)"),
        (lambda: apply_psf(X, K, highlights=torch.zeros(2, device="meta")), "highlights must be on cpu, got meta"),
        (lambda: apply_psf(X, K, sensor=(0.1, -0.1)), "sensor must be finite and >= 0"),
        (lambda: apply_psf(X, K, sensor=(math.inf, 0.1)), "sensor must be finite and >= 0"),
        (lambda: apply_psf(X, K, sensor=(0.1,)), r"sensor must be \(shot, read\), got \(0.1,\)"),  # type: ignore[arg-type]
        (lambda: apply_psf(X, K, sensor=0.1), r"sensor must be \(shot, read\), got 0.1"),  # type: ignore[arg-type]
        (lambda: apply_psf(X, K, sensor=torch.zeros(2)), r"sensor must be float32 \[2, 2\], got torch.float32 \(2,\)"),
        (lambda: apply_psf(X, K, sensor=torch.zeros(2, 2).half()), r"sensor must be .*got torch.float16"),
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
        (
            lambda: ops.apply_psf(
                X.clone().requires_grad_(), K, "reflect", sensor=torch.zeros(2, 2), counter=torch.tensor([3, 5])
            ),
            "noise drawn by a counter has no gradient",
        ),
        (lambda: ops.uniforms(2, counter=COUNTER.to("meta")), "counter must be on cpu, got meta"),
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
def test_bad_options_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


META = {"device": "meta"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ops.rasterize_psf(torch.zeros(2, 9, 2), torch.ones(2, **META), 9, "centered"),
            "exposure must be on cpu",
        ),
        (lambda: ops.random_trajectories(W[:, 0] * 0, 0, 0, 9, 1.0, COUNTER.to("meta")), "counter must be on cpu"),
        (lambda: ops.apply_psf(X, K, "zero", counter=COUNTER.to("meta")), "counter must be on cpu"),
        (
            lambda: ops.rasterize_psf(torch.zeros(2, 9, 2).cfloat(), torch.ones(2), 9, "centered"),
            "trajectories must be real",
        ),
        (
            lambda: ops.rasterize_psf(torch.zeros(2, 9, 2), torch.ones(2).cfloat(), 9, "centered"),
            "exposure must be real",
        ),
        (lambda: ops.random_trajectories(torch.zeros(2).cfloat(), 0, 0, 9, 1.0), "anxiety must be real"),
    ],
)
def test_tensors_without_data_or_of_complex_numbers_give_no_result(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_draws_in_a_trace_are_refused_before_they_write_to_no_memory() -> None:
    with FakeTensorMode(), pytest.raises(RuntimeError, match="needs tensors with memory"):
        ops.random_windows(2, picture=(9, 9), size=(3, 3), seed=1)
