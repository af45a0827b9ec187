"""The run folder: what a training writes, and what it reads again to go on.

config.yaml, history.csv, report.html, samples/, best.safetensors and last.safetensors (weights), state.safetensors
(all that a resumed run needs). Each file is written whole or not at all, and the state says whose folder it is: a new
run writes it first, then removes what else an earlier run has left.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import Tensor

from deblurgan import checkpoint, images
from deblurgan.checkpoint import CheckpointError
from deblurgan.config import TrainConfig, to_mapping
from deblurgan.nn import Generator
from deblurgan.training.errors import TrainingError

# Options that may differ when a run goes on. (Its pictures are compared by name.)
MAY_CHANGE = frozenset(
    {"data", "out", "val", "mix", "init", "epochs", "steps", "accumulate", "device", "workers", "resume"}
    | {"log_every", "val_every", "val_pictures", "max_bad_fraction", "graphs", "deterministic", "cache"}
    | {"max_bad_steps", "tensorboard"}
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
    alone: bool = True
    """Whether the folder holds nothing of an earlier run."""

    def to_metadata(self) -> dict[str, str]:
        """As a safetensors file holds it."""
        return {name: json.dumps(value) for name, value in self._asdict().items()}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> RunState:
        """What `to_metadata` gave. Raises ValueError or KeyError for other metadata."""
        return cls(**{name: json.loads(metadata[name]) for name in cls._fields})

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
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.history, self.samples = path / "config.yaml", path / "history.csv", path / "samples"
        self.report = path / "report.html"
        self.best, self.last, self.state = (path / f"{name}.safetensors" for name in ("best", "last", "state"))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder and holds it for this run alone, until the process ends at the latest.

        Raises TrainingError where another run holds it. File systems without locks are not protected.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TrainingError(f"out must be a folder of its own, another run is at work in {self.path}") from None
            except OSError:
                pass
            yield
        finally:
            os.close(handle)

    def holds_run(self) -> bool:
        """Whether an earlier run has left its state or weights."""
        return any(path.exists() for path in (self.state, self.best, self.last))

    def forget_all_but_state(self) -> None:
        """Removes what else a run writes; other files stay."""
        for path in (self.best, self.last, self.history, self.config, self.report):
            path.unlink(missing_ok=True)
        for path in self.samples.glob("*.png"):
            if re.fullmatch(r"\d{7,}", path.stem):
                path.unlink()

    def write_config(self, config: TrainConfig) -> None:
        """Writes config.yaml, which `deblurgan train --config` reads."""
        images.replace_file(self.config, yaml.safe_dump(to_mapping(config), sort_keys=False).encode())

    def save_state(self, tensors: dict[str, Tensor], state: RunState) -> None:
        """Writes state.safetensors."""
        checkpoint.save_tensors(tensors, self.state, metadata=state.to_metadata())

    def load_state(self) -> tuple[dict[str, Tensor], RunState] | None:
        """What `save_state` wrote, or None. Raises CheckpointError for a damaged file or one of something else."""
        if not self.state.exists():
            return None
        tensors, metadata = checkpoint.load_tensors(self.state)
        try:
            return tensors, RunState.from_metadata(metadata)
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{self.state}: not the state of a training by this version ({error})") from error

    def write_samples(self, step: int, grid: images.Picture) -> None:
        """Writes a grid of pictures after `step` steps."""
        self.samples.mkdir(parents=True, exist_ok=True)
        images.write(grid, self.samples / f"{step:07d}.png")

    def load_best(self) -> Generator:
        """The generator of the best validation or, without one, the last."""
        return checkpoint.load_generator(self.path)
