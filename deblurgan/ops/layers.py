"""Weights of convolutions, packed once for our kernels and for cuDNN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deblurgan.kernels.config import PACKED_TAP, ConvConfig, ConvShape, PackedWeight
from deblurgan.spec import Stage

Quantize = Literal["int8", "fp8"]
QUANTIZED_DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
QUANTIZED_CAPABILITY: dict[Quantize, tuple[int, int]] = {"int8": (8, 0), "fp8": (8, 9)}  # that a GPU has at least

# The taps of each axis that phase 0 or 1 of a transposed convolution reads, of its mirrored 3x3 weight
PHASE_TAPS = (slice(1, 2), slice(None, None, 2))


@dataclass(frozen=True)
class Layer:
    """A convolution's weights, packed for our kernels and for cuDNN."""

    kind: str
    """As in spec.Kind: the kernels' table goes by it."""
    weight: PackedWeight
    library: Tensor
    """As cuDNN takes it, in the type of the products."""
    quantized: PackedWeight | None = None
    """The weight in 8 bits, for an input in 8 bits."""

    @property
    def transposed(self) -> bool:
        return self.kind == "up"

    @property
    def channels(self) -> tuple[int, int]:
        """Of the input, as the kernel sees it, and of the output."""
        return self.weight.channels, self.weight.rows.shape[0]

    def fitting(self, config: ConvConfig | None) -> ConvConfig | None:
        """The tiling where the layer has its form and, for "tma", 3x3 taps and channels that fill its blocks; else
        None, which means cuDNN."""
        if config is None or config.form == "pointer":
            return config
        if self.transposed or config.form == "pairs":
            return config if self.transposed and config.form == "pairs" else None
        c, cout = self.channels
        whole = c % config.block_k == 0 and cout % config.block_n == 0
        return config if whole and self.weight.taps == (3, 3) and self.weight.stride == 1 else None


def conv_shape(stage: Stage, pixels: int, dtype: torch.dtype) -> ConvShape:
    """A stage's convolution in `dtype` of pictures of so many pixels in all, as tilings are chosen by it."""
    return ConvShape(stage.kind, stage.channels_in, stage.channels_out, pixels // stage.scale_out**2, dtype)


def library_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """As cuDNN takes a weight."""
    return weight.detach().to(dtype, memory_format=torch.channels_last)


def weight_rows(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """[cout, c, kh, kw] as [cout, kh * kw * c]."""
    return library_weight(weight, dtype).permute(0, 2, 3, 1).flatten(1)


def conv_layer(kind: str, weight: Tensor, dtype: torch.dtype, *, stride: int = 1) -> Layer:
    """The layer of weight [cout, c, kh, kw]."""
    library = library_weight(weight, dtype)
    taps = (weight.shape[2], weight.shape[3])
    return Layer(kind, PackedWeight(weight_rows(library, dtype), taps, stride), library)  # both in one memory


def trunk_layers(weights: list[Tensor], dtype: torch.dtype) -> list[Layer]:
    """The layers of the residual blocks' weights [cout, c, kh, kw], all of one shape, packed in one launch."""
    if not weights:
        return []
    return [conv_layer("trunk", part, dtype) for part in library_weight(torch.cat(weights), dtype).chunk(len(weights))]


def stem_layer(weight: Tensor, dtype: torch.dtype) -> Layer:
    """The layer of weight [cout, c <= 4, 7, 7] on `pack_image`'s pictures of four channels.

    Each row of the weight is one tap of eight pixels; the eighth pixel and the channels from c on have weight 0.
    """
    cout, c, size = weight.shape[:3]
    runs = torch.zeros(cout, size, *PACKED_TAP, dtype=dtype, device=weight.device)
    runs[:, :, :size, :c] = weight.detach().permute(0, 2, 3, 1)
    library = runs[:, :, :size].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    return Layer("stem", PackedWeight(runs.flatten(1), (size, 1)), library)


def up_layer(weight: Tensor, dtype: torch.dtype) -> Layer:
    """The transposed layer of weight [c, cout, 3, 3], stride 2.

    Output pixel (2a + u, 2b + v) belongs to phase (u, v), a convolution of at most four taps from (a, b) on.
    """
    library = library_weight(weight, dtype)
    mirrored = library.permute(1, 2, 3, 0).contiguous().flip(1, 2)  # [cout, 3, 3, c]
    phases = [mirrored[:, PHASE_TAPS[u], PHASE_TAPS[v]].flatten(1) for u in (0, 1) for v in (0, 1)]
    return Layer("up", PackedWeight(torch.cat(phases, 1), (3, 3), 2), library)


def layer_of(stage: Stage, weight: Tensor, dtype: torch.dtype) -> Layer:
    """The layer of a stage of the network; see `spec.Stage`."""
    if stage.kind == "stem":
        return stem_layer(weight, dtype)
    if stage.kind == "up":
        return up_layer(weight, dtype)
    return conv_layer(stage.kind, weight, dtype, stride=stage.stride)


def quantize_weight(weight: Tensor, quantize: Quantize, step: float, *, zero: int = 0) -> PackedWeight:
    """weight [cout, c, kh, kw] in 8 bits, a scale for each output channel, for inputs in steps of `step`.

    `zero` is the level of an int8 input that stands for 0.
    """
    rows, taps = weight_rows(weight, torch.float32), (weight.shape[2], weight.shape[3])
    dtype = QUANTIZED_DTYPES[quantize]
    highest = 127 if quantize == "int8" else torch.finfo(dtype).max
    scale = rows.abs().amax(1).clamp(min=1e-30) / highest
    levels = rows / scale[:, None]
    if quantize == "fp8":
        return PackedWeight(levels.to(dtype), taps, scales=scale * step)
    levels = levels.round()
    offsets = (-zero * levels.sum(1)).to(torch.int32)
    return PackedWeight(levels.to(dtype), taps, scales=scale * step, offsets=offsets)
