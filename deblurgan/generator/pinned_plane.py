"""A plane that waits in pinned host memory, whose rows come and go while the GPU computes."""

from __future__ import annotations

import torch
from torch import Tensor


class PinnedPlane:
    """`strips.Plane` [h, w, c] for a GPU. On it lie the last rows that were written, and those fetched ahead.

    Rows are read from the top down, as `strips` does, so that as many as were read last can be fetched ahead. Two
    streams, one for each direction, copy beside the current one:

        What comes waits until the rows that were fetched before have been taken from `arriving`; and, where rows are
        read again, for all that has left.
        What leaves waits until it lies in `departing`; the rows that it overwrites have been taken by then.
        The current stream waits for what has come before it takes it, and for what has left before it fills `departing`
        anew.

    torch rounds pinned memory up to a power of two, and keeps what is freed of it for the next plane.
    """

    def __init__(self, size: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.memory = torch.empty(size, dtype=dtype, device="cpu", pin_memory=device.type == "cuda")
        self.device = device
        self.arriving = self.departing = self.memory[:0]
        self.coming, self.leaving = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self.fetched = 0, 0  # rows that are, or will be, in `arriving`
        self.written = 0  # the row after the last that left: those below it are older

    def read(self, start: int, stop: int) -> Tensor:
        first, beyond = self.fetched
        if start != first or stop > beyond:
            self._fetch(start, stop)
        torch.cuda.current_stream(self.device).wait_stream(self.coming)
        rows = self.arriving[: stop - start].clone()
        self._fetch(stop, min(len(self.memory), 2 * stop - start))
        return rows

    def _fetch(self, start: int, stop: int) -> None:
        if start < self.written:
            self.coming.wait_stream(self.leaving)
        if len(self.arriving) < stop - start:
            self.arriving = self._room(stop - start, self.coming)
        self.coming.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.coming):
            self.arriving[: stop - start].copy_(self.memory[start:stop], non_blocking=True)
        self.fetched = start, stop

    def write(self, start: int, rows: Tensor) -> None:
        current = torch.cuda.current_stream(self.device)
        if len(self.departing) < len(rows):
            self.departing = self._room(len(rows), self.leaving)
        current.wait_stream(self.leaving)
        leaving = self.departing[: len(rows)].copy_(rows)
        self.leaving.wait_stream(current)
        with torch.cuda.stream(self.leaving):
            self.memory[start : start + len(rows)].copy_(leaving, non_blocking=True)
        self.written = start + len(rows)

    def _room(self, rows: int, stream: torch.cuda.Stream) -> Tensor:
        """On the device, for `stream` too: it is not given away before that one's copies have ended."""
        room = torch.empty(rows, *self.memory.shape[1:], dtype=self.memory.dtype, device=self.device)
        room.record_stream(stream)
        return room
