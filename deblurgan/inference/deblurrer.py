"""Deblurrer: a generator that takes pictures of any size and kind."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deblurgan import images, memory
from deblurgan.arguments import require_kind
from deblurgan.config import as_path
from deblurgan.device import (
    DTYPES,
    auto_dtype,
    compile_options,
    kernels_available,
    pick_device,
    torch_defaults,
    why_no_compile,
    why_no_kernels,
)
from deblurgan.images import FilesReport
from deblurgan.inference import checks, folders, streaming
from deblurgan.inference.plans import Limits, StreamPlan, StripPlan, megabytes, plan_strips
from deblurgan.inference.processes import Processes
from deblurgan.inference.rows import PictureRows, ResultRows, from_unit, to_unit
from deblurgan.inference.scale import is_looked_at, pick_scale, reduced_size, restore_at
from deblurgan.inference.video import VideoReport, restore_video
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
# Up to here a CPU is faster with the whole picture; above, strips stay in its caches
WHOLE_PIXELS = 2**18
# Pixels that keep a GPU busy: more at a time only take more memory
BUSY_PIXELS = 2**22
# Elements that a layer's output may have on a GPU: cuDNN counts in 32 bits
GPU_ELEMENTS = 2**31
Progress = Callable[[float], object]


class Deblurrer:
    """A generator that takes pictures of any size and kind.

    Args:
        generator: its weights are copied to the device and dtype; the generator itself is not changed.
        device: "auto" is CUDA where there is a GPU, else the CPU.
        dtype: "fp32", "bf16", "fp16" or "auto": fp16 on CUDA (8 times more exact than bf16), bf16 on a CPU with
            instructions for it, else fp32. The layers compute in it; the picture and the last addition stay fp32. Where
            cuDNN convolves, fp32 means TF32 unless torch.backends.cudnn.allow_tf32 is False.
        max_memory: bytes that a call may allocate on the device beyond its picture and result; "auto" is what is free
            there, and on Linux what the limits of a container and of the process leave. A picture that needs more is
            restored in strips: the same result, slower by little; see `plan`. What is stored whole then lies in host
            memory or in a temporary file where it does not fit. It counts for each call: threads add up.
        scale: at which the network sees pictures, a share of their sides, or "auto", which looks at each; what it
            changes is added to the full picture.
        stochastic: dropout at inference, as in the paper. Every call draws the same masks, those of `seed`.
        seed: of the dropout masks; without `stochastic` it has no effect.
        quantize: None, or "int8" or "fp8" to compute the residual blocks in 8 bits. It needs a GPU of compute
            capability 8.0 (int8) or 8.9 (fp8) or newer and a network whose width is a multiple of 8. Trained networks
            have planes with a few very large values: there fp8 is more exact than int8, and less exact on planes
            without them.
        compile: runs the network through torch.compile, in place of the engine on CUDA. It pays on a CPU, and needs a
            C++ compiler there. The first picture takes half a minute, and so does each of the first four that differ
            in size. A process can hold 8 compiled forms of the network; torch raises for a ninth.

    Threads may share one; on CUDA they take turns at the network. There the third picture of a size captures a CUDA
    graph: torch 2.11 raises in a thread that draws random numbers on that GPU meanwhile.

    In a process forked from one that made a Deblurrer torch's threads are missing: there it raises RuntimeError, unless
    torch.set_num_threads(1) was called.

    Raises ValueError for an option out of range, or one that this device or generator cannot have.
    """

    @torch_defaults()
    def __init__(
        self,
        generator: Generator,
        *,
        device: str | torch.device = "auto",
        dtype: str = "auto",
        max_memory: int | str = "auto",
        scale: float | str = "auto",
        stochastic: bool = False,
        seed: int = 0,
        quantize: Quantize | None = None,
        compile: bool = False,
    ) -> None:
        require_kind("generator", generator, Generator)  # a path goes to from_pretrained
        checks.require_own_threads()
        self.device = pick_device(device)
        _check_options(dtype, max_memory, scale)
        _check_quantize(quantize, self.device, compile)
        if stochastic:
            _check_stochastic(generator, compile)
        why = why_no_compile(self.device)
        if compile and why is not None:
            raise ValueError(f"compile must be off on this machine: {why}")
        self.dtype = DTYPES[auto_dtype(self.device)[0] if dtype == "auto" else dtype]
        self.max_memory, self.scale = max_memory, scale
        self.seed = seed if stochastic else None
        # The faster layout of each device
        self.layout = torch.channels_last if self.device.type == "cpu" else torch.contiguous_format
        self.generator = self._copy(generator)
        self.device = next(self.generator.parameters()).device  # by number: "cuda" is another one in another thread
        self.generator.quantize = quantize
        self.source = generator.source
        self._network = self._compiled() if compile else self.generator
        self._single: Deblurrer | None = None  # of the same weights in fp32, once it is needed
        self._making_single = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path | None = None,
        *,
        device: str | torch.device = "auto",
        dtype: str = "auto",
        max_memory: int | str = "auto",
        scale: float | str = "auto",
        stochastic: bool = False,
        seed: int = 0,
        quantize: Quantize | None = None,
        compile: bool = False,
    ) -> Deblurrer:
        """A Deblurrer with the weights of a file, of a training's run folder (its best), of a folder by
        `Generator.save_pretrained`, of a Hugging Face repository given as "OWNER/NAME" or "hub:OWNER/NAME", with
        "@REVISION" or not (downloaded), or, by default, those that ship with the package. `source` says which.

        The options are those of the class, the errors those of `Generator.from_pretrained`.
        """
        checks.require_own_threads()  # before the weights are copied
        return cls(
            Generator.from_pretrained(path_or_id),
            device=device,
            dtype=dtype,
            max_memory=max_memory,
            scale=scale,
            stochastic=stochastic,
            seed=seed,
            quantize=quantize,
            compile=compile,
        )

    @overload
    def __call__(self, picture: str | Path | Image.Image, *, progress: Progress | None = None) -> Image.Image: ...
    @overload
    def __call__(self, picture: NDArray[Any], *, progress: Progress | None = None) -> NDArray[Any]: ...
    @overload
    def __call__(self, picture: Tensor, *, progress: Progress | None = None) -> Tensor: ...
    def __call__(self, picture: Any, *, progress: Progress | None = None) -> Any:
        """The restored picture, of the same kind, size and dtype.

        Takes a PIL image (its alpha is not changed), an ndarray [h, w, 3] or [h, w], a Tensor [3, h, w] or [n, 3, h, w]
        (or of 1 channel), uint8, uint16 or float in [0, 1]. `progress` is called with the share that is done, up to 1;
        it falls back where memory runs out. What it raises ends the call.

        A PIL image is restored upright and given back as it lay, with its orientation tag; of one with many frames the
        frame it is at is taken. A path gives a PIL image, turned upright. PIL images come in mode L, LA, RGB or RGBA,
        with EXIF, XMP, profile and resolution in `info`.

        Values that are not finite, of a network that overflows its dtype, are computed again in fp32.

        Raises ValueError for another shape, dtype or range, TypeError for another kind of object, ImageError for a bad
        file, MemoryError for a picture that needs more than `max_memory`, FloatingPointError where the network
        overflows fp32.
        """
        if isinstance(picture, str | Path):
            return self._restore(self._read(picture), progress).to_pil()
        if isinstance(picture, Image.Image):
            return images.to_pil_like(self._restore(images.from_pil(picture), progress), picture)
        if isinstance(picture, np.ndarray):
            return self._array(picture, progress)
        if isinstance(picture, Tensor):
            return self._tensor(picture, progress=progress)
        raise TypeError(f"picture must be a path, PIL image, ndarray or Tensor, got {type(picture).__name__}")

    def plan(self, h: int, w: int) -> StreamPlan:
        """How a picture of h x w px would be restored now, and the memory that takes; str() of it says so in lines.

        With scale="auto" for the full size, the most that it can be. Raises MemoryError where memory does not suffice.
        """
        if min(h, w) < 1:
            raise ValueError(f"h and w must be at least 1, got {h} and {w}")
        scale = 1.0 if self.scale == "auto" and not is_looked_at(h, w) else self.scale
        seen = (h, w) if isinstance(scale, str) else reduced_size(h, w, scale)
        return replace(self._plan(*seen, self._limits()), h=h, w=w, scale=scale)

    def file(
        self,
        source: Path | str,
        target: Path | str,
        *,
        overwrite: bool = False,
        quality: int | None = None,
        progress: Callable[[float], object] | None = None,
    ) -> tuple[str, ...]:
        """Restores a picture file. EXIF (its orientation applied), XMP, ICC profile, resolution and alpha go with it.

        `quality` is that of JPEG, WebP and AVIF, 1 to 100; None: as the source was. `progress` is called with
        the share that is done, 0 to 1. Returns what the target lacks of the source, in words. Raises FileExistsError
        where target exists, unless `overwrite`; PermissionError where it is read-only; ImageError for a bad file.
        """
        source, target = as_path("source", source), as_path("target", target)
        images.require_absent(target, overwrite=overwrite)
        picture = self._read(source)
        images.require_writable(picture, target)
        return images.write(self._restore(picture, progress), target, quality=quality)

    def files(
        self,
        inputs: Iterable[Path | str],
        out: Path | str | None = None,
        *,
        listed: Iterable[Path | str] = (),
        overwrite: bool = False,
        skip_existing: bool = False,
        suffix: str = "",
        format: str = "keep",
        quality: int | None = None,
        compare: bool = False,
        strip_metadata: bool = False,
        log: Callable[[str], None] | None = None,
        warn: Callable[[str], None] | None = None,
        progress: Callable[[float], object] | None = None,
        processes: Processes | None = None,
    ) -> FilesReport:
        """Restores pictures and whole folders into `out`, which mirrors the folders. A bad file never stops the rest:
        the report lists it. While the network works on one picture, the next is read and the one before is written.

        Args:
            inputs: picture files, folders, and patterns with *, ?, [...] or ** (any folders). A video is restored where
                its file or a pattern for its suffix is given; those in folders are left out.
            out: a folder, or for a single picture its file. If not given, NAME-deblurred.EXT beside each file and
                FOLDER-deblurred beside each folder; these are not taken as inputs while NAME or FOLDER lies beside
                them.
            listed: more files, as from a file list: a relative path is kept below `out`, a missing one fails.
            overwrite: replaces files that exist, the inputs themselves included; otherwise such a picture fails.
            skip_existing: leaves out pictures whose output exists; not with `overwrite`.
            suffix: added to each name, before its extension; without `out` it takes the place of -deblurred.
            format: the extension of the outputs without its dot, or "keep": JPEG for HEIC, PNG for GIF, else that of
                each input.
            quality: of JPEG, WebP and AVIF, 1 to 100; None: as each source was, 95 where it says nothing.
            compare: also writes NAME-compare.jpg beside each output, where the change is largest before and after.
            strip_metadata: leaves out what the files say beside the picture.
            log: takes a line a picture, which says how much it changed and what the output lacks of what the file held.
                It is called in another thread.
            warn: takes the lines of failures in place of `log`.
            progress: called with the share of all the work that is done, 0 to 1.
            processes: those that share the work, each of which makes this call; all give the report of the whole.

        Raises FileNotFoundError for an input that is missing, FileExistsError where several pictures have one output,
        ValueError for an input without pictures and for options that contradict each other.
        """
        if overwrite and skip_existing:
            raise ValueError("overwrite=True and skip_existing=True contradict each other")
        processes = processes or Processes()
        plan = processes.first(lambda: folders.plan_files(inputs, out, listed=listed, suffix=suffix, format=format))
        tools = folders.Tools(
            read=self._read,
            restore=self._restore_at_its_scale,
            video=lambda source, target, reached: self.video(source, target, overwrite=overwrite, progress=reached),
        )
        options = folders.Options(overwrite, skip_existing, quality, compare, strip_metadata)
        return folders.restore_files(plan, tools, options, log=log, warn=warn, progress=progress, processes=processes)

    def video(
        self,
        source: Path | str,
        target: Path | str,
        *,
        overwrite: bool = False,
        quality: int | None = None,
        progress: Callable[[float], object] | None = None,
    ) -> VideoReport:
        """Restores a video file frame by frame. Times, sound, subtitles, metadata and rotation go with it.

        It needs PyAV. The target's suffix is .mp4, .m4v, .mov or .mkv for H.264 video, .webm for VP9; `quality` is the
        encoder's, 1 to 100, None for visually lossless. `progress` is called with the share done, 0 ... 1. Every frame
        is restored by itself, at the scale of the first.

        Raises VideoError for a video that cannot be read, restored or written, and for one that is damaged or cut
        short: then what could be decoded is beside the target, in NAME.partial.SUFFIX. Raises FileExistsError where
        target exists, unless `overwrite`; MemoryError for frames that need more than `max_memory`; ImportError without
        PyAV.
        """
        scale: float | None = None

        def restore(frame: NDArray[Any]) -> NDArray[Any]:
            nonlocal scale
            if scale is None:
                scale = self._scale_for(frame)
            return self._at_scale(scale, frame)

        return restore_video(
            restore,
            source,
            target,
            overwrite=overwrite,
            quality=quality,
            check_size=lambda w, h: self._require_memory(h, w),
            progress=progress,
        )

    def _read(self, path: str | Path, seen: Callable[[int, int], object] | None = None) -> images.Picture:
        """The picture of a file; `seen` is called with its width and height before it is decoded."""

        def check(w: int, h: int) -> None:
            if seen is not None:
                seen(w, h)
            self._require_memory(h, w)

        return images.read(as_path("picture", path), check_size=check)

    def _restore(self, picture: images.Picture, progress: Progress | None = None) -> images.Picture:
        return self._restore_at_its_scale(picture, progress)[0]

    def _restore_at_its_scale(
        self, picture: images.Picture, progress: Progress | None = None
    ) -> tuple[images.Picture, float]:
        """The restored picture, and the scale that the network saw it at."""
        scale = self._scale_for(picture.pixels)
        return picture.with_pixels(self._at_scale(scale, picture.pixels, progress)), scale

    def _copy(self, generator: Generator) -> Generator:
        copy = Generator(**generator.config())
        copy.load_state_dict(generator.state_dict())
        copy.to(self.device, self.dtype).to(memory_format=self.layout)  # type: ignore[call-overload]
        return copy.eval().requires_grad_(False)

    def _compiled(self) -> Callable[..., Tensor]:
        packed_weights = {"freezing": True} if self.device.type == "cpu" else {}
        return torch.compile(self.generator, fullgraph=True, options=compile_options(self.device) | packed_weights)

    def _array(self, picture: NDArray[Any], progress: Progress | None = None) -> NDArray[Any]:
        checks.require_array(picture)
        checks.require_tensor(_as_tensor(picture))
        return self._at_scale(self._scale_for(picture), picture, progress)

    def _scale_for(self, pixels: NDArray[Any]) -> float:
        return pick_scale(pixels) if self.scale == "auto" else float(self.scale)

    def _at_scale(self, scale: float, picture: NDArray[Any], progress: Progress | None = None) -> NDArray[Any]:
        return restore_at(scale, partial(self._full_array, progress=progress), picture)

    def _full_array(self, picture: NDArray[Any], progress: Progress | None = None) -> NDArray[Any]:
        """At scale 1."""
        restored = self._full_tensor(_as_tensor(picture), torch.preserve_format, progress)
        return restored.permute(1, 2, 0).numpy().reshape(picture.shape)

    def _tensor(self, picture: Tensor, progress: Progress | None = None) -> Tensor:
        checks.require_tensor(picture)
        if self.scale == 1 or picture.numel() == 0 or (self.scale == "auto" and not is_looked_at(*picture.shape[-2:])):
            return self._full_tensor(picture, progress=progress)
        if picture.dim() == 4:
            return torch.stack(
                [self._tensor(one, _part(progress, i, 1, len(picture))) for i, one in enumerate(picture)]
            )
        exact = picture.float() if picture.dtype == torch.bfloat16 else picture
        restored = self._array(exact.detach().permute(1, 2, 0).cpu().numpy(), progress)
        return torch.from_numpy(restored).permute(2, 0, 1).contiguous().to(picture)

    @torch_defaults()
    @torch.no_grad()
    def _full_tensor(
        self,
        picture: Tensor,
        layout: torch.memory_format = torch.contiguous_format,
        progress: Progress | None = None,
    ) -> Tensor:
        checks.require_own_threads()
        checks.require_tensor(picture)
        batch = picture if picture.dim() == 4 else picture[None]
        limits = self._limits(result=batch.nbytes if batch.device.type == self.device.type else 0)
        plan = self._plan(batch.shape[2], batch.shape[3], limits)
        restored = torch.empty_like(batch, memory_format=layout)
        at_once = self._at_once(plan, limits)
        plenty = plan.strips is None and RETAINED_FACTOR * plan.peak_bytes <= limits.device
        with memory.retain_freed() if plenty and self.device.type == "cpu" else nullcontext():
            for i in range(0, len(batch), at_once):
                some = batch[i : i + at_once]
                self._some(some, restored[i : i + at_once], plan, limits, _part(progress, i, len(some), len(batch)))
        return restored if picture.dim() == 4 else restored[0]

    def _at_once(self, plan: StreamPlan, limits: Limits) -> int:
        """How many pictures of that plan the network takes in one go. A CPU gains nothing by more than one, and their
        dropout masks would be others."""
        if plan.strips is not None or self.seed is not None or self.device.type == "cpu":
            return 1
        pixels = self._padded(plan.h) * self._padded(plan.w)
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
            plan = single._plan(plan.h, plan.w, limits)
            single._some(pictures[i : i + 1], results[i : i + 1], plan, limits, _part(done, i, 1, len(pictures)))

    def _in_fp32(self) -> Deblurrer:
        with self._making_single:
            if self._single is None:
                self._single = Deblurrer(
                    self.generator,
                    device=self.device,
                    dtype="fp32",
                    max_memory=self.max_memory,
                    stochastic=self.seed is not None,
                    seed=self.seed or 0,
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
                strips = self._plan(plan.h, plan.w, limits, because=f"memory ran out: {error}").strips
        if strips is None:
            done(1.0)
            return
        for i, (picture, result) in enumerate(zip(pictures, results, strict=True)):
            self._in_strips(picture, result, strips, limits, _part(done, i, 1, len(pictures)))

    def _in_strips(self, picture: Tensor, result: Tensor, plan: StripPlan, limits: Limits, done: Progress) -> None:
        """[c, h, w]: restored into `result`, which is alike."""
        h, w = picture.shape[1:]
        rows = PictureRows(picture, (self._padded(h), self._padded(w)), self.device)
        restored = ResultRows(result, self.device)
        again = partial(self._strips_plan, h, w)
        with streaming.strip_ops(self.generator) as ops:
            streaming.restore_in_strips(plan, again, limits, ops, pixels=rows.read, put=restored.write, done=done)
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
            (*picture.shape[:2], self._padded(h), self._padded(w)),
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

    def _padded(self, side: int) -> int:
        """The side of the picture that the network sees, px."""
        multiple = self.generator.spec.size_multiple
        return max(Generator.MIN_SIZE, -(-side // multiple) * multiple)

    def _limits(self, *, result: int = 0) -> Limits:
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

    def _plan(self, h: int, w: int, limits: Limits, *, because: str | None = None) -> StreamPlan:
        """`because` says why the network cannot take the picture whole."""
        padded = self._padded(h), self._padded(w)
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
            because = "a CPU is as fast so, in less memory"
        if because is None:
            return StreamPlan(h, w, why_whole or "it fits", max(need, 0))
        strips = self._strips_plan(h, w, limits)
        return StreamPlan(h, w, because, strips.peak_bytes, strips)

    def _strips_plan(self, h: int, w: int, limits: Limits) -> StripPlan:
        if self.max_memory == "auto" and self.device.type == "cpu":
            limits = replace(limits, planes=min(limits.planes, SHARE * limits.device))
        padded = self._padded(h), self._padded(w)
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

    def _require_memory(self, h: int, w: int) -> None:
        """Raises MemoryError where memory does not suffice for a picture of h x w."""
        self.plan(h, w)

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


def _as_tensor(picture: NDArray[Any]) -> Tensor:
    """[h, w] or [h, w, c] as [c, h, w]."""
    pixels = np.require(picture, requirements=["C", "ALIGNED", "WRITEABLE", "ENSUREARRAY"])  # as torch can share it
    return torch.from_numpy(pixels.reshape(*picture.shape[:2], -1)).permute(2, 0, 1)


def _part(progress: Progress | None, before: int, n: int, of: int) -> Progress:
    """Progress with n of `of` pictures, as progress with all; `before` are done."""
    if progress is None:
        return lambda share: None
    return lambda share: progress((before + share * n) / of)


def _queued_to_host(x: Tensor) -> Tensor:
    """A copy in pinned memory, of which torch keeps some; it is there once x's current stream has come to it."""
    return torch.empty_like(x, device="cpu", pin_memory=True).copy_(x, non_blocking=True)


def _check_options(dtype: str, max_memory: int | str, scale: float | str) -> None:
    if dtype != "auto" and dtype not in DTYPES:
        raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, got {dtype!r}")
    if max_memory != "auto" and not (isinstance(max_memory, Real) and max_memory > 0):
        raise ValueError(f"max_memory must be 'auto' or a positive number of bytes, got {max_memory!r}")
    if scale != "auto" and not (isinstance(scale, Real) and 0 < scale <= 1):
        raise ValueError(f"scale must be 'auto' or above 0 and up to 1, got {scale!r}")


def _check_quantize(quantize: Quantize | None, device: torch.device, compile: bool) -> None:
    if quantize is None:
        return
    if quantize not in get_args(Quantize):
        raise ValueError(f"quantize must be None or one of {', '.join(get_args(Quantize))}, got {quantize!r}")
    if compile or not kernels_available(device):
        why = "torch.compile takes the kernels' place" if compile else why_no_kernels(device)
        raise ValueError(f'quantize must be None without the GPU kernels, got "{quantize}": {why}')


def _check_stochastic(generator: Generator, compile: bool) -> None:
    if not generator.spec.dropout:
        raise ValueError("stochastic needs a generator with dropout, this one has none")
    if compile:
        raise ValueError("compile must be off where stochastic is on: torch.compile cannot trace masks with a seed")
