"""What asks a command to stop: Ctrl-C, SIGTERM, and SIGHUP when its terminal closes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

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


class StopRequest:
    """Whether a signal has asked to stop, and what it breaks off; whatever else is at work is finished first.

    `tell` is called with the first signal's number, at once. A Ctrl-C that comes later raises KeyboardInterrupt.
    """

    REPEATED = 0.5
    """Seconds within which a signal is still the first one, sent by a terminal and by a parent process too."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._number: int | None = None  # of the first signal
        self._since, self._breaks = 0.0, False

    @property
    def number(self) -> int:
        """Of the signal that has come first; 0 before one has."""
        return self._number or 0

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Within it SIGINT, SIGTERM and SIGHUP ask to stop. In a thread other than the main one they never do."""
        self._number = None
        with _handled(self._take):
            yield

    @contextmanager
    def breaking_off(self) -> Iterator[None]:
        """Within it, Interrupted is raised as soon as a signal comes or where one has come."""
        self._breaks = True
        try:
            if self._number is not None:
                raise Interrupted(self._number)
            yield
        finally:
            self._breaks = False

    def _take(self, number: int) -> None:
        if self._number is None:
            self._number, self._since = number, time.monotonic()
            with suppress(RuntimeError):  # of a print within a print
                self._tell(number)
        elif number == signal.SIGINT and time.monotonic() - self._since > self.REPEATED:
            raise KeyboardInterrupt
        if self._breaks:
            raise Interrupted(self._number)


@contextmanager
def ending_signals() -> Iterator[None]:
    """Within it SIGINT, SIGTERM and SIGHUP do as `stop` does, in the main thread."""
    with _handled(stop):
        yield


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
