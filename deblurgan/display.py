"""A display of how far some work is, and of the time that is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from typing import TextIO

LINE_AFTER = 10.0  # seconds without a line, after which one says how far the work is where no terminal shows a bar
LINE_EVERY = 30.0  # seconds between such lines while the share grows slowly
LINE_STEP = 0.1  # growth of the share that is worth a line before that


class Display:
    """A callable that shows the share that is done, 0 to 1: on a terminal a bar with the time that is left, elsewhere a
    line whenever there was none for long. Used as a context; `above` prints other lines in between.

    `clock` gives seconds.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._has_bar = can_draw(stream)
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._drawn = ""  # what stands on the terminal
        self._note = ""
        self._share = self._line_share = self._first_share = 0.0
        self._start = self._at = self._line_at = clock()

    def __enter__(self) -> Display:
        self._start = self._at = self._line_at = self._clock()
        if self._has_bar:
            self._ticking = threading.Thread(target=self._tick, daemon=True)
            self._ticking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with self._lock:
            self._erase()
            self._has_bar = False

    def begin_at(self, share: float) -> None:
        """The work goes on from here: time is counted from now on, for what is left."""
        with self._lock:
            self._share = self._first_share = share
            self._start = self._at = self._clock()

    def __call__(self, share: float, note: str = "") -> None:
        """Shows the share and, behind it, a note."""
        with self._lock:
            self._share, self._note, self._at = share, note, self._clock()
            if not self._has_bar:
                self._line_if_due()

    def above(self, say: Callable[[], None]) -> None:
        """Calls what prints a line, with the bar out of its way."""
        with self._lock:
            self._erase()
            say()
            self._line_share, self._line_at = self._share, self._clock()
            if self._has_bar:
                self._draw()

    def text(self) -> str:
        """The share, the time that is left where that can be told, and the note."""
        now = self._clock()
        percent, done = f"{int(100 * self._share):3d} %", self._share - self._first_share
        if done <= 0:
            return f"{percent}, {duration(now - self._start)} gone{self._note}"
        left = (self._at - self._start) * (1 - self._share) / done - (now - self._at)
        return f"{percent}, about {duration(max(left, 0.0))} to go{self._note}"

    def _tick(self) -> None:
        while not self._over.is_set():
            with self._lock:
                if self._has_bar:
                    self._draw()
            self._over.wait(0.25)

    def _draw(self) -> None:
        columns = shutil.get_terminal_size().columns - 1
        text = self.text()[:columns]
        width = min(40, columns - len(text) - 2)
        full = int(width * self._share)
        bar = f"{'#' * full}{'.' * (width - full)} " if width > 4 else ""
        if bar + text != self._drawn:
            self._write("\r" + (bar + text).ljust(len(self._drawn)))
            self._drawn = bar + text

    def _erase(self) -> None:
        if self._drawn:
            self._write("\r" + " " * len(self._drawn) + "\r")
            self._drawn = ""

    def _line_if_due(self) -> None:
        waited = self._clock() - self._line_at
        grown = self._share - self._line_share
        if 0 < self._share < 1 and waited >= LINE_AFTER and (waited >= LINE_EVERY or grown >= LINE_STEP):
            self._write(f"deblurgan: {self.text().strip()}\n")
            self._line_share, self._line_at = self._share, self._clock()

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # whoever read it is gone, or the stream is closed
            self._stream.write(text)
            self._stream.flush()


def can_draw(stream: TextIO) -> bool:
    """Whether a bar can be drawn on the stream: it is a terminal that can go back in a line."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def counted(number: int, noun: str) -> str:
    """The number with its noun: "1 step", "2,000 steps"."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """ "steps", "trajectories"."""
    return f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"


def duration(seconds: float) -> str:
    """Seconds in words: "8 s", "2 min 05 s", "1 h 20 min", "3 d 04 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"
