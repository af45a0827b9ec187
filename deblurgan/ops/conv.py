"""A convolution with the statistics of its output, by our kernel or by cuDNN. Nothing here is known to autograd.

Pictures are bordered, channels last: [n, h + 2b, w + 2b, c].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deblurgan import reference
from deblurgan.kernels.config import ConvConfig, Gate, TileStats
from deblurgan.ops.layers import Layer


def conv_stats(
    layer: Layer, x: Tensor, out: Tensor, *, config: ConvConfig | None, tf32: bool = False
) -> tuple[Tensor, Tensor]:
    """The layer's output y [n, h, w, c] and its planes' mean and 1 / std, fp32 [n, 2, c]; see `conv_tiles`."""
    y, tiles = conv_tiles(layer, x, out, config=config, tf32=tf32)
    return y, merge_tiles(tiles)


def merge_tiles(tiles: TileStats) -> Tensor:
    """The planes' mean and 1 / std, fp32 [n, 2, c], from the statistics of their tiles."""
    from deblurgan.kernels.merge_stats import merge_stats

    n, _, _, c = tiles.partials.shape
    stats = torch.empty(n, 2, c, dtype=torch.float32, device=tiles.partials.device)
    merge_stats(tiles, stats, eps=reference.EPS)
    return stats


def conv_tiles(
    layer: Layer, x: Tensor, out: Tensor, *, config: ConvConfig | None, tf32: bool = False
) -> tuple[Tensor, TileStats]:
    """The layer's output y [n, h, w, c] and the statistics of its tiles.

    x is a whole bordered picture [n, ., ., c], in 8 bits for the layer's 8-bit weight. With a `config` our kernel
    writes y into `out`; without, cuDNN makes y, reading x in place.
    """
    config = layer.fitting(config)
    if x.element_size() == 1 and (layer.quantized is None or config is None):
        raise ValueError(
            f"x must not be {x.dtype}: this {layer.kind} layer has no 8-bit weight, or channels that do not fit"
        )
    if config is None:
        return _library_conv(layer, x, out)
    tiles = empty_tiles(out, tile_total(layer, out, config))
    launch_conv(layer, x, out, tiles, config=config, tf32=tf32)
    return out, tiles


def conv_memory(layer: Layer, n: int, h: int, w: int, *, config: ConvConfig | None, like: Tensor) -> Tensor:
    """Memory in the type of `like` for the layer's output [n, h, w, c]: "tma" writes rows as far apart as it reads
    them."""
    extra = 2 if config and config.form == "tma" else 0
    shape = n, h + extra, w + extra, layer.channels[1]
    return torch.empty(shape, dtype=like.dtype, device=like.device)[:, :h, :w]


def tile_total(layer: Layer, y: Tensor, config: ConvConfig) -> int:
    """The tiles that our kernel cuts a picture of y [n, h, w, c] into."""
    from deblurgan.kernels.conv_stats import tile_count

    h, w, c = y.shape[1:]
    if layer.transposed:
        return 4 * tile_count(h // 2, w // 2, config)
    return tile_count(h, w, config, pitch=y.stride(1) // c)


def launch_conv(
    layer: Layer,
    x: Tensor,
    y: Tensor,
    stats: TileStats | None = None,
    *,
    gate: Gate | None = None,
    config: ConvConfig,
    tf32: bool = False,
) -> None:
    """Our kernel on a whole bordered x, into y; see `kernels.conv_stats`."""
    from deblurgan.kernels import conv_stats as kernels

    if layer.transposed:
        kernels.up_conv_stats(x[:, 1:, 1:], layer.weight, y, stats, gate=gate, config=config, tf32=tf32)
        return
    weight = layer.quantized if layer.quantized and x.element_size() == 1 else layer.weight
    kernels.conv_stats(x, weight, y, stats, gate=gate, config=config, tf32=tf32)


def _library_conv(layer: Layer, x: Tensor, out: Tensor) -> tuple[Tensor, TileStats]:
    """By cuDNN, whose output has the shape of `out`."""
    from deblurgan.kernels.tile_stats import tile_count, tile_stats

    h, w = out.shape[1:3]
    if layer.transposed:
        # of the whole x, whose border is zero: torch would copy its inside, which is not contiguous
        y = F.conv_transpose2d(x.permute(0, 3, 1, 2), layer.library, stride=2, padding=3, output_padding=1)
    else:
        y = F.conv2d(x.permute(0, 3, 1, 2), layer.library, stride=layer.weight.stride)
    y = y.permute(0, 2, 3, 1)[:, :h, :w]  # the stem's last column is not the picture's
    if y.stride(3) != 1 or y.stride(2) != y.shape[3]:
        y = y.contiguous()
    tiles = empty_tiles(y, tile_count(h, w))
    tile_stats(y, tiles)
    return y, tiles


def empty_tiles(y: Tensor, total: int) -> TileStats:
    """Memory for the statistics of `total` tiles of each picture of y [n, h, w, c]."""
    partials = torch.empty(y.shape[0], total, 2, y.shape[3], dtype=torch.float32, device=y.device)
    return TileStats(partials, torch.empty(total, dtype=torch.float32, device=y.device))
