"""How the generator's kernels follow one another: each starts while the one before it in its stream ends.

That is CUDA's programmatic dependent launch, of sm_90 and newer. It hides what a launch costs, about 1 us, behind the
kernel before. Every kernel launched so calls `wait_for_previous` before it touches memory, and then it is as safe as
launches in turn:

    The wait ends when the kernel before has ended and what it wrote can be read. That one had waited too, so all before
    it have ended as well: memory that any of them wrote may be read, memory that any read may be written.
    The next kernel may start only after this one's wait, so that two overlap at most.
    Kernels and copies of others are launched in turn, or wait themselves: they follow the ends of our kernels, ours
    follow theirs. Other streams wait for events, which are recorded at ends.
    In a CUDA graph it is an edge between two kernels, of a type that CUDA 12.3 introduced.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os

import triton
import triton.language as tl
from triton import knobs
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.runtime import driver


@triton.jit
def wait_for_previous(PDL: tl.constexpr):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()


def launch_early() -> dict[str, bool]:
    """The constant PDL and the launch option of a kernel that calls `wait_for_previous`, on the current device.

    Both are off below sm_90, with a driver older than CUDA 12.3, and where the environment has DEBLURGAN_PDL=0.
    """
    early = not knobs.runtime.interpret and _overlaps(driver.active.get_current_device())
    return {"PDL": early, "launch_pdl": early}


@functools.cache
def _overlaps(device: int) -> bool:
    if os.environ.get("DEBLURGAN_PDL") == "0" or driver.active.get_current_target().arch < 90:
        return False
    version = ctypes.c_int(12030)
    with contextlib.suppress(OSError):  # without a driver kernels are only compiled
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value >= 12030
