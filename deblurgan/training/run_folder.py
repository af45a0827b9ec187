"""The run folder: what a training writes, and what it reads again to go on.

config.yaml, history.csv, report.html, samples/, best.safetensors and last.safetensors (weights), state.safetensors
(all that a resumed run needs) and state-0001000.safetensors (an older state, of step 1000). Each file is written whole
or not at all, and the state says whose folder it is: a new run writes it first, then removes what else an earlier run
has left.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import FileLock, Timeout
from torch import Tensor

from deblurgan import checkpoint, images
from deblurgan.checkpoint import CheckpointError
from deblurgan.config import TrainConfig, named_defaults, to_mapping
from deblurgan.nn import Generator
from deblurgan.training.errors import SaveError, TrainingError

# Options that may differ when a run goes on. (Its pictures are compared by name.)
MAY_CHANGE = frozenset(
    {"data", "out", "val", "mix", "init", "epochs", "steps", "accumulate", "device", "workers", "resume"}
    | {"log_every", "val_every", "val_pictures", "max_bad_fraction", "graphs", "deterministic", "cache"}
    | {"save_every", "keep", "max_bad_steps", "tensorboard"}
)


class RunState(NamedTuple):
    """How far a run has come, for what and on which pictures."""

    step: int
    best_psnr: float
    measured_on: str
    """Digest of the pictures that `best_psnr` was measured on."""
    pictures: str
    """`digest_of_names` of the training pictures."""
    config: dict[str, Any]
    validated: int
    """The step of the last validation, 0 before the first."""
    alone: bool = True
    """Whether the folder holds nothing of an earlier run."""

    def to_metadata(self) -> dict[str, str]:
        """As a safetensors file holds it."""
        return {name: json.dumps(value) for name, value in self._asdict().items()}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> RunState:
        """What `to_metadata` gave; what older versions did not know of has its default. Raises ValueError or KeyError
        for other metadata."""
        known = {"validated": metadata["step"], "alone": "true", **metadata}
        state = cls(**{name: json.loads(known[name]) for name in cls._fields})
        if not isinstance(state.config, dict):
            raise ValueError(f"config must hold options, got {state.config!r}")
        return state._replace(config=_default_options(state.config) | state.config)

    def require_same_run(self, other: RunState) -> None:
        """Raises ValueError unless `other` may go on from here: with other options or pictures it would be another
        run."""
        changed = [name for name in other.config if other.config[name] != self.config.get(name)]
        changed = sorted(set(changed) - MAY_CHANGE)
        if changed:
            raise ValueError(
                f"out holds a run with another {', '.join(changed)}: choose another folder, or resume=False"
            )
        if other.pictures != self.pictures:
            raise ValueError("data holds other pictures than when the run began: choose another out, or resume=False")


class RunFolder:
    """The files of one run, of whose states the newest `keep` stay."""

    def __init__(self, path: Path, keep: int = 1) -> None:
        self.path, self.keep = path, keep
        self.config, self.history, self.samples = path / "config.yaml", path / "history.csv", path / "samples"
        self.report = path / "report.html"
        self.best, self.last, self.state = (path / f"{name}.safetensors" for name in ("best", "last", "state"))
        self._newest: int | None = None  # the step of state.safetensors where that is a good one to fall back to

    @contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder and holds it for this run alone, until the process ends at the latest, however it ends.
        Temporary files that a killed run has left are removed.

        Raises TrainingError where another run holds it. File systems without locks are not protected.
        """
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"out must be a folder, got {self.path}")
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=0, fallback_to_soft=False)
        try:
            lock.acquire()
        except Timeout:
            raise TrainingError(f"out must be a folder of its own, another run is at work in {self.path}") from None
        except (OSError, NotImplementedError):
            yield
            return
        try:
            for folder in (self.path, self.samples):
                images.remove_temporaries(folder)
            yield
        finally:
            lock.release()

    @contextmanager
    def tells_of_failed_writes(self) -> Iterator[None]:
        """An OSError of a file here becomes a SaveError, which says how much space is left."""
        try:
            yield
        except OSError as error:
            path, here = Path(os.path.realpath(error.filename or self.path)), Path(os.path.realpath(self.path))
            if not path.is_relative_to(here):
                raise
            free = shutil.disk_usage(next(folder for folder in (here, *here.parents) if folder.is_dir())).free
            why = error.strerror or error
            raise SaveError(f"{path} cannot be written: {why}; its disk has {free / 1e6:.1f} MB left") from error

    def states(self) -> list[Path]:
        """The saved states, the newest first."""
        older = {step: path for path in self.path.glob("state-*.safetensors") if (step := _step_of(path)) is not None}
        newest = [self.state] if self.state.exists() else []
        return newest + [older[step] for step in sorted(older, reverse=True)]

    def holds_run(self) -> bool:
        """Whether an earlier run has left its state or weights."""
        return bool(self.states()) or any(path.exists() for path in (self.best, self.last))

    def forget_all_but_state(self) -> None:
        """Removes what else a run writes; other files stay."""
        for path in (self.best, self.last, self.history, self.config, self.report, *self.states()):
            if path != self.state:
                path.unlink(missing_ok=True)
        self.forget_samples_after(-1)

    def forget_samples_after(self, step: int) -> None:
        """Removes the samples of later steps; other files stay."""
        for path in self.samples.glob("*.png"):
            if re.fullmatch(r"\d{7,}", path.stem) and int(path.stem) > step:
                path.unlink()

    def write_config(self, config: TrainConfig) -> None:
        """Writes config.yaml, which `deblurgan train --config` reads."""
        images.replace_file(self.config, yaml.safe_dump(to_mapping(config), sort_keys=False).encode())

    def save_state(self, tensors: dict[str, Tensor], state: RunState) -> None:
        """Writes state.safetensors; the one before it becomes an older state, and too old ones are removed.

        Whatever stops the process, the newest whole state is one of `states()`.
        """
        aside = self._set_aside(state.step)
        try:
            checkpoint.save_tensors(tensors, self.state, metadata=state.to_metadata())
        except BaseException:
            if aside is not None and not self.state.exists():
                aside.rename(self.state)
            raise
        self._newest = state.step if state.alone else None
        older = [path for path in self.states() if path != self.state]
        left = [
            path for path in older if (_step_of(path) or 0) >= state.step
        ]  # of a way that damage made the run leave
        for path in left + [path for path in older if path not in left][self.keep - 1 :]:
            path.unlink(missing_ok=True)

    def _set_aside(self, step: int) -> Path | None:
        """Gives state.safetensors, unless it is of this step or no good one, the name of an older state: a second one
        or, where the file system knows no hard links, in place of its own."""
        if self.keep == 1 or self._newest is None or self._newest == step or not self.state.exists():
            return None
        aside = self.path / f"state-{self._newest:07d}.safetensors"
        aside.unlink(missing_ok=True)
        try:
            os.link(os.path.realpath(self.state), aside)
        except OSError:
            self.state.rename(aside)
        return aside

    def load_state(self, log: Callable[[str], None]) -> tuple[dict[str, Tensor], RunState] | None:
        """What `save_state` wrote last, or None. `log` is told of damaged states, which the one before stands in for.

        Raises CheckpointError, which names them all, where none is good.
        """
        failed = []
        for path in self.states():
            try:
                tensors, metadata = checkpoint.load_tensors(path)
                state = RunState.from_metadata(metadata)
            except (CheckpointError, OSError) as error:
                failed.append(str(error))
            except (KeyError, ValueError) as error:
                failed.append(f"{path}: not the state of a training by this version ({error})")
            else:
                for reason in failed:
                    log(f"{reason}: goes on from {path.name}, of step {state.step}")
                self._newest = state.step if state.alone and path == self.state else None
                return tensors, state
        if failed:
            raise CheckpointError("; ".join(failed))
        return None

    def write_samples(self, step: int, grid: images.Picture) -> None:
        """Writes a grid of pictures after `step` steps."""
        self.samples.mkdir(parents=True, exist_ok=True)
        images.write(grid, self.samples / f"{step:07d}.png")

    def load_best(self) -> Generator:
        """The generator of the best validation or, where that is missing or damaged, the last."""
        try:
            return checkpoint.load_generator(self.best)
        except (CheckpointError, FileNotFoundError):
            return checkpoint.load_generator(self.last)


def _default_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """All options as they are where a saved config does not name them."""
    named = {name: config[name] for name in ("preset", "regime") if name in config}
    defaults = {f.name: f.default for f in fields(TrainConfig) if f.default is not MISSING}
    return json.loads(json.dumps({**defaults, **named_defaults(named)}, default=str))


def _step_of(path: Path) -> int | None:
    """The step in an older state's name; None of another file."""
    found = re.fullmatch(r"state-(\d{7,})", path.stem)
    return int(found[1]) if found else None
