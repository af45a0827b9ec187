"""The arithmetic of strips in plain torch, but on a CPU for what follows a convolution."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from deblurgan.generator.head import head_conv
from deblurgan.generator.strips import Moments
from deblurgan.kernels.config import Border
from deblurgan.ops.strips import strip_moments, strip_norm_act, takes_rows
from deblurgan.spec import Stage


class TorchOps:
    """`strips.StripOps` with the weights of `state`, a generator's, on their device and in their type.

    A bias before an InstanceNorm, which subtracts it again, is left out.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state
        self.dtype, self.device = state["head.weight"].dtype, state["head.weight"].device

    def window(self, stage: Stage, rows: int, w: int) -> Tensor:
        return torch.empty(rows, w + 2 * stage.halo, stage.channels_in, dtype=self.dtype, device=self.device)

    def pack(self, pixels: Tensor, out: Tensor, border: Border) -> None:
        with_sides(pixels, out, border)

    def conv(self, stage: Stage, x: Tensor) -> tuple[Tensor, Moments]:
        weight, planes = self.state[f"{stage.name}.weight"], x.permute(2, 0, 1)[None]
        if stage.kind == "up":  # of the border, too, which is cut off again
            y = F.conv_transpose2d(planes, weight, stride=2, padding=3, output_padding=1)
        else:
            y = F.conv2d(planes, weight, stride=stage.stride)
        rows = y[0].permute(1, 2, 0)
        return rows, moments(rows)

    def activate(
        self, stage: Stage, y: Tensor, stats: Tensor, residual: Tensor | None, out: Tensor, border: Border
    ) -> None:
        if takes_rows(y) and (residual is None or takes_rows(residual)):
            strip_norm_act(y, stats, stage.act, residual, out, border)
            return
        mean, inverse_std = stats
        value = y.to(torch.promote_types(y.dtype, torch.float32), copy=True).sub_(mean).mul_(inverse_std)
        if stage.act == "relu":
            value.relu_()
        if residual is not None:
            value.add_(residual)
        with_sides(value, out, border)

    def head(self, x: Tensor, pixels: Tensor) -> Tensor:
        y = head_conv(x.permute(2, 0, 1)[None], self.state["head.weight"], self.state["head.bias"])
        return torch.tanh(y)[0].permute(1, 2, 0).float().add_(pixels).clamp_(-1, 1)


def moments(y: Tensor) -> Moments:
    """Of the planes of y [rows, w, c], about a pivot: a constant plane has its own value as mean, and no variance."""
    if takes_rows(y):
        return Moments(y.shape[0] * y.shape[1], *strip_moments(y))
    values = y.reshape(-1, y.shape[2]).to(torch.promote_types(y.dtype, torch.float32))
    pivot = values[0]
    centred = values - pivot
    mean = centred.mean(0)
    m2 = centred.sub_(mean).square_().sum(0)
    return Moments(len(values), pivot + mean, m2)


def with_sides(rows: Tensor, out: Tensor, border: Border) -> None:
    """rows [rows, w, c] into the middle of out [rows, w + 2b, c], and their border beside them."""
    width = border.width
    out[:, width:-width] = rows
    if border.mode == "zero":
        out[:, :width] = 0
        out[:, -width:] = 0
    else:
        out[:, :width] = out[:, width + 1 : 2 * width + 1].flip(1)
        out[:, -width:] = out[:, -2 * width - 1 : -width - 1].flip(1)
