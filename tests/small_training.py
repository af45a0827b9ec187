"""A training of a few seconds."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deblurgan.config import train_config
from deblurgan.training import Trainer

SMALL: dict[str, Any] = {
    "preset": "tiny",
    "width": 4,
    "blocks": 1,
    "crop": 16,
    "batch_size": 2,
    "steps": 6,
    "log_every": 2,
    "val_every": 3,
    "val_pictures": 1,
    "blur_length": 12.0,
    "precision": "fp32",
    "device": "cpu",
}


def trainer(photos: Path, out: Path, **options: Any) -> Trainer:
    return Trainer(train_config(photos, out=out, **{**SMALL, **options}))


def history(out: Path) -> list[dict[str, str]]:
    with (out / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
