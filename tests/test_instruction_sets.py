"""The blur's inner loop in each instruction set of this CPU: the reference, the promised bytes, and which one runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from blur_cases import kernels, picture, same
from torch import Tensor

import deblurgan
from conftest import assert_matches
from deblurgan import _C, reference
from deblurgan.blur import apply_psf

SETS = _C.instruction_sets()
FUSED = [name for name in SETS if name in ("avx512", "avx2", "neon")]
CAMERA: dict[str, Any] = {"gamma": 2.2, "highlights": 1.0, "sensor": (1e-3, 0.01), "seed": 3, "first": 5}
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = _C.instruction_set()
    yield
    _C.use_instruction_set(before)


def blurred(name: str, x: Tensor, psf: Tensor, **options: Any) -> Tensor:
    _C.use_instruction_set(name)
    return apply_psf(x, psf, **options)


def one_run(rows: int) -> Tensor:
    """A PSF whose only taps are `rows` in a column: blocks of output rows read 1 to `rows` of them at a pixel."""
    psf = torch.zeros(1, 9, 9)
    psf[0, 1 : 1 + rows, 2] = torch.rand(rows, generator=torch.Generator().manual_seed(rows)) + 0.1
    return psf


@pytest.mark.parametrize("size", [(1, 1), (9, 65), (38, 131)], ids=str)
@pytest.mark.parametrize("name", SETS)
def test_it_is_the_reference_s(name: str, size: tuple[int, int]) -> None:
    for dtype in (torch.uint8, torch.float32):
        x, psf = picture(2, 3, *size, dtype=dtype), kernels(2, 11)
        white = 255.0 if dtype == torch.uint8 else 1.0
        truth = reference.apply_psf(x.double() / white, psf.double(), "reflect")
        got = blurred(name, x, psf)
        if dtype == torch.uint8:
            assert (got.double() - white * truth).abs().max() <= 0.5 + 1e-3
        else:
            assert_matches(got, truth)
        assert same(blurred(name, x.contiguous(memory_format=torch.channels_last), psf), got)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("name", SETS)
def test_every_number_of_rows_at_a_pixel(name: str, rows: int) -> None:
    x, psf = picture(1, 1, 13, 70), one_run(rows)
    truth = reference.apply_psf(x.double(), psf.double(), "zero")
    assert_matches(blurred(name, x, psf, padding="zero"), truth)


@pytest.mark.parametrize("name", SETS)
def test_fma_rounds_once(name: str) -> None:
    """(1 + 2^-12)^2 - (1 + 2^-11) is 2^-24, and 0 where the square is rounded to fp32 first."""
    step = 1 + 2.0**-12
    x = torch.tensor([1, 0, step]).repeat(46).expand(1, 1, 6, -1)
    psf = torch.tensor([[step, 0, -(1 + 2.0**-11)]])  # the pixel on the left is read first, by the last weight
    got = blurred(name, x, torch.cat([0 * psf, psf, 0 * psf])[None])
    assert (got[..., 1::3] == (2.0**-24 if name in FUSED else 0)).all()


@pytest.mark.parametrize("options", [{}, CAMERA], ids=["plain", "camera"])
def test_sets_with_fma_give_the_same_bytes(options: dict[str, Any]) -> None:
    x, psf = (1.3 * picture(2, 3, 38, 131)).clamp(max=1), kernels(2, 11)
    first, *others = [blurred(name, x, psf, **options) for name in FUSED] or [x]
    assert all(same(other, first) for other in others)


@pytest.mark.parametrize("name", SETS)
def test_a_camera_s_blur_is_the_reference_s(name: str) -> None:
    x, psf = (1.3 * picture(2, 3, 9, 65)).clamp(max=1), kernels(2, 5)
    tensors = {"highlights": torch.full((2,), 1.0), "sensor": torch.tensor([[1e-3, 0.01]] * 2)}
    truth = reference.apply_psf(x.double(), psf.double(), **{**CAMERA, **tensors})
    assert_matches(blurred(name, x, psf, **CAMERA), truth)


def in_a_process(wanted: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DEBLURGAN_CPU_ISA"}
    if wanted is not None:
        environment["DEBLURGAN_CPU_ISA"] = wanted
    program = "from deblurgan import _C; print(_C.instruction_set())"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", SETS)
def test_the_environment_names_one(name: str) -> None:
    assert in_a_process(name).stdout == f"{name}\n"


@pytest.mark.parametrize("wanted", [None, ""])
def test_the_fastest_is_taken_by_default(wanted: str | None) -> None:
    assert in_a_process(wanted).stdout == f"{SETS[0]}\n"


@pytest.mark.parametrize("wanted", ["avx3", "AVX2", "vsx"])
def test_one_that_is_not_there_is_refused(wanted: str) -> None:
    refused = in_a_process(wanted)
    assert refused.returncode != 0
    error = f"ValueError: DEBLURGAN_CPU_ISA must be one that this CPU has ({', '.join(SETS)}), got '{wanted}'\n"
    assert refused.stderr.endswith(error)


def test_a_refused_one_changes_nothing() -> None:
    _C.use_instruction_set(SETS[-1])
    with pytest.raises(ValueError, match=r"instruction set must be one that this CPU has \(.*\), got 'vsx'"):
        _C.use_instruction_set("vsx")
    assert _C.instruction_set() == SETS[-1]


def test_info_names_it() -> None:
    _C.use_instruction_set(SETS[-1])
    assert f"C++ on the CPU ({SETS[-1]} of {', '.join(SETS)}; DEBLURGAN_CPU_ISA names another)" in deblurgan.info()
