"""Pictures blurred by PSFs: csrc/ on the CPU and on CUDA, `reference` elsewhere and for fp64.

CUDA work is queued on torch's current stream and never waited for, so that it can be captured in a CUDA graph; what
depends on the values of a tensor is therefore checked on the CPU only.
"""

from __future__ import annotations

from typing import cast, get_args

import torch
from torch import Tensor

from deblurgan import reference
from deblurgan.ops.common import check_draws, operator, require
from deblurgan.ops.native import _C, address, all_within, is_native, launch_target
from deblurgan.ops.psf import check_psf, find_taps, max_taps

LARGEST = torch.finfo(torch.float32).max
PADDINGS: tuple[str, ...] = get_args(reference.Padding)  # in the order of csrc's Padding
PIXEL_TYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)  # in the order of csrc's DType


@operator
def apply_psf(
    x: Tensor,
    psf: Tensor,
    padding: str,
    gamma: float = 1.0,
    windows: Tensor | None = None,
    size: list[int] | None = None,
    noise: Tensor | None = None,
    seed: int = 0,
    first: int = 0,
    counter: Tensor | None = None,
    signed: torch.dtype | None = None,
    capacity: int = 0,
    highlights: Tensor | None = None,
    sensor: Tensor | None = None,
) -> Tensor:
    """True convolution of x [n, c, h, w] with psf [n, k, k], same dtype and layout as x. See `reference`.

    `counter`, int64 [2], holds seed and first of the noise instead. `capacity` is how many taps a PSF may have on CUDA;
    0 stands for k^2. Differentiable in x. Raises ValueError for other shapes, dtypes, devices and options, and on the
    CPU for a psf that is not finite, windows outside the picture, and noise, highlights or a sensor below 0.
    """
    _check_apply(x, psf, padding, gamma, windows, size, signed, noise, highlights, sensor)
    check_draws(seed, first, counter, x.device)
    if x.device.type == "cpu":
        _check_values(x, psf, windows, size, noise, highlights, sensor)
    out = _new_output(x, size, signed)
    if out.numel() == 0:
        return out
    if not (is_native(x.device) and x.dtype in PIXEL_TYPES and out.dtype in PIXEL_TYPES):
        if counter is not None:
            seed, first = counter.tolist()
        edge = cast(reference.Padding, padding)
        options = {"gamma": gamma, "windows": windows, "size": size, "noise": noise, "signed": signed}
        options |= {"highlights": highlights, "sensor": sensor}
        return out.copy_(reference.apply_psf(x, psf, edge, seed=seed, first=first, **options))  # type: ignore[arg-type]
    channels_last = not out.is_contiguous()
    image = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    white = 255.0 if x.dtype == torch.uint8 else 1.0
    offset, weight, count = _taps_of(psf, capacity)
    n, c, h, w = image.shape
    # named, so that they live until the call returns
    lasting_windows = None if windows is None else windows.contiguous()
    deviation, beyond_white, shot_and_read = (
        None if given is None else given.float().contiguous() for given in (noise, highlights, sensor)
    )
    averages_light = gamma != 1 or highlights is not None or sensor is not None
    light = torch.empty_like(image, dtype=torch.float32) if averages_light and x.device.type != "cpu" else None
    _C.apply_psf(
        address(image),
        address(out),
        _strides(image, channels_last),
        _strides(out, channels_last),
        PIXEL_TYPES.index(image.dtype),
        PIXEL_TYPES.index(out.dtype),
        n,
        c,
        h,
        w,
        out.shape[2],
        out.shape[3],
        address(offset),
        address(weight),
        address(count),
        offset.shape[1],
        PADDINGS.index(padding),
        address(lasting_windows),
        white,
        gamma,
        address(beyond_white),
        address(shot_and_read),
        address(light),
        address(deviation),
        seed,
        first,
        address(counter),
        signed is not None,
        launch_target(x.device),
    )
    return out


def _taps_of(psf: Tensor, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """The taps of psf: on the CPU all of them, on CUDA at most `capacity` a PSF, or k^2 if that is 0."""
    cells = psf.float().contiguous()
    if cells.device.type == "cpu":
        return find_taps(cells, max(1, max_taps(cells)))
    return find_taps(cells, capacity or cells.shape[-1] ** 2)


def _check_apply(
    x: Tensor,
    psf: Tensor,
    padding: str,
    gamma: float,
    windows: Tensor | None,
    size: list[int] | None,
    signed: torch.dtype | None,
    noise: Tensor | None,
    highlights: Tensor | None,
    sensor: Tensor | None,
) -> None:
    require(x.dim() == 4, f"image must be [n, c, h, w], got {tuple(x.shape)}")
    require(x.dtype == torch.uint8 or x.is_floating_point(), f"image must be uint8 or floating point, got {x.dtype}")
    n, _, h, w = x.shape
    check_psf(psf)
    require(psf.shape[0] == n, f"psf must hold one kernel a picture, {n}, got {psf.shape[0]}")
    require(psf.device == x.device, f"psf must be on the picture's device {x.device}, got {psf.device}")
    require(padding in PADDINGS, f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
    require(0.1 <= gamma <= 10, f"gamma must be in [0.1, 10], got {gamma}")
    floats = (torch.float32, torch.float64)
    for name, given, shape, dtypes in (
        ("windows", windows, (n, 3), (torch.int64,)),
        ("noise", noise, (n,), floats),
        ("highlights", highlights, (n,), floats),
        ("sensor", sensor, (n, 2), floats),
    ):
        if given is not None:
            got = f"{given.dtype} {tuple(given.shape)}"
            wanted = f"{dtypes[0]} {list(shape)}".removeprefix("torch.")
            require(tuple(given.shape) == shape and given.dtype in dtypes, f"{name} must be {wanted}, got {got}")
            require(given.device == x.device, f"{name} must be on {x.device}, got {given.device}")
    require((windows is None) == (size is None), "size must be given with windows, and only then")
    if size is not None:
        fits = len(size) == 2 and 1 <= size[0] <= h and 1 <= size[1] <= w
        require(fits, f"size must fit into the picture {(h, w)}, got {tuple(size)}")
    require(signed is None or signed.is_floating_point, f"signed must be a floating-point type, got {signed}")


def _check_values(
    x: Tensor,
    psf: Tensor,
    windows: Tensor | None,
    size: list[int] | None,
    noise: Tensor | None,
    highlights: Tensor | None,
    sensor: Tensor | None,
) -> None:
    require(bool(psf.float().isfinite().all()), "psf must be finite in fp32")
    if windows is not None and size is not None:
        h, w = x.shape[2:]
        room = torch.tensor([h - size[0], w - size[1], 1], dtype=torch.int64, device=windows.device)
        require(bool(((windows >= 0) & (windows <= room)).all()), f"windows must lie in the picture {(h, w)}")
    for name, given in (("noise", noise), ("highlights", highlights), ("sensor", sensor)):
        if given is not None:
            require(all_within(given.float().contiguous(), 0, LARGEST), f"{name} must be finite and >= 0")


def _new_output(x: Tensor, size: list[int] | None, signed: torch.dtype | None) -> Tensor:
    h, w = size or x.shape[2:]
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((*x.shape[:2], h, w), dtype=signed or x.dtype, device=x.device, memory_format=layout)


def _strides(x: Tensor, channels_last: bool) -> tuple[int, int, int, int]:
    """Of n, c, h, w, in elements. torch's own are arbitrary along a side of 1."""
    _, c, h, w = x.shape
    return (c * h * w, 1, w * c, c) if channels_last else (c * h * w, h * w, w, 1)


@torch.library.register_fake("deblurgan::apply_psf")
def _(
    x: Tensor,
    psf: Tensor,
    padding: str,
    gamma: float = 1.0,
    windows: Tensor | None = None,
    size: list[int] | None = None,
    noise: Tensor | None = None,
    seed: int = 0,
    first: int = 0,
    counter: Tensor | None = None,
    signed: torch.dtype | None = None,
    capacity: int = 0,
    highlights: Tensor | None = None,
    sensor: Tensor | None = None,
) -> Tensor:
    _check_apply(x, psf, padding, gamma, windows, size, signed, noise, highlights, sensor)
    check_draws(0, 0, counter, x.device)  # seed and first may be symbols
    return _new_output(x, size, signed)


def _apply_psf_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, psf, ctx.padding, ctx.gamma, windows, ctx.size, noise, ctx.seed, ctx.first, counter, ctx.signed, _ = inputs[:12]
    highlights, sensor = inputs[12:]
    require(not ctx.needs_input_grad[1], "psf must not require a gradient: reference.apply_psf differentiates by it")
    linear = ctx.gamma == 1 and ctx.signed is None and highlights is None and sensor is None
    repeatable = linear or counter is None or (noise is None and sensor is None)
    require(repeatable, "noise drawn by a counter has no gradient where it matters: give a seed and an index")
    ctx.shape, ctx.dtype = x.shape, x.dtype
    ctx.save_for_backward(None if linear else x, psf, windows, noise, highlights, sensor)


def _apply_psf_backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    """The adjoint by the reference, borders included. Where the op is linear in x, zeros serve: x was not saved."""
    x, psf, windows, noise, highlights, sensor = ctx.saved_tensors
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        if x is None:
            x, noise = torch.zeros(ctx.shape, dtype=ctx.dtype, device=grad.device, requires_grad=True), None
        elif not differentiable:
            x = x.detach().requires_grad_()
        y = reference.apply_psf(
            x,
            psf,
            ctx.padding,
            gamma=ctx.gamma,
            windows=windows,
            size=ctx.size,
            noise=noise,
            seed=ctx.seed,
            first=ctx.first,
            signed=ctx.signed,
            highlights=highlights,
            sensor=sensor,
        )
    return torch.autograd.grad(y, x, grad, create_graph=differentiable)[0], *[None] * 13


torch.library.register_autograd("deblurgan::apply_psf", _apply_psf_backward, setup_context=_apply_psf_setup)
