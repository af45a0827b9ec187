"""Which pictures a training uses, and which it leaves out."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

from deblurgan.blur import MotionBlur
from deblurgan.blur.camera import Realism
from deblurgan.config import TrainConfig
from deblurgan.data import Batch, Crops, GoPro, Mixed, PairDataset, SharpFolder, open_dataset
from deblurgan.data.cache import PictureCache
from deblurgan.data.own import from_own
from deblurgan.training.errors import TrainingError
from deblurgan.training.validation import first_usable

HELD_OUT_EVERY = 20  # of the training pictures one is validated on, where there is no other set
MOST_SEQUENCES = 0.25  # share of the pictures that whole folders of pairs may take from the training
GOLDEN = 0.618034  # whose multiples spread over [0, 1), however many are taken
VALIDATION_EXPOSURE = (0.5, 1.0)


class PictureSets(NamedTuple):
    """The pictures to train on and those to validate on."""

    train: PairDataset
    validation: PairDataset


def open_picture_sets(
    config: TrainConfig, cache: PictureCache, log: Callable[[str], None], own: Mapping[str, Any] = MappingProxyType({})
) -> PictureSets:
    """The pictures that the config names. Without `val` the folders val/ or test/ beside train/ validate, or about a
    twentieth of the pictures: see `_hold_out`. Datasets in `own`, "data" or "val", take the place of the folders.

    `log` is told how they were read and what is left out. Raises ValueError where no picture can be validated on.
    """
    for name, folder in (("val", config.val), ("mix", config.mix)):
        if folder is not None and name not in own and not folder.is_dir():
            raise FileNotFoundError(f"{name} must be a folder, got {folder}")
    options: dict[str, Any] = {"layout": config.layout, "gamma": config.gamma, "crops": _crops(config)}
    options |= {"cache": cache, "log": log}
    blur = _blurs(config, exposure=config.blur_exposure, p=config.blur_p)
    used_otherwise = [folder for folder in (config.val, config.mix) if folder is not None]
    given = {name: from_own(name, dataset, options["crops"], config.seed) for name, dataset in own.items()}
    pictures = given.get("data") or open_dataset(
        config.data, blur=blur, seed=config.seed, split=None, without=used_otherwise, **options
    )
    _require_regime(pictures, config)
    log(f"data is read as {pictures.layout() if 'data' in given else _described(pictures, config)}")
    sets, which = _divide(pictures, config, options, given.get("val"))
    log(f"{len(sets.train)} pictures to train on, {len(sets.validation)} to validate on: {which}")
    _require_usable_validation(sets, config, log)
    if config.mix is None:
        _require_gamma(pictures, config)
    if isinstance(sets.validation, SharpFolder) and not given:
        sets.validation.blurs = _blurs(config, exposure=VALIDATION_EXPOSURE)
    if config.mix is None:
        return sets
    options |= {"layout": "auto", "crops": _crops(config, config.mix_scale)}
    with _named("mix"):
        pairs = open_dataset(config.mix, seed=config.seed, without=used_otherwise, **options)
    if isinstance(pairs, SharpFolder):
        raise ValueError(f"mix must hold pairs of blurred and sharp pictures, found sharp photos in {config.mix}")
    _require_gamma(pairs, config)
    log(f"mix is read as {pairs.layout()}; {config.mix_ratio:g} pictures of data are drawn for each")
    _tell_shared(pairs, sets.validation, log)
    return sets._replace(train=Mixed(sets.train, pairs, ratio=config.mix_ratio))


@contextmanager
def _named(option: str) -> Iterator[None]:
    """Errors within it tell of which folder they speak."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{option}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def _require_regime(pictures: PairDataset, config: TrainConfig) -> None:
    """Raises ValueError where the pictures are not of the kind that the config's regime is for."""
    is_sharp = isinstance(pictures, SharpFolder)
    if config.regime == "gopro" and is_sharp:
        raise ValueError(f"regime gopro goes with pairs of blurred and sharp pictures, got photos in {config.data}")
    if config.regime in ("synthetic", "combined") and not is_sharp:
        raise ValueError(f"regime {config.regime} goes with sharp photos, got pairs in {config.data}")


def _require_gamma(pictures: PairDataset, config: TrainConfig) -> None:
    """Raises ValueError where blur_gamma pictures are wanted and none are there."""
    if config.gamma and not any("blur_gamma" in pictures.path(i).parts for i in range(len(pictures))):
        raise ValueError(f"gamma goes with GoPro's blur_gamma folders, found none in {pictures.root}")


def _described(pictures: PairDataset, config: TrainConfig) -> str:
    """How the pictures were read, and why so."""
    shake = f" by camera shake of {config.blur_length:g} px" if isinstance(pictures, SharpFolder) else ""
    why = "by the names of folders" if config.layout == "auto" else f"layout {config.layout} is given"
    return f"{pictures.layout()}{shake} ({why})"


def _crops(config: TrainConfig, scale: tuple[float, float] | None = None) -> Crops:
    return Crops(config.crop, config.flip, scale or config.scale, config.texture)


def _blurs(config: TrainConfig, **options: Any) -> tuple[MotionBlur, ...]:
    """The camera shakes that the pictures' blur is drawn from; training and validation differ in their `options`."""
    options |= {"length": config.blur_length, "gamma": config.blur_gamma, "noise": config.blur_noise}
    realism: tuple[Realism, ...] = ("none", "camera") if config.blur_realism == "mixed" else (config.blur_realism,)
    return tuple(MotionBlur(realism=one, **options) for one in realism)


def _divide(
    pictures: PairDataset, config: TrainConfig, options: dict[str, Any], own: PairDataset | None
) -> tuple[PictureSets, str]:
    """The pictures to train on and those to validate on, and which these are, in words: `own`, of `val`, of a split of
    their own, or held out."""
    if isinstance(pictures, Mixed):
        sets, which = _divide(pictures.pairs, config, options, own)
        mixed = Mixed(pictures.synthetic, sets.train, ratio=pictures.ratio)
        return sets._replace(train=mixed), f"{which}, of the pairs"
    part = pictures.part("train")
    train = pictures if part is None else part
    if config.val is not None:
        with _named("val"):
            validation = own or open_dataset(config.val, split="val", **options)
        validation.root = pictures.root  # its pictures go by other names than those of data
        _tell_shared(train, validation, options["log"])
        unused = len(pictures) - len(train)
        others = f"; {unused} in data are for validation and tests by their folders' names" if unused else ""
        return PictureSets(train, validation), f"those of {config.val}{others}"
    tests = pictures.part("val")
    return _hold_out(pictures) if tests is None else (PictureSets(train, tests), "by their folders' names")


def _tell_shared(train: PairDataset, validation: PairDataset, log: Callable[[str], None]) -> None:
    """Logs how many of the validation pictures are trained on."""
    trained, validated = (
        {pictures.path(i).resolve() for i in range(len(pictures))} for pictures in (train, validation)
    )
    if shared := trained & validated:
        log(f"{len(shared)} of {len(validated)} validation pictures are trained on too, such as {min(shared)}")


def _hold_out(pictures: PairDataset) -> tuple[PictureSets, str]:
    """About a twentieth validates: whole sequences of pairs, else every twentieth photo with all its versions.

    What was made from one photo never stands on both sides, unless there is no other photo.
    """
    photos = pictures.sources()
    held, which = _whole_sequences(pictures, photos), "whole sequences, which are not trained on"
    if not held:
        every = set(list(dict.fromkeys(photos))[::HELD_OUT_EVERY])
        held = [i for i, photo in enumerate(photos) if photo in every]
        which = "every twentieth" if len(set(photos)) == len(photos) else "every twentieth photo, with all its versions"
    if len(held) == len(pictures):
        return PictureSets(pictures, pictures.take([0])), "there is but one photo, which is trained on too"
    rest = set(range(len(pictures))).difference(held)
    return PictureSets(pictures.take(sorted(rest)), pictures.take(held)), which


def _whole_sequences(pictures: PairDataset, photos: Sequence[int]) -> list[int]:
    """The pictures of the smallest sequences that together hold a twentieth of all, in an order that mixes them.

    None where there is one sequence, or where folders of pairs seem to be none: they would take much of the training,
    or share photos.
    """
    sequences: dict[int, list[int]] = defaultdict(list)
    for i, sequence in enumerate(pictures.sequences()):
        sequences[sequence].append(i)
    held: list[int] = []
    for members in sorted(sequences.values(), key=len)[:-1]:
        if len(held) * HELD_OUT_EVERY < len(pictures):
            held += members
    shared = {photos[i] for i in held} & {photos[i] for i in set(range(len(pictures))).difference(held)}
    if shared or not (isinstance(pictures, GoPro) or len(held) <= MOST_SEQUENCES * len(pictures)):
        return []
    return sorted(held, key=lambda i: i * GOLDEN % 1)  # validations look at the first


def _require_usable_validation(sets: PictureSets, config: TrainConfig, log: Callable[[str], None]) -> None:
    """Where none of the pictures held out can be used, adds one of those to train on. Raises ValueError without any."""
    reasons: dict[str, str] = {}
    if first_usable(sets.validation, reasons.__setitem__) is not None:
        return
    if config.val is not None:
        name, reason = next(iter(reasons.items()))
        raise ValueError(f"val must hold a usable picture, found none of {len(sets.validation)}; {name}: {reason}")
    train = sets.train.pairs if isinstance(sets.train, Mixed) else sets.train
    found = first_usable(train, reasons.__setitem__)
    if found is None:
        name, reason = next(iter(reasons.items()))
        raise ValueError(f"data must hold a usable picture, found none of {len(reasons)}; {name}: {reason}")
    log(f"no picture held out can be used: validates on {train.name(found)}, which is trained on too")
    sets.validation.entries.append(train.entries[found])


def digest_of_names(pictures: PairDataset) -> str:
    """SHA-256 of the pictures' names, in order."""
    return hashlib.sha256("\n".join(pictures.names()).encode("utf-8", "surrogateescape")).hexdigest()


class LeftOut:
    """The pictures that could not be used, each logged once.

    Args:
        pictures: how many there are.
        max_bad_fraction: the share of them, in [0, 1], that may be unreadable; above 0 one always may.
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
        allowed = self.max_bad_fraction and max(1.0, self.max_bad_fraction * self.pictures)
        if len(self.unreadable) > allowed:
            raise TrainingError(
                f"{len(self.unreadable)} of {self.pictures} pictures are unreadable, more than max_bad_fraction "
                f"{self.max_bad_fraction}: {', '.join(sorted(self.unreadable)[:5])}"
            )

    def add(self, name: str, reason: str, *, unreadable: bool = False) -> None:
        """Notes one file."""
        noted = self.unreadable if unreadable else self.other
        if name not in noted:
            noted[name] = reason
            self.log(f"left out {name}: {reason}")

    def summary(self) -> str | None:
        """A line that counts them; None where all pictures could be used."""
        count = len(self.unreadable | self.other)
        return f"pictures left out in all: {count}" if count else None
