"""The generator's forward pass on this machine's CPU: fp32 and bf16, eager."""

from __future__ import annotations

import pytest
import torch
from harness import measure
from pytest_benchmark.fixture import BenchmarkFixture

from deblurgan.nn import Generator

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 8e-2}


@pytest.mark.parametrize("preset", ["paper", "article", "tiny"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@torch.inference_mode()
def bench_generator_256x256(benchmark: BenchmarkFixture, preset: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = Generator(preset).eval()
    x = torch.rand(1, 3, 256, 256) * 2 - 1
    wanted = net.double()(x.double())
    net = net.to(dtype)
    measure(benchmark, lambda: net(x), wanted, tolerance=TOLERANCE[dtype])
