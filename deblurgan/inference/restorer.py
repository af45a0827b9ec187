"""Tensors through a generator within a budget of memory: whole where they fit, else in strips."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from deblurgan import memory
from deblurgan.device import compile_options, torch_defaults
from deblurgan.inference import checks, streaming
from deblurgan.inference.plans import Limits, StreamPlan, StripPlan, megabytes, plan_strips
from deblurgan.inference.rows import PictureRows, ResultRows, from_unit, to_unit
from deblurgan.limits import available_memory, free_memory
from deblurgan.nn import Generator
from deblurgan.ops.layers import Quantize
from deblurgan.reference import border_index

# Retaining freed memory can double what a call needs, since it is retained in pieces that later tensors may not fit
RETAINED_FACTOR = 2
# Bytes, about, that a call takes beside the network's tensors: oneDNN's work space, and holes between blocks
OVERHEAD = 2**26
# Of host memory that is free, what "auto" lets a picture in strips take: more speeds it up by little
SHARE = 0.5
# Up to here strips gain a CPU nothing; above, what follows a convolution in them is one pass in C++
WHOLE_PIXELS = 2**16
# Pixels that keep a GPU busy: more at a time only take more memory
BUSY_PIXELS = 2**22
# Elements that a layer's output may have on a GPU: cuDNN counts in 32 bits
GPU_ELEMENTS = 2**31
Progress = Callable[[float], object]


class Restorer:
    """A copy of a generator on a device, and its pictures' way through it. Threads may share one.

    Args:
        max_memory: "auto" or bytes, see `Deblurrer`.
        seed: of dropout's masks; None for no dropout.
        quantize, compile: see `Deblurrer`.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        device: torch.device,
        dtype: torch.dtype,
        max_memory: float | str = "auto",
        seed: int | None = None,
        quantize: Quantize | None = None,
        compile: bool = False,
    ) -> None:
        self.device, self.dtype, self.max_memory, self.seed = device, dtype, max_memory, seed
        # The faster layout of each device
        self.layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
        self.generator = self._copy(generator)
        self.device = next(self.generator.parameters()).device  # by number: "cuda" is another one in another thread
        self.generator.quantize = quantize
        self._network = self._compiled() if compile else self.generator
        self._single: Restorer | None = None  # of the same weights in fp32, once it is needed
        self._making_single = threading.Lock()

    def _copy(self, generator: Generator) -> Generator:
        copy = Generator(**generator.config())
        copy.load_state_dict(generator.state_dict())
        copy.to(self.device, self.dtype).to(memory_format=self.layout)  # type: ignore[call-overload]
        return copy.eval().requires_grad_(False)

    def _compiled(self) -> Callable[..., Tensor]:
        packed_weights = {"freezing": True} if self.device.type == "cpu" else {}
        return torch.compile(self.generator, fullgraph=True, options=compile_options(self.device) | packed_weights)

    @torch_defaults()
    @torch.no_grad()
    def __call__(
        self,
        picture: Tensor,
        layout: torch.memory_format = torch.contiguous_format,
        progress: Progress | None = None,
    ) -> Tensor:
        """The restored picture, alike, in the memory format `layout`; a tensor that `checks.require_tensor` passes."""
        checks.require_own_threads()
        batch = picture if picture.dim() == 4 else picture[None]
        limits = self.limits(result=batch.nbytes if batch.device.type == self.device.type else 0)
        plan = self.plan_within(batch.shape[2], batch.shape[3], limits)
        restored = torch.empty_like(batch, memory_format=layout)
        at_once = self.at_once(plan, limits)
        plenty = RETAINED_FACTOR * plan.peak_bytes <= limits.device
        with memory.retain_freed() if plenty and self.device.type == "cpu" else nullcontext():
            for i in range(0, len(batch), at_once):
                some = batch[i : i + at_once]
                self._some(some, restored[i : i + at_once], plan, limits, part(progress, i, len(some), len(batch)))
        return restored if picture.dim() == 4 else restored[0]

    def at_once(self, plan: StreamPlan, limits: Limits) -> int:
        """How many pictures of that plan the network takes in one go. A CPU gains nothing by more than one, and their
        dropout masks would be others."""
        if plan.strips is not None or self.seed is not None or self.device.type == "cpu":
            return 1
        pixels = self.padded(plan.h) * self.padded(plan.w)
        return max(1, int(min(limits.device / (pixels * self.bytes_per_pixel), BUSY_PIXELS / pixels)))

    def _some(self, pictures: Tensor, results: Tensor, plan: StreamPlan, limits: Limits, done: Progress) -> None:
        """[n, c, h, w]: restored into `results`, which is alike, in fp32 where values are not finite."""
        try:
            self._by_plan(pictures, results, plan, limits, done)
        except FloatingPointError as error:
            if self.dtype == torch.float32:
                raise
            reason = str(error)
        else:
            return
        warnings.warn(f"{reason}: computed again in fp32", stacklevel=2)
        single = self._in_fp32()
        for i in range(len(pictures)):
            plan = single.plan_within(plan.h, plan.w, limits)
            single._some(pictures[i : i + 1], results[i : i + 1], plan, limits, part(done, i, 1, len(pictures)))

    def _in_fp32(self) -> Restorer:
        with self._making_single:
            if self._single is None:
                self._single = Restorer(
                    self.generator,
                    device=self.device,
                    dtype=torch.float32,
                    max_memory=self.max_memory,
                    seed=self.seed,
                )
            return self._single

    def _by_plan(self, pictures: Tensor, results: Tensor, plan: StreamPlan, limits: Limits, done: Progress) -> None:
        """Where memory runs out after all, strips take over."""
        strips = plan.strips
        if strips is None:
            try:
                self._whole(pictures, results)
            except Exception as error:
                if not streaming.is_out_of_memory(error):
                    raise
                strips = self.plan_within(plan.h, plan.w, limits, because=f"memory ran out: {error}").strips
        if strips is None:
            done(1.0)
            return
        for i, (picture, result) in enumerate(zip(pictures, results, strict=True)):
            self.in_strips(picture, result, strips, limits, part(done, i, 1, len(pictures)))

    def in_strips(self, picture: Tensor, result: Tensor, plan: StripPlan, limits: Limits, done: Progress) -> None:
        """[c, h, w]: restored into `result`, which is alike."""
        h, w = picture.shape[1:]
        rows = PictureRows(picture, (self.padded(h), self.padded(w)), self.device)
        restored = ResultRows(result, self.device)
        again = partial(self.strips_plan, h, w)
        with streaming.strip_ops(self.generator) as ops:
            run = partial(streaming.run, ops=ops, pixels=rows.read, put=restored.write, done=done)
            streaming.restore_in_strips(plan, again, limits, run)
        self._require_finite(restored.not_finite)

    def _whole(self, pictures: Tensor, results: Tensor) -> None:
        """[n, c, h, w]: restored in one go into `results`, which is alike."""
        x = self._mirrored(pictures)
        if x.dtype == torch.uint8 and x.shape[1] == 3 and self._has_engine():
            y, not_finite = self.generator.restore(x, seed=self.seed)
        else:
            y, not_finite = self._in_floats(x)
        if y.is_cuda and not results.is_cuda:  # by pinned memory, and with one wait
            y, not_finite = _queued_to_host(y.to(results.dtype)), _queued_to_host(not_finite)
            torch.cuda.current_stream(self.device).synchronize()
        self._require_finite(not_finite)
        results.copy_(y[..., : results.shape[2], : results.shape[3]])

    def _require_finite(self, not_finite: Tensor) -> None:
        if bool(not_finite.any()):
            raise FloatingPointError(f"the network gave values that are not finite in {self.dtype}")

    def _mirrored(self, picture: Tensor) -> Tensor:
        """picture [n, c, h, w] on the device, mirrored at the bottom and right to a size that the network takes."""
        h, w = picture.shape[2:]
        pinned = self.device.type == "cuda" and picture.device.type == "cpu"
        nhwc = picture.is_contiguous(memory_format=torch.channels_last)
        whole = torch.empty(
            (*picture.shape[:2], self.padded(h), self.padded(w)),
            dtype=picture.dtype,
            device=picture.device,
            memory_format=torch.channels_last if nhwc else torch.contiguous_format,
            pin_memory=pinned,
        )
        whole[..., :h, :w] = picture
        for axis, side in ((2, h), (3, w)):
            missing = whole.shape[axis] - side
            if missing:
                index = border_index(side, 0, missing, "reflect", whole.device)[side:]
                whole.narrow(axis, side, missing).copy_(whole.index_select(axis, index))
        return whole.to(self.device, non_blocking=pinned)

    def _has_engine(self) -> bool:
        """Whether the network's engine takes pictures, and so 8 bits too."""
        anything = torch.empty(1, device=self.device)
        return self._network is self.generator and self.generator.why_reference(anything) is None

    def _in_floats(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, 1 or 3, H, W] restored, fp32 in its range; and whether the network gave a value that is not finite."""
        signed = (to_unit(x).expand(-1, 3, -1, -1) * 2 - 1).contiguous(memory_format=self.layout)
        if self._has_engine():
            y, not_finite = self.generator.restore(signed, seed=self.seed)
        else:
            y = self._network(signed, seed=self.seed)
            not_finite = ~y.isfinite().all()
        restored = (y + 1) / 2
        if x.shape[1] == 1:
            restored = restored.mean(1, keepdim=True)
        return from_unit(restored, x.dtype), not_finite

    def padded(self, side: int) -> int:
        """The side of the picture that the network sees, px."""
        multiple = self.generator.spec.size_multiple
        return max(Generator.MIN_SIZE, 2 * multiple, -(-side // multiple) * multiple)  # one pixel cannot be mirrored

    def limits(self, *, result: int = 0) -> Limits:
        """What a call may take now. `result` is the size of its result where that lies on the device, in bytes."""
        host = 0.0
        if self.device.type != "cpu":
            free = available_memory()
            host = float("inf") if free is None else SHARE * free.bytes
        if self.max_memory != "auto":
            return Limits(float(self.max_memory), f"max_memory is {megabytes(float(self.max_memory))}", host=host)
        free = free_memory(self.device)
        if free is None:
            return Limits(float("inf"), "")
        there = max(0, free.bytes - OVERHEAD - result)
        return Limits(there, f"{megabytes(there)} are left of {megabytes(free.bytes)} ({free.source})", host=host)

    def plan_within(self, h: int, w: int, limits: Limits, *, because: str | None = None) -> StreamPlan:
        """`because` says why the network cannot take the picture whole."""
        padded = self.padded(h), self.padded(w)
        pixels = padded[0] * padded[1]
        need = pixels * self.bytes_per_pixel
        if self.max_memory == "auto":
            need -= self.generator.kept_bytes(1, *padded)
        if because is None and need > limits.device:
            because = f"whole it needs {megabytes(need)}, {limits.source}"
        if because is None and self.device.type != "cpu" and pixels * self.generator.spec.width >= GPU_ELEMENTS:
            because = f"its layers have {GPU_ELEMENTS} elements or more"
        why_whole = self._why_whole()
        if because is not None and why_whole is not None:
            raise MemoryError(f"picture of {w}x{h}: {because}, and {why_whole}")
        if because is None and why_whole is None and self.device.type == "cpu" and pixels > WHOLE_PIXELS:
            because = "a CPU is faster so, in less memory"
        if because is None:
            return StreamPlan(h, w, why_whole or "it fits", max(need, 0))
        strips = self.strips_plan(h, w, limits)
        return StreamPlan(h, w, because, strips.peak_bytes, strips)

    def strips_plan(self, h: int, w: int, limits: Limits) -> StripPlan:
        if self.max_memory == "auto" and self.device.type == "cpu":
            limits = replace(limits, planes=min(limits.planes, SHARE * limits.device))
        padded = self.padded(h), self.padded(w)
        try:
            return plan_strips(self.generator.spec, padded, self.dtype, self.device, limits)
        except MemoryError as error:
            raise MemoryError(f"picture of {w}x{h}: {error}") from error

    def _why_whole(self) -> str | None:
        """Why pictures cannot be restored in strips; None where they can."""
        if self.seed is not None:
            return "stochastic=True draws dropout for a whole picture"
        if self._network is not self.generator:
            return "compile=True compiles the network for a whole picture"
        if self.generator.quantize is not None:
            return f'quantize="{self.generator.quantize}" takes a whole picture'
        return None

    @property
    def bytes_per_pixel(self) -> int:
        """The most that a picture taken whole allocates for each pixel, about: four full-size tensors of the first
        layer's width and the picture itself. Half types add to it, since they are normalised in fp32; and a CPU in fp16
        copies the 7x7 window of every pixel. Of many threads of a CPU each copies what the last transposed convolution
        reads."""
        width, size = self.generator.spec.width, self.dtype.itemsize
        if self.dtype == torch.float16 and self.device.type == "cpu":
            return 104 * max(width, 3) + 128
        widest = 16 * width if self.dtype == torch.float32 else 18 * width
        copying = (torch.get_num_threads() + 3) * width * size // 2 if self.device.type == "cpu" else 0
        return max(widest, copying) + 128


def part(progress: Progress | None, before: int, n: int, of: int) -> Progress:
    """Progress with n of `of` pictures, as progress with all; `before` are done."""
    if progress is None:
        return lambda share: None
    return lambda share: progress((before + share * n) / of)


def _queued_to_host(x: Tensor) -> Tensor:
    """A copy in pinned memory, of which torch keeps some; it is there once x's current stream has come to it."""
    return torch.empty_like(x, device="cpu", pin_memory=True).copy_(x, non_blocking=True)
