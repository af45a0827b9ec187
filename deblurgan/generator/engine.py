"""Inference in our kernels: weights packed once, one workspace a shape, CUDA graphs for shapes that come again.

Activations are [n, h + 2b, w + 2b, c] with their border written out. A convolution stores its pre-norm output and the
statistics of its tiles (kernels/conv_stats.py); one pass then normalises, activates, adds the residual and writes the
border that the next convolution reads (kernels/norm_act.py). Each convolution runs in our kernel where the table has a
row for this GPU and layer, in cuDNN elsewhere. Nothing here has a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deblurgan import reference
from deblurgan.generator.graphs import CapturedCall
from deblurgan.generator.quantization import input_levels
from deblurgan.kernels.config import Border, ConvConfig, ConvShape, Dropout, NormActInputs, Quantized
from deblurgan.kernels.heuristics import quantized_config
from deblurgan.kernels.table import PickConfig, Table, config_picker, current_gpu, head_config
from deblurgan.ops.conv import conv_tiles, merge_tiles
from deblurgan.ops.layers import (
    QUANTIZED_CAPABILITY,
    QUANTIZED_DTYPES,
    Layer,
    Quantize,
    conv_shape,
    layer_of,
    quantize_weight,
)
from deblurgan.ops.norm import SLOPES
from deblurgan.spec import GeneratorSpec, Stage


class Bordered(NamedTuple):
    """A picture within its border: `whole` [n, h + 2b, w + 2b, c] and `inside` [n, h, w, c] of it."""

    whole: Tensor
    inside: Tensor


class Workspace:
    """The memory of one shape: activations that are never needed together share theirs.

    Stages read from one of two memories and write into the other. The residual blocks keep three pictures in one of
    them, in turn: the residual, the inner activation and the block's output.
    """

    TRUNK_BUFFERS = 3

    def __init__(
        self,
        spec: GeneratorSpec,
        n: int,
        h: int,
        w: int,
        dtype: torch.dtype,
        device: torch.device,
        quantize: Quantize | None = None,
    ) -> None:
        halo = spec.stages[0].halo
        packed = torch.Size((n, h + 2 * halo, w + 2 * halo + 1, 8))
        sizes, side, turn = [packed.numel(), 0], 0, 0
        positions: list[tuple[int, int, torch.Size, int]] = []  # memory, offset, shape, border
        for stage, following in zip(spec.stages[:-1], spec.stages[1:], strict=True):
            if stage.kind == "trunk":
                turn = (turn + 1) % self.TRUNK_BUFFERS
            else:
                side, turn = 1 - side, 0
            border = following.halo
            rows, columns = (length // stage.scale_out + 2 * border for length in (h, w))
            shape = torch.Size((n, rows, columns, stage.channels_out))
            offset = turn * shape.numel()
            sizes[side] = max(sizes[side], offset + shape.numel())
            positions.append((side, offset, shape, border))
        memories = [torch.empty(size, dtype=dtype, device=device) for size in sizes]
        self.packed = memories[0][: packed.numel()].view(packed)
        self.outputs = [
            _bordered(memories[side][offset : offset + shape.numel()].view(shape), border)
            for side, offset, shape, border in positions
        ]
        self.residual8, self.inner8 = self._quantized(spec, positions, quantize, device)
        buffers = [*memories, self.residual8.whole, self.inner8.whole]
        self.bytes = sum(buffer.numel() * buffer.element_size() for buffer in buffers)

    @staticmethod
    def _quantized(
        spec: GeneratorSpec,
        positions: list[tuple[int, int, torch.Size, int]],
        quantize: Quantize | None,
        device: torch.device,
    ) -> tuple[Bordered, Bordered]:
        """The residual and the inner activation of a block in 8 bits; empty where nothing is quantised."""
        deepest = positions[spec.downsamplings][2]  # of the last downsampling's output, after the stem's
        dtype = torch.int8 if quantize is None else QUANTIZED_DTYPES[quantize]
        buffers = torch.empty(2, *(deepest if quantize else (0, 2, 2, 0)), dtype=dtype, device=device)
        return _bordered(buffers[0], 1), _bordered(buffers[1], 1)


def _bordered(whole: Tensor, border: int) -> Bordered:
    return Bordered(whole, whole[:, border:-border, border:-border])


class Engine:
    """`engine(image)` is what the generator of `spec` and `state` gives, in `dtype` arithmetic with fp32 statistics.

    image [n, 3, h, w], floats in [-1, 1] or uint8, sides multiples of spec.size_multiple and at least 8; the output has
    its type. Calls share one workspace: those on different CUDA streams must wait for one another.
    """

    def __init__(
        self,
        spec: GeneratorSpec,
        state: Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        pick_config: PickConfig | None = None,
        quantize: Quantize | None = None,
        tf32: bool = False,
    ) -> None:
        device = state["head.weight"].device
        least = QUANTIZED_CAPABILITY[quantize] if quantize else (0, 0)
        if device.type == "cuda" and torch.cuda.get_device_capability(device) < least:
            name, wanted = torch.cuda.get_device_name(device), ".".join(map(str, least))
            raise ValueError(f'quantize must be None below compute capability {wanted}, got "{quantize}" on {name}')
        self.spec, self.stages, self.dtype, self.quantize, self.tf32 = spec, spec.stages, dtype, quantize, tf32
        self.pick_config = pick_config or config_picker(current_gpu(device))
        self._levels = input_levels(spec.stages, quantize)
        self._quantized_config = quantized_config(spec.width * spec.size_multiple) if quantize else None
        self.layers = {stage.name: self._packed_layer(stage, state) for stage in self.stages[:-1]}
        self.head_weight, self.head_bias = state["head.weight"].detach(), state["head.bias"].detach().float()
        self._tail_weights: dict[int, Tensor] = {}  # by block_n
        self._shape: tuple[int, int, int] | None = None
        self._graphs: dict[Any, CapturedCall | None] = {}

    def _packed_layer(self, stage: Stage, state: Mapping[str, Tensor]) -> Layer:
        weight = state[f"{stage.name}.weight"]
        layer = layer_of(stage, weight, self.dtype)
        if self.quantize is None or stage.name not in self._levels:
            return layer
        step, zero = self._levels[stage.name]
        return replace(layer, quantized=quantize_weight(weight, self.quantize, step, zero=zero))

    def workspace(self, n: int, h: int, w: int) -> Workspace:
        """The memory for pictures [n, 3, h, w]; that of the last shape is reused."""
        if self._shape != (n, h, w):
            self._graphs.clear()
            self._shape = n, h, w
            self._workspace = self._new_workspace(n, h, w)
        return self._workspace

    def _new_workspace(self, n: int, h: int, w: int) -> Workspace:
        return Workspace(self.spec, n, h, w, self.dtype, self.head_weight.device, self.quantize)

    def paths(self, n: int, h: int, w: int) -> dict[str, str]:
        """Which way each stage takes for pictures of this shape, and who says so."""
        found = {}
        for stage in self.stages:
            shape = self._shape_of(stage, n * h * w)
            config = head_config(self.pick_config, shape) if stage.kind == "head" else self._config(stage, n * h * w)
            source = self.pick_config.choice(shape).source if isinstance(self.pick_config, Table) else "the caller"
            found[stage.name] = f"{f'Triton {config}' if config else 'cuDNN'}: {source}"
        return found

    def _shape_of(self, stage: Stage, pixels: int) -> ConvShape:
        """The stage's convolution of pictures of so many pixels, which picks its tiling."""
        dtype = self.dtype
        if self.quantize and stage.name in self._levels:
            dtype = QUANTIZED_DTYPES[self.quantize]
        return conv_shape(stage, pixels, dtype)

    def _config(self, stage: Stage, pixels: int) -> ConvConfig | None:
        """How a stage runs on pictures of so many pixels. None means cuDNN, which 8-bit layers cannot have."""
        layer = self.layers[stage.name]
        default = None if layer.quantized is None else self._quantized_config
        return layer.fitting(self.pick_config(self._shape_of(stage, pixels))) or default

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
                graph = self._graphs[key] = CapturedCall(partial(self.run, space=space), image, counter)
            return graph(image, counter)

    def run(self, image: Tensor, space: Workspace, counter: Tensor | None = None) -> Tensor:
        """The stages one after another."""
        from deblurgan.kernels.pack_image import pack_image

        pack_image(image, space.packed, border=Border(self.spec.border, self.stages[0].halo))
        x, residual = space.packed, None
        for i, stage in enumerate(self.stages[:-1]):
            x = self._run_stage(i, x, residual, space, counter)
            if stage.is_residual:
                residual = space.outputs[i].inside
        return self._run_head(x, image)

    def _run_stage(
        self, i: int, x: Tensor, residual: Tensor | None, space: Workspace, counter: Tensor | None
    ) -> Tensor:
        """A convolution of the whole bordered x with what follows it; returns what the next stage reads.

        If the next stage reads 8 bits, an 8-bit copy is written; the output itself is then needed only as a residual.
        """
        from deblurgan.kernels.norm_act import MOST_TILES, norm_act

        stage, following, out = self.stages[i], self.stages[i + 1], space.outputs[i]
        n, h, w, _ = out.inside.shape
        layer = self._layer_at(i, counter)
        config = self._config(stage, n * h * w * stage.scale_out**2)
        y, tiles = conv_tiles(layer, x, out.inside, config=config, tf32=self.tf32)
        dropout = self._dropout(stage, counter)
        narrow = quantized = None
        if following.name in self._levels:
            narrow = space.residual8 if stage.is_residual else space.inner8
            step, zero = self._levels[following.name]
            quantized = Quantized(narrow.inside, step * (dropout.scale if dropout else 1.0), zero)
        stats = tiles if tiles.counts.shape[0] <= MOST_TILES else merge_tiles(tiles)
        norm_act(
            NormActInputs(y, stats, SLOPES[stage.act], dropout),
            out.inside if narrow is None or stage.is_residual else None,
            residual=residual if stage.adds_residual else None,
            border=Border(following.border, following.halo),
            quantized=quantized,
            eps=reference.EPS,
        )
        return out.whole if narrow is None else narrow.whole

    def _dropout(self, stage: Stage, counter: Tensor | None) -> Dropout | None:
        if stage.dropout is None or counter is None or not self.spec.dropout:
            return None
        return Dropout(self.spec.dropout, counter, stage.dropout)

    def _layer_at(self, i: int, counter: Tensor | None) -> Layer:
        """The stage's layer. Behind dropout an 8-bit input has larger steps than the weight was scaled for."""
        layer, dropout = self.layers[self.stages[i].name], self._dropout(self.stages[i - 1], counter)
        if layer.quantized is None or layer.quantized.scales is None or dropout is None:
            return layer
        return replace(layer, quantized=layer.quantized._replace(scales=layer.quantized.scales * dropout.scale))

    def _run_head(self, x: Tensor, image: Tensor) -> Tensor:
        """The last convolution of the whole bordered x, and what is left until the restored picture."""
        from deblurgan.kernels.output_tail import output_tail, pack_tail_weight

        out = torch.empty_like(image)
        n, _, h, w = image.shape
        config = head_config(self.pick_config, self._shape_of(self.stages[-1], n * h * w))
        if config.block_n not in self._tail_weights:
            self._tail_weights[config.block_n] = pack_tail_weight(self.head_weight, config.block_n, self.dtype)
        weight = self._tail_weights[config.block_n]
        output_tail(x, weight, self.head_bias, image, out, config=config, tf32=self.tf32)
        return out
