"""In which types a step computes, and whether it gives the same bits each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context that networks compute in: their half type, or no change for "fp32"."""
    half = HALF.get(precision)
    return torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None)


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Within it torch's own operations give the same bits each time, or raise where they cannot.

    This is a setting of the whole process; the end restores the one before.
    """
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # a module with a property, which types do not show
    fill, benchmark = memory.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = fill and enabled  # costs a launch for each new tensor
    torch.backends.cudnn.benchmark = False  # which algorithm is fastest differs from run to run
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        memory.fill_uninitialized_memory, torch.backends.cudnn.benchmark = fill, benchmark


def require_repeatable_cublas() -> None:
    """Raises ValueError where torch's deterministic algorithms would refuse Muon's matrix products on CUDA.

    cuBLAS repeats its results only with a workspace of fixed size, which an environment variable sets.
    """
    given = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if given not in (":4096:8", ":16:8"):
        raise ValueError(
            "deterministic needs CUBLAS_WORKSPACE_CONFIG to be :4096:8 or :16:8 in the environment with optimizer muon "
            f"on CUDA, got {given}"
        )
