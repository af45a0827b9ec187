"""Batches made ahead of the training, on its device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

import torch

from deblurgan import ops
from deblurgan.data.batches import Batch, Batches


class _ReadyBatch(NamedTuple):
    batch: Batch
    ready: torch.cuda.Event | None  # recorded after its last copy and kernel; None on a CPU


class Prefetcher(Iterator[Batch]):
    """`batches[step]` for each of `steps`, in order, on `device`: the same bytes for any number of `workers`.

    Args:
        workers: threads, which together are up to 2 workers + 1 batches ahead; 0 makes each batch when it is asked for.

    On CUDA the GPU blurs and cuts, on a CUDA stream of the prefetcher's own. The stream that is current where `next` is
    called waits for the batch; the host does not. A CUDA graph that is captured meanwhile needs
    `capture_error_mode="thread_local"`. An error in a thread is raised by the `next` that would give its batch. Leaving
    the context, `close` or dropping the iterator ends the threads.
    """

    def __init__(self, batches: Batches, steps: Iterable[int], device: torch.device, *, workers: int = 0) -> None:
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}")
        self.device = device
        self._cuda_stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._batches = batches.to(device if ops.is_native(device) else torch.device("cpu"))
        self._steps = iter(steps)
        self._ahead = 2 * workers + 1
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="deblurgan-data") if workers else None
        self._pending: deque[Future[_ReadyBatch]] = deque()

    def __next__(self) -> Batch:
        if self._pool is None:
            return self._received(self._make(next(self._steps)))
        while len(self._pending) < self._ahead and (step := next(self._steps, None)) is not None:
            self._pending.append(self._pool.submit(self._make, step))
        if not self._pending:
            raise StopIteration
        return self._received(self._pending.popleft().result())

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads once each has finished its batch; there are no more batches."""
        self._steps = iter(())
        self._pending.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _make(self, step: int) -> _ReadyBatch:
        if self._cuda_stream is None:
            return _ReadyBatch(self._batches[step].to(self.device), None)
        with torch.cuda.stream(self._cuda_stream):
            batch = self._batches[step]
            if not batch.sharp.is_cuda:
                batch = batch.pin_memory().to(self.device)
            return _ReadyBatch(batch, self._cuda_stream.record_event())

    def _received(self, made: _ReadyBatch) -> Batch:
        if made.ready is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(made.ready)
            for part in (made.batch.blurred, made.batch.sharp):
                part.record_stream(stream)  # its memory goes back to the other stream only after the work queued here
        return made.batch
