"""Random camera shake as a module: an augmentation for training, and a way to make blurred pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from deblurgan import ops, reference
from deblurgan.arguments import kind_of, require_number, require_whole
from deblurgan.blur.apply import as_batches, check_picture
from deblurgan.blur.camera import Effects, Range, Realism, as_range, camera_options
from deblurgan.blur.distributions import bit_table, pick, spread
from deblurgan.blur.draws import Draws, by_value, fresh_draws, next_draws
from deblurgan.blur.jpeg import through_jpeg
from deblurgan.blur.kinds import Picture, in_kind_of, pixels_of
from deblurgan.blur.psf import Mode, rasterize_psf, tap_capacity
from deblurgan.blur.trajectories import RELEASED_ANXIETIES, Anxiety, check_anxiety, draw_anxieties
from deblurgan.ops.apply import PADDINGS
from deblurgan.ops.common import check_seed
from deblurgan.ops.psf import MAX_SIZE
from deblurgan.ops.trajectories import MAX_LENGTH


def _shares(exposure: float | Sequence[float]) -> tuple[float, ...]:
    shares = tuple(exposure) if isinstance(exposure, Iterable) else (exposure,)
    for share in shares:
        require_number("exposure", share)
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"exposure must be one or more shares in (0, 1], got {exposure}")
    return shares


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
        gamma: averages value^gamma, which is light, rather than values; in [0.1, 10]. None is 1, or the preset's.
        noise: standard deviation of normal noise on the values as a share of white, >= 0; of a (low, high) range, one
            is drawn for each picture.
        realism: "camera" blurs as a camera does: it is gamma 2.2, highlights (0.25, 1.75), shot (0.5e-4, 1.5e-4), read
            (4.6e-4, 13.7e-4) and jpeg (75, 95), of which those that are given, off included, take the preset's place.
        highlights: light beyond white that saturated pixels are given before the average, in units of white's, so that
            lamps draw bright streaks; >= 0, 0 is off. Like the next three a number, or a (low, high) range of which one
            is drawn for each picture. It and the next two clip the average to [0, 1], as a sensor does.
        shot, read: the sensor's noise: normal, of variance shot light + read^2, on the averaged light, white's being 1;
            >= 0, 0 is off.
        jpeg: the quality, 1 ... 100, of the JPEG that each picture becomes at last and is read from again, with colour
            at half the size (4:2:0); 0 is off. Pillow does it on the host, which on CUDA waits for the GPU and cannot
            be captured in a graph. It takes 1 or 3 channels, makes floats multiples of 1/255, and has no gradient.
        p: the probability that a picture is blurred at all, in [0, 1]; noise, sensor and JPEG are for every picture.
        same_on_batch: use one PSF for the whole batch.
        seed: in [0, 2^63). Seed and index name a draw, on any device and in any batch. Pictures are numbered from 0 as
            they come, unless a call gives `index`. In the worker processes of a DataLoader the numbers start anew each
            epoch, so there the worker's own seed is added. None draws a new seed from torch's generator for each call,
            so that `torch.manual_seed` repeats a run, and instances, loader workers and, even where all called
            `torch.manual_seed` alike, the ranks of torch.distributed and torchrun draw other blur. An index still names
            a draw then, that of seed 0.

    Raises ValueError for an argument out of range, TypeError for one of another type.

    On CUDA nothing waits for the GPU once the module is there too (`blur.cuda()`) or has no seed: the number of the
    next picture, or the seed, is then kept in device memory, so that each replay of a CUDA graph draws fresh blur. (A
    `size` below the default has every canvas checked, which waits.) With a default `size`,
    `torch.compile(fullgraph=True)` takes the module; calls of compiled code count and draw like others, but for those
    without seed and index: torch's compiler draws other numbers than torch, which `torch.manual_seed` repeats too.

    Source: paper section 4 and the released motion_blur/. "centered" differs from the latter on purpose: its PSFs lie
    off the centre, its borders are black, and it stretches each result to the full range of values. "camera": Rim et
    al., "Realistic Blur Synthesis for Learning Image Deblurring" (RSBlur), ECCV 2022: highlights are its saturation
    synthesis, shot and read half to one and a half times what it measured on its camera, 1e-4 and 9.15e-4, here without
    its mosaic and white balance. It has no JPEG; 75 is Pillow's quality, and 95 about a camera's best.

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
        gamma: float | None = None,
        noise: float | Range = 0.0,
        realism: Realism = "none",
        highlights: float | Range | None = None,
        shot: float | Range | None = None,
        read: float | Range | None = None,
        jpeg: int | tuple[int, int] | None = None,
        p: float = 1.0,
        same_on_batch: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        require_number("length", length)
        require_number("p", p)
        require_whole("steps", steps)
        self.exposure, self.noise = _shares(exposure), as_range("noise", noise)
        self.camera = camera_options(realism, gamma=gamma, highlights=highlights, shot=shot, read=read, jpeg=jpeg)
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1], got {p}")
        if not 0 < length <= MAX_LENGTH:
            raise ValueError(f"length must be in (0, {MAX_LENGTH:g}] px, got {length}")
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        if padding not in PADDINGS:
            raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
        check_seed(seed or 0, 0)
        check_anxiety(anxiety)
        self.size = _default_size(length, mode) if size is None else size
        require_whole("size", self.size)
        if not 3 <= self.size <= MAX_SIZE:
            raise ValueError(f"size must be in [3, {MAX_SIZE}], got {self.size}")
        self.holds_all = self.size >= _safe_size(length, mode)
        self.length, self.steps, self.anxiety, self.mode = length, steps, anxiety, mode
        self.padding, self.p, self.same_on_batch, self.seed = padding, p, same_on_batch, seed
        with torch.inference_mode(False):  # so that calls in any mode may count
            self.register_buffer("anxieties", bit_table(RELEASED_ANXIETIES, "cpu"), persistent=False)
            self.register_buffer("exposures", bit_table(self.exposure, "cpu"), persistent=False)
            counter = torch.tensor([seed or 0, 0], dtype=torch.int64, device="cpu")
            self.register_buffer("counter", counter, persistent=False)

    def psf(
        self, n: int, *, seed: int | None = None, index: int | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """The PSFs of the indices index ... index + n - 1: fp32 [n, size, size], on the CPU unless `device` is given.

        Without an index they are those from 0 on of the seed, or new ones where neither call nor module has a seed. A
        picture that stays sharp (p < 1) gets the unit impulse.
        """
        home = torch.device(device or "cpu")
        named = seed is not None or self.seed is not None or index is not None
        draws = self._named(seed, index or 0) if named else fresh_draws(home)
        return self._psf(n, draws, draws.uniforms(n, home))

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

    def _named(self, seed: int | None, index: int) -> Draws:
        """The draws of an index; without a seed those of the module's, and without that of seed 0."""
        return Draws((self.seed or 0) if seed is None else seed, index)

    def _draws(
        self, n: int, device: torch.device, seed: int | None, index: int | None, generator: torch.Generator | None
    ) -> Draws:
        """Numbers the n pictures of a call; without a seed and an index they are the module's next ones."""
        if not isinstance(generator, torch.Generator | None):
            raise TypeError(f"generator must be a torch.Generator, got {generator!r}: seed takes a number")
        check_seed(seed or 0, index or 0)
        if generator is not None:
            if seed is not None:
                raise ValueError("seed and generator contradict each other: give one of them")
            seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
            index = index or 0
        if index is not None:
            return self._named(seed, index)
        if seed is None and self.seed is None:
            return fresh_draws(device)
        counter = next_draws(self.counter, n)
        if seed is not None:
            counter[0] = seed
        return by_value(counter, device)

    @overload
    def forward(
        self,
        x: Picture,
        *,
        psf: Tensor | None = ...,
        seed: int | None = ...,
        index: int | None = ...,
        generator: torch.Generator | None = ...,
        return_psf: Literal[False] = ...,
        windows: Tensor | None = ...,
        size: tuple[int, int] | None = ...,
        signed: torch.dtype | None = ...,
    ) -> Picture: ...

    @overload
    def forward(
        self,
        x: Picture,
        *,
        psf: Tensor | None = ...,
        seed: int | None = ...,
        index: int | None = ...,
        generator: torch.Generator | None = ...,
        return_psf: Literal[True],
        windows: Tensor | None = ...,
        size: tuple[int, int] | None = ...,
        signed: torch.dtype | None = ...,
    ) -> tuple[Picture, Tensor]: ...

    def forward(
        self,
        x: Tensor | NDArray[Any] | Image.Image,
        *,
        psf: Tensor | None = None,
        seed: int | None = None,
        index: int | None = None,
        generator: torch.Generator | None = None,
        return_psf: bool = False,
        windows: Tensor | None = None,
        size: tuple[int, int] | None = None,
        signed: torch.dtype | None = None,
    ) -> Any:
        """Blur x; the result is of its kind, size and dtype; with `return_psf` also the PSFs [n, k, k].

        x is a Tensor [n, c, h, w] or [c, h, w], uint8 or float, an ndarray [h, w] or [h, w, c], uint8 or float, or a
        PIL picture of mode L or RGB; TypeError says so for others. Floats are in [0, 1].

        Picture i gets the PSF of (seed, index + i); without an index the module numbers pictures as they come, and
        `generator`, in place of a seed, draws one for this call. A `psf`, [n, k, k] or [k, k], is used instead of a
        drawn one. `windows`, `size` and, of a Tensor, `signed` are those of `apply_psf`.
        """
        options = (psf, seed, index, generator, windows, size, signed)
        if isinstance(x, Tensor):
            y, kernels = self._blurred(x, *options)
            return (y, kernels) if return_psf else y
        if signed is not None:
            raise ValueError(f"signed goes with a torch.Tensor, got {signed} and {kind_of(x)}")
        y, kernels = self._blurred(pixels_of(x), *options)
        other = in_kind_of(x, y)
        return (other, kernels) if return_psf else other

    def _blurred(
        self,
        x: Tensor,
        psf: Tensor | None,
        seed: int | None,
        index: int | None,
        generator: torch.Generator | None,
        windows: Tensor | None,
        size: tuple[int, int] | None,
        signed: torch.dtype | None,
    ) -> tuple[Tensor, Tensor]:
        """`forward` of a Tensor, with the PSFs."""
        check_picture(x)
        n = x.shape[0] if x.dim() == 4 else 1
        draws, capacity, deviation, effects = Draws(), 0, None, Effects()
        if psf is None or self.noise[1] > 0 or self.camera.draws:
            draws = self._draws(n, x.device, seed, index, generator)
        if psf is None or self.noise[1] > 0:
            uniform = draws.uniforms(n, x.device)
            if self.noise[1] > 0:
                deviation = spread(self.noise, uniform[:, 3])
            if psf is None:
                psf, capacity = self._psf(n, draws, uniform), tap_capacity(self.length)
        if self.camera.draws:
            effects = self.camera.effects(draws.camera_uniforms(n, x.device))
        highlights, sensor, quality = effects
        pictures, kernels = as_batches(x, psf)
        y = ops.apply_psf(
            pictures,
            kernels,
            self.padding,
            self.camera.gamma,
            windows,
            None if size is None else list(size),
            deviation,
            *draws,
            signed if quality is None else None,
            capacity,
            highlights,
            sensor,
        )
        if quality is not None:
            y = through_jpeg(y, quality, signed)
        return y if x.dim() == 4 else y[0], psf

    if TYPE_CHECKING:
        __call__ = forward  # so that a call has forward's types

    def extra_repr(self) -> str:
        return f"length={self.length}, size={self.size}, exposure={self.exposure}, mode={self.mode!r}, p={self.p}"


def _impulse(psf: Tensor) -> Tensor:
    """The PSF [1, k, k] that leaves a picture as it is."""
    impulse = torch.zeros_like(psf[:1])
    impulse[:, psf.shape[1] // 2, psf.shape[2] // 2] = 1
    return impulse
