"""Training pictures. Every crop is a function of (seed, epoch, index), so any step can be made again from its number.

A dataset gives pairs (blurred, sharp), uint8 [3, h, w]. It reads a folder of sharp photos (blurred as they are drawn),
blur/ + sharp/ folders, the GoPro tree, or side-by-side A|B pictures; `Mixed` joins two of them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from deblurgan import images
from deblurgan.blur import MotionBlur

BLURRED_NAMES = ("blur", "blurred", "blurry", "input", "lq", "A")
SHARP_NAMES = ("sharp", "target", "gt", "groundtruth", "hq", "B")

Pixels = NDArray[np.uint8]


class Pair(NamedTuple):
    """A blurred picture and its sharp original, uint8 [3, h, w] each, or [n, 3, h, w] in a batch."""

    blurred: Tensor
    sharp: Tensor


class BelowCrop(images.ImageError):
    """A picture that is smaller than the crop: nothing is wrong with it, but it cannot be used."""


@dataclass(frozen=True)
class Crops:
    """How crops are drawn: side in px, mirrored or not, picture reduced by a factor of `scale`, best of `texture`."""

    size: int = 256
    flip: bool = True
    scale: tuple[float, float] = (1.0, 1.0)
    texture: int = 1


class Stream(IntEnum):
    """What a random number is for. Each use draws from a stream of its own."""

    ORDER = 0
    CROP = 1
    KERNEL = 2
    WHOLE = 3
    DROPOUT = 4
    ALPHA = 5


def derived_seed(stream: Stream, seed: int, *numbers: int) -> int:
    """A seed in [0, 2^63) that depends on every argument; two argument lists of one length never share a stream."""
    words = [part for number in (seed, *numbers) for part in (number & 0xFFFFFFFF, number >> 32)]
    return int(np.random.SeedSequence([int(stream), *words]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class _Cache:
    """The pictures read last, as many as fit into `limit` bytes (1 GiB a process), and what was wrong with bad ones."""

    def __init__(self, limit: int = 2**30) -> None:
        self.limit = limit
        self.bytes = 0
        self.pictures: OrderedDict[Path, Pixels] = OrderedDict()
        self.bad: dict[Path, str] = {}

    def read(self, path: Path) -> Pixels:
        if path in self.bad:
            raise images.ImageError(path, self.bad[path])
        if path in self.pictures:
            self.pictures.move_to_end(path)
            return self.pictures[path]
        try:
            pixels = images.read(path).pixels
        except images.ImageError as error:
            self.bad[path] = error.reason
            raise
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
        if not part.entries:
            raise ValueError(f"data must leave pictures to take, took none of {len(self)} in {self.root}")
        return part

    def path(self, index: int, *, epoch: int = 0) -> Path:
        """The file that names the picture."""
        raise NotImplementedError

    def name(self, index: int, *, epoch: int = 0) -> str:
        """The picture's path below the root."""
        return self.below_root(self.path(index, epoch=epoch))

    def below_root(self, path: Path) -> str:
        """The path as reports name it."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def whole(self, index: int) -> Pair:
        """The uncropped pair. Raises ImageError for a bad file."""
        raise NotImplementedError

    def sample(self, index: int, *, epoch: int, attempt: int = 0) -> Pair:
        """The random crop of picture `index` in `epoch`; another one for each `attempt`.

        Raises ImageError for a bad file, BelowCrop for a small one.
        """
        raise NotImplementedError

    def _random(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng(derived_seed(Stream.CROP, self.seed, *numbers))

    def _place(self, random: np.random.Generator, sharp: Pixels, path: Path) -> Place:
        """Where a crop lies: the one with the most detail of `texture` tries, in the reduced picture."""
        size = self.crops.size
        if min(sharp.shape[:2]) < size:
            raise BelowCrop(path, f"{sharp.shape[1]}x{sharp.shape[0]} is below the crop of {size}")
        scale = max(size / min(sharp.shape[:2]), random.uniform(*self.crops.scale))
        height, width = (max(size, math.floor(side * scale)) for side in sharp.shape[:2])
        tries = [
            (int(random.integers(height - size + 1)), int(random.integers(width - size + 1)))
            for _ in range(self.crops.texture)
        ]
        top, left = tries[0]
        if len(tries) > 1:
            side = int(size / scale)
            top, left = max(tries, key=lambda place: _detail(sharp, int(place[0] / scale), int(place[1] / scale), side))
        return Place(height, width, top, left, flip=self.crops.flip and random.random() < 0.5)


class Place(NamedTuple):
    """A crop's corner in a picture reduced to height x width, and whether the crop is mirrored."""

    height: int
    width: int
    top: int
    left: int
    flip: bool


class SharpFolder(PairDataset):
    """Sharp photos, blurred as they are drawn: each (epoch, index) gets its own kernel.

    The kernel is applied to the crop with a margin around it, so that the border rule of `blur` matters at the photo's
    own border only. `whole` has a kernel for each index.
    """

    def __init__(
        self, root: Path | str, *, blur: MotionBlur | None = None, crops: Crops | None = None, seed: int = 0
    ) -> None:
        super().__init__(_pictures(root), Path(root), crops=crops, seed=seed)
        self.blur = blur or MotionBlur()

    def path(self, index: int, *, epoch: int = 0) -> Path:
        return self.entries[index]

    def whole(self, index: int) -> Pair:
        sharp = _tensor(self.cache.read(self.entries[index]))
        return Pair(self.blur(sharp, index=derived_seed(Stream.WHOLE, self.seed, index)), sharp)

    def sample(self, index: int, *, epoch: int, attempt: int = 0) -> Pair:
        photo = self.cache.read(self.entries[index])
        size, reach = self.crops.size, self.blur.size // 2 + 1
        place = self._place(self._random(epoch, index, attempt), photo, self.entries[index])
        up, before = min(reach, place.top), min(reach, place.left)
        down, after = min(reach, place.height - size - place.top), min(reach, place.width - size - place.left)
        region = (place.left - before, place.top - up, place.left + size + after, place.top + size + down)
        sharp = _tensor(_reduced(photo, region, place.height, place.width))
        number = derived_seed(Stream.KERNEL, self.seed, epoch, index, attempt)
        window = torch.tensor([[up, before, int(place.flip)]])
        blurred = self.blur(sharp, index=number, windows=window, size=(size, size))
        return Pair(blurred, _mirrored(sharp[:, up : up + size, before : before + size], place.flip))


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

    def path(self, index: int, *, epoch: int = 0) -> Path:
        return self.entries[index][0]

    def whole(self, index: int) -> Pair:
        return Pair(*(_tensor(pixels) for pixels in self._read(index)))

    def sample(self, index: int, *, epoch: int, attempt: int = 0) -> Pair:
        blurred, sharp = self._read(index)
        size = self.crops.size
        place = self._place(self._random(epoch, index, attempt), sharp, self.path(index))
        region = (place.left, place.top, place.left + size, place.top + size)
        parts = (_tensor(_reduced(part, region, place.height, place.width)) for part in (blurred, sharp))
        return Pair(*(_mirrored(part, place.flip) for part in parts))

    def _read(self, index: int) -> tuple[Pixels, Pixels]:
        blurred, sharp = (self.cache.read(path) for path in self.entries[index])
        if blurred.shape != sharp.shape:
            sizes = (f"{part.shape[1]}x{part.shape[0]}" for part in (blurred, sharp))
            raise images.ImageError(self.path(index), "{} blurred but {} sharp".format(*sizes))
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

    def _locate(self, index: int, epoch: int) -> tuple[PairDataset, int, int]:
        """The dataset, index and epoch that a position of an epoch stands for."""
        position = self.entries[index]
        share = 1 / (1 + self.ratio)
        passed = math.floor(position * share + 1e-9)
        if math.floor((position + 1) * share + 1e-9) > passed:
            return self.pairs, passed, epoch
        drawn = epoch * (len(self.entries) - len(self.pairs)) + position - passed
        return self.synthetic, drawn % len(self.synthetic), drawn // len(self.synthetic)

    def path(self, index: int, *, epoch: int = 0) -> Path:
        dataset, i, epoch = self._locate(index, epoch)
        return dataset.path(i, epoch=epoch)

    def whole(self, index: int) -> Pair:
        dataset, i, _ = self._locate(index, 0)
        return dataset.whole(i)

    def sample(self, index: int, *, epoch: int, attempt: int = 0) -> Pair:
        dataset, i, epoch = self._locate(index, epoch)
        return dataset.sample(i, epoch=epoch, attempt=attempt)


def open_dataset(
    root: Path | str,
    *,
    layout: str = "auto",
    gamma: bool = False,
    blur: MotionBlur | None = None,
    crops: Crops | None = None,
    seed: int = 0,
    split: str = "train",
) -> PairDataset:
    """The dataset in a folder. layout "auto" knows GoPro and paired folders by their names and takes any other folder
    for sharp photos, unless it holds folders of blurred ones; side-by-side pictures must be named as such.

    Raises FileNotFoundError for a missing folder, ValueError for one without pictures or of no known layout.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"data must be a folder, got {root}")
    if layout == "auto":
        layout = _layout(root)
    if layout == "sharp":
        return SharpFolder(root, blur=blur, crops=crops, seed=seed)
    if layout == "paired":
        return PairedFolder(root, crops=crops, seed=seed)
    if layout == "gopro":
        return GoPro(root, split=split, gamma=gamma, crops=crops, seed=seed)
    if layout == "side-by-side":
        return SideBySide(root, crops=crops, seed=seed)
    raise ValueError(f"layout must be auto, sharp, paired, gopro or side-by-side, got {layout!r}")


def _layout(root: Path) -> str:
    if any(root.glob("train/*/sharp")) or any(root.glob("test/*/sharp")):
        return "gopro"
    if _pair_folders(root):
        return "paired"
    blurred = [path for depth in ("*", "*/*") for path in root.glob(depth) if path.name in ("blur", "blur_gamma")]
    if blurred:
        raise ValueError(
            f"data holds blurred pictures ({blurred[0]}) in no known layout: give the folder of GoPro's train/ and "
            "test/, one of blur/ and sharp/, or name the layout"
        )
    return "sharp"


@dataclass(frozen=True)
class Batch:
    """Crops [n, 3, size, size], uint8, and the files left out on the way, with reasons: unreadable, or too small."""

    blurred: Tensor
    sharp: Tensor
    bad: dict[str, str] = field(default_factory=dict)
    small: dict[str, str] = field(default_factory=dict)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, as torch's loader asks for it."""
        return replace(self, blurred=self.blurred.pin_memory(), sharp=self.sharp.pin_memory())


class Batches(Dataset[Batch]):
    """Batch number `step` of a training, from its number alone: epochs are permutations of the dataset, end to end.

    A bad file's place is taken by the next good one of the permutation, in another crop.
    """

    def __init__(self, dataset: PairDataset, batch_size: int, *, seed: int = 0) -> None:
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self._orders: OrderedDict[int, NDArray[np.int64]] = OrderedDict()

    def __getitem__(self, step: int) -> Batch:
        bad: dict[str, str] = {}
        small: dict[str, str] = {}
        pairs = [self._pair(step * self.batch_size + k, bad, small) for k in range(self.batch_size)]
        blurred, sharp = (torch.stack(part) for part in zip(*pairs, strict=True))
        return Batch(blurred, sharp, bad, small)

    def _pair(self, position: int, bad: dict[str, str], small: dict[str, str]) -> Pair:
        n = len(self.dataset)
        for attempt in range(n):
            epoch, place = divmod(position + attempt, n)
            index = int(self._order(epoch)[place])
            try:
                return self.dataset.sample(index, epoch=epoch, attempt=attempt)
            except (images.ImageError, OSError) as error:
                listed = small if isinstance(error, BelowCrop) else bad
                path = Path(getattr(error, "path", None) or self.dataset.path(index, epoch=epoch))
                listed[self.dataset.below_root(path)] = getattr(error, "reason", None) or str(error)
        name, reason = next(iter((bad | small).items()))
        raise ValueError(f"data must hold a usable picture, found none of {n}; {name}: {reason}")

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            random = np.random.default_rng(derived_seed(Stream.ORDER, self.seed, epoch))
            self._orders[epoch] = random.permutation(len(self.dataset))
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
    """Pairs the two folders' pictures by their paths without suffix; a picture without its one partner is an error."""
    originals, copies = _named(sharp), _named(blurred)
    alone = sorted(str(name) for name in originals.keys() ^ copies.keys())
    if alone:
        raise ValueError(f"{blurred} and {sharp} must hold the same names; {len(alone)} differ, such as {alone[0]}")
    return [(copies[name], originals[name]) for name in sorted(originals)]


def _named(folder: Path) -> dict[Path, Path]:
    names: dict[Path, Path] = {}
    for path in _pictures(folder):
        name = path.relative_to(folder).with_suffix("")
        if name in names:
            raise ValueError(f"{folder} must hold one picture of each name, got {names[name].name} and {path.name}")
        names[name] = path
    return names


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


def _detail(picture: Pixels, top: int, left: int, side: int) -> float:
    """Mean absolute difference of neighbours in a square of the green channel, in levels."""
    wide = picture[top : top + side, left : left + side, 1].astype(np.int16)
    return float(np.abs(np.diff(wide, axis=0)).mean() + np.abs(np.diff(wide, axis=1)).mean())
