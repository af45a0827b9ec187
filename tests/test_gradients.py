"""The backward kernels and the tape against autograd in fp64, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import (
    KERNEL_DEVICE,
    KERNEL_DTYPES,
    NET_TOLERANCE,
    OP_TOLERANCE,
    assert_matches,
    lively,
    relative_error,
    textures,
)
from deblurgan import ops, reference
from deblurgan.generator import tape
from deblurgan.kernels.table import Choose
from deblurgan.nn import Generator
from deblurgan.ops import convolution

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels import conv_wgrad as conv_wgrad_module
from deblurgan.kernels import merge_stats
from deblurgan.kernels import norm_act_grad as norm_act_grad_module
from deblurgan.kernels.conv_stats import ConvConfig, conv_stats
from deblurgan.kernels.conv_wgrad import conv_wgrad, split_count
from deblurgan.kernels.norm_act_grad import norm_act_grad, norm_act_reduce
from deblurgan.kernels.output_tail_grad import output_tail_grad

each_dtype = pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each program costs the interpreter the same, however much it does."""
    torch.manual_seed(0)
    if KERNEL_DEVICE.type == "cpu":
        monkeypatch.setattr(merge_stats, "BLOCK_C", 64)
        monkeypatch.setattr(merge_stats, "BLOCK_TILES", 32)
        monkeypatch.setattr(norm_act_grad_module, "TILES", 4)
        monkeypatch.setattr(conv_wgrad_module, "WARPS", 4)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(KERNEL_DEVICE, dtype)


def poison(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, math.nan, dtype=dtype, device=KERNEL_DEVICE)


def nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def supported(config: ConvConfig | None) -> None:
    if config and config.form == "tma" and KERNEL_DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("tma needs compute capability 9.0")


def pointer(block_m: int, block_n: int, block_k: int) -> ConvConfig:
    return ConvConfig(block_m, block_n, block_k)


def flat(block_m: int, block_n: int, block_k: int) -> ConvConfig:
    return ConvConfig(block_m, block_n, block_k, form="tma")


class Conv(NamedTuple):
    kind: str
    n: int
    c: int
    k: int
    h: int  # of what it reads
    w: int
    border: reference.Border = "zero"
    dgrad: ConvConfig | None = None
    wgrad: ConvConfig | None = None


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


def gradient_memory(case: Conv, dy: Tensor, weight: Tensor) -> convolution.AmidZeros:
    """dy [n, k, h, w] where the case's gradients read it, zeros around."""
    n, k, h, w = dy.shape
    if case.kind == "head":
        b = 6 if case.border == "reflect" else 3
        whole = torch.zeros(n, h + 2 * b, w + 2 * b + 1, 8, dtype=dy.dtype, device=dy.device)
        inside = whole[:, b : b + h, b : b + w]
        inside[..., :k] = nhwc(dy)
        return convolution.AmidZeros(whole.flatten(0, 1), h + 2 * b, b, b, inside, whole)
    configs = convolution.fitting_gradients(weight, case.dgrad, case.wgrad)
    assert configs == (case.dgrad, case.wgrad)
    made = convolution.zeros_for(
        case.kind, case.border, dgrad=case.dgrad, wgrad=case.wgrad, shape=torch.Size((n, h, w, k)), like=dy
    )
    made.memory.zero_()
    made.inside.copy_(nhwc(dy))
    return made


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
    amid = gradient_memory(case, dy, weight)
    if kind == "stem":
        whole = torch.zeros(case.n, case.h + 6, case.w + 7, 8, dtype=dtype, device=KERNEL_DEVICE)
        whole[:, :, :-1, : case.c] = bordered(x, 3, case.border)
    else:
        whole = bordered(x, size // 2, case.border)
    got = convolution.weight_gradient(kind, weight, whole, amid, config=case.wgrad, tf32=False)
    assert_matches(got, rounded.grad, name="weight's gradient", table=OP_TOLERANCE)
    if kind == "stem":
        return
    got = convolution.data_gradient(kind, weight, whole, amid, border=case.border, config=case.dgrad, tf32=False)
    wanted = exact.grad
    if case.border == "zero":
        wanted = wanted[:, :, size // 2 : -(size // 2), size // 2 : -(size // 2)]
    assert got.stride(3) == 1
    assert got.stride(2) == got.shape[3]
    assert_matches(nchw(got), wanted, name="picture's gradient", table=OP_TOLERANCE)
    if case.dgrad is None:
        return
    made, sums = convolution.activation_gradient(
        kind, weight, whole, amid, border=case.border, config=case.dgrad, tf32=False, kept=1.5
    )
    assert torch.equal(made, got)
    edge = 0 if case.border == "reflect" else size // 2
    active = whole[:, edge : whole.shape[1] - edge, edge : whole.shape[2] - edge].double().clamp(min=0)
    passed = torch.stack([1.5 * (active > 0) * made, active * made], 1).sum((2, 3))
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
    norm = Norm(n, c, h, w, drop=case.drop)
    x = bordered(normed(y.double(), norm, counter).to(dtype), edge, border)
    weight = normal(k, c, size, size) / size
    small = 2 if kind == "down" else 1
    amid = gradient_memory(case.conv, normal(n, k, h // small, w // small, dtype=dtype), weight)
    gx, sums = convolution.activation_gradient(
        kind, weight, x, amid, border=border, config=dgrad, tf32=False, kept=1 / (1 - case.drop)
    )
    width = edge if border == "reflect" else 0
    inside = gx[:, width : width + h, width : width + w]
    options: dict[str, Any] = {"relu": True, "drop": case.drop, "counter": counter, "stream": 3}
    wanted = norm_act_reduce(inside, nhwc(y).contiguous(), stats, width=width, **options)
    assert relative_error(sums, wanted) <= OP_TOLERANCE[dtype]


def test_gates_must_lie_as_the_result_does() -> None:
    x, weight, y = normal(1, 5, 5, 16), normal(16, 9 * 16), poison(1, 3, 3, 16)
    partials, counts = poison(1, 1, 2, 16), poison(1)
    options: dict[str, Any] = {"taps": (3, 3), "config": pointer(16, 16, 16)}
    with pytest.raises(ValueError, match="gate must lie as y does"):
        conv_stats(x, weight, y, partials, None, gate=x[:, 1:-1, 1:-1], **options)
    with pytest.raises(ValueError, match="gate must lie as y does"):
        conv_stats(x, weight, y, partials, None, gate=y.half(), **options)
    for wrong in ((None, None), (partials, counts)):
        with pytest.raises(ValueError, match="gate needs partials without counts"):
            conv_stats(x, weight, y, *wrong, gate=y, **options)


@each_dtype
def test_trunk_is_packed_together(dtype: torch.dtype) -> None:
    weights = [normal(24, 16, 3, 3) for _ in range(3)]
    for i, layer in enumerate(convolution.trunk_layers(weights, dtype)):
        assert torch.equal(layer.packed, weights[i].permute(0, 2, 3, 1).flatten(1).to(dtype))
        assert torch.equal(layer.library, weights[i].to(dtype))
        assert layer.taps == ((3, 3),)
    for i, layer in enumerate(convolution.trunk_adjoints(weights, dtype)):
        alone = convolution.adjoint("trunk", weights[i], dtype)
        assert torch.equal(layer.packed, alone.packed)
        assert torch.equal(layer.library, alone.library)
        assert (layer.kind, layer.taps, layer.stride) == (alone.kind, alone.taps, alone.stride)
    assert convolution.trunk_layers([], dtype) == convolution.trunk_adjoints([], dtype) == []


@each_dtype
@pytest.mark.parametrize("form", ["pointer", "tma"])
def test_sums_are_split(form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program writes all of its part, the same each time."""
    monkeypatch.setattr(conv_wgrad_module, "WARPS", 108)
    config = ConvConfig(16, 16, 16, form=form)
    supported(config)
    case = Conv("trunk", 2, 16, 16, 3, 5, "reflect", config, config)
    weight = normal(16, 16, 3, 3)
    amid = gradient_memory(case, normal(2, 16, 3, 5, dtype=dtype), weight)
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


def normed(y: Tensor, case: Norm, counter: Tensor | None) -> Tensor:
    result = reference.norm_act(y, act="relu" if case.relu else "none")
    if counter is not None:
        kept = ops.dropout_mask(list(y.shape), case.drop, counter, 3)
        result = result * kept / (1 - case.drop)
    return result


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
    normed(exact, case, counter).backward(upper)

    variance, mean = torch.var_mean(y.double(), (2, 3), unbiased=False)
    stats = torch.stack([mean, (variance + reference.EPS).rsqrt()], 1).float()
    lies = nhwc(g).contiguous()
    inside = lies[:, case.fold : case.fold + h, case.fold : case.fold + w]
    options: dict[str, Any] = {"relu": case.relu, "drop": case.drop, "counter": counter, "stream": 3}
    rows = nhwc(y).contiguous()
    more = nhwc(extra).contiguous() if case.extra else None
    kept = more if case.extra else torch.empty(n, h, w, c, dtype=dtype, device=KERNEL_DEVICE) if case.total else None
    sums = norm_act_reduce(inside, rows, stats, width=case.fold, extra=more, total=kept, **options)
    if kept is not None:
        assert_matches(nchw(kept), total, name="sum")
    amid = convolution.amid_zeros(n, h, w, c, border=case.border, shared=case.shared, dtype=dtype, device=KERNEL_DEVICE)
    place = {"rows": amid.rows, "top": amid.top, "left": amid.left}
    source, width = (inside, case.fold) if kept is None else (kept, 0)
    norm_act_grad(source, rows, stats, sums, amid.memory, width=width, **place, **options)
    assert exact.grad is not None
    assert_matches(nchw(amid.inside), exact.grad)
    amid.inside.zero_()
    assert not amid.memory.any(), "the border is not zero"


@each_dtype
def test_constant_planes_have_finite_gradients(dtype: torch.dtype) -> None:
    y = normal(2, 1, 1, 16, dtype=dtype).expand(-1, 3, 5, -1).contiguous()
    stats = torch.stack([y[:, 0, 0].float(), torch.full((2, 16), reference.EPS, device=KERNEL_DEVICE).rsqrt()], 1)
    g = normal(2, 3, 5, 16, dtype=dtype)
    out = poison(2 * 5, 7, 16, dtype=dtype)
    place = {"rows": 5, "top": 1, "left": 1}
    for relu in (True, False):
        sums = norm_act_reduce(g, y, stats, relu=relu)
        norm_act_grad(g, y, stats, sums, out, relu=relu, **place)
        inside = out.view(2, 5, 7, 16)[:, 1:-1, 1:-1].double()
        wanted = torch.zeros_like(inside) if relu else (g.double() - g.double().mean((1, 2), keepdim=True))
        assert_matches(inside.to(dtype), wanted * reference.EPS**-0.5 if not relu else wanted)


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
    bias = output_tail_grad(g, image, tanh, out, width=b)
    inside = out[:, b : b + case.h, b : b + case.w, : case.c]
    assert_matches(nchw(inside), z.grad)
    assert_matches(bias, z.grad.sum((0, 2, 3)), name="bias's gradient")
    inside.zero_()
    assert not out.any(), "the border is not zero"


HEAD = ConvConfig(64, 32, 16)


def ours(kind: str, pixels: int, dtype: torch.dtype) -> ConvConfig:
    return HEAD if kind == "head" else ConvConfig(128, 64, 64)


def flat_trunk(kind: str, pixels: int, dtype: torch.dtype) -> ConvConfig:
    return ConvConfig(32, 32, 32, form="tma") if kind.startswith("trunk") else ours(kind, pixels, dtype)


def library(kind: str, pixels: int, dtype: torch.dtype) -> ConvConfig | None:
    return HEAD if kind == "head" else None


def net(preset: str = "paper", **options: Any) -> Generator:
    torch.manual_seed(0)
    return lively(Generator(preset, **{"width": 8, "blocks": 1, **options})).train()


def pictures(n: int, h: int, w: int) -> Tensor:
    """[n, 3, h, w] in [-1, 1] with texture."""
    return textures(n, h, w).float() / 127.5 - 1


COUNTER = torch.tensor([11, 4], device=KERNEL_DEVICE)
Gradients = dict[str, Tensor]


def reference_gradients(generator: Generator, x: Tensor, dtype: torch.dtype) -> Gradients:
    """Of a weighted sum of the result: every optimised parameter's, and the picture's."""
    plain = deepcopy(generator).to(dtype)
    plain.backend = "reference"
    image = x.to(dtype).requires_grad_()
    out = plain(image, counter=COUNTER if generator.spec.dropout else None)
    (out * weights_of(out)).sum().backward()
    idle = plain.idle_biases()
    found = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None and name not in idle}
    assert image.grad is not None
    return {"image": image.grad, **found}


def weights_of(out: Tensor) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randn(out.shape, generator=random).to(out)


def tape_gradients(generator: Generator, x: Tensor, dtype: torch.dtype, choose: Choose) -> Gradients:
    parameters = dict(generator.named_parameters())
    image = x.clone().requires_grad_()
    counter = COUNTER if generator.spec.dropout else None
    out = tape.restore(generator.spec, parameters, image, dtype=dtype, counter=counter, choose=choose)
    names = [name for name in parameters if name not in generator.idle_biases()]
    grads = torch.autograd.grad((out * weights_of(out)).sum(), [image, *(parameters[name] for name in names)])
    return dict(zip(["image", *names], grads, strict=True))


class Net(NamedTuple):
    options: dict[str, Any]
    choose: Choose
    n: int
    h: int
    w: int


PAPER, ARTICLE = {"preset": "paper"}, {"preset": "article"}
NETS = {
    "paper, ours": Net({**PAPER, "width": 16}, ours, 1, 8, 12),
    "paper, tma": Net(PAPER, flat_trunk, 2, 12, 8),
    "paper, library": Net({**PAPER, "blocks": 2}, library, 1, 8, 20),
    "paper without dropout, ours": Net({**PAPER, "dropout": 0.0}, ours, 1, 8, 12),
    "article, ours": Net({**ARTICLE, "blocks": 2}, ours, 1, 8, 12),
    "article, tma": Net({**ARTICLE, "width": 16}, flat_trunk, 1, 8, 16),
    "article, library": Net({**ARTICLE, "width": 16}, library, 1, 8, 16),
    "no blocks": Net({**PAPER, "blocks": 0}, library, 2, 8, 8),
}


def errors(got: Gradients, wanted: Gradients) -> dict[str, float]:
    assert got.keys() == wanted.keys()
    return {name: relative_error(gradient, wanted[name]) for name, gradient in got.items()}


A_FLIP = 0.12  # relative error of a gradient after one ReLU of planes as small as these took the other side


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, dtype, id=f"{name}-{dtype}")
        for name, case in NETS.items()
        for dtype in (KERNEL_DTYPES[:1] if case.choose is library else KERNEL_DTYPES)
    ],
)
def test_tape_is_the_generator_s_gradient(case: Net, dtype: torch.dtype, poisoned: None) -> None:
    """fp32 within a network's tolerance. In half types a ReLU that flips decides, by either way."""
    if case.choose is flat_trunk:
        supported(flat(32, 32, 32))
    generator, x = net(**case.options), pictures(case.n, case.h, case.w)
    wanted = reference_gradients(generator, x, torch.float64)
    got = tape_gradients(generator, x, dtype, case.choose)
    assert all(gradient.dtype == torch.float32 for gradient in got.values())
    allowed = NET_TOLERANCE[torch.float32]
    if dtype != torch.float32:
        worst = max(errors(reference_gradients(generator, x, dtype), wanted).values())
        allowed = max(A_FLIP, 2 * worst)
    for name, error in errors(got, wanted).items():
        assert error <= allowed, f"{name}: relative error {error:.3g} above {allowed:.3g}"
        assert cosine(got[name], wanted[name]) >= 1 - allowed**2, name


def test_tape_gives_the_same_bits_again(poisoned: None) -> None:
    generator, x = net(), pictures(1, 8, 8)
    first, second = (tape_gradients(generator, x, torch.float32, ours) for _ in range(2))
    assert all(torch.equal(gradient, second[name]) for name, gradient in first.items())


def test_norms_of_convolutions_of_ours_need_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours take the sums for all norms but those of the residual stream, after down.1 and the block's second."""
    seen = []
    run = norm_act_reduce
    monkeypatch.setattr(norm_act_grad_module, "norm_act_reduce", lambda *a, **k: seen.append(a) or run(*a, **k))
    tape_gradients(net(), pictures(1, 8, 8), torch.float32, ours)
    assert len(seen) == 2


def test_tape_makes_what_is_wanted_alone() -> None:
    generator, x = net(), pictures(1, 8, 8)
    everything = tape_gradients(generator, x, torch.float32, library)
    generator.requires_grad_(False)
    generator.up[0].weight.requires_grad_()
    parameters = dict(generator.named_parameters())
    out = tape.restore(generator.spec, parameters, x, dtype=torch.float32, counter=COUNTER, choose=library)
    (out * weights_of(out)).sum().backward()
    found = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    assert found.keys() == {"up.0.weight"}
    assert torch.equal(found["up.0.weight"], everything["up.0.weight"])


def test_tape_of_half_parameters_and_pictures() -> None:
    generator, x = net(dropout=0.0), pictures(1, 8, 12)
    wanted = tape_gradients(generator.half(), x, torch.float32, library)
    assert wanted["stem.weight"].dtype == torch.float16
    assert wanted["image"].dtype == torch.float32
    half = tape_gradients(generator, x.half(), torch.float32, library)
    assert half["image"].dtype == torch.float16
    assert relative_error(half["head.weight"], wanted["head.weight"]) <= NET_TOLERANCE[torch.float16]


def test_gradients_have_no_gradient() -> None:
    generator, x = net(), pictures(1, 8, 8)
    parameters = dict(generator.named_parameters())
    image = x.requires_grad_()
    out = tape.restore(generator.spec, parameters, image, dtype=torch.float32, counter=COUNTER, choose=library)
    (first,) = torch.autograd.grad(out.sum(), image, create_graph=True)
    for source in (image, parameters["stem.weight"]):
        with pytest.raises(RuntimeError, match=r"once: set generator.backend = 'reference'"):
            torch.autograd.grad(first.square().sum(), source, retain_graph=True)


def saved_bytes(run: Callable[[], Tensor], known: set[int]) -> int:
    """Of the memory that autograd keeps, each part of it once, but for what is `known` by its address."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run()
    assert out.requires_grad
    return sum(size for address, size in kept.items() if address not in known)


@pytest.mark.parametrize("preset", ["paper", "article"])
def test_tape_keeps_at_most_half(preset: str) -> None:
    """Of each picture: what one more of them adds."""
    generator = net(preset, blocks=3, width=4)
    parameters = dict(generator.named_parameters())
    counter = COUNTER if generator.spec.dropout else None
    plain = deepcopy(generator)
    plain.backend = "reference"
    known = {p.untyped_storage().data_ptr() for net in (generator, plain) for p in net.parameters()}

    def fast(x: Tensor) -> Tensor:
        return tape.restore(generator.spec, parameters, x, dtype=torch.float32, counter=counter, choose=library)

    def more(run: Callable[[Tensor], Tensor]) -> int:
        one, two = (saved_bytes(partial(run, pictures(n, 16, 96)), known) for n in (1, 2))
        return two - one

    ours, eager = more(fast), more(lambda x: plain(x, counter=counter))
    assert ours <= eager / 2, f"{ours} bytes are more than half of {eager}"


def test_kept_is_freed_with_the_graph() -> None:
    generator, x = net(), pictures(1, 8, 8)
    out = tape.restore(
        generator.spec, dict(generator.named_parameters()), x, dtype=torch.float32, counter=COUNTER, choose=library
    )
    out.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        out.sum().backward()


def test_changed_weights_are_noticed() -> None:
    generator, x = net(), pictures(1, 8, 8)
    out = tape.restore(
        generator.spec, dict(generator.named_parameters()), x, dtype=torch.float32, counter=COUNTER, choose=library
    )
    with torch.no_grad():
        generator.stem.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.fixture
def fast(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators take the tape on the CPU too."""
    monkeypatch.setattr(tape, "choice", lambda gpu: library)


def trained(generator: Generator, x: Tensor, **options: Any) -> Gradients:
    generator.zero_grad()
    out = generator(x, **options)
    (out * weights_of(out)).sum().backward()
    return {name: p.grad for name, p in generator.named_parameters() if p.grad is not None}


def test_generator_takes_the_tape(fast: None) -> None:
    generator, x = net(), pictures(1, 8, 12)
    got = trained(generator, x, counter=COUNTER)
    assert got.keys() == {name for name, _ in generator.named_parameters()} - generator.idle_biases()
    generator.backend = "reference"
    plain = trained(generator, x, counter=COUNTER)
    assert plain.keys() > got.keys(), "plain torch gives idle biases a gradient too"
    for name, gradient in got.items():
        assert 0 < relative_error(gradient, plain[name]) <= NET_TOLERANCE[torch.float32], name


def test_tape_draws_dropout_as_plain_torch_does(fast: None) -> None:
    generator, x = net(width=4), pictures(1, 8, 8)
    by_seed = trained(generator, x, seed=3)
    assert all(torch.equal(gradient, by_seed[name]) for name, gradient in trained(generator, x, seed=3).items())
    again = trained(generator, x, seed=4)
    assert not torch.equal(again["head.weight"], by_seed["head.weight"])
    generator.eval()
    without = trained(generator, x)
    generator.backend = "reference"
    assert relative_error(without["head.weight"], trained(generator, x)["head.weight"]) <= NET_TOLERANCE[torch.float32]


def test_tape_computes_in_autocast_s_type(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    run = tape.Tape.forward
    monkeypatch.setattr(tape.Tape, "forward", lambda self, *args: seen.append(self.dtype) or run(self, *args))
    generator, x = net(dropout=0.0), pictures(1, 8, 8)
    with torch.autocast(KERNEL_DEVICE.type, torch.float16):
        out = generator(x)
    assert seen == [torch.float16]
    assert out.dtype == torch.float32
    out.sum().backward()
    assert generator.stem.weight.grad is not None
    assert generator.stem.weight.grad.dtype == torch.float32


def gpu(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.gpu(pytest.mark.skipif(KERNEL_DEVICE.type != "cuda", reason="torch sees no CUDA device")(test))


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("preset", ["paper", "article"])
def test_gpu_gradients_match_the_reference(preset: str, dtype: torch.dtype) -> None:
    generator, x = net(preset, width=64, blocks=2), pictures(2, 64, 96)
    wanted = reference_gradients(generator, x, torch.float64)
    worst = max(errors(reference_gradients(generator, x, dtype), wanted).values())
    with torch.autocast("cuda", dtype):
        assert generator.why_reference(x) is None
        got = trained(generator, x, counter=COUNTER if generator.spec.dropout else None)
    for name, gradient in got.items():
        assert relative_error(gradient, wanted[name]) <= max(A_FLIP, 2 * worst), name


@gpu
def test_gpu_captures_forward_and_backward() -> None:
    generator, x = net(width=64, blocks=2), pictures(1, 32, 48)
    counter = COUNTER.clone()
    static = x.clone()

    def step() -> Tensor:
        out = generator(static, counter=counter)
        (out * out).sum().backward()
        return out

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    generator.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    other = pictures(2, 32, 48)[1:]
    static.copy_(other)
    counter.copy_(torch.tensor([2, 9]))
    for parameter in generator.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    graph.replay()
    captured = {name: p.grad.clone() for name, p in generator.named_parameters() if p.grad is not None}
    shown = out.detach().clone()
    generator.zero_grad()
    assert torch.equal(step().detach(), shown)
    for name, gradient in captured.items():
        eager = generator.get_parameter(name).grad
        assert eager is not None
        assert torch.equal(gradient, eager), name
