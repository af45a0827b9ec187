"""What the operators share: checks of arguments."""

from __future__ import annotations

import torch
from torch import Tensor


def require(condition: bool, message: str) -> None:
    """Raises ValueError unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_seed(seed: int, first: int) -> None:
    """Raises ValueError unless both are in [0, 2^63)."""
    require(0 <= seed < 2**63, f"seed must be in [0, 2^63), got {seed}")
    require(0 <= first < 2**63, f"first index must be in [0, 2^63), got {first}")


def check_counter(counter: Tensor, device: torch.device) -> None:
    """Raises ValueError unless counter is int64 [2] on the device."""
    require(
        counter.dtype == torch.int64 and tuple(counter.shape) == (2,) and counter.is_contiguous(),
        f"counter must be int64 [2], got {counter.dtype} {tuple(counter.shape)}",
    )
    require(counter.device == device, f"counter must be on {device}, got {counter.device}")


def check_draws(seed: int, first: int, counter: Tensor | None, device: torch.device) -> None:
    """`check_seed`, and `check_counter` where there is a counter."""
    check_seed(seed, first)
    if counter is not None:
        check_counter(counter, device)
