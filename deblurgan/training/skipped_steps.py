"""Steps that were left out because they were not finite: counted on the device, looked at without waiting for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from deblurgan.training.errors import TrainingError

MAX_SKIPPED_STEPS = 20  # in a row, after which training stops
STEPS_AHEAD = 3  # by which the host may be ahead of a GPU


class _Count(NamedTuple):
    step: int
    value: Tensor  # on the CPU, once `ready`
    ready: torch.cuda.Event | None


class SkippedSteps:
    """Logs steps that were left out, and raises TrainingError after 20 in a row.

    On CUDA a count is looked at a few steps after it was made, so that the host never waits for the newest step, and
    never runs further ahead either.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self.log = log
        self.in_a_row = 0
        self._counts: deque[_Count] = deque()

    def note(self, step: int, count: Tensor) -> None:
        """Sends for the count of skipped steps in a row after step `step`."""
        ready = None
        if count.is_cuda:
            value = count.to("cpu", non_blocking=True)
            ready = torch.cuda.current_stream(count.device).record_event()
            self._counts.append(_Count(step, value, ready))
            self._look(left=STEPS_AHEAD)
        else:
            self._counts.append(_Count(step, count, None))
            self._look(left=0)

    def wait(self) -> None:
        """Looks at all counts."""
        self._look(left=0)

    def _look(self, *, left: int) -> None:
        """Looks at all counts but the last `left`."""
        while len(self._counts) > left:
            step, value, ready = self._counts.popleft()
            if ready is not None:
                ready.synchronize()
            skipped = int(value)
            if skipped > self.in_a_row:
                self.log(f"step {step}: losses or gradients are not finite, update left out")
            self.in_a_row = skipped
            if skipped >= MAX_SKIPPED_STEPS:
                raise TrainingError(f"{skipped} steps in a row were not finite, up to step {step}")
