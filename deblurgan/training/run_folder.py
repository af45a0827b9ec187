"""The run folder: what a training writes, and what it reads again to go on.

config.yaml, history.csv, samples/, best.safetensors and last.safetensors (weights), state.safetensors (all that a
resumed run needs). Each file is written whole or not at all.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import Tensor

from deblurgan import checkpoint, images
from deblurgan.config import TrainConfig, to_mapping
from deblurgan.nn import Generator
from deblurgan.training.errors import TrainingError

# Options that may differ when a run goes on. (Its pictures are compared by name.)
MAY_CHANGE = frozenset(
    {"data", "out", "val", "mix", "init", "epochs", "steps", "device", "workers", "resume"}
    | {"log_every", "val_every", "val_pictures", "max_bad_fraction", "graphs", "deterministic", "cache"}
)


class RunState(NamedTuple):
    """How far a run has come, for what and on which pictures."""

    step: int
    best_psnr: float
    pictures: str
    """`digest_of_names` of the training pictures."""
    config: dict[str, Any]

    def to_metadata(self) -> dict[str, str]:
        """As a safetensors file holds it."""
        config = json.dumps(self.config)
        return {"step": str(self.step), "best_psnr": repr(self.best_psnr), "pictures": self.pictures, "config": config}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> RunState:
        """What `to_metadata` gave."""
        config = json.loads(metadata["config"])
        return cls(int(metadata["step"]), float(metadata["best_psnr"]), metadata["pictures"], config)

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
        self.history, self.samples = path / "history.csv", path / "samples"
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

    def forget(self) -> None:
        """Removes weights and state."""
        for path in (self.state, self.best, self.last):
            path.unlink(missing_ok=True)

    def write_config(self, config: TrainConfig) -> None:
        """Writes config.yaml, which `deblurgan train --config` reads."""
        images.replace_file(self.path / "config.yaml", yaml.safe_dump(to_mapping(config), sort_keys=False).encode())

    def save_state(self, tensors: dict[str, Tensor], state: RunState) -> None:
        """Writes state.safetensors."""
        checkpoint.save_tensors(tensors, self.state, metadata=state.to_metadata())

    def load_state(self) -> tuple[dict[str, Tensor], RunState] | None:
        """What `save_state` wrote, or None. Raises CheckpointError for a damaged file."""
        if not self.state.exists():
            return None
        tensors, metadata = checkpoint.load_tensors(self.state)
        return tensors, RunState.from_metadata(metadata)

    def write_samples(self, step: int, grid: images.Picture) -> None:
        """Writes a grid of pictures after `step` steps."""
        self.samples.mkdir(parents=True, exist_ok=True)
        images.write(grid, self.samples / f"{step:07d}.png")

    def load_best(self) -> Generator:
        """The generator of the best validation or, without one, the last."""
        return checkpoint.load_generator(self.best if self.best.exists() else self.last)
