"""The gradients of a convolution, by our kernels or by cuDNN. Nothing here is known to autograd.

The gradient by a layer's input is another layer, its adjoint, applied to the gradient of its output amid zeros; that by
its weight is a sum of products over all pixels. Pictures are bordered, channels last.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from deblurgan import reference
from deblurgan.kernels.config import PACKED_CHANNELS, PACKED_TAP, ConvConfig, ConvShape, Gate, PaddedGradient
from deblurgan.kernels.table import PickConfig
from deblurgan.ops.conv import launch_conv, tile_total
from deblurgan.ops.layers import Layer, conv_layer, library_weight, stem_layer, up_layer


class Convolution(NamedTuple):
    """A convolution whose gradients are computed."""

    kind: str  # as in spec.Kind
    weight: Tensor  # [cout, c, s, s], transposed [c, cout, s, s]
    border: reference.Border  # of the picture that it reads

    @property
    def halo(self) -> int:
        """Border pixels that it reads on each side."""
        return self.weight.shape[2] // 2

    def shape(self, y: Tensor) -> ConvShape:
        """As tilings are chosen by it where it made y [n, h, w, c]."""
        cout, c = self.weight.shape[:2]
        channels = (cout, c) if self.kind == "up" else (c, cout)
        return ConvShape(self.kind, *channels, y.shape[0] * y.shape[1] * y.shape[2], y.dtype)

    @property
    def reads_reflected_border(self) -> bool:
        """Whether its input's border is reflected, and so receives a gradient."""
        return self.border == "reflect" and self.kind != "up"


class GradientConfigs(NamedTuple):
    """The tilings of the two gradients' kernels, None for cuDNN."""

    dgrad: ConvConfig | None
    wgrad: ConvConfig | None


def gradient_configs(pick_config: PickConfig, conv: Convolution, y: Tensor) -> GradientConfigs:
    """How the gradients run where the convolution made y [n, h, w, c]: as picked, where channels fill the blocks."""
    shape = conv.shape(y)
    dgrad, wgrad = (pick_config(shape._replace(kind=f"{conv.kind}.{which}")) for which in ("dgrad", "wgrad"))
    return fitting_configs(conv.weight, dgrad, wgrad)


def fitting_configs(weight: Tensor, dgrad: ConvConfig | None, wgrad: ConvConfig | None) -> GradientConfigs:
    """The tilings, None in place of those whose blocks the weight's channels do not fill."""
    cout, c = weight.shape[:2]
    if dgrad and dgrad.form == "tma" and (cout % dgrad.block_k or c % dgrad.block_n):
        dgrad = None
    if wgrad and wgrad.form == "tma" and (cout % wgrad.block_m or c % wgrad.block_n):
        wgrad = None
    return GradientConfigs(dgrad, wgrad)


def padded_gradient(shape: torch.Size, *, border: int, shared: bool = False, like: Tensor) -> PaddedGradient:
    """Memory, in the type of `like`, for a gradient of `shape` [n, h, w, c] within a border of zeros.

    With `shared`, neighbouring rows share one border, and so do neighbouring pictures. The row pitch is then that of
    the bordered picture which the convolution read, whose border is half as wide.
    """
    n, h, w, c = shape
    rows, pitch = (side + border * (1 if shared else 2) for side in (h, w))
    spare = border + 1 if shared else 0
    memory = torch.empty(n * rows + spare, pitch, c, dtype=like.dtype, device=like.device)
    strides = (rows * pitch * c, pitch * c, c, 1)
    whole = memory.as_strided((n, h + 2 * border, w + 2 * border, c), strides)
    inside = memory.as_strided((n, h, w, c), strides, (border * pitch + border) * c)
    return PaddedGradient(memory, rows, border, border, inside, whole)


def output_gradient(conv: Convolution, configs: GradientConfigs, shape: torch.Size, *, like: Tensor) -> PaddedGradient:
    """Memory for the gradient, `shape` [n, h, w, c], of a convolution's output, with the zeros that `configs` need.

    cuDNN needs none.
    """
    reflected = conv.kind == "trunk" and conv.border == "reflect"
    width = 0 if configs == (None, None) else 2 if reflected else 1
    return padded_gradient(shape, border=width, shared=reflected and width > 0, like=like)


def head_output_gradient(conv: Convolution, n: int, h: int, w: int, *, like: Tensor) -> PaddedGradient:
    """Memory for the gradient of the last convolution's output, in four channels."""
    width = conv.halo * (2 if conv.border == "reflect" else 1)
    rows, pitch = h + 2 * width, w + 2 * width + 1
    whole = torch.empty(n, rows, pitch, PACKED_CHANNELS, dtype=like.dtype, device=like.device)
    inside = whole[:, width : width + h, width : width + w]
    return PaddedGradient(whole.view(n * rows, pitch, PACKED_CHANNELS), rows, width, width, inside, whole)


def adjoint_layer(conv: Convolution, dtype: torch.dtype) -> Layer:
    """The layer that makes the gradient by the convolution's input."""
    if conv.kind == "down":
        return up_layer(conv.weight, dtype)
    if conv.kind == "up":
        return conv_layer("down", conv.weight, dtype, stride=2)
    mirrored = conv.weight.detach().transpose(0, 1).flip(2, 3)
    return stem_layer(mirrored, dtype) if conv.kind == "head" else conv_layer(conv.kind, mirrored, dtype)


def trunk_adjoints(weights: list[Tensor], dtype: torch.dtype) -> list[Layer]:
    """The adjoints of `trunk_layers`, packed in one launch."""
    if not weights:
        return []
    layers = torch.cat(weights).detach().to(dtype).unflatten(0, (len(weights), -1))  # [layers, cout, c, kh, kw]
    mirrored = layers.permute(0, 2, 3, 4, 1).flip(2, 3).contiguous()  # [layers, c, kh, kw, cout]
    return [conv_layer("trunk", rows.permute(0, 3, 1, 2), dtype) for rows in mirrored]


def fold_reflected_border(whole: Tensor, width: int) -> Tensor:
    """The inside of a gradient `whole` [n, c, h + 2 width, w + 2 width] whose border is a reflected one.

    What the border received is added, in place, to the pixels that it mirrors.
    """
    for axis in (2, 3):  # rows, then columns
        side = whole.shape[axis]
        whole.narrow(axis, width + 1, width).add_(whole.narrow(axis, 0, width).flip(axis))
        whole.narrow(axis, side - 2 * width - 1, width).add_(whole.narrow(axis, side - width, width).flip(axis))
        whole = whole.narrow(axis, width, side - 2 * width)
    return whole


def input_gradient(
    conv: Convolution,
    x: Tensor,
    dy: PaddedGradient,
    *,
    config: ConvConfig | None,
    tf32: bool = False,
    adjoint: Layer | None = None,
) -> Tensor:
    """The gradient by x, whole with its border [n, ., ., c] where that is reflected, else by its inside alone.

    x is a whole bordered picture, dy the gradient of the convolution's output. Pixels of a row are side by side.
    Without a `config` cuDNN makes it. `adjoint` is `adjoint_layer`, where the caller has it packed already.
    """
    if config is None:
        whole = _library_gradients(conv, x, dy.inside, (True, False))[0].permute(0, 2, 3, 1).contiguous()
        if conv.reads_reflected_border or conv.kind == "up":
            return whole
        return whole[:, conv.halo : whole.shape[1] - conv.halo, conv.halo : whole.shape[2] - conv.halo]
    gradient, _ = _input_gradient_memory(conv, x)
    launch_conv(adjoint or adjoint_layer(conv, x.dtype), dy.whole, gradient, config=config, tf32=tf32)
    return gradient


def activation_gradient(
    conv: Convolution,
    x: Tensor,
    dy: PaddedGradient,
    *,
    config: ConvConfig,
    tf32: bool = False,
    dropout_scale: float = 1.0,
    adjoint: Layer | None = None,
) -> tuple[Tensor, Tensor]:
    """`input_gradient` by our kernel, and the sums that `norm_act_reduce` would take of it, fp32 [n, 2, c].

    x is relu(xhat) times `dropout_scale`, or 0 where dropout dropped it, and has no other gradient.
    """
    gradient, activations = _input_gradient_memory(conv, x)
    layer = adjoint or adjoint_layer(conv, x.dtype)
    total = tile_total(layer, gradient, config)
    partials = torch.empty(x.shape[0], total, 2, x.shape[3], dtype=torch.float32, device=x.device)
    launch_conv(layer, dy.whole, gradient, gate=Gate(activations, partials, dropout_scale), config=config, tf32=tf32)
    return gradient, partials.sum(1)


def _input_gradient_memory(conv: Convolution, x: Tensor) -> tuple[Tensor, Tensor]:
    """Memory for the gradient by x, or by its inside, and that part of x: both are laid out alike."""
    h, w = x.shape[1:3]
    halo = conv.halo
    gradient = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if conv.reads_reflected_border:
        return gradient, x
    return gradient[:, : h - 2 * halo, : w - 2 * halo], x[:, halo : h - halo, halo : w - halo]


def weight_gradient(
    conv: Convolution, x: Tensor, dy: PaddedGradient, *, config: ConvConfig | None, tf32: bool = False
) -> Tensor:
    """The gradient by the weight, in its shape: fp32, or x's type from cuDNN. See `input_gradient`."""
    weight = conv.weight
    if config is None:
        return _library_gradients(conv, x, dy.inside, (False, True))[1]
    size = weight.shape[2]
    if conv.kind == "stem":
        runs = _products(x, dy.inside, math.prod(PACKED_TAP), (size, 1), 1, config, tf32)  # [cout, size, 1, 32]
        return runs.unflatten(3, PACKED_TAP)[:, :, 0, :size, : weight.shape[1]].permute(0, 3, 1, 2)
    if conv.kind == "head":  # products of the gradient's runs with x: its taps are mirrored
        read = x if conv.border == "reflect" else x[:, conv.halo : -conv.halo, conv.halo : -conv.halo]
        runs = _products(dy.whole, read, math.prod(PACKED_TAP), (size, 1), 1, config, tf32)  # [c, size, 1, 32]
        return runs.unflatten(3, PACKED_TAP)[:, :, 0, :size, : weight.shape[0]].flip(1, 2).permute(3, 0, 1, 2)
    if conv.kind == "up":
        products = _products(dy.whole, x[:, 1:-1, 1:-1], weight.shape[1], (size, size), 2, config, tf32)
    else:
        stride = 1 if conv.kind == "trunk" else 2
        products = _products(x, dy.inside, weight.shape[1], (size, size), stride, config, tf32)
    return products.permute(0, 3, 1, 2)


def _products(
    x: Tensor, dy: Tensor, c: int, taps: tuple[int, int], stride: int, config: ConvConfig, tf32: bool
) -> Tensor:
    """sum over y, x of dy[y, x, k] x[y stride + i, x stride + j, c]: fp32 [k, taps_y, taps_x, c]."""
    from deblurgan.kernels.conv_wgrad import conv_wgrad, split_count

    splits, k = split_count(dy, c, taps, config), dy.shape[3]
    partials = torch.empty(splits, k, taps[0] * taps[1] * c, dtype=torch.float32, device=dy.device)
    conv_wgrad(x, dy, partials, taps=taps, stride=stride, config=config, tf32=tf32)
    return partials.sum(0).view(k, *taps, c)


def _library_gradients(conv: Convolution, x: Tensor, dy: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
    """cuDNN's gradients by x and by the weight, as far as `wanted`, both [n, c, h, w]."""
    kind, weight = conv.kind, conv.weight
    transposed = kind == "up"
    k, c, size = weight.shape[:3]
    rows = x.new_empty(k, size, size, x.shape[3] if kind == "stem" else c).permute(0, 3, 1, 2)  # its shape is enough
    if wanted[0]:
        rows = library_weight(weight, x.dtype)
    source = x[:, 1:-1, 1:-1] if transposed else x[:, :, :-1] if kind == "stem" else x
    stride, padding = 2 if kind in ("down", "up") else 1, 1 if transposed else 0
    dx, dw, _ = torch.ops.aten.convolution_backward(
        dy.permute(0, 3, 1, 2)[:, : k if kind == "head" else None],
        source.permute(0, 3, 1, 2),
        rows,
        None,
        [stride, stride],
        [padding, padding],
        [1, 1],
        transposed,
        [padding, padding],
        1,
        [*wanted, False],
    )
    return dx, dw[:, :c] if wanted[1] else dw
