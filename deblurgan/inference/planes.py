"""Where the planes of a streamed picture lie: on the device that computes, in host memory, or in a temporary file."""

from __future__ import annotations

import math
import mmap
import tempfile
import weakref
from io import FileIO
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from deblurgan.generator.pinned_plane import PinnedPlane
from deblurgan.limits import free_disk, lies_in_memory

Place = Literal["device", "host", "disk"]
Size = tuple[int, int, int]  # [h, w, c]

LARGE_FILES = Path("/var/tmp")  # noqa: S108  # where Unix has them, on disk

# Of mmap, where systems have it: pages that no other process shares
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}


class MemoryPlane:
    """On the device that computes. On a CPU it is mapped, so that it goes back to the system as a whole: in the heap
    strips would settle between planes."""

    def __init__(self, size: Size, dtype: torch.dtype, device: torch.device) -> None:
        if device.type == "cpu":
            self.rows = torch.frombuffer(mmap.mmap(-1, math.prod(size) * dtype.itemsize, **PRIVATE), dtype=dtype).view(
                size
            )
        else:
            self.rows = torch.empty(size, dtype=dtype, device=device)

    def read(self, start: int, stop: int) -> Tensor:
        return self.rows[start:stop]

    def write(self, start: int, rows: Tensor) -> None:
        self.rows[start : start + len(rows)] = rows


class FilePlane:
    """In a temporary file, which has no name and vanishes with the process.

    Rows are read and written, not mapped: pages of a shared mapping count as the process's memory until they are
    written back.
    """

    def __init__(self, size: Size, dtype: torch.dtype, device: torch.device) -> None:
        self.size, self.dtype, self.device = size, dtype, device
        self.row_bytes = size[1] * size[2] * dtype.itemsize
        self.folder = spill_folder(size[0] * self.row_bytes)
        self.file: FileIO = tempfile.TemporaryFile(buffering=0, dir=self.folder)  # noqa: SIM115
        weakref.finalize(self, self.file.close)

    def read(self, start: int, stop: int) -> Tensor:
        rows = torch.empty(stop - start, *self.size[1:], dtype=self.dtype, device="cpu")
        self.file.seek(start * self.row_bytes)
        left = _bytes_of(rows)
        while left:
            done = self.file.readinto(left)
            if not done:
                raise OSError(f"the temporary file ends before row {stop}")
            left = left[done:]
        return rows.to(self.device)

    def write(self, start: int, rows: Tensor) -> None:
        self.file.seek(start * self.row_bytes)
        left = _bytes_of(rows.cpu().contiguous())
        try:
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:  # others have filled the disk since
            why = f"{error.strerror} for a temporary file in {self.folder}: TMPDIR names another folder"
            raise OSError(error.errno, why) from error


PLANES: dict[Place, type[MemoryPlane | PinnedPlane | FilePlane]] = {
    "device": MemoryPlane,
    "host": PinnedPlane,
    "disk": FilePlane,
}


class PlaneMemoryError(MemoryError):
    """A plane found no memory where it was to lie."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _bytes_of(rows: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, shared with it."""
    return memoryview(rows.view(torch.uint8).numpy().data).cast("B")


def spill_folder(size: int) -> Path:
    """Where temporary files of `size` bytes in all can lie: in the system's folder for them or, where that is memory
    or too full, in /var/tmp. Raises MemoryError where there is no room."""
    reasons = list[str]()
    for folder in filter(Path.is_dir, (Path(tempfile.gettempdir()), LARGE_FILES)):
        free = free_disk(folder)
        if lies_in_memory(folder):
            reasons.append(f"{folder} lies in memory")
        elif free < size:
            reasons.append(f"{free / 2**20:.0f} MiB are free in {folder}")
        else:
            return folder
    raise MemoryError(f"{size / 2**20:.0f} MiB of disk are needed, {', '.join(reasons)}: TMPDIR names another folder")
