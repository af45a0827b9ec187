"""How signals stop a training: all of its processes after the same step, and what takes long is broken off."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from deblurgan.distributed import Processes
from deblurgan.signals import Interrupted, StopRequest

if TYPE_CHECKING:
    from deblurgan.training.trainer import Trainer

SLOW_STEP = 2.0  # s; after one that took longer, a signal breaks off the next, on a CPU


class Stopping:
    """Hears the signals that stop a training.

    What only one process does may be broken off. What all do together goes on to its end where there are several: one
    that left it would keep the others waiting.
    """

    def __init__(self, processes: Processes, log: Callable[[str], None]) -> None:
        self.processes, self.log = processes, log
        self._request = StopRequest(self._tell)
        self._step_is_slow = True  # until one has been timed

    def heard(self) -> AbstractContextManager[None]:
        """Within it signals ask to stop, in the main thread."""
        return self._request.heard()

    def heed(self) -> None:
        """Raises Interrupted where any process has got a signal, in all of them."""
        if number := self.processes.largest(self._request.number):
            raise Interrupted(number)

    def breaking_off(self) -> AbstractContextManager[None]:
        """Within it a signal raises Interrupted at once: for what this process does alone."""
        return self._request.breaking_off()

    def breaking_off_together(self) -> AbstractContextManager[None]:
        """As `breaking_off` for what all processes do, which is not broken off where there are several."""
        return self.breaking_off() if self.processes.count == 1 else nullcontext()

    @contextmanager
    def breaking_off_step(self, trainer: Trainer) -> Iterator[None]:
        """Within it a signal breaks off a slow step on a CPU, which is then as if it had not begun."""
        begun = time.monotonic()
        if trainer.device.type != "cpu" or self.processes.count > 1 or not self._step_is_slow:
            yield
        else:
            step, state = trainer.steps_done, {name: value.clone() for name, value in trainer.state_dict().items()}
            try:
                with self.breaking_off(), nullcontext() if trainer.config.compile else _backward_heeds_signals():
                    yield
            except Interrupted:
                trainer.load_state_dict(state)
                trainer.steps_done = step
                raise
        self._step_is_slow = time.monotonic() - begun > SLOW_STEP

    def _tell(self, number: int) -> None:
        again = ", and a second Ctrl-C ends at once without saving" if number == signal.SIGINT else ""
        self.log(f"{signal.Signals(number).name}: saves, then stops{again}")


def _backward_heeds_signals() -> AbstractContextManager[None]:
    """Within it a backward pass, which may take long, calls Python for each saved tensor, and Python any handler. A
    compiled network would be compiled once more without it."""

    def same(tensor: Tensor) -> Tensor:
        return tensor.detach()

    return saved_tensors_hooks(same, same)
