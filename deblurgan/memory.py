"""Freed memory that stays with the process, for networks on a CPU.

glibc gives blocks of more than 128 KB back to the system as soon as they are freed. The next layer then asks for them
again, and the system hands them over page by page and zeroed, which can take longer than the layer itself.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1
# Afterwards: the values that glibc's own adaptation ends at once large blocks were freed
_AFTER = {_MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}

_lock = threading.Lock()
_users = 0


def can_retain() -> bool:
    """Whether this C library is one that can be told to retain freed memory; glibc is."""
    return hasattr(ctypes.CDLL(None), "mallopt") and hasattr(ctypes.CDLL(None), "malloc_trim")


@contextmanager
def retain_freed() -> Iterator[None]:
    """Within it, freed memory of any thread stays with the process; at its end that goes back to the system.

    It may be nested and used by several threads; the end of the last one counts. Does nothing where `can_retain()` is
    False.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _users
    with _lock:
        _users += 1
        if _users == 1 and can_retain():
            _set_thresholds(dict.fromkeys(_AFTER, _NEVER))


def _leave() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0 and can_retain():
            _set_thresholds(_AFTER)
            ctypes.CDLL(None).malloc_trim(0)


def _set_thresholds(sizes: dict[int, int]) -> None:
    for threshold, size in sizes.items():
        ctypes.CDLL(None).mallopt(threshold, size)
