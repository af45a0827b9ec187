"""A training's memory, files and threads from step to step: prints how fast the memory grows, in MB for 1,000 steps,
and fails where it grows, or where files or threads do."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from noise_photos import write_noise_photos
from numpy.typing import NDArray
from torch import Tensor

from deblurgan.config import train_config
from deblurgan.limits import resident_memory
from deblurgan.training import Callback, Trainer

MOST = 0.5  # MB for 1,000 steps


class Samples(Callback):
    """Step, MB of memory, open files and threads after each step, in an array that does not grow."""

    def __init__(self, steps: int) -> None:
        self.rows = np.zeros((steps, 4))

    def on_step_end(self, trainer: Trainer, values: dict[str, Tensor]) -> None:
        files, threads = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
        self.rows[trainer.steps_done - 1] = trainer.steps_done, (resident_memory() or 0) / 1e6, files, threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="steps")
    parser.add_argument("--width", type=int, help="the preset's if not given")
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--val-every", type=int, default=50, help="steps")
    given = parser.parse_args()
    options = {
        name: value for name, value in vars(given).items() if name not in ("count", "seed") and value is not None
    }
    with tempfile.TemporaryDirectory() as folder:
        rows = run(Path(folder), steps=given.count, seed=given.seed, **options)
    slope, files, threads = figures(rows)
    print(f"{slope:+.3f} MB for 1,000 steps of {rows[-1][1]:.0f} MB; open files {files}, threads {threads}")
    assert slope < MOST and len(files) == len(threads) == 1


def run(folder: Path, steps: int, **options: Any) -> NDArray[np.float64]:
    """A training with rows, validations and saves, on pictures that lie in the cache after a few steps."""
    photos, samples = write_noise_photos(folder / "photos", 6, height=160, width=200), Samples(steps)
    shape = {
        "preset": "tiny",
        "device": "cpu",
        "batch_size": 2,
        "val_pictures": 2,
        "log_every": 10,
        "blur_length": 20.0,
    }
    Trainer(train_config(photos, out=folder / "run", steps=steps, **shape, **options), callbacks=[samples]).fit()
    return samples.rows


def figures(rows: NDArray[np.float64]) -> tuple[float, set[float], set[float]]:
    """The slope of a line through the memory, in MB for 1,000 steps, and what numbers of files and threads there were;
    all after the first half, in which pools and caches fill."""
    steps, memory, files, threads = rows[len(rows) // 2 :].T
    return float(1000 * np.polyfit(steps, memory, 1)[0]), set(files.tolist()), set(threads.tolist())


if __name__ == "__main__":
    main()
