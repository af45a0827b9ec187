"""Restores a picture of every size from 1x1 to SIDE x SIDE and some larger ones: same size, finite, and the same pixels
as the mirrored picture gives that the network sees. Prints how many; SIDE is the one argument, 70 if not given."""

from __future__ import annotations

import random
import sys

import numpy as np
import torch

import deblurgan
from deblurgan.reference import border_index


def mirrored(pixels: np.ndarray, h: int, w: int) -> np.ndarray:
    """The picture with rows and columns added at the foot and right, as many as it takes to be h x w."""
    rows, columns = (
        border_index(side, 0, full - side, "reflect", torch.device("cpu")).numpy()
        for side, full in zip(pixels.shape, (h, w), strict=False)
    )
    return pixels[rows][:, columns]


def main(side: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    deblur = deblurgan.Deblurrer(deblurgan.Generator("tiny", width=4, blocks=1), dtype="fp32")
    draw = random.Random(0)
    sizes = [(h, w) for h in range(1, side + 1) for w in range(1, side + 1)]
    sizes += [(draw.randint(1, 600), draw.randint(1, 600)) for _ in range(side * side // 25)]
    values = np.random.default_rng(0).random((600, 600, 3), np.float32)
    for h, w in sizes:
        pixels = values[:h, :w]
        restored = deblur(pixels)
        assert restored.shape == pixels.shape, (h, w, restored.shape)
        assert np.isfinite(restored).all(), (h, w)
        whole = mirrored(pixels, *(max(8, -(-length // 4) * 4) for length in (h, w)))
        assert np.abs(deblur(whole)[:h, :w] - restored).max() < 1e-5, (h, w)
    print(f"{len(sizes)} sizes")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 70)
