"""The tilings that are measured on a GPU for a convolution or a gradient: pure functions, without Triton."""

from __future__ import annotations

from dataclasses import replace

import torch

from deblurgan.kernels.config import ConvConfig, ConvShape, Gpu
from deblurgan.kernels.heuristics import fitted
from deblurgan.kernels.limits import why_not
from deblurgan.kernels.table import default_for

# By kind, the most promising first; "trunk8" is the trunk in 8 bits
CANDIDATES: dict[str, list[ConvConfig]] = {
    "stem": [ConvConfig(128, 64, 32, 4, 4), ConvConfig(256, 64, 32, 8, 4), ConvConfig(64, 64, 32, 4, 4)],
    "down": [ConvConfig(128, 128, 64, 8, 3), ConvConfig(128, 64, 64, 4, 3), ConvConfig(64, 128, 64, 8, 3)],
    "trunk": [
        ConvConfig(128, 128, 64, 4, 3, "tma"),  # two programs on an SM of sm_90
        ConvConfig(128, 256, 64, 8, 3, "tma"),
        ConvConfig(128, 256, 64, 8, 4, "tma"),
        ConvConfig(64, 256, 64, 4, 4, "tma"),
        ConvConfig(256, 128, 64, 8, 3, "tma"),
        ConvConfig(128, 128, 64, 8, 4, "tma"),
        ConvConfig(128, 128, 128, 4, 2, "tma"),
        ConvConfig(64, 128, 64, 4, 4, "tma"),  # this and the next for small pictures: many programs
        ConvConfig(128, 64, 64, 4, 4, "tma"),
        ConvConfig(128, 128, 32, 4, 4),
        ConvConfig(128, 256, 32, 8, 3),
        ConvConfig(128, 128, 64, 8, 3),
        ConvConfig(64, 128, 64, 4, 4),
    ],
    "trunk8": [
        ConvConfig(128, 128, 128, 8, 4, "tma"),
        ConvConfig(128, 256, 128, 8, 3, "tma"),
        ConvConfig(256, 128, 128, 8, 3, "tma"),
        ConvConfig(128, 128, 128, 4, 3, "tma"),
        ConvConfig(64, 128, 128, 4, 4, "tma"),
    ],
    "up": [ConvConfig(128, 128, 64, 8, 3), ConvConfig(128, 64, 64, 4, 3), ConvConfig(64, 64, 64, 4, 2)],
    "head": [  # five rows of results in 128 columns, two in 64
        ConvConfig(128, 128, 64, 8, 3),
        ConvConfig(256, 128, 64, 8, 3),
        ConvConfig(64, 128, 64, 4, 3),
        ConvConfig(128, 64, 64, 4, 3),
    ],
}
# Gradients of pictures are convolutions too, without statistics. Those of weights are block_m results of a layer by
# block_n of its inputs at one tap, summed over block_k pixels at a time
CANDIDATES |= {
    "down.dgrad": CANDIDATES["up"],
    "trunk.dgrad": CANDIDATES["trunk"],
    "up.dgrad": CANDIDATES["down"],
    "head.dgrad": CANDIDATES["stem"],
    "stem.wgrad": [ConvConfig(64, 32, 64, 4, 3), ConvConfig(64, 32, 128, 4, 3)],
    "down.wgrad": [ConvConfig(128, 64, 64, 4, 3), ConvConfig(128, 128, 64, 8, 3)],
    "trunk.wgrad": [
        ConvConfig(128, 128, 64, 4, 3, "tma"),
        ConvConfig(128, 256, 64, 8, 3, "tma"),
        ConvConfig(128, 256, 64, 8, 4, "tma"),
        ConvConfig(128, 128, 64, 8, 4, "tma"),
        ConvConfig(128, 128, 64, 8, 3),
        ConvConfig(128, 128, 32, 4, 4),
    ],
}
CANDIDATES |= {"up.wgrad": CANDIDATES["down.wgrad"], "head.wgrad": CANDIDATES["stem.wgrad"]}
# For some layers or GPUs alone
UNEVEN = [ConvConfig(128, 32, 32, 4, 4, "tma"), ConvConfig(256, 32, 32, 4, 4, "tma"), ConvConfig(128, 32, 32, 4, 4)]
POINTER8 = [ConvConfig(128, 128, 64, 4, 4), ConvConfig(64, 128, 128, 4, 3), ConvConfig(128, 128, 128, 8, 3)]
PAIRS = [ConvConfig(128, 64, 32, 4, 3, "pairs"), ConvConfig(64, 64, 64, 4, 3, "pairs")]


def candidates(shape: ConvShape, gpu: Gpu) -> list[ConvConfig]:
    """What is measured for a convolution on a GPU: the default first, if there is one, then those of `listed`, and more
    where channels are uneven, phases may come in pairs, or 8 bits may be read by pointers.

    Empty where the GPU or the channels do not go with 8 bits. Where the default sums fp16 in fp16, all do.
    """
    kind, c_in, dtype = shape.kind, shape.c_in, shape.dtype
    if dtype.itemsize == 1 and (c_in % 32 or gpu.capability < ((8, 0) if dtype == torch.int8 else (8, 9))):
        return []
    default = default_for(shape, gpu)
    found = listed(shape, gpu.capability)
    if dtype.itemsize == 1:
        found += _suitable(POINTER8, shape, gpu.capability)
    elif kind in ("trunk", "trunk.dgrad") and c_in % 64:
        found += _suitable(UNEVEN, shape, gpu.capability)
    elif kind in ("up", "down.dgrad"):
        found += _suitable(PAIRS, shape, gpu.capability)
    if default and default.accumulate == "fp16":
        found = [replace(config, accumulate="fp16") for config in found if config.block_k <= 64]
    return list(dict.fromkeys([default, *found] if default else found))


def listed(shape: ConvShape, capability: tuple[int, int]) -> list[ConvConfig]:
    """Those of CANDIDATES that suit a layer, in blocks no wider than its channels, and an architecture."""
    return _suitable(CANDIDATES["trunk8" if shape.dtype.itemsize == 1 else shape.kind], shape, capability)


def _suitable(configs: list[ConvConfig], shape: ConvShape, capability: tuple[int, int]) -> list[ConvConfig]:
    found = dict.fromkeys(fitted(config, shape.kind, shape.c_in, shape.c_out) for config in configs)
    launched = (config for config in found if config and why_not(config, shape, capability) is None)
    return [config for config in launched if not spills(config, shape.dtype, capability)]


def spills(config: ConvConfig, dtype: torch.dtype, capability: tuple[int, int]) -> bool:
    """Whether a tile of operands of a type is more than the registers hold, as compiling them has shown for sm_100.

    A thread has a row of a half type's tile there, whose statistics then take five shuffles a column: 128 columns a
    thread are an epilogue of 7000 instructions.
    """
    if not (10, 0) <= capability < (12, 0):
        return False
    if dtype.itemsize == 1:
        return config.block_m > 128
    return config.block_m * config.block_n > 64 * 32 * config.warps


def label(config: ConvConfig) -> str:
    """A tiling in a few words."""
    sums = " fp16" if config.accumulate == "fp16" else ""
    return f"{config.form} {config.block_m}x{config.block_n}x{config.block_k} w{config.warps} s{config.stages}{sums}"
