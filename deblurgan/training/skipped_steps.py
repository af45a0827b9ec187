"""Steps that were left out because they were not finite: counted on the device, looked at without waiting for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from deblurgan.training.errors import DivergedError

STEPS_AHEAD = 3  # by which the host may be ahead of a GPU


class _Count(NamedTuple):
    step: int
    value: Tensor  # on the CPU, once `ready`
    ready: torch.cuda.Event | None


class SkippedSteps:
    """Logs and counts steps that were left out, and raises DivergedError after `most` in a row.

    On CUDA a count is looked at a few steps after it was made, so that the host never waits for the newest step, and
    never runs further ahead either.
    """

    def __init__(self, most: int, log: Callable[[str], None]) -> None:
        self.most, self.log = most, log
        self.in_a_row = self.total = 0
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

    def summary(self, steps: int) -> str | None:
        """A line that counts them, after `steps` steps; None where there was none."""
        return f"steps left out as not finite: {self.total} of {steps}" if self.total else None

    def _look(self, *, left: int) -> None:
        """Looks at all counts but the last `left`."""
        while len(self._counts) > left:
            step, value, ready = self._counts.popleft()
            if ready is not None:
                ready.synchronize()
            self.in_a_row = int(value)
            if self.in_a_row:
                self.total += 1
                self.log(f"step {step}: losses or gradients are not finite, update left out")
            if self.in_a_row >= self.most:
                raise DivergedError(
                    f"{self.in_a_row} steps in a row were not finite, up to step {step}: the run folder holds weights "
                    "of before; a lower lr may help, or fp32 in place of fp16"
                )
