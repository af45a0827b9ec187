"""The fast generator: weights packed once, one workspace a shape, CUDA graphs for shapes that come again.

Activations lie as [n, h + 2b, w + 2b, c] with their border written out. A convolution stores its raw result and the
statistics of its tiles (kernels/conv_stats.py); one pass then normalises, activates, adds the residual and writes the
border that the next layer reads (kernels/norm_act.py). Each convolution runs in our kernel where `table` has a row for
this GPU and layer, in cuDNN elsewhere. Inference only: nothing here has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from deblurgan import reference
from deblurgan.kernels.table import Choose, from_table

# The two lines of each axis that a phase of a transposed convolution reads, as rows or columns of its 3x3 weight
PHASE_TAPS = ((1,), (2, 0))


class Spec(Protocol):
    """Of a generator: see nn.GeneratorSpec."""

    @property
    def width(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def convs(self) -> int: ...
    @property
    def border(self) -> reference.Border: ...


class Bordered(NamedTuple):
    """A picture within its border: `whole` [n, h + 2b, w + 2b, c] and `inside` [n, h, w, c] of it."""

    whole: Tensor
    inside: Tensor


@dataclass(frozen=True)
class Layer:
    """A convolution's weights, packed for our kernel and for cuDNN."""

    name: str
    kind: str  # "stem", "down", "trunk" or "up": rows of the table
    packed: tuple[Tensor, ...]  # [cout, taps_y * taps_x * c], one, or one a phase
    taps: tuple[tuple[int, int], ...]
    library: Tensor
    reduction: int  # of the output's sides against the picture's
    stride: int = 1


class Workspace:
    """The memory of one shape: activations that are never alive together share theirs."""

    def __init__(self, spec: Spec, n: int, h: int, w: int, dtype: torch.dtype, device: torch.device) -> None:
        width = spec.width
        shapes = {
            "packed": (n, h + 6, w + 7, 8),
            "half": (n, h // 2 + 2, w // 2 + 2, 2 * width),
            "stem": (n, h + 2, w + 2, width),
            "trunk": (3, n, h // 4 + 2, w // 4 + 2, 4 * width),
            "head": (n, h + 6, w + 6, width),
        }
        sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
        low = torch.empty(max(sizes["packed"], sizes["half"]), dtype=dtype, device=device)
        high = torch.empty(max(sizes["stem"], sizes["trunk"], sizes["head"]), dtype=dtype, device=device)
        place = {"packed": low, "half": low, "stem": high, "trunk": high, "head": high}
        views = {name: place[name][: sizes[name]].view(shape) for name, shape in shapes.items()}
        self.packed = views["packed"]
        self.stem, self.half, self.head = (
            _bordered(views[name], b) for name, b in (("stem", 1), ("half", 1), ("head", 3))
        )
        self.trunk = [_bordered(whole, 1) for whole in views["trunk"]]
        self.bytes = (low.numel() + high.numel()) * low.element_size()


def _bordered(whole: Tensor, border: int) -> Bordered:
    return Bordered(whole, whole[:, border:-border, border:-border])


class Engine:
    """`engine(image)` is what the generator of `spec` and `state` gives, in `dtype` arithmetic with fp32 statistics.

    image [n, 3, h, w], floats in [-1, 1] or uint8, h and w multiples of 4 and at least 8; the result has its type.
    """

    def __init__(
        self,
        spec: Spec,
        state: Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        choose: Choose | None = None,
        tf32: bool = False,
    ) -> None:
        self.spec, self.dtype, self.tf32 = spec, dtype, tf32
        self.choose = choose or from_table(torch.cuda.get_device_name(state["head.weight"].device))
        self.layers = _packed_layers(spec, state, dtype)
        self.head_weight, self.head_bias = _packed_head(state, dtype)
        self._shape: tuple[int, int, int] | None = None
        self._graphs: dict[Any, Graph | None] = {}

    def workspace(self, n: int, h: int, w: int) -> Workspace:
        """The memory for pictures [n, 3, h, w]; that of the last shape is kept."""
        if self._shape != (n, h, w):
            self._graphs.clear()
            self._shape = n, h, w
            self._workspace = Workspace(self.spec, n, h, w, self.dtype, self.head_weight.device)
        return self._workspace

    def paths(self, n: int, h: int, w: int) -> dict[str, str]:
        """Which way each layer takes for pictures of this shape."""
        found = {}
        for name, layer in self.layers.items():
            config = self.choose(layer.kind, n * h * w // layer.reduction**2, self.dtype)
            found[name] = f"Triton {config}" if config else "cuDNN: the table has no row for it here"
        return {**found, "head": "Triton"}

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        n, _, h, w = image.shape
        self.workspace(n, h, w)
        if not image.is_cuda or torch.cuda.is_current_stream_capturing():
            return self.run(image)
        key = image.dtype, image.stride()
        if key not in self._graphs:  # the first call compiles kernels, which no capture allows
            self._graphs[key] = None
            return self.run(image)
        graph = self._graphs[key]
        if graph is None:
            graph = self._graphs[key] = Graph(self.run, image)
        return graph(image)

    def run(self, image: Tensor) -> Tensor:
        """The layers one after another."""
        from deblurgan.kernels.output_tail import output_tail
        from deblurgan.kernels.pack_image import pack_image

        spec, (n, _, h, w) = self.spec, image.shape
        space = self.workspace(n, h, w)
        pack_image(image, space.packed, border=spec.border, width=3)
        self._layer("stem", space.packed, space.stem, border="zero")
        self._layer("down.0", space.stem.whole, space.half, border="zero")
        x, *free = space.trunk
        self._layer("down.1", space.half.whole, x, border=spec.border if spec.blocks else "zero")
        for i in range(spec.blocks):
            border = "zero" if i == spec.blocks - 1 else spec.border  # the transposed convolutions pad with zeros
            y = free.pop()
            self._layer(
                f"blocks.{i}.conv1",
                x.whole,
                y,
                border=spec.border if spec.convs == 2 else border,
                residual=None if spec.convs == 2 else x,
            )
            if spec.convs == 2:
                z = free.pop()
                self._layer(f"blocks.{i}.conv2", y.whole, z, relu=False, border=border, residual=x)
                free.append(y)
                y = z
            free.append(x)
            x = y
        self._layer("up.0", x.whole, space.half, border="zero")
        self._layer("up.1", space.half.whole, space.head, border=spec.border)
        out = torch.empty_like(image)
        config = self.choose("head", n * h * w, self.dtype)
        output_tail(
            space.head.whole, self.head_weight, self.head_bias, image, out, taps=7, config=config, tf32=self.tf32
        )
        return out

    def _layer(
        self,
        name: str,
        x: Tensor,
        out: Bordered,
        *,
        border: reference.Border,
        relu: bool = True,
        residual: Bordered | None = None,
    ) -> None:
        from deblurgan.kernels.merge_stats import merge_stats
        from deblurgan.kernels.norm_act import norm_act

        layer = self.layers[name]
        n, h, w, c = out.inside.shape
        config = self.choose(layer.kind, n * h * w, self.dtype)
        y, partials, counts = self._ours(layer, x, out.inside, config) if config else _cudnn(layer, x, out.inside)
        stats = torch.empty(n, 2, c, device=x.device)
        merge_stats(partials, counts, stats, eps=reference.EPS)
        norm_act(
            y,
            stats,
            out.inside,
            relu=relu,
            residual=residual.inside if residual else None,
            border=border,
            width=(out.whole.shape[1] - h) // 2,
        )

    def _ours(self, layer: Layer, x: Tensor, y: Tensor, config: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Our convolution into y's memory: y and the statistics of its tiles."""
        from deblurgan.kernels.conv_stats import conv_stats, tile_count

        parts = [y] if len(layer.taps) == 1 else [y[:, u::2, v::2] for u in (0, 1) for v in (0, 1)]
        source = x if len(layer.taps) == 1 else x[:, 1:, 1:]
        tiles = tile_count(*parts[0].shape[1:3], config)
        partials, counts = _partials(y, tiles * len(parts))
        for i, (part, packed, taps) in enumerate(zip(parts, layer.packed, layer.taps, strict=True)):
            conv_stats(
                source,
                packed,
                part,
                partials,
                counts,
                taps=taps,
                stride=layer.stride,
                first_tile=i * tiles,
                config=config,
                tf32=self.tf32,
            )
        return y, partials, counts


class Graph:
    """A captured call: the same launches again without their cost on the CPU."""

    def __init__(self, run: Callable[[Tensor], Tensor], image: Tensor) -> None:
        self.image = image.clone(memory_format=torch.preserve_format)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = run(self.image)

    def __call__(self, image: Tensor) -> Tensor:
        self.image.copy_(image)
        self.graph.replay()
        return self.out.clone(memory_format=torch.preserve_format)


def _partials(y: Tensor, tiles: int) -> tuple[Tensor, Tensor]:
    return torch.empty(y.shape[0], tiles, 2, y.shape[3], device=y.device), torch.empty(tiles, device=y.device)


def _cudnn(layer: Layer, x: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The library's convolution of the bordered picture, read without a copy, and the statistics of its tiles."""
    from deblurgan.kernels.tile_stats import tile_count, tile_stats

    h, w = out.shape[1:3]
    if layer.kind == "up":
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


def _packed_layers(spec: Spec, state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Layer]:
    trunk = [f"blocks.{i}.conv{j}" for i in range(spec.blocks) for j in range(1, spec.convs + 1)]
    layers = [
        _stem(state["stem.weight"], dtype),
        _plain("down.0", "down", state, dtype, reduction=2, stride=2),
        _plain("down.1", "down", state, dtype, reduction=4, stride=2),
        *(_plain(name, "trunk", state, dtype, reduction=4) for name in trunk),
        _up("up.0", state, dtype, reduction=2),
        _up("up.1", state, dtype, reduction=1),
    ]
    return {layer.name: layer for layer in layers}


def _library(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)


def _packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """[cout, c, kh, kw] as [cout, kh * kw * c]."""
    return weight.detach().permute(0, 2, 3, 1).reshape(weight.shape[0], -1).to(dtype).contiguous()


def _plain(
    name: str, kind: str, state: Mapping[str, Tensor], dtype: torch.dtype, *, reduction: int, stride: int = 1
) -> Layer:
    weight = state[f"{name}.weight"]
    taps = (weight.shape[2], weight.shape[3])
    return Layer(name, kind, (_packed(weight, dtype),), (taps,), _library(weight, dtype), reduction, stride)


def _stem(weight: Tensor, dtype: torch.dtype) -> Layer:
    """Each of the seven rows as one tap of eight pixels of eight channels; what the picture lacks weighs nothing."""
    weight = weight.detach()
    run = F.pad(weight, (0, 1, 0, 0, 0, 8 - weight.shape[1]))  # [cout, 8, 7, 8]
    padded = F.pad(weight, (0, 0, 0, 0, 0, 8 - weight.shape[1]))
    return Layer("stem", "stem", (_packed(run, dtype),), ((7, 1),), _library(padded, dtype), 1)


def _up(name: str, state: Mapping[str, Tensor], dtype: torch.dtype, *, reduction: int) -> Layer:
    """Output pixel (2a + u, 2b + v) of a transposed convolution is phase (u, v): at most four taps from (a, b) on."""
    weight = state[f"{name}.weight"].detach()  # [c, cout, 3, 3]
    phases = [weight[:, :, PHASE_TAPS[u]][:, :, :, PHASE_TAPS[v]] for u in (0, 1) for v in (0, 1)]
    packed = tuple(_packed(phase.transpose(0, 1), dtype) for phase in phases)
    taps = tuple((phase.shape[2], phase.shape[3]) for phase in phases)
    return Layer(name, "up", packed, taps, _library(weight, dtype), reduction)


def _packed_head(state: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The last convolution's weight and bias with zero rows up to 16, the least a tensor core takes."""
    weight, bias = state["head.weight"].detach(), state["head.bias"].detach()
    rows = 16 - weight.shape[0]
    return F.pad(_packed(weight, dtype), (0, 0, 0, rows)), F.pad(bias.float(), (0, rows))
