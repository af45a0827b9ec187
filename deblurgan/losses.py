"""Adversarial, gradient-penalty, content and pixel losses. Pictures in [-1, 1]; each returns a scalar to minimise."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from deblurgan.config import Gan, Norm, Pixel


def critic_loss(sharp_scores: Tensor, restored_scores: Tensor, *, gan: Gan = "wgan-gp") -> Tensor:
    """What the critic minimises, from its scores of any shape.

    wgan-gp: mean(restored) - mean(sharp), the penalty apart. lsgan: half of (sharp - 1)^2 + restored^2, mean of each;
    lsgan-l1 the same with |.|, as the released code has it. vanilla: half of the two cross-entropies of the logits
    (the released critic ends in a sigmoid instead).
    """
    _check_gan(gan)
    if gan == "wgan-gp":
        return restored_scores.mean() - sharp_scores.mean()
    distance = _distance(gan)
    return 0.5 * (distance(sharp_scores, 1.0) + distance(restored_scores, 0.0))


def generator_loss(restored_scores: Tensor, *, gan: Gan = "wgan-gp") -> Tensor:
    """What the generator minimises, from the critic's scores of its pictures: -mean for wgan-gp, else the distance to
    the target of sharp pictures."""
    _check_gan(gan)
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
) -> Tensor:
    """weight * mean((|grad D(x)| - 1)^2) at x = alpha * sharp + (1 - alpha) * restored, all [n, 3, h, w].

    The gradient is that of the sum of a picture's scores, as released (the critic loss uses their mean).
    norm "sample": one norm a picture (Gulrajani et al. 2017); alpha ~ U(0, 1) a picture. norm "pixel": the norm over
    the channels of each pixel, and one alpha for the whole batch, as the released code has it.
    `alpha` broadcasts against the pictures; `generator` draws it otherwise. Where the gradient is exactly 0 the norm's
    own gradient counts as 0, not NaN. Differentiable once more, with respect to the critic.
    Raises ValueError where shapes differ.
    """
    if sharp.shape != restored.shape:
        raise ValueError(f"restored must have the shape of sharp {tuple(sharp.shape)}, got {tuple(restored.shape)}")
    if norm not in get_args(Norm):
        raise ValueError(f"norm must be 'sample' or 'pixel', got {norm!r}")
    if alpha is None:
        draws = sharp.shape[0] if norm == "sample" else 1
        alpha = torch.rand(draws, 1, 1, 1, dtype=sharp.dtype, device=sharp.device, generator=generator)
    x = (alpha * sharp.detach() + (1 - alpha) * restored.detach()).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    squares = gradient.square()
    total = squares.flatten(1).sum(1) if norm == "sample" else squares.sum(1)
    positive = total > 0
    length = torch.where(positive, total, 1).sqrt() * positive
    return weight * (length - 1).square().mean()


def content(restored_features: Tensor, sharp_features: Tensor) -> Tensor:
    """Mean squared difference of features (paper section 3.1; averaged over channels too, as released)."""
    return F.mse_loss(restored_features, sharp_features)


def pixel(restored: Tensor, sharp: Tensor, *, kind: Pixel = "l1") -> Tensor:
    """Mean absolute ("l1") or squared ("l2") difference of the pictures."""
    if kind not in get_args(Pixel):
        raise ValueError(f"kind must be one of {', '.join(get_args(Pixel))}, got {kind!r}")
    return F.l1_loss(restored, sharp) if kind == "l1" else F.mse_loss(restored, sharp)


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, down plus across. The paper tried and dropped it (-0.8 dB on GoPro)."""
    return (x[..., 1:, :] - x[..., :-1, :]).abs().mean() + (x[..., 1:] - x[..., :-1]).abs().mean()


def _check_gan(gan: str) -> None:
    if gan not in get_args(Gan):
        raise ValueError(f"gan must be one of {', '.join(get_args(Gan))}, got {gan!r}")


def _distance(gan: Gan) -> Callable[[Tensor, float], Tensor]:
    """How far scores are from a target, for the losses that have targets."""
    if gan == "vanilla":
        return lambda scores, target: F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, target))
    if gan == "lsgan":
        return lambda scores, target: (scores - target).square().mean()
    return lambda scores, target: (scores - target).abs().mean()
