"""Training pictures. Every crop is a function of (seed, epoch, index), so any step can be made again from its number.

A dataset gives pairs (blurred, sharp), uint8 [3, h, w]. It reads a folder of sharp photos (blurred as they are drawn),
blur/ + sharp/ folders, the GoPro tree, or side-by-side A|B pictures; `Mixed` joins two of them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from deblurgan import images
from deblurgan.blur import MotionBlur, apply_psf

BLURRED_NAMES = ("blur", "blurred", "blurry", "input", "lq", "A")
SHARP_NAMES = ("sharp", "target", "gt", "groundtruth", "hq", "B")

Pixels = NDArray[np.uint8]


class Pair(NamedTuple):
    """A blurred picture and its sharp original, uint8 [3, h, w] each, or [n, 3, h, w] in a batch."""

    blurred: Tensor
    sharp: Tensor


@dataclass(frozen=True)
class Crops:
    """How crops are drawn: side in px, mirrored or not, photo reduced by a factor of `scale`, best of `texture`."""

    size: int = 256
    flip: bool = True
    scale: tuple[float, float] = (1.0, 1.0)
    texture: int = 1


class _Cache:
    """The pictures read last, as many as fit into `limit` bytes."""

    def __init__(self, limit: int = 2**30) -> None:
        self.limit = limit
        self.bytes = 0
        self.pictures: OrderedDict[Path, Pixels] = OrderedDict()

    def read(self, path: Path) -> Pixels:
        if path in self.pictures:
            self.pictures.move_to_end(path)
            return self.pictures[path]
        pixels = images.read(path).pixels
        self.pictures[path] = pixels
        self.bytes += pixels.nbytes
        while self.bytes > self.limit and len(self.pictures) > 1:
            self.bytes -= self.pictures.popitem(last=False)[1].nbytes
        return pixels


class PairDataset(Dataset[Pair]):
    """What all datasets share: names, whole pictures, random crops. `dataset[i]` is the crop of epoch 0."""

    def __init__(self, entries: Sequence[Any], root: Path, *, crops: Crops | None = None, seed: int = 0) -> None:
        if not entries:
            raise ValueError(f"data must hold pictures, found none in {root}")
        self.entries = list(entries)
        self.root = root
        self.crops = crops or Crops()
        self.seed = seed
        self.cache = _Cache()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Pair:
        return self.sample(index, epoch=0)

    def take(self, indices: Iterable[int]) -> PairDataset:
        """The dataset of these pictures alone."""
        part = copy(self)
        part.entries = [self.entries[i] for i in indices]
        return part

    def name(self, index: int) -> str:
        """The picture's path below the root."""
        path = self.path(index)
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name

    def path(self, index: int) -> Path:
        """The file that names the picture."""
        raise NotImplementedError

    def whole(self, index: int) -> Pair:
        """The uncropped pair. Raises ImageError for a bad file."""
        raise NotImplementedError

    def sample(self, index: int, *, epoch: int) -> Pair:
        """The random crop of picture `index` in `epoch`. Raises ImageError for a bad file or one below the crop."""
        raise NotImplementedError

    def _random(self, epoch: int, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, index))

    def _require_crop(self, path: Path, height: int, width: int) -> None:
        if min(height, width) < self.crops.size:
            raise images.ImageError(path, f"{width}x{height} is below the crop of {self.crops.size}")


class SharpFolder(PairDataset):
    """Sharp photos, blurred as they are drawn: each (epoch, index) gets its own kernel.

    The kernel is applied to the crop with a margin around it, so that the border rule of `blur` matters at the photo's
    own border only. `whole` uses the kernel of epoch 0.
    """

    def __init__(
        self, root: Path | str, *, blur: MotionBlur | None = None, crops: Crops | None = None, seed: int = 0
    ) -> None:
        super().__init__(_pictures(root), Path(root), crops=crops, seed=seed)
        self.blur = blur or MotionBlur()

    def path(self, index: int) -> Path:
        return self.entries[index]

    def whole(self, index: int) -> Pair:
        sharp = _tensor(self.cache.read(self.entries[index]))
        return Pair(apply_psf(sharp, self._psf(0, index), padding=self.blur.padding), sharp)

    def sample(self, index: int, *, epoch: int) -> Pair:
        path = self.entries[index]
        photo = self.cache.read(path)
        size = self.crops.size
        self._require_crop(path, *photo.shape[:2])
        random = self._random(epoch, index)
        smallest = size / min(photo.shape[:2])
        scale = max(smallest, random.uniform(*self.crops.scale))
        height, width = (max(size, math.floor(side * scale)) for side in photo.shape[:2])
        top, left = self._corner(random, photo, scale, height, width)

        reach = self.blur.size // 2 + 1
        up, before = min(reach, top), min(reach, left)
        down, after = min(reach, height - size - top), min(reach, width - size - left)
        region = (left - before, top - up, left + size + after, top + size + down)
        sharp = _tensor(_reduced(photo, region, height, width))
        blurred = apply_psf(sharp, self._psf(epoch, index), padding=self.blur.padding)
        inner = (slice(None), slice(up, up + size), slice(before, before + size))
        flip = self.crops.flip and random.random() < 0.5
        return Pair(_mirrored(blurred[inner], flip), _mirrored(sharp[inner], flip))

    def _psf(self, epoch: int, index: int) -> Tensor:
        return self.blur.psf(1, seed=self.seed, index=epoch * 2**32 + index)

    def _corner(
        self, random: np.random.Generator, photo: Pixels, scale: float, height: int, width: int
    ) -> tuple[int, int]:
        """Top and left, in the reduced photo, of the crop with the most detail of `texture` tries."""
        size = self.crops.size
        best, most = (0, 0), -1.0
        for _ in range(self.crops.texture):
            top, left = int(random.integers(height - size + 1)), int(random.integers(width - size + 1))
            if self.crops.texture == 1:
                return top, left
            y, x, side = int(top / scale), int(left / scale), int(size / scale)
            detail = _detail(photo[y : y + side, x : x + side, 1])
            if detail > most:
                best, most = (top, left), detail
        return best


class PairedFolder(PairDataset):
    """Blurred and sharp pictures of the same names in two folders side by side (blur/ + sharp/, input/ + target/, ...).

    `pairs` gives the two files of each picture instead.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        pairs: Sequence[tuple[Path, Path]] | None = None,
        crops: Crops | None = None,
        seed: int = 0,
    ) -> None:
        root = Path(root)
        super().__init__(_matched_pairs(root) if pairs is None else pairs, root, crops=crops, seed=seed)

    def path(self, index: int) -> Path:
        return self.entries[index][0]

    def whole(self, index: int) -> Pair:
        return Pair(*(_tensor(pixels) for pixels in self._read(index)))

    def sample(self, index: int, *, epoch: int) -> Pair:
        blurred, sharp = self._read(index)
        size = self.crops.size
        height, width = sharp.shape[:2]
        self._require_crop(self.path(index), height, width)
        random = self._random(epoch, index)
        best, most = (0, 0), -1.0
        for _ in range(self.crops.texture):
            top, left = int(random.integers(height - size + 1)), int(random.integers(width - size + 1))
            detail = _detail(sharp[top : top + size, left : left + size, 1]) if self.crops.texture > 1 else 0.0
            if detail > most:
                best, most = (top, left), detail
        top, left = best
        flip = self.crops.flip and random.random() < 0.5
        crop = (slice(top, top + size), slice(left, left + size))
        return Pair(_mirrored(_tensor(blurred[crop]), flip), _mirrored(_tensor(sharp[crop]), flip))

    def _read(self, index: int) -> tuple[Pixels, Pixels]:
        blurred, sharp = (self.cache.read(path) for path in self.entries[index])
        if blurred.shape != sharp.shape:
            raise images.ImageError(self.path(index), f"{blurred.shape} blurred but {sharp.shape} sharp")
        return blurred, sharp


class GoPro(PairedFolder):
    """GoPro's tree: root/{train,test}/SEQUENCE/{blur or blur_gamma,sharp}/. DeblurGAN used the linear `blur`."""

    def __init__(
        self,
        root: Path | str,
        *,
        split: str = "train",
        gamma: bool = False,
        crops: Crops | None = None,
        seed: int = 0,
    ) -> None:
        root = Path(root)
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        sequences = sorted((root / split).glob("*/sharp"))
        if not sequences:
            raise ValueError(f"data must be a GoPro root with {split}/SEQUENCE/sharp folders, got {root}")
        pairs = [
            pair for sharp in sequences for pair in _by_name(sharp.with_name("blur_gamma" if gamma else "blur"), sharp)
        ]
        super().__init__(root, pairs=pairs, crops=crops, seed=seed)


class SideBySide(PairedFolder):
    """Pictures that hold the blurred one in their left half and the sharp one in their right: the released layout."""

    def __init__(self, root: Path | str, *, crops: Crops | None = None, seed: int = 0) -> None:
        super().__init__(root, pairs=[(path, path) for path in _pictures(root)], crops=crops, seed=seed)

    def _read(self, index: int) -> tuple[Pixels, Pixels]:
        both = self.cache.read(self.path(index))
        if both.shape[1] % 2:
            raise images.ImageError(self.path(index), f"an A|B picture has an even width, got {both.shape[1]}")
        half = both.shape[1] // 2
        return both[:, :half], both[:, half:]


class Mixed(PairDataset):
    """`ratio` synthetic pictures for each real pair, spread evenly: the paper's Comb regime at 2.

    An epoch passes once over the pairs; the synthetic pictures go on from epoch to epoch.
    """

    def __init__(self, synthetic: PairDataset, pairs: PairDataset, *, ratio: float = 2.0) -> None:
        if not ratio > 0:
            raise ValueError(f"ratio must be positive, got {ratio}")
        length = math.ceil(len(pairs) * (1 + ratio))
        super().__init__(range(length), pairs.root, crops=pairs.crops, seed=pairs.seed)
        self.synthetic, self.pairs, self.ratio = synthetic, pairs, ratio

    def _locate(self, index: int, epoch: int) -> tuple[PairDataset, int]:
        position = self.entries[index]
        share = 1 / (1 + self.ratio)
        passed = math.floor(position * share + 1e-9)
        if math.floor((position + 1) * share + 1e-9) > passed:
            return self.pairs, passed % len(self.pairs)
        return self.synthetic, (epoch * len(self) + position - passed) % len(self.synthetic)

    def path(self, index: int) -> Path:
        dataset, i = self._locate(index, 0)
        return dataset.path(i)

    def whole(self, index: int) -> Pair:
        dataset, i = self._locate(index, 0)
        return dataset.whole(i)

    def sample(self, index: int, *, epoch: int) -> Pair:
        dataset, i = self._locate(index, epoch)
        return dataset.sample(i, epoch=epoch)


def open_dataset(
    root: Path | str,
    *,
    layout: str = "auto",
    blur: MotionBlur | None = None,
    crops: Crops | None = None,
    seed: int = 0,
    split: str = "train",
) -> PairDataset:
    """The dataset in a folder. layout "auto" knows GoPro and paired folders by their names and takes any other folder
    for sharp photos; side-by-side pictures must be named. Raises ValueError or OSError where there is none."""
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"data must be a folder, got {root}")
    if layout == "auto":
        layout = "paired" if _pair_folders(root) else "sharp"
        if any((root / split).glob("*/sharp")):
            layout = "gopro"
    if layout == "sharp":
        return SharpFolder(root, blur=blur, crops=crops, seed=seed)
    if layout == "paired":
        return PairedFolder(root, crops=crops, seed=seed)
    if layout == "gopro":
        return GoPro(root, split=split, crops=crops, seed=seed)
    if layout == "side-by-side":
        return SideBySide(root, crops=crops, seed=seed)
    raise ValueError(f"layout must be auto, sharp, paired, gopro or side-by-side, got {layout!r}")


@dataclass(frozen=True)
class Batch:
    """Crops [n, 3, size, size], uint8, and the files that could not be read on the way, with the reasons."""

    blurred: Tensor
    sharp: Tensor
    bad: dict[str, str] = field(default_factory=dict)


class Batches(Dataset[Batch]):
    """Batch number `step` of a training, from its number alone: epochs are permutations of the dataset, end to end.

    A bad file's place is taken by the next good one of the permutation.
    """

    def __init__(self, dataset: PairDataset, batch_size: int, *, seed: int = 0) -> None:
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.bad: dict[int, str] = {}
        self._orders: OrderedDict[int, NDArray[np.int64]] = OrderedDict()

    def __getitem__(self, step: int) -> Batch:
        bad: dict[str, str] = {}
        pairs = [self._pair(step * self.batch_size + k, bad) for k in range(self.batch_size)]
        blurred, sharp = (torch.stack(part) for part in zip(*pairs, strict=True))
        return Batch(blurred, sharp, bad)

    def _pair(self, position: int, bad: dict[str, str]) -> Pair:
        n = len(self.dataset)
        for attempt in range(n):
            epoch, place = divmod(position + attempt, n)
            index = int(self._order(epoch)[place])
            if index not in self.bad:
                try:
                    return self.dataset.sample(index, epoch=position // n)
                except (images.ImageError, OSError) as error:
                    self.bad[index] = getattr(error, "reason", None) or str(error)
            bad[self.dataset.name(index)] = self.bad[index]
        raise ValueError(f"data must hold a readable picture, found none of {n}; {next(iter(bad.values()))}")

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            self._orders[epoch] = np.random.default_rng((self.seed, epoch)).permutation(len(self.dataset))
            if len(self._orders) > 4:
                self._orders.popitem(last=False)
        return self._orders[epoch]


def _pictures(root: Path | str) -> list[Path]:
    if not Path(root).is_dir():
        raise FileNotFoundError(f"data must be a folder, got {root}")
    return images.find(root)


def _pair_folders(root: Path) -> tuple[Path, Path] | None:
    folders = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    blurred = [folders[name.lower()] for name in BLURRED_NAMES if name.lower() in folders]
    sharp = [folders[name.lower()] for name in SHARP_NAMES if name.lower() in folders]
    return (blurred[0], sharp[0]) if blurred and sharp else None


def _matched_pairs(root: Path) -> list[tuple[Path, Path]]:
    folders = _pair_folders(root)
    if folders is None:
        raise ValueError(
            f"data must hold a folder of blurred pictures ({', '.join(BLURRED_NAMES)}) and one of sharp ones "
            f"({', '.join(SHARP_NAMES)}), got {root}"
        )
    return _by_name(*folders)


def _by_name(blurred: Path, sharp: Path) -> list[tuple[Path, Path]]:
    """Pairs the two folders' pictures by their paths without suffix; a picture without its partner is an error."""
    originals = {path.relative_to(sharp).with_suffix(""): path for path in _pictures(sharp)}
    copies = {path.relative_to(blurred).with_suffix(""): path for path in _pictures(blurred)}
    alone = sorted(str(name) for name in originals.keys() ^ copies.keys())
    if alone:
        raise ValueError(f"{blurred} and {sharp} must hold the same names; {len(alone)} differ, such as {alone[0]}")
    return [(copies[name], originals[name]) for name in sorted(originals)]


def _tensor(pixels: Pixels) -> Tensor:
    """uint8 [h, w, 3] -> contiguous uint8 [3, h, w]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _mirrored(picture: Tensor, flip: bool) -> Tensor:
    return picture.flip(-1) if flip else picture.contiguous()


def _reduced(photo: Pixels, region: tuple[int, int, int, int], height: int, width: int) -> Pixels:
    """`region` (left, top, right, bottom) of the photo reduced to height x width."""
    left, top, right, bottom = region
    if (height, width) == photo.shape[:2]:
        return photo[top:bottom, left:right]
    x, y = photo.shape[1] / width, photo.shape[0] / height
    box = (left * x, top * y, right * x, bottom * y)
    return np.asarray(Image.fromarray(photo).resize((right - left, bottom - top), Image.Resampling.LANCZOS, box=box))


def _detail(plane: Pixels) -> float:
    """Mean absolute difference of neighbours, in levels."""
    wide = plane.astype(np.int16)
    return float(np.abs(np.diff(wide, axis=0)).mean() + np.abs(np.diff(wide, axis=1)).mean())
