"""Point spread functions (PSFs) by csrc/: drawn from paths, and taken apart into taps.

Nothing here waits for a GPU, so all of it can be captured in a CUDA graph. What depends on the values of a tensor is
therefore checked on the CPU only; on CUDA `check_canvas` and `check_capacity` check results afterwards, and do wait.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deblurgan.ops.common import operator, require
from deblurgan.ops.native import _C, address, all_within, home_device, launch_target
from deblurgan.ops.trajectories import MAX_STEPS

MAX_SIZE = 2**15  # the number of cells in a PSF stays below 2^31
SMALLEST_SHARE = torch.finfo(torch.float32).tiny


@operator
def rasterize_psf(trajectories: Tensor, exposure: Tensor, size: int, mode: str) -> Tensor:
    """PSFs of paths: [n, steps, 2] in px and exposure [n] in (0, 1] -> fp32 [n, size, size], on trajectories' device.

    `size` is in [3, 2^15] cells of 1 px, `mode` "centered" or "released"; see `reference`. A path that leaves the
    canvas raises ValueError on the CPU, and gives a PSF of NaN on CUDA. Raises ValueError for other arguments.
    """
    _check_rasterize(trajectories, exposure, size, mode)
    home = home_device(trajectories.device)
    path = trajectories.detach().to(home, torch.float32).contiguous()
    shares = exposure.detach().to(home, torch.float32).contiguous()
    if home.type == "cpu":
        require(all_within(shares, SMALLEST_SHARE, 1), "exposure must be in (0, 1]")
    n, steps, _ = path.shape
    out = torch.empty(n, size, size, dtype=torch.float32, device=home)
    canvas = None if home.type == "cpu" else torch.zeros(n, size, size, dtype=torch.int64, device=home)
    arrays = (address(path), address(shares), address(out), address(canvas))
    _C.rasterize_psf(*arrays, n, steps, size, mode == "centered", launch_target(home))
    if home.type == "cpu" and not all_within(out, 0, math.inf):
        check_canvas(out)
    return out.to(trajectories.device)


def _check_rasterize(trajectories: Tensor, exposure: Tensor, size: int, mode: str) -> None:
    shape = tuple(trajectories.shape)
    require(len(shape) == 3 and shape[2] == 2, f"trajectories must be [n, steps, 2], got {shape}")
    require(2 <= shape[1] <= MAX_STEPS, f"trajectories must have 2 to {MAX_STEPS} steps, got {shape[1]}")
    require(tuple(exposure.shape) == shape[:1], f"exposure must be [{shape[0]}], got {tuple(exposure.shape)}")
    for name, given in (("trajectories", trajectories), ("exposure", exposure)):
        require(not given.is_complex(), f"{name} must be real, got {given.dtype}")
    require(exposure.device == trajectories.device, f"exposure must be on {trajectories.device}, got {exposure.device}")
    require(3 <= size <= MAX_SIZE, f"size must be in [3, {MAX_SIZE}], got {size}")
    require(mode in ("centered", "released"), f"mode must be 'centered' or 'released', got {mode!r}")


@torch.library.register_fake("deblurgan::rasterize_psf")
def _(trajectories: Tensor, exposure: Tensor, size: int, mode: str) -> Tensor:
    _check_rasterize(trajectories, exposure, size, mode)
    return trajectories.new_empty((trajectories.shape[0], size, size), dtype=torch.float32)


def check_canvas(psf: Tensor) -> None:
    """Raises ValueError if a path has left its canvas, that is if one of psf [n, k, k] is NaN; waits for a GPU."""
    outside, (n, size, _) = int(psf[:, 0, 0].isnan().sum()), psf.shape
    require(outside == 0, f"size must hold the whole path: {outside} of {n} paths leave a canvas of {size}")


@operator
def psf_taps(psf: Tensor, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """The non-zero cells of psf [n, k, k]: offsets, int32 [n, capacity, 2] (dy, dx) px; weights, fp32 [n, capacity];
    counts, int32 [n].

    Taps are in the order of the PSF's rows; entries past a PSF's count are undefined. A count above `capacity` raises
    ValueError on the CPU; on CUDA it is returned, and `apply_psf` uses the taps that were stored.
    """
    check_psf(psf)
    require(capacity >= 1, f"capacity must be at least 1, got {capacity}")
    home = home_device(psf.device)
    offset, weight, count = find_taps(psf.detach().to(home, torch.float32).contiguous(), capacity)
    if home.type == "cpu":
        check_capacity(count, capacity)
    return offset.to(psf.device), weight.to(psf.device), count.to(psf.device)


def check_psf(psf: Tensor) -> None:
    """Raises ValueError unless psf is floating point [n, k, k] with k in [1, 2^15]."""
    shape = tuple(psf.shape)
    require(len(shape) == 3 and shape[1] == shape[2], f"psf must be [n, k, k], got {shape}")
    require(0 < shape[1] <= MAX_SIZE, f"psf must not be empty, nor wider than {MAX_SIZE}, got {shape}")
    require(psf.is_floating_point(), f"psf must be floating point, got {psf.dtype}")


def find_taps(cells: Tensor, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """`psf_taps` of contiguous fp32 cells [n, k, k] in memory that csrc/ works on, without checks."""
    n, size, _ = cells.shape
    offset = torch.empty(n, capacity, 2, dtype=torch.int32, device=cells.device)
    weight = torch.empty(n, capacity, dtype=torch.float32, device=cells.device)
    count = torch.empty(n, dtype=torch.int32, device=cells.device)
    arrays = (address(cells), address(offset), address(weight), address(count))
    _C.psf_taps(*arrays, n, size, capacity, launch_target(cells.device))
    return offset, weight, count


def max_taps(cells: Tensor) -> int:
    """The most non-zero cells that any of contiguous fp32 PSFs [n, k, k] on the CPU has."""
    return _C.max_taps(address(cells), cells.shape[0], cells.shape[-1])


def check_capacity(count: Tensor, capacity: int) -> None:
    """Raises ValueError if a PSF has more taps, count [n], than could be stored; waits for a GPU."""
    over = int((count > capacity).sum())
    require(over == 0, f"capacity must hold all taps: {over} of {count.shape[0]} PSFs have more than {capacity}")


@torch.library.register_fake("deblurgan::psf_taps")
def _(psf: Tensor, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    n = psf.shape[0]
    return (
        psf.new_empty((n, capacity, 2), dtype=torch.int32),
        psf.new_empty((n, capacity), dtype=torch.float32),
        psf.new_empty((n,), dtype=torch.int32),
    )
