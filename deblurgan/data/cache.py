"""Decoded pictures: the first of them in memory, the rest in a temporary file, so that each file is decoded once."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deblurgan import images
from deblurgan.data.shards import read_picture

RESERVE = 2 * 2**30  # bytes of the disk that the temporary file leaves free

Pixels = NDArray[np.uint8]


def spill_folder() -> Path:
    """Where large temporary files go: TMPDIR, else /var/tmp (a /tmp may lie in memory), else the system's choice."""
    standard = Path("/var/tmp")  # noqa: S108
    if not os.environ.get("TMPDIR") and os.access(standard, os.W_OK):
        return standard
    return Path(tempfile.gettempdir())


class PictureCache:
    """Decoded picture files, shared by the threads of a process: the first `limit` bytes stay in memory.

    Args:
        limit: bytes of memory for pictures.
        spill: a folder for a temporary file that takes what exceeds the limit. Without one, or once its disk has no
            more than `reserve` bytes left, such pictures are decoded again each time.
        reserve: bytes of that disk to leave free.
        log: is told, once, why the file takes no more pictures.

    The file has no name, so nothing is left of it however the process ends. A copy in another process starts empty and
    has no file. A bad picture is decoded once: what was wrong with it is remembered.
    """

    def __init__(
        self,
        limit: int = 2**30,
        *,
        spill: Path | None = None,
        reserve: int = RESERVE,
        log: Callable[[str], object] = warnings.warn,
    ) -> None:
        self.limit, self.reserve, self.log = limit, reserve, log
        self.bytes = 0
        self.spilled_bytes = 0
        self.bad: dict[Path, str] = {}
        self._spill = spill
        self._pictures: dict[Path, Pixels] = {}
        self._lock = threading.Lock()
        self._file: _MappedFile | None = None
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[PictureCache], tuple[int]]:
        return PictureCache, (self.limit,)

    def read(self, path: Path) -> Pixels:
        """The picture's pixels, uint8 [h, w, 3], not to be changed.

        Raises ImageError for a bad file, OSError for one that is missing or may not be opened.
        """
        pixels = self._pictures.get(path)
        if pixels is not None:
            return pixels
        if path in self.bad:
            raise images.ImageError(path, self.bad[path])
        try:
            pixels = read_picture(path).in_8_bits().pixels
        except images.ImageError as error:
            self.bad[path] = error.reason
            raise
        return self._store(path, pixels)

    def close(self) -> None:
        """Forgets all pictures; the file's disk space comes back with the last array that lies in it."""
        with self._lock:
            self._pictures.clear()
            self._file = None
            self.bytes = self.spilled_bytes = 0

    def _store(self, path: Path, pixels: Pixels) -> Pixels:
        """The pixels where they are held: in memory, in the file or, where neither takes them, as they came."""
        with self._lock:
            if path in self._pictures:
                return self._pictures[path]
            if self.bytes + pixels.nbytes <= self.limit:
                self.bytes += pixels.nbytes
                self._pictures[path] = pixels
                return pixels
            spilled = self._spilled(pixels)
            if spilled is not None:
                self._pictures[path] = spilled
            return pixels if spilled is None else spilled

    def _spilled(self, pixels: Pixels) -> Pixels | None:
        """The picture in the temporary file, or None where that takes no more."""
        if self._spill is None or self._process != os.getpid():  # a forked process would write over its parent's part
            return None
        try:
            if self._file is None:
                self._file = _MappedFile(self._spill, self.reserve)
            spilled = self._file.append(pixels)
        except OSError as error:
            held = f"{self.bytes / 2**30:.1f} GiB in memory and {self.spilled_bytes / 2**30:.1f} in {self._spill}"
            self.log(f"cache is full with {held} ({error.strerror}): other pictures are decoded each time")
            self._spill = None
            return None
        self.spilled_bytes += spilled.nbytes
        return spilled


class _MappedFile:
    """A nameless file in `folder` that takes arrays and gives them back as read-only views of its mapping.

    Raises OSError where the disk cannot hold an array and `reserve` bytes more.
    """

    def __init__(self, folder: Path, reserve: int) -> None:
        self.folder, self.reserve, self.used = folder, reserve, 0
        self.room = shutil.disk_usage(folder).free - reserve
        self._require(self.room > 0)
        self.file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        weakref.finalize(self, self.file.close)
        self.file.truncate(self.room)  # a hole: blocks are taken as they are written
        self.map = mmap.mmap(self.file.fileno(), self.room, access=mmap.ACCESS_READ)

    def append(self, pixels: Pixels) -> Pixels:
        """The pixels in the file. They are written, not stored through the mapping, where a full disk would kill."""
        free = shutil.disk_usage(self.folder).free
        self._require(self.used + pixels.nbytes <= self.room and free >= pixels.nbytes + self.reserve)
        rest = np.ascontiguousarray(pixels).data.cast("B")
        at = self.used
        while rest:
            written = os.pwrite(self.file.fileno(), rest, at)
            at, rest = at + written, rest[written:]
        stored = np.frombuffer(self.map, np.uint8, pixels.size, self.used).reshape(pixels.shape)
        self.used = at
        return stored

    def _require(self, fits: bool) -> None:
        if not fits:
            raise OSError(errno.ENOSPC, f"{self.reserve / 2**30:.1f} GiB of the disk are left free")
