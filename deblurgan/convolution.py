"""A convolution with the statistics of its result, by our kernel or by cuDNN, on bordered channels-last pictures.

What both ways need is packed once, in a `Layer`. Inference only: nothing here has a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deblurgan import reference

# The two lines of each axis that a phase of a transposed convolution reads, as rows or columns of its 3x3 weight
PHASE_TAPS = ((1,), (2, 0))


class EightBit(NamedTuple):
    """A convolution's weights in 8 bits, a scale for each output channel."""

    packed: Tensor  # int8 [cout, taps_y * taps_x * c]
    scales: Tensor  # fp32 [cout], what a step of the input times a step of the weight stands for


@dataclass(frozen=True)
class Layer:
    """A convolution's weights, packed for our kernel and for cuDNN."""

    kind: str  # "stem", "down", "trunk" or "up": the kernels' table goes by it
    packed: tuple[Tensor, ...]  # [cout, taps_y * taps_x * c], one, or one a phase
    taps: tuple[tuple[int, int], ...]
    library: Tensor
    stride: int = 1
    eighth: EightBit | None = None


def packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """[cout, c, kh, kw] as [cout, kh * kw * c]."""
    return weight.detach().permute(0, 2, 3, 1).reshape(weight.shape[0], -1).to(dtype).contiguous()


def _library(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)


def plain(kind: str, weight: Tensor, dtype: torch.dtype, *, stride: int = 1) -> Layer:
    """The layer of weight [cout, c, kh, kw]."""
    taps = (weight.shape[2], weight.shape[3])
    return Layer(kind, (packed(weight, dtype),), (taps,), _library(weight, dtype), stride)


def eight_bit(weight: Tensor, step: float) -> EightBit:
    """weight [cout, c, kh, kw] for inputs in steps of `step`."""
    rows = packed(weight, torch.float32)
    scale = rows.abs().amax(1).clamp(min=1e-30) / 127
    return EightBit((rows / scale[:, None]).round().to(torch.int8), scale * step)


def stem(weight: Tensor, dtype: torch.dtype) -> Layer:
    """The layer of weight [cout, c <= 8, 7, 7] on `pack_image`'s pictures of eight channels.

    Each row is one tap of eight pixels; what the picture lacks weighs nothing.
    """
    missing = 8 - weight.shape[1]
    run = F.pad(weight.detach(), (0, 1, 0, 0, 0, missing))  # [cout, 8, 7, 8]
    return Layer("stem", (packed(run, dtype),), ((7, 1),), _library(F.pad(weight, (0, 0, 0, 0, 0, missing)), dtype))


def up(weight: Tensor, dtype: torch.dtype) -> Layer:
    """The transposed layer of weight [c, cout, 3, 3], stride 2.

    Output pixel (2a + u, 2b + v) belongs to phase (u, v), a convolution of at most four taps from (a, b) on.
    """
    weight = weight.detach()
    phases = [weight[:, :, PHASE_TAPS[u]][:, :, :, PHASE_TAPS[v]].transpose(0, 1) for u in (0, 1) for v in (0, 1)]
    taps = tuple((phase.shape[2], phase.shape[3]) for phase in phases)
    return Layer("up", tuple(packed(phase, dtype) for phase in phases), taps, _library(weight, dtype))


def fitting(layer: Layer, config: Any | None) -> Any | None:
    """The configuration if the layer's channels fill its blocks, which "tma" needs; else None, which means cuDNN."""
    if config is None or config.form != "tma":
        return config
    cout, k = layer.packed[0].shape
    c = k // (layer.taps[0][0] * layer.taps[0][1])
    return config if c % config.block_k == 0 and cout % config.block_n == 0 else None


def conv_stats(
    layer: Layer, x: Tensor, out: Tensor, *, config: Any | None, tf32: bool = False
) -> tuple[Tensor, Tensor]:
    """The layer's result y [n, h, w, c] and its planes' mean and 1 / std, fp32 [n, 2, c].

    x is a whole bordered picture [n, ., ., c], int8 for the layer's 8-bit weights. With a `config` our kernel writes y
    into `out`; without, cuDNN makes y, reading x where it lies.
    """
    from deblurgan.kernels.merge_stats import merge_stats

    config = fitting(layer, config)
    if x.dtype == torch.int8:
        y, partials, counts = _eight_bit(layer, x, out, config)
    elif config:
        y, partials, counts = _ours(layer, x, out, config, tf32)
    else:
        y, partials, counts = _cudnn(layer, x, out)
    stats = torch.empty(y.shape[0], 2, y.shape[3], device=y.device)
    merge_stats(partials, counts, stats, eps=reference.EPS)
    return y, stats


def _ours(layer: Layer, x: Tensor, y: Tensor, config: Any, tf32: bool) -> tuple[Tensor, Tensor, Tensor]:
    from deblurgan.kernels.conv_stats import conv_stats, tile_count

    transposed = layer.kind == "up"
    parts = [y[:, u::2, v::2] for u in (0, 1) for v in (0, 1)] if transposed else [y]
    source = x[:, 1:, 1:] if transposed else x
    tiles = tile_count(parts[0].shape[1], parts[0].shape[2], config)
    partials, counts = _partials(y, tiles * len(parts))
    for i, (part, weight, taps) in enumerate(zip(parts, layer.packed, layer.taps, strict=True)):
        conv_stats(
            source,
            weight,
            part,
            partials,
            counts,
            taps=taps,
            stride=layer.stride,
            first_tile=i * tiles,
            config=config,
            tf32=tf32,
        )
    return y, partials, counts


def _eight_bit(layer: Layer, x: Tensor, y: Tensor, config: Any) -> tuple[Tensor, Tensor, Tensor]:
    from deblurgan.kernels.conv_stats import conv_stats, tile_count

    if layer.eighth is None or config is None:
        raise ValueError(
            f"x must not be int8: this {layer.kind} layer has no 8-bit weights, or channels that do not fit"
        )
    weight, scales = layer.eighth
    partials, counts = _partials(y, tile_count(y.shape[1], y.shape[2], config))
    conv_stats(x, weight, y, partials, counts, taps=layer.taps[0], config=config, scales=scales)
    return y, partials, counts


def _cudnn(layer: Layer, x: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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


def _partials(y: Tensor, tiles: int) -> tuple[Tensor, Tensor]:
    return torch.empty(y.shape[0], tiles, 2, y.shape[3], device=y.device), torch.empty(tiles, device=y.device)
