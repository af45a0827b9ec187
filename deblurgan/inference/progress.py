"""How far a batch is: the share that is done, and a display of it with the time that is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

LINE_AFTER = 10.0  # seconds without a line, after which one says how far the work is where no terminal shows a bar
LINE_EVERY = 30.0  # seconds between such lines while the share grows slowly
LINE_STEP = 0.1  # growth of the share that is worth a line before that


class Work:
    """The work on a batch of files in megapixels. Those of files not opened yet are guessed by their bytes, from the
    files that are known. Threads may share it."""

    def __init__(self, sources: Iterable[Path]) -> None:
        self._bytes = {source: _file_size(source) for source in sources}
        self._unknown_bytes = sum(self._bytes.values())
        self._known_bytes = 0
        self._pixels: dict[Path, float] = {}  # of the known files, whose sum is `_known`
        self._known = self._done = self._reached = 0.0
        self._share: dict[Path, float] = {}
        self._lock = threading.Lock()

    def measured(self, source: Path, pixels: float) -> None:
        """Notes how many pixels a file has; 0 where it needs no work."""
        with self._lock:
            self._measure(source, pixels)

    def reached(self, source: Path, share: float) -> float:
        """Notes which share of a file is done, 0 to 1, and gives that of the batch, which never falls."""
        with self._lock:
            if source not in self._pixels:  # a video
                self._measure(source, self._density() * self._bytes[source])
            self._done += self._pixels[source] * (share - self._share.get(source, 0.0))
            self._share[source] = share
            total = self._known + self._density() * self._unknown_bytes
            self._reached = max(self._reached, min(self._done / total, 1.0) if total > 0 else 1.0)
            return self._reached

    def _density(self) -> float:
        """Pixels a byte."""
        return self._known / self._known_bytes if self._known_bytes else 1.0

    def _measure(self, source: Path, pixels: float) -> None:
        if source in self._pixels:
            return
        self._pixels[source] = pixels
        self._unknown_bytes -= self._bytes[source]
        if pixels > 0:
            self._known_bytes += self._bytes[source]
            self._known += pixels


class Display:
    """A callable that shows the share that is done, 0 to 1: on a terminal a bar with the time that is left, elsewhere a
    line whenever there was none for long. Used as a context; `above` prints other lines in between.

    `clock` gives seconds.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._has_bar = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._drawn = ""  # what stands on the terminal
        self._share = self._line_share = 0.0
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

    def __call__(self, share: float) -> None:
        with self._lock:
            self._share, self._at = share, self._clock()
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
        """The share, and the time that is left where that can be told."""
        now = self._clock()
        percent = f"{int(100 * self._share):3d} %"
        if self._share == 0:
            return f"{percent}, {duration(now - self._start)} gone"
        left = (self._at - self._start) * (1 - self._share) / self._share - (now - self._at)
        return f"{percent}, about {duration(max(left, 0.0))} to go"

    def _tick(self) -> None:
        while not self._over.is_set():
            with self._lock:
                if self._has_bar:
                    self._draw()
            self._over.wait(0.25)

    def _draw(self) -> None:
        text = self.text()
        width = min(40, shutil.get_terminal_size().columns - len(text) - 3)
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


def duration(seconds: float) -> str:
    """Seconds in words: "8 s", "2 min 05 s", "1 h 20 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
