"""What the benchmarks share: a call is timed once it agreed with the reference on the same inputs."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor


def machine() -> dict[str, str]:
    """Where a figure was taken."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cpu": names[0] if names else platform.processor(),
        "threads": str(torch.get_num_threads()),
        "gpu": gpu,
        "torch": torch.__version__,
    }


def measure(
    benchmark: BenchmarkFixture,
    call: Callable[[], Tensor],
    wanted: Tensor,
    *,
    tolerance: float,
    **facts: Any,
) -> None:
    """Times `call` once its result is within `tolerance` (relative error) of `wanted`."""
    got = call().double()
    error = float((got - wanted.double()).norm() / wanted.double().norm())
    assert error <= tolerance, f"parity lost: relative error {error:.3g} above {tolerance:.3g}"
    benchmark.extra_info.update(machine(), error=error, **facts)
    benchmark.pedantic(call, rounds=5, warmup_rounds=1)
