"""Prints page faults without and within `retain_freed`, the bytes that its end gives back, and page faults afterwards.

With --fail an error ends it.
"""

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

from deblurgan import memory


def faults() -> int:
    """Page faults of eight large tensors, each freed before the next."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.empty(2**25, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    """Bytes of memory that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


torch.set_num_threads(1)
plain = faults()
with suppress(InterruptedError), memory.retain_freed():
    with memory.retain_freed():
        faults()
    within = min(faults() for _ in range(4))  # now and then a small block settles in the room that a tensor left
    held = resident()
    if "--fail" in sys.argv:
        raise InterruptedError
given_back = held - resident()
print(plain, within, given_back, faults())
