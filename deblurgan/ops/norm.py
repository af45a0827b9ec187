"""norm_act: InstanceNorm, activation and residual of a picture."""

from __future__ import annotations

from typing import cast, get_args

import torch
from torch import Tensor

from deblurgan import reference
from deblurgan.kernels.config import NormActInputs, PaddedGradient
from deblurgan.ops.autograd import differentiable
from deblurgan.ops.common import check_grad, check_option, check_planes, operator, require_kernels, runs_kernels

ACTS: tuple[str, ...] = get_args(reference.Act)
SLOPES = {"relu": 0.0, "leaky_relu": reference.SLOPE, "none": 1.0}  # of the activation below 0


@operator
def norm_act(x: Tensor, residual: Tensor | None = None, act: str = "relu") -> Tensor:
    """residual + act(instance_norm(x)), all [n, c, h, w]; see reference. The result is in channels_last."""
    check_planes(x, residual, tuple(x.shape))
    check_option("act", act, ACTS)
    if not runs_kernels(x):
        return _reference_norm_act(x, residual, act).clone(memory_format=torch.channels_last)
    from deblurgan.kernels.norm_act import norm_act as kernel
    from deblurgan.kernels.tile_stats import plane_stats

    planes = x.permute(0, 2, 3, 1).contiguous()
    out = torch.empty_like(planes)
    added = None if residual is None else residual.permute(0, 2, 3, 1).contiguous()
    with torch.cuda.device_of(x):
        stats = plane_stats(planes, eps=reference.EPS)
        kernel(NormActInputs(planes, stats, SLOPES[act]), out, residual=added)
    return out.permute(0, 3, 1, 2)


def _reference_norm_act(x: Tensor, residual: Tensor | None, act: str) -> Tensor:
    return reference.norm_act(x, act=cast(reference.Act, act), residual=residual)


@torch.library.register_fake("deblurgan::norm_act")
def _(x: Tensor, residual: Tensor | None = None, act: str = "relu") -> Tensor:
    check_planes(x, residual, tuple(x.shape))
    return torch.empty_like(x, memory_format=torch.channels_last)


@operator
def norm_act_grad(grad: Tensor, x: Tensor, act: str) -> Tensor:
    """The gradient by x [n, c, h, w] of norm_act(x, None, act), whose result has the gradient `grad`; in channels_last.

    Deterministic, and not differentiable. Raises ValueError where the kernels do not run: see `norm_act`.
    """
    _check_norm_act_grad(grad, x, act)
    require_kernels(x)
    from deblurgan.kernels.tile_stats import plane_stats

    planes, g = (t.permute(0, 2, 3, 1).contiguous() for t in (x, grad))
    out = torch.empty_like(planes)
    with torch.cuda.device_of(x):
        stats = plane_stats(planes, eps=reference.EPS)
        norm_act_backward(g, NormActInputs(planes, stats, SLOPES[act]), PaddedGradient.unpadded(out))
    return out.permute(0, 3, 1, 2)


def _check_norm_act_grad(grad: Tensor, x: Tensor, act: str) -> None:
    check_planes(x, None, ())
    check_grad(grad, x, tuple(x.shape))
    check_option("act", act, ACTS)


@torch.library.register_fake("deblurgan::norm_act_grad")
def _(grad: Tensor, x: Tensor, act: str) -> Tensor:
    _check_norm_act_grad(grad, x, act)
    return torch.empty_like(x, memory_format=torch.channels_last)


def norm_act_backward(grad: Tensor, inputs: NormActInputs, out: PaddedGradient) -> None:
    """Fills out with the gradient of inputs.y from that of norm_act's output, all [n, h, w, c]."""
    from deblurgan.kernels import norm_act_grad as kernels

    sums = kernels.norm_act_reduce(grad, inputs)
    kernels.norm_act_grad(grad, inputs, sums, out)


def _norm_act_by_kernels(wanted: list[bool], grad: Tensor, x: Tensor, residual: None, act: str) -> list[Tensor | None]:
    return [norm_act_grad(grad, x, act), None]


differentiable("norm_act", _reference_norm_act, _norm_act_by_kernels, 2, residual=1)
