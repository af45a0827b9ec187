"""Freed memory is kept while it is wanted, and given back at the end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deblurgan import memory

PROGRAM = """
import resource, torch
from deblurgan import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.empty(2**25, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

torch.set_num_threads(1)
plain = faults()
with memory.kept():
    with memory.kept():
        faults()
    inside = faults()
    held = resident()
after = resident()
print(plain, inside, held - after)
"""


@pytest.mark.skipif(not memory.is_kept_here(), reason="this C library has no mallopt")
def test_pages_are_taken_once() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    plain, inside, given_back = map(int, done.stdout.split())
    assert inside < plain / 4, (plain, inside)
    assert given_back > 2**24, given_back


def test_errors_pass_and_end_it() -> None:
    with pytest.raises(RuntimeError, match="inside"), memory.kept():
        raise RuntimeError("inside")
    assert memory._users == 0
