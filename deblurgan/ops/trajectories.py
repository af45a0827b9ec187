"""The camera-shake paths of csrc/, one for each (seed, index)."""

from __future__ import annotations

import torch
from torch import Tensor

from deblurgan.ops.common import check_counter, check_seed, operator, require
from deblurgan.ops.native import _C, address, all_within, home_device, launch_target

MAX_ANXIETY, MAX_LENGTH = 1e3, 1e6  # far beyond any shake; nothing computed from them overflows fp32
MAX_STEPS = 2**22  # integer sums over a path's positions stay below 2^63


@operator
def random_trajectories(
    anxiety: Tensor, seed: int, first: int, steps: int, length: float, counter: Tensor | None = None
) -> Tensor:
    """The paths of indices first ... first + n - 1: anxiety [n] -> fp32 [n, steps, 2] in px, on anxiety's device.

    anxiety is in [0, 1000], `length` in (0, 1e6] px, `steps` in [2, 2^22]; see `reference`. `counter`, int64 [2], holds
    seed and first instead. Raises ValueError for arguments out of range; anxiety is not checked on CUDA, where that
    would wait for the GPU.
    """
    _check_anxiety(anxiety, counter)
    require(2 <= steps <= MAX_STEPS, f"steps must be in [2, {MAX_STEPS}], got {steps}")
    require(0 < length <= MAX_LENGTH, f"length must be in (0, {MAX_LENGTH:g}] px, got {length}")
    home = home_device(anxiety.device)
    check_seed(seed, first)
    shakes = anxiety.detach().to(home, torch.float32).contiguous()
    if home.type == "cpu":
        require(all_within(shakes, 0, MAX_ANXIETY), f"anxiety must be in [0, {MAX_ANXIETY:g}]")
    n = shakes.shape[0]
    out = torch.empty(n, steps, 2, dtype=torch.float32, device=home)
    draws = (seed, first, address(counter))
    _C.random_trajectories(*draws, address(shakes), address(out), n, steps, length, launch_target(home))
    return out.to(anxiety.device)


@torch.library.register_fake("deblurgan::random_trajectories")
def _(anxiety: Tensor, seed: int, first: int, steps: int, length: float, counter: Tensor | None = None) -> Tensor:
    _check_anxiety(anxiety, counter)
    return anxiety.new_empty((anxiety.shape[0], steps, 2), dtype=torch.float32)


def _check_anxiety(anxiety: Tensor, counter: Tensor | None) -> None:
    require(anxiety.dim() == 1, f"anxiety must be [n], got {tuple(anxiety.shape)}")
    require(not anxiety.is_complex(), f"anxiety must be real, got {anxiety.dtype}")
    if counter is not None:
        check_counter(counter, anxiety.device if anxiety.is_meta else home_device(anxiety.device))
