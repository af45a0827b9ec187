"""Photos to train on where what they show does not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deblurgan import images


def write_noise_photos(folder: Path, count: int, *, height: int = 48, width: int = 64) -> Path:
    """Makes the folder and writes `count` PNGs of noise, 0.png and on, the same in every run; returns it."""
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)
        images.write(images.Picture(pixels), folder / f"{i}.png")
    return folder
