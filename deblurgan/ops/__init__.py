"""torch.library operators: they check, allocate and choose the path. torch.ops.deblurgan.* are the same functions.

Those of csrc/ have files of their own and are names here too. The networks' ops and their gradients run in our Triton
kernels on CUDA (see `device.kernels_available`), in `reference` elsewhere. A gradient is made anew from an op's inputs:
by an op of its own, `norm_act_grad` and its like, which is deterministic as far as cuDNN is, and not differentiable; by
`reference` where it is to be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast, get_args

import torch
from torch import Tensor

from deblurgan import reference
from deblurgan.config import Norm
from deblurgan.device import gpu_name, kernels_available
from deblurgan.kernels.table import Choose, choice
from deblurgan.ops import convolution
from deblurgan.ops import critic_gradients as penalty
from deblurgan.ops.apply import apply_psf
from deblurgan.ops.common import check_counter, check_seed, require
from deblurgan.ops.draws import random_windows, uniforms
from deblurgan.ops.dropout import dropout_mask
from deblurgan.ops.native import is_native
from deblurgan.ops.psf import psf_taps, rasterize_psf
from deblurgan.ops.trajectories import random_trajectories

__all__ = [
    "apply_psf",
    "check_counter",
    "check_seed",
    "conv_norm_relu",
    "conv_norm_relu_grad",
    "dropout_mask",
    "gradient_penalty",
    "is_native",
    "norm_act",
    "norm_act_grad",
    "output_tail",
    "output_tail_grad",
    "psf_taps",
    "random_trajectories",
    "random_windows",
    "rasterize_psf",
    "uniforms",
    "up_conv_norm_relu",
    "up_conv_norm_relu_grad",
]

BORDERS: tuple[str, ...] = get_args(reference.Border)
ACTS: tuple[str, ...] = get_args(reference.Act)
NORMS: tuple[str, ...] = get_args(Norm)


def _differentiable(
    op: Any,
    definition: Callable[..., Tensor],
    by_kernels: Callable[..., list[Tensor | None]],
    tensors: int,
    *,
    residual: int | None = None,
    runs: Callable[..., bool] = lambda x, *_: _runs_kernels(x),
) -> None:
    """Gives an op its gradient in its first `tensors` arguments, computed anew from its inputs.

    Where the kernels run, which `runs` says of those arguments, `by_kernels` makes it from flags, one for each of them,
    whether its gradient is wanted, from the result's gradient, and from all arguments. Elsewhere, and where it is to be
    differentiated again, it is that of `definition`. Argument number `residual` is added to the result, so it is not
    kept: both functions are given None.
    """

    def setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*(None if i == residual else t for i, t in enumerate(inputs[:tensors])))
        ctx.rest = inputs[tensors:]

    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        again, kept = torch.is_grad_enabled(), ctx.saved_tensors
        needed = [*ctx.needs_input_grad, *[False] * tensors][:tensors]  # arguments left out are not in it
        wanted = [need and i != residual for i, need in enumerate(needed)]
        found: list[Tensor | None] = [None] * tensors
        if any(wanted) and not again and runs(*kept):
            found = by_kernels(wanted, grad, *kept, *ctx.rest)
        elif any(wanted):
            inputs = [None if t is None else t if again else t.detach().requires_grad_() for t in kept]
            with torch.enable_grad():
                y = definition(*inputs, *ctx.rest)
            of = [cast(Tensor, t) for t, want in zip(inputs, wanted, strict=True) if want]
            found = _placed(wanted, torch.autograd.grad(y, of, grad, create_graph=again))
        if residual is not None and needed[residual]:
            found[residual] = grad
        return *found, *[None] * len(ctx.rest)

    torch.library.register_autograd(op, backward, setup_context=setup)


def _placed(wanted: Sequence[bool], found: Iterable[Tensor]) -> list[Tensor | None]:
    """Each of `found` where it was wanted, None elsewhere."""
    given = iter(found)
    return [next(given) if want else None for want in wanted]


def _empty_gradients(wanted: Sequence[bool], x: Tensor, *others: Tensor) -> list[Tensor]:
    """Memory for the gradients that are wanted: x's in channels_last, the others' as those lie."""
    of_x = [torch.empty_like(x, memory_format=torch.channels_last)] if wanted[0] else []
    return of_x + [torch.empty_like(other) for other, want in zip(others, wanted[1:], strict=True) if want]


def _check_planes(x: Tensor, residual: Tensor | None, shape: tuple[int, ...]) -> None:
    require(x.dim() == 4, f"x must be [n, c, h, w], got {tuple(x.shape)}")
    require(x.is_floating_point(), f"x must be floating point, got {x.dtype}")
    if residual is not None:
        got = f"{residual.dtype} {tuple(residual.shape)} on {residual.device}"
        same = tuple(residual.shape) == shape and residual.dtype == x.dtype and residual.device == x.device
        require(same, f"residual must be {x.dtype} {shape} on {x.device}, got {got}")


def _check_grad(grad: Tensor, like: Tensor, shape: tuple[int, ...]) -> None:
    got = f"{grad.dtype} {tuple(grad.shape)} on {grad.device}"
    same = tuple(grad.shape) == shape and grad.dtype == like.dtype and grad.device == like.device
    require(same, f"grad must be {like.dtype} {shape} on {like.device}, got {got}")


def _check_wanted(wanted: Sequence[bool], names: str) -> None:
    count = len(names.split())
    require(len(wanted) == count, f"wanted must be {count} flags, for {names}, got {len(wanted)}")


def _check_weight(x: Tensor, weight: Tensor, channels: int, bias: Tensor | None, outputs: int) -> None:
    require(weight.dim() == 4, f"weight must have 4 axes, got {tuple(weight.shape)}")
    require(channels == x.shape[1], f"weight must take the {x.shape[1]} channels of x, got {tuple(weight.shape)}")
    for name, given in (("weight", weight), ("bias", bias)):
        if given is not None:
            same = given.dtype == x.dtype and given.device == x.device
            require(same, f"{name} must be {x.dtype} on {x.device}, got {given.dtype} on {given.device}")
    if bias is not None:
        require(tuple(bias.shape) == (outputs,), f"bias must be [{outputs}], got {tuple(bias.shape)}")


def _check_odd(weight: Tensor, axes: str) -> None:
    rows, columns = weight.shape[2:]
    require(rows == columns and rows % 2 == 1, f"weight must be {axes} with s odd, got {tuple(weight.shape)}")


def _check_choice(name: str, given: str, choices: tuple[str, ...]) -> None:
    require(given in choices, f"{name} must be one of {', '.join(choices)}, got {given!r}")


def _runs_kernels(x: Tensor) -> bool:
    return kernels_available(x.device) and x.dtype in (torch.float16, torch.bfloat16, torch.float32) and x.numel() > 0


def _require_kernels(x: Tensor) -> None:
    require(_runs_kernels(x), f"x must be where the kernels run, got {x.dtype} {tuple(x.shape)} on {x.device}")


def _choose(device: torch.device) -> Choose:
    return choice(gpu_name(device))


def _config(kind: str, y: Tensor) -> Any:
    """How the kernels' table wants a layer with the result y [n, h, w, c] made; None for cuDNN."""
    config = _choose(y.device)(kind, y.shape[0] * y.shape[1] * y.shape[2], y.dtype)
    return None if config and config.form == "tma" else config  # which needs a border around y


def _bordered(x: Tensor, width: int, border: str) -> Tensor:
    """x [n, c, h, w] as [n, h + 2 width, w + 2 width, c], contiguous."""
    return reference.pad(x, width, cast(reference.Border, border)).permute(0, 2, 3, 1).contiguous()


def _normalised(
    layer: convolution.Layer, bordered: Tensor, shape: tuple[int, ...], act: str, residual: Tensor | None
) -> Tensor:
    """residual + act(instance_norm(conv)) of a bordered picture [n, ., ., c]: [n, k, h, w] in channels_last."""
    from deblurgan.kernels.norm_act import norm_act as kernel

    n, k, h, w = shape
    out = bordered.new_empty(n, h, w, k)
    rest = None if residual is None else residual.permute(0, 2, 3, 1).contiguous()
    with torch.cuda.device_of(out):
        y, stats = convolution.conv_stats(layer, bordered, out, config=_config(layer.kind, out))
        kernel(y, stats, out, residual=rest, **_activation(act))
    return out.permute(0, 3, 1, 2)


def _normalised_grad(
    layer: convolution.Layer,
    bordered: Tensor,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    border: str,
    act: str,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """The gradients of x [n, c, h, w] and weight that are wanted, from `grad` [n, k, h', w'] of `_normalised`'s result.

    Our kernels make what their 3x3 forms cover, cuDNN the rest.
    """
    kind, edge = layer.kind, cast(reference.Border, border)
    out = _empty_gradients(wanted, x, weight)
    with torch.cuda.device_of(x):
        g = grad.permute(0, 2, 3, 1).contiguous()
        y, stats = convolution.conv_stats(layer, bordered, torch.empty_like(g), config=_config(kind, g))
        dgrad, wgrad = _gradient_configs(kind, weight, g)
        if kind == "down" and (border == "reflect" or x.shape[2] % 2 or x.shape[3] % 2):
            dgrad = None  # our kernel makes two rows and columns from each of dy's, and no border
        dy = convolution.zeros_for(kind, edge, dgrad=dgrad, wgrad=wgrad, shape=g.shape, like=bordered)
        _through_norm(g, y, stats, act, dy.memory, rows=dy.rows, top=dy.top, left=dy.left)
        found = _convolution_gradients(kind, weight, bordered, dy, (dgrad, wgrad), edge, wanted)
        for memory, made in zip(out, found, strict=True):
            memory.copy_(made)
    return out


def _gradient_configs(kind: str, weight: Tensor, y: Tensor) -> tuple[Any | None, Any | None]:
    """How the gradients of a layer with the result y [n, h, w, c] run, of what it read and of its weight."""
    if weight.shape[2] != (7 if kind == "head" else 3):
        return None, None
    return convolution.gradient_configs(_choose(y.device), kind, weight, y)


def _through_norm(
    g: Tensor, y: Tensor, stats: Tensor, act: str, out: Tensor, *, rows: int, top: int = 0, left: int = 0
) -> None:
    """Fills out [n * rows + spare, ., c] with the gradient of y, from g of act(instance_norm(y)), all [n, h, w, c]."""
    from deblurgan.kernels.norm_act_grad import norm_act_grad, norm_act_reduce

    sums = norm_act_reduce(g, y, stats, **_activation(act))
    norm_act_grad(g, y, stats, sums, out, rows=rows, top=top, left=left, **_activation(act))


def _convolution_gradients(
    kind: str,
    weight: Tensor,
    bordered: Tensor,
    dy: convolution.AmidZeros,
    configs: tuple[Any | None, Any | None],
    border: reference.Border,
    wanted: Sequence[bool],
) -> Iterator[Tensor]:
    """The gradients of x [n, c, h, w], what was bordered, and of weight, as far as they are wanted."""
    if wanted[0]:
        made = convolution.data_gradient(kind, weight, bordered, dy, border=border, config=configs[0], tf32=False)
        of_x = made.permute(0, 3, 1, 2)
        yield convolution.folded(of_x, weight.shape[2] // 2) if convolution.has_reflected(kind, border) else of_x
    if wanted[1]:
        yield convolution.weight_gradient(kind, weight, bordered, dy, config=configs[1], tf32=False)


@torch.library.custom_op("deblurgan::norm_act", mutates_args=())
def norm_act(x: Tensor, residual: Tensor | None = None, act: str = "relu") -> Tensor:
    """residual + act(instance_norm(x)), all [n, c, h, w]; see reference. The result is in channels_last."""
    _check_planes(x, residual, tuple(x.shape))
    _check_choice("act", act, ACTS)
    if not _runs_kernels(x):
        return _reference_norm_act(x, residual, act).clone(memory_format=torch.channels_last)
    from deblurgan.kernels.norm_act import norm_act as kernel
    from deblurgan.kernels.tile_stats import plane_stats

    planes = x.permute(0, 2, 3, 1).contiguous()
    out = torch.empty_like(planes)
    rest = None if residual is None else residual.permute(0, 2, 3, 1).contiguous()
    with torch.cuda.device_of(x):
        stats = plane_stats(planes, eps=reference.EPS)
        kernel(planes, stats, out, residual=rest, **_activation(act))
    return out.permute(0, 3, 1, 2)


def _activation(act: str) -> dict[str, Any]:
    """An activation as the kernels know it."""
    return {"relu": act != "none", "leak": reference.SLOPE if act == "leaky_relu" else 0.0}


def _reference_norm_act(x: Tensor, residual: Tensor | None, act: str) -> Tensor:
    return reference.norm_act(x, act=cast(reference.Act, act), residual=residual)


@norm_act.register_fake
def _(x: Tensor, residual: Tensor | None = None, act: str = "relu") -> Tensor:
    _check_planes(x, residual, tuple(x.shape))
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.custom_op("deblurgan::norm_act_grad", mutates_args=())
def norm_act_grad(grad: Tensor, x: Tensor, act: str) -> Tensor:
    """The gradient by x [n, c, h, w] of norm_act(x, None, act), whose result has the gradient `grad`; in channels_last.

    Deterministic, and not differentiable. Raises ValueError where the kernels do not run: see `norm_act`.
    """
    _check_norm_act_grad(grad, x, act)
    _require_kernels(x)
    from deblurgan.kernels.tile_stats import plane_stats

    planes, g = (t.permute(0, 2, 3, 1).contiguous() for t in (x, grad))
    out = torch.empty_like(planes)
    with torch.cuda.device_of(x):
        stats = plane_stats(planes, eps=reference.EPS)
        _through_norm(g, planes, stats, act, out.flatten(0, 1), rows=planes.shape[1])
    return out.permute(0, 3, 1, 2)


def _check_norm_act_grad(grad: Tensor, x: Tensor, act: str) -> None:
    _check_planes(x, None, ())
    _check_grad(grad, x, tuple(x.shape))
    _check_choice("act", act, ACTS)


@norm_act_grad.register_fake
def _(grad: Tensor, x: Tensor, act: str) -> Tensor:
    _check_norm_act_grad(grad, x, act)
    return torch.empty_like(x, memory_format=torch.channels_last)


def _norm_act_by_kernels(wanted: list[bool], grad: Tensor, x: Tensor, residual: None, act: str) -> list[Tensor | None]:
    return [norm_act_grad(grad, x, act), None]


_differentiable(norm_act, _reference_norm_act, _norm_act_by_kernels, 2, residual=1)


def _conv_shape(x: Tensor, weight: Tensor, stride: int) -> tuple[int, int, int, int]:
    h, w = (-(-side // stride) for side in x.shape[2:])
    return x.shape[0], weight.shape[0], h, w


@torch.library.custom_op("deblurgan::conv_norm_relu", mutates_args=())
def conv_norm_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    stride: int = 1,
    border: str = "zero",
    act: str = "relu",
) -> Tensor:
    """residual + act(instance_norm(conv(x))): x [n, c, h, w], weight [k, c, s, s], s odd; see reference.

    The kernels leave the bias out: the norm subtracts it again. The result is in channels_last.
    """
    _check_conv(x, weight, bias, residual, stride, border, act)
    if not _runs_kernels(x):
        y = _reference_conv(x, weight, bias, residual, stride, border, act)
        return y.clone(memory_format=torch.channels_last)
    bordered = _bordered(x, weight.shape[2] // 2, border)
    return _normalised(_conv_layer(weight, stride), bordered, _conv_shape(x, weight, stride), act, residual)


def _conv_layer(weight: Tensor, stride: int) -> convolution.Layer:
    return convolution.plain("down" if stride == 2 else "trunk", weight, weight.dtype, stride=stride)


def _reference_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, stride: int, border: str, act: str
) -> Tensor:
    edge, activation = cast(reference.Border, border), cast(reference.Act, act)
    return reference.conv_norm_relu(x, weight, bias, stride=stride, border=edge, act=activation, residual=residual)


def _check_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, stride: int, border: str, act: str
) -> None:
    require(stride in (1, 2), f"stride must be 1 or 2, got {stride}")
    _check_planes(x, None, ())
    _check_weight(x, weight, weight.shape[1], bias, weight.shape[0])
    _check_odd(weight, "[k, c, s, s]")
    _check_planes(x, residual, _conv_shape(x, weight, stride))
    _check_choice("border", border, BORDERS)
    _check_choice("act", act, ACTS)


@conv_norm_relu.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    stride: int = 1,
    border: str = "zero",
    act: str = "relu",
) -> Tensor:
    _check_conv(x, weight, bias, residual, stride, border, act)
    return x.new_empty(_conv_shape(x, weight, stride)).to(memory_format=torch.channels_last)


@torch.library.custom_op("deblurgan::conv_norm_relu_grad", mutates_args=())
def conv_norm_relu_grad(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, border: str, act: str, wanted: list[bool]
) -> list[Tensor]:
    """The gradients of x and weight, those of the two that are wanted, of conv_norm_relu(x, weight, None, None, ...).

    `grad` [n, k, h', w'] is that of its result. x's gradient is in channels_last. Raises ValueError where the kernels
    do not run.
    """
    _check_conv_grad(grad, x, weight, stride, border, act, wanted)
    _require_kernels(x)
    bordered = _bordered(x, weight.shape[2] // 2, border)
    return _normalised_grad(_conv_layer(weight, stride), bordered, grad, x, weight, border, act, wanted)


def _check_conv_grad(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, border: str, act: str, wanted: list[bool]
) -> None:
    _check_conv(x, weight, None, None, stride, border, act)
    _check_grad(grad, x, _conv_shape(x, weight, stride))
    _check_wanted(wanted, "x weight")


@conv_norm_relu_grad.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, stride: int, border: str, act: str, wanted: list[bool]) -> list[Tensor]:
    _check_conv_grad(grad, x, weight, stride, border, act, wanted)
    return _empty_gradients(wanted, x, weight)


def _conv_by_kernels(
    wanted: list[bool],
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: None,
    stride: int,
    border: str,
    act: str,
) -> list[Tensor | None]:
    found = conv_norm_relu_grad(grad, x, weight, stride, border, act, wanted[:2]) if any(wanted[:2]) else []
    return [*_placed(wanted[:2], found), _zeros(wanted[2], bias), None]


def _zeros(wanted: bool, bias: Tensor | None) -> Tensor | None:
    """The gradient of a bias that a norm subtracts again."""
    return torch.zeros_like(bias) if wanted and bias is not None else None


_differentiable(conv_norm_relu, _reference_conv, _conv_by_kernels, 4, residual=3)


@torch.library.custom_op("deblurgan::up_conv_norm_relu", mutates_args=())
def up_conv_norm_relu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """relu(instance_norm(conv_transpose(x))): x [n, c, h, w], weight [c, k, 3, 3] -> [n, k, 2h, 2w]; see reference."""
    _check_up_conv(x, weight, bias)
    if not _runs_kernels(x):
        return reference.up_conv_norm_relu(x, weight, bias).clone(memory_format=torch.channels_last)
    layer = convolution.up(weight, x.dtype)
    return _normalised(layer, _bordered(x, 1, "zero"), _up_shape(x, weight), "relu", None)


def _up_shape(x: Tensor, weight: Tensor) -> tuple[int, int, int, int]:
    return x.shape[0], weight.shape[1], 2 * x.shape[2], 2 * x.shape[3]


def _check_up_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    _check_planes(x, None, ())
    _check_weight(x, weight, weight.shape[0], bias, weight.shape[1])
    require(tuple(weight.shape[2:]) == (3, 3), f"weight must be [c, k, 3, 3], got {tuple(weight.shape)}")


@up_conv_norm_relu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    _check_up_conv(x, weight, bias)
    return x.new_empty(_up_shape(x, weight)).to(memory_format=torch.channels_last)


@torch.library.custom_op("deblurgan::up_conv_norm_relu_grad", mutates_args=())
def up_conv_norm_relu_grad(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> list[Tensor]:
    """The gradients of x and weight, those of the two that are wanted, of up_conv_norm_relu(x, weight).

    `grad` [n, k, 2h, 2w] is that of its result. x's gradient is in channels_last. Raises ValueError where the kernels
    do not run.
    """
    _check_up_conv_grad(grad, x, weight, wanted)
    _require_kernels(x)
    layer = convolution.up(weight, x.dtype)
    return _normalised_grad(layer, _bordered(x, 1, "zero"), grad, x, weight, "zero", "relu", wanted)


def _check_up_conv_grad(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> None:
    _check_up_conv(x, weight, None)
    _check_grad(grad, x, _up_shape(x, weight))
    _check_wanted(wanted, "x weight")


@up_conv_norm_relu_grad.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> list[Tensor]:
    _check_up_conv_grad(grad, x, weight, wanted)
    return _empty_gradients(wanted, x, weight)


def _up_conv_by_kernels(
    wanted: list[bool], grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None
) -> list[Tensor | None]:
    found = up_conv_norm_relu_grad(grad, x, weight, wanted[:2]) if any(wanted[:2]) else []
    return [*_placed(wanted[:2], found), _zeros(wanted[2], bias)]


_differentiable(up_conv_norm_relu, reference.up_conv_norm_relu, _up_conv_by_kernels, 3)


@torch.library.custom_op("deblurgan::output_tail", mutates_args=())
def output_tail(x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str) -> Tensor:
    """clamp(image + tanh(conv(x)), -1, 1): x [n, k, h, w], image [n, c, h, w], weight [c, k, s, s]; see reference."""
    _check_tail(x, image, weight, bias, border)
    if not _runs_tail(x, image, weight, bias):
        return _reference_tail(x, image, weight, bias, border).contiguous()
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    with torch.cuda.device_of(x):
        _tail(_bordered(x, weight.shape[2] // 2, border), image, weight, bias, out)
    return out


def _runs_tail(x: Tensor, image: Tensor, weight: Tensor, bias: Tensor) -> bool:
    return _runs_kernels(x) and weight.shape[0] <= 8 and weight.shape[2] <= 8


def _tail(
    bordered: Tensor, image: Tensor, weight: Tensor, bias: Tensor, out: Tensor, saved: Tensor | None = None
) -> None:
    """Fills `out` with output_tail's result, and `saved`, fp32, with its tanh, both [n, c, h, w]."""
    from deblurgan.kernels.output_tail import folded, output_tail

    config = _config("head", image.permute(0, 2, 3, 1))
    rows = folded(weight, config.block_n, bordered.dtype)
    output_tail(bordered, rows, bias.float().contiguous(), image, out, config=config, saved=saved)


def _reference_tail(x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str) -> Tensor:
    return reference.output_tail(x, image, weight, bias, border=cast(reference.Border, border))


def _check_tail(x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str) -> None:
    _check_planes(x, None, ())
    _check_weight(x, weight, weight.shape[1], bias, weight.shape[0])
    _check_odd(weight, "[c, k, s, s]")
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    got = tuple(image.shape)
    require(got == shape and image.is_floating_point(), f"image must be floats {shape}, got {image.dtype} {got}")
    require(image.device == x.device, f"image must be on {x.device}, got {image.device}")
    _check_choice("border", border, BORDERS)


@output_tail.register_fake
def _(x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str) -> Tensor:
    _check_tail(x, image, weight, bias, border)
    return torch.empty_like(image, memory_format=torch.contiguous_format)


@torch.library.custom_op("deblurgan::output_tail_grad", mutates_args=())
def output_tail_grad(
    grad: Tensor, x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str, wanted: list[bool]
) -> list[Tensor]:
    """The gradients of x, image, weight and bias, those of the four that are wanted, of output_tail of the same.

    `grad` [n, c, h, w] is that of its result. x's gradient is in channels_last. Raises ValueError where the kernels do
    not run, which make at most 8 channels by at most 7x7 taps.
    """
    _check_tail_grad(grad, x, image, weight, bias, border, wanted)
    _require_kernels(x)
    require(_runs_tail(x, image, weight, bias), f"weight must be at most [8, k, 7, 7], got {tuple(weight.shape)}")
    from deblurgan.kernels import output_tail_grad as kernels

    edge, (n, _, h, w) = cast(reference.Border, border), image.shape
    out = _empty_gradients(wanted, x, image, weight, bias)
    with torch.cuda.device_of(x):
        bordered = _bordered(x, weight.shape[2] // 2, border)
        tanh = torch.empty(image.shape, device=x.device)
        _tail(bordered, image, weight, bias, torch.empty_like(image), tanh)
        dz = convolution.head_zeros(n, h, w, border=edge, like=x)
        of_bias = kernels.output_tail_grad(grad, image, tanh, dz.whole, width=dz.top)
        configs, both = _gradient_configs("head", weight, dz.inside), (wanted[0], wanted[2])
        of_x, of_weight = _placed(both, _convolution_gradients("head", weight, bordered, dz, configs, edge, both))
        of_image = torch.where((image + tanh).abs() <= 1, grad, 0) if wanted[1] else None
        found = (of_x, of_image, of_weight, of_bias if wanted[3] else None)
        for memory, made in zip(out, (made for made in found if made is not None), strict=True):
            memory.copy_(made)
    return out


def _check_tail_grad(
    grad: Tensor, x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str, wanted: list[bool]
) -> None:
    _check_tail(x, image, weight, bias, border)
    _check_grad(grad, image, tuple(image.shape))
    _check_wanted(wanted, "x image weight bias")


@output_tail_grad.register_fake
def _(
    grad: Tensor, x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str, wanted: list[bool]
) -> list[Tensor]:
    _check_tail_grad(grad, x, image, weight, bias, border, wanted)
    return _empty_gradients(wanted, x, image, weight, bias)


def _tail_by_kernels(
    wanted: list[bool], grad: Tensor, x: Tensor, image: Tensor, weight: Tensor, bias: Tensor, border: str
) -> list[Tensor | None]:
    return _placed(wanted, output_tail_grad(grad, x, image, weight, bias, border, wanted))


_differentiable(output_tail, _reference_tail, _tail_by_kernels, 4, runs=_runs_tail)


@torch.library.custom_op("deblurgan::gradient_penalty", mutates_args=())
def gradient_penalty(
    x: Tensor,
    weights: Sequence[Tensor],
    bias: Tensor,
    padding: int,
    norm: str,
    weight: float,
    dtype: torch.dtype | None,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """weight * mean((|grad D(x)| - 1)^2) of nn.Critic's convolutions, and its gradients by their weights and by the
    first bias; see `penalty.penalty_gradients`. The value is differentiable once, by weights and bias."""
    _check_penalty(x, weights, bias, padding, norm, dtype)
    kind = cast(Norm, norm)
    return penalty.penalty_gradients(weights, bias, x, padding=padding, norm=kind, weight=weight, dtype=dtype)


def _check_penalty(
    x: Tensor, weights: Sequence[Tensor], bias: Tensor, padding: int, norm: str, dtype: torch.dtype | None
) -> None:
    _check_planes(x, None, ())
    require(len(weights) >= 3, f"weights must be of 3 convolutions or more, got {len(weights)}")
    for before, weight in zip([x, *weights], weights, strict=False):
        channels = before.shape[1 if before is x else 0]
        got = tuple(weight.shape)
        require(got[1:] == (channels, 4, 4), f"weights must be [k, c, 4, 4] with c = {channels}, got {got}")
        _check_weight(x, weight, x.shape[1], None, 0)
    _check_weight(x, weights[0], x.shape[1], bias, weights[0].shape[0])
    require(weights[-1].shape[0] == 1, f"weights must end in one channel of scores, got {weights[-1].shape[0]}")
    require(padding in (1, 2), f"padding must be 1 or 2, got {padding}")
    _check_choice("norm", norm, NORMS)
    require(dtype is None or dtype.is_floating_point, f"dtype must be a floating-point type, got {dtype}")


@gradient_penalty.register_fake
def _(
    x: Tensor,
    weights: Sequence[Tensor],
    bias: Tensor,
    padding: int,
    norm: str,
    weight: float,
    dtype: torch.dtype | None,
) -> tuple[Tensor, list[Tensor], Tensor]:
    _check_penalty(x, weights, bias, padding, norm, dtype)
    value = x.new_empty((), dtype=x.dtype if x.dtype == torch.float64 else torch.float32)
    return value, [torch.empty_like(w) for w in weights], torch.empty_like(bias)


def _gradient_penalty_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    require(not ctx.needs_input_grad[0], "x must not require a gradient, and none is known by it")
    _, gradients, of_bias = output
    ctx.mark_non_differentiable(*gradients, of_bias)
    ctx.save_for_backward(*gradients, of_bias)


def _gradient_penalty_backward(ctx, grad: Tensor, *_):  # type: ignore[no-untyped-def]
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the gradient penalty is differentiable once; for create_graph=True use "
            "losses.gradient_penalty(..., form='double')"
        )
    *gradients, of_bias = (grad * g for g in ctx.saved_tensors)
    return None, gradients, of_bias, None, None, None, None


gradient_penalty.register_autograd(_gradient_penalty_backward, setup_context=_gradient_penalty_setup)
