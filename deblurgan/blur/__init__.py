"""Camera-shake blur: trajectory -> point spread function (PSF) -> blurred picture.

The paths are DeblurGAN's (paper section 4, after Boracchi and Foi 2012), with the constants of its released code. A
path belongs to one (seed, index), whatever the batch it is drawn in and however many threads draw it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from deblurgan import reference
from deblurgan.ops import blur_ops
from deblurgan.ops.common import check_seed

RELEASED_ANXIETIES = (0.01, 0.009, 0.008, 0.007, 0.005, 0.003)

Mode = Literal["centered", "released"]
Anxiety = float | tuple[float, float] | None


def _table(values: Sequence[float]) -> Tensor:
    """fp32 values as int32 bits, which `module.half()` leaves alone."""
    return torch.tensor(values, dtype=torch.float32).view(torch.int32)


def _picked(table: Tensor, uniform: Tensor) -> Tensor:
    """One of a table's values for each of uniform [n] in [0, 1)."""
    return table.to(uniform.device)[(uniform * len(table)).long()].view(torch.float32)


def _between(ends: float | tuple[float, float], uniform: Tensor) -> Tensor:
    low, high = (ends, ends) if isinstance(ends, float | int) else ends
    return low + (high - low) * uniform


def _check_anxiety(anxiety: Anxiety) -> None:
    low, high = anxiety if isinstance(anxiety, tuple) else (anxiety or 0.0, anxiety or 0.0)
    if not 0 <= low <= high <= blur_ops.MAX_ANXIETY:
        raise ValueError(
            f"anxiety must be in [0, {blur_ops.MAX_ANXIETY:g}], or a (low, high) pair in it, got {anxiety}"
        )


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
    _check_anxiety(anxiety)
    uniform = blur_ops.choices(n, seed=seed, first=first, device=device)[:, 0]
    shakes = _picked(_table(RELEASED_ANXIETIES), uniform) if anxiety is None else _between(anxiety, uniform)
    return blur_ops.random_trajectories(shakes, seed, first, steps, length)


def rasterize_psf(
    trajectories: Tensor, *, size: int | None = None, exposure: float | Tensor = 1.0, mode: Mode = "centered"
) -> Tensor:
    """PSFs of paths [n, steps, 2] (px): fp32 [n, size, size], >= 0, sub-pixel (bilinear).

    `exposure`, a number or [n], in (0, 1], is the share of the path that is exposed. mode "centered" (size 65): unit
    sum, centroid on the origin cell size // 2. mode "released" (size 64): as generate_PSF.py, off-centre by some
    pixels, its sum the exposure. Raises ValueError for a path that leaves the canvas; while a CUDA graph is captured,
    where nothing can be raised, its PSF is NaN.
    """
    if size is None:
        size = 64 if mode == "released" else 65
    n = trajectories.shape[0]
    if isinstance(exposure, Tensor):
        shares = exposure.to(trajectories.device, torch.float32).expand(n)
    else:
        shares = torch.full((n,), exposure, dtype=torch.float32, device=trajectories.device)
    psf = blur_ops.rasterize_psf(trajectories, shares, size, mode)
    if psf.is_cuda and not torch.cuda.is_current_stream_capturing():
        blur_ops.check_canvas(psf)
    return psf


class Taps(NamedTuple):
    """The non-zero cells of PSFs, by rows: what is averaged is the pixel (dy, dx) away from the output's."""

    offset: Tensor  # int32 [n, capacity, 2], (dy, dx)
    weight: Tensor  # fp32 [n, capacity]
    counts: Tensor  # int32 [n], how many of them there are


def tap_capacity(length: float) -> int:
    """Enough taps for any path of `length` px: a straight one of 60 px touches up to 176 cells."""
    return 4 * math.ceil(length) + 16


def psf_taps(psf: Tensor, *, capacity: int | None = None) -> Taps:
    """The taps of PSFs [n, k, k]; the default capacity is k^2. Raises ValueError where there are more than `capacity`.

    (While a CUDA graph is captured `counts` alone tells of it.)
    """
    if psf.dim() != 3:
        raise ValueError(f"psf must be [n, k, k], got {tuple(psf.shape)}")
    if capacity is None:
        capacity = max(1, psf.shape[-1] ** 2)
    taps = Taps(*blur_ops.psf_taps(psf, capacity))
    if psf.is_cuda and not torch.cuda.is_current_stream_capturing():
        blur_ops.check_capacity(taps.counts, capacity)
    return taps


def random_windows(
    n: int,
    *,
    picture: tuple[int, int],
    size: tuple[int, int],
    flip: bool = True,
    seed: int,
    first: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Where crops of `size` (h, w) lie in pictures of `picture` (h, w): int64 [n, 3], top, left, mirrored (0 or 1).

    Crop i belongs to (seed, first + i). With `flip` every other crop, by chance, is mirrored left to right.
    Raises ValueError for a size that does not fit.
    """
    if n < 0:
        raise ValueError(f"n must be >= 0, got {n}")
    return blur_ops.random_windows(n, picture=picture, size=size, flip=flip, seed=seed, first=first, device=device)


def apply_psf(
    x: Tensor,
    psf: Tensor,
    *,
    padding: reference.Padding = "reflect",
    gamma: float = 1.0,
    windows: Tensor | None = None,
    size: tuple[int, int] | None = None,
    noise: float | Tensor = 0.0,
    seed: int = 0,
    first: int = 0,
    signed: torch.dtype | None = None,
) -> Tensor:
    """Each picture of x, [n, c, h, w] or [c, h, w], uint8 or float, convolved with its psf [n, k, k] or [k, k].

    Same shape, dtype and memory layout as x; uint8 is rounded to nearest. A true convolution about the origin cell
    k // 2: a picture of one bright pixel becomes the PSF. One psf serves a whole batch. Past its border the picture is
    mirrored ("reflect"), its edge repeated ("replicate"), or "zero". Differentiable in x. The rest, in this order and
    in the same pass over the picture:

    Args:
        gamma: averages value^gamma, light, rather than values; 2.2 is a camera's.
        windows: the parts wanted, int64 [n, 3] (see `random_windows`) of `size` (h, w); the blur reads what lies
            around them.
        noise: standard deviation of normal noise, a number or [n], as a share of white. Picture i gets that of
            (seed, first + i).
        signed: the float type of a result in [-1, 1], as networks take it.

    A psf of one cell, 1, leaves the picture sharp: that is how the sharp twin of a crop is cut.
    Raises ValueError for other shapes, dtypes or devices, and for a psf that is not finite.
    """
    pictures, kernels = _batched(x, psf)
    n = pictures.shape[0]
    if isinstance(noise, Tensor):
        deviation: Tensor | None = noise
    else:
        deviation = torch.full((n,), float(noise), device=x.device) if noise != 0 else None
    part = None if size is None else list(size)
    y = blur_ops.apply_psf(pictures, kernels, padding, gamma, windows, part, deviation, seed, first, None, signed)
    return y if x.dim() == 4 else y[0]


def _check_picture(x: Tensor) -> None:
    if x.dim() not in (3, 4):
        raise ValueError(f"image must be [n, c, h, w] or [c, h, w], got {tuple(x.shape)}")


def _batched(x: Tensor, psf: Tensor) -> tuple[Tensor, Tensor]:
    """[n, c, h, w] and [n, k, k] of what may lack its first axis."""
    _check_picture(x)
    if psf.dim() not in (2, 3):
        raise ValueError(f"psf must be [n, k, k] or [k, k], got {tuple(psf.shape)}")
    pictures = x if x.dim() == 4 else x[None]
    kernels = psf if psf.dim() == 3 else psf[None]
    return pictures, kernels.expand(pictures.shape[0], -1, -1) if kernels.shape[0] == 1 else kernels


class Draws(NamedTuple):
    """What names a call's draws: a seed and the first picture's index, or both in `counter`, on the device."""

    seed: int = 0
    first: int = 0
    counter: Tensor | None = None


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
        gamma: averages light, value^gamma; see `apply_psf`.
        noise: standard deviation of sensor noise as a share of white, a number or a (low, high) range.
        p: the probability that a picture is blurred at all.
        same_on_batch: one kernel for the whole batch.
        seed: with `index`, names the draw. Pictures are numbered from 0 as they come unless a call gives `index`; in a
            loader's worker process the numbers start anew each epoch, so there the worker's own seed is added.

    On CUDA nothing waits for the GPU once the module is there too (`blur.cuda()`): the number of the next picture then
    stands in device memory, so that each replay of a CUDA graph draws fresh blur.

    Source: paper section 4; released motion_blur/, whose centring, borders and min-max stretching "centered" mends.
    """

    counter: Tensor  # int64 [2], the seed and the number of the next picture
    anxieties: Tensor
    exposures: Tensor

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
        gamma: float = 1.0,
        noise: float | tuple[float, float] = 0.0,
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
        if not 0 < length <= blur_ops.MAX_LENGTH:
            raise ValueError(f"length must be in (0, {blur_ops.MAX_LENGTH:g}] px, got {length}")
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        if padding not in blur_ops.PADDINGS:
            raise ValueError(f"padding must be one of {', '.join(blur_ops.PADDINGS)}, got {padding!r}")
        if not 0.1 <= gamma <= 10:
            raise ValueError(f"gamma must be in [0.1, 10], got {gamma}")
        low, high = (noise, noise) if isinstance(noise, float | int) else noise
        if not 0 <= low <= high < math.inf:
            raise ValueError(f"noise must be >= 0, or a (low, high) pair of such, got {noise}")
        check_seed(seed, 0)
        _check_anxiety(anxiety)
        # no point of a path is further than length / 2 from its centroid, and none further than length from another
        enough = 2 * math.ceil(length / 2) + 5 if mode == "centered" else math.ceil(length) + 5
        if size is None:
            as_released = mode == "released" and length == 60  # 64: all but a straight path fit
            size = 64 if as_released else enough
        if not 3 <= size <= blur_ops.MAX_SIZE:
            raise ValueError(f"size must be in [3, {blur_ops.MAX_SIZE}], got {size}")
        self.length, self.steps, self.anxiety = length, steps, anxiety
        self.size, self.holds_all = size, size >= enough
        self.exposure, self.mode, self.padding, self.p, self.same_on_batch = shares, mode, padding, p, same_on_batch
        self.gamma, self.noise = gamma, (low, high)
        self.seed = seed
        self.register_buffer("anxieties", _table(RELEASED_ANXIETIES), persistent=False)
        self.register_buffer("exposures", _table(shares), persistent=False)
        self.register_buffer("counter", torch.tensor([seed, 0]), persistent=False)

    def _anxieties(self, uniform: Tensor) -> Tensor:
        return _picked(self.anxieties, uniform) if self.anxiety is None else _between(self.anxiety, uniform)

    def psf(
        self, n: int, *, seed: int | None = None, index: int = 0, device: torch.device | str | None = None
    ) -> Tensor:
        """The PSFs of the indices index ... index + n - 1: fp32 [n, size, size], on the CPU unless `device` is given.

        A picture that stays sharp (p < 1) gets the unit impulse.
        """
        draws = Draws(self.seed if seed is None else seed, index)
        return self._psf(n, draws, self._choices(n, draws, torch.device(device or "cpu")))

    def _choices(self, n: int, draws: Draws, device: torch.device) -> Tensor:
        """Uniform numbers [n, 4]: for the anxiety, the exposure, whether to blur, and the noise."""
        return blur_ops.choices(n, seed=draws.seed, first=draws.first, counter=draws.counter, device=device)

    def _psf(self, n: int, draws: Draws, uniform: Tensor) -> Tensor:
        kernels = uniform[: min(n, 1)] if self.same_on_batch else uniform
        anxiety = self._anxieties(kernels[:, 0])
        exposure = _picked(self.exposures, kernels[:, 1])
        paths = blur_ops.random_trajectories(anxiety, draws.seed, draws.first, self.steps, self.length, draws.counter)
        if self.holds_all:
            psf = blur_ops.rasterize_psf(paths, exposure, self.size, self.mode)
        else:
            psf = rasterize_psf(paths, size=self.size, exposure=exposure, mode=self.mode)
        if self.p < 1:
            impulse = torch.zeros_like(psf[:1])
            impulse[:, self.size // 2, self.size // 2] = 1
            psf = torch.where((kernels[:, 2] >= self.p)[:, None, None], impulse, psf)
        return psf.expand(n, -1, -1)

    def _draws(
        self, n: int, device: torch.device, seed: int | None, index: int | None, generator: torch.Generator | None
    ) -> Draws:
        """Numbers this call's pictures; without a seed and an index they are the module's next ones."""
        if generator is not None and seed is None:
            seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
            index = index or 0
        if index is not None:
            return Draws(self.seed if seed is None else seed, index)
        if seed is None and self.counter.is_cuda and self.counter.device == device:
            now = self.counter.clone()
            self.counter[1] += n
            return Draws(counter=now)
        first = int(self.counter[1])
        self.counter[1] += n
        worker = torch.utils.data.get_worker_info()
        if seed is None:
            seed = self.seed if worker is None else (self.seed + worker.seed) % 2**62
        return Draws(seed, first)

    def forward(
        self,
        x: Tensor,
        *,
        psf: Tensor | None = None,
        seed: int | None = None,
        index: int | None = None,
        generator: torch.Generator | None = None,
        return_psf: bool = False,
        windows: Tensor | None = None,
        size: tuple[int, int] | None = None,
        signed: torch.dtype | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Blur x, [n, c, h, w] or [c, h, w], uint8 or float; with `return_psf` also the PSFs [n, k, k].

        `psf` replays given kernels. Otherwise picture i gets the kernel of (seed, index + i); without an index the
        module numbers pictures as they come, and `generator` draws a seed for this call. `windows`, `size` and `signed`
        are those of `apply_psf`.
        """
        _check_picture(x)
        n = x.shape[0] if x.dim() == 4 else 1
        capacity, draws, deviation = 0, Draws(), None
        if psf is None or self.noise[1] > 0:
            draws = self._draws(n, x.device, seed, index, generator)
            uniform = self._choices(n, draws, x.device)
            if self.noise[1] > 0:
                deviation = _between(self.noise, uniform[:, 3])
            if psf is None:
                psf, capacity = self._psf(n, draws, uniform), tap_capacity(self.length)
        pictures, kernels = _batched(x, psf)
        y = blur_ops.apply_psf(
            pictures,
            kernels,
            self.padding,
            self.gamma,
            windows,
            None if size is None else list(size),
            deviation,
            draws.seed,
            draws.first,
            draws.counter,
            signed,
            capacity,
        )
        y = y if x.dim() == 4 else y[0]
        return (y, psf) if return_psf else y

    def extra_repr(self) -> str:
        return f"length={self.length}, size={self.size}, exposure={self.exposure}, mode={self.mode!r}, p={self.p}"
