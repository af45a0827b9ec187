"""The generator in training on a CPU: torch's convolutions in channels_last, and csrc/ between them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from deblurgan import ops
from deblurgan.ops.native_norm import norm_act, reflect_pad
from deblurgan.spec import GeneratorSpec, Stage


def restore(
    spec: GeneratorSpec, parameters: Mapping[str, Tensor], x: Tensor, *, dtype: torch.dtype, counter: Tensor | None
) -> Tensor:
    """What `Generator` gives for x [n, 3, h, w], computed in `dtype`, fp32 or bf16; differentiable once, by x and the
    parameters, of which biases before an InstanceNorm get no gradient. `counter` names dropout's masks.
    """
    with torch.autocast(x.device.type, enabled=False):
        y, residual = x.to(dtype, memory_format=torch.channels_last), None
        for stage in spec.stages[:-1]:
            z = _convolved(stage, y, _packed(parameters[f"{stage.name}.weight"], dtype))
            y = norm_act(z, stage.act, residual if stage.adds_residual else None)
            if stage.dropout is not None and counter is not None:
                mask = ops.dropout_mask(list(y.shape), spec.dropout, counter, stage.dropout)
                y = y * mask / (1 - spec.dropout)
            if stage.is_residual:
                residual = y
        y = reflect_pad(y, 3) if spec.border == "reflect" else F.pad(y, (3,) * 4)
        weight, bias = (parameters[f"head.{name}"].to(dtype) for name in ("weight", "bias"))
        y = torch.tanh(_convolved_by_squares(y, weight, bias))
        return (x + y.to(x.dtype)).clamp(-1, 1)


def _convolved(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    if stage.kind == "up":
        return F.conv_transpose2d(x, weight, stride=2, padding=1, output_padding=1)
    if stage.border == "zero":
        return F.conv2d(x, weight, stride=stage.stride, padding=stage.halo)
    return F.conv2d(reflect_pad(x, stage.halo), weight, stride=stage.stride)


def _convolved_by_squares(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.conv2d(x, weight, bias) for x [n, c, h, w] of even sides and a weight [k, c, 7, 7] of few results k.

    oneDNN computes 16 channels where it is asked for three. Those of a square of four pixels are twelve: a 4x4 weight
    [4 k, 4 c, 4, 4] on squares of x makes them with a third of the products.
    """
    shifted = [F.pad(weight, (right, 1 - right, down, 1 - down)) for down in (0, 1) for right in (0, 1)]
    of_squares = torch.cat([_squares(part) for part in shifted]).contiguous(memory_format=torch.channels_last)
    y = F.conv2d(_squares(x), of_squares, bias.repeat(4)).permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))
    return y.transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _squares(x: Tensor) -> Tensor:
    """[n, c, h, w] -> [n, 4 c, h / 2, w / 2]: pixels of a square from left to right, then down, each with its c."""
    rows = x.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    return rows.transpose(2, 3).flatten(3).permute(0, 3, 1, 2)


def _packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype, memory_format=torch.channels_last)
