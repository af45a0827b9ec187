"""What this installation does on this machine, and why: `deblurgan.info()`."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

import torch

import deblurgan
from deblurgan import _C
from deblurgan.checkpoint import DEFAULT_WEIGHTS, load_generator
from deblurgan.device import DTYPES, auto_dtype, pick_device, pick_precision, why_no_kernels
from deblurgan.generator import engine
from deblurgan.nn import Generator


def info() -> str:
    """Which path each part takes on this machine, and why, as lines of text."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    if _C.built_with_cuda:
        native = f"C++ and CUDA kernels; the CUDA runtime sees {_C.cuda_device_count()} devices"
    else:
        native = "C++ only (no CUDA toolkit when it was built)"
    on_cuda = "csrc's kernels" if _C.built_with_cuda else "PSFs from the CPU, applied by plain torch"
    dtype, why = auto_dtype(pick_device("auto"))
    generator = load_generator(DEFAULT_WEIGHTS)
    lines = {
        "deblurgan": deblurgan.__version__,
        "python": platform.python_version(),
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        "device": f"cuda: {gpu}" if gpu else "cpu (torch sees no CUDA device)",
        "deblurgan._C": native,
        "dtype": f"auto is {dtype}: {why}",
        "generator": _generator_path(generator, pick_device("auto"), DTYPES[dtype]),
        "training": _training_path(pick_device("auto")),
        "blur": f"C++ on the CPU, {on_cuda} on CUDA; fp64 is applied by plain torch",
        "default weights": _described(DEFAULT_WEIGHTS, generator),
    }
    return "\n".join(f"{name + ':':20}{value}" for name, value in lines.items())


def _generator_path(generator: Generator, device: torch.device, dtype: torch.dtype) -> str:
    """Which way the generator takes in inference, and why not the engine's, or its layers' there."""
    generator = generator.to(device, dtype).requires_grad_(False)
    h, w = 720, 1280
    why = generator.why_reference(torch.empty(1, 3, h, w, device=device))
    if why is not None:
        return f"plain torch, not the engine: {why}"
    return _by_layer(engine.Engine(generator.spec, dict(generator.named_parameters()), dtype=dtype).paths(1, h, w))


def _training_path(device: torch.device) -> str:
    """What a training step is made of here."""
    precision = pick_precision("auto", device)
    why = why_no_kernels(device)
    if why is not None:
        return f"{precision}; plain torch, not the kernels: {why}; the penalty without double backward"
    step = "one CUDA graph" if _C.built_with_cuda else "eager, since _C has no CUDA"
    return f"{precision}; the generator in kernels, torch's convolutions in the critic; each step {step}"


def _by_layer(paths: Mapping[str, str]) -> str:
    """An engine's paths in a line, the residual blocks as one."""
    ways: dict[str, set[str]] = {}
    for name, path in paths.items():
        ways.setdefault("blocks" if name.startswith("blocks") else name, set()).add(path.split()[0].rstrip(":"))
    return "engine: " + ", ".join(f"{name} {'/'.join(sorted(way))}" for name, way in ways.items())


def _described(path: Path, generator: Generator) -> str:
    count = sum(parameter.numel() for parameter in generator.parameters())
    return f"{path.name}, {count:,} parameters, width {generator.spec.width}, {generator.spec.blocks} blocks"
