"""Inference in our kernels: weights packed once, one memory for all shapes, CUDA graphs for those that come again.

Activations are [n, h + 2b, w + 2b, c] with their border written out. A convolution stores its pre-norm output and the
statistics of its tiles (kernels/conv_stats.py); one pass then normalises, activates, adds the residual and writes the
border that the next convolution reads (kernels/norm_act.py). Each convolution runs in our kernel where the table has a
row for this GPU and layer, in cuDNN elsewhere. Nothing here has a gradient.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deblurgan import reference
from deblurgan.generator.graphs import CapturedCall, Turns
from deblurgan.generator.quantization import input_levels
from deblurgan.generator.workspace import ALIGNMENT, Workspace, room, workspace_bytes
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

# The call of its kind that is captured. A capture waits for the GPU, gives torch's cached memory back and makes every
# launch twice: too much for a size that comes once, or twice with a check.
CAPTURED = 3
# How many kinds of calls are remembered, and may have a graph, which takes memory of the driver: landscape and portrait
# of a few cameras. Where more come in turn each is forgotten before its third call, so nothing is captured in vain.
KINDS = 8


@dataclass
class Kind:
    """Calls that one graph can serve: pictures of one shape, dtype and strides, with dropout or without."""

    space: Workspace
    calls: int = 0
    graph: CapturedCall | None = None


class Engine:
    """`engine(image)` is what the generator of `spec` and `state` gives, in `dtype` arithmetic with fp32 statistics.

    image [n, 3, h, w], floats in [-1, 1] or uint8, sides multiples of spec.size_multiple and at least 8; the output has
    its type. All calls work in one memory, as large as the largest needed; they take turns, so that any thread and CUDA
    stream may call.
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
        self._turns = Turns()
        with self._turns.turn(device):  # the first, so that other streams wait for the packed weights
            self.layers = {stage.name: self._packed_layer(stage, state) for stage in self.stages[:-1]}
            self.head_weight, self.head_bias = state["head.weight"].detach(), state["head.bias"].detach().float()
        self._tail_weights: dict[int, Tensor] = {}  # by block_n
        self.replays = device.type == "cuda"
        self._memory: dict[str, Tensor] = {}  # of activations, and of the graphs' pictures
        self._spaces: dict[tuple[int, int, int], Workspace] = {}  # the last shape's
        self._kinds: OrderedDict[Any, Kind] = OrderedDict()  # the last used at the end

    def _packed_layer(self, stage: Stage, state: Mapping[str, Tensor]) -> Layer:
        weight = state[f"{stage.name}.weight"]
        layer = layer_of(stage, weight, self.dtype)
        if self.quantize is None or stage.name not in self._levels:
            return layer
        step, zero = self._levels[stage.name]
        return replace(layer, quantized=quantize_weight(weight, self.quantize, step, zero=zero))

    def workspace(self, n: int, h: int, w: int) -> Workspace:
        """Where pictures [n, 3, h, w] are worked on, in the memory of all shapes; that of the last shape is kept."""
        shape = n, h, w
        if shape not in self._spaces:
            allocate = partial(self._shared, "activations")
            space = Workspace(self.spec, *shape, self.dtype, allocate, self.quantize)
            self._spaces = {shape: space}
        return self._spaces[shape]

    def kept_bytes(self, n: int, h: int, w: int) -> int:
        """What is kept of earlier calls and one on pictures [n, 3, h, w] will use again, or replace, in bytes."""
        memory = self._memory.get("activations")
        needed = workspace_bytes(self.spec, n, h, w, self.dtype, self.quantize)
        return 0 if memory is None else min(memory.numel(), needed)

    def _shared(self, purpose: str, size: int) -> Tensor:
        """At least so many bytes. To grow, it forgets all that lies in the old memory, the graphs with it."""
        if purpose not in self._memory or self._memory[purpose].numel() < size:
            self._kinds.clear()
            self._spaces.clear()
            self._memory.pop(purpose, None)  # freed before more is taken
            self._memory[purpose] = self._bytes(size)
        return self._memory[purpose]

    def _bytes(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self.head_weight.device)

    def paths(self, n: int, h: int, w: int) -> dict[str, str]:
        """Which way each stage takes for pictures of this shape, and who says so."""
        found = {}
        for stage in self.stages:
            shape = self._shape_of(stage, n * h * w)
            config = head_config(self.pick_config, shape) if stage.kind == "head" else self.config(stage, n * h * w)
            source = self.pick_config.choice(shape).source if isinstance(self.pick_config, Table) else "the caller"
            found[stage.name] = f"{f'Triton {config}' if config else 'cuDNN'}: {source}"
        return found

    def _shape_of(self, stage: Stage, pixels: int) -> ConvShape:
        """The stage's convolution of pictures of so many pixels, which picks its tiling."""
        dtype = self.dtype
        if self.quantize and stage.name in self._levels:
            dtype = QUANTIZED_DTYPES[self.quantize]
        return conv_shape(stage, pixels, dtype)

    def config(self, stage: Stage, pixels: int) -> ConvConfig | None:
        """How a stage runs on pictures of so many pixels. None means cuDNN, which 8-bit layers cannot have."""
        layer = self.layers[stage.name]
        default = None if layer.quantized is None else self._quantized_config
        return layer.fitting(self.pick_config(self._shape_of(stage, pixels))) or default

    def __call__(self, image: Tensor, counter: Tensor | None = None) -> Tensor:
        """`counter`, int64 [2], switches dropout on and names its masks: see ops.dropout_mask."""
        return self.restore(image, counter)[0]

    @torch.inference_mode(False)  # calls in any mode write into what one in another has left
    @torch.no_grad()
    def restore(self, image: Tensor, counter: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The restored picture; and int32 [1], 1 where one of its values was not finite before the clamp, else 0."""
        n, _, h, w = image.shape
        if n == 0:
            return torch.empty_like(image), torch.zeros(1, dtype=torch.int32, device=image.device)
        with self.turn():
            if image.is_cuda and torch.cuda.is_current_stream_capturing():  # memory that lives as long as that graph
                space = Workspace(self.spec, n, h, w, self.dtype, self._bytes, self.quantize)
                return self.run(image, space, counter)
            return self._call(image, counter)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Other threads' calls wait until its end. On its device, what this thread launches sees the packed weights."""
        with torch.cuda.device_of(self.head_weight), self._turns.turn(self.head_weight.device):
            yield

    def _call(self, image: Tensor, counter: Tensor | None) -> tuple[Tensor, Tensor]:
        """A call in its turn, replayed where its kind came often enough. The first compiles: no capture allows that."""
        kind = self._kind_of(image, counter)
        kind.calls += 1
        if self.replays and kind.graph is None and kind.calls >= CAPTURED:
            kind.graph = self._captured(kind, image, counter)
        if image.is_cuda:
            for memory in self._memory.values():  # which may be freed before this stream is done with it
                memory.record_stream(torch.cuda.current_stream())
        if kind.graph is None:
            return self.run(image, kind.space, counter)
        out, not_finite = kind.graph(image, counter)
        return out, not_finite

    def _kind_of(self, image: Tensor, counter: Tensor | None) -> Kind:
        """What is known of such calls. Of too many kinds the one that was not called for longest is forgotten."""
        n, _, h, w = image.shape
        key = (n, h, w), image.dtype, image.stride(), counter is None
        if key not in self._kinds:
            if self.replays:  # at once: after the first capture it would cost those that lie there
                self._shared("pictures", 2 * room(image.nbytes) + ALIGNMENT)
            space = self.workspace(n, h, w)  # before the next line, since it may forget all kinds
            self._kinds[key] = Kind(space)
            if len(self._kinds) > KINDS:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(key)
        return self._kinds[key]

    def _captured(self, kind: Kind, image: Tensor, counter: Tensor | None) -> CapturedCall:
        """A graph of such calls. All have picture, result and counter in one memory, and one pool for what passes in a
        replay: nothing of a call stays there beyond its turn."""
        like, size = torch.empty_like(image, device="meta"), room(image.nbytes)
        memory = self._memory["pictures"]
        still, out = (
            memory[start : start + size].view(image.dtype).as_strided(like.shape, like.stride()) for start in (0, size)
        )
        if counter is not None:
            counter = memory[2 * size :].view(counter.dtype)[: counter.numel()]
        beside = next((other.graph for other in self._kinds.values() if other.graph is not None), None)
        return CapturedCall(partial(self.run, space=kind.space, out=out), still, counter, beside=beside)

    def run(
        self, image: Tensor, space: Workspace, counter: Tensor | None = None, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The stages one after another; what `restore` returns, the picture in `out` where it is given."""
        from deblurgan.kernels.pack_image import pack_image

        not_finite = torch.zeros(1, dtype=torch.int32, device=image.device)  # here it parts none of our kernels
        pack_image(image, space.packed, border=Border(self.spec.border, self.stages[0].halo))
        x, residual = space.packed, None
        for i, stage in enumerate(self.stages[:-1]):
            x = self._run_stage(i, x, residual, space, counter)
            if stage.is_residual:
                residual = space.outputs[i].inside
        out = torch.empty_like(image) if out is None else out
        self.run_head(x, image, out, not_finite)
        return out, not_finite

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
        config = self.config(stage, n * h * w * stage.scale_out**2)
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

    def run_head(self, x: Tensor, image: Tensor, out: Tensor, not_finite: Tensor | None = None) -> None:
        """The last convolution of the whole bordered x, and what is left until the restored picture in `out`."""
        from deblurgan.kernels.output_tail import output_tail, pack_tail_weight

        n, _, h, w = image.shape
        config = head_config(self.pick_config, self._shape_of(self.stages[-1], n * h * w))
        if config.block_n not in self._tail_weights:
            self._tail_weights[config.block_n] = pack_tail_weight(self.head_weight, config.block_n, self.dtype)
        weight = self._tail_weights[config.block_n]
        output_tail(x, weight, self.head_bias, image, out, config=config, tf32=self.tf32, not_finite=not_finite)
