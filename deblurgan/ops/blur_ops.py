"""torch.library operators of csrc/: draws, camera-shake paths, PSFs and their application.

The C++ of `deblurgan._C` works on CPU tensors, its CUDA kernels on CUDA tensors where they were built; elsewhere draws
are made on the CPU and `deblurgan.reference` applies the PSFs, as it does to fp64. CUDA work is queued on torch's
current stream and never waited for, so that it can be captured in a CUDA graph; what depends on the values of a tensor
is therefore checked on the CPU only.

Draws are named by a seed and the index of the first picture. `counter`, int64 [2] on the device, holds both instead:
a captured graph reads it at each replay.
"""

from __future__ import annotations

import math
from typing import cast, get_args

import torch
from torch import Tensor

from deblurgan import reference
from deblurgan.ops.common import check_counter, check_draws, require

try:
    from deblurgan import _C
except ImportError as error:
    raise ImportError("deblurgan._C is not built: run `pip install -e .` in the checkout") from error

MAX_ANXIETY, MAX_LENGTH = 1e3, 1e6  # far beyond any shake, and fp32 holds all that follows from them
SMALLEST, LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
MAX_STEPS, MAX_SIZE = 2**22, 2**15  # integer sums over a path, and taps in a PSF, stay within their types
PADDINGS: tuple[str, ...] = get_args(reference.Padding)
PIXEL_TYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)  # in the order of csrc's DType


def is_native(device: torch.device) -> bool:
    """Whether csrc/ works on this device's memory."""
    return device.type == "cpu" or (device.type == "cuda" and _C.built_with_cuda)


def _home(device: torch.device) -> torch.device:
    """Where csrc/ makes what is wanted on `device`."""
    return device if is_native(device) else torch.device("cpu")


def _place(device: torch.device) -> tuple[int, int]:
    if device.type == "cpu":
        return -1, torch.get_num_threads()
    stream = torch.cuda.current_stream(device)
    return stream.device.index, stream.cuda_stream


def _within(values: Tensor, low: float, high: float) -> bool:
    """Whether all of a contiguous fp32 tensor on the CPU lies in [low, high]; NaN does not."""
    return _C.all_within(values.data_ptr(), values.numel(), low, high)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def choices(
    n: int,
    *,
    seed: int = 0,
    first: int = 0,
    counter: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Four uniform numbers in [0, 1) for each of the indices first ... first + n - 1: fp32 [n, 4]."""
    wanted = torch.device(device or "cpu") if counter is None else counter.device
    home = _home(wanted)
    require(n >= 0, f"n must be >= 0, got {n}")
    check_draws(seed, first, counter, home)
    out = torch.empty(n, 4, device=home)
    _C.choices(seed, first, _address(counter), out.data_ptr(), n, _place(out.device))
    return out.to(wanted)


def random_windows(
    n: int,
    *,
    picture: tuple[int, int],
    size: tuple[int, int],
    flip: bool = True,
    seed: int = 0,
    first: int = 0,
    counter: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """int64 [n, 3], see `reference.random_windows`."""
    wanted = torch.device(device or "cpu") if counter is None else counter.device
    home = _home(wanted)
    require(n >= 0, f"n must be >= 0, got {n}")
    check_draws(seed, first, counter, home)
    fits = all(1 <= part <= full < 2**31 for part, full in zip(size, picture, strict=True))
    require(fits, f"size must fit into the picture {tuple(picture)}, got {tuple(size)}")
    out = torch.empty(n, 3, dtype=torch.int64, device=home)
    _C.random_windows(seed, first, _address(counter), out.data_ptr(), n, *picture, *size, flip, _place(home))
    return out.to(wanted)


@torch.library.custom_op("deblurgan::dropout_mask", mutates_args=())
def dropout_mask(shape: list[int], p: float, counter: Tensor, stream: int = 0) -> Tensor:
    """Whether dropout keeps each element of [n, c, h, w], bool in channels_last on counter's device. See reference.

    counter, int64 [2]: the seed and the index of the first picture; `stream` tells masks of one network apart.
    """
    _check_mask(shape, p, counter, stream)
    n, c, h, w = shape
    home = _home(counter.device)
    numbers = counter.to(home)
    out = torch.empty(n, h, w, c, dtype=torch.bool, device=home)
    if out.numel():
        threshold = reference.keep_threshold(p)
        _C.dropout_mask(numbers.data_ptr(), out.data_ptr(), n, c * h * w, threshold, stream, _place(home))
    return out.to(counter.device).permute(0, 3, 1, 2)


def _check_mask(shape: list[int], p: float, counter: Tensor, stream: int) -> None:
    require(len(shape) == 4 and min(shape) >= 0, f"shape must be [n, c, h, w], got {list(shape)}")
    require(math.prod(shape[1:]) <= 2**34, f"shape must have at most 2^34 elements a picture, got {list(shape)}")
    require(0 <= p < 1, f"p must be in [0, 1), got {p}")
    require(0 <= stream < 2**31, f"stream must be in [0, 2^31), got {stream}")
    check_counter(counter, counter.device)


@dropout_mask.register_fake
def _(shape: list[int], p: float, counter: Tensor, stream: int = 0) -> Tensor:
    n, c, h, w = shape
    return counter.new_empty((n, h, w, c), dtype=torch.bool).permute(0, 3, 1, 2)


@torch.library.custom_op("deblurgan::random_trajectories", mutates_args=())
def random_trajectories(
    anxiety: Tensor, seed: int, first: int, steps: int, length: float, counter: Tensor | None = None
) -> Tensor:
    """anxiety [n] >= 0 -> fp32 [n, steps, 2] on anxiety's device. See reference."""
    require(anxiety.dim() == 1, f"anxiety must be [n], got {tuple(anxiety.shape)}")
    require(2 <= steps <= MAX_STEPS, f"steps must be in [2, {MAX_STEPS}], got {steps}")
    require(0 < length <= MAX_LENGTH, f"length must be in (0, {MAX_LENGTH:g}] px, got {length}")
    home = _home(anxiety.device)
    check_draws(seed, first, counter, home)
    shakes = anxiety.detach().to(home, torch.float32).contiguous()
    if home.type == "cpu":
        require(_within(shakes, 0, MAX_ANXIETY), f"anxiety must be in [0, {MAX_ANXIETY:g}]")
    n = shakes.shape[0]
    out = torch.empty(n, steps, 2, device=home)
    _C.random_trajectories(
        seed, first, _address(counter), shakes.data_ptr(), out.data_ptr(), n, steps, length, _place(home)
    )
    return out.to(anxiety.device)


@random_trajectories.register_fake
def _(anxiety: Tensor, seed: int, first: int, steps: int, length: float, counter: Tensor | None = None) -> Tensor:
    return anxiety.new_empty((anxiety.shape[0], steps, 2), dtype=torch.float32)


@torch.library.custom_op("deblurgan::rasterize_psf", mutates_args=())
def rasterize_psf(trajectories: Tensor, exposure: Tensor, size: int, mode: str) -> Tensor:
    """[n, steps, 2] and [n] -> fp32 [n, size, size] on trajectories' device. See reference.

    A path that leaves the canvas is an error on the CPU and a PSF of NaN on CUDA.
    """
    shape = tuple(trajectories.shape)
    require(len(shape) == 3 and shape[2] == 2, f"trajectories must be [n, steps, 2], got {shape}")
    require(2 <= shape[1] <= MAX_STEPS, f"trajectories must have 2 to {MAX_STEPS} steps, got {shape[1]}")
    require(tuple(exposure.shape) == shape[:1], f"exposure must be [{shape[0]}], got {tuple(exposure.shape)}")
    require(3 <= size <= MAX_SIZE, f"size must be in [3, {MAX_SIZE}], got {size}")
    require(mode in ("centered", "released"), f"mode must be 'centered' or 'released', got {mode!r}")
    home = _home(trajectories.device)
    path = trajectories.detach().to(home, torch.float32).contiguous()
    shares = exposure.detach().to(home, torch.float32).contiguous()
    if home.type == "cpu":
        require(_within(shares, SMALLEST, 1), "exposure must be in (0, 1]")
    n, steps, _ = shape
    out = torch.empty(n, size, size, device=home)
    canvas = None if home.type == "cpu" else torch.zeros(n, size, size, dtype=torch.int64, device=home)
    _C.rasterize_psf(
        path.data_ptr(),
        shares.data_ptr(),
        out.data_ptr(),
        _address(canvas),
        n,
        steps,
        size,
        mode == "centered",
        _place(home),
    )
    if home.type == "cpu" and not _within(out, 0, math.inf):
        check_canvas(out)
    return out.to(trajectories.device)


def check_canvas(psf: Tensor) -> None:
    """Raises ValueError where a path has left its canvas; waits for a GPU."""
    outside, (n, size, _) = int(psf[:, 0, 0].isnan().sum()), psf.shape
    require(outside == 0, f"size must hold the whole path: {outside} of {n} paths leave a canvas of {size}")


@rasterize_psf.register_fake
def _(trajectories: Tensor, exposure: Tensor, size: int, mode: str) -> Tensor:
    return trajectories.new_empty((trajectories.shape[0], size, size), dtype=torch.float32)


def _check_psf(psf: Tensor) -> None:
    shape = tuple(psf.shape)
    require(len(shape) == 3 and shape[1] == shape[2], f"psf must be [n, k, k], got {shape}")
    require(0 < shape[1] <= MAX_SIZE, f"psf must not be empty, nor wider than {MAX_SIZE}, got {shape}")
    require(psf.is_floating_point(), f"psf must be floating point, got {psf.dtype}")


@torch.library.custom_op("deblurgan::psf_taps", mutates_args=())
def psf_taps(psf: Tensor, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """The non-zero cells of psf [n, k, k]: int32 [n, capacity, 2] (dy, dx), fp32 [n, capacity] and int32 [n], how many.

    Taps are in the order of the PSF's rows; what lies behind the last is undefined. More than `capacity` of them are an
    error on the CPU; on CUDA the number shows it, and `apply_psf` uses those that were stored.
    """
    _check_psf(psf)
    require(capacity >= 1, f"capacity must be at least 1, got {capacity}")
    home = _home(psf.device)
    offset, weight, count = _taps(psf.detach().to(home, torch.float32).contiguous(), capacity)
    if home.type == "cpu":
        check_capacity(count, capacity)
    return offset.to(psf.device), weight.to(psf.device), count.to(psf.device)


def _taps(cells: Tensor, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    n, size, _ = cells.shape
    offset = torch.empty(n, capacity, 2, dtype=torch.int32, device=cells.device)
    weight = torch.empty(n, capacity, device=cells.device)
    count = torch.empty(n, dtype=torch.int32, device=cells.device)
    addresses = (cells.data_ptr(), offset.data_ptr(), weight.data_ptr(), count.data_ptr())
    _C.psf_taps(*addresses, n, size, capacity, _place(cells.device))
    return offset, weight, count


def check_capacity(count: Tensor, capacity: int) -> None:
    """Raises ValueError where a PSF has more taps than were stored; waits for a GPU."""
    over = int((count > capacity).sum())
    require(over == 0, f"capacity must hold all taps: {over} of {count.shape[0]} PSFs have more than {capacity}")


@psf_taps.register_fake
def _(psf: Tensor, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    n = psf.shape[0]
    return (
        psf.new_empty((n, capacity, 2), dtype=torch.int32),
        psf.new_empty((n, capacity), dtype=torch.float32),
        psf.new_empty((n,), dtype=torch.int32),
    )


def _check_apply(
    x: Tensor,
    psf: Tensor,
    padding: str,
    gamma: float,
    windows: Tensor | None,
    size: list[int] | None,
    noise: Tensor | None,
    signed: torch.dtype | None,
) -> None:
    require(x.dim() == 4, f"image must be [n, c, h, w], got {tuple(x.shape)}")
    require(x.dtype == torch.uint8 or x.is_floating_point(), f"image must be uint8 or floating point, got {x.dtype}")
    n, _, h, w = x.shape
    _check_psf(psf)
    require(psf.shape[0] == n, f"psf must hold one kernel a picture, {n}, got {psf.shape[0]}")
    require(psf.device == x.device, f"psf must be on the picture's device {x.device}, got {psf.device}")
    require(padding in PADDINGS, f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
    require(0.1 <= gamma <= 10, f"gamma must be in [0.1, 10], got {gamma}")
    for name, given, shape, dtypes in (
        ("windows", windows, (n, 3), (torch.int64,)),
        ("noise", noise, (n,), (torch.float32, torch.float64)),
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


def _check_values(x: Tensor, psf: Tensor, windows: Tensor | None, size: list[int] | None, noise: Tensor | None) -> None:
    require(bool(psf.float().isfinite().all()), "psf must be finite in fp32")
    if windows is not None and size is not None:
        h, w = x.shape[2:]
        room = torch.tensor([h - size[0], w - size[1], 1])
        require(bool(((windows >= 0) & (windows <= room)).all()), f"windows must lie in the picture {(h, w)}")
    if noise is not None:
        require(_within(noise.float().contiguous(), 0, LARGEST), "noise must be finite and >= 0")


def _new_output(x: Tensor, size: list[int] | None, signed: torch.dtype | None) -> Tensor:
    h, w = size or x.shape[2:]
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((*x.shape[:2], h, w), dtype=signed or x.dtype, device=x.device, memory_format=layout)


def _strides(x: Tensor, channels_last: bool) -> tuple[int, int, int, int]:
    """Of n, c, h, w; those of torch are arbitrary where a side is 1."""
    _, c, h, w = x.shape
    return (c * h * w, 1, w * c, c) if channels_last else (c * h * w, h * w, w, 1)


@torch.library.custom_op("deblurgan::apply_psf", mutates_args=())
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
) -> Tensor:
    """True convolution of x [n, c, h, w] with psf [n, k, k], same dtype and layout as x. See reference.

    `capacity` bounds the taps of a PSF on CUDA, k^2 if 0. Differentiable in x.
    """
    _check_apply(x, psf, padding, gamma, windows, size, noise, signed)
    check_draws(seed, first, counter, x.device)
    if x.device.type == "cpu":
        _check_values(x, psf, windows, size, noise)
    out = _new_output(x, size, signed)
    if out.numel() == 0:
        return out
    if not (is_native(x.device) and x.dtype in PIXEL_TYPES and out.dtype in PIXEL_TYPES):
        if counter is not None:
            seed, first = counter.tolist()
        place = cast(reference.Padding, padding)
        more = {"gamma": gamma, "windows": windows, "size": size, "noise": noise, "signed": signed}
        return out.copy_(reference.apply_psf(x, psf, place, seed=seed, first=first, **more))  # type: ignore[arg-type]
    channels_last = not out.is_contiguous()
    image = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    white = 255.0 if x.dtype == torch.uint8 else 1.0
    linear = gamma != 1 and x.device.type != "cpu"
    if linear:
        image = (image.float() / white).clamp(min=0).pow(gamma)
    cells = psf.float().contiguous()
    n, c, h, w = x.shape
    if x.device.type == "cpu":
        capacity = max(1, _C.max_taps(cells.data_ptr(), n, cells.shape[-1]))
    offset, weight, count = _taps(cells, capacity or cells.shape[-1] ** 2)
    places = None if windows is None else windows.contiguous()
    deviation = None if noise is None else noise.float().contiguous()
    _C.apply_psf(
        image.data_ptr(),
        out.data_ptr(),
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
        _address(offset),
        _address(weight),
        _address(count),
        offset.shape[1],
        PADDINGS.index(padding),
        _address(places),
        white,
        gamma,
        linear,
        _address(deviation),
        seed,
        first,
        _address(counter),
        signed is not None,
        _place(x.device),
    )
    return out


@apply_psf.register_fake
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
) -> Tensor:
    _check_apply(x, psf, padding, gamma, windows, size, noise, signed)
    return _new_output(x, size, signed)


def _apply_psf_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, psf, ctx.padding, ctx.gamma, windows, ctx.size, noise, ctx.seed, ctx.first, counter, ctx.signed, _ = inputs
    require(not ctx.needs_input_grad[1], "psf must not require a gradient: reference.apply_psf differentiates by it")
    linear = ctx.gamma == 1 and ctx.signed is None
    repeatable = linear or counter is None or noise is None
    require(repeatable, "noise drawn by a counter has no gradient where it matters: give a seed and an index")
    ctx.shape, ctx.dtype = x.shape, x.dtype
    ctx.save_for_backward(None if linear else x, psf, windows, noise)


def _apply_psf_backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    """The adjoint, borders included, by the reference. Where the op is linear in x any x serves as well as the one."""
    x, psf, windows, noise = ctx.saved_tensors
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
        )
    return torch.autograd.grad(y, x, grad, create_graph=differentiable)[0], *[None] * 11


apply_psf.register_autograd(_apply_psf_backward, setup_context=_apply_psf_setup)
