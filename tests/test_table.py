"""The table of measured tilings."""

from __future__ import annotations

from typing import Any

import torch

from deblurgan.kernels import table
from deblurgan.kernels.config import ConvConfig


def row(**changes: Any) -> dict[str, Any]:
    config = {"block_m": 64, "block_n": 64, "block_k": 32, "warps": 4, "stages": 3, "form": "pointer"}
    return {"gpu": "A", "kind": "trunk", "pixels": 1000, "dtype": "float16", "config": config, **changes}


def test_table_gives_the_nearest_row() -> None:
    def config(block_m: int) -> dict[str, int]:
        return {"block_m": block_m}

    rows = [
        row(config=config(16)),
        row(config=config(32), pixels=1500),
        row(config=config(64), dtype="float32"),
        row(config=config(128), gpu="B"),
        row(config=config(256), kind="head"),
    ]
    pick_config = table.from_table("A", rows)
    half = torch.float16
    found = {pixels: pick_config("trunk", pixels, half) for pixels in (499, 500, 1200, 1230, 3000, 3001)}
    assert found[499] is found[3001] is None, "more than a factor of 2 away"
    assert [found[pixels].block_m for pixels in (500, 1200, 1230, 3000)] == [16, 16, 32, 32]
    assert pick_config("trunk", 1000, torch.float32).block_m == 64
    assert pick_config("trunk", 1000, torch.bfloat16) is None
    assert pick_config("stem", 1000, half) is None
    assert table.from_table("B", rows)("trunk", 1000, half).block_m == 128
    assert table.from_table("C", rows)("trunk", 1000, half) is None
    assert pick_config("head", 1000, half).block_m == 256
    assert pick_config("head", 9000, half) is None
    assert table.head_config(pick_config, 1000, half).block_m == 256
    assert isinstance(table.head_config(pick_config, 9000, half), ConvConfig)


def test_table_s_rows_are_whole() -> None:
    rows = table._table_rows()
    keys = [(row["gpu"], row["kind"], row["pixels"], row["dtype"]) for row in rows]
    assert len(set(keys)) == len(keys)
    for row in rows:
        assert row["kind"] in ("stem", "down", "trunk", "up", "head")
        assert getattr(torch, row["dtype"]) in (torch.float16, torch.bfloat16, torch.float32)
        config = ConvConfig(**row["config"])
        assert config.form == "pointer" or (config.form == "tma" and row["kind"] == "trunk"), row
