"""What this machine can do: devices, the types that suit them, and whether our kernels run there, with the reason."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_kernels_assumed: bool | None = None  # by `assume_kernels`

# By `_why_no_start`: what came of the trial on each CUDA device
_trials = threading.Lock()
_tried: dict[int, str | None] = {}

# By `torch_defaults`: how many calls are within it, in all threads, and the default dtype to restore after them
_defaults = threading.Lock()
_inside = 0
_default_dtype = torch.float32


def pick_device(name: str | torch.device) -> torch.device:
    """The device of that name; "auto" is CUDA where torch sees a GPU, else the CPU.

    Raises ValueError for a name that torch does not know, and for CUDA where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda or another of torch's, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device must be there, got {name!r}, but torch sees no CUDA device")
    return device


def kernels_available(device: torch.device) -> bool:
    """Whether our Triton kernels run on this device."""
    return why_no_kernels(device) is None


def why_no_kernels(device: torch.device) -> str | None:
    """Why our Triton kernels do not run on this device; None where they do."""
    if _kernels_assumed is not None:
        return None if _kernels_assumed else "they are switched off"
    if device.type != "cuda":
        return "it needs a CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs a GPU of compute capability 8.0 or newer"
    return _why_no_start(device)


def _why_no_start(device: torch.device) -> str | None:
    """Why Triton cannot start on a CUDA device; None where it does. The first call launches a kernel to see.

    A launch needs a C compiler, a driver library that loads and a Triton that knows the GPU. None, too, while a stream
    is captured, which allows no trial.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _tried and torch.cuda.is_current_stream_capturing():
        return None
    with _trials:
        if index not in _tried:
            _tried[index] = why = _trial(index)
            if why is not None:
                warnings.warn(f"plain torch runs on cuda:{index} in place of our kernels: {why}", stacklevel=2)
        return _tried[index]


def _trial(index: int) -> str | None:
    """The error of a tiny kernel's launch in one line; None where there is none."""
    try:
        _launch_tiny_kernel(index)
    except torch.OutOfMemoryError:  # which may pass, and says nothing of Triton
        raise
    except Exception as error:  # whatever a compiler, a driver or an import can raise
        return textwrap.shorten(f"Triton cannot start: {type(error).__name__}: {error}", 200, placeholder=" ...")
    return None


def _launch_tiny_kernel(index: int) -> None:
    import triton
    import triton.language as tl

    @triton.jit
    def tiny(out):  # type: ignore[no-untyped-def]
        tl.store(out, 1)

    with torch.cuda.device(index):
        tiny[(1,)](torch.empty(1, dtype=torch.int32, device="cuda"))


def why_no_compile(device: torch.device) -> str | None:
    """Why torch.compile has nothing to compile with on this device; None where it has, or says so itself."""
    compiler = os.environ.get("CXX", {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++"))
    if device.type != "cpu" or shutil.which(compiler):
        return None
    return f"there is no C++ compiler {compiler!r} (CXX names another)"


@contextmanager
def assume_kernels(available: bool = True) -> Iterator[None]:
    """Within it our kernels count as available on every device, or on none.

    True serves Triton's interpreter, and counting launches without a GPU; False serves comparisons with plain torch.
    """
    global _kernels_assumed
    before, _kernels_assumed = _kernels_assumed, available
    try:
        yield
    finally:
        _kernels_assumed = before


def why_no_bf16(device: torch.device) -> str | None:
    """Why bf16 is not the faster type on this device; None where it is."""
    if device.type == "cuda":
        old = torch.cuda.get_device_capability(device) < (8, 0)
        return "this GPU is older than compute capability 8.0" if old else None
    if device.type != "cpu":
        return f"half types are not tried on {device.type}"
    return _why_not_on_cpu("bf16")


def _why_not_on_cpu(half: str) -> str | None:
    """Why the CPU does not compute in that half type itself; None where it does."""
    if not torch.backends.mkldnn.is_available():
        return f"this torch has no oneDNN, which computes in {half}"
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # newer than the oldest torch supported
    if capabilities is None:
        return f"this torch does not tell whether the CPU computes in {half}"
    found = any(capabilities().get(name, False) for name in (f"amx_{half}", f"avx512_{half}"))
    return None if found else f"this CPU has no AMX or AVX512-{half.upper()}"


def auto_dtype(device: torch.device) -> tuple[str, str]:
    """The name of the dtype that "auto" is in inference on this device, and why."""
    if device.type == "cuda":
        return "fp16", "as fast as bf16 and 8 times more exact"
    why = why_no_bf16(device)
    return ("bf16", "this CPU has instructions for it") if why is None else ("fp32", why)


def choose_precision(precision: str, device: torch.device) -> tuple[str, str]:
    """The precision of training by name, and why it is that; "auto" is bf16 where the device computes in it, else
    fp32."""
    if precision != "auto":
        return precision, "as asked for"
    why = why_no_bf16(device)
    return ("fp32", why) if why else ("bf16", f"this {'GPU' if device.type == 'cuda' else 'CPU'} computes in it")


def pick_precision(precision: str, device: torch.device) -> str:
    """As `choose_precision`, without why. Warns of a half type that the CPU has no instructions for."""
    name, _ = choose_precision(precision, device)
    why = _why_not_on_cpu(name) if device.type == "cpu" and name in ("bf16", "fp16") else None
    if why is not None:
        warnings.warn(f"precision {name} may be ten times slower than fp32: {why}; auto takes the faster", stacklevel=2)
    return name


def why_precision(precision: str, device: torch.device) -> str:
    """Why `pick_precision` gives what it gives."""
    if precision != "auto":
        return "as asked for"
    return why_no_bf16(device) or "this device has instructions for it"


def compile_options(device: torch.device) -> dict[str, Any]:
    """Options of torch.compile: on a CPU the width of its vectors in bits. torch (2.13) keeps compiled code for other
    processes and takes it for any width, also where it then writes past its arrays; the options are part of its key."""
    bits = {"AVX2": 256, "AVX512": 512}.get(torch.backends.cpu.get_cpu_capability())
    return {"cpp.simdlen": bits} if device.type == "cpu" and bits else {}


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Within it torch is as in a fresh process, whatever the caller has set: gradients on, no inference mode, no
    autocast; new tensors are fp32 on the CPU where nothing else is said.

    torch has one default dtype for all threads: other threads have fp32 too until the last one is out of here."""
    elsewhere = torch.get_default_device().type != "cpu"
    with (
        _single_by_default(),
        torch.inference_mode(False),
        torch.enable_grad(),
        _no_autocast(),
        torch.device("cpu") if elsewhere else nullcontext(),
    ):
        yield


@contextmanager
def _single_by_default() -> Iterator[None]:
    """Within it, in any thread, the default dtype is fp32; the last to leave restores what the first one found."""
    global _default_dtype, _inside
    with _defaults:
        if _inside == 0:
            _default_dtype = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
        _inside += 1
    try:
        yield
    finally:
        with _defaults:
            _inside -= 1
            if _inside == 0:
                torch.set_default_dtype(_default_dtype)


@contextmanager
def _no_autocast() -> Iterator[None]:
    """Within it no autocast is entered. One that is merely disabled would still keep the converted weights of those
    entered in it until its own end, however often the weights are updated."""
    enabled = {kind: torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")}
    depth = torch.autocast_increment_nesting() - 1
    for _ in range(depth + 1):
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()
    for kind in enabled:
        torch.set_autocast_enabled(kind, False)
    try:
        yield
    finally:
        for _ in range(depth):
            torch.autocast_increment_nesting()
        for kind, was in enabled.items():
            torch.set_autocast_enabled(kind, was)
