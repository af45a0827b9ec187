"""Which tilings a GPU can launch for a convolution: pure functions, without Triton."""

from __future__ import annotations

import torch

from deblurgan.kernels.config import ConvConfig, ConvShape

# Of shared memory that a program may have, by compute capability; elsewhere 99
SHARED_KB = {(8, 0): 163, (8, 7): 163, (9, 0): 227, (10, 0): 227, (10, 3): 227, (11, 0): 227}
SUMS = 128  # of a thread: with more, registers spill, and what tiles become in shared memory outgrows their operands


def why_not(config: ConvConfig, shape: ConvShape, capability: tuple[int, int]) -> str | None:
    """What a tiling lacks to be launched for a convolution on a GPU; None for nothing.

    `config` may hold anything, since it may come from a file.
    """
    blocks = config.block_m, config.block_n, config.block_k
    if not all(type(number) is int for number in (*blocks, config.warps, config.stages)):
        return "blocks, warps and stages are integers"
    if not all(side in (16, 32, 64, 128, 256) for side in blocks):
        return "blocks are powers of two from 16 to 256"
    if config.warps not in (4, 8) or not 1 <= config.stages <= 8:
        return "warps are 4 or 8, stages 1 to 8"
    tiles = 2 if config.form == "pairs" else 1
    if tiles * config.block_m * config.block_n > SUMS * 32 * config.warps:
        return f"a thread has at most {SUMS} sums"
    allowed = 1024 * SHARED_KB.get(capability, 99)
    if shared_bytes(config, shape.dtype.itemsize, capability) > allowed:
        return f"a program has at most {allowed} bytes of shared memory"
    return _form_lacks(config, shape, capability) or _type_lacks(config, shape)


def shared_bytes(config: ConvConfig, element: int, capability: tuple[int, int]) -> int:
    """That a program has of shared memory, at most; `element` is the bytes of an operand's element."""
    asynchronous = (9, 0) <= capability < (12, 0)  # products read shared memory as they run: a buffer more
    buffers = config.stages if asynchronous else config.stages - 1
    pairs = config.form == "pairs"
    rows = (2 if pairs else 1) * config.block_m + (3 if pairs else 1) * config.block_n
    return element * buffers * rows * config.block_k + 1024


def _form_lacks(config: ConvConfig, shape: ConvShape, capability: tuple[int, int]) -> str | None:
    kind, c_in, c_out, *_ = shape
    if config.form == "tma":
        sides = {
            "trunk": (c_in % config.block_k, c_out % config.block_n),
            "trunk.dgrad": (c_out % config.block_k, c_in % config.block_n),
            "trunk.wgrad": (c_out % config.block_m, c_in % config.block_n),
        }
        if capability < (9, 0) or sides.get(kind) != (0, 0):
            return "tma needs sm_90 or newer, and a trunk's channels in whole blocks"
    elif config.form == "pairs":
        return None if kind in ("up", "down.dgrad") else "pairs are transposed convolutions"
    elif config.form != "pointer":
        return 'form is "pointer", "tma" or "pairs"'
    if kind == "head" and config.block_n < 8 * c_out:
        return "the head needs eight columns for each of its results"
    return None


def _type_lacks(config: ConvConfig, shape: ConvShape) -> str | None:
    if config.accumulate == "fp16":
        right = shape.dtype == torch.float16 and config.block_k <= 64 and not shape.kind.endswith(".wgrad")
        return None if right else "sums in fp16 are of at most 64 products of fp16, of no weight's gradient"
    if config.accumulate != "fp32":
        return 'accumulate is "fp32" or "fp16"'
    if shape.dtype.itemsize == 1 and (shape.kind != "trunk" or config.block_k < 32):
        return "8 bits are the trunk's, 32 products at a time"
    return None
