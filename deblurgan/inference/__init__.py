"""Restoring pictures: Deblurrer, for any size and kind of picture, for files and for folders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deblurgan import images, memory
from deblurgan.checkpoint import DEFAULT_WEIGHTS, load_generator
from deblurgan.device import (
    DTYPES,
    auto_dtype,
    free_memory,
    kernels_available,
    pick_device,
    why_no_kernels,
)
from deblurgan.nn import Generator
from deblurgan.ops.layers import Quantize
from deblurgan.reference import border_index

KEPT = 2  # times the memory that a call needs at most when what it frees stays with the process, in pieces


@dataclass
class FilesReport:
    """What became of each picture: written, left out because it existed, or failed with a reason."""

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)


class Deblurrer:
    """A generator that takes pictures of any size and kind.

    Args:
        generator: its weights are copied to the device and dtype; the generator given stays as it is.
        device: "auto" is CUDA where there is a GPU, else the CPU.
        dtype: "fp32", "bf16", "fp16" or "auto": fp16 on CUDA (8 times more exact than bf16), bf16 on a CPU with
            instructions for it, else fp32. The layers compute in it; the picture and the last addition stay fp32. Where
            cuDNN convolves, fp32 means TF32 unless torch.backends.cudnn.allow_tf32 is False.
        max_memory: bytes that a call may allocate beyond its picture and result; "auto" is what the device has free. A
            picture that needs more is refused before any work.
        stochastic: dropout at inference, as in the paper; `seed` draws its masks, anew in each call.
        quantize: "int8" or "fp8": the residual blocks in 8 bits, in the kernels of a GPU of compute capability
            9.0 or newer, for networks whose width is a multiple of 8. fp8 is more exact than int8 where a few values of
            a plane are very large, as trained networks have them, and less where none are.
        compile: torch.compile the network, which pays on a CPU, where it needs a C++ compiler; on CUDA it takes the
            engine's place. The first picture takes half a minute, and so do up to four that differ in size. torch
            keeps 8 compiled forms of the network in a process and raises where Deblurrers want more.
    """

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
        if dtype != "auto" and dtype not in DTYPES:
            raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, got {dtype!r}")
        if max_memory != "auto" and (not isinstance(max_memory, int) or max_memory <= 0):
            raise ValueError(f"max_memory must be 'auto' or a positive number of bytes, got {max_memory!r}")
        self.device = pick_device(device)
        self.dtype = DTYPES[auto_dtype(self.device)[0] if dtype == "auto" else dtype]
        self.max_memory = max_memory
        if stochastic and not generator.spec.dropout:
            raise ValueError("stochastic needs a generator with dropout, this one has none")
        if stochastic and compile:
            raise ValueError("compile must be off where stochastic is on: torch.compile cannot trace masks with a seed")
        if quantize is not None and quantize not in get_args(Quantize):
            raise ValueError(f"quantize must be None or one of {', '.join(get_args(Quantize))}, got {quantize!r}")
        if quantize and (compile or not kernels_available(self.device)):
            why = "torch.compile takes the kernels' place" if compile else why_no_kernels(self.device)
            raise ValueError(f'quantize must be None without the GPU kernels, got "{quantize}": {why}')
        self.seed = seed if stochastic else None
        copy = Generator(**generator.config())
        copy.load_state_dict(generator.state_dict())
        self.layout = torch.channels_last if self.device.type == "cpu" else torch.contiguous_format  # the faster one
        copy.to(self.device, self.dtype).to(memory_format=self.layout)  # type: ignore[call-overload]
        self.generator = copy.eval().requires_grad_(False)
        self.generator.quantize = quantize
        options: Any = {"freezing": True} if self.device.type == "cpu" else None  # packs this copy's weights
        self._network = torch.compile(self.generator, fullgraph=True, options=options) if compile else self.generator

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path | None = None, **options: Any) -> Deblurrer:
        """A Deblurrer with the weights of a file, of a training's run folder (its best), of a Hugging Face repository
        given as "hub:OWNER/NAME" (fetched), or, by default, those that ship with the package."""
        if path_or_id is None:
            path = DEFAULT_WEIGHTS
        elif str(path_or_id).startswith("hub:"):
            try:
                from huggingface_hub import hf_hub_download
            except ImportError as error:
                raise ImportError(f"{path_or_id} needs huggingface_hub: pip install 'deblurgan[hub]'") from error
            path = Path(hf_hub_download(str(path_or_id).removeprefix("hub:"), "model.safetensors"))
        else:
            path = Path(path_or_id)
            path = path / "best.safetensors" if path.is_dir() else path
        return cls(load_generator(path), **options)

    @overload
    def __call__(self, picture: str | Path | Image.Image) -> Image.Image: ...
    @overload
    def __call__(self, picture: NDArray[Any]) -> NDArray[Any]: ...
    @overload
    def __call__(self, picture: Tensor) -> Tensor: ...
    def __call__(self, picture: Any) -> Any:
        """The restored picture, of the same kind, size and dtype.

        Takes a PIL image (alpha is kept as it is), an ndarray [h, w, 3] or [h, w], a Tensor [3, h, w] or [n, 3, h, w]
        (1 channel too), uint8 or float in [0, 1]; a path gives a PIL image. Raises ValueError for another shape, dtype
        or range, ImageError for a bad file, MemoryError above `max_memory`.
        """
        if isinstance(picture, str | Path):
            return self._restore(images.read(picture)).to_pil()
        if isinstance(picture, Image.Image):
            return self._restore(images.from_pil(picture)).to_pil()
        if isinstance(picture, np.ndarray):
            return self._array(picture)
        if isinstance(picture, Tensor):
            return self._tensor(picture)
        raise TypeError(f"picture must be a path, PIL image, ndarray or Tensor, got {type(picture).__name__}")

    def file(self, source: Path | str, target: Path | str, *, overwrite: bool = False, quality: int = 95) -> None:
        """Restores a picture file; EXIF (orientation applied), ICC profile, resolution and alpha are kept.

        Raises FileExistsError where target exists, unless `overwrite`; ImageError for a bad file.
        """
        target = Path(target)
        if target.exists() and not overwrite:
            raise FileExistsError(f"{target} exists: overwrite it with overwrite=True (--overwrite)")
        images.write(self._restore(images.read(source)), target, quality=quality)

    def files(
        self,
        inputs: Iterable[Path | str],
        out: Path | str,
        *,
        overwrite: bool = False,
        skip_existing: bool = False,
        suffix: str = "",
        format: str = "keep",
        quality: int = 95,
        log: Callable[[str], None] | None = None,
    ) -> FilesReport:
        """Restores pictures and whole folders into `out`, which mirrors the folders. A bad file never stops the rest:
        the report lists it. `log` takes a line a picture."""

        def restore(source: Path, target: Path) -> None:
            self.file(source, target, overwrite=overwrite, quality=quality)

        plan = plan_outputs(inputs, out, suffix=suffix, format=format)
        return run_plan(plan, restore, skip_existing=skip_existing, log=log)

    def _restore(self, picture: images.Picture) -> images.Picture:
        return picture.with_pixels(self._array(picture.pixels))

    def _array(self, picture: NDArray[Any]) -> NDArray[Any]:
        if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] not in (1, 3)) or picture.size == 0:
            raise ValueError(f"picture must be an ndarray [h, w, 3] or [h, w], got {picture.shape}")
        if picture.dtype not in (np.uint8, np.float16, np.float32, np.float64):
            raise ValueError(f"picture must be uint8 or float in [0, 1], got {picture.dtype}")
        channels_first = picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)
        restored = self._tensor(torch.from_numpy(np.array(channels_first, order="C"))).numpy()
        return restored[0] if picture.ndim == 2 else np.ascontiguousarray(restored.transpose(1, 2, 0))

    @torch.no_grad()
    def _tensor(self, picture: Tensor) -> Tensor:
        if picture.dim() not in (3, 4) or picture.shape[-3] not in (1, 3) or 0 in picture.shape[-2:]:
            raise ValueError(f"picture must be a Tensor [3, h, w] or [n, 3, h, w], got {tuple(picture.shape)}")
        batch = picture if picture.dim() == 4 else picture[None]
        _require_unit_range(batch)
        plenty = self._require_memory(*batch.shape[2:])
        restored = torch.empty(batch.shape, dtype=batch.dtype, device=batch.device)
        with memory.retain_freed() if plenty and self.device.type == "cpu" else nullcontext():
            for i in range(len(batch)):  # one at a time, so that memory does not grow with the batch
                restored[i] = self._one(batch[i : i + 1].to(self.device))[0]
        return restored if picture.dim() == 4 else restored[0]

    def _one(self, picture: Tensor) -> Tensor:
        """[1, c, h, w] in any range taken -> the same restored, fp32: mirrored to a size the network takes, cropped."""
        (h, w), multiple = picture.shape[2:], self.generator.spec.size_multiple
        x = picture.float() / 255 if picture.dtype == torch.uint8 else picture.float().clamp(0, 1)
        rows, columns = (
            border_index(side, 0, _padded(side, multiple) - side, "reflect").to(x.device) for side in (h, w)
        )
        whole = x.expand(-1, 3, -1, -1)[..., rows, :][..., columns] * 2 - 1
        y = self._network(whole.contiguous(memory_format=self.layout), seed=self.seed)
        if not bool(y.isfinite().all()):
            raise FloatingPointError(f'the network gave values that are not finite in {self.dtype}: try dtype="fp32"')
        restored = ((y + 1) / 2)[..., :h, :w]
        if picture.shape[1] == 1:
            restored = restored.mean(1, keepdim=True)
        return (restored * 255).round() if picture.dtype == torch.uint8 else restored

    def _require_memory(self, h: int, w: int) -> bool:
        """Whether there is so much that freed memory may be kept. MemoryError where there is too little."""
        limit = free_memory(self.device) if self.max_memory == "auto" else int(self.max_memory)
        multiple = self.generator.spec.size_multiple
        need = _padded(h, multiple) * _padded(w, multiple) * self.bytes_per_pixel
        if limit is not None and need > limit:
            raise MemoryError(
                f"picture of {w}x{h} needs about {need / 2**20:.0f} MiB, max_memory is {limit / 2**20:.0f} MiB"
            )
        return limit is None or KEPT * need <= limit

    @property
    def bytes_per_pixel(self) -> int:
        """What a call allocates for each pixel at most, about: four full-size tensors of the first layer's width, of
        which half types normalise in fp32, and the picture itself. In fp16 a CPU unfolds the 7x7 windows."""
        width = self.generator.spec.width
        if self.dtype == torch.float16 and self.device.type == "cpu":
            return 104 * max(width, 3) + 128
        return (16 if self.dtype == torch.float32 else 18) * width + 128


def plan_outputs(
    inputs: Iterable[Path | str], out: Path | str, *, suffix: str = "", format: str = "keep"
) -> list[tuple[Path, Path]]:
    """(source, target) of each picture. Folders are mirrored below `out`; a single file may name its target.

    An `out` inside an input folder is not read. Raises FileNotFoundError for an input that is missing, ValueError for
    one without pictures.
    """
    roots, out = [Path(path) for path in inputs], Path(out)
    if not roots:
        raise ValueError("inputs must name pictures or folders, got none")
    if len(roots) == 1 and roots[0].is_file() and out.suffix.lower() in images.SUFFIXES and not out.is_dir():
        return [(roots[0], out)]
    plan = []
    for root in roots:
        if not root.exists():
            raise FileNotFoundError(f"inputs must exist, got {root}")
        found = images.find(root)
        if root.is_dir() and root.resolve() in out.resolve().parents:
            found = [path for path in found if not path.resolve().is_relative_to(out.resolve())]
        if not found:
            raise ValueError(f"inputs must hold pictures ({', '.join(sorted(images.SUFFIXES))}), found none in {root}")
        base = root if root.is_dir() else root.parent
        for source in found:
            extension = source.suffix if format == "keep" else f".{format}"
            target = out / source.relative_to(base).with_name(source.stem + suffix + extension)
            plan.append((source, target))
    return plan


def run_plan(
    plan: Sequence[tuple[Path, Path]],
    work: Callable[[Path, Path], None],
    *,
    skip_existing: bool = False,
    log: Callable[[str], None] | None = None,
) -> FilesReport:
    """Calls work(source, target) for each pair, making folders on the way; a failure is listed, not raised."""
    report = FilesReport()
    taken: dict[Path, Path] = {}
    for i, (source, target) in enumerate(plan, 1):
        try:
            if target in taken:
                raise FileExistsError(f"{target} is the output of {taken[target]} already")
            taken[target] = source
            if skip_existing and target.exists():
                report.skipped.append(target)
                outcome = "exists, left out"
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                work(source, target)
                report.done.append(target)
                outcome = f"-> {target}"
        except (ValueError, OSError, MemoryError, ArithmeticError, RuntimeError) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            report.failed.append((source, reason))
            outcome = f"failed: {reason}"
        if log is not None:
            log(f"[{i}/{len(plan)}] {source} {outcome}")
    return report


def _padded(side: int, multiple: int) -> int:
    """The side of the picture that the network sees."""
    return max(Generator.MIN_SIZE, -(-side // multiple) * multiple)


def _require_unit_range(x: Tensor) -> None:
    if x.dtype == torch.uint8:
        return
    if not x.is_floating_point():
        raise ValueError(f"picture must be uint8 or float in [0, 1], got {x.dtype}")
    if x.numel() == 0:
        return
    low, high = (float(side) for side in x.aminmax())  # NaN, if there is one
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("picture must be finite, got NaN or infinite values")
    slack = 1e-3  # resampling overshoots a little
    if low < -slack or high > 1 + slack:
        raise ValueError(f"float pictures must be in [0, 1], got {low:.4g} ... {high:.4g}")
