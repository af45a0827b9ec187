"""The last convolution, tanh, sum and clamp in our kernel, against torch in fp64."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import KERNEL_DEVICE, OP_TOLERANCE, assert_matches, relative_error
from deblurgan import reference
from deblurgan.kernels.config import (
    ConvConfig,
    NormActInputs,
)
from kernel_cases import (
    bordered,
    each_dtype,
    nchw,
    normal,
    pointer,
    poison,
    untouched,
    whole_numbers,
)

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels.norm_act import norm_act
from deblurgan.kernels.output_tail import output_tail, pack_tail_weight

pytestmark = pytest.mark.usefixtures("seeded")


class Tail(NamedTuple):
    h: int
    w: int
    c: int
    config: ConvConfig
    n: int = 1
    layout: str = "contiguous"


TAILS = {
    "several tiles": Tail(5, 13, 16, pointer(16, 32, 16), n=2),
    "channels that block_k does not divide": Tail(4, 6, 24, pointer(32, 64, 16)),
    "fewer rows than a program makes, channels last": Tail(4, 5, 16, pointer(64, 128, 16), 2, "channels last"),
    "a last row of another picture, sliced": Tail(7, 11, 16, pointer(16, 128, 16), 2, "sliced"),
}


def pictures(case: Tail, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`like` [n, 3, h, w] in the memory layout of the case, a result beside it, and the result's memory."""
    n, k, h, w = like.shape
    if case.layout == "sliced":
        memory = torch.zeros(n, k, h + 2, 2 * w, device=like.device).to(like.dtype)
        image = memory[:, :, 1:-1, ::2]
        image.copy_(like)
    else:
        order = torch.channels_last if case.layout == "channels last" else torch.contiguous_format
        memory = image = like.contiguous(memory_format=order)
    fill = math.nan if like.is_floating_point() else 77
    result = torch.full_like(memory, fill)
    return image, result[:, :, 1:-1, ::2] if case.layout == "sliced" else result, result


def tail_of(case: Tail, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x with its border, a weight and a bias, of which some results saturate."""
    _, whole, _ = bordered(case.n, case.h, case.w, case.c, 3, dtype)
    whole.copy_(normal(*whole.shape))
    weight = (normal(3, case.c, 7, 7) / math.sqrt(30 * case.c)).to(dtype)
    return whole, weight, normal(3)


def run_tail(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    image: Tensor,
    out: Tensor,
    config: ConvConfig,
    saved: Tensor | None = None,
    not_finite: Tensor | None = None,
) -> None:
    rows = pack_tail_weight(weight, config.block_n, weight.dtype)
    output_tail(x, rows, bias, image, out, config=config, saved=saved, not_finite=not_finite)


@each_dtype
@pytest.mark.parametrize("case", TAILS.values(), ids=TAILS.keys())
def test_output_tail(case: Tail, dtype: torch.dtype) -> None:
    x, weight, bias = tail_of(case, dtype)
    image, out, memory = pictures(case, normal(case.n, 3, case.h, case.w, dtype=dtype).clamp(-1, 1))
    saved = poison(*image.shape)
    run_tail(x, weight, bias, image, out, case.config, saved)
    residual = torch.tanh(F.conv2d(nchw(x).double(), weight.double(), bias.double()))
    wanted = (image.double() + residual).clamp(-1, 1)
    assert_matches(out, wanted)
    assert relative_error(saved, residual) <= OP_TOLERANCE[torch.float32]  # summed in fp32 whatever x is
    assert untouched(memory, out)
    assert 0 < int((wanted.abs() == 1).sum()) < wanted.numel()
    assert torch.equal(out[wanted == 1], torch.ones_like(out[wanted == 1]))


@each_dtype
@pytest.mark.parametrize("case", TAILS.values(), ids=TAILS.keys())
def test_output_tail_in_8_bits(case: Tail, dtype: torch.dtype) -> None:
    x, weight, bias = tail_of(case, dtype)
    levels = torch.randint(0, 256, (case.n, 3, case.h, case.w), dtype=torch.uint8).to(KERNEL_DEVICE)
    image, out, memory = pictures(case, levels)
    run_tail(x, weight, bias, image, out, case.config)
    residual = torch.tanh(F.conv2d(nchw(x).double(), weight.double(), bias.double()))
    exact = ((levels.double() / 127.5 - 1 + residual).clamp(-1, 1) + 1) * 127.5
    difference = out.double() - exact
    assert difference.abs().max() <= 0.501, "not the nearest level"
    assert abs(float(difference.mean())) <= 4 * 0.29 / math.sqrt(out.numel())
    if case.layout == "sliced":
        assert (memory[:, :, :, 1::2] == 77).all()
        assert (memory[:, :, [0, -1]] == 77).all()


@each_dtype
def test_output_tail_without_a_residual_returns_the_picture(dtype: torch.dtype) -> None:
    x, weight, bias = normal(1, 22, 22, 16, dtype=dtype), torch.zeros(3, 16, 7, 7), torch.zeros(3)
    weight, bias = weight.to(x), bias.to(KERNEL_DEVICE)
    levels = torch.arange(256, dtype=torch.uint8, device=KERNEL_DEVICE).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    out = torch.full_like(levels, 77).contiguous()
    run_tail(x, weight, bias, levels, out, pointer(64, 32, 16))
    assert torch.equal(out, levels)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_sums_in_fp16_of_few_whole_numbers_are_exact() -> None:
    x, weight = whole_numbers(1, 8, 10, 24, dtype=torch.float16), whole_numbers(3, 24, 7, 7, dtype=torch.float16)
    bias, image = normal(3), normal(1, 3, 2, 4).clamp(-1, 1)
    results = [poison(1, 3, 2, 4) for _ in range(2)]
    for accumulate, saved in zip(("fp32", "fp16"), results, strict=True):
        config = ConvConfig(16, 32, 32, accumulate=accumulate)
        run_tail(x, weight * 2**-10, bias, image, torch.empty_like(image), config, saved)
    assert torch.equal(*results)
    run_tail(x * 2048, weight * 2048, bias, image, torch.empty_like(image), config, results[1])
    assert results[1].isnan().any(), "infinities of either sign are no picture"


@pytest.mark.filterwarnings("ignore:overflow")
def test_output_tail_saturates() -> None:
    x, weight = normal(1, 8, 8, 16), torch.zeros(3, 16, 7, 7, device=KERNEL_DEVICE)
    image = torch.linspace(-1, 1, 12, device=KERNEL_DEVICE).view(1, 3, 2, 2)
    for sign in (-1, 1):
        out = poison(1, 3, 2, 2)
        run_tail(x, weight, torch.full((3,), sign * 200.0, device=KERNEL_DEVICE), image, out, pointer(16, 32, 16))
        assert torch.equal(out, (image + sign).clamp(-1, 1))


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_what_is_not_finite_stays_so() -> None:
    """Deblurrer refuses such pictures; ReLU and clamp must not turn them into valid ones."""
    y, stats = normal(1, 2, 4, 16), torch.ones(1, 2, 16, device=KERNEL_DEVICE)
    y[0, 0, 1, 3] = math.nan
    for leak in (0.0, reference.SLOPE):
        out = normal(*y.shape)
        norm_act(NormActInputs(y, stats, leak), out)
        assert torch.equal(out.isnan(), y.isnan())
    x, weight, image = normal(1, 8, 8, 16), normal(3, 16, 7, 7), normal(1, 3, 2, 2)
    x[0, 0, 0, 0] = math.nan
    out = normal(1, 3, 2, 2)
    run_tail(x, weight, torch.zeros(3, device=KERNEL_DEVICE), image, out, pointer(16, 32, 16))
    assert out[0, :, 0, 0].isnan().all()


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
@pytest.mark.parametrize("at, flagged", [(None, 0), ((0, 0), 1), ((9, 17), 1), ((9, 18), 0)])
def test_what_is_not_finite_is_flagged(at: tuple[int, int] | None, flagged: int) -> None:
    """In 8 bits nothing else shows it. The last row and column of x are of a picture one larger, which is not made."""
    x, weight = normal(1, 11, 19, 16), normal(3, 16, 7, 7)
    if at is not None:
        x[(0, *at, 3)] = math.nan
    levels = torch.zeros(1, 3, 4, 12, dtype=torch.uint8, device=KERNEL_DEVICE)
    flag = torch.zeros(1, dtype=torch.int32, device=KERNEL_DEVICE)
    bias = torch.zeros(3, device=KERNEL_DEVICE)
    whole = x[:, :10, :18]
    run_tail(whole, weight, bias, levels, levels.clone(), pointer(16, 64, 16), not_finite=flag)
    assert int(flag) == flagged
