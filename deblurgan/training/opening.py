"""What a training says before its first step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from deblurgan.device import choose_precision, why_no_kernels

if TYPE_CHECKING:
    from deblurgan.training.trainer import Trainer


def opening_lines(trainer: Trainer) -> Iterator[str]:
    """The pictures, the device, the precision and the path with their reasons, the networks, and how long it is."""
    config, networks = trainer.resolved(), trainer.networks
    yield f"{len(trainer.train_set)} pictures to train on, {len(trainer.val_set)} to validate on"
    precision, why = choose_precision(trainer.config.precision, trainer.device)
    yield f"{_machine(trainer.device)}, {precision}: {why}"
    yield ", ".join(_path(trainer))
    critic = "" if networks.critic is None else f", critic of {_size(networks.critic)}"
    yield f"generator of {_size(networks.generator)} parameters{critic}"
    total, epochs = trainer.schedule.total_steps, trainer.schedule.epoch(trainer.schedule.total_steps - 1) + 1
    yield (
        f"{total} steps of {config.batch_size} crops of {config.crop} px, {epochs} epochs; "
        f"validated every {config.val_every} steps"
    )


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def _path(trainer: Trainer) -> Iterator[str]:
    """What runs a step."""
    config, why_eager = trainer.config, trainer.one_step.why_eager()
    if trainer.processes.count > 1:
        yield trainer.processes.describe(trainer.device)
    if trainer.device.type == "cuda" and config.backend == "auto":
        why = why_no_kernels(trainer.device)
        yield "our kernels" if why is None else f"plain torch in place of our kernels ({why})"
    yield "each step one CUDA graph" if why_eager is None else f"steps are not graphs: {why_eager}"
    if config.compile:
        yield "compiled by torch.compile in the first step, which takes long"


def _size(net: nn.Module) -> str:
    return f"{sum(p.numel() for p in net.parameters()) / 1e6:.3g} million"
