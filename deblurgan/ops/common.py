"""What the operators share: how they are registered, and checks of arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from deblurgan.arguments import require_whole
from deblurgan.device import kernels_available

Function = TypeVar("Function", bound=Callable[..., Any])


def operator(function: Function) -> Function:
    """Registers a function as torch.ops.deblurgan.NAME; returns it with its own signature and docstring.

    What it gives on tensors without data is registered by name, with torch.library.register_fake.
    """
    op = torch.library.custom_op(f"deblurgan::{function.__name__}", function, mutates_args=())

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return op(*args, **kwargs)

    return cast(Function, call)


def require(condition: bool, message: str) -> None:
    """Raises ValueError unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_seed(seed: int, first: int) -> None:
    """Raises TypeError unless both are whole numbers, ValueError unless they are in [0, 2^63)."""
    for name, given in (("seed", seed), ("first index", first)):
        require_whole(name, given)
        if not 0 <= given < 2**63:  # torch.compile writes no changing number into a text that `require` might need
            raise ValueError(f"{name} must be in [0, 2^63), got {given}")


def check_count(n: int) -> None:
    """Raises TypeError unless n is a whole number, ValueError unless it is >= 0."""
    require_whole("n", n)
    if n < 0:
        raise ValueError(f"n must be >= 0, got {n}")


def check_counter(counter: Tensor, device: torch.device) -> None:
    """Raises ValueError unless counter is contiguous int64 [2] on the device."""
    require(
        counter.dtype == torch.int64 and tuple(counter.shape) == (2,) and counter.is_contiguous(),
        f"counter must be int64 [2], got {counter.dtype} {tuple(counter.shape)} of strides {counter.stride()}",
    )
    require(counter.device == device, f"counter must be on {device}, got {counter.device}")


def check_draws(seed: int, first: int, counter: Tensor | None, device: torch.device) -> None:
    """`check_seed`, and `check_counter` where there is a counter."""
    check_seed(seed, first)
    if counter is not None:
        check_counter(counter, device)


def check_option(name: str, given: str, options: tuple[str, ...]) -> None:
    """Raises ValueError unless `given` is one of the options."""
    require(given in options, f"{name} must be one of {', '.join(options)}, got {given!r}")


def check_planes(x: Tensor, residual: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless x is floats [n, c, h, w], and the residual of `shape` and like x."""
    require(x.dim() == 4, f"x must be [n, c, h, w], got {tuple(x.shape)}")
    require(x.is_floating_point(), f"x must be floating point, got {x.dtype}")
    if residual is not None:
        got = f"{residual.dtype} {tuple(residual.shape)} on {residual.device}"
        same = tuple(residual.shape) == shape and residual.dtype == x.dtype and residual.device == x.device
        require(same, f"residual must be {x.dtype} {shape} on {x.device}, got {got}")


def check_grad(grad: Tensor, like: Tensor, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless grad has `shape` and is like another tensor."""
    got = f"{grad.dtype} {tuple(grad.shape)} on {grad.device}"
    same = tuple(grad.shape) == shape and grad.dtype == like.dtype and grad.device == like.device
    require(same, f"grad must be {like.dtype} {shape} on {like.device}, got {got}")


def check_wanted(wanted: Sequence[bool], names: str) -> None:
    """Raises ValueError unless there is a flag for each of the names."""
    count = len(names.split())
    require(len(wanted) == count, f"wanted must be {count} flags, for {names}, got {len(wanted)}")


def check_weight(x: Tensor, weight: Tensor, channels: int, bias: Tensor | None, outputs: int) -> None:
    """Raises ValueError unless weight, which takes `channels`, and bias [outputs] fit x."""
    require(weight.dim() == 4, f"weight must have 4 axes, got {tuple(weight.shape)}")
    require(channels == x.shape[1], f"weight must take the {x.shape[1]} channels of x, got {tuple(weight.shape)}")
    for name, given in (("weight", weight), ("bias", bias)):
        if given is not None:
            same = given.dtype == x.dtype and given.device == x.device
            require(same, f"{name} must be {x.dtype} on {x.device}, got {given.dtype} on {given.device}")
    if bias is not None:
        require(tuple(bias.shape) == (outputs,), f"bias must be [{outputs}], got {tuple(bias.shape)}")


def check_odd(weight: Tensor, axes: str) -> None:
    """Raises ValueError unless the weight has s x s taps, s odd."""
    rows, columns = weight.shape[2:]
    require(rows == columns and rows % 2 == 1, f"weight must be {axes} with s odd, got {tuple(weight.shape)}")


def runs_kernels(x: Tensor) -> bool:
    """Whether our Triton kernels take x."""
    half_or_single = x.dtype in (torch.float16, torch.bfloat16, torch.float32)
    return kernels_available(x.device) and half_or_single and x.numel() > 0


def require_kernels(x: Tensor) -> None:
    """Raises ValueError unless our Triton kernels take x."""
    require(runs_kernels(x), f"x must be where the kernels run, got {x.dtype} {tuple(x.shape)} on {x.device}")
