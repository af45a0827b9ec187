"""The networks' ops: the same values as the reference by either way, and what torch asks of an op."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from conftest import KERNEL_DEVICE, KERNEL_DTYPES, assert_matches
from deblurgan import ops, reference
from deblurgan.ops import conv_blocks, conv_grad, norm, tail

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
    asked, op = [], norm.norm_act_grad
    monkeypatch.setattr(norm, "norm_act_grad", lambda grad, x, act: asked.append(act) or op(grad, x, act))  # type: ignore[func-returns-value]
    return asked


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("act", norm.ACTS)
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


@pytest.mark.parametrize("act", norm.ACTS)
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


class Layer(NamedTuple):
    op: str
    arguments: Arguments
    how: str  # its gradients are made, if their kernels fit: see `run_by`
    ours: tuple[bool, bool] = (True, True)  # whether they do, for x and for weight


def conv(
    x: tuple[int, int, int, int],
    k: int,
    size: int,
    *rest: Any,
    how: str = "pointer",
    ours: tuple[bool, bool] = (True, True),
    residual: bool = False,
) -> Layer:
    """conv_norm_relu with stride, border and act as `rest` has them."""
    scale = 1 / (size * x[1] ** 0.5)
    sides = (-(-side // rest[0]) for side in x[2:])
    weight = some(k, x[1], size, size, scale=scale, seed=3)
    given = some(*x), weight, some(k, seed=4), some(x[0], k, *sides, seed=2) if residual else None
    return Layer("conv_norm_relu", (*given, *rest), how, ours)


def up(x: tuple[int, int, int, int], k: int, how: str = "pointer", ours: tuple[bool, bool] = (True, True)) -> Layer:
    weight = some(x[1], k, 3, 3, scale=0.2, seed=3)
    return Layer("up_conv_norm_relu", (some(*x), weight, some(k, seed=4)), how, ours)


def tail_layer(
    x: tuple[int, int, int, int],
    k: int,
    size: int,
    border: str,
    how: str = "pointer",
    ours: tuple[bool, bool] = (True, True),
) -> Layer:
    image = some(x[0], k, *x[2:], seed=1).tanh()
    weight, bias = some(k, x[1], size, size, scale=0.5 / size, seed=3), some(k, scale=0.5, seed=4)
    return Layer("output_tail", (some(*x), image, weight, bias, border), how, ours)


NEITHER, WEIGHT = (False, False), (False, True)
LAYERS = {
    "conv": conv((2, 16, 5, 7), 24, 3, 1, "zero", "relu", residual=True),
    "conv, reflect": conv((2, 16, 3, 5), 16, 3, 1, "reflect", "leaky_relu", residual=True),
    "conv, few channels": conv((2, 3, 4, 5), 5, 3, 1, "reflect", "none"),
    "conv, small": conv((2, 16, 2, 2), 16, 3, 1, "reflect", "relu"),
    "conv, tma": conv((2, 16, 5, 3), 16, 3, 1, "zero", "relu", how="tma"),
    "conv, reflect, tma": conv((2, 16, 3, 4), 16, 3, 1, "reflect", "none", how="tma"),
    "conv, tma that does not fit": conv((1, 24, 3, 4), 16, 3, 1, "reflect", "relu", how="tma", ours=NEITHER),
    "conv, library": conv((2, 6, 5, 4), 4, 3, 1, "zero", "leaky_relu", how="library", ours=NEITHER),
    "conv, reflect, library": conv((2, 6, 5, 4), 4, 3, 1, "reflect", "relu", how="library", ours=NEITHER),
    "conv, 1x1": conv((2, 16, 4, 3), 8, 1, 1, "reflect", "relu", ours=NEITHER),
    "conv, 5x5": conv((2, 8, 4, 6), 8, 5, 1, "zero", "relu", ours=NEITHER, residual=True),
    "conv, 5x5, reflect": conv((2, 8, 3, 4), 8, 5, 1, "reflect", "relu", ours=NEITHER),
    "conv, 7x7, stride 2, reflect": conv((1, 4, 7, 6), 8, 7, 2, "reflect", "none", ours=NEITHER),
    "conv, 1x1, stride 2": conv((2, 16, 4, 5), 8, 1, 2, "zero", "none", ours=NEITHER),
    "conv, stride 2": conv((2, 16, 4, 6), 24, 3, 2, "zero", "leaky_relu", residual=True),
    "conv, stride 2, odd": conv((2, 16, 5, 7), 16, 3, 2, "zero", "relu", ours=WEIGHT),
    "conv, stride 2, one odd side": conv((2, 16, 4, 5), 16, 3, 2, "zero", "relu", ours=WEIGHT),
    "conv, stride 2, reflect": conv((2, 16, 4, 6), 16, 3, 2, "reflect", "relu", ours=WEIGHT),
    "conv, stride 2, library": conv((2, 6, 5, 4), 4, 3, 2, "zero", "relu", how="library", ours=NEITHER),
    "up": up((2, 24, 3, 4), 16),
    "up, one pixel": up((2, 16, 1, 1), 5),
    "up, library": up((2, 6, 3, 2), 4, "library", NEITHER),
    "tail": tail_layer((2, 16, 4, 5), 3, 7, "reflect"),
    "tail, zero": tail_layer((2, 16, 3, 2), 4, 7, "zero"),
    "tail, library": tail_layer((2, 6, 5, 4), 3, 7, "reflect", "library", NEITHER),
    "tail, 3x3": tail_layer((2, 16, 3, 5), 4, 3, "reflect", ours=NEITHER),
    "tail, 5x5, zero": tail_layer((1, 16, 3, 5), 1, 5, "zero", ours=NEITHER),
}
SOME = ["conv, reflect", "conv, stride 2, odd", "up", "tail"]


def certain(layer: Layer, arguments: Arguments) -> Tensor:
    """Where a result of fp64 arguments lies so far from the corners of the op that no rounding crosses one."""
    x, second, third, fourth, *rest = (*arguments, None)
    if layer.op == "output_tail":
        inside = F.conv2d(reference.pad(x, third.shape[2] // 2, rest[0]), third, fourth)
        return ((second + inside.tanh()).abs() - 1).abs() > 0.05
    if layer.op == "up_conv_norm_relu":
        y = F.conv_transpose2d(x, second, third, stride=2, padding=1, output_padding=1)
        return reference.instance_norm(y).abs() > 0.05
    return reference.conv_norm_relu(x, second, third, stride=rest[0], border=rest[1], act="none").abs() > 0.05


class Asked(NamedTuple):
    ops: list[str]  # that made gradients, and with what
    configs: list[bool]  # whether it was by a kernel of ours, of x and of weight in turn


@pytest.fixture
def run_by(kernels: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Asked]:
    """Has convolutions run in kernels of a form, "pointer" or "tma", or in "library" ones; tells what was asked."""
    from deblurgan.kernels import conv_wgrad, norm_act_grad
    from deblurgan.kernels.config import ConvConfig, ConvShape

    if KERNEL_DEVICE.type == "cpu":
        monkeypatch.setattr(norm_act_grad, "TILES", 4)
        monkeypatch.setattr(conv_wgrad, "launched_warps", lambda device: 4)
    asked = Asked([], [])

    def recorded(name: str, run: Callable[..., Any], *arguments: Any) -> Any:
        asked.ops.append(name)
        return run(*arguments)

    def configured(run: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        asked.configs.append(options["config"] is not None)
        return run(*arguments, **options)

    for name in ("conv_norm_relu_grad", "up_conv_norm_relu_grad"):
        monkeypatch.setattr(conv_blocks, name, partial(recorded, name, getattr(conv_blocks, name)))
    monkeypatch.setattr(tail, "output_tail_grad", partial(recorded, "output_tail_grad", tail.output_tail_grad))
    for name in ("input_gradient", "weight_gradient"):
        monkeypatch.setattr(conv_grad, name, partial(configured, getattr(conv_grad, name)))

    def configure(how: str) -> Asked:
        def config(shape: ConvShape) -> ConvConfig | None:
            if shape.kind == "head":
                return ConvConfig(32, 64, 32)
            return None if how == "library" else ConvConfig(32 if "head" in shape.kind else 16, 16, 16, form=how)

        capable = KERNEL_DEVICE.type == "cpu" or torch.cuda.get_device_capability() >= (9, 0)
        if how == "tma" and not capable:
            pytest.skip("tma needs compute capability 9.0")
        for module in (conv_blocks, tail):
            monkeypatch.setattr(module, "config_picker", lambda gpu: config)
        return asked

    return configure


def tensors(arguments: Arguments) -> list[Tensor]:
    return [a for a in arguments if isinstance(a, Tensor)]


def gradients_of(op: str, arguments: Arguments, grad: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(getattr(ops, op)(*arguments), tensors(arguments), grad)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_by_kernels(name: str, dtype: torch.dtype, run_by: Callable[[str], Asked], poisoned: None) -> None:
    layer = LAYERS[name]
    asked = run_by(layer.how)
    arguments = changed(layer.arguments, lambda a: a.to(KERNEL_DEVICE, dtype, copy=True).requires_grad_())
    exact = changed(arguments, lambda a: a.detach().double().requires_grad_())
    sure = certain(layer, exact)
    grad = some(*sure.shape, seed=9).to(KERNEL_DEVICE, dtype) * sure
    wanted = gradients_of(layer.op, exact, grad.double())
    assert asked == ([], [])
    got = gradients_of(layer.op, arguments, grad)
    assert asked == ([f"{layer.op}_grad"], [*layer.ours])
    assert got[0].is_contiguous(memory_format=torch.channels_last)
    for i, (argument, ours, truth) in enumerate(zip(tensors(arguments), got, wanted, strict=True)):
        assert ours.dtype == dtype
        if layer.op != "output_tail" and argument.dim() == 1:
            assert (ours == 0).all(), "the norm subtracts a bias"
        else:
            assert_matches(ours, truth, name=f"gradient of argument {i}")
    for ours, again in zip(got, gradients_of(layer.op, arguments, grad), strict=True):
        assert torch.equal(ours, again), "not deterministic"


@pytest.mark.parametrize("name", SOME)
def test_gradients_by_kernels_of_one_argument(name: str, run_by: Callable[[str], Asked], poisoned: None) -> None:
    layer = LAYERS[name]
    asked = run_by(layer.how)
    arguments = changed(layer.arguments, lambda a: a.to(KERNEL_DEVICE))
    places = [i for i, a in enumerate(arguments) if isinstance(a, Tensor)]
    every = changed(arguments, lambda a: a.clone().requires_grad_())
    y = getattr(ops, layer.op)(*every)
    grad = some(*y.shape, seed=9).to(y)
    wanted = torch.autograd.grad(y, tensors(every), grad)
    for i, truth in zip(places, wanted, strict=True):
        asked.ops.clear()
        asked.configs.clear()
        alone = arguments[i].clone().requires_grad_()
        y = getattr(ops, layer.op)(*arguments[:i], alone, *arguments[i + 1 :])
        (got,) = torch.autograd.grad(y, alone, grad)
        assert torch.equal(got, truth)
        convolved = i == 0 or i == (2 if layer.op == "output_tail" else 1)
        assert len(asked.configs) == convolved, "more was made than is wanted"
        assert len(asked.ops) == (convolved or layer.op == "output_tail")


@pytest.mark.parametrize("name", SOME)
def test_gradients_by_kernels_of_scattered_memory(name: str, run_by: Callable[[str], Asked], poisoned: None) -> None:
    layer = LAYERS[name]
    run_by(layer.how)
    dense = changed(layer.arguments, lambda a: a.to(KERNEL_DEVICE, copy=True).requires_grad_())
    y = getattr(ops, layer.op)(*dense)
    grad = some(*y.shape, seed=9).to(y)
    wanted = torch.autograd.grad(y, tensors(dense), grad)
    scattered = changed(dense, lambda a: a.detach().repeat_interleave(2, -1)[..., ::2].requires_grad_())
    got = gradients_of(layer.op, scattered, grad.repeat_interleave(2, -1)[..., ::2])
    for ours, truth in zip(got, wanted, strict=True):
        assert torch.equal(ours, truth)
    ones = gradients_of(layer.op, scattered, grad.new_ones(()).expand(grad.shape))
    for ours, truth in zip(ones, gradients_of(layer.op, dense, torch.ones_like(grad)), strict=True):
        assert torch.equal(ours, truth)


@pytest.mark.parametrize("name", SOME)
def test_layers_can_be_differentiated_twice(name: str, run_by: Callable[[str], Asked]) -> None:
    layer = LAYERS[name]
    asked = run_by(layer.how)

    def second(arguments: Arguments) -> list[Tensor]:
        inputs = changed(arguments, lambda a: a.clone().requires_grad_())
        y = getattr(ops, layer.op)(*inputs)
        first = torch.autograd.grad(y, tensors(inputs)[:2], some(*y.shape, seed=9).to(y), create_graph=True)
        total = sum((g * some(*g.shape, seed=i).to(g)).sum() for i, g in enumerate(first))
        return list(torch.autograd.grad(total, tensors(inputs)[:1]))

    arguments = changed(layer.arguments, lambda a: a.to(KERNEL_DEVICE))
    for got, wanted in zip(second(arguments), second(changed(arguments, Tensor.double)), strict=True):
        assert_matches(got, wanted)
    assert asked == ([], [])


def test_a_tail_too_wide_for_the_kernels(run_by: Callable[[str], Asked]) -> None:
    asked = run_by("pointer")
    layer = tail_layer((1, 8, 5, 6), 9, 3, "zero")
    arguments = changed(layer.arguments, lambda a: a.to(KERNEL_DEVICE, copy=True).requires_grad_())
    exact = changed(arguments, lambda a: a.detach().double().requires_grad_())
    grad = some(1, 9, 5, 6, seed=9).to(KERNEL_DEVICE)
    wanted = gradients_of(layer.op, exact, grad.double())
    for ours, truth in zip(gradients_of(layer.op, arguments, grad), wanted, strict=True):
        assert_matches(ours, truth)
    assert asked == ([], [])
    x, image, weight, bias = tensors(changed(arguments, Tensor.detach))
    with pytest.raises(ValueError, match=r"weight must be at most \[8, k, 7, 7\], got \(9, 8, 3, 3\)"):
        torch.ops.deblurgan.output_tail_grad(grad, x, image, weight, bias, "zero", [True] * 4)


@pytest.mark.parametrize("flags", [[True, True, True, True], [False, True, True, False]], ids=str)
@pytest.mark.parametrize("name", SOME)
def test_gradients_of_layers_pass_opcheck(name: str, flags: list[bool], run_by: Callable[[str], Asked]) -> None:
    layer = LAYERS[name]
    run_by(layer.how)
    arguments = changed(layer.arguments, lambda a: a.to(KERNEL_DEVICE))
    grad = getattr(ops, layer.op)(*arguments)
    op = getattr(torch.ops.deblurgan, f"{layer.op}_grad").default
    if layer.op == "output_tail":
        torch.library.opcheck(op, (grad, *arguments, flags))
    else:
        torch.library.opcheck(op, (grad, *arguments[:2], *arguments[4:], flags[:2]))


def test_compiled_layers_train_in_kernels(run_by: Callable[[str], Asked]) -> None:
    run_by("library")
    seen: list[str] = []

    def record(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    inputs = changed(layer_inputs(), lambda a: a.to(KERNEL_DEVICE, copy=True).requires_grad_())
    backend = aot_autograd(fw_compiler=record, bw_compiler=record)
    y = torch.compile(Layers(), fullgraph=True, backend=backend)(*inputs)
    got = torch.autograd.grad(y.square().sum(), inputs)
    wanted = torch.autograd.grad(Layers()(*inputs).square().sum(), inputs)
    torch.testing.assert_close(got, wanted)
    names = ("conv_norm_relu_grad", "norm_act_grad", "up_conv_norm_relu_grad", "output_tail_grad")
    assert {f"deblurgan.{name}.default" for name in names} <= set(seen)


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


X, W, UP = torch.rand(2, 8, 6, 6), torch.rand(4, 8, 3, 3), torch.rand(2, 4, 12, 12)
CONV_GRAD, UP_GRAD, TAIL_GRAD = ops.conv_norm_relu_grad, ops.up_conv_norm_relu_grad, ops.output_tail_grad


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
        (
            lambda: ops.output_tail(X, X[:, :4], W[..., :2], torch.rand(4), "zero"),
            r"weight must be \[c, k, s, s\] with",
        ),
        (
            lambda: CONV_GRAD(X, X, W, 1, "zero", "relu", [True] * 2),
            r"grad must be torch.float32 \(2, 4, 6, 6\) on cpu",
        ),
        (lambda: CONV_GRAD(X[:, :4].half(), X, W, 1, "zero", "relu", [True] * 2), "grad must be torch.float32"),
        (lambda: CONV_GRAD(X[:, :4], X, W, 1, "zero", "relu", [True]), "wanted must be 2 flags, for x weight, got 1"),
        (lambda: CONV_GRAD(X[:, :4], X, W, 1, "zero", "relu", [True] * 2), "x must be where the kernels run, got"),
        (lambda: UP_GRAD(X, X, torch.rand(8, 4, 3, 3), [True] * 2), r"grad must be torch.float32 \(2, 4, 12, 12\)"),
        (lambda: UP_GRAD(UP, X, torch.rand(8, 4, 3, 3), [True] * 3), "wanted must be 2 flags"),
        (lambda: UP_GRAD(UP, X, torch.rand(8, 4, 3, 3), [True] * 2), "x must be where the kernels run, got"),
        (
            lambda: TAIL_GRAD(X, X, X[:, :4], W, W[:, 0, 0, 0], "zero", [True] * 4),
            r"grad must be torch.float32 \(2, 4, 6",
        ),
        (
            lambda: TAIL_GRAD(UP, X, X[:, :4], W, W[:, 0, 0, 0], "zero", []),
            r"grad must be torch.float32 \(2, 4, 6, 6\)",
        ),
        (lambda: TAIL_GRAD(X[:, :4], X, X[:, :4], W, W[:, 0, 0, 0], "zero", []), "wanted must be 4 flags"),
        (lambda: TAIL_GRAD(X[:, :4], X, X[:, :4], W, W[:, 0, 0, 0], "zero", [True] * 4), "x must be where the kernels"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
