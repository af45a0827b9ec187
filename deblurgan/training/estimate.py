"""How long a training takes on this machine, by some of its steps."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from deblurgan.config import TrainConfig
from deblurgan.training.trainer import Trainer

STEPS, SECONDS = 5, 30.0  # the most steps that are measured, and the time after which no other begins


class StepTime(NamedTuple):
    """How long steps took."""

    seconds: float
    """Median of those measured."""
    measured: int
    where: str
    """The device and the precision."""


def measure_step(config: TrainConfig) -> StepTime:
    """The time of a step of this training, its pictures' reading included, after a first one that does not count.

    Nothing is written but in a temporary folder. Raises ValueError as Trainer does.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(replace(config, out=Path(folder) / "run"))
        times: list[float] = []
        while len(times) < 2 or (len(times) <= STEPS and sum(times) < SECONDS):
            start = time.perf_counter()
            trainer.step(trainer.batches[len(times)])
            if trainer.device.type == "cuda":
                torch.cuda.synchronize(trainer.device)
            times.append(time.perf_counter() - start)
        trainer.cache.close()
    return StepTime(median(times[1:]), len(times) - 1, f"{trainer.device}, {trainer.one_step.precision}")
