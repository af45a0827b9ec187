"""What is measured: one layer of a network, or a gradient of it, on random data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deblurgan import reference
from deblurgan.generator.quantization import QUANT_RANGES
from deblurgan.kernels.config import PACKED_CHANNELS, ConvConfig, ConvShape, NormActInputs, PaddedGradient
from deblurgan.ops import conv_grad
from deblurgan.ops.conv import conv_stats
from deblurgan.ops.conv_grad import Convolution, GradientConfigs
from deblurgan.ops.layers import Layer, Quantize, conv_layer, conv_shape, layer_of, quantize_weight
from deblurgan.spec import PRESETS, GeneratorSpec, Stage

# Makes gradients with a tiling, from a layer's whole bordered input and the gradient of its output
MakeGradients = Callable[[ConvConfig | None, Tensor, PaddedGradient], list[Tensor]]


class Size(NamedTuple):
    """Of a batch of pictures."""

    n: int
    h: int
    w: int


class Work(NamedTuple):
    """A layer's convolution, or with `gradient` "dgrad" or "wgrad" its gradient by the input or by the weight."""

    preset: str
    layer: str  # its stage's name; of the residual blocks' the first, which stands for all
    gradient: str
    size: Size
    dtype: torch.dtype  # of the products

    @property
    def stage(self) -> Stage:
        return next(stage for stage in PRESETS[self.preset].stages if stage.name == self.layer)

    @property
    def shape(self) -> ConvShape:
        """As tilings are chosen by it."""
        shape = conv_shape(self.stage, self.size.n * self.size.h * self.size.w, self.dtype)
        return shape._replace(kind=f"{shape.kind}.{self.gradient}") if self.gradient else shape

    @property
    def flops(self) -> int:
        """Of the convolution, or of its gradients that one call makes."""
        stage, (n, h, w) = self.stage, self.size
        pixels = n * h * w // max(stage.scale_in, stage.scale_out) ** 2  # a transposed one has its taps at each input
        return 2 * stage.size**2 * stage.channels_in * stage.channels_out * pixels * len(self.alike)

    @property
    def alike(self) -> list[bool]:
        """For each layer whose gradient by the input one call makes: whether it reads activations."""
        if self.gradient != "dgrad":
            return [False]
        stages = PRESETS[self.preset].stages
        return list(
            dict.fromkeys(
                not before.is_residual
                for before, stage in pairwise(stages)
                if stage.name == self.layer or stage.kind == self.stage.kind == "trunk"
            )
        )

    def __str__(self) -> str:
        name = "blocks" if self.stage.kind == "trunk" else self.layer
        return f"{self.preset} {name} {self.gradient}".rstrip()


@dataclass(frozen=True)
class Problem:
    """A piece of work on random data: `run` it with a tiling or, with None, in cuDNN; `finish` to compare."""

    dtype: torch.dtype
    run: Callable[[ConvConfig | None], Any]
    finish: Callable[[Any], Tensor]
    wanted: Callable[[], Tensor]  # in fp32


def layers(spec: GeneratorSpec) -> list[Stage]:
    """The stages that differ: of the residual blocks' the first alone."""
    return [stage for stage in spec.stages if stage.kind != "trunk" or stage.name == "blocks.0.conv1"]


def make_problem(work: Work, device: torch.device) -> Problem:
    """The work on memory laid out as the engine's and training's is."""
    stage = work.stage
    if work.gradient:
        return _gradient_problem(work, stage, device)
    if stage.kind == "head":
        return _head_problem(work, stage, device)
    border = next(after.halo for before, after in pairwise(PRESETS[work.preset].stages) if before == stage)
    n, h, w = _scaled(work.size, stage.scale_out)
    wide = torch.float16 if work.dtype.itemsize == 1 else work.dtype
    whole = torch.empty(n, h + 2 * border, w + 2 * border, stage.channels_out, dtype=wide, device=device)
    out = whole[:, border:-border, border:-border]
    weight, x = _weight(stage, wide, device), _bordered(stage, work.size, wide, device)
    if work.dtype.itemsize == 1:
        return _quantized_problem(work, weight, x, out)
    exact = layer_of(stage, weight.float(), torch.float32)
    return _conv_problem(layer_of(stage, weight, wide), exact, x, out)


def _scaled(size: Size, scale: int) -> Size:
    return Size(size.n, size.h // scale, size.w // scale)


def _weight(stage: Stage, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[c_out, c_in, s, s], transposed [c_in, c_out, s, s], which keeps the size of numbers about."""
    channels = stage.channels_out, stage.channels_in
    channels = channels[::-1] if stage.kind == "up" else channels
    scale = (3 * stage.size**2 * stage.channels_in) ** -0.5
    return (torch.randn(*channels, stage.size, stage.size, device=device) * scale).to(dtype)


def _bordered(stage: Stage, size: Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A picture at random as the layer reads it, [n, h + 2b, w + 2b, c]; the first layer's has 8 channels."""
    n, h, w = _scaled(size, stage.scale_in)
    stem = stage.kind == "stem"
    shape = n, h + 2 * stage.halo, w + 2 * stage.halo + stem, PACKED_CHANNELS if stem else stage.channels_in
    x = torch.randn(shape, device=device).to(dtype)
    if stage.kind == "up":  # our kernel reads the border as zeros, cuDNN reads none
        for edge in (x[:, 0], x[:, -1], x[:, :, 0], x[:, :, -1]):
            edge.zero_()
    return x


def _conv_problem(layer: Layer, exact: Layer, x: Tensor, out: Tensor) -> Problem:
    """With its statistics; `exact` is the layer in fp32."""

    def wanted() -> Tensor:
        y, _ = conv_stats(exact, x.float(), out, config=None)
        return reference.instance_norm(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    return Problem(x.dtype, lambda config: conv_stats(layer, x, out, config=config), _normalized, wanted)


def _normalized(result: tuple[Tensor, Tensor]) -> Tensor:
    """xhat of a pre-norm output and its statistics."""
    y, stats = result
    return (y.float() - stats[:, 0, None, None]) * stats[:, 1, None, None]


def _quantized_problem(work: Work, weight: Tensor, x: Tensor, out: Tensor) -> Problem:
    """A convolution of 8 bits; cuDNN has the same numbers in out's type."""
    quantize: Quantize = "int8" if work.dtype == torch.int8 else "fp8"
    limits = QUANT_RANGES[quantize]
    levels = (x.float() * (limits.residual_levels / limits.residual)).round()
    levels = levels.clamp(-limits.residual_levels, limits.residual_levels)
    packed = quantize_weight(weight, quantize, limits.residual_step(0))
    cout, c, *taps = weight.shape
    same = packed.rows.float() if packed.scales is None else packed.rows.float() * packed.scales[:, None]
    same = same.view(cout, *taps, c).permute(0, 3, 1, 2)
    wide = conv_layer("trunk", same, out.dtype)
    exact = conv_layer("trunk", same, torch.float32)
    x8 = levels.to(work.dtype)
    by_cudnn, narrow = _conv_problem(wide, exact, x8.to(out.dtype), out), replace(wide, quantized=packed)

    def run(config: ConvConfig | None) -> tuple[Tensor, Tensor]:
        return conv_stats(narrow, x8, out, config=config) if config else by_cudnn.run(None)

    return replace(by_cudnn, dtype=work.dtype, run=run)


def _head_problem(work: Work, stage: Stage, device: torch.device) -> Problem:
    """The last convolution and all that follows it, which in cuDNN and torch is several passes."""
    from deblurgan.kernels.output_tail import output_tail, pack_tail_weight

    n, h, w = work.size
    weight, x = _weight(stage, work.dtype, device), _bordered(stage, work.size, work.dtype, device)
    bias = torch.randn(stage.channels_out, device=device)
    image = (torch.rand(n, stage.channels_out, h, w, device=device) * 2 - 1).to(x.dtype)
    out = torch.empty_like(image)
    packed: dict[int, Tensor] = {}  # by block_n

    def by_cudnn(dtype: torch.dtype) -> Tensor:
        library = weight.to(dtype, memory_format=torch.channels_last)
        residual = F.conv2d(x.permute(0, 3, 1, 2).to(dtype), library, bias.to(dtype))
        return (image.to(dtype) + torch.tanh(residual)).clamp(-1, 1)

    def run(config: ConvConfig | None) -> Tensor:
        if config is None:
            return by_cudnn(x.dtype)
        if config.block_n not in packed:
            packed[config.block_n] = pack_tail_weight(weight, config.block_n, x.dtype)
        output_tail(x, packed[config.block_n], bias, image, out, config=config)
        return out

    return Problem(x.dtype, run, Tensor.float, lambda: by_cudnn(torch.float32))


def _gradient_problem(work: Work, stage: Stage, device: torch.device) -> Problem:
    """The gradient by a layer's input or weight, with what training does for it.

    The gradient by activations comes with the sums that the norm before them needs: our kernel takes them on the way,
    cuDNN's output needs a pass of `norm_act_reduce`. The gradient by the residual has more parts than this one, so it
    needs that pass in any case. Of a block's two layers one reads activations and one the residual, and both go by one
    row of the table: one call makes the two. Its weights are packed beforehand, as training packs those of all blocks
    at once; other layers' are packed in each call, as there. No dropout.
    """
    conv = Convolution(stage.kind, _weight(stage, torch.float32, device), stage.border)
    n, h, w = _scaled(work.size, stage.scale_in)
    y = torch.randn(n, h, w, stage.channels_in, device=device, dtype=work.dtype)
    x = reference.pad(y.relu().permute(0, 3, 1, 2), stage.halo, stage.border).permute(0, 2, 3, 1).contiguous()
    if stage.kind == "stem":
        x = F.pad(x, (0, PACKED_CHANNELS - stage.channels_in, 0, 1))
    dy = torch.randn(*_scaled(work.size, stage.scale_out), stage.channels_out, device=device, dtype=work.dtype)
    make = _input_gradients(conv, y, work.alike) if work.gradient == "dgrad" else _weight_gradient(conv)
    padded = {ours: _padded(conv, dy, ConvConfig() if ours else None) for ours in (False, True)}
    exact = _padded(conv, dy.float(), None)
    return Problem(
        work.dtype,
        lambda config: make(config, x, padded[config is not None]),
        _together,
        lambda: _together(make(None, x.float(), exact)),
    )


def _input_gradients(conv: Convolution, y: Tensor, with_sums: list[bool]) -> MakeGradients:
    """The gradient by relu(y), y [n, h, w, c] normalised, once for each flag: whether the norm's sums come with it."""
    from deblurgan.kernels.norm_act_grad import norm_act_reduce

    halo = conv.halo if conv.reads_reflected_border else 0
    stats = torch.tensor([[0.0], [1.0]], device=y.device).repeat(y.shape[0], 1, y.shape[3])
    adjoint = conv_grad.trunk_adjoints([conv.weight], y.dtype)[0] if conv.kind == "trunk" else None

    def make(config: ConvConfig | None, x: Tensor, dy: PaddedGradient) -> list[Tensor]:
        found: list[Tensor] = []
        for sums in with_sums:
            if config and sums:
                found += conv_grad.activation_gradient(conv, x, dy, config=config, adjoint=adjoint)
                continue
            found.append(conv_grad.input_gradient(conv, x, dy, config=config, adjoint=adjoint))
            if sums:
                inside = found[-1][:, halo : halo + y.shape[1], halo : halo + y.shape[2]]
                found.append(norm_act_reduce(inside, NormActInputs(y.to(x.dtype), stats), width=halo))
        return found

    return make


def _weight_gradient(conv: Convolution) -> MakeGradients:
    return lambda config, x, dy: [conv_grad.weight_gradient(conv, x, dy, config=config)]


def _together(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.float().flatten() for part in parts])


def _padded(conv: Convolution, dy: Tensor, config: ConvConfig | None) -> PaddedGradient:
    """dy [n, h, w, c] where the gradients of a layer in this tiling read it."""
    n, h, w, c = dy.shape
    if conv.kind == "head":
        padded = conv_grad.head_output_gradient(conv, n, h, w, like=dy)
    else:
        padded = conv_grad.output_gradient(conv, GradientConfigs(config, config), dy.shape, like=dy)
    padded.memory.zero_()
    padded.inside[..., :c].copy_(dy)
    return padded
