"""The fast generator: weights packed once, one workspace a shape, CUDA graphs for shapes that come again.

Activations lie as [n, h + 2b, w + 2b, c] with their border written out. A convolution stores its raw result and the
statistics of its tiles (kernels/conv_stats.py); one pass then normalises, activates, adds the residual and writes the
border that the next layer reads (kernels/norm_act.py). Each convolution runs in our kernel where `table` has a row for
this GPU and layer, in cuDNN elsewhere. Inference only: nothing here has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from deblurgan import convolution, reference
from deblurgan.convolution import Layer
from deblurgan.kernels.table import Choose, from_table


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
        self.layers = _layers(spec, state, dtype)
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
        reduction = {"stem": 1, "down.0": 2, "up.0": 2, "up.1": 1}
        found = {}
        for name, layer in self.layers.items():
            config = self.choose(layer.kind, n * h * w // reduction.get(name, 4) ** 2, self.dtype)
            found[name] = f"Triton {config}" if config else "cuDNN: the table has no row for it here"
        return {**found, "head": f"Triton {self.choose('head', n * h * w, self.dtype)}"}

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
        from deblurgan.kernels.norm_act import norm_act

        layer = self.layers[name]
        n, h, w, _ = out.inside.shape
        config = self.choose(layer.kind, n * h * w, self.dtype)
        y, stats = convolution.conv_stats(layer, x, out.inside, config=config, tf32=self.tf32)
        norm_act(
            y,
            stats,
            out.inside,
            relu=relu,
            residual=residual.inside if residual else None,
            border=border,
            width=(out.whole.shape[1] - h) // 2,
        )


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


def _layers(spec: Spec, state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Layer]:
    trunk = [f"blocks.{i}.conv{j}" for i in range(spec.blocks) for j in range(1, spec.convs + 1)]
    layers = {"stem": convolution.stem(state["stem.weight"], dtype)}
    for name in ("down.0", "down.1"):
        layers[name] = convolution.plain("down", state[f"{name}.weight"], dtype, stride=2)
    for name in trunk:
        layers[name] = convolution.plain("trunk", state[f"{name}.weight"], dtype)
    for name in ("up.0", "up.1"):
        layers[name] = convolution.up(state[f"{name}.weight"], dtype)
    return layers


def _packed_head(state: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The last convolution's weight and bias with zero rows up to 16, the least a tensor core takes."""
    weight, bias = state["head.weight"].detach(), state["head.bias"].detach()
    rows = 16 - weight.shape[0]
    return F.pad(convolution.packed(weight, dtype), (0, 0, 0, rows)), F.pad(bias.float(), (0, rows))
