"""Whatever ends a training ends it in both of its processes: after the same step, or non-zero."""

from __future__ import annotations

import errno
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from side_by_side import pytestmark, side_by_side  # noqa: F401
from torch import Tensor

from deblurgan import checkpoint, distributed
from deblurgan.checkpoint import files
from deblurgan.config import train_config
from deblurgan.training import Callback, DivergedError, SaveError, Trainer
from small_training import SMALL, history


class At(Callback):
    """Does something after a step."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def on_step_end(self, trainer: Trainer, values: dict[str, Tensor]) -> None:
        if trainer.steps_done == self.step:
            self.act(trainer)


def disk_full(trainer: Trainer) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    files.replace_file = full


def work(rank: int, folder: Path, photos: Path) -> int:
    """Ends trainings in order, then one by an error of the first process alone."""
    with distributed.joined("the same command goes on") as processes:

        def trainer(name: str, *callbacks: Callback, **own: Any) -> Trainer:
            config = train_config(photos, out=folder / name, **SMALL)
            return Trainer(config, processes=processes, callbacks=callbacks, **own)

        run = trainer("signal")
        if rank == 0:  # at the first picture of its validation
            run.val_set.whole = lambda index: os.kill(os.getpid(), signal.SIGTERM)  # type: ignore[method-assign, assignment]
        with pytest.raises(SystemExit) as ended:
            run.fit()
        assert ended.value.code == 143 and run.steps_done == 3
        assert trainer("signal").fit().steps == 6

        assert trainer("stop", At(2, Trainer.stop)).fit().steps == 2

        run = trainer("not finite", losses={"nan": lambda restored, sharp: restored.mean() * math.nan})
        run.skipped.most = 2
        with pytest.raises(DivergedError):
            run.fit()
        assert run.steps_done == 2

        try:
            trainer("full", At(5, disk_full)).fit()
        except SaveError:
            return 4
        except RuntimeError as error:
            print(error)
            return 1
    return 0


def test_both_end_after_the_same_step_or_non_zero(photos: Path, tmp_path: Path) -> None:
    codes, said = side_by_side(tmp_path, lambda rank: work(rank, tmp_path, photos))
    assert codes == [4, 1], said
    assert "another process of this run has ended before its work was done; the same command goes on" in said[1]
    rows = [[row["step"] for row in history(tmp_path / name) if row["val_psnr"]] for name in ("signal", "stop")]
    assert rows == [["3", "6"], ["2"]], "a validation that was broken off is made first when the run goes on"
    assert int(checkpoint.load_tensors(tmp_path / "full" / "state.safetensors")[1]["step"]) == 3
