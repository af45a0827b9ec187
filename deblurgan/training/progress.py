"""How far a training is: lines in the log, and a bar on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from deblurgan.display import Display, duration
from deblurgan.training.callbacks import Callback
from deblurgan.training.objective import LOSSES

if TYPE_CHECKING:
    from deblurgan.training.trainer import Trainer
    from deblurgan.training.validation import Validation

QUIET = (10.0, 60.0)  # seconds without a line after which there is one: at first, and in a training of hours


class Progress:
    """Says how far a training of `total` steps is, and when that is to be said.

    `own` are losses beside LOSSES; `clock` gives seconds.
    """

    def __init__(self, total: int, own: Sequence[str] = (), *, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.losses, self._clock = total, (*LOSSES, *own), clock
        self.begin_at(0)

    def begin_at(self, step: int) -> None:
        """The steps before this one are done, and time counts from now on."""
        self._start = self._first = self._said = self._clock()
        self._begun = step

    def stepped(self, step: int) -> None:
        """Notes that so many steps are done. The first one, which prepares much, does not count for the speed of the
        next."""
        if step == self._begun + 1:
            self._first = self._clock()

    def is_quiet(self) -> bool:
        """Whether no line was given for so long that one is due."""
        now = self._clock()
        shortest, longest = QUIET
        return now - self._said >= min(max(shortest, (now - self._start) / 10), longest)

    def is_due(self, step: int) -> bool:
        """Whether a line is due after `step` steps: after the first, and whenever there was none for long."""
        return step == self._begun + 1 or self.is_quiet()

    def line(self, step: int, means: Mapping[str, float]) -> str:
        """The speed, the time left, and the losses that are not 0."""
        self._said = now = self._clock()
        done = step - self._begun - 1
        rate = done / max(now - self._first, 1e-9) if done else 1 / max(now - self._start, 1e-9)
        speed = f"{rate:.2f} steps/s" if rate >= 0.1 else f"{1 / rate:.1f} s a step"
        return f"step {step}/{self.total}  {speed}  ETA {duration((self.total - step) / rate)}{self.shown(means)}"

    def shown(self, means: Mapping[str, float]) -> str:
        """The losses that are not 0, for the end of a line."""
        values = ((name, means[name]) for name in self.losses if means.get(name))
        return "".join(f"  {name} {value:.{4 if abs(value) < 10 else 1}f}" for name, value in values)

    def validation_line(self, done: int, count: int) -> str | None:
        """How many of the validation pictures are done, where no line was given for long."""
        if done == count or not self.is_quiet():
            return None
        self._said = self._clock()
        return f"validation: {done} of {count} pictures"


class ProgressBar(Callback):
    """Shows on a terminal how far the training is, the time left, and the newest losses and PSNR."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self._losses = self._psnr = ""

    def on_fit_start(self, trainer: Trainer) -> None:
        """The bar begins at the steps that are done."""
        self.display.begin_at(trainer.steps_done / trainer.schedule.total_steps)

    def on_step_end(self, trainer: Trainer, values: dict[str, Tensor]) -> None:
        """The bar grows."""
        step, total = trainer.steps_done, trainer.schedule.total_steps
        self.display(step / total, f"  {step}/{total}{self._losses}{self._psnr}")

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        """Keeps the losses for the bar."""
        self._losses = trainer.progress.shown(row) or self._losses

    def on_validation_end(self, trainer: Trainer, found: Validation) -> None:
        """Keeps the PSNR for the bar."""
        self._psnr = f"  PSNR {found.psnr:.2f}"
