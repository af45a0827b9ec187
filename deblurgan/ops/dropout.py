"""Dropout masks drawn by csrc/, one for each (seed, picture, RNG stream)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deblurgan import reference
from deblurgan.ops.common import check_counter, operator, require
from deblurgan.ops.native import _C, address, home_device, launch_target


@operator
def dropout_mask(shape: list[int], p: float, counter: Tensor, rng_stream: int = 0) -> Tensor:
    """Whether dropout keeps each element of [n, c, h, w]: bool, channels_last, on counter's device. See `reference`.

    An element is dropped with probability p in [0, 1). `counter`, int64 [2], holds the seed and the index of the first
    picture; `rng_stream` in [0, 2^31) tells the masks of one network apart. Raises ValueError for other arguments.
    """
    _check_mask(shape, p, counter, rng_stream)
    n, c, h, w = shape
    home = home_device(counter.device)
    draws = counter.to(home)
    out = torch.empty(n, h, w, c, dtype=torch.bool, device=home)
    if out.numel():
        threshold = reference.keep_threshold(p)
        _C.dropout_mask(address(draws), address(out), n, c * h * w, threshold, rng_stream, launch_target(home))
    return out.to(counter.device).permute(0, 3, 1, 2)


def _check_mask(shape: list[int], p: float, counter: Tensor, rng_stream: int) -> None:
    require(len(shape) == 4 and min(shape) >= 0, f"shape must be [n, c, h, w], got {list(shape)}")
    require(math.prod(shape[1:]) <= 2**34, f"shape must have at most 2^34 elements a picture, got {list(shape)}")
    require(0 <= p < 1, f"p must be in [0, 1), got {p}")
    require(0 <= rng_stream < 2**31, f"rng_stream must be in [0, 2^31), got {rng_stream}")
    check_counter(counter, counter.device)


@torch.library.register_fake("deblurgan::dropout_mask")
def _(shape: list[int], p: float, counter: Tensor, rng_stream: int = 0) -> Tensor:
    n, c, h, w = shape
    return counter.new_empty((n, h, w, c), dtype=torch.bool).permute(0, 3, 1, 2)
