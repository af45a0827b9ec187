"""How a convolution is tiled on a GPU that nobody has measured: defaults by capability and shape, without Triton.

What the tilings go by, for operands of half types (M x N x K / warps / stages):

- A stage holds (M + N) K operands in shared memory, and each program reads (M + N) / (M N) operands from L2 for a
  product: large tiles read less. Small ones keep more of the SMs busy where the picture is small.
- sm_80 and the GeForce family (sm_86, 89, 120: 99 KB a program) copy by pointers (cp.async). 128x128x32 with four
  stages takes 48 KB, so that two programs share an SM: one multiplies while the other takes statistics and stores.
- sm_90 multiplies from shared memory that TMA fills: 128x256x64 has the fewest bytes for a product that its registers
  allow. A 3x3 convolution of stride 1 can be read that way, see conv_stats.
- GeForce GPUs multiply fp16 twice as fast where sums are fp16 too: those of 64 products are, at most, and theirs fp32.
- Where channels are fewer than a block's, the block shrinks to the next power of two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from deblurgan.kernels.config import PACKED_TAP, ConvConfig

HALF = (torch.float16, torch.bfloat16)
FAMILIES = {(8, 0): "sm_80", (8, 7): "sm_80", (8, 6): "sm_86", (8, 9): "sm_86", (12, 0): "sm_86", (12, 1): "sm_86"}
FAMILIES |= {(9, 0): "sm_90", (10, 0): "sm_100", (10, 3): "sm_100", (11, 0): "sm_100"}

_POINTER = ConvConfig(128, 128, 32, 4, 4)  # two programs an SM
_WIDE = ConvConfig(128, 128, 64, 8, 3)  # of the head: five rows of results in 128 columns, two in 64
_NARROW = ConvConfig(128, 64, 64, 4, 3)  # for 64 channels, or twice the programs
_THIN = ConvConfig(128, 32, 32, 4, 4)  # for 96 channels, as `tiny` has: of 128 columns a quarter would be idle
_PAIRS = ConvConfig(128, 64, 32, 4, 3, "pairs")  # reads the picture less often; with more columns the weights more
_SQUARE = ConvConfig(64, 64, 64, 4, 3)
_RUNS = ConvConfig(128, 64, 32, 4, 4)  # a tap of the stem has 32 channels

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
    "stem": {
        "sm_80": (_RUNS,),
        "sm_86": (ConvConfig(128, 64, 32, 8, 4),),  # with four warps sums in fp16 beside those in fp32 spill
        "sm_90": (_RUNS,),
    },
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
PACKED = math.prod(PACKED_TAP)  # channels of the stem's taps, see ops.layers.stem_layer


def default_config(
    kind: str,
    *,
    c_in: int,
    c_out: int,
    pixels: int,
    dtype: torch.dtype,
    capability: tuple[int, int] | None,
    sms: int,
    geforce: bool = False,
) -> ConvConfig | None:
    """The tiling of a layer's convolution or gradient, see `config.ConvShape`; None leaves it to cuDNN.

    `capability` and `sms` are the GPU's; without one `capability` is None. `geforce`: it multiplies fp16 with sums in
    fp32 at half its rate. The head has a tiling in any case, and so have the residual blocks in 8 bits.
    """
    family = FAMILIES.get(capability) if capability else None
    if kind == "trunk" and dtype.itemsize == 1:
        return quantized_config(c_in, family, pixels, sms)
    if kind == "head" and (family is None or dtype not in HALF):
        return head_default(c_in, dtype)
    if dtype not in HALF or family is None:
        return None
    if kind.endswith(".wgrad"):
        tilings = DEFAULTS[kind].get(family)
        return _weight_gradient(tilings[0], kind, c_in, c_out) if tilings else None
    config = _convolution(kind, family, *_product(kind, c_in, c_out, pixels), sms)
    if config and geforce and dtype == torch.float16 and "." not in kind:
        return replace(config, accumulate="fp16")
    return config


def _convolution(kind: str, family: str, c: int, columns: int | None, outputs: int, sms: int) -> ConvConfig | None:
    """Of c channels at each tap to so many columns, None for the head's, and pixels."""
    tilings = _tilings(ADJOINTS.get(kind, kind), family, columns or 0)
    if not tilings:
        return None
    fitted = _all_fitted(tilings, c, columns)
    if not all(_fills(tiling, c, columns) for tiling in fitted):  # channels that tma cannot take are for pointers
        fitted = _all_fitted(DEFAULTS["trunk"]["sm_80"], c, columns)
    return _first_busy(fitted, outputs, columns, sms)


def _tilings(kind: str, family: str, columns: int) -> tuple[ConvConfig, ...]:
    """Those of DEFAULTS, or others that suit so many columns better."""
    tilings = DEFAULTS.get(kind, {}).get(family, ())
    if kind == "up" and columns <= 64 and family in ("sm_80", "sm_90"):
        return (_PAIRS,)
    if kind == "up" and columns > 64 and family == "sm_100":  # cuDNN's, by estimate
        return ()
    if kind == "trunk" and columns > 64 and columns % 64 == 32 and tilings:
        return (_THIN,) if family == "sm_86" else (_POINTER, _THIN)
    return tilings


def _first_busy(tilings: Sequence[ConvConfig], outputs: int, columns: int | None, sms: int) -> ConvConfig:
    """The first whose programs keep the SMs busy, else the last, whose are the most."""
    busy = (tiling for tiling in tilings if busy_share(programs(tiling, outputs, columns), sms) >= BUSY)
    return next(busy, tilings[-1])


def quantized_config(channels: int, family: str | None = None, pixels: int = 0, sms: int = 1) -> ConvConfig:
    """How a trunk convolution of so many channels runs in 8 bits, which cuDNN does not offer.

    Raises ValueError where its channels are not a multiple of 32, the least that a product of 8 bits sums over.
    """
    if channels % 32:
        raise ValueError(f"quantize must be None unless channels are a multiple of 32, got {channels} channels")
    block = max(size for size in (32, 64, 128) if channels % size == 0)
    if family not in ("sm_80", "sm_86"):
        return ConvConfig(128, block, block, 8, 4, "tma")
    tilings = [ConvConfig(128, block, min(block, 64), 4, 4)]
    if block == 128:
        tilings.append(ConvConfig(64, 128, 128, 4, 3))
    return _first_busy(tilings, pixels, channels, sms)


def head_default(c_in: int, dtype: torch.dtype) -> ConvConfig:
    """The head's tiling on any GPU. It is fused with all that follows it, so cuDNN is no choice."""
    return _fitted(ConvConfig(64, 64, 32) if dtype == torch.float32 else _WIDE, c_in, None)


def fitted(config: ConvConfig, kind: str, c_in: int, c_out: int) -> ConvConfig | None:
    """The tiling in blocks no wider than a layer's channels need; None where its form needs whole blocks of them."""
    if kind.endswith(".wgrad"):
        return _weight_gradient(config, kind, c_in, c_out)
    c, columns, _ = _product(kind, c_in, c_out, pixels=1)
    config = _fitted(config, c, columns)
    return config if _fills(config, c, columns) else None


def programs(config: ConvConfig, pixels: int, columns: int | None) -> int:
    """How many make a result of so many pixels and columns, None for one block of them. At least one."""
    return max(1, math.ceil(pixels / config.block_m)) * (math.ceil(columns / config.block_n) if columns else 1)


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
    fitted = (_fitted(tiling, c, columns) for tiling in tilings)
    return list({(tiling.block_m, tiling.block_n): tiling for tiling in fitted}.values())


def _fitted(config: ConvConfig, c: int, columns: int | None) -> ConvConfig:
    """The tiling with no more columns than there are, and the steps of fewest zeros through the channels."""
    if columns is not None:
        config = _narrowed(config, columns)
    if config.form == "tma":
        return config
    steps = [size for size in (128, 64, 32, 16) if size <= config.block_k and (size > 16 or c <= 16)]
    return replace(config, block_k=min(steps, key=lambda size: -(-c // size) * size))


def _fills(config: ConvConfig, c: int, columns: int | None) -> bool:
    """Whether channels and columns are whole blocks where the form needs that."""
    return config.form != "tma" or (c % config.block_k == 0 and (columns or 0) % config.block_n == 0)


def _narrowed(config: ConvConfig, columns: int) -> ConvConfig:
    """With block_n no larger than the columns need, and fewer warps where that leaves each one little."""
    block_n = min(config.block_n, _power_of_two(columns))
    return replace(config, block_n=block_n, warps=max(4, config.warps * block_n // config.block_n))


def _power_of_two(number: int) -> int:
    """The next one from 16 on, the least side of a product on tensor cores."""
    return max(16, 1 << (number - 1).bit_length())
