"""Folders of pictures, for the tests of the datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from conftest import texture
from deblurgan import images
from deblurgan.data import Crops

SMALL = Crops(32)


def write(path: Path, seed: int, h: int = 72, w: int = 96) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = texture(h, w, seed=seed)
    images.write(images.Picture(pixels), path)
    return pixels


def write_pairs(root: Path, blurred: str = "blur", sharp: str = "sharp", n: int = 3) -> None:
    for i in range(n):
        write(root / blurred / f"{i}.png", seed=100 + i)
        write(root / sharp / f"{i}.png", seed=i)
