"""Point spread functions (PSFs) of paths, and their taps."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from deblurgan import ops
from deblurgan.arguments import require_number, require_tensor, require_whole
from deblurgan.ops.psf import check_canvas, check_capacity

Mode = Literal["centered", "released"]


def rasterize_psf(
    trajectories: Tensor, *, size: int | None = None, exposure: float | Tensor = 1.0, mode: Mode = "centered"
) -> Tensor:
    """PSFs of paths [n, steps, 2] (px): fp32 [n, size, size], >= 0, drawn with sub-pixel accuracy (bilinear).

    Args:
        trajectories: (x, y) in px, as `random_trajectories` gives them; 2 to 2^22 steps.
        size: side of the canvas in px, in [3, 2^15]; None is 65 for "centered" and 64 for "released".
        exposure: the share of the path that is exposed, in (0, 1]; a number, or one for each path, [n].
        mode: "centered": the PSF sums to 1, and its centroid lies on the origin cell size // 2. "released": as the
            released generate_PSF.py makes it, some px off the centre, its sum the exposure.

    Raises ValueError for a path that leaves the canvas, which waits for a GPU. While a CUDA graph is captured nothing
    can be raised: there the PSF is NaN.
    """
    require_tensor("trajectories", trajectories, "[n, steps, 2]")
    if size is None:
        size = 64 if mode == "released" else 65
    require_whole("size", size)
    n = trajectories.shape[0]
    if isinstance(exposure, Tensor):
        shares = exposure.to(trajectories.device, torch.float32).expand(n)
    else:
        require_number("exposure", exposure)
        shares = torch.full((n,), exposure, dtype=torch.float32, device=trajectories.device)
    psf = ops.rasterize_psf(trajectories, shares, size, mode)
    if _can_be_read(psf):
        check_canvas(psf)
    return psf


def _can_be_read(values: Tensor) -> bool:
    """Whether values of a GPU are there to be checked; on the CPU the ops have checked them."""
    return values.is_cuda and not torch.cuda.is_current_stream_capturing()


class Taps(NamedTuple):
    """The non-zero cells of PSFs, in the order of their rows. A tap reads the pixel (dy, dx) px away from the output's.

    Entries past a PSF's count are undefined.
    """

    offset: Tensor  # int32 [n, capacity, 2], (dy, dx) in px
    weight: Tensor  # fp32 [n, capacity]
    counts: Tensor  # int32 [n], how many taps each PSF has


def tap_capacity(length: float) -> int:
    """How many taps hold any path of `length` px: a straight one of 60 px touches up to 176 cells."""
    return 4 * math.ceil(length) + 16


def psf_taps(psf: Tensor, *, capacity: int | None = None) -> Taps:
    """The taps of floating-point PSFs [n, k, k], at most `capacity` each (>= 1; None: k^2).

    Raises ValueError where a PSF has more taps, which waits for a GPU. While a CUDA graph is captured nothing can be
    raised: there `counts` alone shows it.
    """
    require_tensor("psf", psf, "[n, k, k]")
    if psf.dim() != 3:
        raise ValueError(f"psf must be [n, k, k], got {tuple(psf.shape)}")
    if capacity is None:
        capacity = max(1, psf.shape[-1] ** 2)
    taps = Taps(*ops.psf_taps(psf, capacity))
    if _can_be_read(psf):
        check_capacity(taps.counts, capacity)
    return taps
