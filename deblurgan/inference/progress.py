"""How far a batch of files is."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path


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


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
