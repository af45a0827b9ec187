"""What Python gives a training beside its options, and how the options name it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from deblurgan.config import TrainConfig
from deblurgan.training.history import COLUMNS
from deblurgan.training.objective import OwnLoss
from deblurgan.training.own_optimizer import OptimizerFactory

Pairs = Dataset[Any] | Sequence[Any]
"""A map-style dataset of (blurred, sharp) pairs."""


def stand_in(dataset: Any) -> Path:
    """What stands for a dataset where a config names a folder."""
    return Path(f"<{type(dataset).__name__}>")


def with_own(
    config: TrainConfig,
    pictures: Mapping[str, Pairs],
    losses: Mapping[str, OwnLoss],
    optimizer: OptimizerFactory | None,
) -> TrainConfig:
    """The config that names what is given beside it: so a run that goes on is compared, and config.yaml tells.

    `pictures` are datasets by option, "data" or "val". Raises ValueError where something is not what it must be, or
    the config names what is not given.
    """
    for name in losses:
        if not name.isidentifier() or name in COLUMNS:
            raise ValueError(f"losses must have names that history.csv has no column of, got {name!r}")
        if not callable(losses[name]):
            raise ValueError(f"losses must be functions, got {name!r}: {type(losses[name]).__name__}")
    if optimizer is not None and not callable(optimizer):
        raise ValueError(f"optimizer must make an optimizer of parameters, got {type(optimizer).__name__}")
    for option, given in (("losses", losses), ("optimizer", optimizer)):
        named = config.losses if option == "losses" else config.optimizer == "own"
        if named and not given:
            raise ValueError(f"{option} of your own must be given from Python: deblurgan.train(..., {option}=...)")
    changed: dict[str, Any] = {option: stand_in(dataset) for option, dataset in pictures.items()}
    changed["losses"] = tuple(losses)
    if optimizer is not None:
        changed["optimizer"] = "own"
    return replace(config, **changed)
