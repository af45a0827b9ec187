"""How each convolution runs: measured rows of table.json, by GPU, kind of layer, type and size."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from deblurgan.kernels.config import ConvConfig

# A layer's kind (spec.Kind), the pixels of its output and its type -> the tiling of our kernel, or None for cuDNN.
# Gradients have kinds of their own at the same pixels: "trunk.dgrad" by a layer's input, "trunk.wgrad" by its weight.
PickConfig = Callable[[str, int, torch.dtype], ConvConfig | None]


def quantized_config(channels: int) -> ConvConfig:
    """How a trunk convolution of so many channels runs in 8 bits where the table has no row that fits.

    Raises ValueError where its channels are not a multiple of 32, the least that a product of 8 bits sums over.
    """
    if channels % 32:
        raise ValueError(f"quantize must be None unless channels are a multiple of 32, got {channels} channels")
    block = max(size for size in (32, 64, 128) if channels % size == 0)
    return ConvConfig(128, block, block, 8, 4, "tma")


def head_config(pick_config: PickConfig, pixels: int, dtype: torch.dtype) -> ConvConfig:
    """The last convolution's. It is fused with all that follows it, so cuDNN is no choice."""
    default = ConvConfig(64, 64, 32) if dtype == torch.float32 else ConvConfig(128, 128, 64, 8, 3)
    return pick_config("head", pixels, dtype) or default


def from_table(gpu: str, rows: list[dict[str, Any]] | None = None) -> PickConfig:
    """What table.json holds for this GPU: the row nearest in size, at most a factor of 2 away."""
    mine = [row for row in (_table_rows() if rows is None else rows) if row["gpu"] == gpu]

    def pick_config(kind: str, pixels: int, dtype: torch.dtype) -> ConvConfig | None:
        name = str(dtype).removeprefix("torch.")
        distances = [
            (abs(math.log2(row["pixels"] / pixels)), i)
            for i, row in enumerate(mine)
            if row["kind"] == kind and row["dtype"] == name
        ]
        if distances and min(distances)[0] <= 1:
            return ConvConfig(**mine[min(distances)[1]]["config"])
        return None

    return pick_config


@lru_cache
def config_picker(gpu: str) -> PickConfig:
    """`from_table`, read once."""
    return from_table(gpu)


def _table_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(Path(__file__).with_name("table.json").read_text())["rows"]
    return rows
