"""The history's figures and the samples for TensorBoard."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from deblurgan.training.callbacks import Callback

if TYPE_CHECKING:
    from deblurgan.training.trainer import Trainer
    from deblurgan.training.validation import Validation

NO_SCALARS = frozenset({"step", "seconds"})


class TensorBoard(Callback):
    """Writes each row of history.csv and each grid of samples into the run folder's tensorboard/.

    Raises ImportError where tensorboard is not installed. In the folder of an earlier run, rows of later steps than the
    training begins at are hidden.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("tensorboard=True needs TensorBoard: pip install 'deblurgan[tensorboard]'") from error
        self._open = SummaryWriter

    def on_fit_start(self, trainer: Trainer) -> None:
        """Opens the folder."""
        self._writer = self._open(trainer.folder.path / "tensorboard", purge_step=trainer.steps_done + 1)

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        """A point on each column's curve."""
        for name, value in row.items():
            if name not in NO_SCALARS and math.isfinite(value):
                self._writer.add_scalar(name, value, int(row["step"]))

    def on_validation_end(self, trainer: Trainer, found: Validation) -> None:
        """The samples: blurred | restored | sharp."""
        self._writer.add_image("samples", found.grid().pixels, trainer.steps_done, dataformats="HWC")

    def on_save(self, trainer: Trainer) -> None:
        """What is saved is on the disk here too."""
        self._writer.flush()

    def on_fit_end(self, trainer: Trainer) -> None:
        """Closes the folder."""
        self._writer.close()
