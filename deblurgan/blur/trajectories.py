"""Camera-shake paths."""

from __future__ import annotations

import torch
from torch import Tensor

from deblurgan import ops
from deblurgan.arguments import require_number, require_whole
from deblurgan.blur.distributions import bit_table, pick, spread
from deblurgan.ops.trajectories import MAX_ANXIETY

RELEASED_ANXIETIES = (0.01, 0.009, 0.008, 0.007, 0.005, 0.003)

Anxiety = float | tuple[float, float] | None


def check_anxiety(anxiety: Anxiety) -> None:
    """Raises ValueError unless anxiety is None, a number in [0, 1000], or a (low, high) pair of such."""
    low, high = anxiety if isinstance(anxiety, tuple) else (anxiety or 0.0, anxiety or 0.0)
    require_number("anxiety", low)
    require_number("anxiety", high)
    if not 0 <= low <= high <= MAX_ANXIETY:
        raise ValueError(f"anxiety must be in [0, {MAX_ANXIETY:g}], or a (low, high) pair in it, got {anxiety}")


def draw_anxieties(anxiety: Anxiety, released: Tensor, uniform: Tensor) -> Tensor:
    """fp32 [n] from uniform [n]: spread over `anxiety`, or, if that is None, picked from `released`, a `bit_table`."""
    return pick(released, uniform) if anxiety is None else spread(anxiety, uniform)


def random_trajectories(
    n: int,
    *,
    seed: int,
    first: int = 0,
    steps: int = 2000,
    length: float = 60.0,
    anxiety: Anxiety = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """n random camera-shake paths: fp32 [n, steps, 2], (x, y) in px from the start, on `device` (None: the CPU).

    Args:
        n: how many, >= 0.
        seed: in [0, 2^63).
        first: in [0, 2^63); path i is that of (seed, first + i).
        steps: positions on a path, in [2, 2^22].
        length: of each path, in (0, 1e6] px.
        anxiety: how shaky, in [0, 1000]; 0 is a straight line. A (low, high) pair is a range to draw from, None the
            released list (0.003 ... 0.01).

    Raises ValueError for arguments out of range. Source: the recurrence of the released generate_trajectory.py.
    """
    require_whole("steps", steps)
    require_number("length", length)
    check_anxiety(anxiety)
    uniform = ops.uniforms(n, seed=seed, first=first, device=device)[:, 0]
    shakes = draw_anxieties(anxiety, bit_table(RELEASED_ANXIETIES, uniform.device), uniform)
    return ops.random_trajectories(shakes, seed, first, steps, length)
