"""conv_norm_relu and up_conv_norm_relu: a convolution, plain or transposed, with InstanceNorm and activation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast, get_args

import torch
from torch import Tensor

from deblurgan import reference
from deblurgan.kernels.config import ConvConfig, ConvShape, NormActInputs, PaddedGradient
from deblurgan.kernels.table import config_picker, current_gpu
from deblurgan.ops import conv_grad
from deblurgan.ops.autograd import differentiable, empty_gradients, spread
from deblurgan.ops.common import (
    check_grad,
    check_odd,
    check_option,
    check_planes,
    check_wanted,
    check_weight,
    operator,
    require,
    require_kernels,
    runs_kernels,
)
from deblurgan.ops.conv import conv_memory, conv_stats
from deblurgan.ops.conv_grad import Convolution, GradientConfigs
from deblurgan.ops.layers import Layer, conv_layer, up_layer
from deblurgan.ops.norm import ACTS, SLOPES, norm_act_backward

BORDERS: tuple[str, ...] = get_args(reference.Border)


def pick_config(layer: Layer, n: int, h: int, w: int, like: Tensor) -> ConvConfig | None:
    """The tiling of a layer whose output is [n, h, w, c], in the type of `like`; None for cuDNN."""
    shape = ConvShape(layer.kind, *layer.channels, n * h * w, like.dtype)
    return layer.fitting(config_picker(current_gpu(like.device))(shape))


def pick_gradient_configs(conv: Convolution, y: Tensor) -> GradientConfigs:
    """The same for its gradients; our kernels have 3x3 taps, 7x7 in the head."""
    if conv.weight.shape[2] != (7 if conv.kind == "head" else 3):
        return GradientConfigs(None, None)
    return conv_grad.gradient_configs(config_picker(current_gpu(y.device)), conv, y)


def add_border(x: Tensor, width: int, border: str) -> Tensor:
    """x [n, c, h, w] as [n, h + 2 width, w + 2 width, c], contiguous."""
    return reference.pad(x, width, cast(reference.Border, border)).permute(0, 2, 3, 1).contiguous()


def _forward(layer: Layer, bordered: Tensor, shape: tuple[int, ...], act: str, residual: Tensor | None) -> Tensor:
    """residual + act(instance_norm(conv)) of a bordered picture [n, ., ., c]: [n, k, h, w] in channels_last."""
    from deblurgan.kernels.norm_act import norm_act

    n, _, h, w = shape
    config = pick_config(layer, n, h, w, bordered)
    added = None if residual is None else residual.permute(0, 2, 3, 1).contiguous()
    with torch.cuda.device_of(bordered):
        memory = conv_memory(layer, n, h, w, config=config, like=bordered)
        y, stats = conv_stats(layer, bordered, memory, config=config)
        out = y if y.is_contiguous() else torch.empty_like(y, memory_format=torch.contiguous_format)
        norm_act(NormActInputs(y, stats, SLOPES[act]), out, residual=added)
    return out.permute(0, 3, 1, 2)


def _backward(
    layer: Layer, conv: Convolution, bordered: Tensor, grad: Tensor, x: Tensor, act: str, wanted: Sequence[bool]
) -> list[Tensor]:
    """The gradients by x [n, c, h, w] and the weight that are wanted, from `grad` [n, k, h', w'] by the output.

    Our kernels make what their 3x3 forms cover, cuDNN the rest.
    """
    out = empty_gradients(wanted, x, conv.weight)
    with torch.cuda.device_of(x):
        g = grad.permute(0, 2, 3, 1).contiguous()
        n, h, w, _ = g.shape
        config = pick_config(layer, n, h, w, bordered)
        memory = conv_memory(layer, n, h, w, config=config, like=g)
        y, stats = conv_stats(layer, bordered, memory, config=config)
        configs = pick_gradient_configs(conv, g)
        if conv.kind == "down" and (conv.border == "reflect" or x.shape[2] % 2 or x.shape[3] % 2):
            configs = configs._replace(dgrad=None)  # our kernel makes two rows and columns of each, and no border
        dy = conv_grad.output_gradient(conv, configs, g.shape, like=bordered)
        norm_act_backward(g, NormActInputs(y, stats, SLOPES[act]), dy)
        for memory, gradient in zip(out, convolution_gradients(conv, bordered, dy, configs, wanted), strict=True):
            memory.copy_(gradient)
    return out


def convolution_gradients(
    conv: Convolution, bordered: Tensor, dy: PaddedGradient, configs: GradientConfigs, wanted: Sequence[bool]
) -> Iterator[Tensor]:
    """The gradients by x [n, c, h, w], which was given a border, and by the weight, as far as they are wanted."""
    if wanted[0]:
        whole = conv_grad.input_gradient(conv, bordered, dy, config=configs.dgrad).permute(0, 3, 1, 2)
        yield conv_grad.fold_reflected_border(whole, conv.halo) if conv.reads_reflected_border else whole
    if wanted[1]:
        yield conv_grad.weight_gradient(conv, bordered, dy, config=configs.wgrad)


def _conv_shape(x: Tensor, weight: Tensor, stride: int) -> tuple[int, int, int, int]:
    h, w = (-(-side // stride) for side in x.shape[2:])
    return x.shape[0], weight.shape[0], h, w


@operator
def conv_norm_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    stride: int = 1,
    border: str = "zero",
    act: str = "relu",
) -> Tensor:
    """residual + act(instance_norm(conv(x))): x [n, c, h, w], weight [k, c, s, s], s odd; see reference.

    Args:
        residual: [n, k, h', w'], added to the output.
        stride: 1 or 2; h' = ceil(h / stride).
        border: "zero" or "reflect", how x is padded by s // 2.
        act: "relu", "leaky_relu" (slope 0.2) or "none".

    The output is in channels_last. Our kernels skip the bias, which InstanceNorm subtracts again. Differentiable in x,
    weight, bias and residual. Raises ValueError for other shapes, dtypes or devices.
    """
    _check_conv(x, weight, bias, residual, stride, border, act)
    if not runs_kernels(x):
        y = _reference_conv(x, weight, bias, residual, stride, border, act)
        return y.clone(memory_format=torch.channels_last)
    bordered = add_border(x, weight.shape[2] // 2, border)
    return _forward(_conv_layer(weight, stride), bordered, _conv_shape(x, weight, stride), act, residual)


def _conv_layer(weight: Tensor, stride: int) -> Layer:
    return conv_layer("down" if stride == 2 else "trunk", weight, weight.dtype, stride=stride)


def _reference_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, stride: int, border: str, act: str
) -> Tensor:
    edge, activation = cast(reference.Border, border), cast(reference.Act, act)
    return reference.conv_norm_relu(x, weight, bias, stride=stride, border=edge, act=activation, residual=residual)


def _check_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, stride: int, border: str, act: str
) -> None:
    require(stride in (1, 2), f"stride must be 1 or 2, got {stride}")
    check_planes(x, None, ())
    check_weight(x, weight, weight.shape[1], bias, weight.shape[0])
    check_odd(weight, "[k, c, s, s]")
    check_planes(x, residual, _conv_shape(x, weight, stride))
    check_option("border", border, BORDERS)
    check_option("act", act, ACTS)


@torch.library.register_fake("deblurgan::conv_norm_relu")
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    stride: int = 1,
    border: str = "zero",
    act: str = "relu",
) -> Tensor:
    _check_conv(x, weight, bias, residual, stride, border, act)
    return x.new_empty(_conv_shape(x, weight, stride)).to(memory_format=torch.channels_last)


@operator
def conv_norm_relu_grad(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, border: str, act: str, wanted: list[bool]
) -> list[Tensor]:
    """The gradients of conv_norm_relu(x, weight, None, None, ...) by x and weight, those of the two that are wanted.

    `grad` [n, k, h', w'] is the gradient by its output. x's is in channels_last. Raises ValueError where the kernels do
    not run.
    """
    _check_conv_grad(grad, x, weight, stride, border, act, wanted)
    require_kernels(x)
    bordered = add_border(x, weight.shape[2] // 2, border)
    layer = _conv_layer(weight, stride)
    conv = Convolution(layer.kind, weight, cast(reference.Border, border))
    return _backward(layer, conv, bordered, grad, x, act, wanted)


def _check_conv_grad(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, border: str, act: str, wanted: list[bool]
) -> None:
    _check_conv(x, weight, None, None, stride, border, act)
    check_grad(grad, x, _conv_shape(x, weight, stride))
    check_wanted(wanted, "x weight")


@torch.library.register_fake("deblurgan::conv_norm_relu_grad")
def _(grad: Tensor, x: Tensor, weight: Tensor, stride: int, border: str, act: str, wanted: list[bool]) -> list[Tensor]:
    _check_conv_grad(grad, x, weight, stride, border, act, wanted)
    return empty_gradients(wanted, x, weight)


def _conv_by_kernels(
    wanted: list[bool],
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: None,
    stride: int,
    border: str,
    act: str,
) -> list[Tensor | None]:
    found = conv_norm_relu_grad(grad, x, weight, stride, border, act, wanted[:2]) if any(wanted[:2]) else []
    return [*spread(wanted[:2], found), _zeros(wanted[2], bias), None]


def _zeros(wanted: bool, bias: Tensor | None) -> Tensor | None:
    """The gradient of a bias that a norm subtracts again."""
    return torch.zeros_like(bias) if wanted and bias is not None else None


differentiable("conv_norm_relu", _reference_conv, _conv_by_kernels, 4, residual=3)


@operator
def up_conv_norm_relu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """relu(instance_norm(conv_transpose(x))): x [n, c, h, w], weight [c, k, 3, 3] -> [n, k, 2h, 2w]; see reference."""
    _check_up_conv(x, weight, bias)
    if not runs_kernels(x):
        return reference.up_conv_norm_relu(x, weight, bias).clone(memory_format=torch.channels_last)
    return _forward(up_layer(weight, x.dtype), add_border(x, 1, "zero"), _up_shape(x, weight), "relu", None)


def _up_shape(x: Tensor, weight: Tensor) -> tuple[int, int, int, int]:
    return x.shape[0], weight.shape[1], 2 * x.shape[2], 2 * x.shape[3]


def _check_up_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    check_planes(x, None, ())
    check_weight(x, weight, weight.shape[0], bias, weight.shape[1])
    require(tuple(weight.shape[2:]) == (3, 3), f"weight must be [c, k, 3, 3], got {tuple(weight.shape)}")


@torch.library.register_fake("deblurgan::up_conv_norm_relu")
def _(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    _check_up_conv(x, weight, bias)
    return x.new_empty(_up_shape(x, weight)).to(memory_format=torch.channels_last)


@operator
def up_conv_norm_relu_grad(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> list[Tensor]:
    """The gradients of up_conv_norm_relu(x, weight) by x and weight, those of the two that are wanted.

    `grad` [n, k, 2h, 2w] is the gradient by its output. x's is in channels_last. Raises ValueError where the kernels do
    not run.
    """
    _check_up_conv_grad(grad, x, weight, wanted)
    require_kernels(x)
    conv = Convolution("up", weight, "zero")
    return _backward(up_layer(weight, x.dtype), conv, add_border(x, 1, "zero"), grad, x, "relu", wanted)


def _check_up_conv_grad(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> None:
    _check_up_conv(x, weight, None)
    check_grad(grad, x, _up_shape(x, weight))
    check_wanted(wanted, "x weight")


@torch.library.register_fake("deblurgan::up_conv_norm_relu_grad")
def _(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> list[Tensor]:
    _check_up_conv_grad(grad, x, weight, wanted)
    return empty_gradients(wanted, x, weight)


def _up_conv_by_kernels(
    wanted: list[bool], grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None
) -> list[Tensor | None]:
    found = up_conv_norm_relu_grad(grad, x, weight, wanted[:2]) if any(wanted[:2]) else []
    return [*spread(wanted[:2], found), _zeros(wanted[2], bias)]


differentiable("up_conv_norm_relu", reference.up_conv_norm_relu, _up_conv_by_kernels, 3)
