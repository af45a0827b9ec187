"""torch.library operators: they check, allocate and choose the path. torch.ops.deblurgan.* are the same functions.

Trajectories and PSFs are made by the C++ of `deblurgan._C` on the CPU, whatever device they are wanted on. PSFs are
applied by the C++ to CPU tensors of uint8 and fp32, by `deblurgan.reference` to others.
"""

from __future__ import annotations

from typing import cast, get_args

import torch
from torch import Tensor

from deblurgan import reference

try:
    from deblurgan import _C
except ImportError as error:
    raise ImportError("deblurgan._C is not built: run `pip install -e .` in the checkout") from error

MAX_ANXIETY, MAX_LENGTH = 1e3, 1e6  # far beyond any shake, and fp32 holds all that follows from them
PADDINGS: tuple[str, ...] = get_args(reference.Padding)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def check_seed(seed: int, first: int) -> None:
    """Raises ValueError unless both are in [0, 2^63)."""
    _require(0 <= seed < 2**63, f"seed must be in [0, 2^63), got {seed}")
    _require(0 <= first < 2**63, f"first index must be in [0, 2^63), got {first}")


def choices(n: int, *, seed: int, first: int = 0) -> Tensor:
    """Four uniform numbers in [0, 1) for each of the indices first ... first + n - 1: fp32 [n, 4] on the CPU."""
    check_seed(seed, first)
    out = torch.empty(n, 4)
    _C.choices(seed, first, n, out.data_ptr())
    return out


@torch.library.custom_op("deblurgan::random_trajectories", mutates_args=())
def random_trajectories(anxiety: Tensor, seed: int, first: int, steps: int, length: float) -> Tensor:
    """anxiety [n] >= 0 -> fp32 [n, steps, 2], computed on the CPU, on anxiety's device. See reference."""
    check_seed(seed, first)
    _require(anxiety.dim() == 1, f"anxiety must be [n], got {tuple(anxiety.shape)}")
    _require(bool(((anxiety >= 0) & (anxiety <= MAX_ANXIETY)).all()), f"anxiety must be in [0, {MAX_ANXIETY:g}]")
    _require(steps >= 2, f"steps must be at least 2, got {steps}")
    _require(0 < length <= MAX_LENGTH, f"length must be in (0, {MAX_LENGTH:g}] px, got {length}")
    host = anxiety.detach().to("cpu", torch.float32).contiguous()
    out = torch.empty(host.shape[0], steps, 2)
    threads = torch.get_num_threads()
    _C.random_trajectories_cpu(host.data_ptr(), out.data_ptr(), host.shape[0], steps, length, seed, first, threads)
    return out.to(anxiety.device)


@random_trajectories.register_fake
def _(anxiety: Tensor, seed: int, first: int, steps: int, length: float) -> Tensor:
    return anxiety.new_empty((anxiety.shape[0], steps, 2), dtype=torch.float32)


@torch.library.custom_op("deblurgan::rasterize_psf", mutates_args=())
def rasterize_psf(trajectories: Tensor, exposure: Tensor, size: int, mode: str) -> Tensor:
    """[n, steps, 2] and [n] -> fp32 [n, size, size], computed on the CPU, on trajectories' device. See reference."""
    shape = tuple(trajectories.shape)
    _require(len(shape) == 3 and shape[2] == 2, f"trajectories must be [n, steps, 2], got {shape}")
    _require(shape[1] >= 2, f"trajectories must have at least 2 steps, got {shape[1]}")
    _require(tuple(exposure.shape) == shape[:1], f"exposure must be [{shape[0]}], got {tuple(exposure.shape)}")
    _require(bool(((exposure > 0) & (exposure <= 1)).all()), "exposure must be in (0, 1]")
    _require(3 <= size <= 2**15, f"size must be in [3, 32768], got {size}")
    _require(mode in ("centered", "released"), f"mode must be 'centered' or 'released', got {mode!r}")
    path = trajectories.detach().to("cpu", torch.float32).contiguous()
    shares = exposure.detach().to("cpu", torch.float32).contiguous()
    out = torch.empty(shape[0], size, size)
    outside = _C.rasterize_psf_cpu(
        path.data_ptr(),
        shares.data_ptr(),
        out.data_ptr(),
        shape[0],
        shape[1],
        size,
        mode == "centered",
        torch.get_num_threads(),
    )
    _require(outside == 0, f"size must hold the whole path: {outside} of {shape[0]} paths leave a canvas of {size}")
    return out.to(trajectories.device)


@rasterize_psf.register_fake
def _(trajectories: Tensor, exposure: Tensor, size: int, mode: str) -> Tensor:
    return trajectories.new_empty((trajectories.shape[0], size, size), dtype=torch.float32)


def _check_apply(x: Tensor, psf: Tensor, padding: str) -> None:
    _require(x.dim() == 4, f"image must be [n, c, h, w], got {tuple(x.shape)}")
    _require(x.dtype == torch.uint8 or x.is_floating_point(), f"image must be uint8 or floating point, got {x.dtype}")
    _require(psf.dim() == 3 and psf.shape[1] == psf.shape[2], f"psf must be [n, k, k], got {tuple(psf.shape)}")
    _require(psf.shape[0] == x.shape[0], f"psf must hold one kernel a picture, {x.shape[0]}, got {psf.shape[0]}")
    _require(psf.shape[1] > 0, f"psf must not be empty, got {tuple(psf.shape)}")
    _require(psf.is_floating_point(), f"psf must be floating point, got {psf.dtype}")
    _require(psf.device == x.device, f"psf must be on the picture's device {x.device}, got {psf.device}")
    _require(padding in PADDINGS, f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")


@torch.library.custom_op("deblurgan::apply_psf", mutates_args=())
def apply_psf(x: Tensor, psf: Tensor, padding: str) -> Tensor:
    """True convolution of x [n, c, h, w] with psf [n, k, k], same shape and dtype as x. See reference.

    C++ on CPU tensors of uint8 and fp32, `reference` elsewhere. Differentiable in x.
    """
    _check_apply(x, psf, padding)
    _require(bool(psf.float().isfinite().all()), "psf must be finite in fp32")
    if x.numel() == 0:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.device.type != "cpu" or x.dtype not in (torch.uint8, torch.float32):
        return reference.apply_psf(x, psf, cast(reference.Padding, padding))
    image, kernel = x.contiguous(), psf.float().contiguous()
    out = torch.empty_like(image)
    n, c, h, w = image.shape
    _C.apply_psf_cpu(
        image.data_ptr(),
        kernel.data_ptr(),
        out.data_ptr(),
        n,
        c,
        h,
        w,
        kernel.shape[-1],
        image.dtype == torch.uint8,
        PADDINGS.index(padding),
        torch.get_num_threads(),
    )
    return out


@apply_psf.register_fake
def _(x: Tensor, psf: Tensor, padding: str) -> Tensor:
    _check_apply(x, psf, padding)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _apply_psf_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, psf, ctx.padding = inputs
    _require(not ctx.needs_input_grad[1], "psf must not require a gradient: reference.apply_psf differentiates by it")
    ctx.save_for_backward(psf)
    ctx.shape = x.shape


def _apply_psf_backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    """The adjoint, borders included: the op is linear in x, so its vector-Jacobian product at 0 is the one anywhere."""
    (psf,) = ctx.saved_tensors
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        x = torch.zeros(ctx.shape, dtype=grad.dtype, device=grad.device, requires_grad=True)
        y = reference.apply_psf(x, psf, ctx.padding)
    return torch.autograd.grad(y, x, grad, create_graph=differentiable)[0], None, None


apply_psf.register_autograd(_apply_psf_backward, setup_context=_apply_psf_setup)
