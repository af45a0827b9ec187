"""gradient_penalty: the critic's penalty, with its gradients by the critic's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, get_args

import torch
from torch import Tensor

from deblurgan.config import Norm
from deblurgan.ops import critic_gradients
from deblurgan.ops.common import check_option, check_planes, check_weight, operator, require

NORMS: tuple[str, ...] = get_args(Norm)


@operator
def gradient_penalty(
    x: Tensor,
    weights: Sequence[Tensor],
    bias: Tensor,
    padding: int,
    norm: str,
    weight: float,
    dtype: torch.dtype | None,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """weight * mean((|grad D(x)| - 1)^2) of nn.Critic's convolutions, and its gradients by their weights and by the
    first bias; see `critic_gradients.penalty_gradients`. The value is differentiable once, by weights and bias."""
    _check_penalty(x, weights, bias, padding, norm, dtype)
    kind = cast(Norm, norm)
    return critic_gradients.penalty_gradients(weights, bias, x, padding=padding, norm=kind, weight=weight, dtype=dtype)


def _check_penalty(
    x: Tensor, weights: Sequence[Tensor], bias: Tensor, padding: int, norm: str, dtype: torch.dtype | None
) -> None:
    check_planes(x, None, ())
    require(len(weights) >= 3, f"weights must be of 3 convolutions or more, got {len(weights)}")
    for before, weight in zip([x, *weights], weights, strict=False):
        channels = before.shape[1 if before is x else 0]
        got = tuple(weight.shape)
        require(got[1:] == (channels, 4, 4), f"weights must be [k, c, 4, 4] with c = {channels}, got {got}")
        check_weight(x, weight, x.shape[1], None, 0)
    check_weight(x, weights[0], x.shape[1], bias, weights[0].shape[0])
    require(weights[-1].shape[0] == 1, f"weights must end in one channel of scores, got {weights[-1].shape[0]}")
    require(padding in (1, 2), f"padding must be 1 or 2, got {padding}")
    check_option("norm", norm, NORMS)
    require(dtype is None or dtype.is_floating_point, f"dtype must be a floating-point type, got {dtype}")


@torch.library.register_fake("deblurgan::gradient_penalty")
def _(
    x: Tensor,
    weights: Sequence[Tensor],
    bias: Tensor,
    padding: int,
    norm: str,
    weight: float,
    dtype: torch.dtype | None,
) -> tuple[Tensor, list[Tensor], Tensor]:
    _check_penalty(x, weights, bias, padding, norm, dtype)
    value = x.new_empty((), dtype=x.dtype if x.dtype == torch.float64 else torch.float32)
    return value, [torch.empty_like(w) for w in weights], torch.empty_like(bias)


def _gradient_penalty_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    require(not ctx.needs_input_grad[0], "x must not require a gradient, and none is known by it")
    _, gradients, of_bias = output
    ctx.mark_non_differentiable(*gradients, of_bias)
    ctx.save_for_backward(*gradients, of_bias)


def _gradient_penalty_backward(ctx, grad: Tensor, *_):  # type: ignore[no-untyped-def]
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the gradient penalty is differentiable once; for create_graph=True use "
            "losses.gradient_penalty(..., form='double')"
        )
    *gradients, of_bias = (grad * g for g in ctx.saved_tensors)
    return None, gradients, of_bias, None, None, None, None


torch.library.register_autograd(
    "deblurgan::gradient_penalty", _gradient_penalty_backward, setup_context=_gradient_penalty_setup
)
