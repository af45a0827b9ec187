"""Which elements dropout keeps: a Philox counter for each four channels, so any kernel can draw a mask again."""

from __future__ import annotations

import triton
import triton.language as tl

from deblurgan.kernels.config import Dropout

FIRST_RNG_STREAM = tl.constexpr(16)  # of block 0; those below belong to the blur


@triton.jit
def keep_mask(
    counter,  # int64 [2]: seed, index of the first picture
    image,  # number of the picture
    row,
    x,  # [BLOCK_P], pixels of the row
    first,  # channel, a multiple of 4
    w,
    rng_stream,  # number of the block
    C: tl.constexpr,  # a multiple of 4
    THRESHOLD: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """word(e) >= THRESHOLD for channels `first` on: int1 [BLOCK_P, BLOCK_C]; see `reference.dropout_mask`."""
    group = first // 4 + tl.arange(0, BLOCK_C // 4)
    draw = (row * w + x).to(tl.uint32)[:, None] * (C // 4) + group.to(tl.uint32)[
        None, :
    ]  # below 2^32 by `keep_threshold`
    index = tl.load(counter + 1) + image
    zero = tl.zeros_like(draw)
    low = (index & 0xFFFFFFFF).to(tl.uint32) + zero
    high = ((index >> 32) & 0xFFFFFFFF).to(tl.uint32) + zero
    a, b, c, d = tl.philox(tl.load(counter), low, high, draw, (rng_stream + FIRST_RNG_STREAM).to(tl.uint32) + zero)
    words = tl.interleave(tl.interleave(a, c), tl.interleave(b, d))  # [BLOCK_P, BLOCK_C]: a b c d a b c d ...
    return words >= THRESHOLD


def keep_threshold(dropout: Dropout | None, h: int, w: int, c: int) -> int:
    """The least word that keeps an element of [., c, h, w], 0 without dropout.

    Raises ValueError where the counter has too few numbers.
    """
    if dropout is None:
        return 0
    if not 0 < dropout.p < 1:
        raise ValueError(f"p must be in (0, 1), got {dropout.p}")
    if c % 4 or h * w * c > 2**34:
        raise ValueError(f"dropout needs channels in fours and at most 2^34 elements a picture, got {c} of {h}x{w}")
    return min(round(dropout.p * 2**32), 2**32 - 1)  # as reference.keep_threshold, which kernels do not import
