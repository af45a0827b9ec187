"""Deblurrer: a generator that takes pictures of any size and kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
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
from deblurgan.inference import checks, folders
from deblurgan.inference.processes import Processes
from deblurgan.inference.video import VideoReport, restore_video
from deblurgan.limits import require_memory
from deblurgan.nn import Generator
from deblurgan.ops.layers import Quantize
from deblurgan.reference import border_index

# Retaining freed memory can double what a call needs, since it is retained in pieces that later tensors may not fit
RETAINED_FACTOR = 2
# Bytes, about, that a call takes beside the network's tensors: oneDNN's work space, and holes between blocks
OVERHEAD = 2**26


class Deblurrer:
    """A generator that takes pictures of any size and kind.

    Args:
        generator: its weights are copied to the device and dtype; the generator itself is not changed.
        device: "auto" is CUDA where there is a GPU, else the CPU.
        dtype: "fp32", "bf16", "fp16" or "auto": fp16 on CUDA (8 times more exact than bf16), bf16 on a CPU with
            instructions for it, else fp32. The layers compute in it; the picture and the last addition stay fp32. Where
            cuDNN convolves, fp32 means TF32 unless torch.backends.cudnn.allow_tf32 is False.
        max_memory: bytes that a call may allocate beyond its picture and result; "auto" is what the device has free,
            and on Linux what the limits of a container and of the process leave. A picture that needs more is refused
            before any work, a file before it is decoded.
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
        stochastic: bool = False,
        seed: int = 0,
        quantize: Quantize | None = None,
        compile: bool = False,
    ) -> None:
        require_kind("generator", generator, Generator)  # a path goes to from_pretrained
        checks.require_own_threads()
        self.device = pick_device(device)
        _check_options(dtype, max_memory)
        _check_quantize(quantize, self.device, compile)
        if stochastic:
            _check_stochastic(generator, compile)
        why = why_no_compile(self.device)
        if compile and why is not None:
            raise ValueError(f"compile must be off on this machine: {why}")
        self.dtype = DTYPES[auto_dtype(self.device)[0] if dtype == "auto" else dtype]
        self.max_memory = max_memory
        self.seed = seed if stochastic else None
        # The faster layout of each device
        self.layout = torch.channels_last if self.device.type == "cpu" else torch.contiguous_format
        self.generator = self._copy(generator)
        self.device = next(self.generator.parameters()).device  # by number: "cuda" is another one in another thread
        self.generator.quantize = quantize
        self.source = generator.source
        self._network = self._compiled() if compile else self.generator

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path | None = None,
        *,
        device: str | torch.device = "auto",
        dtype: str = "auto",
        max_memory: int | str = "auto",
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
            stochastic=stochastic,
            seed=seed,
            quantize=quantize,
            compile=compile,
        )

    @overload
    def __call__(self, picture: str | Path | Image.Image) -> Image.Image: ...
    @overload
    def __call__(self, picture: NDArray[Any]) -> NDArray[Any]: ...
    @overload
    def __call__(self, picture: Tensor) -> Tensor: ...
    def __call__(self, picture: Any) -> Any:
        """The restored picture, of the same kind, size and dtype.

        Takes a PIL image (its alpha is not changed), an ndarray [h, w, 3] or [h, w], a Tensor [3, h, w] or [n, 3, h, w]
        (or of 1 channel), uint8 or float in [0, 1].

        A PIL image is restored upright and given back as it lay, with its orientation tag; of one with many frames the
        frame it is at is taken. A path gives a PIL image, turned upright. PIL images come in mode L, LA, RGB or RGBA,
        with EXIF, XMP, profile and resolution in `info`.

        Raises ValueError for another shape, dtype or range, TypeError for another kind of object, ImageError for a bad
        file, MemoryError for a picture that needs more than `max_memory`, FloatingPointError where the network
        overflows its dtype.
        """
        if isinstance(picture, str | Path):
            return self._restore(self._read(picture)).to_pil()
        if isinstance(picture, Image.Image):
            return images.to_pil_like(self._restore(images.from_pil(picture)), picture)
        if isinstance(picture, np.ndarray):
            return self._array(picture)
        if isinstance(picture, Tensor):
            return self._tensor(picture)
        raise TypeError(f"picture must be a path, PIL image, ndarray or Tensor, got {type(picture).__name__}")

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
            restore=lambda picture, reached: (self._restore(picture, reached), 1.0),
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
        is restored by itself.

        Raises VideoError for a video that cannot be read, restored or written, and for one that is damaged or cut
        short: then what could be decoded is beside the target, in NAME.partial.SUFFIX. Raises FileExistsError where
        target exists, unless `overwrite`; MemoryError for frames that need more than `max_memory`; ImportError without
        PyAV.
        """
        return restore_video(
            self,
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

    def _restore(self, picture: images.Picture, progress: Callable[[float], object] | None = None) -> images.Picture:
        restored = picture.with_pixels(self._array(picture.pixels))
        if progress is not None:
            progress(1.0)
        return restored

    def _copy(self, generator: Generator) -> Generator:
        copy = Generator(**generator.config())
        copy.load_state_dict(generator.state_dict())
        copy.to(self.device, self.dtype).to(memory_format=self.layout)  # type: ignore[call-overload]
        return copy.eval().requires_grad_(False)

    def _compiled(self) -> Callable[..., Tensor]:
        packed_weights = {"freezing": True} if self.device.type == "cpu" else {}
        return torch.compile(self.generator, fullgraph=True, options=compile_options(self.device) | packed_weights)

    def _array(self, picture: NDArray[Any]) -> NDArray[Any]:
        checks.require_array(picture)
        pixels = np.require(picture, requirements=["C", "ALIGNED", "WRITEABLE", "ENSUREARRAY"])  # as torch can share it
        source = torch.from_numpy(pixels.reshape(*picture.shape[:2], -1))
        restored = self._tensor(source.permute(2, 0, 1), torch.preserve_format)
        return restored.permute(1, 2, 0).numpy().reshape(picture.shape)

    @torch_defaults()
    @torch.no_grad()
    def _tensor(self, picture: Tensor, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
        checks.require_own_threads()
        checks.require_tensor(picture)
        batch = picture if picture.dim() == 4 else picture[None]
        result = batch.nbytes if batch.device.type == self.device.type else 0
        plenty = self._require_memory(*batch.shape[2:], result=result)
        restored = torch.empty_like(batch, memory_format=layout)
        with memory.retain_freed() if plenty and self.device.type == "cpu" else nullcontext():
            for i in range(len(batch)):  # one at a time, so that memory does not grow with the batch
                self._one(batch[i : i + 1], restored[i : i + 1])
        return restored if picture.dim() == 4 else restored[0]

    def _one(self, picture: Tensor, result: Tensor) -> None:
        """[1, c, h, w], uint8 or float in [0, 1]: restored into `result`, which is alike."""
        x = self._mirrored(picture)
        if x.dtype == torch.uint8 and x.shape[1] == 3 and self._has_engine():
            y, not_finite = self.generator.restore(x, seed=self.seed)
        else:
            y, not_finite = self._in_floats(x)
        if y.is_cuda and not result.is_cuda:  # by pinned memory, and with one wait
            y, not_finite = _queued_to_host(y.to(result.dtype)), _queued_to_host(not_finite)
            torch.cuda.current_stream(self.device).synchronize()
        if bool(not_finite):
            raise FloatingPointError(f'the network gave values that are not finite in {self.dtype}: try dtype="fp32"')
        result.copy_(y[..., : result.shape[2], : result.shape[3]])

    def _mirrored(self, picture: Tensor) -> Tensor:
        """picture [1, c, h, w] on the device, mirrored at the bottom and right to a size that the network takes."""
        h, w = picture.shape[2:]
        pinned = self.device.type == "cuda" and picture.device.type == "cpu"
        nhwc = picture.is_contiguous(memory_format=torch.channels_last)
        whole = torch.empty(
            (1, picture.shape[1], self._padded(h), self._padded(w)),
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
        """x [1, 1 or 3, H, W] restored, fp32 in its range; and whether the network gave a value that is not finite."""
        unit = x.float() / 255 if x.dtype == torch.uint8 else x.float().clamp(0, 1)
        signed = (unit.expand(-1, 3, -1, -1) * 2 - 1).contiguous(memory_format=self.layout)
        if self._has_engine():
            y, not_finite = self.generator.restore(signed, seed=self.seed)
        else:
            y = self._network(signed, seed=self.seed)
            not_finite = ~y.isfinite().all()
        restored = (y + 1) / 2
        if x.shape[1] == 1:
            restored = restored.mean(1, keepdim=True)
        return (restored * 255).round() if x.dtype == torch.uint8 else restored, not_finite

    def _padded(self, side: int) -> int:
        """The side of the picture that the network sees, px."""
        multiple = self.generator.spec.size_multiple
        return max(Generator.MIN_SIZE, -(-side // multiple) * multiple)

    def _require_memory(self, h: int, w: int, *, result: int = 0) -> bool:
        """Whether memory suffices to retain what a call frees. Raises MemoryError where it does not suffice at all.

        `result` is the size of the call's result where it lies on the device, in bytes.
        """
        need = self._padded(h) * self._padded(w) * self.bytes_per_pixel
        if self.max_memory == "auto":
            need += OVERHEAD + result - self.generator.kept_bytes(1, self._padded(h), self._padded(w))
            free = require_memory(w, h, need, self.device)
            return free is None or RETAINED_FACTOR * need <= free.bytes
        limit = float(self.max_memory)
        if need > limit:
            raise MemoryError(
                f"picture of {w}x{h} needs about {need / 2**20:.0f} MiB, max_memory is {limit / 2**20:.0f} MiB"
            )
        return RETAINED_FACTOR * need <= limit

    @property
    def bytes_per_pixel(self) -> int:
        """The most that a call allocates for each pixel, about: four full-size tensors of the first layer's width and
        the picture itself. Half types add to it, since they are normalised in fp32; and a CPU in fp16 copies the 7x7
        window of every pixel."""
        width = self.generator.spec.width
        if self.dtype == torch.float16 and self.device.type == "cpu":
            return 104 * max(width, 3) + 128
        return (16 if self.dtype == torch.float32 else 18) * width + 128


def _queued_to_host(x: Tensor) -> Tensor:
    """A copy in pinned memory, of which torch keeps some; it is there once x's current stream has come to it."""
    return torch.empty_like(x, device="cpu", pin_memory=True).copy_(x, non_blocking=True)


def _check_options(dtype: str, max_memory: int | str) -> None:
    if dtype != "auto" and dtype not in DTYPES:
        raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, got {dtype!r}")
    if max_memory != "auto" and not (isinstance(max_memory, Real) and max_memory > 0):
        raise ValueError(f"max_memory must be 'auto' or a positive number of bytes, got {max_memory!r}")


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
