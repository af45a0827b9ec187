"""How long a training lasts, and its learning rate in each step."""

from __future__ import annotations

import math

from deblurgan.config import TrainConfig


class Schedule:
    """The steps and learning rates of a training on so many pictures.

    Raises ValueError where the warm-up lasts as long as the training.
    """

    def __init__(self, config: TrainConfig, pictures: int) -> None:
        self.config = config
        self.epoch_steps = math.ceil(pictures / config.batch_size)
        self.total_steps = config.steps or config.epochs * self.epoch_steps
        if config.warmup >= self.total_steps:
            raise ValueError(f"warmup must be less than the training's {self.total_steps} steps, got {config.warmup}")

    def epoch(self, step: int) -> int:
        """How many times all pictures were used before step `step`, counted from 0."""
        return step // self.epoch_steps

    def learning_rate(self, step: int) -> float:
        """Adam's rate in step `step`, counted from 0: the schedule's, times (step + 1) / warmup in the warm-up."""
        falling = self._cosine(step) if self.config.schedule == "cosine" else self._constant_then_linear(step)
        warmup = self.config.warmup
        rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
        return self.config.lr * falling * rising

    def _cosine(self, step: int) -> float:
        return (1 + math.cos(math.pi * step / self.total_steps)) / 2

    def _constant_then_linear(self, step: int) -> float:
        """The paper's: it falls from epoch to epoch or, where `steps` was given, from step to step."""
        config = self.config
        done, total = (step, config.steps) if config.steps else (self.epoch(step), config.epochs)
        falling = total * (1 - config.constant)
        return min(1.0, (total - done) / falling) if falling else 1.0
