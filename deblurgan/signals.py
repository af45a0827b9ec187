"""What asks a command to stop: Ctrl-C, SIGTERM, and SIGHUP when its terminal closes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(KeyboardInterrupt):
    """A signal of this number came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Within it SIGINT, SIGTERM and SIGHUP are put into the list, so that no step is broken off halfway; it stays empty
    in a thread other than the main one."""
    received: list[int] = []
    with _handled(received.append):
        yield received


@contextmanager
def interrupting_signals() -> Iterator[None]:
    """Within it SIGINT, SIGTERM and SIGHUP raise Interrupted, in the main thread."""

    def interrupt(number: int) -> None:
        raise Interrupted(number)

    with _handled(interrupt):
        yield


@contextmanager
def _handled(handle: Callable[[int], None]) -> Iterator[None]:
    """Within it the signals go to a handler. Those that are ignored, as nohup has SIGHUP ignored, stay so.

    Only the main thread gets signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in _ENDING}
    handled = [number for number in _ENDING if previous[number] not in (signal.SIG_IGN, None)]
    for number in handled:
        signal.signal(number, lambda number, frame: handle(number))
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, previous[number])


def stop(number: int) -> None:
    """Raises what ends the program: KeyboardInterrupt for Ctrl-C, else SystemExit with a shell's code, 128 + number."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
