"""Deblurrer: a generator that takes pictures of any size and kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deblurgan import images
from deblurgan.arguments import require_kind
from deblurgan.config import Precision, as_path
from deblurgan.device import (
    DTYPES,
    auto_dtype,
    kernels_available,
    pick_device,
    torch_defaults,
    why_no_compile,
    why_no_kernels,
)
from deblurgan.distributed import Processes
from deblurgan.images import FilesReport
from deblurgan.inference import checks, folders
from deblurgan.inference.plans import StreamPlan
from deblurgan.inference.restorer import Progress, Restorer, part
from deblurgan.inference.scale import is_looked_at, pick_scale, reduced_size, restore_at, scale_bytes
from deblurgan.inference.video import VideoReport, restore_video
from deblurgan.nn import Generator
from deblurgan.ops.layers import Quantize


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
            memory or in a temporary file where it does not fit. It counts for each call: threads add up. It is the
            network's: `plan` names more where choosing a scale or the reduced pictures take it.
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
        dtype: Precision = "auto",
        max_memory: int | Literal["auto"] = "auto",
        scale: float | Literal["auto"] = "auto",
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
        self.scale = scale
        self.restorer = Restorer(
            generator,
            device=self.device,
            dtype=DTYPES[auto_dtype(self.device)[0] if dtype == "auto" else dtype],
            max_memory=max_memory,
            seed=seed if stochastic else None,
            quantize=quantize,
            compile=compile,
        )
        self.device, self.dtype, self.generator = self.restorer.device, self.restorer.dtype, self.restorer.generator
        self.source = generator.source

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path | None = None,
        *,
        device: str | torch.device = "auto",
        dtype: Precision = "auto",
        max_memory: int | Literal["auto"] = "auto",
        scale: float | Literal["auto"] = "auto",
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
        plan = self.restorer.plan_within(*seen, self.restorer.limits())
        scales_there = self.device.type == "cpu"  # it is done on the host
        peak = scale_bytes(h, w, scale, plan.peak_bytes) if scales_there else plan.peak_bytes
        return replace(plan, h=h, w=w, scale=scale, peak_bytes=peak)

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
            check_size=lambda w, h: self.plan(h, w),
            progress=progress,
        )

    def _read(self, path: str | Path, seen: Callable[[int, int], object] | None = None) -> images.Picture:
        """The picture of a file; `seen` is called with its width and height before it is decoded."""

        def check(w: int, h: int) -> None:
            if seen is not None:
                seen(w, h)
            self.plan(h, w)

        return images.read(as_path("picture", path), check_size=check)

    def _restore(self, picture: images.Picture, progress: Progress | None = None) -> images.Picture:
        return self._restore_at_its_scale(picture, progress)[0]

    def _restore_at_its_scale(
        self, picture: images.Picture, progress: Progress | None = None
    ) -> tuple[images.Picture, float]:
        """The restored picture, and the scale that the network saw it at."""
        scale = self._scale_for(picture.pixels)
        return picture.with_pixels(self._at_scale(scale, picture.pixels, progress)), scale

    def _array(self, picture: NDArray[Any], progress: Progress | None = None) -> NDArray[Any]:
        checks.require_array(picture)
        pixels = _shareable(picture)
        checks.require_tensor(_as_tensor(pixels))
        return self._at_scale(self._scale_for(pixels), pixels, progress)

    def _scale_for(self, pixels: NDArray[Any]) -> float:
        return pick_scale(pixels) if self.scale == "auto" else float(self.scale)

    def _at_scale(self, scale: float, picture: NDArray[Any], progress: Progress | None = None) -> NDArray[Any]:
        return restore_at(scale, partial(self._full_array, progress=progress), picture)

    def _full_array(self, picture: NDArray[Any], progress: Progress | None = None) -> NDArray[Any]:
        """At scale 1."""
        restored = self.restorer(_as_tensor(picture), torch.preserve_format, progress)
        return restored.permute(1, 2, 0).numpy().reshape(picture.shape)

    def _tensor(self, picture: Tensor, progress: Progress | None = None) -> Tensor:
        checks.require_tensor(picture)
        if self.scale == 1 or picture.numel() == 0 or (self.scale == "auto" and not is_looked_at(*picture.shape[-2:])):
            return self.restorer(picture, progress=progress)
        if picture.dim() == 4:
            return torch.stack([self._tensor(one, part(progress, i, 1, len(picture))) for i, one in enumerate(picture)])
        exact = picture.float() if picture.dtype == torch.bfloat16 else picture
        pixels = exact.detach().permute(1, 2, 0).cpu().numpy()
        scale = self._scale_for(pixels)
        if scale == 1:  # on its device, and as it lies there
            return self.restorer(picture, progress=progress)
        return torch.from_numpy(self._at_scale(scale, pixels, progress)).permute(2, 0, 1).contiguous().to(picture)


def _shareable(picture: NDArray[Any]) -> NDArray[Any]:
    """The array as torch can share it: itself or, where it cannot, a copy."""
    return np.require(picture, requirements=["C", "ALIGNED", "WRITEABLE", "ENSUREARRAY"])


def _as_tensor(picture: NDArray[Any]) -> Tensor:
    """[h, w] or [h, w, c] as [c, h, w]."""
    return torch.from_numpy(_shareable(picture).reshape(*picture.shape[:2], -1)).permute(2, 0, 1)


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
