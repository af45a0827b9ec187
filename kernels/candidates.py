"""The tilings that are measured on a GPU for a convolution or a gradient: pure functions, without Triton."""

from __future__ import annotations

from deblurgan.kernels.config import ConvConfig, ConvShape, Gpu
from deblurgan.kernels.heuristics import default_config, fitted
from deblurgan.kernels.table import quantized_config

# By kind, the most promising first; "trunk8" is the trunk in 8 bits
CANDIDATES: dict[str, list[ConvConfig]] = {
    "stem": [ConvConfig(128, 64, 64, 4, 3), ConvConfig(256, 64, 64, 8, 3), ConvConfig(64, 64, 64, 4, 3)],
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
    "stem.wgrad": [ConvConfig(64, 64, 64, 4, 3), ConvConfig(64, 64, 128, 4, 2)],
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
# Of the trunk and its gradient by the input, where no block of 64 channels divides theirs: the 96 of `tiny`
UNEVEN = [ConvConfig(128, 32, 32, 4, 4, "tma"), ConvConfig(256, 32, 32, 4, 4, "tma"), ConvConfig(128, 32, 32, 4, 4)]
SHARED_KB = {80: 163, 87: 163, 90: 227, 100: 227, 103: 227, 110: 227}  # of a program, by architecture; elsewhere 99


def candidates(shape: ConvShape, gpu: Gpu) -> list[ConvConfig]:
    """What is measured for a convolution on a GPU: the default first, then `listed`."""
    found = listed(shape, gpu.capability)
    kind, c_in, c_out, pixels, dtype = shape
    if dtype.itemsize == 1:
        default = quantized_config(c_in) if found else None
    else:
        default = default_config(
            kind, c_in=c_in, c_out=c_out, pixels=pixels, dtype=dtype, capability=gpu.capability, sms=gpu.sms
        )
    return list(dict.fromkeys([default, *found])) if default else found


def listed(shape: ConvShape, capability: tuple[int, int]) -> list[ConvConfig]:
    """Those of CANDIDATES and UNEVEN that suit a layer, in blocks no wider than its channels, and an architecture."""
    kind, c_in, c_out, _, dtype = shape
    configs = CANDIDATES["trunk8" if dtype.itemsize == 1 else kind]
    if kind in ("trunk", "trunk.dgrad") and c_in % 64 and dtype.itemsize > 1:
        configs = [*configs, *UNEVEN]
    found = [fitted(config, kind, c_in, c_out) for config in configs]
    return [config for config in dict.fromkeys(found) if config and fits(config, capability, dtype.itemsize)]


def fits(config: ConvConfig, capability: tuple[int, int], element: int) -> bool:
    """Whether a tiling suits an architecture; `element` is the bytes of an operand's element."""
    arch = 10 * capability[0] + capability[1]
    asynchronous = 90 <= arch < 120  # the product reads shared memory while it runs, which takes one buffer more
    buffers = config.stages if asynchronous else config.stages - 1
    shared = element * buffers * (config.block_m + config.block_n) * config.block_k
    if shared + 1024 > 1024 * SHARED_KB.get(arch, 99):
        return False
    # On sm_100 a thread has a row of a half type's tile, whose statistics then take five shuffles a column: 128 columns
    # a thread are an epilogue of 7000 instructions, and it spills
    if 100 <= arch < 120 and element == 2 and config.block_m * config.block_n > 64 * 32 * config.warps:
        return False
    if 100 <= arch < 120 and element == 1 and config.block_m > 128:  # spills in fp8
        return False
    return config.form == "pointer" or arch >= 90


def label(config: ConvConfig) -> str:
    """A tiling in a few words."""
    return f"{config.form} {config.block_m}x{config.block_n}x{config.block_k} w{config.warps} s{config.stages}"
