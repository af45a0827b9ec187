"""Which pictures a training uses, and which it leaves out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from deblurgan.blur import MotionBlur
from deblurgan.config import TrainConfig
from deblurgan.data import Batch, Crops, GoPro, Mixed, PairDataset, SharpFolder, open_dataset
from deblurgan.data.cache import PictureCache
from deblurgan.images import printable
from deblurgan.training.errors import TrainingError

HELD_OUT_EVERY = 20  # of the training pictures one is validated on, where there is no other set
VALIDATION_EXPOSURE = (0.5, 1.0)


class PictureSets(NamedTuple):
    """The pictures to train on and those to validate on."""

    train: PairDataset
    validation: PairDataset


def open_picture_sets(config: TrainConfig, cache: PictureCache) -> PictureSets:
    """The pictures that the config names. Without `val` GoPro's test split validates, or every twentieth picture."""
    options: dict[str, Any] = {"layout": config.layout, "gamma": config.gamma, "crops": _crops(config), "cache": cache}
    blur = MotionBlur(**_camera(config), exposure=config.blur_exposure, p=config.blur_p)
    train = _without_samples(open_dataset(config.data, blur=blur, seed=config.seed, **options), config)
    root = _validation_root(config, train)
    sets = _hold_out(train) if root is None else PictureSets(train, open_dataset(root, split="test", **options))
    if isinstance(sets.validation, SharpFolder):
        sets.validation.blur = MotionBlur(**_camera(config), exposure=VALIDATION_EXPOSURE)
    if config.mix is None:
        return sets
    pairs = open_dataset(config.mix, layout="auto", crops=_crops(config), cache=cache, seed=config.seed)
    return sets._replace(train=Mixed(sets.train, pairs, ratio=config.mix_ratio))


def _validation_root(config: TrainConfig, train: PairDataset) -> Path | None:
    """The folder of a validation set of its own; None where pictures have to be held out of the training set."""
    if config.val is None and isinstance(train, GoPro) and (config.data / "test").is_dir():
        return config.data
    return config.val


def _crops(config: TrainConfig) -> Crops:
    return Crops(config.crop, config.flip, config.scale, config.texture)


def _camera(config: TrainConfig) -> dict[str, Any]:
    """The options of the blur that training and validation share."""
    return {"length": config.blur_length, "gamma": config.blur_gamma, "noise": config.blur_noise}


def _without_samples(pictures: PairDataset, config: TrainConfig) -> PairDataset:
    """The pictures but for the run's own samples: the run folder may lie among the photos."""
    samples = (config.out / "samples").resolve()
    return pictures.take(i for i in range(len(pictures)) if not pictures.path(i).resolve().is_relative_to(samples))


def _hold_out(pictures: PairDataset) -> PictureSets:
    """Every twentieth picture validates, at least one. A single picture does both."""
    if len(pictures) == 1:
        return PictureSets(pictures, pictures.take([0]))
    held = range(0, len(pictures), HELD_OUT_EVERY)
    rest = (i for i in range(len(pictures)) if i not in held)
    return PictureSets(pictures.take(rest), pictures.take(held))


def digest_of_names(pictures: PairDataset) -> str:
    """SHA-256 of the pictures' names, in order."""
    names = "\n".join(pictures.name(i) for i in range(len(pictures)))
    return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()


class LeftOut:
    """The pictures that could not be used, each logged once.

    Args:
        pictures: how many there are.
        max_bad_fraction: the share of them, in [0, 1], that may be unreadable.
    """

    def __init__(self, pictures: int, max_bad_fraction: float, log: Callable[[str], None]) -> None:
        self.pictures, self.max_bad_fraction, self.log = pictures, max_bad_fraction, log
        self.unreadable: dict[str, str] = {}
        self.other: dict[str, str] = {}

    def note(self, batch: Batch) -> None:
        """Notes the files that the batch left out. Raises TrainingError once too many are unreadable."""
        for name, reason in batch.small.items():
            self.add(name, reason)
        for name, reason in batch.bad.items():
            self.add(name, reason, unreadable=True)
        if len(self.unreadable) / self.pictures > self.max_bad_fraction:
            raise TrainingError(
                f"{len(self.unreadable)} of {self.pictures} pictures are unreadable, more than max_bad_fraction "
                f"{self.max_bad_fraction}: {', '.join(sorted(self.unreadable)[:5])}"
            )

    def add(self, name: str, reason: str, *, unreadable: bool = False) -> None:
        """Notes one file."""
        noted = self.unreadable if unreadable else self.other
        if name not in noted:
            noted[name] = reason
            self.log(printable(f"left out {name}: {reason}"))
