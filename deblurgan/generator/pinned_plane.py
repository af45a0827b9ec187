"""A plane that waits in pinned host memory, whose rows come and go while the GPU computes."""

from __future__ import annotations

import torch
from torch import Tensor


class PinnedPlane:
    """`strips.Plane` [h, w, c] for a GPU. It takes device memory for twice `rows` rows: no read or write has more.

    torch rounds pinned memory up to a power of two, and keeps what is freed of it for the next plane.

    Rows are read from the top down, as `strips` does, so those that follow the last ones read are fetched ahead. Two
    streams, one for each direction, copy beside the current one:

        What comes waits until the rows that were fetched before have been taken from `arriving`; and, where rows are
        read again, for all that has left.
        What leaves waits until it lies in `departing`; the rows that it overwrites have been taken by then.
        The current stream waits for what has come before it takes it, and for what has left before it fills `departing`
        anew.
    """

    def __init__(self, h: int, w: int, c: int, *, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.device, self.h = device, h
        self.memory = torch.empty(h, w, c, dtype=dtype, pin_memory=device.type == "cuda")
        self.arriving, self.departing = torch.empty(2, min(rows, h), w, c, dtype=dtype, device=device)
        self.coming, self.leaving = torch.cuda.Stream(device), torch.cuda.Stream(device)
        for stream in (self.coming, self.leaving):  # so that the memory outlives the copies
            self.arriving.record_stream(stream)
        self.fetched = 0, 0  # rows that are, or will be, in `arriving`
        self.written = 0  # rows 0 ... written - 1 have left since any was read that had

    def read(self, start: int, stop: int) -> Tensor:
        first, beyond = self.fetched
        if start != first or stop > beyond:
            self._fetch(start, stop)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.coming)
        rows = self.arriving[: stop - start].clone()
        self._fetch(stop, min(self.h, 2 * stop - start))
        return rows

    def _fetch(self, start: int, stop: int) -> None:
        if start < self.written:
            self.coming.wait_stream(self.leaving)
            self.written = 0
        self.coming.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.coming):
            self.arriving[: stop - start].copy_(self.memory[start:stop], non_blocking=True)
        self.fetched = start, stop

    def write(self, start: int, rows: Tensor) -> None:
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.leaving)
        leaving = self.departing[: len(rows)].copy_(rows)
        self.leaving.wait_stream(current)
        with torch.cuda.stream(self.leaving):
            self.memory[start : start + len(rows)].copy_(leaving, non_blocking=True)
        self.written = start + len(rows)
