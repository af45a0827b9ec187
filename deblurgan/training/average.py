"""The moving average of the generator's weights."""

from __future__ import annotations

import torch
from torch import Tensor

from deblurgan.nn import Generator


class MovingAverage:
    """average <- decay * average + (1 - decay) * generator, after each step; the decay is lower in the first steps."""

    def __init__(self, average: Generator, decay: float) -> None:
        self.average, self.decay = average, decay
        first = next(average.parameters())
        self.share = torch.zeros((), dtype=torch.float32, device=first.device)  # of the generator in an update

    def set_step(self, number: int) -> None:
        """Prepares the update after step `number`, counted from 0."""
        self.share.fill_(1 - min(self.decay, (2 + number) / (11 + number)))

    @torch.no_grad()
    def update(self, generator: Generator, skip: Tensor) -> None:
        """Moves towards the generator's weights, unless `skip` is 1."""
        share = self.share * (1 - skip)
        for mean, value in zip(self.average.parameters(), generator.parameters(), strict=True):
            mean.lerp_(value, share)
