"""The networks of a training, built as its config says."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deblurgan import checkpoint, losses
from deblurgan.config import TrainConfig
from deblurgan.nn import Critic, Generator, PerceptualFeatures, trained_parameters


class Networks(NamedTuple):
    """What a step trains and needs, all on one device."""

    generator: Generator
    critic: Critic | None
    average: Generator | None
    """The moving average of the generator's weights."""
    features: PerceptualFeatures | None
    """The frozen network of the content loss."""

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return next(self.generator.parameters()).device

    @property
    def validated(self) -> Generator:
        """The generator that is validated and saved: the moving average where there is one."""
        return self.average or self.generator


def build_networks(config: TrainConfig, device: torch.device) -> Networks:
    """New networks, or the generator of `config.init`. The config's seed alone decides their weights."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        generator = build_generator(config).to(device).train()
        critic = None if config.gan == "none" else Critic().to(device)
    if device.type == "cuda":
        _to_channels_last(generator)
        _to_channels_last(critic)
    average = deepcopy(generator).eval().requires_grad_(False) if config.ema else None
    features = None
    if config.content != "none":
        features = PerceptualFeatures(config.content, weights=config.content_weights, relu=config.content_relu)
        _to_channels_last(features.to(device))
    return Networks(generator, critic, average, features)


def build_generator(config: TrainConfig) -> Generator:
    """A new generator on the CPU, or that of `config.init`. Raises ValueError where width or blocks are not those of
    init."""
    if config.init is not None:
        return _load_generator(config.init, config)
    generator = Generator(config.preset, width=config.width, blocks=config.blocks, dropout=config.dropout)
    if config.identity_start:
        nn.init.zeros_(generator.get_parameter("head.weight"))
    return generator


def _load_generator(init: Path, config: TrainConfig) -> Generator:
    generator = checkpoint.load_pretrained(init)
    if config.dropout is not None:
        weights = generator.state_dict()
        generator = Generator(**{**generator.config(), "dropout": config.dropout})
        generator.load_state_dict(weights)
    for name in ("width", "blocks"):
        wanted, given = getattr(generator.spec, name), getattr(config, name)
        if given not in (None, wanted):
            raise ValueError(f"{name} must be that of init {init}, {wanted}, got {given}")
    return generator


def _to_channels_last(net: nn.Module | None) -> None:
    """Lays the weights out as cuDNN and our kernels read them, so that no step has to copy them or their gradients."""
    if net is not None:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def parameters_that_matter(net: Generator | Critic, config: TrainConfig) -> list[nn.Parameter]:
    """The parameters that training changes.

    Biases before an InstanceNorm have no effect. With WGAN-GP neither has the critic's last bias, since a constant
    added to all scores changes no gradient.
    """
    parameters = trained_parameters(net)
    if isinstance(net, Critic) and config.gan == "wgan-gp":
        return [p for p in parameters if p is not losses.convolutions(net)[-1].bias]
    return parameters


def to_network(pictures: Tensor) -> Tensor:
    """uint8 in 0 ... 255 -> fp32 in [-1, 1]."""
    return pictures.to(torch.float32) / 127.5 - 1


def to_bytes(pictures: Tensor) -> Tensor:
    """[-1, 1] -> uint8, rounded to nearest."""
    return ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
