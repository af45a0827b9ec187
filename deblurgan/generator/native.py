"""The generator in training on a CPU: torch's convolutions in channels_last, and csrc/ between them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from deblurgan import ops
from deblurgan.generator.head import head_conv
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
        y = torch.tanh(head_conv(y, weight, bias))
        return (x + y.to(x.dtype)).clamp(-1, 1)


def _convolved(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    if stage.kind == "up":
        return F.conv_transpose2d(x, weight, stride=2, padding=1, output_padding=1)
    if stage.border == "zero":
        return F.conv2d(x, weight, stride=stage.stride, padding=stage.halo)
    return F.conv2d(reflect_pad(x, stage.halo), weight, stride=stage.stride)


def _packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype, memory_format=torch.channels_last)
