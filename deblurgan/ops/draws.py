"""Numbers drawn at random by csrc/: uniform numbers and crop windows.

A draw is named by a seed and an index, so it does not depend on the batch, the device or the number of threads. An op
takes a seed and the index of its first picture. `counter`, int64 [2] on the device, holds both instead: a captured CUDA
graph reads it at each replay, so that replays draw anew.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deblurgan.ops.common import check_count, check_draws, operator, require
from deblurgan.ops.native import _C, address, home_device, launch_target


def uniforms(
    n: int,
    *,
    seed: int = 0,
    first: int = 0,
    counter: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Four uniform numbers in [0, 1) for each of the indices first ... first + n - 1: fp32 [n, 4].

    `counter` stands for seed, first and device. Raises ValueError for arguments out of range.
    """
    wanted = torch.device(device or "cpu") if counter is None else counter.device
    check_count(n)
    check_draws(seed, first, counter, home_device(wanted))
    return _uniforms(n, seed, first, counter, wanted)


@operator
def _uniforms(n: int, seed: int, first: int, counter: Tensor | None, device: torch.device) -> Tensor:
    """`uniforms` of checked arguments; an operator, so that torch.compile can call it."""
    home = home_device(device)
    out = torch.empty(n, 4, dtype=torch.float32, device=home)
    _C.uniforms(seed, first, address(counter), address(out), n, launch_target(out.device))
    return out.to(device)


@torch.library.register_fake("deblurgan::_uniforms")
def _(n: int, seed: int, first: int, counter: Tensor | None, device: torch.device) -> Tensor:
    return torch.empty(n, 4, dtype=torch.float32, device=device)


def random_windows(
    n: int,
    *,
    picture: tuple[int, int],
    size: tuple[int, int],
    flip: bool = True,
    seed: int = 0,
    first: int = 0,
    counter: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Where crops of `size` (h, w) px lie in pictures of `picture` (h, w) px: int64 [n, 3], see `reference`.

    `counter` stands for seed, first and device. Raises ValueError for a size that does not fit.
    """
    wanted = torch.device(device or "cpu") if counter is None else counter.device
    home = home_device(wanted)
    check_count(n)
    check_draws(seed, first, counter, home)
    fits = all(1 <= part <= full < 2**31 for part, full in zip(size, picture, strict=True))
    require(fits, f"size must fit into the picture {tuple(picture)}, got {tuple(size)}")
    out = torch.empty(n, 3, dtype=torch.int64, device=home)
    _C.random_windows(seed, first, address(counter), address(out), n, *picture, *size, flip, launch_target(out.device))
    return out.to(wanted)
