"""Where the kernels run, and how: rows of table.json by GPU, layer, type and size."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

# A layer's kind ("stem", "down", "trunk", "up", "head"), output pixels and type -> ConvConfig, or None for cuDNN.
# Gradients have kinds of their own at the same pixels: "trunk.dgrad" of what a layer read, "trunk.wgrad" of its weight
Choose = Callable[[str, int, torch.dtype], Any]


def eight_bit_config(channels: int) -> Any:
    """How a trunk convolution of so many channels runs in 8 bits where the table has no row that fits.

    Raises ValueError where its channels are not a multiple of 32, the least that a product of 8 bits sums over.
    """
    from deblurgan.kernels.conv_stats import ConvConfig

    if channels % 32:
        raise ValueError(f'trunk must be "same" unless its channels are a multiple of 32, got {channels} channels')
    block = max(size for size in (32, 64, 128) if channels % size == 0)
    return ConvConfig(128, block, block, 8, 4, "tma")


def from_table(gpu: str, rows: list[dict[str, Any]] | None = None) -> Choose:
    """The choice that table.json holds for this GPU: the row nearest in size, at most a factor of 2 away.

    The last convolution is fused with all that follows it, so it has a configuration in any case.
    """
    from deblurgan.kernels.conv_stats import ConvConfig

    mine = [row for row in (_table_rows() if rows is None else rows) if row["gpu"] == gpu]

    def choose(kind: str, pixels: int, dtype: torch.dtype) -> Any:
        name = str(dtype).removeprefix("torch.")
        distances = [
            (abs(math.log2(row["pixels"] / pixels)), i)
            for i, row in enumerate(mine)
            if row["kind"] == kind and row["dtype"] == name
        ]
        if distances and min(distances)[0] <= 1:
            return ConvConfig(**mine[min(distances)[1]]["config"])
        if kind == "head":
            return ConvConfig(64, 64, 32) if dtype == torch.float32 else ConvConfig(128, 128, 64, 8, 3)
        return None

    return choose


@lru_cache
def choice(gpu: str) -> Choose:
    """`from_table`, read once."""
    return from_table(gpu)


def _table_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(Path(__file__).with_name("table.json").read_text())["rows"]
    return rows
