"""output_tail: the last convolution, tanh, the sum with the picture, and the clamp."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from deblurgan import reference
from deblurgan.kernels.config import PACKED_CHANNELS, ConvShape
from deblurgan.kernels.table import config_picker, current_gpu, head_config
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
from deblurgan.ops.conv_blocks import BORDERS, add_border, convolution_gradients, pick_gradient_configs
from deblurgan.ops.conv_grad import Convolution


@operator
def output_tail(x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str) -> Tensor:
    """clamp(image + tanh(conv(x)), -1, 1): x [n, k, h, w], image [n, c, h, w], weight [c, k, s, s]; see reference."""
    _check_tail(x, image, weight, bias, border)
    if not _runs_tail(x, image, weight, bias):
        return _reference_tail(x, image, weight, bias, border).contiguous()
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    with torch.cuda.device_of(x):
        _tail(add_border(x, weight.shape[2] // 2, border), image, weight, bias, out)
    return out


def _runs_tail(x: Tensor, image: Tensor, weight: Tensor, bias: Tensor) -> bool:
    return runs_kernels(x) and weight.shape[0] <= PACKED_CHANNELS and weight.shape[2] <= 8


def _tail(
    bordered: Tensor, image: Tensor, weight: Tensor, bias: Tensor, out: Tensor, saved: Tensor | None = None
) -> None:
    """Fills `out` with output_tail's result, and `saved`, fp32, with its tanh, both [n, c, h, w]."""
    from deblurgan.kernels.output_tail import output_tail, pack_tail_weight

    n, _, h, w = image.shape
    shape = ConvShape("head", weight.shape[1], weight.shape[0], n * h * w, image.dtype)
    config = head_config(config_picker(current_gpu(image.device)), shape)
    rows = pack_tail_weight(weight, config.block_n, bordered.dtype)
    output_tail(bordered, rows, bias.float().contiguous(), image, out, config=config, saved=saved)


def _reference_tail(x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str) -> Tensor:
    return reference.output_tail(x, image, weight, bias, border=cast(reference.Border, border))


def _check_tail(x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str) -> None:
    check_planes(x, None, ())
    check_weight(x, weight, weight.shape[1], bias, weight.shape[0])
    check_odd(weight, "[c, k, s, s]")
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    got = tuple(image.shape)
    require(got == shape and image.is_floating_point(), f"image must be floats {shape}, got {image.dtype} {got}")
    require(image.device == x.device, f"image must be on {x.device}, got {image.device}")
    check_option("border", border, BORDERS)


@torch.library.register_fake("deblurgan::output_tail")
def _(x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str) -> Tensor:
    _check_tail(x, image, weight, bias, border)
    return torch.empty_like(image, memory_format=torch.contiguous_format)


@operator
def output_tail_grad(
    grad: Tensor, x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str, wanted: list[bool]
) -> list[Tensor]:
    """The gradients of output_tail by x, image, weight and bias, those of the four that are wanted.

    `grad` [n, c, h, w] is the gradient by its output. x's is in channels_last. Raises ValueError where the kernels do
    not run; they make at most 4 channels by at most 7x7 taps.
    """
    _check_tail_grad(grad, x, image, weight, bias, border, wanted)
    require_kernels(x)
    require(_runs_tail(x, image, weight, bias), f"weight must be at most [8, k, 7, 7], got {tuple(weight.shape)}")
    from deblurgan.kernels import output_tail_grad as kernels

    n, _, h, w = image.shape
    conv = Convolution("head", weight, cast(reference.Border, border))
    out = empty_gradients(wanted, x, image, weight, bias)
    with torch.cuda.device_of(x):
        bordered = add_border(x, conv.halo, border)
        tanh = torch.empty(image.shape, dtype=torch.float32, device=x.device)
        _tail(bordered, image, weight, bias, torch.empty_like(image), tanh)
        dz = conv_grad.head_output_gradient(conv, n, h, w, like=x)
        by_bias = kernels.output_tail_grad(grad, image, tanh, dz)
        configs, both = pick_gradient_configs(conv, dz.inside), (wanted[0], wanted[2])
        by_x, by_weight = spread(both, convolution_gradients(conv, bordered, dz, configs, both))
        by_image = torch.where((image + tanh).abs() <= 1, grad, 0) if wanted[1] else None
        found = (by_x, by_image, by_weight, by_bias if wanted[3] else None)
        for memory, gradient in zip(out, (gradient for gradient in found if gradient is not None), strict=True):
            memory.copy_(gradient)
    return out


def _check_tail_grad(
    grad: Tensor, x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str, wanted: list[bool]
) -> None:
    _check_tail(x, image, weight, bias, border)
    check_grad(grad, image, tuple(image.shape))
    check_wanted(wanted, "x image weight bias")


@torch.library.register_fake("deblurgan::output_tail_grad")
def _(
    grad: Tensor, x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str, wanted: list[bool]
) -> list[Tensor]:
    _check_tail_grad(grad, x, image, weight, bias, border, wanted)
    return empty_gradients(wanted, x, image, weight, bias)


def _tail_by_kernels(
    wanted: list[bool], grad: Tensor, x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str
) -> list[Tensor | None]:
    return spread(wanted, output_tail_grad(grad, x, image, weight, bias, border, wanted))


differentiable("output_tail", _reference_tail, _tail_by_kernels, 4, runs=_runs_tail)
