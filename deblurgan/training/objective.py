"""What the generator's update minimises, part by part."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from deblurgan import losses
from deblurgan.config import Gan, TrainConfig
from deblurgan.training.networks import Networks
from deblurgan.training.numerics import autocast

LOSSES = ("critic", "penalty", "adversarial", "content", "pixel", "tv")
"""The names of a step's losses, the critic's two first, in the order in which a step returns them."""
MEASURES = (*LOSSES, "critic_grad", "generator_grad")
"""What a step returns: its losses, then the gradients' L2 norms in the last critic's update and the generator's."""


def generator_losses(
    config: TrainConfig, networks: Networks, restored: Tensor, sharp: Tensor, *, precision: str
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
    return terms
