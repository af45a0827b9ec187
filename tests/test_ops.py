"""The generator's ops: the same values as the reference by either way, and what torch asks of an op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import KERNEL_DEVICE, KERNEL_DTYPES, assert_matches
from deblurgan import ops, reference

Arguments = tuple[Any, ...]


def some(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def cases(n: int, h: int, w: int) -> dict[str, tuple[str, Arguments]]:
    """Op and arguments, all in fp32 on the CPU."""
    x, image = some(n, 16, h, w), some(n, 3, h, w, seed=1).tanh()
    residual = some(n, 24, h, w, seed=2)
    weight, bias = some(24, 16, 3, 3, scale=0.1, seed=3), some(24, seed=4)
    return {
        "norm_act": ("norm_act", (x, None, "relu")),
        "norm_act, residual": ("norm_act", (residual, residual.flip(0), "none")),
        "norm_act, leaky": ("norm_act", (residual, residual.flip(1), "leaky_relu")),
        "conv": ("conv_norm_relu", (x, weight, bias, None, 1, "zero", "relu")),
        "conv, residual": ("conv_norm_relu", (x, weight, bias, residual, 1, "reflect", "none")),
        "conv, stride 2": ("conv_norm_relu", (x, weight, None, None, 2, "zero", "leaky_relu")),
        "conv, 1x1": ("conv_norm_relu", (x, weight[..., :1, :1], bias, None, 1, "zero", "relu")),
        "up_conv": ("up_conv_norm_relu", (x, some(16, 24, 3, 3, scale=0.1, seed=5), bias)),
        "tail": ("output_tail", (x, image, some(3, 16, 7, 7, scale=0.05, seed=6), some(3, seed=7), "reflect")),
    }


NAMES = list(cases(1, 8, 8))


def changed(arguments: Arguments, change: Callable[[Tensor], Tensor]) -> Arguments:
    return tuple(change(a) if isinstance(a, Tensor) else a for a in arguments)


MASKS = [[2, 12, 3, 5], [3, 5, 7, 9], [1, 3, 1, 1], [2, 64, 33, 41], [1, 96, 40, 61], [0, 4, 2, 2], [2, 4, 0, 3]]


@pytest.mark.parametrize("shape", MASKS, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1 - 2**-40])
def test_dropout_mask_is_the_reference_s(shape: list[int], p: float, device: torch.device) -> None:
    for seed, first, stream in ((0, 0, 0), (2**63 - 1, 2**63 - 5, 3), (7, 2**33, 8)):
        got = ops.dropout_mask(shape, p, torch.tensor([seed, first], device=device), stream)
        assert got.dtype == torch.bool
        assert got.device.type == device.type
        assert torch.equal(got.cpu(), reference.dropout_mask(shape, p, seed=seed, first=first, stream=stream))


def test_dropout_mask_keeps_its_share() -> None:
    for p in (0.1, 0.5, 0.9):
        mask = ops.dropout_mask([3, 64, 64, 61], p, torch.tensor([11, 0]))
        deviation = (p * (1 - p) / mask.numel()) ** 0.5
        assert abs(float(mask.double().mean()) - (1 - p)) < 5 * deviation
        channels = mask.double().mean((0, 2, 3))
        assert ((channels - (1 - p)).abs() < 5 * deviation * 8).all()  # of 64, each with a 64th of the elements


def test_dropout_mask_depends_on_the_picture_and_the_stream_alone() -> None:
    both = ops.dropout_mask([2, 8, 5, 6], 0.5, torch.tensor([1, 40]), 2)
    alone = ops.dropout_mask([1, 8, 5, 6], 0.5, torch.tensor([1, 41]), 2)
    assert torch.equal(both[1:], alone)
    for other in (([2, 40], 2), ([1, 41], 2), ([1, 40], 3)):
        assert not torch.equal(both, ops.dropout_mask([2, 8, 5, 6], 0.5, torch.tensor(other[0]), other[1]))


def test_dropout_mask_passes_opcheck(device: torch.device) -> None:
    arguments = ([2, 12, 3, 5], 0.5, torch.tensor([1, 0], device=device), 1)
    torch.library.opcheck(torch.ops.deblurgan.dropout_mask.default, arguments)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([1, 2, 3], 0.5, torch.tensor([0, 0])), "shape must be"),
        (([1, 2**12, 2**12, 2**11], 0.5, torch.tensor([0, 0])), "at most 2.34 elements"),
        (([1, 2, 3, 4], 1.0, torch.tensor([0, 0])), r"p must be in \[0, 1\), got 1.0"),
        (([1, 2, 3, 4], 0.5, torch.tensor([0, 0]), -1), "stream must be in"),
        (([1, 2, 3, 4], 0.5, torch.tensor([0])), r"counter must be int64 \[2\]"),
    ],
    ids=["shape", "too large", "p", "stream", "counter"],
)
def test_dropout_mask_refuses(arguments: Arguments, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ops.dropout_mask(*arguments)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ops run in the kernels here too, in Triton's interpreter."""
    pytest.importorskip("triton")
    monkeypatch.setattr(ops, "why_not", lambda device: None)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_kernels_match_the_reference(name: str, dtype: torch.dtype, kernels: None, poisoned: None) -> None:
    for size in ((2, 9, 11), (1, 8, 34)):
        op, arguments = cases(*size)[name]
        arguments = changed(arguments, lambda a: a.to(KERNEL_DEVICE, dtype))
        with torch.no_grad():
            got = getattr(ops, op)(*arguments)
            wanted = getattr(ops, op)(*changed(arguments, Tensor.double))
        assert got.dtype == dtype
        assert_matches(got, wanted, name=name)


@pytest.mark.parametrize("name", NAMES)
def test_without_kernels_the_reference_runs(name: str, device: torch.device) -> None:
    op, arguments = cases(2, 9, 11)[name]
    got = getattr(ops, op)(*changed(arguments, lambda a: a.to(device)))
    assert_matches(got, getattr(ops, op)(*changed(arguments, Tensor.double)), name=name)


def test_a_constant_plane_becomes_zero(kernels: None) -> None:
    for dtype in KERNEL_DTYPES:
        x = torch.full((1, 16, 9, 11), 0.3, dtype=dtype, device=KERNEL_DEVICE)
        weight = some(8, 16, 3, 3, seed=1).to(x)
        assert (ops.norm_act(x, None, "none") == 0).all()
        assert (ops.conv_norm_relu(x, weight, None, None, 1, "reflect", "none") == 0).all()


@pytest.fixture
def gradients(kernels: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What norm_act_grad was asked for."""
    asked, op = [], ops.norm_act_grad
    monkeypatch.setattr(ops, "norm_act_grad", lambda grad, x, act: asked.append(act) or op(grad, x, act))  # type: ignore[func-returns-value]
    return asked


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("act", ops.ACTS)
def test_gradient_of_norm_act_by_kernels(act: str, dtype: torch.dtype, gradients: list[str], poisoned: None) -> None:
    for shape in ((2, 24, 9, 11), (1, 16, 1, 3), (1, 3, 34, 8)):
        x, residual, grad = (some(*shape, seed=seed).to(KERNEL_DEVICE, dtype) for seed in range(3))
        twins = [t.double().requires_grad_() for t in (x, residual)]
        wanted = torch.autograd.grad(ops.norm_act(*twins, act), twins, grad.double())
        ours = [t.clone().requires_grad_() for t in (x, residual)]
        got = torch.autograd.grad(ops.norm_act(*ours, act), ours, grad)
        assert got[0].is_contiguous(memory_format=torch.channels_last)
        assert_matches(got[0], wanted[0])
        assert torch.equal(got[1], grad)
        grad = grad.contiguous(memory_format=torch.channels_last)
        again = torch.autograd.grad(ops.norm_act(*ours, act), ours[0], grad)
        assert torch.equal(again[0], got[0]), "not deterministic"
    assert gradients == [act] * 6


@pytest.mark.parametrize("act", ops.ACTS)
def test_norm_act_can_be_differentiated_twice(act: str, gradients: list[str]) -> None:
    def second(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(ops.norm_act(x, None, act), x, grad, create_graph=True)
        return torch.autograd.grad((first * weight).sum(), x)[0]

    inputs = [some(2, 16, 5, 7, seed=seed).to(KERNEL_DEVICE) for seed in range(3)]
    assert_matches(second(*inputs), second(*(t.double() for t in inputs)))
    assert not gradients


def test_only_the_residual_s_gradient_is_wanted(gradients: list[str]) -> None:
    x, residual = (some(1, 16, 3, 5, seed=seed).to(KERNEL_DEVICE) for seed in range(2))
    ops.norm_act(x, residual.requires_grad_()).sum().backward()
    assert residual.grad is not None and (residual.grad == 1).all()
    assert not gradients


def test_norm_act_grad_passes_opcheck(kernels: None) -> None:
    grad, x = (some(2, 16, 3, 5, seed=seed).to(KERNEL_DEVICE) for seed in range(2))
    torch.library.opcheck(torch.ops.deblurgan.norm_act_grad.default, (grad, x, "leaky_relu"))


def test_norm_act_grad_refuses(kernels: None) -> None:
    x = torch.rand(2, 8, 6, 6)
    with pytest.raises(ValueError, match=r"grad must be torch.float32 \(2, 8, 6, 6\) on cpu, got torch.float16"):
        ops.norm_act_grad(x.half(), x, "relu")
    with pytest.raises(ValueError, match="act must be one of"):
        ops.norm_act_grad(x, x, "gelu")
    with pytest.raises(ValueError, match=r"x must be where the kernels run, got torch\.float64"):
        ops.norm_act_grad(x.double(), x.double(), "relu")


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str) -> None:
    op, arguments = cases(2, 9, 11)[name]
    arguments = changed(arguments, lambda a: a.clone().requires_grad_())
    torch.library.opcheck(getattr(torch.ops.deblurgan, op).default, arguments)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str) -> None:
    op, arguments = cases(1, 4, 6)[name]
    if name == "tail":  # the clamp has a corner where picture and residual meet it
        arguments = (*arguments[:1], arguments[1] * 0.1, arguments[2] * 0.1, arguments[3] * 0.1, *arguments[4:])
    arguments = changed(arguments, lambda a: a.double().requires_grad_())
    assert torch.autograd.gradcheck(getattr(ops, op), arguments, fast_mode=True)


def test_gradients_of_some_arguments_only() -> None:
    _, (x, weight, bias, residual, *rest) = cases(2, 6, 8)["conv, residual"]
    weight = weight.clone().requires_grad_()
    ops.conv_norm_relu(x, weight, bias, residual, *rest).square().sum().backward()
    again = weight.detach().double().requires_grad_()
    y = ops.conv_norm_relu(x.double(), again, bias.double(), residual.double(), *rest)
    y.square().sum().backward()
    assert weight.grad is not None and again.grad is not None
    assert_matches(weight.grad, again.grad)


class Layers(nn.Module):
    """One op after another, as a network of somebody else's would have them."""

    def forward(self, x: Tensor, image: Tensor, weight: Tensor, up: Tensor, head: Tensor, bias: Tensor) -> Tensor:
        y = ops.conv_norm_relu(x, weight, None, None, 2, "zero", "relu")
        y = ops.up_conv_norm_relu(ops.norm_act(y, y, "none"), up, None)
        return ops.output_tail(y, image, head, bias, "reflect")


def layer_inputs() -> Arguments:
    x, image = some(1, 8, 8, 12), some(1, 3, 8, 12, seed=1).tanh()
    weights = some(12, 8, 3, 3, scale=0.1, seed=2), some(12, 8, 3, 3, scale=0.1, seed=3)
    return x, image, *weights, some(3, 8, 7, 7, scale=0.05, seed=4), some(3, seed=5)


def test_compile_sees_the_ops_whole() -> None:
    inputs = layer_inputs()
    compiled = torch.compile(Layers(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), Layers()(*inputs))


def test_export_round_trip() -> None:
    inputs = layer_inputs()
    program = torch.export.export(Layers(), inputs)
    names = {str(node.target) for node in program.graph.nodes}
    assert {
        f"deblurgan.{op}.default" for op in ("conv_norm_relu", "up_conv_norm_relu", "norm_act", "output_tail")
    } <= names
    torch.testing.assert_close(program.module()(*inputs), Layers()(*inputs))


X, W = torch.rand(2, 8, 6, 6), torch.rand(4, 8, 3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.norm_act(torch.rand(2, 8)), r"x must be \[n, c, h, w\], got \(2, 8\)"),
        (lambda: ops.norm_act(X.int()), "x must be floating point, got torch.int32"),
        (lambda: ops.norm_act(X, X[:1]), r"residual must be torch.float32 \(2, 8, 6, 6\) on cpu, got"),
        (lambda: ops.norm_act(X, X.half()), "residual must be torch.float32"),
        (lambda: ops.norm_act(X, None, "gelu"), "act must be one of relu, none, leaky_relu, got 'gelu'"),
        (lambda: ops.conv_norm_relu(X, W, stride=3), "stride must be 1 or 2, got 3"),
        (lambda: ops.conv_norm_relu(X, W, border="replicate"), "border must be one of reflect, zero, got 'replicate'"),
        (lambda: ops.conv_norm_relu(X, W[:, :5]), r"weight must take the 8 channels of x, got \(4, 5, 3, 3\)"),
        (lambda: ops.conv_norm_relu(X, W[..., :2, :2]), r"weight must be \[k, c, s, s\] with s odd"),
        (lambda: ops.conv_norm_relu(X, W.half()), "weight must be torch.float32 on cpu, got torch.float16 on cpu"),
        (lambda: ops.conv_norm_relu(X, W, torch.rand(5)), r"bias must be \[4\], got \(5,\)"),
        (lambda: ops.conv_norm_relu(X, W, W.to("meta")[:, 0, 0, 0]), "bias must be torch.float32 on cpu, got"),
        (lambda: ops.up_conv_norm_relu(X, W), r"weight must take the 8 channels of x, got \(4, 8, 3, 3\)"),
        (lambda: ops.up_conv_norm_relu(X, torch.rand(8, 4, 4, 4)), r"weight must be \[c, k, 3, 3\]"),
        (lambda: ops.output_tail(X, X, W, torch.rand(4), "zero"), r"image must be floats \(2, 4, 6, 6\)"),
        (lambda: ops.output_tail(X, X[:, :4], W, torch.rand(4), "none"), "border must be one of reflect, zero"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
