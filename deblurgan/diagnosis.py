"""What this installation does on this machine, and why: `deblurgan.info()`."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch

import deblurgan
from deblurgan.checkpoint import DEFAULT_WEIGHTS, load_generator
from deblurgan.device import DTYPES, auto_dtype, choose_precision, pick_device, why_no_kernels
from deblurgan.generator import engine
from deblurgan.kernels.config import Gpu
from deblurgan.kernels.rows import software, user_table
from deblurgan.kernels.table import config_picker, current_gpu
from deblurgan.limits import free_memory
from deblurgan.nn import Generator
from deblurgan.ops.native import _C
from deblurgan.spec import Stage

# What each extra brings: it is there where all of these are
EXTRAS = {
    "video": ("av",),
    "heic": ("pillow_heif",),
    "web": ("gradio",),
    "hub": ("huggingface_hub",),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "spandrel": ("spandrel",),
    "tensorboard": ("tensorboard",),
    "baselines": ("scikit-image",),
    "realblur": ("opencv-python-headless",),
    "lpips": ("lpips",),
}


def info() -> str:
    """Which path each part takes on this machine, and why, as lines of text."""
    device = pick_device("auto")
    dtype, why = auto_dtype(device)
    generator = load_generator(DEFAULT_WEIGHTS)
    on_cuda = "csrc's kernels" if _C.built_with_cuda else "PSFs from the CPU, applied by plain torch"
    lines = {
        "deblurgan": deblurgan.__version__,
        "python": platform.python_version(),
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        "device": _device_line(),
        "memory": _memory_line(device),
        "deblurgan._C": _native_line(),
        "dtype": f"auto is {dtype}: {why}",
        "generator": generator_path(generator, device, DTYPES[dtype]),
        "training": _training_path(device),
        "blur": f"C++ on the CPU ({_instruction_set()}), {on_cuda} on CUDA; fp64 is applied by plain torch",
        "default weights": _described(DEFAULT_WEIGHTS, generator),
        "extras": extras_line(),
    }
    gpu = current_gpu(device)
    if gpu is not None and why_no_kernels(device) is None:
        lines["tilings"] = tilings_line(gpu)
    return "\n".join(f"{name + ':':20}{value}" for name, value in lines.items())


def generator_path(generator: Generator, device: torch.device, dtype: torch.dtype) -> str:
    """What restores a picture of 1280x720: the engine and each of its stages' path, or plain torch and the reason."""
    generator = generator.to(device, dtype).requires_grad_(False)
    h, w = 720, 1280
    why = generator.why_reference(torch.empty(1, 3, h, w, device=device))
    if why is not None:
        return f"plain torch, not the engine: {why}"
    paths = engine.Engine(generator.spec, dict(generator.named_parameters()), dtype=dtype).paths(1, h, w)
    return stages_line(generator.spec.stages, paths)


def stages_line(stages: Sequence[Stage], paths: Mapping[str, str]) -> str:
    """An engine's path for each stage, by who says so, in one line; the residual blocks are listed as one."""
    groups: dict[str, dict[str, set[str]]] = {}  # source, name, ways
    for stage in stages:
        name = "blocks" if stage.kind == "trunk" else stage.name
        way, _, source = paths[stage.name].partition(": ")
        kernel = way.split()[0]  # "Triton" or "cuDNN", without the tiling
        groups.setdefault(source, {}).setdefault(name, set()).add(kernel)
    parts = []
    for source, ways in groups.items():
        names = ", ".join(f"{name} {'/'.join(sorted(kernels))}" for name, kernels in ways.items())
        parts.append(f"{names} ({source})")
    return "engine: " + "; ".join(parts)


def tilings_line(gpu: Gpu) -> str:
    """The user's table of tilings, how many of its rows are for this GPU and software, and what to do where none is."""
    path, mine = user_table(), [row for row in config_picker(gpu).user if row.gpu == gpu]
    count = sum(row.software == software() for row in mine)
    found = f"{path}: {count} rows for this GPU, {len(mine) - count} stale" if path.exists() else ""
    hint = "" if count else "`deblurgan tune` measures which are the fastest on this GPU"
    return "; ".join(filter(None, (found, hint)))


def extras_line() -> str:
    """The extras that are installed, with the versions of what they bring, and how to get the others."""
    there, missing = [], []
    for extra, packages in EXTRAS.items():
        try:
            there.append(f"{extra} ({', '.join(f'{name} {metadata.version(name)}' for name in packages)})")
        except metadata.PackageNotFoundError:
            missing.append(extra)
    how = f"without {', '.join(missing)}: pip install 'deblurgan[{','.join(missing)}]'"
    return "; ".join([*([", ".join(there)] if there else []), *([how] if missing else [])])


def _device_line() -> str:
    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    return "cpu (torch sees no CUDA device)"


def _memory_line(device: torch.device) -> str:
    free = free_memory(device)
    if free is None:
        return "this system does not report what is free, so no picture is refused for its size"
    return f"{free.bytes / 2**20:,.0f} MiB free, by {free.source}"


def _native_line() -> str:
    if _C.built_with_cuda:
        return f"C++ and CUDA kernels; the CUDA runtime sees {_C.cuda_device_count()} devices"
    return "C++ only (no CUDA toolkit when it was built)"


def _instruction_set() -> str:
    """Raises ValueError where DEBLURGAN_CPU_ISA names one that this CPU does not have."""
    return f"{_C.instruction_set()} of {', '.join(_C.instruction_sets())}; DEBLURGAN_CPU_ISA names another"


def _training_path(device: torch.device) -> str:
    """The precision of training and why, and what its steps run in."""
    precision = "{}, since {}".format(*choose_precision("auto", device))
    why = why_no_kernels(device)
    if why is not None:
        return f"{precision}; plain torch, not the kernels: {why}; the penalty without double backward"
    step = "one CUDA graph" if _C.built_with_cuda else "eager, since _C has no CUDA"
    return f"{precision}; the generator in kernels, torch's convolutions in the critic; each step {step}"


def _described(path: Path, generator: Generator) -> str:
    count = sum(parameter.numel() for parameter in generator.parameters())
    return f"{path.name}, {count:,} parameters, width {generator.spec.width}, {generator.spec.blocks} blocks"
