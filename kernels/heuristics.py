"""How a convolution is tiled on a GPU that nobody has measured: defaults by capability and shape, without Triton.

What the tilings go by, for operands of half types (M x N x K / warps / stages):

- A stage holds (M + N) K operands in shared memory, and each program reads (M + N) / (M N) operands from L2 for a
  product: large tiles read less. Small ones keep more of the SMs busy where the picture is small.
- sm_80 and the GeForce family (sm_86, 89, 120: 99 KB a program) copy by pointers (cp.async). 128x128x32 with four
  stages takes 48 KB, so that two programs share an SM: one multiplies while the other takes statistics and stores.
- sm_90 multiplies from shared memory that TMA fills: 128x256x64 has the fewest bytes for a product that its registers
  allow. A 3x3 convolution of stride 1 can be read that way, see conv_stats.
- Where channels are fewer than a block's, the block shrinks to the next power of two.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from deblurgan.kernels.config import ConvConfig

HALF = (torch.float16, torch.bfloat16)
FAMILIES = {(8, 0): "sm_80", (8, 7): "sm_80", (8, 6): "sm_86", (8, 9): "sm_86", (12, 0): "sm_86", (12, 1): "sm_86"}
FAMILIES |= {(9, 0): "sm_90", (10, 0): "sm_100", (10, 3): "sm_100", (11, 0): "sm_100"}

_POINTER = ConvConfig(128, 128, 32, 4, 4)
_WIDE = ConvConfig(128, 128, 64, 8, 3)
_NARROW = ConvConfig(128, 64, 64, 4, 3)
_THIN = ConvConfig(128, 32, 32, 4, 4)  # for 96 channels, as `tiny` has: of 128 columns a quarter would be idle
_SQUARE = ConvConfig(64, 64, 64, 4, 3)

# Tilings by kind and family, the largest first: the first that keeps the SMs busy is taken, else the last. A family
# without a tiling leaves the layer to cuDNN, as benchmarks.roofline estimates: on sm_100 two programs that share their
# operands halve what a product reads, which Triton cannot, and statistics leave our tiles 64 sums a thread; on sm_90
# the weights' gradients outside the trunk are bound by L2
DEFAULTS: dict[str, dict[str, tuple[ConvConfig, ...]]] = {
    "trunk": {
        "sm_80": (_POINTER, ConvConfig(64, 128, 64, 4, 4), _SQUARE),
        "sm_86": (_POINTER, ConvConfig(64, 128, 64, 4, 3)),
        "sm_90": (
            ConvConfig(128, 256, 64, 8, 3, "tma"),
            ConvConfig(128, 128, 64, 4, 3, "tma"),  # two an SM
            ConvConfig(64, 128, 64, 4, 4, "tma"),
        ),
    },
    "stem": {"sm_80": (_NARROW,), "sm_86": (_NARROW,), "sm_90": (_NARROW,)},
    "down": {"sm_80": (_POINTER, _NARROW), "sm_86": (_NARROW,), "sm_90": (_POINTER, _NARROW)},
    "up": {"sm_80": (_POINTER, _NARROW), "sm_86": (_NARROW,), "sm_90": (_POINTER, _NARROW), "sm_100": (_NARROW,)},
    "head": {"sm_80": (_WIDE,), "sm_86": (ConvConfig(64, 128, 64, 4, 3),), "sm_90": (_WIDE,), "sm_100": (_NARROW,)},
    "trunk.wgrad": {
        "sm_80": (_POINTER,),
        "sm_86": (_POINTER,),
        "sm_90": (ConvConfig(128, 256, 64, 8, 3, "tma"),),
    },
    "down.wgrad": {"sm_80": (_NARROW,), "sm_86": (_NARROW,)},
    "up.wgrad": {"sm_80": (_NARROW,), "sm_86": (_NARROW,), "sm_90": (_WIDE,)},
    "stem.wgrad": {"sm_80": (_SQUARE,), "sm_86": (_SQUARE,)},
}
DEFAULTS |= {"head.wgrad": DEFAULTS["stem.wgrad"]}
# The gradient by a layer's input is a convolution of this kind
ADJOINTS = {"down.dgrad": "up", "trunk.dgrad": "trunk", "up.dgrad": "down", "head.dgrad": "stem"}
BUSY = 0.86  # share of the SMs' time, below which smaller tiles are estimated to be faster
PACKED = 64  # channels of the stem's taps, see ops.layers.stem_layer


def default_config(
    kind: str,
    *,
    c_in: int,
    c_out: int,
    pixels: int,
    dtype: torch.dtype,
    capability: tuple[int, int] | None,
    sms: int,
) -> ConvConfig | None:
    """The tiling of a layer's convolution or gradient, see `config.ConvShape`; None leaves it to cuDNN.

    `capability` and `sms` are the GPU's; without one `capability` is None. The head has a tiling in any case.
    """
    family = FAMILIES.get(capability) if capability else None
    if kind == "head" and (family is None or dtype not in HALF):
        return head_default(c_in, dtype)
    product = ADJOINTS.get(kind, kind)
    tilings = DEFAULTS.get(product, {}).get(family or "", ())
    if dtype not in HALF or not tilings:
        return None
    if kind.endswith(".wgrad"):
        return _weight_gradient(tilings[0], kind, c_in, c_out)
    c, columns, outputs = _product(kind, c_in, c_out, pixels)
    if family == "sm_100" and product == "up" and (columns or 0) > 64:
        return None
    if product == "trunk" and columns and columns > 64 and columns % 64 == 32:
        tilings = (_THIN,) if family == "sm_86" else (_POINTER, _THIN)
    fitted = _all_fitted(tilings, c, columns)
    if not all(_fills(tiling, c, columns) for tiling in fitted):
        fitted = _all_fitted(DEFAULTS["trunk"]["sm_80"], c, columns)
    busy = (tiling for tiling in fitted if busy_share(programs(tiling, outputs, columns), sms) >= BUSY)
    return next(busy, fitted[-1])


def head_default(c_in: int, dtype: torch.dtype) -> ConvConfig:
    """The head's tiling on any GPU. It is fused with all that follows it, so cuDNN is no choice."""
    return _fitted(ConvConfig(64, 64, 32) if dtype == torch.float32 else _WIDE, c_in, None)


def programs(config: ConvConfig, pixels: int, columns: int | None) -> int:
    """How many make a result of so many pixels and columns, None for one block of them."""
    return math.ceil(pixels / config.block_m) * (math.ceil(columns / config.block_n) if columns else 1)


def busy_share(count: int, sms: int) -> float:
    """Of the SMs' time while so many programs take turns on them."""
    return count / (sms * math.ceil(count / sms))


def _product(kind: str, c_in: int, c_out: int, pixels: int) -> tuple[int, int | None, int]:
    """Channels that each tap sums over, columns of the result (None for the head, whose weight is packed for its
    block), and its pixels."""
    if kind == "down.dgrad":
        return c_out, c_in, 4 * pixels
    if kind == "up.dgrad":
        return c_out, c_in, pixels // 4
    if kind == "trunk.dgrad":
        return c_out, c_in, pixels
    if kind in ("stem", "head.dgrad"):
        return PACKED, c_out if kind == "stem" else c_in, pixels
    return c_in, None if kind == "head" else c_out, pixels


def _weight_gradient(config: ConvConfig, kind: str, c_in: int, c_out: int) -> ConvConfig:
    """block_m of a layer's results by block_n of its inputs, of a transposed one the other way about."""
    rows, columns = (c_in, c_out) if kind in ("up.wgrad", "head.wgrad") else (c_out, c_in)
    if kind in ("stem.wgrad", "head.wgrad"):
        columns = PACKED
    if config.form == "tma" and (rows % config.block_m or columns % config.block_n):
        config = _POINTER
    return _narrowed(replace(config, block_m=min(config.block_m, _power_of_two(rows))), columns)


def _all_fitted(tilings: tuple[ConvConfig, ...], c: int, columns: int | None) -> list[ConvConfig]:
    """Of tilings that fitting makes alike in pixels and columns, the last: it was meant for as few."""
    fitted = [_fitted(tiling, c, columns) for tiling in tilings]
    return list({(tiling.block_m, tiling.block_n): tiling for tiling in fitted}.values())


def _fitted(config: ConvConfig, c: int, columns: int | None) -> ConvConfig:
    """The tiling with no more columns and channels a step than there are."""
    if columns is not None:
        config = _narrowed(config, columns)
    if config.form == "tma":
        return config
    steps = [size for size in (128, 64, 32, 16) if size <= config.block_k and (size > 16 or c <= 16)]
    return replace(config, block_k=min(steps, key=lambda size: -(-c // size) * size))


def _fills(config: ConvConfig, c: int, columns: int | None) -> bool:
    """Whether channels and columns are whole blocks where the form needs that."""
    return config.form == "pointer" or (c % config.block_k == 0 and (columns or 0) % config.block_n == 0)


def _narrowed(config: ConvConfig, columns: int) -> ConvConfig:
    """With block_n no larger than the columns need, and fewer warps where that leaves each one little."""
    block_n = min(config.block_n, _power_of_two(columns))
    return replace(config, block_n=block_n, warps=max(4, config.warps * block_n // config.block_n))


def _power_of_two(number: int) -> int:
    """The next one from 16 on, the least side of a product on tensor cores."""
    return max(16, 1 << (number - 1).bit_length())
