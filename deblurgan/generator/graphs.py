"""CUDA graphs, captured while other threads work, and the memory that calls share in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

_one_at_a_time = threading.Lock()  # a process captures one graph at a time


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Graphs share memory only if one stream captured them; torch's own belongs to the first graph's device."""
    return torch.cuda.Stream(device)


@contextmanager
def captured(device: torch.device, beside: torch.cuda.CUDAGraph | None = None) -> Iterator[torch.cuda.CUDAGraph]:
    """A graph of what this thread launches within; other threads may use the device meanwhile.

    What it allocates may lie where the graph `beside` it has what it allocated and freed: the two must not run at the
    same time, nor keep anything there from one replay to the next.
    """
    graph = torch.cuda.CUDAGraph()
    pool = None if beside is None else beside.pool()
    before = torch.cuda.current_stream(device)
    with _one_at_a_time, torch.cuda.device(device):
        try:
            with torch.cuda.graph(graph, pool, _capture_stream(device), capture_error_mode="thread_local"):
                yield graph
        except BaseException:
            torch.cuda.set_stream(before)  # a capture that cannot be ended leaves its own stream current
            raise


class CapturedCall:
    """A captured call of run(image, counter=): the same launches again without their cost on the CPU.

    `image` and `counter` become the graph's own: each call copies into them. Calls must take turns, and with those of
    the call `beside` it, too: they share the memory of what `run` allocates and frees again. There any order is right,
    since a replay reads nothing that it has not written itself.
    """

    def __init__(
        self,
        run: Callable[..., tuple[Tensor, ...]],
        image: Tensor,
        counter: Tensor | None = None,
        *,
        beside: CapturedCall | None = None,
    ) -> None:
        self.image, self.counter = image, counter
        run(image, counter=counter)  # compiles kernels for this memory's strides, which no capture allows
        with captured(image.device, None if beside is None else beside.graph) as graph:
            self.out = run(image, counter=counter)
        self.graph: torch.cuda.CUDAGraph = graph

    def __call__(self, image: Tensor, counter: Tensor | None = None) -> tuple[Tensor, ...]:
        self.image.copy_(image)
        if self.counter is not None and counter is not None:
            self.counter.copy_(counter)
        self.graph.replay()
        return tuple(part.clone(memory_format=torch.preserve_format) for part in self.out)


class Turns:
    """Calls that share memory take turns, whatever their threads and CUDA streams."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stream: torch.cuda.Stream | None = None  # of the last turn, whose end `_done` marks
        self._done: torch.cuda.Event | None = None

    @contextmanager
    def turn(self, device: torch.device) -> Iterator[None]:
        """Other threads wait until its end; what other streams launch in later turns waits for what this one does."""
        with self._lock:
            if device.type != "cuda" or torch.cuda.is_current_stream_capturing():  # what is captured has no time yet
                yield
                return
            stream = torch.cuda.current_stream(device)
            if self._done is None:
                self._done = torch.cuda.Event()
            elif stream != self._stream:
                stream.wait_event(self._done)
            try:
                yield
            finally:
                self._done.record(stream)
                self._stream = stream
