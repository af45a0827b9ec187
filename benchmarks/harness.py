"""What the benchmarks share: parity before time, the facts of the machine, the floors of a piece of work."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

torch.backends.cudnn.allow_tf32 = False  # fp32 is to mean fp32, for the peers too
torch.backends.cudnn.benchmark = True  # cuDNN's fastest, for the peers too

# By torch's name of the GPU: multiply-adds/s by precision (documented fp32, reachable half), bytes/s reachable
GPU_RATES: dict[str, tuple[dict[torch.dtype, float], float]] = {
    "NVIDIA H200": ({torch.float32: 33.5e12, torch.float16: 395e12, torch.bfloat16: 395e12}, 4.3e12),
}


@dataclass(frozen=True)
class Work:
    """What a job cannot avoid: its multiply-adds, and its bytes, each read or written once."""

    multiply_adds: int
    bytes: int
    precision: torch.dtype = torch.float32


# Of a CPU: those that decide which loops and matrix products run
CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "bf16")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def machine() -> dict[str, str]:
    """Where a figure was taken."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = said.get("flags", said.get("Features", "")).split()  # as x86 and as ARM call them
    return {
        "cpu": said.get("model name", platform.processor()),
        "cpu kind": ", ".join(f"{key} {said[key]}" for key in ("cpu family", "model", "stepping") if key in said),
        "cpu flags": " ".join(flag for flag in CPU_FLAGS if flag in flags),
        "threads": str(torch.get_num_threads()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        **{package: _version(package) for package in ("torch", "triton", "deblurgan")},
    }


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def best(call: Callable[[], object], rounds: int = 20) -> float:
    """The shortest of some calls, in seconds, after one to warm up."""
    call()
    return min(seconds(call) for _ in range(rounds))


@cache
def cpu_multiply_add_rate(precision: torch.dtype, threads: int) -> float:
    """Multiply-adds a second of torch.mm; `threads`, those that torch uses now, tells the cache's entries apart."""
    side = 1536
    a, b = torch.ones(2, side, side, dtype=precision)
    return side**3 / best(lambda: torch.mm(a, b))


@cache
def cpu_copy_rate(threads: int) -> float:
    """Bytes a second, read and written, of a copy that no cache holds."""
    source, target = torch.ones(2, 2**26)
    return 2 * source.nbytes / best(lambda: target.copy_(source))


def rates(device: torch.device, precision: torch.dtype) -> tuple[float, float] | None:
    """Multiply-adds and bytes a second that `device` can reach: measured on a CPU, from the table on a GPU."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        return cpu_multiply_add_rate(precision, threads), cpu_copy_rate(threads)
    by_precision, copy = GPU_RATES.get(torch.cuda.get_device_name(device), ({}, 0.0))
    return (by_precision[precision], copy) if precision in by_precision else None


def work_facts(work: Work, device: torch.device) -> dict[str, Any]:
    """The work, the rates and the two floors, in JSON's terms. No floors where the rates are not known."""
    facts: dict[str, Any] = {"multiply_adds": work.multiply_adds, "bytes": work.bytes}
    facts["precision"] = str(work.precision).removeprefix("torch.")
    known = rates(device, work.precision)
    if known is not None:
        facts.update(multiply_adds_per_s=known[0], bytes_per_s=known[1])
        facts.update(multiply_adds_floor_s=work.multiply_adds / known[0], bytes_floor_s=work.bytes / known[1])
    return facts


def as_it_is(result: Any) -> Any:
    return result


def measure(
    benchmark: BenchmarkFixture,
    call: Callable[[], Any],
    wanted: Tensor,
    *,
    group: str,
    path: str,
    tolerance: float,
    compared: Callable[[Any], Tensor] = as_it_is,
    work: Work | None = None,
    floor_s: float | None = None,
    calls: int = 1,
    **facts: Any,
) -> None:
    """Times `call`, which does the job `calls` times, once `compared` of its result is within `tolerance` (relative
    error) of `wanted`.

    `group` names the job, its first word the report's table; `path` who does it: "ours" or a peer. The floor of the job
    is that of `work`, unless `floor_s` gives one.
    """

    def finished() -> Any:
        result = call()
        if wanted.is_cuda:
            torch.cuda.synchronize()
        return result

    got = compared(finished())
    assert got.shape == wanted.shape, f"parity lost: shape {tuple(got.shape)} instead of {tuple(wanted.shape)}"
    error = float((got.double() - wanted.double()).norm() / wanted.double().norm())
    assert error <= tolerance, f"parity lost: relative error {error:.3g} above {tolerance:.3g}"

    if wanted.is_cuda:
        finished()  # a second call may be a graph's capture
    took = seconds(finished)
    rounds = min(50, max(5 if took < 1 else 3, int(1 / took)))
    benchmark.group = group
    benchmark.pedantic(finished, rounds=rounds, warmup_rounds=3 if wanted.is_cuda else 1)
    info = benchmark.extra_info
    info.update(machine(), path=path, device=got.device.type, error=error, calls=calls, **facts)
    if work is not None:
        info.update(work_facts(work, got.device))
        if floor_s is None and "bytes_floor_s" in info:
            floor_s = max(info["multiply_adds_floor_s"], info["bytes_floor_s"])
    if benchmark.enabled and floor_s is not None:
        info.update(floor_s=floor_s, share_of_floor=calls * floor_s / benchmark.stats.stats.median)
