"""Values made from uniform numbers in [0, 1): picked from a list, or spread over a range."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def bit_table(values: Sequence[float], device: torch.device | str) -> Tensor:
    """fp32 values as their int32 bits, which a module's `half()` and `double()` leave alone."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(torch.int32)


def pick(table: Tensor, uniform: Tensor) -> Tensor:
    """One of the values of a `bit_table` for each of uniform [n]: fp32 [n]."""
    return table.to(uniform.device)[(uniform * len(table)).long()].view(torch.float32)


def spread(ends: float | tuple[float, float], uniform: Tensor) -> Tensor:
    """uniform [n] stretched to [low, high]; a single number stands for both ends."""
    low, high = ends if isinstance(ends, tuple) else (ends, ends)
    return low + (high - low) * uniform


def spread_whole(ends: tuple[int, int], uniform: Tensor) -> Tensor:
    """One of the whole numbers low ... high for each of uniform [n]: int64 [n]."""
    low, high = ends
    return low + (uniform.double() * (high - low + 1)).long()  # in fp32 the product could be rounded up to the end
