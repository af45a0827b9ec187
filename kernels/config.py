"""What callers tell the kernels, without Triton: how to cut into tiles, and bundles of tensors that belong together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor


class Gpu(NamedTuple):
    """What tilings are chosen by."""

    name: str
    capability: tuple[int, int]
    sms: int  # multiprocessors


class ConvShape(NamedTuple):
    """A layer's convolution, or a gradient of it, as far as its tiling goes by it."""

    kind: str  # of the layer, as in spec.Kind; ".dgrad" is its gradient by the input, ".wgrad" by the weight
    c_in: int  # channels of the layer
    c_out: int
    pixels: int  # of the layer's output, in all pictures
    dtype: torch.dtype  # of the products


PACKED_CHANNELS = 4  # of a picture as the first convolution reads it, see pack_image
PACKED_TAP = (8, PACKED_CHANNELS)  # pixels of a row, and channels of each, that are one tap of it


@dataclass(frozen=True)
class ConvConfig:
    """How a convolution is cut into tiles.

    A program makes block_m pixels by block_n channels and sums over block_k products at a time. `form` is "pointer" or,
    for 3x3 of stride 1 on sm_90 and newer, "tma"; "pairs" are transposed convolutions where a program makes two such
    tiles, of pixels side by side. `accumulate` "fp16" sums each block_k products of fp16 in fp16, and these sums in
    fp32: GeForce GPUs multiply so at twice the rate.
    """

    block_m: int = 128
    block_n: int = 64
    block_k: int = 32
    warps: int = 4
    stages: int = 3
    form: Literal["pointer", "tma", "pairs"] = "pointer"
    accumulate: Literal["fp32", "fp16"] = "fp32"

    def launch_options(self, dtype: torch.dtype, tf32: bool) -> dict[str, Any]:
        """The tiling as a kernel's constants and launch options; fp32 operands are multiplied as tf32 or exactly.

        Raises ValueError where `accumulate` is "fp16" for other operands, or for sums of more than 64 products.
        """
        narrow = self.accumulate == "fp16"
        if narrow and (dtype != torch.float16 or self.block_k > 64):
            raise ValueError(
                f'accumulate must be "fp32" unless operands are torch.float16 and block_k at most 64, got "fp16" for '
                f"{dtype} and {self.block_k}"
            )
        return {
            "BLOCK_M": self.block_m,
            "BLOCK_N": self.block_n,
            "BLOCK_K": self.block_k,
            "PRECISION": "fp16" if narrow else "tf32" if tf32 else "ieee",
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


class PackedWeight(NamedTuple):
    """A convolution's weight as the kernels read it. In 8 bits, output = (products + offsets) * scales."""

    rows: Tensor  # [cout, taps_y * taps_x * c], contiguous; for a transposed convolution its four phases in turn
    taps: tuple[int, int]  # down, across
    stride: int = 1
    scales: Tensor | None = None  # int8 and fp8: fp32 [cout], a step of the input times a step of the weight
    offsets: Tensor | None = None  # int8: int32 [cout], what products lack where the input's zero point is not 0

    @property
    def channels(self) -> int:
        """Of the input, at each tap."""
        return self.rows.shape[1] // (self.taps[0] * self.taps[1])


class TileStats(NamedTuple):
    """The statistics that a convolution takes of its tiles."""

    partials: Tensor  # fp32 [n, tiles, 2, c]: mean and M2, the sum of squares about it
    counts: Tensor  # fp32 [tiles], pixels


class Gate(NamedTuple):
    """What a convolution sums in place of statistics where its result is the gradient of activations.

    The activations are relu(xhat) * dropout_scale where dropout kept them, else 0: their sign alone says where the
    gradient passes.
    """

    activations: Tensor  # [n, h, w, c], laid out as the gradient is
    partials: Tensor  # fp32 [n, tiles, 2, c], receives sum g' and sum g' xhat of each tile, see conv_stats
    dropout_scale: float = 1.0


class Dropout(NamedTuple):
    """A dropout mask, named by its counter; see `reference.dropout_mask`."""

    p: float  # probability that an element becomes 0
    counter: Tensor  # int64 [2]: seed, index of the first picture
    rng_stream: int = 0  # tells the masks of one network apart

    @property
    def scale(self) -> float:
        """What the elements that stay are multiplied by."""
        return 1.0 / (1.0 - self.p)


class Border(NamedTuple):
    """The pixels that a kernel writes around a picture."""

    mode: Literal["reflect", "zero"]
    width: int


class Quantized(NamedTuple):
    """A picture in 8 bits: a level stands for (level - zero) * step."""

    tensor: Tensor  # int8 or float8_e4m3fn
    step: float
    zero: int = 0


class NormActInputs(NamedTuple):
    """What norm_act reads besides a residual, which its gradients read again: dropout(act((y - mean) / std))."""

    y: Tensor  # [n, h, w, c], the pre-norm output of a convolution, pixels of a row side by side
    stats: Tensor | TileStats  # fp32 [n, 2, c]: mean and 1 / std; or the tiles that they are merged from
    slope: float = 0.0  # of the activation below 0: 0 is ReLU, 1 none
    dropout: Dropout | None = None


class PaddedGradient(NamedTuple):
    """The gradient of a convolution's output amid the zeros that the convolution's own gradients read."""

    memory: Tensor  # [n * rows + spare, pitch, c]
    rows: int  # of memory for each picture
    top: int  # where the picture's pixel (0, 0) lies
    left: int
    inside: Tensor  # [n, h, w, c], the gradient
    whole: Tensor  # [n, h + 2 border, w + 2 border, c], with the zeros

    @classmethod
    def unpadded(cls, gradient: Tensor) -> PaddedGradient:
        """A contiguous gradient [n, h, w, c] without zeros around it."""
        return cls(gradient.flatten(0, 1), gradient.shape[1], 0, 0, gradient, gradient)


class Reduced(NamedTuple):
    """A picture [n, h, w, c] and its sums with 1 and xhat over each plane, fp32 [n, 2, c]."""

    picture: Tensor
    sums: Tensor
