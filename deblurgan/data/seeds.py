"""Seeds: every random number of a training comes from the run's seed and the numbers of what it is drawn for."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class RngStream(IntEnum):
    """What a random number is for. Each purpose draws from a stream of its own."""

    ORDER = 0
    """The order of the pictures in an epoch."""
    CROP = 1
    """Where a crop lies, how far its picture is reduced, and whether it is mirrored."""
    KERNEL = 2
    """The blur kernel of a training crop."""
    WHOLE = 3
    """The blur kernel of a whole picture, in validation."""
    DROPOUT = 4
    """Dropout masks of the generator."""
    ALPHA = 5
    """Where between a sharp and a restored picture the gradient penalty is taken."""


def derived_seed(rng_stream: RngStream, seed: int, *numbers: int) -> int:
    """A seed in [0, 2^63) that depends on every argument; two argument lists of one length never share a stream."""
    words = [part for number in (seed, *numbers) for part in (number & 0xFFFFFFFF, number >> 32)]
    return int(np.random.SeedSequence([int(rng_stream), *words]).generate_state(1, np.uint64)[0] >> np.uint64(1))
