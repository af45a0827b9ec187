"""What a training calls as it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from deblurgan.training.trainer import Trainer
    from deblurgan.training.validation import Validation


class Callback:
    """Told what a training does, in the process of rank 0. Override what you need; by itself each method does nothing.

    An error that a method raises ends the training, whose steps so far are saved.
    """

    def on_fit_start(self, trainer: Trainer) -> None:
        """Before the first step, after a resume."""

    def on_step_end(self, trainer: Trainer, values: dict[str, Tensor]) -> None:
        """After each step, with its losses and gradient norms by name: scalars on the device, to look at which waits
        for a GPU."""

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        """After each row of history.csv, with its figures by column."""

    def on_validation_end(self, trainer: Trainer, found: Validation) -> None:
        """After each validation."""

    def on_save(self, trainer: Trainer) -> None:
        """After the run folder has been saved."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """After the last step."""
