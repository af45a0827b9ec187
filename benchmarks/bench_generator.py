"""The generator's forward pass on this machine's CPU: fp32 and bf16, eager."""

from __future__ import annotations

import pytest
import torch
from harness import Work, measure
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.flop_counter import FlopCounterMode

from deblurgan.nn import Generator

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 8e-2}
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def forward_work(net: Generator, x: torch.Tensor) -> Work:
    """The convolutions' multiply-adds; the picture read, the weights read and the picture written."""
    with FlopCounterMode(display=False) as counter:
        net(x)
    weights = sum(parameter.nbytes for parameter in net.parameters())
    return Work(counter.get_total_flops() // 2, 2 * x.nbytes + weights, x.dtype)


@pytest.mark.parametrize("preset", ["paper", "article", "tiny"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=NAMES.get)
@torch.inference_mode()
def bench_generator_256x256(benchmark: BenchmarkFixture, preset: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = Generator(preset).eval()
    x = torch.rand(1, 3, 256, 256) * 2 - 1
    wanted = net.double()(x.double())
    net = net.to(dtype)
    measure(
        benchmark,
        lambda: net(x),
        wanted,
        group=f"generator {preset} 256x256 {NAMES[dtype]}",
        path="eager",
        tolerance=TOLERANCE[dtype],
        work=forward_work(net, x.to(dtype)),
        pictures=1,
        megapixels=256 * 256 / 1e6,
    )
