"""What the generator's update minimises, part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from deblurgan import losses
from deblurgan.config import Gan, TrainConfig
from deblurgan.training.networks import Networks
from deblurgan.training.numerics import autocast

LOSSES = ("critic", "penalty", "adversarial", "content", "pixel", "tv")
"""The names of a step's losses, the critic's two first, in the order in which a step returns them."""
MEASURES = (*LOSSES, "critic_grad", "generator_grad")
"""What a step returns: its losses, then the gradients' L2 norms in the last critic's update and the generator's."""

OwnLoss = Callable[[Tensor, Tensor], Tensor]
"""A loss of one's own: (restored, sharp), fp32 [n, 3, h, w] in [-1, 1], to a tensor whose mean is the loss."""


def measures(config: TrainConfig) -> tuple[str, ...]:
    """What a step returns: MEASURES, with the losses of one's own after ours."""
    return (*LOSSES, *config.losses, *MEASURES[len(LOSSES) :])


def on_device(own: Mapping[str, OwnLoss], device: torch.device) -> dict[str, OwnLoss]:
    """The losses of one's own; those that are modules are moved to the device, put into eval mode and frozen."""
    modules = [loss for loss in own.values() if isinstance(loss, nn.Module)]
    for module in modules:
        module.to(device).eval().requires_grad_(False)
    return dict(own)


def generator_losses(
    config: TrainConfig,
    networks: Networks,
    restored: Tensor,
    sharp: Tensor,
    *,
    precision: str,
    own: Mapping[str, OwnLoss] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """The weighted losses of the generator's pictures `restored` by name; pictures are fp32 [n, 3, h, w] in [-1, 1]."""
    terms: dict[str, Tensor] = {}
    with autocast(restored.device, precision):
        if networks.critic is not None:
            scores = networks.critic(restored).float()
            terms["adversarial"] = losses.generator_loss(scores, gan=cast(Gan, config.gan))
        if networks.features is not None:
            with torch.no_grad():
                target = networks.features(sharp).float()
            terms["content"] = config.content_weight * losses.content(networks.features(restored).float(), target)
    if config.pixel != "none":
        terms["pixel"] = config.pixel_weight * losses.pixel(restored, sharp, kind=config.pixel)
    if config.tv_weight:
        terms["tv"] = config.tv_weight * losses.total_variation(restored)
    return terms | {name: _own_loss(name, loss(restored, sharp)) for name, loss in own.items()}


def _own_loss(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"losses[{name!r}] must return a tensor, got {type(value).__name__}")
    return value.float().mean()
