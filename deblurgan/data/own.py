"""Datasets of one's own: whatever holds (blurred, sharp) pairs by index becomes a PairDataset."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import IterableDataset

from deblurgan import images
from deblurgan.data.cache import Pixels
from deblurgan.data.crops import Crops
from deblurgan.data.datasets import Mixed, PairDataset, PairedFolder

KEYS = (("blurred", "sharp"), ("blur", "sharp"))  # of items that are mappings
ROUNDING = 1e-3  # by which floats may leave [0, 1], less than half a level

_ONE_AT_A_TIME = threading.Lock()  # for all, since two may be parts of one


def from_own(option: str, given: Any, crops: Crops, seed: int) -> PairDataset:
    """The pairs of `given`, which are cropped as `crops` says; those of a PairDataset keep their blur.

    Raises ValueError, which names the option, unless it is a map-style dataset of pairs.
    """
    if isinstance(given, PairDataset):
        return _recropped(given, crops, seed)
    name = type(given).__name__
    wanted = f"{option} must be a folder or a Dataset of (blurred, sharp) pairs, got"
    if isinstance(given, torch.utils.data.DataLoader):
        raise ValueError(f"{wanted} a {name}: give its dataset, training draws crops and batches itself")
    if isinstance(given, IterableDataset) or (hasattr(given, "__iter__") and not hasattr(given, "__getitem__")):
        raise ValueError(f"{wanted} {name}, which has no index: give one with __len__ and __getitem__")
    if isinstance(given, Mapping) or not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        raise ValueError(f"{wanted} {name}")
    if not len(given):
        raise ValueError(f"{option} must hold pairs, got an empty {name}")
    if (other := _other_than_pair(given)) is not None:
        raise ValueError(f"{wanted} {name} of {other}")
    return OwnPairs(option, given, crops, seed)


class OwnPairs(PairedFolder):
    """The items of a map-style dataset: tuples or mappings of a blurred and a sharp picture, at any size.

    A picture is a tensor [3, h, w] or an array [h, w, 3], uint8 or floats in [0, 1], or a PIL image. An item that
    raises is left out as a bad file is. Items are asked for one at a time, since few datasets are safe for threads.
    """

    def __init__(self, option: str, dataset: Any, crops: Crops, seed: int) -> None:
        super().__init__(Path(), pairs=range(len(dataset)), crops=crops, seed=seed)  # type: ignore[arg-type]
        self.dataset = dataset
        self.label = ("" if option == "data" else f"{option} ") + type(dataset).__name__

    def part(self, split: str) -> None:
        return None  # its names tell of no split

    def layout(self) -> str:
        return f"{len(self)} pairs of {self.label}"

    def sources(self) -> list[int]:
        return list(range(len(self)))

    def sequences(self) -> list[int]:
        return [0] * len(self)

    def path(self, index: int, *, epoch: int = 0) -> Path:
        return Path(f"{self.label}[{self.entries[index]}]")

    def _read(self, index: int) -> tuple[Pixels, Pixels]:
        try:
            with _ONE_AT_A_TIME:
                item = self.dataset[self.entries[index]]
            blurred, sharp = (_pixels(part, self.path(index)) for part in _parts(item))
        except (images.ImageError, MemoryError):
            raise
        except Exception as error:
            raise images.ImageError(self.path(index), f"{type(error).__name__}: {error}") from error
        if blurred.shape != sharp.shape:
            sizes = (f"{part.shape[1]}x{part.shape[0]}" for part in (blurred, sharp))
            raise images.ImageError(self.path(index), "{} blurred but {} sharp".format(*sizes))
        return blurred, sharp


def _recropped(dataset: PairDataset, crops: Crops, seed: int) -> PairDataset:
    part = copy(dataset)
    part.entries, part.crops, part.seed = list(dataset.entries), crops, seed
    if isinstance(part, Mixed):
        part.synthetic, part.pairs = (_recropped(inner, crops, seed) for inner in (part.synthetic, part.pairs))
    return part


def _other_than_pair(dataset: Any) -> str | None:
    """What the first item is, where it is no pair. None where it is, or cannot be had: then it is left out later."""
    try:
        item = dataset[0]
    except Exception:
        return None
    try:
        _parts(item)
    except TypeError as error:
        return str(error)
    return None


def _parts(item: Any) -> tuple[Any, Any]:
    """The blurred and the sharp picture of an item. TypeError, with what it is, where it is no pair."""
    if isinstance(item, Mapping):
        for blurred, sharp in KEYS:
            if blurred in item and sharp in item:
                return item[blurred], item[sharp]
        raise TypeError(f"mappings of {', '.join(map(str, item))}, without 'blurred' and 'sharp'")
    if not isinstance(item, tuple | list):
        raise TypeError(type(item).__name__)
    if len(item) != 2:
        raise TypeError(f"{type(item).__name__}s of {len(item)}")
    return item[0], item[1]


def _pixels(picture: Any, name: Path) -> Pixels:
    """uint8 [h, w, 3] of a picture. Raises TypeError or ValueError for anything else."""
    if isinstance(picture, Image.Image):
        return images.from_pil(picture, name=name).in_8_bits().pixels
    if isinstance(picture, torch.Tensor):
        array = picture.detach().cpu().numpy() if picture.dtype != torch.bfloat16 else picture.detach().float().numpy()
        layout, channels = "[3, h, w]", 0
    elif isinstance(picture, np.ndarray):
        array, layout, channels = picture, "[h, w, 3]", 2
    else:
        raise TypeError(f"pictures must be tensors, arrays or PIL images, got {type(picture).__name__}")
    if array.ndim != 3 or array.shape[channels] != 3 or 0 in array.shape:
        raise ValueError(f"pictures must be {layout}, got {tuple(array.shape)}")
    return _bytes(array if channels else array.transpose(1, 2, 0))


def _bytes(array: np.ndarray[Any, Any]) -> Pixels:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise TypeError(f"pictures must be uint8 or floats in [0, 1], got {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN is neither
        raise ValueError(f"pictures must be uint8 or floats in [0, 1], got {low:g} to {high:g}")
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)
