"""Which tilings a GPU can launch, as a user's table may hold any."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deblurgan.kernels.config import ConvConfig, ConvShape
from deblurgan.kernels.limits import shared_bytes, why_not

TRUNK = ConvShape("trunk", 256, 256, 4096, torch.float16)
TMA = ConvConfig(128, 256, 64, 8, 3, "tma")
PAIRS = ConvConfig(128, 64, 32, 4, 3, "pairs")
IN_FP16 = ConvConfig(accumulate="fp16")


def lacks(config: ConvConfig, capability: tuple[int, int] = (9, 0), **changes: Any) -> str:
    return why_not(config, TRUNK._replace(**changes), capability) or ""


def test_what_fits_one_gpu_need_not_fit_another() -> None:
    large = ConvConfig(128, 128, 64, 4, 5)  # 128 KB in four buffers, 160 KB in five
    for capability in ((8, 0), (8, 7), (9, 0), (10, 0), (11, 0)):
        assert not lacks(large, capability)
    for capability in ((8, 6), (8, 9), (12, 0), (12, 1), (19, 0)):
        assert "shared memory" in lacks(large, capability)


def test_shared_memory_is_that_of_the_compile_report() -> None:
    assert shared_bytes(ConvConfig(128, 64, 64, 4, 3), 2, (8, 0)) == 49152 + 1024
    assert shared_bytes(ConvConfig(256, 128, 64, 8, 3), 2, (9, 0)) == 147456 + 1024
    assert shared_bytes(ConvConfig(256, 128, 64, 8, 3), 2, (12, 0)) == 98304 + 1024
    assert shared_bytes(PAIRS, 2, (8, 0)) == 2 * 2 * (2 * 128 + 3 * 64) * 32 + 1024


@pytest.mark.parametrize("kind", ["trunk", "trunk.dgrad", "trunk.wgrad"])
def test_tma_needs_its_gpu_and_whole_blocks(kind: str) -> None:
    assert not lacks(TMA, kind=kind)
    for capability in ((8, 0), (8, 9)):
        assert "tma" in lacks(ConvConfig(64, 64, 64, 4, 3, "tma"), capability, kind=kind)
    assert "tma" in lacks(TMA, kind=kind, c_in=96, c_out=96)
    assert "tma" in lacks(TMA, kind="down")


def test_forms_and_types_are_for_their_layers() -> None:
    assert not lacks(PAIRS, kind="up")
    assert not lacks(PAIRS, kind="down.dgrad")
    assert "transposed" in lacks(PAIRS)
    assert not lacks(IN_FP16)
    assert "fp16" in lacks(IN_FP16, dtype=torch.bfloat16)
    assert "fp16" in lacks(IN_FP16, kind="trunk.wgrad")
    assert "fp16" in lacks(ConvConfig(64, 64, 128, accumulate="fp16"))
    assert not lacks(ConvConfig(), dtype=torch.int8)
    assert "8 bits" in lacks(ConvConfig(block_k=16), dtype=torch.int8)
    assert "8 bits" in lacks(ConvConfig(), dtype=torch.int8, kind="trunk.dgrad")
    assert "head" in lacks(ConvConfig(128, 16), kind="head", c_out=3)
    assert not lacks(ConvConfig(128, 32), kind="head", c_out=3)


NONSENSE = [
    {"block_m": 100},
    {"block_n": 8},
    {"block_k": 512},
    {"block_m": "128"},
    {"block_m": 128.0},
    {"warps": 3},
    {"warps": [4]},
    {"stages": 0},
    {"stages": True},
    {"form": "wgmma"},
    {"form": ["tma"]},
    {"accumulate": None},
    {"block_m": 256, "block_n": 256},
]


@pytest.mark.parametrize("fields", NONSENSE, ids=str)
def test_a_tiling_may_hold_anything(fields: dict[str, Any]) -> None:
    assert lacks(ConvConfig(**fields))
