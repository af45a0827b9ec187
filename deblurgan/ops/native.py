"""How the operators reach csrc/: the extension `_C`, the devices it works on, and the addresses it takes.

The C++ of `deblurgan._C` works on CPU tensors, and its CUDA kernels, where they were built, on CUDA tensors. It sees
addresses, not tensors, so whoever hands it a tensor states that tensor's dtype and device, and makes it contiguous.
"""

from __future__ import annotations

import platform
from pathlib import Path

import torch
from torch import Tensor

try:
    from deblurgan import _C
except ImportError as error:
    built = [path.name for path in Path(__file__).parents[1].glob("_C.*") if path.suffix in (".so", ".pyd")]
    why = f"does not load in Python {platform.python_version()} (there is {', '.join(built)}; {error})"
    raise ImportError(
        f"deblurgan._C {why if built else 'is not built'}: run `pip install -e .` in the checkout"
    ) from error

__all__ = ["_C", "address", "all_within", "home_device", "is_native", "launch_target"]


def is_native(device: torch.device) -> bool:
    """Whether csrc/ works on this device's memory."""
    return device.type == "cpu" or (device.type == "cuda" and _C.built_with_cuda)


def home_device(device: torch.device) -> torch.device:
    """Where csrc/ computes what a caller wants on `device`: there if it can, else on the CPU."""
    return device if is_native(device) else torch.device("cpu")


def launch_target(device: torch.device) -> tuple[int, int]:
    """Where csrc/ is to work: (-1, threads) for the CPU, (device index, torch's current CUDA stream) for a GPU."""
    if device.type == "cpu":
        return -1, torch.get_num_threads()
    stream = torch.cuda.current_stream(device)
    return stream.device.index, stream.cuda_stream


def address(tensor: Tensor | None) -> int:
    """The address of a tensor's first element, 0 for None. Raises RuntimeError for a tensor without memory."""
    if tensor is None:
        return 0
    start = tensor.data_ptr()
    if start == 0 and tensor.numel() > 0:
        raise RuntimeError(
            "deblurgan._C needs tensors with memory, got one without, as torch.export and FakeTensorMode make them: "
            "draw outside of them"
        )
    return start


def all_within(values: Tensor, low: float, high: float) -> bool:
    """Whether all of a contiguous fp32 tensor on the CPU lies in [low, high]; NaN does not."""
    return _C.all_within(address(values), values.numel(), low, high)
