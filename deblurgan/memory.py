"""Keeping freed memory while large tensors come and go on a CPU.

glibc gives blocks of more than 128 KB back to the system as soon as they are freed, and takes them anew, page by page
and zeroed, a layer later. That can take longer than the layer.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1
_AFTER = {_MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}  # where glibc's own come to rest once large blocks were freed

_lock = threading.Lock()
_users = 0


def is_kept_here() -> bool:
    """Whether this C library has what `kept` needs; it does nothing elsewhere."""
    return hasattr(ctypes.CDLL(None), "mallopt") and hasattr(ctypes.CDLL(None), "malloc_trim")


@contextmanager
def kept() -> Iterator[None]:
    """While it lasts, in any thread, freed memory stays with the process; at the end it goes back to the system."""
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _users
    with _lock:
        _users += 1
        if _users == 1 and is_kept_here():
            _set_thresholds(dict.fromkeys(_AFTER, _NEVER))


def _leave() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0 and is_kept_here():
            _set_thresholds(_AFTER)
            ctypes.CDLL(None).malloc_trim(0)


def _set_thresholds(sizes: dict[int, int]) -> None:
    for threshold, size in sizes.items():
        ctypes.CDLL(None).mallopt(threshold, size)
