"""CUDA graphs, captured while other threads work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_one_at_a_time = threading.Lock()  # a process captures one graph at a time


@contextmanager
def captured(device: torch.device) -> Iterator[torch.cuda.CUDAGraph]:
    """A graph of what this thread launches within; other threads may use the device meanwhile.

    Each has a stream of its own, since the one that torch shares among graphs belongs to the first graph's device.
    """
    graph = torch.cuda.CUDAGraph()
    before = torch.cuda.current_stream(device)
    with _one_at_a_time, torch.cuda.device(device):
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.Stream(device), capture_error_mode="thread_local"):
                yield graph
        except BaseException:
            torch.cuda.set_stream(before)  # a capture that cannot be ended leaves its own stream current
            raise


class CapturedCall:
    """A captured call of run(image, counter=): the same launches again without their cost on the CPU."""

    def __init__(self, run: Callable[..., Tensor], image: Tensor, counter: Tensor | None = None) -> None:
        with torch.inference_mode(False), torch.no_grad():  # later calls write into them in any mode
            self.image = image.clone(memory_format=torch.preserve_format)
            self.counter = None if counter is None else counter.clone()
        run(self.image, counter=self.counter)  # compiles kernels for this copy's strides, which no capture allows
        with captured(image.device) as self.graph:
            self.out = run(self.image, counter=self.counter)

    def __call__(self, image: Tensor, counter: Tensor | None = None) -> Tensor:
        self.image.copy_(image)
        if self.counter is not None and counter is not None:
            self.counter.copy_(counter)
        self.graph.replay()
        return self.out.clone(memory_format=torch.preserve_format)
