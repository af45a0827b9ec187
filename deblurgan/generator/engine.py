"""The fast generator: weights packed once, one workspace a shape, CUDA graphs for shapes that come again.

Activations lie as [n, h + 2b, w + 2b, c] with their border written out. A convolution stores its raw result and the
statistics of its tiles (kernels/conv_stats.py); one pass then normalises, activates, adds the residual and writes the
border that the next layer reads (kernels/norm_act.py). Each convolution runs in our kernel where `table` has a row for
this GPU and layer, in cuDNN elsewhere. Inference only: nothing here has a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from deblurgan import reference
from deblurgan.device import gpu_name
from deblurgan.generator.graphs import captured
from deblurgan.kernels.table import Choose, eight_bit_config, from_table
from deblurgan.ops import convolution
from deblurgan.ops.convolution import Layer


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
    @property
    def dropout(self) -> float: ...


Trunk = Literal["same", "int8", "fp8"]


class Reach(NamedTuple):
    """How many standard deviations an 8-bit type reaches, where values are cut off, and in how many steps.

    A normalised plane has unit variance by its making, and each block adds one to the residual stream's, so no
    calibration is needed. Relative error of the residual with the trunk alone in 8 bits: int8 0.06, fp8 0.16 with
    weights drawn from N(0, 0.02) at the paper's size; 0.08 and 0.016 with the shipped weights, whose planes have values
    far out. Either loses below 0.05 dB there.
    """

    normalised: float  # relu(instance_norm(.)), which has no values below 0
    stream: float
    normalised_steps: int
    stream_steps: int

    @property
    def zero(self) -> int:
        """Where int8 has the 0 of values that are never below it."""
        return self.stream_steps - self.normalised_steps

    def normalised_step(self) -> float:
        """What a step stands for in relu(instance_norm(.))."""
        return self.normalised / self.normalised_steps

    def stream_step(self, block: int) -> float:
        """What a step stands for in the residual stream before a block; its variance is about 1/2 + block."""
        return self.stream * math.sqrt(0.5 + block) / self.stream_steps


REACH = {"int8": Reach(7.0, 6.0, 254, 127), "fp8": Reach(16.0, 16.0, 448, 448)}


class Bordered(NamedTuple):
    """A picture within its border: `whole` [n, h + 2b, w + 2b, c] and `inside` [n, h, w, c] of it."""

    whole: Tensor
    inside: Tensor


class Workspace:
    """The memory of one shape: activations that are never alive together share theirs."""

    def __init__(
        self,
        spec: Spec,
        n: int,
        h: int,
        w: int,
        dtype: torch.dtype,
        device: torch.device,
        trunk: Trunk = "same",
    ) -> None:
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
        narrow = convolution.EIGHT_BIT_TYPES.get(trunk, torch.int8)
        eighth = torch.empty(0 if trunk == "same" else 2, *shapes["trunk"][1:], dtype=narrow, device=device)
        self.eighth = [_bordered(whole, 1) for whole in eighth]
        self.bytes = (low.numel() + high.numel()) * low.element_size() + eighth.numel()


def _bordered(whole: Tensor, border: int) -> Bordered:
    return Bordered(whole, whole[:, border:-border, border:-border])


class Engine:
    """`engine(image)` is what the generator of `spec` and `state` gives, in `dtype` arithmetic with fp32 statistics.

    image [n, 3, h, w], floats in [-1, 1] or uint8, h and w multiples of 4 and at least 8; the result has its type.
    Calls share one workspace: those on different CUDA streams must wait for one another.
    """

    def __init__(
        self,
        spec: Spec,
        state: Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        choose: Choose | None = None,
        trunk: Trunk = "same",
        tf32: bool = False,
    ) -> None:
        device = state["head.weight"].device
        if trunk != "same" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (9, 0):
            name = torch.cuda.get_device_name(device)
            raise ValueError(f'trunk must be "same" below compute capability 9.0, got "{trunk}" on {name}')
        self.spec, self.dtype, self.trunk, self.tf32 = spec, dtype, trunk, tf32
        self.choose = choose or from_table(gpu_name(device))
        self._eight_bit_config = None if trunk == "same" else eight_bit_config(4 * spec.width)
        self.layers = _layers(spec, state, dtype, trunk)
        self.head_weight, self.head_bias = state["head.weight"].detach(), state["head.bias"].detach().float()
        self._folded: dict[int, Tensor] = {}
        self._shape: tuple[int, int, int] | None = None
        self._graphs: dict[Any, Graph | None] = {}

    def workspace(self, n: int, h: int, w: int) -> Workspace:
        """The memory for pictures [n, 3, h, w]; that of the last shape is kept."""
        if self._shape != (n, h, w):
            self._graphs.clear()
            self._shape = n, h, w
            self._workspace = self._new_workspace(n, h, w)
        return self._workspace

    def _new_workspace(self, n: int, h: int, w: int) -> Workspace:
        return Workspace(self.spec, n, h, w, self.dtype, self.head_weight.device, self.trunk)

    def paths(self, n: int, h: int, w: int) -> dict[str, str]:
        """Which way each layer takes for pictures of this shape."""
        reduction = {"stem": 1, "down.0": 2, "up.0": 2, "up.1": 1}
        found = {}
        for name, layer in self.layers.items():
            config = self._config(layer, n * h * w // reduction.get(name, 4) ** 2)
            found[name] = f"Triton {config}" if config else "cuDNN: the table has no row for it here"
        return {**found, "head": f"Triton {self.choose('head', n * h * w, self.dtype)}"}

    def _config(self, layer: Layer, pixels: int) -> Any | None:
        """How a layer runs that makes so many pixels. None means cuDNN, which 8-bit layers cannot have."""
        dtype, default = self.dtype, None
        if layer.eighth:
            dtype, default = layer.eighth.packed.dtype, self._eight_bit_config
        return convolution.fitting(layer, self.choose(layer.kind, pixels, dtype)) or default

    @torch.no_grad()
    def __call__(self, image: Tensor, counter: Tensor | None = None) -> Tensor:
        """`counter`, int64 [2], switches dropout on and names its masks: see ops.dropout_mask."""
        n, _, h, w = image.shape
        if n == 0:
            return torch.empty_like(image)
        with torch.cuda.device_of(image):
            if image.is_cuda and torch.cuda.is_current_stream_capturing():  # memory that lives as long as that graph
                return self.run(image, self._new_workspace(n, h, w), counter)
            space = self.workspace(n, h, w)
            key = image.dtype, image.stride(), counter is None
            if not image.is_cuda or key not in self._graphs:  # the first call compiles, which no capture allows
                self._graphs[key] = None
                return self.run(image, space, counter)
            graph = self._graphs[key]
            if graph is None:
                graph = self._graphs[key] = Graph(partial(self.run, space=space), image, counter)
            return graph(image, counter)

    def run(self, image: Tensor, space: Workspace, counter: Tensor | None = None) -> Tensor:
        """The layers one after another."""
        from deblurgan.kernels.output_tail import folded, output_tail
        from deblurgan.kernels.pack_image import pack_image

        spec, (n, _, h, w) = self.spec, image.shape
        pack_image(image, space.packed, border=spec.border, width=3)
        self._layer("stem", space.packed, space.stem, border="zero")
        self._layer("down.0", space.stem.whole, space.half, border="zero")
        x = self._blocks(space, counter)
        self._layer("up.0", x.whole, space.half, border="zero")
        self._layer("up.1", space.half.whole, space.head, border=spec.border)
        out = torch.empty_like(image)
        config = self.choose("head", n * h * w, self.dtype)
        if config.block_n not in self._folded:
            self._folded[config.block_n] = folded(self.head_weight, config.block_n, self.dtype)
        weight = self._folded[config.block_n]
        output_tail(space.head.whole, weight, self.head_bias, image, out, config=config, tf32=self.tf32)
        return out

    def _blocks(self, space: Workspace, counter: Tensor | None) -> Bordered:
        """The second stride-2 convolution and the residual blocks; the stream comes back within zeros.

        In 8 bits each block's input is written beside the stream, and the activation inside the block in int8 alone.
        With `counter` dropout is active.
        """
        spec = self.spec
        kept = 1.0 if counter is None else 1 / (1 - spec.dropout)  # what dropout multiplies the rest by
        x, *free = space.trunk
        stream, inner = space.eighth or (None, None)
        border = spec.border if spec.blocks else "zero"
        reach = REACH.get(self.trunk, REACH["int8"])
        self._layer("down.1", space.half.whole, x, border=border, eighth=stream, step=reach.stream_step(0))
        for i in range(spec.blocks):
            last = i == spec.blocks - 1
            border = "zero" if last else spec.border  # the transposed convolutions pad with zeros
            after: dict[str, Any] = {"border": border, "residual": x}
            if not last:
                after |= {"eighth": stream, "step": reach.stream_step(i + 1)}
            y, z = free
            source = (stream or x).whole
            if spec.convs == 1:
                self._layer(f"blocks.{i}.conv1", source, y, **after)
                x, free = y, [x, z]
                continue
            self._layer(
                f"blocks.{i}.conv1",
                source,
                y,
                border=spec.border,
                eighth=inner,
                step=reach.normalised_step() * kept,
                zero=reach.zero,
                keep=not inner,
                counter=counter,
                stream=i,
            )
            self._layer(f"blocks.{i}.conv2", (inner or y).whole, z, relu=False, unit=kept, **after)
            x, free = z, [x, y]
        return x

    def _layer(
        self,
        name: str,
        x: Tensor,
        out: Bordered,
        *,
        border: reference.Border,
        relu: bool = True,
        residual: Bordered | None = None,
        eighth: Bordered | None = None,
        step: float = 1.0,
        zero: int = 0,
        keep: bool = True,
        unit: float = 1.0,
        counter: Tensor | None = None,
        stream: int = 0,
    ) -> None:
        """One convolution and what follows it, into `out`, unless not `keep`, and in steps of `step` into `eighth`.

        An 8-bit x has steps `unit` times those that the layer was packed for.
        """
        from deblurgan.kernels.norm_act import MOST_TILES, norm_act

        layer = self.layers[name]
        n, h, w, _ = out.inside.shape
        config = self._config(layer, n * h * w)
        if unit != 1 and layer.eighth:
            layer = replace(layer, eighth=layer.eighth._replace(scales=layer.eighth.scales * unit))
        y, partials, counts = convolution.conv_tiles(layer, x, out.inside, config=config, tf32=self.tf32)
        few = counts.shape[0] <= MOST_TILES
        norm_act(
            y,
            partials if few else convolution.merged(partials, counts),
            out.inside if keep else None,
            relu=relu,
            residual=residual.inside if residual else None,
            border=border,
            width=(out.whole.shape[1] - h) // 2,
            eighth=eighth.inside if eighth else None,
            step=step,
            zero=zero,
            drop=self.spec.dropout,
            counter=counter,
            stream=stream,
            counts=counts if few else None,
            eps=reference.EPS,
        )


class Graph:
    """A captured call: the same launches again without their cost on the CPU."""

    def __init__(self, run: Callable[..., Tensor], image: Tensor, counter: Tensor | None = None) -> None:
        with torch.inference_mode(False), torch.no_grad():  # later calls write into them in any mode
            self.image = image.clone(memory_format=torch.preserve_format)
            self.counter = None if counter is None else counter.clone()
        run(self.image, counter=self.counter)  # kernels are compiled for how this copy lies, which no capture allows
        with captured(image.device) as self.graph:
            self.out = run(self.image, counter=self.counter)

    def __call__(self, image: Tensor, counter: Tensor | None = None) -> Tensor:
        self.image.copy_(image)
        if self.counter is not None and counter is not None:
            self.counter.copy_(counter)
        self.graph.replay()
        return self.out.clone(memory_format=torch.preserve_format)


def _layers(spec: Spec, state: Mapping[str, Tensor], dtype: torch.dtype, trunk: Trunk) -> dict[str, Layer]:
    layers = {"stem": convolution.stem(state["stem.weight"], dtype)}
    for name in ("down.0", "down.1"):
        layers[name] = convolution.plain("down", state[f"{name}.weight"], dtype, stride=2)
    for i in range(spec.blocks):
        for j in range(spec.convs):
            name = f"blocks.{i}.conv{j + 1}"
            weight = state[f"{name}.weight"]
            layer = convolution.plain("trunk", weight, dtype)
            if trunk != "same":
                reach, narrow = REACH[trunk], convolution.EIGHT_BIT_TYPES[trunk]
                step, zero = (reach.stream_step(i), 0) if j == 0 else (reach.normalised_step(), reach.zero)
                layer = replace(layer, eighth=convolution.eight_bit(weight, step, zero=zero, dtype=narrow))
            layers[name] = layer
    for name in ("up.0", "up.1"):
        layers[name] = convolution.up(state[f"{name}.weight"], dtype)
    return layers
