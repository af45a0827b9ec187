"""Validation: what the generator makes of pictures that it is not trained on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deblurgan import images, metrics
from deblurgan.data import Pair, PairDataset
from deblurgan.nn import Generator
from deblurgan.training.errors import TrainingError
from deblurgan.training.networks import to_bytes, to_network
from deblurgan.training.numerics import autocast

MAX_SIDE = 512  # px; of larger pictures the centre is looked at
SAMPLES = 4  # pictures in a grid


class Sample(NamedTuple):
    """A validation picture, uint8 [3, h, w] each, on the CPU."""

    blurred: Tensor
    restored: Tensor
    sharp: Tensor


class Score(NamedTuple):
    """A validation picture's name, and its PSNR in dB before and after."""

    name: str
    blurred_psnr: float
    psnr: float


class Validation(NamedTuple):
    """Mean figures of the validation pictures: PSNR in dB before and after, SSIM after; the pictures and theirs."""

    blurred_psnr: float
    psnr: float
    ssim: float
    samples: list[Sample]
    scores: list[Score]

    def row(self, step: int) -> dict[str, float]:
        """As history.csv has it."""
        figures = {"blurred_psnr": self.blurred_psnr, "val_psnr": self.psnr, "val_ssim": self.ssim}
        return {"step": step, **figures}

    def line(self, step: int) -> str:
        """As the log has it."""
        return (
            f"step {step}: validation PSNR {self.blurred_psnr:.2f} blurred, {self.psnr:.2f} restored, "
            f"SSIM {self.ssim:.4f}"
        )

    def digest(self) -> str:
        """SHA-256 of the blurred and sharp pictures: only figures of the same ones compare."""
        sha = hashlib.sha256()
        for part in (part for one in self.samples for part in (one.blurred, one.sharp)):
            sha.update(f"{tuple(part.shape)}".encode() + part.numpy().tobytes())
        return sha.hexdigest()

    def grid(self) -> images.Picture:
        """The first pictures, a row each: blurred | restored | sharp."""
        h, w = self.grid_part()
        grid = torch.cat([torch.cat([part[:, :h, :w] for part in row], 2) for row in self.samples[:SAMPLES]], 1)
        return images.Picture(np.ascontiguousarray(grid.permute(1, 2, 0).numpy()))

    def grid_part(self) -> tuple[int, int]:
        """Height and width of what the grid shows of each picture, from its upper left corner."""
        heights, widths = zip(*(one.blurred.shape[1:] for one in self.samples[:SAMPLES]), strict=True)
        return min(heights), min(widths)


def validate(
    generator: Generator,
    pictures: PairDataset,
    count: int,
    *,
    precision: str,
    leave_out: Callable[[str, str], None],
    done: Callable[[int], None] = lambda count: None,
) -> Validation:
    """Restores the first `count` pictures that can be used, in `precision`, and compares them with their originals.

    `leave_out` is told the name of each picture that could not be used, and why; `done` how many are. The PSNR is NaN
    where a picture's values are. Raises TrainingError where no picture could be used.
    """
    samples, scores = list[Sample](), list[Score]()
    for i, pair in islice(_usable_pairs(pictures, leave_out), count):
        restored = _restore(generator, pair.blurred, precision)
        sample = Sample(pair.blurred, to_bytes(restored), pair.sharp)
        before, after = (
            float(metrics.capped_psnr(part, sample.sharp, 255.0)) for part in (sample.blurred, sample.restored)
        )
        samples.append(sample)
        scores.append(Score(pictures.name(i), before, after if restored.isfinite().all() else math.nan))
        done(len(samples))
    if not samples:
        raise TrainingError("no validation picture could be read")
    return Validation(
        _mean(score.blurred_psnr for score in scores),
        _mean(score.psnr for score in scores),
        _mean(metrics.ssim(one.restored, one.sharp, 255.0) for one in samples if min(one.sharp.shape[1:]) >= 11),
        samples,
        scores,
    )


def first_usable(pictures: PairDataset, leave_out: Callable[[str, str], None]) -> int | None:
    """The index of the first picture that can be validated on; None where there is none."""
    return next((i for i, _ in _usable_pairs(pictures, leave_out)), None)


def _usable_pairs(pictures: PairDataset, leave_out: Callable[[str, str], None]) -> Iterator[tuple[int, Pair]]:
    for i in range(len(pictures)):
        try:
            yield i, _centre(pictures.whole(i))
        except (ValueError, OSError) as error:  # an ImageError is a ValueError
            leave_out(pictures.name(i), getattr(error, "reason", str(error)))


@torch.no_grad()
def _restore(generator: Generator, blurred: Tensor, precision: str) -> Tensor:
    """uint8 [3, h, w] on the CPU -> restored on the generator's device, fp32 in [-1, 1] on the CPU."""
    device = next(generator.parameters()).device
    with autocast(device, precision):
        restored = generator(to_network(blurred[None].to(device)))
    return restored.float()[0].cpu()


def _centre(pair: Pair) -> Pair:
    """The middle of a pair, its sides multiples of 4 and at most MAX_SIDE. ValueError below 8 px."""
    height, width = pair.sharp.shape[1:]
    if min(height, width) < Generator.MIN_SIZE:
        raise ValueError(f"sides must be at least {Generator.MIN_SIZE}, got {(height, width)}")
    h, w = (min(side, MAX_SIDE) // 4 * 4 for side in (height, width))
    top, left = (height - h) // 2, (width - w) // 2
    return Pair(*(part[:, top : top + h, left : left + w] for part in pair))


def _mean(values: Iterator[Tensor] | Iterator[float]) -> float:
    """NaN where there are none."""
    parts = [float(value) for value in values]
    return sum(parts) / len(parts) if parts else math.nan
