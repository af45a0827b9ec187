"""What a training calls as it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from deblurgan.training.trainer import Trainer
    from deblurgan.training.validation import Validation


class Callback:
    """Told what a training does, in the process of rank 0. Override what you need; by itself each method does nothing.

    Several are told in the order in which they were given. `trainer.stop()` ends the training after the step at hand,
    as if that were its last. An error that a method raises ends it too: the steps so far are saved, then it is raised.
    """

    def on_fit_start(self, trainer: Trainer) -> None:
        """Before the first step, after a resume."""

    def on_step_end(self, trainer: Trainer, values: dict[str, Tensor]) -> None:
        """After each step, with its losses and gradient norms by name: scalars on the device, to look at which waits
        for a GPU."""

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        """After each row of history.csv, with its figures by column."""

    def on_validation_end(self, trainer: Trainer, found: Validation) -> None:
        """After each validation, before its row is logged: `found` has the mean figures, `scores` of the pictures by
        name, and the pictures."""

    def on_save(self, trainer: Trainer) -> None:
        """After the run folder has been saved."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """After the last step, or that at which the training was stopped; not where an error or a signal ends it."""
