"""A run in its folder: how it is saved as it goes, and how it goes on from what was saved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from deblurgan import checkpoint
from deblurgan.checkpoint import CheckpointError
from deblurgan.config import TrainConfig, to_mapping
from deblurgan.nn import Generator
from deblurgan.training.errors import DivergedError
from deblurgan.training.run_folder import RunFolder, RunState
from deblurgan.training.step import Step
from deblurgan.training.validation import Validation

Log = Callable[[str], None]


class SavedRun:
    """What `folder` holds of a run, of which `step` has the weights and the optimisers.

    A new run owns the folder from its first save on; until then an earlier run may lie there. Of several processes the
    one that leads writes.

    Args:
        config: the resolved one. It is written into the folder.
        pictures: `digest_of_names` of the training pictures.
        goes_on: whether to go on from the folder's state; else the first save replaces the run that is there.
    """

    def __init__(
        self, folder: RunFolder, step: Step, config: TrainConfig, *, pictures: str, goes_on: bool, log: Log
    ) -> None:
        self.folder, self.step, self.config, self.pictures = folder, step, config, pictures
        self.goes_on, self.log, self.processes = goes_on, log, step.processes
        self.best_psnr, self.measured_on = -math.inf, ""
        self.validated_at = 0
        self.owns_folder = False
        self._newest: RunState | None = None  # of those saved

    def state(self, steps_done: int) -> RunState:
        """Where the run is after so many steps."""
        config = to_mapping(self.config)
        return RunState(steps_done, self.best_psnr, self.measured_on, self.pictures, config, self.validated_at)

    def save(self, steps_done: int) -> None:
        """Writes last.safetensors and state.safetensors, each whole or not at all, the state last.

        Raises DivergedError where a weight is not finite, ValueError where that would replace another run unasked.
        """
        if not self.processes.leads:
            self.owns_folder = True  # of the one that leads
            return
        _require_finite(self.step.state_dict(), steps_done)
        before = self._newest
        self.own_folder(steps_done)
        self._save_weights(self.folder.last, steps_done)
        if self._newest is before:  # else the folder's first state was written just now
            self._save_state(steps_done, alone=True)

    def needs_save(self, steps_done: int) -> bool:
        """Whether so many steps are not saved yet, and saving them would replace no other run."""
        if not self.owns_folder and self.folder.holds_run():
            return False
        return self._newest != self.state(steps_done)

    def own_folder(self, steps_done: int) -> None:
        """Before the first file of a new run is written. A process that ends here leaves a state that tells whose the
        other files are."""
        if self.owns_folder:
            return
        self._require_no_other_run()
        replaces = self.folder.holds_run()
        self._save_state(steps_done, alone=not replaces)
        if replaces:
            self.folder.forget_all_but_state()
        self.folder.write_config(self.config)
        self.owns_folder = True

    def note_validation(self, found: Validation, steps_done: int, measure: Callable[[Generator], Validation]) -> None:
        """Saves the weights if they are the best so far. Where earlier ones were measured on other pictures, `measure`
        does it on these."""
        digest = found.digest()
        if self.best_psnr > -math.inf and digest != self.measured_on:
            before, self.best_psnr = self.best_psnr, measure(self.folder.load_best().to(self.step.device)).psnr
            self.log(f"other validation pictures: the best so far gives {self.best_psnr:.2f} on them, not {before:.2f}")
        self.measured_on = digest
        if found.psnr > self.best_psnr:
            self.best_psnr = found.psnr
            self._save_weights(self.folder.best, steps_done)
        self.validated_at = steps_done

    def resume(self) -> int | None:
        """Goes on from the newest state that is whole. Returns its step; None where this is a new run.

        Raises ValueError where the folder is of another run, CheckpointError where all states are damaged.
        """
        found = self.processes.first(self._found)
        if found is None:
            return None
        tensors, before = found
        before.require_same_run(self.state(0))
        try:
            self.step.load_state_dict(tensors)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.folder.state}: of another network ({error})") from error
        self.owns_folder, self.validated_at, self._newest = True, before.validated, before
        if self.processes.leads:
            self._tidy(before)
        self.log(f"resumed at step {before.step}")
        if self.config.init is not None and str(self.config.init) != before.config["init"]:
            self.log("init has no effect on a run that goes on")
        return before.step

    def _found(self) -> tuple[dict[str, Tensor], RunState] | None:
        found = self.folder.load_state(self.log) if self.goes_on else None
        if found is None:
            self._require_no_other_run()
            if self.folder.holds_run():
                self.log(f"begins anew: the first step replaces the run in {self.folder.path}")
        return found

    def _tidy(self, before: RunState) -> None:
        """Drops what is of another run or of later steps; damaged weights count as missing. The config may have changed
        in part."""
        if not before.alone:
            self.folder.forget_all_but_state()
        self.folder.forget_samples_after(before.step)
        if self.folder.best.exists() and _is_whole(self.folder.best, self.log):
            self.best_psnr, self.measured_on = before.best_psnr, before.measured_on
        if self.folder.last.exists() and not _is_whole(self.folder.last, self.log):
            self._save_weights(self.folder.last, before.step)
        self.folder.write_config(self.config)

    def _require_no_other_run(self) -> None:
        if self.goes_on and self.folder.holds_run():
            raise ValueError("out holds weights of a run that cannot be gone on with: choose another, or resume=False")

    def _save_state(self, steps_done: int, *, alone: bool) -> None:
        state = self.state(steps_done)._replace(alone=alone)
        self.folder.save_state(self.step.state_dict(), state)
        self._newest = state if alone else self._newest

    def _save_weights(self, path: Path, steps_done: int) -> None:
        generator = self.step.networks.validated
        _require_finite(generator.state_dict(), steps_done)
        checkpoint.save_generator(generator, path, card={"step": steps_done, "config": to_mapping(self.config)})


def with_saved_network(config: TrainConfig, folder: RunFolder, log: Log) -> TrainConfig:
    """The config, but a run that goes on is of the network that it saved and needs its init no more."""
    if config.init and config.resume and folder.states():
        for path in (folder.last, folder.best):
            if path.exists() and _is_whole(path, log):
                return replace(config, init=path)
    return config


def _is_whole(path: Path, log: Log) -> bool:
    """Whether a file holds weights that load. The next save replaces damaged ones."""
    try:
        checkpoint.load_generator(path)
    except (CheckpointError, OSError) as error:
        log(f"{error}: goes on as if it were missing")
        return False
    return True


def _require_finite(tensors: dict[str, Tensor], steps_done: int) -> None:
    """Raises DivergedError, so that no file is replaced by what is of no use."""
    finite = torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).tolist()
    if not all(finite):
        name = next(name for name, good in zip(tensors, finite, strict=True) if not good)
        raise DivergedError(
            f"{name} is not finite after step {steps_done}, which is not saved: the run folder holds weights of before"
        )
