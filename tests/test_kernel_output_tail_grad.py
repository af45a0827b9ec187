"""Back through output_tail, in our kernel, against autograd in fp64."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from conftest import KERNEL_DEVICE, assert_matches
from deblurgan.kernels.config import PaddedGradient
from kernel_cases import each_dtype, nchw, normal, poison

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels.output_tail_grad import output_tail_grad


class Tail(NamedTuple):
    n: int
    c: int
    h: int
    w: int
    width: int


@pytest.mark.parametrize(
    "case", [Tail(2, 3, 5, 7, 3), Tail(1, 3, 3, 130, 6), Tail(1, 1, 1, 2, 1), Tail(2, 8, 2, 3, 3)], ids=str
)
@each_dtype
def test_gradient_of_output_tail(case: Tail, dtype: torch.dtype, poisoned: None) -> None:
    shape = (case.n, case.c, case.h, case.w)
    z = normal(*shape).double().requires_grad_()
    image = (torch.rand(shape) * 2 - 1).to(KERNEL_DEVICE)[..., torch.randperm(case.w)]
    tanh = torch.tanh(z.detach()).float()
    image[0, 0, 0, 0] = 1 - tanh[0, 0, 0, 0]  # at the bound, where the gradient passes
    z_at_bound = (image + tanh).abs() <= 1
    g = normal(case.n, case.h, case.w, case.c).permute(0, 3, 1, 2)
    ((torch.tanh(z) * z_at_bound).clamp(-2, 2) * g.double()).sum().backward()
    assert z.grad is not None
    assert z_at_bound.any() and (case.h * case.w < 9 or not z_at_bound.all())
    b = case.width
    out = poison(case.n, case.h + 2 * b, case.w + 2 * b + 1, 8, dtype=dtype)
    inside = out[:, b : b + case.h, b : b + case.w, : case.c]
    padded = PaddedGradient(out.flatten(0, 1), out.shape[1], b, b, inside, out)
    bias = output_tail_grad(g, image, tanh, padded)
    assert_matches(nchw(inside), z.grad)
    assert_matches(bias, z.grad.sum((0, 2, 3)), name="bias's gradient")
    inside.zero_()
    assert not out.any(), "the border is not zero"
