"""Back through norm_act, in our kernels, against autograd in fp64."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from conftest import KERNEL_DEVICE, assert_matches
from deblurgan import reference
from deblurgan.kernels.config import Dropout, NormActInputs
from deblurgan.ops import conv_grad
from kernel_cases import each_dtype, nchw, nhwc, norm_act_with_dropout, normal

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels.norm_act_grad import norm_act_grad, norm_act_reduce

pytestmark = pytest.mark.usefixtures("few_programs")


class Norm(NamedTuple):
    n: int
    c: int
    h: int
    w: int
    relu: bool = True
    fold: int = 0
    extra: bool = False
    total: bool = False
    border: int = 1
    shared: bool = False
    drop: float = 0.0
    mean: float = 0.0

    @property
    def slope(self) -> float:
        return 0.0 if self.relu else 1.0


NORMS = {
    "plain": Norm(2, 24, 5, 7),
    "no relu, rows of several programs": Norm(1, 48, 3, 130, relu=False, border=2),
    "folded": Norm(2, 16, 5, 7, fold=1, border=2, shared=True),
    "folded by 3, rows of several programs": Norm(1, 48, 5, 70, fold=3),
    "folded where the mirrors overlap": Norm(2, 16, 2, 3, fold=1, border=0),
    "folded by 3, as small as it may be": Norm(1, 16, 4, 5, fold=3),
    "of three pixels": Norm(2, 16, 1, 3, relu=False),
    "residual": Norm(2, 16, 4, 5, relu=False, extra=True, total=True),
    "residual, folded": Norm(2, 24, 3, 5, relu=False, fold=1, extra=True, total=True, border=2, shared=True),
    "folded sum kept": Norm(1, 16, 4, 4, fold=1, total=True),
    "dropout": Norm(2, 16, 4, 5, drop=0.5),
    "dropout, folded": Norm(2, 24, 3, 7, fold=1, drop=0.3, border=2, shared=True),
    "large means": Norm(2, 16, 7, 9, mean=50.0),
}


@each_dtype
@pytest.mark.parametrize("case", NORMS.values(), ids=NORMS.keys())
def test_gradient_of_norm_act(case: Norm, dtype: torch.dtype, poisoned: None) -> None:
    n, c, h, w = case.n, case.c, case.h, case.w
    y = (torch.randn(n, c, h, w) + case.mean).to(KERNEL_DEVICE, dtype)
    exact = y.double().requires_grad_()
    counter = torch.tensor([7, 5], device=KERNEL_DEVICE) if case.drop else None
    g = normal(n, c, h + 2 * case.fold, w + 2 * case.fold, dtype=dtype)
    extra = normal(n, c, h, w, dtype=dtype)
    received = torch.zeros_like(exact).requires_grad_()
    whole = reference.pad(received, case.fold, "reflect") if case.fold else received
    (whole * g.double()).sum().backward()
    assert received.grad is not None
    total = received.grad + (extra.double() if case.extra else 0)
    upper = total.to(dtype).double() if case.total else total
    norm_act_with_dropout(exact, "relu" if case.relu else "none", case.drop, counter).backward(upper)

    variance, mean = torch.var_mean(y.double(), (2, 3), unbiased=False)
    stats = torch.stack([mean, (variance + reference.EPS).rsqrt()], 1).float()
    whole = nhwc(g).contiguous()
    inside = whole[:, case.fold : case.fold + h, case.fold : case.fold + w]
    dropout = Dropout(case.drop, counter, 3) if counter is not None else None
    inputs = NormActInputs(nhwc(y).contiguous(), stats, case.slope, dropout)
    more = nhwc(extra).contiguous() if case.extra else None
    summed = more if case.extra else torch.empty_like(inputs.y) if case.total else None
    sums = norm_act_reduce(inside, inputs, width=case.fold, extra=more, total=summed)
    if summed is not None:
        assert_matches(nchw(summed), total, name="sum")
    amid = conv_grad.padded_gradient(torch.Size((n, h, w, c)), border=case.border, shared=case.shared, like=y)
    source, width = (inside, case.fold) if summed is None else (summed, 0)
    norm_act_grad(source, inputs, sums, amid, width=width)
    assert exact.grad is not None
    assert_matches(nchw(amid.inside), exact.grad)
    amid.inside.zero_()
    assert not amid.memory.any(), "the border is not zero"


@each_dtype
def test_constant_planes_have_finite_gradients(dtype: torch.dtype) -> None:
    y = normal(2, 1, 1, 16, dtype=dtype).expand(-1, 3, 5, -1).contiguous()
    stats = torch.stack([y[:, 0, 0].float(), torch.full((2, 16), reference.EPS, device=KERNEL_DEVICE).rsqrt()], 1)
    g = normal(2, 3, 5, 16, dtype=dtype)
    out = conv_grad.padded_gradient(y.shape, border=1, like=y)
    for relu in (True, False):
        inputs = NormActInputs(y, stats, 0.0 if relu else 1.0)
        norm_act_grad(g, inputs, norm_act_reduce(g, inputs), out)
        inside = out.inside.double()
        wanted = torch.zeros_like(inside) if relu else (g.double() - g.double().mean((1, 2), keepdim=True))
        assert_matches(inside.to(dtype), wanted * reference.EPS**-0.5 if not relu else wanted)
