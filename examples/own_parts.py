"""A dataset, a loss and an optimiser of your own: python examples/own_parts.py PHOTOS OUT STEPS."""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageFilter
from torch import Tensor

import deblurgan


class Defocused(torch.utils.data.Dataset[tuple[Image.Image, Image.Image]]):
    """Pairs (blurred, sharp): PIL images, arrays [h, w, 3] or tensors [3, h, w]. Training draws the crops."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        sharp = Image.open(self.files[index]).convert("RGB")
        return sharp.filter(ImageFilter.GaussianBlur(2)), sharp


def edges(restored: Tensor, sharp: Tensor) -> Tensor:
    """Pictures are fp32 [n, 3, h, w] in [-1, 1]; what is returned is averaged and added to the other losses."""
    return 0.1 * (restored.diff(dim=-1) - sharp.diff(dim=-1)).abs()


photos, out, steps = sys.argv[1:]
deblurgan.train(
    Defocused(Path(photos)),
    losses={"edges": edges},
    optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-4, weight_decay=1e-4),
    out=out,
    preset="tiny",
    crop=64,
    steps=int(steps),
)
