"""CUDA graphs, captured while other threads work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_ALONE = threading.Lock()  # a process captures one graph at a time


@contextmanager
def captured(device: torch.device) -> Iterator[torch.cuda.CUDAGraph]:
    """A graph of what this thread launches within; others may use the device meanwhile.

    Each has a stream of its own, since that which torch shares among graphs lies on the device of the first.
    """
    graph = torch.cuda.CUDAGraph()
    before = torch.cuda.current_stream(device)
    with _ALONE, torch.cuda.device(device):
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.Stream(device), capture_error_mode="thread_local"):
                yield graph
        except BaseException:
            torch.cuda.set_stream(before)  # a capture that cannot be ended leaves its own current
            raise
