"""Random camera shake as a module: an augmentation for training, and a way to make blurred pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, overload

import torch
from torch import Tensor, nn

from deblurgan import ops, reference
from deblurgan.arguments import require_number
from deblurgan.blur.apply import as_batches, check_picture
from deblurgan.blur.distributions import bit_table, pick, spread
from deblurgan.blur.psf import Mode, rasterize_psf, tap_capacity
from deblurgan.blur.trajectories import RELEASED_ANXIETIES, Anxiety, check_anxiety, draw_anxieties
from deblurgan.ops.apply import PADDINGS
from deblurgan.ops.common import check_seed
from deblurgan.ops.psf import MAX_SIZE
from deblurgan.ops.trajectories import MAX_LENGTH


class Draws(NamedTuple):
    """What names the draws of a call: a seed and the index of its first picture, or both in `counter` on the device."""

    seed: int = 0
    first: int = 0
    counter: Tensor | None = None  # int64 [2]


def _shares(exposure: float | Sequence[float]) -> tuple[float, ...]:
    shares = tuple(exposure) if isinstance(exposure, Iterable) else (exposure,)
    for share in shares:
        require_number("exposure", share)
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"exposure must be one or more shares in (0, 1], got {exposure}")
    return shares


def _noise_range(noise: float | tuple[float, float]) -> tuple[float, float]:
    ends = tuple(noise) if isinstance(noise, Iterable) else (noise, noise)
    for end in ends:
        require_number("noise", end)
    if len(ends) != 2 or not 0 <= ends[0] <= ends[1] < math.inf:
        raise ValueError(f"noise must be >= 0, or a (low, high) pair of such, got {noise}")
    return ends


def _safe_size(length: float, mode: Mode) -> int:
    """The least canvas, in px, that holds every path of `length` px."""
    # no point of a path is further than length / 2 from its centroid, and none further than length from another
    return 2 * math.ceil(length / 2) + 5 if mode == "centered" else math.ceil(length) + 5


def _default_size(length: float, mode: Mode) -> int:
    as_released = mode == "released" and length == 60  # 64 holds every path but a straight one
    return 64 if as_released else _safe_size(length, mode)


class MotionBlur(nn.Module):
    """Random camera shake as an augmentation: pictures in, blurred pictures out, same shape and dtype.

    Args:
        length: length of the camera's path, in (0, 1e6] px. The blur itself is about a quarter as long, since the path
            winds.
        size: side of the PSF's canvas, in [3, 32768] px; None is the least that holds every path: 65 for length 60, and
            the released 64 in mode "released".
        steps: positions on a path, in [2, 2^22].
        anxiety: how shaky the camera is, in [0, 1000]; 0 is a straight line. A (low, high) pair is a range to draw
            from, None the released list, 0.003 ... 0.01.
        exposure: the share of the path that is exposed, in (0, 1]; of several, one is drawn for each picture.
        mode: "centered" puts the PSF's centroid on the pixel and keeps brightness; "released" does as the released
            code. See `rasterize_psf`.
        padding: what lies past the picture's border: "reflect" mirrors the picture, "replicate" repeats its edge,
            "zero" is black.
        gamma: averages value^gamma, which is light, rather than values; in [0.1, 10], a camera's is 2.2.
        noise: standard deviation of the sensor's noise as a share of white, >= 0; of a (low, high) range, one is drawn
            for each picture.
        p: the probability that a picture is blurred at all, in [0, 1].
        same_on_batch: use one PSF for the whole batch.
        seed: in [0, 2^63). Seed and index name a draw. Pictures are numbered from 0 as they come, unless a call gives
            `index`. In the worker processes of a DataLoader the numbers start anew each epoch, so there the worker's
            own seed is added.

    Raises ValueError for an argument out of range, TypeError for one of another type.

    On CUDA nothing waits for the GPU once the module is there too (`blur.cuda()`): the number of the next picture is
    then kept in device memory, so that each replay of a CUDA graph draws fresh blur. (A `size` below the default has
    every canvas checked, which waits.)

    Source: paper section 4 and the released motion_blur/. "centered" differs from the latter on purpose: its PSFs lie
    off the centre, its borders are black, and it stretches each result to the full range of values.

    Example:
        >>> blur = MotionBlur(length=40.0, exposure=(0.5, 1.0), noise=(0.0, 0.02), seed=1)
        >>> blurred, psf = blur(torch.rand(4, 3, 128, 128), return_psf=True)
        >>> blurred.shape, psf.shape
        (torch.Size([4, 3, 128, 128]), torch.Size([4, 45, 45]))
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
        for name, value in {"length": length, "steps": steps, "gamma": gamma, "p": p, "seed": seed}.items():
            require_number(name, value)
        self.exposure, self.noise = _shares(exposure), _noise_range(noise)
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1], got {p}")
        if not 0 < length <= MAX_LENGTH:
            raise ValueError(f"length must be in (0, {MAX_LENGTH:g}] px, got {length}")
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        if padding not in PADDINGS:
            raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
        if not 0.1 <= gamma <= 10:
            raise ValueError(f"gamma must be in [0.1, 10], got {gamma}")
        check_seed(seed, 0)
        check_anxiety(anxiety)
        self.size = _default_size(length, mode) if size is None else size
        require_number("size", self.size)
        if not 3 <= self.size <= MAX_SIZE:
            raise ValueError(f"size must be in [3, {MAX_SIZE}], got {self.size}")
        self.holds_all = self.size >= _safe_size(length, mode)
        self.length, self.steps, self.anxiety, self.mode = length, steps, anxiety, mode
        self.padding, self.gamma = padding, gamma
        self.p, self.same_on_batch, self.seed = p, same_on_batch, seed
        with torch.inference_mode(False):  # so that calls in any mode may count
            self.register_buffer("anxieties", bit_table(RELEASED_ANXIETIES, "cpu"), persistent=False)
            self.register_buffer("exposures", bit_table(self.exposure, "cpu"), persistent=False)
            counter = torch.tensor([seed, 0], dtype=torch.int64, device="cpu")
            self.register_buffer("counter", counter, persistent=False)

    def psf(
        self, n: int, *, seed: int | None = None, index: int = 0, device: torch.device | str | None = None
    ) -> Tensor:
        """The PSFs of the indices index ... index + n - 1: fp32 [n, size, size], on the CPU unless `device` is given.

        A picture that stays sharp (p < 1) gets the unit impulse.
        """
        draws = Draws(self.seed if seed is None else seed, index)
        return self._psf(n, draws, self._uniforms(n, draws, torch.device(device or "cpu")))

    def _uniforms(self, n: int, draws: Draws, device: torch.device) -> Tensor:
        """Uniform numbers [n, 4]: for the anxiety, the exposure, whether to blur, and the noise."""
        return ops.uniforms(n, seed=draws.seed, first=draws.first, counter=draws.counter, device=device)

    def _psf(self, n: int, draws: Draws, uniform: Tensor) -> Tensor:
        kernels = uniform[: min(n, 1)] if self.same_on_batch else uniform
        anxiety = draw_anxieties(self.anxiety, self.anxieties, kernels[:, 0])
        exposure = pick(self.exposures, kernels[:, 1])
        paths = ops.random_trajectories(anxiety, draws.seed, draws.first, self.steps, self.length, draws.counter)
        if self.holds_all:
            psf = ops.rasterize_psf(paths, exposure, self.size, self.mode)
        else:
            psf = rasterize_psf(paths, size=self.size, exposure=exposure, mode=self.mode)
        if self.p < 1:
            psf = torch.where((kernels[:, 2] >= self.p)[:, None, None], _impulse(psf), psf)
        return psf.expand(n, -1, -1)

    def _draws(
        self, n: int, device: torch.device, seed: int | None, index: int | None, generator: torch.Generator | None
    ) -> Draws:
        """Numbers the n pictures of a call; without a seed and an index they are the module's next ones."""
        if not isinstance(generator, torch.Generator | None):
            raise TypeError(f"generator must be a torch.Generator, got {generator!r}: seed takes a number")
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

    @overload
    def forward(
        self,
        x: Tensor,
        *,
        psf: Tensor | None = ...,
        seed: int | None = ...,
        index: int | None = ...,
        generator: torch.Generator | None = ...,
        return_psf: Literal[False] = ...,
        windows: Tensor | None = ...,
        size: tuple[int, int] | None = ...,
        signed: torch.dtype | None = ...,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        *,
        psf: Tensor | None = ...,
        seed: int | None = ...,
        index: int | None = ...,
        generator: torch.Generator | None = ...,
        return_psf: Literal[True],
        windows: Tensor | None = ...,
        size: tuple[int, int] | None = ...,
        signed: torch.dtype | None = ...,
    ) -> tuple[Tensor, Tensor]: ...

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

        Picture i gets the PSF of (seed, index + i); without an index the module numbers pictures as they come, and
        `generator` draws a seed for this call. A `psf`, [n, k, k] or [k, k], is used instead of a drawn one. `windows`,
        `size` and `signed` are those of `apply_psf`.
        """
        check_picture(x)
        n = x.shape[0] if x.dim() == 4 else 1
        capacity, draws, deviation = 0, Draws(), None
        if psf is None or self.noise[1] > 0:
            draws = self._draws(n, x.device, seed, index, generator)
            uniform = self._uniforms(n, draws, x.device)
            if self.noise[1] > 0:
                deviation = spread(self.noise, uniform[:, 3])
            if psf is None:
                psf, capacity = self._psf(n, draws, uniform), tap_capacity(self.length)
        pictures, kernels = as_batches(x, psf)
        part = None if size is None else list(size)
        options: tuple[Any, ...] = (self.padding, self.gamma, windows, part, deviation, *draws, signed, capacity)
        y = ops.apply_psf(pictures, kernels, *options)
        y = y if x.dim() == 4 else y[0]
        return (y, psf) if return_psf else y

    if TYPE_CHECKING:
        __call__ = forward  # so that a call has forward's types

    def extra_repr(self) -> str:
        return f"length={self.length}, size={self.size}, exposure={self.exposure}, mode={self.mode!r}, p={self.p}"


def _impulse(psf: Tensor) -> Tensor:
    """The PSF [1, k, k] that leaves a picture as it is."""
    impulse = torch.zeros_like(psf[:1])
    impulse[:, psf.shape[1] // 2, psf.shape[2] // 2] = 1
    return impulse
