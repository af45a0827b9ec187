"""The gradients of convolutions, by our kernels and by the library, against autograd in fp64."""

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
    Dropout,
    Gate,
    NormActInputs,
    PackedWeight,
    PaddedGradient,
    TileStats,
)
from deblurgan.ops import conv_grad
from deblurgan.ops.conv_grad import Convolution
from deblurgan.ops.layers import trunk_layers
from kernel_cases import each_dtype, flat, nchw, nhwc, norm_act_with_dropout, normal, pointer, poison, supported

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels import conv_wgrad as conv_wgrad_module
from deblurgan.kernels.conv_stats import conv_stats
from deblurgan.kernels.conv_wgrad import conv_wgrad, split_count
from deblurgan.kernels.norm_act_grad import norm_act_reduce

pytestmark = pytest.mark.usefixtures("few_programs")


class Conv(NamedTuple):
    kind: str
    n: int
    c: int
    k: int
    h: int  # of the input
    w: int
    border: reference.Border = "zero"
    dgrad: ConvConfig | None = None
    wgrad: ConvConfig | None = None

    def convolution(self, weight: Tensor) -> Convolution:
        return Convolution(self.kind, weight, self.border)


OURS = {"dgrad": pointer(16, 16, 16), "wgrad": pointer(16, 16, 16)}
CONVS = {
    "trunk": Conv("trunk", 2, 24, 16, 5, 7, **OURS),
    "trunk, reflect": Conv("trunk", 2, 16, 24, 3, 5, "reflect", **OURS),
    "trunk, 2x2, reflect": Conv("trunk", 2, 16, 16, 2, 2, "reflect", **OURS),
    "trunk, one pixel": Conv("trunk", 2, 16, 16, 1, 1, **OURS),
    "trunk, library": Conv("trunk", 2, 8, 16, 5, 4),
    "trunk, reflect, library": Conv("trunk", 2, 8, 16, 3, 5, "reflect"),
    "trunk, reflect, library and ours": Conv("trunk", 2, 16, 16, 3, 5, "reflect", wgrad=pointer(16, 16, 32)),
    "trunk, ours and library": Conv("trunk", 1, 16, 16, 4, 3, dgrad=pointer(16, 16, 16)),
    "trunk, tma": Conv("trunk", 2, 32, 16, 5, 7, dgrad=flat(16, 32, 16), wgrad=flat(16, 32, 16)),
    "trunk, reflect, tma": Conv("trunk", 2, 32, 16, 3, 5, "reflect", flat(16, 16, 16), flat(16, 32, 16)),
    "trunk, reflect, tma, long sums": Conv("trunk", 3, 16, 16, 2, 3, "reflect", flat(64, 16, 16), flat(16, 16, 64)),
    "trunk, reflect, tma and pointer": Conv("trunk", 2, 16, 16, 4, 2, "reflect", flat(16, 16, 16), pointer(16, 16, 16)),
    "trunk, reflect, pointer and tma": Conv("trunk", 2, 16, 16, 4, 2, "reflect", pointer(16, 16, 16), flat(16, 16, 16)),
    "down": Conv("down", 2, 16, 24, 6, 4, **OURS),
    "down, library": Conv("down", 1, 8, 16, 4, 6),
    "up": Conv("up", 2, 24, 16, 3, 4, **OURS),
    "up, library": Conv("up", 1, 16, 8, 2, 3),
    "stem": Conv("stem", 2, 3, 16, 5, 6, wgrad=pointer(16, 64, 16)),
    "stem, one channel": Conv("stem", 1, 1, 16, 9, 8, wgrad=pointer(16, 32, 32)),
    "stem, library": Conv("stem", 1, 3, 8, 4, 5),
    "head": Conv("head", 2, 16, 3, 5, 6, dgrad=pointer(32, 16, 32), wgrad=pointer(16, 64, 32)),
    "head, reflect": Conv("head", 2, 24, 3, 4, 5, "reflect", pointer(32, 32, 32), pointer(32, 32, 16)),
    "head, library": Conv("head", 1, 8, 3, 4, 5, "reflect"),
}


def bordered(x: Tensor, width: int, border: reference.Border) -> Tensor:
    """x [n, c, h, w] as [n, h + 2 width, w + 2 width, c], contiguous."""
    return nhwc(reference.pad(x, width, border)).contiguous()


def padded(case: Conv, dy: Tensor, weight: Tensor) -> PaddedGradient:
    """dy [n, k, h, w] where the case's gradients read it, zeros around."""
    n, k, h, w = dy.shape
    if case.kind == "head":
        b = 6 if case.border == "reflect" else 3
        whole = torch.zeros(n, h + 2 * b, w + 2 * b + 1, 4, dtype=dy.dtype, device=dy.device)
        inside = whole[:, b : b + h, b : b + w]
        inside[..., :k] = nhwc(dy)
        return PaddedGradient(whole.flatten(0, 1), h + 2 * b, b, b, inside, whole)
    configs = conv_grad.fitting_configs(weight, case.dgrad, case.wgrad)
    assert configs == (case.dgrad, case.wgrad)
    gradient = conv_grad.output_gradient(case.convolution(weight), configs, torch.Size((n, h, w, k)), like=dy)
    gradient.memory.zero_()
    gradient.inside.copy_(nhwc(dy))
    return gradient


@each_dtype
@pytest.mark.parametrize("case", CONVS.values(), ids=CONVS.keys())
def test_gradients_of_a_convolution(case: Conv, dtype: torch.dtype, poisoned: None) -> None:
    supported(case.dgrad)
    supported(case.wgrad)
    kind, size = case.kind, 7 if case.kind in ("stem", "head") else 3
    x = normal(case.n, case.c, case.h, case.w, dtype=dtype)
    shape = (case.c, case.k) if kind == "up" else (case.k, case.c)
    weight = normal(*shape, size, size) / math.sqrt(size * size * case.c)
    rounded = weight.to(dtype).double().requires_grad_()
    exact = reference.pad(x.double(), size // 2, case.border).requires_grad_()
    if kind == "up":
        y = F.conv_transpose2d(exact[:, :, 1:-1, 1:-1], rounded, stride=2, padding=1, output_padding=1)
    else:
        y = F.conv2d(exact, rounded, stride=2 if kind == "down" else 1)
    dy = normal(*y.shape, dtype=dtype)
    y.backward(dy.double())
    assert exact.grad is not None and rounded.grad is not None
    amid = padded(case, dy, weight)
    if kind == "stem":
        whole = torch.zeros(case.n, case.h + 6, case.w + 7, 4, dtype=dtype, device=KERNEL_DEVICE)
        whole[:, :, :-1, : case.c] = bordered(x, 3, case.border)
    else:
        whole = bordered(x, size // 2, case.border)
    conv = case.convolution(weight)
    got = conv_grad.weight_gradient(conv, whole, amid, config=case.wgrad)
    assert_matches(got, rounded.grad, name="weight's gradient", table=OP_TOLERANCE)
    if kind == "stem":
        return
    got = conv_grad.input_gradient(conv, whole, amid, config=case.dgrad)
    wanted = exact.grad
    if case.border == "zero":
        wanted = wanted[:, :, size // 2 : -(size // 2), size // 2 : -(size // 2)]
    assert got.stride(3) == 1
    assert got.stride(2) == got.shape[3]
    assert_matches(nchw(got), wanted, name="picture's gradient", table=OP_TOLERANCE)
    if case.dgrad is None:
        return
    gated, sums = conv_grad.activation_gradient(conv, whole, amid, config=case.dgrad, dropout_scale=1.5)
    assert torch.equal(gated, got)
    edge = 0 if case.border == "reflect" else size // 2
    active = whole[:, edge : whole.shape[1] - edge, edge : whole.shape[2] - edge].double().clamp(min=0)
    passed = torch.stack([1.5 * (active > 0) * gated, active * gated], 1).sum((2, 3))
    assert_matches(sums, passed, name="sums")


class Activation(NamedTuple):
    conv: Conv
    drop: float = 0.0


ACTIVATIONS = {
    "trunk, reflect, dropout": Activation(Conv("trunk", 2, 16, 16, 3, 5, "reflect", **OURS), 0.3),
    "trunk, dropout, tma": Activation(Conv("trunk", 2, 16, 16, 4, 3, "zero", flat(16, 16, 16), flat(16, 16, 16)), 0.5),
    "head, reflect": Activation(Conv("head", 1, 16, 3, 4, 5, "reflect", pointer(32, 32, 32), pointer(32, 32, 16))),
    "down": Activation(Conv("down", 2, 16, 24, 4, 4, **OURS)),
}


@each_dtype
@pytest.mark.parametrize("case", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_convolutions_take_the_sums_of_norm_act_reduce(case: Activation, dtype: torch.dtype, poisoned: None) -> None:
    (kind, n, c, k, h, w, border, dgrad, _), size = case.conv, 7 if case.conv.kind == "head" else 3
    supported(dgrad)
    edge = size // 2
    y = normal(n, c, h, w, dtype=dtype)
    variance, mean = torch.var_mean(y.double(), (2, 3), unbiased=False)
    stats = torch.stack([mean, (variance + reference.EPS).rsqrt()], 1).float()
    counter = torch.tensor([7, 5], device=KERNEL_DEVICE) if case.drop else None
    x = bordered(norm_act_with_dropout(y.double(), "relu", case.drop, counter).to(dtype), edge, border)
    weight = normal(k, c, size, size) / size
    small = 2 if kind == "down" else 1
    amid = padded(case.conv, normal(n, k, h // small, w // small, dtype=dtype), weight)
    assert dgrad is not None
    scale = 1 / (1 - case.drop)
    gx, sums = conv_grad.activation_gradient(case.conv.convolution(weight), x, amid, config=dgrad, dropout_scale=scale)
    width = edge if border == "reflect" else 0
    inside = gx[:, width : width + h, width : width + w]
    inputs = NormActInputs(nhwc(y).contiguous(), stats, 0.0, Dropout(case.drop, counter, 3) if case.drop else None)
    wanted = norm_act_reduce(inside, inputs, width=width)
    assert relative_error(sums, wanted) <= OP_TOLERANCE[dtype]


def test_gates_must_be_laid_out_as_the_gradient_is() -> None:
    x, weight, y = normal(1, 5, 5, 16), PackedWeight(normal(16, 9 * 16), (3, 3)), poison(1, 3, 3, 16)
    partials, config = poison(1, 1, 2, 16), pointer(16, 16, 16)
    for activations in (x[:, 1:-1, 1:-1], y.half()):
        with pytest.raises(ValueError, match="gate must be laid out as y is"):
            conv_stats(x, weight, y, gate=Gate(activations, partials), config=config)
    with pytest.raises(ValueError, match="stats must be None where there is a gate"):
        conv_stats(x, weight, y, TileStats(partials, poison(1)), gate=Gate(y, partials), config=config)


@each_dtype
def test_trunk_is_packed_together(dtype: torch.dtype) -> None:
    weights = [normal(24, 16, 3, 3) for _ in range(3)]
    for i, layer in enumerate(trunk_layers(weights, dtype)):
        assert torch.equal(layer.weight.rows, weights[i].permute(0, 2, 3, 1).flatten(1).to(dtype))
        assert torch.equal(layer.library, weights[i].to(dtype))
        assert layer.weight.taps == (3, 3)
    for i, layer in enumerate(conv_grad.trunk_adjoints(weights, dtype)):
        alone = conv_grad.adjoint_layer(Convolution("trunk", weights[i], "zero"), dtype)
        assert torch.equal(layer.weight.rows, alone.weight.rows)
        assert torch.equal(layer.library, alone.library)
        assert (layer.kind, layer.weight.taps, layer.weight.stride) == (alone.kind, (3, 3), 1)
    assert trunk_layers([], dtype) == conv_grad.trunk_adjoints([], dtype) == []


@each_dtype
@pytest.mark.parametrize("form", ["pointer", "tma"])
def test_sums_are_split(form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program writes all of its part, the same each time."""
    monkeypatch.setattr(conv_wgrad_module, "launched_warps", lambda device: 108)
    config = ConvConfig(16, 16, 16, form=form)
    supported(config)
    case = Conv("trunk", 2, 16, 16, 3, 5, "reflect", config, config)
    weight = normal(16, 16, 3, 3)
    amid = padded(case, normal(2, 16, 3, 5, dtype=dtype), weight)
    x = normal(2, 5, 7, 16, dtype=dtype)
    splits = split_count(amid.inside, 16, (3, 3), config)
    assert splits > 1
    partials = poison(splits, 16, 9 * 16)
    conv_wgrad(x, amid.inside, partials, taps=(3, 3), config=config)
    assert partials.isfinite().all()
    again = poison(splits, 16, 9 * 16)
    conv_wgrad(x, amid.inside, again, taps=(3, 3), config=config)
    assert torch.equal(partials, again)


def test_flat_sums_refuse_what_they_cannot_do() -> None:
    config = flat(16, 16, 16)
    x, dy = normal(1, 6, 6, 16), normal(1, 4, 4, 16)
    partials = poison(1, 16, 9 * 16)
    with pytest.raises(ValueError, match="tma needs x and dy to lie alike"):
        conv_wgrad(x, dy, partials, taps=(3, 3), config=config)
    with pytest.raises(ValueError, match="tma needs 3x3 taps"):
        conv_wgrad(x, dy, partials, taps=(3, 3), stride=2, config=config)
    with pytest.raises(ValueError, match="tma needs 3x3 taps"):
        conv_wgrad(x, dy, poison(1, 16, 9 * 24), taps=(3, 3), config=config)
