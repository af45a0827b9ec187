"""What a training says before its first step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from deblurgan.device import choose_precision, why_no_kernels
from deblurgan.display import counted

if TYPE_CHECKING:
    from deblurgan.training.trainer import Trainer


def opening_lines(trainer: Trainer) -> Iterator[str]:
    """The device, the precision and the path with their reasons, the networks, and how long it is."""
    config, networks = trainer.resolved(), trainer.networks
    precision, why = choose_precision(trainer.config.precision, trainer.device)
    yield f"{_machine(trainer.device)}, {precision}: {why}"
    yield ", ".join(_path(trainer))
    critic = "" if networks.critic is None else f", critic of {_size(networks.critic)}"
    begun = "" if config.init is None or trainer.steps_done else f", begun with the weights of {config.init}"
    yield f"generator of {_size(networks.generator)} parameters{begun}{critic}"
    total, every = trainer.schedule.total_steps, config.val_every or 1
    if trainer.steps_done >= total:
        yield f"all {counted(total, 'step')} are done: nothing is left to train"
        return
    length = f"{counted(total, 'step')} of {counted(config.batch_size, 'crop')} of {config.crop} px"
    epochs = counted(trainer.schedule.epoch(total - 1) + 1, "epoch")
    yield f"{length}, {epochs}; validated {'each step' if every == 1 else f'every {every:,} steps and at the end'}"


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({counted(torch.get_num_threads(), 'thread')})" if device.type == "cpu" else str(device)


def _path(trainer: Trainer) -> Iterator[str]:
    """What runs a step."""
    config, processes, why_eager = trainer.config, trainer.processes, trainer.one_step.why_eager()
    if processes.count > 1:
        yield processes.describe(trainer.device)
    if trainer.device.type == "cuda" and config.backend == "auto":
        why = why_no_kernels(trainer.device)
        yield "our kernels" if why is None else f"plain torch in place of our kernels ({why})"
    if trainer.device.type == "cpu":
        yield "each step in plain torch"
    else:
        yield "each step one CUDA graph" if why_eager is None else f"steps are not CUDA graphs: {why_eager}"
    if config.compile:
        yield "compiled by torch.compile in the first step, which takes long"


def _size(net: nn.Module) -> str:
    return f"{sum(p.numel() for p in net.parameters()) / 1e6:.3g} million"
