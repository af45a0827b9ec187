"""Adversarial, gradient-penalty, content and pixel losses. Pictures in [-1, 1]; each returns a scalar to minimise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeGuard, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deblurgan import ops
from deblurgan.arguments import require_pair, require_tensor
from deblurgan.config import Gan, Norm, Pixel
from deblurgan.nn import Critic
from deblurgan.ops import critic_gradients

Form = Literal["auto", "double"]


def critic_loss(sharp_scores: Tensor, restored_scores: Tensor, *, gan: Gan = "wgan-gp") -> Tensor:
    """What the critic minimises, from its scores of any shape.

    wgan-gp: mean(restored) - mean(sharp), without the penalty. lsgan: half of mean((sharp - 1)^2) + mean(restored^2);
    lsgan-l1: the same with absolute values, as in the released code. vanilla: half of the sum of the two mean
    cross-entropies of the scores as logits (the released critic ends in a sigmoid instead).
    """
    _check_gan(gan)
    require_tensor("sharp_scores", sharp_scores, "of scores")
    require_tensor("restored_scores", restored_scores, "of scores")
    if gan == "wgan-gp":
        return restored_scores.mean() - sharp_scores.mean()
    distance = _distance(gan)
    return 0.5 * (distance(sharp_scores, 1.0) + distance(restored_scores, 0.0))


def generator_loss(restored_scores: Tensor, *, gan: Gan = "wgan-gp") -> Tensor:
    """What the generator minimises, from the critic's scores of its pictures: -mean for wgan-gp, else the mean distance
    to 1, the score that the critic learns to give to sharp pictures."""
    _check_gan(gan)
    require_tensor("restored_scores", restored_scores, "of scores")
    if gan == "wgan-gp":
        return -restored_scores.mean()
    return _distance(gan)(restored_scores, 1.0)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    sharp: Tensor,
    restored: Tensor,
    *,
    weight: float = 10.0,
    norm: Norm = "sample",
    alpha: Tensor | None = None,
    generator: torch.Generator | None = None,
    form: Form = "auto",
) -> Tensor:
    """weight * mean((|grad D(x)| - 1)^2) at x = alpha * sharp + (1 - alpha) * restored, all [n, 3, h, w].

    The gradient is that of the sum of a picture's scores, as released (the critic loss uses their mean).
    norm "sample": one norm a picture (Gulrajani et al. 2017); alpha ~ U(0, 1) a picture. norm "pixel": the norm over
    the channels of each pixel, and one alpha for the whole batch, as the released code has it.
    `alpha` broadcasts against the pictures; without it `generator` draws it. Where the gradient is exactly 0 the norm's
    own gradient counts as 0, not NaN. The result can be differentiated by the critic's parameters.

    form "auto": for an unchanged `nn.Critic` (see `is_plain`) the gradients of the weights are computed together with
    the value, without double backward (see `ops.critic_gradients`), in autocast's type where that is active. For any
    other critic, and with form "double", autograd differentiates twice; only this form can be differentiated again.
    Raises ValueError where shapes differ.
    """
    require_pair("restored", restored, "sharp", sharp)
    for name, given, options in (("norm", norm, get_args(Norm)), ("form", form, get_args(Form))):
        if given not in options:
            raise ValueError(f"{name} must be {' or '.join(map(repr, options))}, got {given!r}")
    if alpha is None:
        draws = sharp.shape[0] if norm == "sample" else 1
        alpha = torch.rand(draws, 1, 1, 1, dtype=sharp.dtype, device=sharp.device, generator=generator)
    x = alpha * sharp.detach() + (1 - alpha) * restored.detach()
    if form == "auto" and is_plain(critic):
        return _penalty_of_plain(critic, x, norm, weight)
    return _penalty_by_double_backward(critic, x, norm, weight)


def _penalty_by_double_backward(critic: Callable[[Tensor], Tensor], x: Tensor, norm: Norm, weight: float) -> Tensor:
    """The penalty at x, for any critic, by autograd."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=differentiable)
    squares = gradient.square()
    total = squares.flatten(1).sum(1) if norm == "sample" else squares.sum(1)
    positive = total > 0
    length = torch.where(positive, total, 1).sqrt() * positive
    return weight * (length - 1).square().mean()


def is_plain(critic: Callable[[Tensor], Tensor]) -> TypeGuard[Critic]:
    """Whether it is an unchanged `nn.Critic`: no hook, no wrapper, no replaced layer or forward."""
    if type(critic) is not Critic or any(_is_changed(module) for module in critic.modules()):
        return False
    convs = convolutions(critic)
    strides = [(2, 2)] * (len(convs) - 2) + [(1, 1)] * 2
    return all(
        (conv.kernel_size, conv.stride, conv.padding) == ((4, 4), stride, convs[0].padding)
        and (conv.padding_mode, conv.dilation, conv.groups) == ("zeros", (1, 1), 1)
        and conv.bias is not None
        for conv, stride in zip(convs, strides, strict=True)
    )


def _is_changed(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return type(module) not in (Critic, nn.ModuleList, nn.Conv2d) or "forward" in vars(module) or any(hooks)


def convolutions(critic: Critic) -> list[nn.Conv2d]:
    """The critic's convolutions, first to last."""
    return cast(list[nn.Conv2d], list(critic.convs))


def _penalty_of_plain(critic: Critic, x: Tensor, norm: Norm, weight: float) -> Tensor:
    """The penalty at x of an unchanged critic, with its weights' gradients where they are wanted."""
    first, *_ = convs = convolutions(critic)
    weights, bias, padding = [conv.weight for conv in convs], cast(Tensor, first.bias), cast(int, first.padding[0])
    dtype = None
    if torch.is_autocast_enabled(x.device.type) and bias.dtype != torch.float64:  # autocast leaves fp64 alone
        x, dtype = x.to(bias.dtype), torch.get_autocast_dtype(x.device.type)
    if torch.is_grad_enabled() and any(p.requires_grad for p in (*weights, bias)):
        return ops.gradient_penalty(x, weights, bias, padding, norm, weight, dtype)[0]
    return critic_gradients.penalty_value(weights, bias, x, padding=padding, norm=norm, weight=weight, dtype=dtype)


def content(restored_features: Tensor, sharp_features: Tensor) -> Tensor:
    """Mean squared difference of features (paper section 3.1; averaged over channels too, as released)."""
    require_pair("restored_features", restored_features, "sharp_features", sharp_features)
    return F.mse_loss(restored_features, sharp_features)


def pixel(restored: Tensor, sharp: Tensor, *, kind: Pixel = "l1") -> Tensor:
    """Mean absolute ("l1") or squared ("l2") difference of the pictures."""
    if kind not in get_args(Pixel):
        raise ValueError(f"kind must be one of {', '.join(get_args(Pixel))}, got {kind!r}")
    require_pair("restored", restored, "sharp", sharp)
    return F.l1_loss(restored, sharp) if kind == "l1" else F.mse_loss(restored, sharp)


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, down plus across. The paper tried and dropped it (-0.8 dB on GoPro)."""
    require_tensor("x", x)
    return (x[..., 1:, :] - x[..., :-1, :]).abs().mean() + (x[..., 1:] - x[..., :-1]).abs().mean()


def _check_gan(gan: str) -> None:
    if gan not in get_args(Gan):
        raise ValueError(f"gan must be one of {', '.join(get_args(Gan))}, got {gan!r}")


def _distance(gan: Gan) -> Callable[[Tensor, float], Tensor]:
    """The mean distance of scores from a target, for the losses that have targets."""
    if gan == "vanilla":
        return lambda scores, target: F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, target))
    if gan == "lsgan":
        return lambda scores, target: (scores - target).square().mean()
    return lambda scores, target: (scores - target).abs().mean()
