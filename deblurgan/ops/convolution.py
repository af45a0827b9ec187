"""A convolution with the statistics of its result, and its gradients, by our kernel or by cuDNN.

Pictures are bordered, channels last. What both ways need is packed once, in a `Layer`. The gradient of what a layer
read is another layer, its adjoint, of the gradient of what it made, amid zeros; that of its weight is a sum of products
over all pixels. Nothing here is known to autograd.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deblurgan import reference
from deblurgan.kernels.table import Choose

# The lines of each axis that a phase of a transposed convolution reads, of its mirrored 3x3 weight
PHASE_TAPS = (slice(1, 2), slice(None, None, 2))
HEAD = 3  # pixels of border that the generator's last convolution reads


EIGHT_BIT_TYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}


class EightBit(NamedTuple):
    """A convolution's weights in 8 bits, a scale for each output channel."""

    packed: Tensor  # int8 or float8_e4m3fn [cout, taps_y * taps_x * c]
    scales: Tensor  # fp32 [cout], what a step of the input times a step of the weight stands for
    offsets: Tensor | None  # of int8: int32 [cout], what the products lack where the input's zero is not 0


@dataclass(frozen=True)
class Layer:
    """A convolution's weights, packed for our kernel and for cuDNN."""

    kind: str  # "stem", "down", "trunk", "up" or "head": the kernels' table goes by it
    packed: Tensor  # [cout, taps * c], those of the phases one after another
    taps: tuple[tuple[int, int], ...]  # of its one phase, or of four
    library: Tensor
    stride: int = 1
    eighth: EightBit | None = None

    @property
    def transposed(self) -> bool:
        return len(self.taps) > 1

    @property
    def channels(self) -> tuple[int, int]:
        """Of what the kernel reads, and of what it makes."""
        cout, products = self.packed.shape
        return products // sum(rows * columns for rows, columns in self.taps), cout


def packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """[cout, c, kh, kw] as [cout, kh * kw * c]."""
    return weight.detach().to(dtype, memory_format=torch.channels_last).permute(0, 2, 3, 1).flatten(1)


def _library(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.detach().to(dtype, memory_format=torch.channels_last)


def plain(kind: str, weight: Tensor, dtype: torch.dtype, *, stride: int = 1) -> Layer:
    """The layer of weight [cout, c, kh, kw]."""
    taps = (weight.shape[2], weight.shape[3])
    library = _library(weight, dtype)
    return Layer(kind, packed(library, dtype), (taps,), library, stride)  # one memory


def trunk_layers(weights: list[Tensor], dtype: torch.dtype) -> list[Layer]:
    """The trunk's layers of weights [cout, c, kh, kw], all of one shape, packed together."""
    if not weights:
        return []
    return [plain("trunk", part, dtype) for part in _library(torch.cat(weights), dtype).chunk(len(weights))]


def eight_bit(weight: Tensor, step: float, *, zero: int = 0, dtype: torch.dtype = torch.int8) -> EightBit:
    """weight [cout, c, kh, kw] for inputs in steps of `step`, in int8 with 0 at `zero`."""
    rows = packed(weight, torch.float32)
    whole = dtype == torch.int8
    scale = rows.abs().amax(1).clamp(min=1e-30) / (127 if whole else torch.finfo(dtype).max)
    levels = rows / scale[:, None]
    if not whole:
        return EightBit(levels.to(dtype), scale * step, None)
    levels = levels.round()
    return EightBit(levels.to(dtype), scale * step, (-zero * levels.sum(1)).to(torch.int32))


def stem(weight: Tensor, dtype: torch.dtype) -> Layer:
    """The layer of weight [cout, c <= 8, 7, 7] on `pack_image`'s pictures of eight channels.

    Each row is one tap of eight pixels; what the picture lacks weighs nothing.
    """
    runs = torch.zeros(weight.shape[0], 7, 8, 8, dtype=dtype, device=weight.device)
    runs[:, :, :7, : weight.shape[1]] = weight.detach().permute(0, 2, 3, 1)
    library = runs[:, :, :7].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    return Layer("stem", runs.flatten(1), ((7, 1),), library)


def up(weight: Tensor, dtype: torch.dtype) -> Layer:
    """The transposed layer of weight [c, cout, 3, 3], stride 2.

    Output pixel (2a + u, 2b + v) belongs to phase (u, v), a convolution of at most four taps from (a, b) on.
    """
    library = _library(weight, dtype)
    mirrored = library.permute(1, 2, 3, 0).contiguous().flip(1, 2)  # [cout, 3, 3, c]
    phases = [mirrored[:, PHASE_TAPS[u], PHASE_TAPS[v]] for u in (0, 1) for v in (0, 1)]
    taps = tuple((phase.shape[1], phase.shape[2]) for phase in phases)
    return Layer("up", torch.cat([phase.flatten(1) for phase in phases], 1), taps, library)


def fitting(layer: Layer, config: Any | None) -> Any | None:
    """The configuration if the layer's channels fill its blocks, which "tma" needs; else None, which means cuDNN."""
    if config is None or config.form != "tma":
        return config
    c, cout = layer.channels
    return config if c % config.block_k == 0 and cout % config.block_n == 0 else None


def conv_stats(
    layer: Layer, x: Tensor, out: Tensor, *, config: Any | None, tf32: bool = False
) -> tuple[Tensor, Tensor]:
    """The layer's result y [n, h, w, c] and its planes' mean and 1 / std, fp32 [n, 2, c].

    See `conv_tiles`, whose partial results are merged.
    """
    y, partials, counts = conv_tiles(layer, x, out, config=config, tf32=tf32)
    return y, merged(partials, counts)


def merged(partials: Tensor, counts: Tensor) -> Tensor:
    """The planes' mean and 1 / std, fp32 [n, 2, c], from the statistics of their tiles."""
    from deblurgan.kernels.merge_stats import merge_stats

    stats = torch.empty(partials.shape[0], 2, partials.shape[3], device=partials.device)
    merge_stats(partials, counts, stats, eps=reference.EPS)
    return stats


def conv_tiles(
    layer: Layer, x: Tensor, out: Tensor, *, config: Any | None, tf32: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The layer's result y [n, h, w, c] and the statistics of its tiles: partials [n, tiles, 2, c], counts [tiles].

    x is a whole bordered picture [n, ., ., c], in 8 bits for the layer's 8-bit weights. With a `config` our kernel
    writes y into `out`; without, cuDNN makes y, reading x where it lies.
    """
    config = fitting(layer, config)
    if x.element_size() == 1:
        return _eight_bit(layer, x, out, config)
    if config:
        return _ours(layer, x, out, config, tf32)
    return _cudnn(layer, x, out)


def _ours(layer: Layer, x: Tensor, y: Tensor, config: Any, tf32: bool) -> tuple[Tensor, Tensor, Tensor]:
    partials, counts = _partials(y, _tiles(layer, y, config))
    _launch(layer, x, y, config, tf32, partials, counts)
    return y, partials, counts


def _tiles(layer: Layer, y: Tensor, config: Any) -> int:
    """Into how many our kernel cuts a picture of y [n, h, w, c]."""
    from deblurgan.kernels.conv_stats import tile_count

    h, w, c = y.shape[1:]
    if layer.transposed:
        return len(layer.taps) * tile_count(h // 2, w // 2, config)
    return tile_count(h, w, config, pitch=y.stride(1) // c)


def _launch(
    layer: Layer,
    x: Tensor,
    y: Tensor,
    config: Any,
    tf32: bool,
    partials: Tensor | None = None,
    counts: Tensor | None = None,
    **gated: Any,
) -> None:
    """Our kernel; without partials and counts no statistics."""
    from deblurgan.kernels.conv_stats import conv_stats, up_conv_stats

    options = {"config": config, "tf32": tf32, **gated}
    if layer.transposed:
        up_conv_stats(x[:, 1:, 1:], layer.packed, y, partials, counts, **options)
        return
    conv_stats(x, layer.packed, y, partials, counts, taps=layer.taps[0], stride=layer.stride, **options)


def _eight_bit(layer: Layer, x: Tensor, y: Tensor, config: Any) -> tuple[Tensor, Tensor, Tensor]:
    from deblurgan.kernels.conv_stats import conv_stats, tile_count

    if layer.eighth is None or config is None:
        raise ValueError(
            f"x must not be {x.dtype}: this {layer.kind} layer has no 8-bit weights, or channels that do not fit"
        )
    weight, scales, offsets = layer.eighth
    partials, counts = _partials(y, tile_count(y.shape[1], y.shape[2], config))
    conv_stats(x, weight, y, partials, counts, taps=layer.taps[0], config=config, scales=scales, offsets=offsets)
    return y, partials, counts


def _cudnn(layer: Layer, x: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from deblurgan.kernels.tile_stats import tile_count, tile_stats

    h, w = out.shape[1:3]
    if layer.transposed:
        inside = x[:, 1:-1, 1:-1].permute(0, 3, 1, 2)
        y = F.conv_transpose2d(inside, layer.library, stride=2, padding=1, output_padding=1)
    else:
        y = F.conv2d(x.permute(0, 3, 1, 2), layer.library, stride=layer.stride)
    y = y.permute(0, 2, 3, 1)[:, :h, :w]  # the stem's last column is not the picture's
    if y.stride(3) != 1 or y.stride(2) != y.shape[3]:
        y = y.contiguous()
    partials, counts = _partials(y, tile_count(h, w))
    tile_stats(y, partials, counts)
    return y, partials, counts


def _partials(y: Tensor, tiles: int) -> tuple[Tensor, Tensor]:
    return torch.empty(y.shape[0], tiles, 2, y.shape[3], device=y.device), torch.empty(tiles, device=y.device)


class AmidZeros(NamedTuple):
    """The gradient of what a layer made, with the zeros around it that the layer's gradients read."""

    memory: Tensor  # [n * rows + spare, pitch, c]
    rows: int  # a picture
    top: int  # where its pixel (0, 0) lies
    left: int
    inside: Tensor  # [n, h, w, c]
    whole: Tensor  # [n, h + 2 border, w + 2 border, c]


def amid_zeros(
    n: int, h: int, w: int, c: int, *, border: int, shared: bool = False, dtype: torch.dtype, device: torch.device
) -> AmidZeros:
    """Memory for a gradient [n, h, w, c] within a border of zeros.

    When `shared` a row's right border is the next one's left, and a picture's lower border the next one's upper, so
    that the gradient of a reflected picture lies as that picture does in its own border of half the width.
    """
    rows, pitch = (side + border * (1 if shared else 2) for side in (h, w))
    spare = border + 1 if shared else 0
    memory = torch.empty(n * rows + spare, pitch, c, dtype=dtype, device=device)
    strides = (rows * pitch * c, pitch * c, c, 1)
    whole = memory.as_strided((n, h + 2 * border, w + 2 * border, c), strides)
    inside = memory.as_strided((n, h, w, c), strides, (border * pitch + border) * c)
    return AmidZeros(memory, rows, border, border, inside, whole)


def fitting_gradients(weight: Tensor, dgrad: Any | None, wgrad: Any | None) -> tuple[Any | None, Any | None]:
    """The configurations of the gradients of x and `weight`, None in place of those whose blocks its channels lack."""
    cout, c = weight.shape[:2]
    if dgrad and dgrad.form == "tma" and (cout % dgrad.block_k or c % dgrad.block_n):
        dgrad = None
    if wgrad and wgrad.form == "tma" and (cout % wgrad.block_m or c % wgrad.block_n):
        wgrad = None
    return dgrad, wgrad


def gradient_configs(choose: Choose, kind: str, weight: Tensor, y: Tensor) -> tuple[Any | None, Any | None]:
    """How the gradients of x and `weight` run where a layer of this kind made y [n, h, w, c]: as chosen, if it fits."""
    pixels = y.shape[0] * y.shape[1] * y.shape[2]
    found = (choose(f"{kind}.{which}", pixels, y.dtype) for which in ("dgrad", "wgrad"))
    return fitting_gradients(weight, *found)


def zeros_for(
    kind: str, border: reference.Border, *, dgrad: Any | None, wgrad: Any | None, shape: torch.Size, like: Tensor
) -> AmidZeros:
    """Memory for the gradient, `shape` [n, h, w, c], of what a layer of this kind made of a picture so bordered.

    `dgrad` and `wgrad` are the configurations of its gradients; cuDNN, which both are without, wants no zeros.
    """
    n, h, w, c = shape
    reflected = kind == "trunk" and border == "reflect"
    width = 0 if dgrad is None and wgrad is None else 2 if reflected else 1
    return amid_zeros(n, h, w, c, border=width, shared=reflected and width > 0, dtype=like.dtype, device=like.device)


def head_zeros(n: int, h: int, w: int, *, border: reference.Border, like: Tensor) -> AmidZeros:
    """Memory for the gradient of what the last convolution made of a picture so bordered, in eight channels."""
    width = 2 * HEAD if border == "reflect" else HEAD
    rows, pitch = h + 2 * width, w + 2 * width + 1
    whole = torch.empty(n, rows, pitch, 8, dtype=like.dtype, device=like.device)
    inside = whole[:, width : width + h, width : width + w]
    return AmidZeros(whole.view(n * rows, pitch, 8), rows, width, width, inside, whole)


def adjoint(kind: str, weight: Tensor, dtype: torch.dtype) -> Layer:
    """The layer that makes the gradient of what a layer of this kind, with this weight, read."""
    if kind == "down":
        return up(weight, dtype)
    if kind == "up":
        return plain("down", weight, dtype, stride=2)
    mirrored = weight.detach().transpose(0, 1).flip(2, 3)
    return stem(mirrored, dtype) if kind == "head" else plain(kind, mirrored, dtype)


def trunk_adjoints(weights: list[Tensor], dtype: torch.dtype) -> list[Layer]:
    """The adjoints of `trunk_layers`, packed together."""
    if not weights:
        return []
    layers = torch.cat(weights).detach().to(dtype).unflatten(0, (len(weights), -1))  # [layers, cout, c, kh, kw]
    mirrored = layers.permute(0, 2, 3, 4, 1).flip(2, 3).contiguous()  # [layers, c, kh, kw, cout]
    return [plain("trunk", rows.permute(0, 3, 1, 2), dtype) for rows in mirrored]


def has_reflected(kind: str, border: reference.Border) -> bool:
    """Whether a layer of this kind reads a reflected border, which then receives a gradient."""
    return border == "reflect" and kind != "up"


def folded(whole: Tensor, width: int) -> Tensor:
    """The inside of `whole` [n, c, h + 2 width, w + 2 width], a gradient: what its border, a reflected one, received is
    added, in place, to the pixels that it mirrors."""
    for axis in (2, 3):  # rows, then columns
        side = whole.shape[axis]
        whole.narrow(axis, width + 1, width).add_(whole.narrow(axis, 0, width).flip(axis))
        whole.narrow(axis, side - 2 * width - 1, width).add_(whole.narrow(axis, side - width, width).flip(axis))
        whole = whole.narrow(axis, width, side - 2 * width)
    return whole


def data_gradient(
    kind: str,
    weight: Tensor,
    x: Tensor,
    dy: AmidZeros,
    *,
    border: reference.Border,
    config: Any | None,
    tf32: bool,
    layer: Layer | None = None,
) -> Tensor:
    """The gradient of x, whole with its border [n, ., ., c] where that is reflected, else of its inside alone.

    x is a whole bordered picture, dy the gradient of what the layer of `kind` and `weight` made of it. Pixels of a row
    lie side by side. Without a `config` cuDNN makes it. `layer` is the adjoint, where it is packed already.
    """
    if config is None:
        edge = weight.shape[2] // 2
        whole = _library_gradients(kind, weight, x, dy.inside, (True, False))[0].permute(0, 2, 3, 1).contiguous()
        if has_reflected(kind, border) or kind == "up":
            return whole
        return whole[:, edge : whole.shape[1] - edge, edge : whole.shape[2] - edge]
    made, _ = _gradient_place(kind, x, border)
    _launch(layer or adjoint(kind, weight, x.dtype), dy.whole, made, config, tf32)
    return made


def activation_gradient(
    kind: str,
    weight: Tensor,
    x: Tensor,
    dy: AmidZeros,
    *,
    border: reference.Border,
    config: Any,
    tf32: bool,
    kept: float,
    layer: Layer | None = None,
) -> tuple[Tensor, Tensor]:
    """`data_gradient` by our kernel, and the sums that `norm_act_reduce` would take of it, fp32 [n, 2, c].

    x is relu(xhat), times `kept` where dropout kept it and 0 elsewhere, and has no other gradient.
    """
    made, gate = _gradient_place(kind, x, border)
    layer = layer or adjoint(kind, weight, x.dtype)
    partials = torch.empty(made.shape[0], _tiles(layer, made, config), 2, made.shape[3], device=x.device)
    _launch(layer, dy.whole, made, config, tf32, partials, gate=gate, kept=kept)
    return made, partials.sum(1)


def _gradient_place(kind: str, x: Tensor, border: reference.Border) -> tuple[Tensor, Tensor]:
    """Memory for the gradient of x, as far as it is wanted, and x itself so far: they lie alike."""
    edge = HEAD if kind == "head" else 1
    h, w = x.shape[1:3]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if has_reflected(kind, border):
        return out, x
    return out[:, : h - 2 * edge, : w - 2 * edge], x[:, edge : h - edge, edge : w - edge]


def weight_gradient(kind: str, weight: Tensor, x: Tensor, dy: AmidZeros, *, config: Any | None, tf32: bool) -> Tensor:
    """The gradient of `weight`, in its shape: fp32, or x's type from cuDNN. See `data_gradient`."""
    if config is None:
        return _library_gradients(kind, weight, x, dy.inside, (False, True))[1]
    if kind == "stem":
        runs = _products(x, dy.inside, 64, (7, 1), 1, config, tf32).unflatten(3, (8, 8))[:, :, 0]  # [k, 7, 8, 8]
        return runs[:, :, :7, : weight.shape[1]].permute(0, 3, 1, 2)
    if kind == "head":  # products of the gradient's runs with x: its taps are mirrored
        read = x if dy.top == 2 * HEAD else x[:, HEAD:-HEAD, HEAD:-HEAD]  # a reflected border counts
        runs = _products(dy.whole, read, 64, (7, 1), 1, config, tf32).unflatten(3, (8, 8))[:, :, 0]  # [c, 7, 8, 8]
        return runs[:, :, :7, : weight.shape[0]].flip(1, 2).permute(3, 0, 1, 2)
    taps, stride = (weight.shape[2], weight.shape[3]), 1 if kind == "trunk" else 2
    if kind == "up":
        products = _products(dy.whole, x[:, 1:-1, 1:-1], weight.shape[1], taps, stride, config, tf32)
    else:
        products = _products(x, dy.inside, weight.shape[1], taps, stride, config, tf32)
    return products.permute(0, 3, 1, 2)


def _products(x: Tensor, dy: Tensor, c: int, taps: tuple[int, int], stride: int, config: Any, tf32: bool) -> Tensor:
    """sum over y, x of dy[y, x, k] x[y stride + i, x stride + j, c]: fp32 [k, taps_y, taps_x, c]."""
    from deblurgan.kernels.conv_wgrad import conv_wgrad, split_count

    splits, k = split_count(dy, c, taps, config), dy.shape[3]
    partials = torch.empty(splits, k, taps[0] * taps[1] * c, device=dy.device)
    conv_wgrad(x, dy, partials, taps=taps, stride=stride, config=config, tf32=tf32)
    return partials.sum(0).view(k, *taps, c)


def _library_gradients(
    kind: str, weight: Tensor, x: Tensor, dy: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """cuDNN's gradients of x and of the weight, as far as `wanted`, both [n, c, h, w]."""
    transposed = kind == "up"
    k, c, size = weight.shape[:3]
    rows = x.new_empty(k, size, size, x.shape[3] if kind == "stem" else c).permute(0, 3, 1, 2)  # its shape is enough
    if wanted[0]:
        rows = _library(weight, x.dtype)
    source = x[:, 1:-1, 1:-1] if transposed else x[:, :, :-1] if kind == "stem" else x
    stride, padding = 2 if kind in ("down", "up") else 1, 1 if transposed else 0
    dx, dw, _ = torch.ops.aten.convolution_backward(
        dy.permute(0, 3, 1, 2)[:, : weight.shape[0] if kind == "head" else None],
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
    return dx, dw[:, : weight.shape[1]] if wanted[1] else dw
