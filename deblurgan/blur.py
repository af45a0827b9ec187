"""Camera-shake blur: trajectory -> point spread function (PSF) -> blurred picture.

The paths are DeblurGAN's (paper section 4, after Boracchi and Foi 2012), with the constants of its released code. A
path belongs to one (seed, index), whatever the batch it is drawn in and however many threads draw it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from deblurgan import ops, reference

RELEASED_ANXIETIES = (0.01, 0.009, 0.008, 0.007, 0.005, 0.003)

Mode = Literal["centered", "released"]
Anxiety = float | tuple[float, float] | None


def _anxieties(choice: Anxiety, uniform: Tensor) -> Tensor:
    """Fixed, drawn between two ends, or (None) from the released list, by uniform [n] in [0, 1)."""
    if choice is None:
        released = torch.tensor(RELEASED_ANXIETIES)
        return released[(uniform * len(released)).long()]
    low, high = (choice, choice) if isinstance(choice, float | int) else choice
    if not 0 <= low <= high <= ops.MAX_ANXIETY:
        raise ValueError(f"anxiety must be in [0, {ops.MAX_ANXIETY:g}], or a (low, high) pair in it, got {choice}")
    return low + (high - low) * uniform


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
    """Camera-shake paths of the indices first ... first + n - 1: fp32 [n, steps, 2], (x, y) in px from the start.

    Each is `length` px long. `anxiety` (how shaky: 0 is a straight line) is a number, a (low, high) range, or None for
    a draw from the released list (0.003 ... 0.01). The recurrence is that of the released generate_trajectory.py.
    Raises ValueError for arguments out of range.
    """
    if n < 0:
        raise ValueError(f"n must be >= 0, got {n}")
    uniform = ops.choices(n, seed=seed, first=first)
    return ops.random_trajectories(_anxieties(anxiety, uniform[:, 0]).to(device), seed, first, steps, length)


def rasterize_psf(
    trajectories: Tensor, *, size: int | None = None, exposure: float | Tensor = 1.0, mode: Mode = "centered"
) -> Tensor:
    """PSFs of paths [n, steps, 2] (px): fp32 [n, size, size], >= 0, sub-pixel (bilinear).

    `exposure`, a number or [n], in (0, 1], is the share of the path that is exposed. mode "centered" (size 65): unit
    sum, centroid on the origin cell size // 2. mode "released" (size 64): as generate_PSF.py, off-centre by some
    pixels, its sum the exposure. Raises ValueError for a path that leaves the canvas.
    """
    if size is None:
        size = 64 if mode == "released" else 65
    shares = torch.as_tensor(exposure, dtype=torch.float32, device=trajectories.device)
    return ops.rasterize_psf(trajectories, shares.expand(trajectories.shape[0]), size, mode)


def apply_psf(x: Tensor, psf: Tensor, *, padding: reference.Padding = "reflect") -> Tensor:
    """Each picture of x, [n, c, h, w] or [c, h, w], uint8 or float, convolved with its psf [n, k, k] or [k, k].

    Same shape and dtype as x; uint8 is rounded to nearest. A true convolution about the origin cell k // 2: a picture
    of one bright pixel becomes the PSF. One psf serves a whole batch. Past its border the picture is mirrored
    ("reflect"), its edge repeated ("replicate"), or "zero". Differentiable in x.
    Raises ValueError for other shapes, dtypes or devices, and for a psf that is not finite.
    """
    if x.dim() not in (3, 4):
        raise ValueError(f"image must be [n, c, h, w] or [c, h, w], got {tuple(x.shape)}")
    if psf.dim() not in (2, 3):
        raise ValueError(f"psf must be [n, k, k] or [k, k], got {tuple(psf.shape)}")
    pictures = x if x.dim() == 4 else x[None]
    kernels = psf if psf.dim() == 3 else psf[None]
    if kernels.shape[0] == 1:
        kernels = kernels.expand(pictures.shape[0], -1, -1)
    y = ops.apply_psf(pictures, kernels, padding)
    return y if x.dim() == 4 else y[0]


class MotionBlur(nn.Module):
    """Random camera shake as an augmentation: pictures in, blurred pictures out, same shape and dtype.

    Args:
        length: path length in px (the blur itself is about a quarter of it, since the path winds).
        size: side of the PSF's canvas; None is the smallest that holds every path, 65 px for length 60.
        steps: samples a path.
        anxiety: a number, a (low, high) range, or None for the released list.
        exposure: shares of the path to choose from, each in (0, 1].
        mode: "centered" or "released", see `rasterize_psf`.
        padding: "reflect", "replicate" or "zero".
        p: the probability that a picture is blurred at all.
        same_on_batch: one kernel for the whole batch.
        seed: with `index`, names the draw. Pictures are numbered from 0 as they come unless a call gives `index`; in a
            loader's worker process the numbers start anew each epoch, so there the worker's own seed is added.

    Source: paper section 4; released motion_blur/, whose centring, borders and min-max stretching "centered" mends.
    """

    def __init__(
        self,
        *,
        length: float = 60.0,
        size: int | None = None,
        steps: int = 2000,
        anxiety: Anxiety = None,
        exposure: float | Sequence[float] = (0.1, 0.5, 1.0),
        mode: Mode = "centered",
        padding: reference.Padding = "reflect",
        p: float = 1.0,
        same_on_batch: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        shares = (exposure,) if isinstance(exposure, float | int) else tuple(exposure)
        if not shares or not all(0 < share <= 1 for share in shares):
            raise ValueError(f"exposure must be one or more shares in (0, 1], got {exposure}")
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1], got {p}")
        if not 0 < length <= ops.MAX_LENGTH:
            raise ValueError(f"length must be in (0, {ops.MAX_LENGTH:g}] px, got {length}")
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        if padding not in ops.PADDINGS:
            raise ValueError(f"padding must be one of {', '.join(ops.PADDINGS)}, got {padding!r}")
        ops.check_seed(seed, 0)
        _anxieties(anxiety, torch.zeros(1))
        self.length, self.steps, self.anxiety = length, steps, anxiety
        # no point of a path is further than length / 2 from its centroid; the released placing needs no more
        if size is None:
            size = 2 * math.ceil(length / 2) + 5 if mode == "centered" else math.ceil(length) + 4
        if size < 3:
            raise ValueError(f"size must be at least 3, got {size}")
        self.size = size
        self.exposure, self.mode, self.padding, self.p, self.same_on_batch = shares, mode, padding, p, same_on_batch
        self.seed = seed
        self.index = 0

    def psf(self, n: int, *, seed: int | None = None, index: int = 0) -> Tensor:
        """The PSFs of the indices index ... index + n - 1: fp32 [n, size, size] on the CPU.

        A picture that stays sharp (p < 1) gets the unit impulse.
        """
        seed = self.seed if seed is None else seed
        draws = 1 if self.same_on_batch and n > 0 else n
        uniform = ops.choices(draws, seed=seed, first=index)
        anxiety = _anxieties(self.anxiety, uniform[:, 0])
        exposure = torch.tensor(self.exposure)[(uniform[:, 1] * len(self.exposure)).long()]
        paths = ops.random_trajectories(anxiety, seed, index, self.steps, self.length)
        psf = ops.rasterize_psf(paths, exposure, self.size, self.mode)
        sharp = uniform[:, 2] >= self.p
        if bool(sharp.any()):
            psf[sharp] = 0
            psf[sharp, self.size // 2, self.size // 2] = 1
        return psf.expand(n, -1, -1)

    def forward(
        self,
        x: Tensor,
        *,
        psf: Tensor | None = None,
        seed: int | None = None,
        index: int | None = None,
        generator: torch.Generator | None = None,
        return_psf: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Blur x, [n, c, h, w] or [c, h, w], uint8 or float; with `return_psf` also the PSFs [n, k, k].

        `psf` replays given kernels. Otherwise picture i gets the kernel of (seed, index + i); without an index the
        module numbers pictures as they come, and `generator` draws a seed for this call.
        """
        if x.dim() not in (3, 4):
            raise ValueError(f"image must be [n, c, h, w] or [c, h, w], got {tuple(x.shape)}")
        n = x.shape[0] if x.dim() == 4 else 1
        if psf is None:
            if generator is not None and seed is None:
                seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
                index = index or 0
            if index is None:
                index = self.index
                self.index += n
                worker = torch.utils.data.get_worker_info()
                if worker is not None and seed is None:
                    seed = (self.seed + worker.seed) % 2**62
            psf = self.psf(n, seed=seed, index=index).to(x.device)
        y = apply_psf(x, psf, padding=self.padding)
        return (y, psf) if return_psf else y

    def extra_repr(self) -> str:
        return f"length={self.length}, size={self.size}, exposure={self.exposure}, mode={self.mode!r}, p={self.p}"
