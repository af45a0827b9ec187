"""Ctrl-C and SIGTERM during a training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Within it SIGINT and SIGTERM are put into the list, so that no step is broken off halfway.

    Only the main thread gets signals; in any other the list stays empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    handled = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda number, frame: received.append(number)) for number in handled]
    try:
        yield received
    finally:
        for number, handler in zip(handled, previous, strict=True):
            signal.signal(number, handler)
