"""The derivatives of norm_act and of its gradient, in our kernels, against autograd in fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import assert_matches
from deblurgan import reference
from deblurgan.kernels.config import (
    NormActInputs,
    PaddedGradient,
    Reduced,
)
from kernel_cases import (
    each_dtype,
    nchw,
    normal,
    poison,
)

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels import norm_act_double_backward as double_backward_module
from deblurgan.kernels.norm_act_double_backward import norm_act_double_backward, norm_act_tangent
from deblurgan.kernels.norm_act_grad import norm_act_grad, norm_act_reduce
from deblurgan.kernels.tile_stats import plane_stats

pytestmark = pytest.mark.usefixtures("seeded")


@each_dtype
@pytest.mark.parametrize("leak", [0.0, reference.SLOPE])
def test_gradient_where_a_plane_is_constant(leak: float, dtype: torch.dtype) -> None:
    """Each pixel is then exactly at the activation's corner, where the slope is that below it."""
    y = normal(2, 1, 1, 24).expand(-1, 3, 5, -1).to(dtype).contiguous()
    g, out = normal(*y.shape, dtype=dtype), poison(*y.shape, dtype=dtype)
    inputs = NormActInputs(y, plane_stats(y, eps=reference.EPS), leak)
    norm_act_grad(g, inputs, norm_act_reduce(g, inputs), PaddedGradient.unpadded(out))
    wanted = leak * (g.double() - g.double().mean((1, 2), keepdim=True)) * reference.EPS**-0.5
    assert_matches(out, wanted)


DOUBLE_BACKWARDS = {
    "odd": (2, 5, 7, 24, 0.0),
    "many channels": (1, 3, 5, 300, 0.0),
    "programs of several blocks": (1, 20, 21, 64, 0.0),
    "large means": (2, 7, 9, 16, 50.0),
    "three pixels": (2, 1, 3, 16, 0.0),
    "one pixel": (2, 1, 1, 16, 0.0),
}


@each_dtype
@pytest.mark.parametrize(("n", "h", "w", "c", "mean"), DOUBLE_BACKWARDS.values(), ids=DOUBLE_BACKWARDS.keys())
def test_norm_act_double_backward(
    n: int, h: int, w: int, c: int, mean: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(double_backward_module, "TILES", 7)
    y, (v, e, t) = (normal(n, h, w, c) + mean).to(dtype), (normal(n, h, w, c, dtype=dtype) for _ in range(3))
    exact = nchw(y).double().requires_grad_()
    result = reference.norm_act(exact, act="leaky_relu")
    (back,) = torch.autograd.grad(result, exact, nchw(e).double(), create_graph=True)
    (second,) = torch.autograd.grad((result * nchw(v)).sum() + (back * nchw(t)).sum(), exact)
    tangent = torch.func.jvp(leaky, (nchw(y).double(),), (nchw(t).double(),))[1]

    inputs = NormActInputs(y, plane_stats(y, eps=reference.EPS), reference.SLOPE)
    signal, along, out = (poison(n, h, w, c, dtype=dtype) for _ in range(3))
    signal_sums = norm_act_reduce(e, inputs)
    norm_act_grad(e, inputs, signal_sums, PaddedGradient.unpadded(signal))
    tangent_sums = norm_act_reduce(t, inputs._replace(slope=1.0))
    norm_act_tangent(t, inputs, tangent_sums, along)
    assert_matches(nchw(signal), back, name="signal")
    assert_matches(nchw(along), tangent, name="tangent")
    pairs = {"signal": Reduced(signal, signal_sums), "tangent": Reduced(along, tangent_sums)}
    norm_act_double_backward(v, inputs, out=out, eps=reference.EPS, **pairs)
    assert_matches(nchw(out), second)
    norm_act_double_backward(v, inputs, out=v, eps=reference.EPS, **pairs)
    assert torch.equal(v, out), "in place"


def leaky(y: Tensor) -> Tensor:
    """norm_act with LeakyReLU of y [n, c, h, w], in operations that know tangents."""
    centred = y - y.mean((2, 3), keepdim=True)
    variance = centred.square().mean((2, 3), keepdim=True)
    return F.leaky_relu(centred * (variance + reference.EPS).rsqrt(), reference.SLOPE)
