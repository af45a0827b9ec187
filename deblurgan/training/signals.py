"""What asks a training to stop: Ctrl-C, SIGTERM, and SIGHUP when its terminal closes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Within it SIGINT, SIGTERM and SIGHUP are put into the list, so that no step is broken off halfway.

    Those that are ignored, as nohup has SIGHUP ignored, stay so. Only the main thread gets signals; in any other the
    list stays empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.getsignal(number) for number in _ENDING}
    handled = [number for number in _ENDING if previous[number] not in (signal.SIG_IGN, None)]
    for number in handled:
        signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        for number in handled:
            signal.signal(number, previous[number])


def stop(number: int) -> None:
    """Raises what ends the program: KeyboardInterrupt for Ctrl-C, else SystemExit with a shell's code, 128 + number."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
