"""Training pictures. Every crop is a function of (seed, epoch, index), so any step can be made again from its number.

A dataset gives pairs (blurred, sharp), uint8 [3, h, w]. It reads a folder of sharp photos (blurred as they are drawn),
blur/ + sharp/ folders, the GoPro tree, or side-by-side A|B pictures; `Mixed` joins two of them.

The host plans a crop: which part of which picture, and which kernel. `dataset.to(device)` says where it is blurred, cut
and mirrored. Draws and sharp crops are the same bytes on every device; a blurred pixel may be rounded the other way on
a GPU, which adds in another order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from deblurgan import images
from deblurgan.blur import MotionBlur
from deblurgan.data.cache import PictureCache, Pixels

BLURRED_NAMES = ("blur", "blurred", "blurry", "input", "lq", "A")
SHARP_NAMES = ("sharp", "target", "gt", "groundtruth", "hq", "B")


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


class Plan(NamedTuple):
    """A crop before it is blurred, cut to `size` and mirrored.

    `regions` are parts of decoded pictures, uint8 [h, w, 3]: the sharp one with a margin for its blur or, where `blur`
    is None, the blurred and the sharp one.
    """

    regions: tuple[Pixels, ...]
    window: tuple[int, int, int]  # of the crop in each region: top, left, mirrored (0 or 1)
    size: int
    blur: MotionBlur | None = None
    kernel: int = 0  # the index of its draw


_WINDOW_BYTES = 3 * 8


def stage(plans: Sequence[Plan], *, pinned: bool = False) -> Tensor:
    """What the plans' crops are finished from, uint8 [bytes]: their windows, int64 [n, 3], then region after region.

    `pinned` memory is page-locked, for a transfer that the host need not wait for.
    """
    size = sum(_WINDOW_BYTES + sum(region.size for region in plan.regions) for plan in plans)
    staged = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
    buffer, at = staged.numpy(), _WINDOW_BYTES * len(plans)
    buffer[:at].view(np.int64).reshape(-1, 3)[:] = [plan.window for plan in plans]
    for region in (region for plan in plans for region in plan.regions):
        buffer[at : at + region.size].reshape(region.shape)[:] = region
        at += region.size
    return staged


@torch.no_grad()
def finish(plans: Sequence[Plan], staged: Tensor) -> Pair:
    """The crops, uint8 [n, 3, size, size], on the device of `staged` (see `stage`) and of the plans' blurs.

    On CUDA nothing is waited for.
    """
    at, pairs = _WINDOW_BYTES * len(plans), []
    windows = staged[:at].view(torch.int64).view(-1, 1, 3)
    for plan, window in zip(plans, windows, strict=True):
        pictures = []
        for region in plan.regions:
            part = staged[at : at + region.size].view(region.shape)
            pictures.append(part.permute(2, 0, 1).contiguous())
            at += region.size
        pairs.append(_finished(plan, pictures, window))
    return Pair(*(torch.stack(part) for part in zip(*pairs, strict=True)))


def _finished(plan: Plan, pictures: list[Tensor], window: Tensor) -> Pair:
    """The pair of a plan's regions [3, h, w] and its window [1, 3], all on the blur's device."""
    (top, left, flip), size = plan.window, plan.size
    crops = [picture[:, top : top + size, left : left + size] for picture in pictures]
    crops = [crop.flip(-1) if flip else crop for crop in crops]
    if plan.blur is None:
        return Pair(*crops)
    return Pair(plan.blur(pictures[0], index=plan.kernel, windows=window, size=(size, size)), crops[0])


def _made(plans: Sequence[Plan], device: torch.device) -> Pair:
    """The crops of the plans, whose blurs are on `device`."""
    staged = stage(plans, pinned=device.type == "cuda")
    return finish(plans, staged.to(device, non_blocking=True))


class PairDataset(Dataset[Pair]):
    """What all datasets share: names, whole pictures, random crops. `dataset[i]` is the crop of epoch 0.

    Pictures are decoded into `cache`, which several datasets may share; crops are finished on `device`.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        entries: Sequence[Any],
        root: Path,
        *,
        crops: Crops | None = None,
        seed: int = 0,
        cache: PictureCache | None = None,
    ) -> None:
        if not entries:
            raise ValueError(f"data must hold pictures, found none in {root}")
        self.entries = list(entries)
        self.root = root
        self.crops = crops or Crops()
        self.seed = seed
        self.cache = cache or PictureCache()

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

    def to(self, device: torch.device) -> PairDataset:
        """The same dataset with crops that are finished on `device`; whole pictures stay on the CPU."""
        part = copy(self)
        part.device = device
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
        blurred, sharp = _made([self.plan(index, epoch=epoch, attempt=attempt)], self.device)
        return Pair(blurred[0], sharp[0])

    def plan(self, index: int, *, epoch: int, attempt: int = 0) -> Plan:
        """The host's part of `sample`, which raises the same errors."""
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
        self,
        root: Path | str,
        *,
        blur: MotionBlur | None = None,
        crops: Crops | None = None,
        seed: int = 0,
        cache: PictureCache | None = None,
    ) -> None:
        super().__init__(_pictures(root), Path(root), crops=crops, seed=seed, cache=cache)
        self.blur = blur or MotionBlur()

    def to(self, device: torch.device) -> SharpFolder:
        part = cast(SharpFolder, super().to(device))
        part.blur = deepcopy(self.blur).to(device)
        return part

    def path(self, index: int, *, epoch: int = 0) -> Path:
        return self.entries[index]

    def whole(self, index: int) -> Pair:
        sharp = _tensor(self.cache.read(self.entries[index]))
        return Pair(self.blur(sharp, index=derived_seed(Stream.WHOLE, self.seed, index)), sharp)

    def plan(self, index: int, *, epoch: int, attempt: int = 0) -> Plan:
        photo = self.cache.read(self.entries[index])
        size, reach = self.crops.size, self.blur.size // 2 + 1
        place = self._place(self._random(epoch, index, attempt), photo, self.entries[index])
        up, before = min(reach, place.top), min(reach, place.left)
        down, after = min(reach, place.height - size - place.top), min(reach, place.width - size - place.left)
        region = (place.left - before, place.top - up, place.left + size + after, place.top + size + down)
        sharp = _reduced(photo, region, place.height, place.width)
        number = derived_seed(Stream.KERNEL, self.seed, epoch, index, attempt)
        return Plan((sharp,), (up, before, int(place.flip)), size, self.blur, number)


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
        cache: PictureCache | None = None,
    ) -> None:
        root = Path(root)
        entries = _matched_pairs(root) if pairs is None else pairs
        super().__init__(entries, root, crops=crops, seed=seed, cache=cache)

    def path(self, index: int, *, epoch: int = 0) -> Path:
        return self.entries[index][0]

    def whole(self, index: int) -> Pair:
        return Pair(*(_tensor(pixels) for pixels in self._read(index)))

    def plan(self, index: int, *, epoch: int, attempt: int = 0) -> Plan:
        blurred, sharp = self._read(index)
        size = self.crops.size
        place = self._place(self._random(epoch, index, attempt), sharp, self.path(index))
        region = (place.left, place.top, place.left + size, place.top + size)
        regions = tuple(_reduced(part, region, place.height, place.width) for part in (blurred, sharp))
        return Plan(regions, (0, 0, int(place.flip)), size)

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
        cache: PictureCache | None = None,
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
        super().__init__(root, pairs=pairs, crops=crops, seed=seed, cache=cache)


class SideBySide(PairedFolder):
    """Pictures that hold the blurred one in their left half and the sharp one in their right: the released layout."""

    def __init__(
        self, root: Path | str, *, crops: Crops | None = None, seed: int = 0, cache: PictureCache | None = None
    ) -> None:
        pairs = [(path, path) for path in _pictures(root)]
        super().__init__(root, pairs=pairs, crops=crops, seed=seed, cache=cache)

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

    def to(self, device: torch.device) -> Mixed:
        part = cast(Mixed, super().to(device))
        part.synthetic, part.pairs = self.synthetic.to(device), self.pairs.to(device)
        return part

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

    def plan(self, index: int, *, epoch: int, attempt: int = 0) -> Plan:
        dataset, i, epoch = self._locate(index, epoch)
        return dataset.plan(i, epoch=epoch, attempt=attempt)


def open_dataset(
    root: Path | str,
    *,
    layout: str = "auto",
    gamma: bool = False,
    blur: MotionBlur | None = None,
    crops: Crops | None = None,
    seed: int = 0,
    split: str = "train",
    cache: PictureCache | None = None,
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
        return SharpFolder(root, blur=blur, crops=crops, seed=seed, cache=cache)
    if layout == "paired":
        return PairedFolder(root, crops=crops, seed=seed, cache=cache)
    if layout == "gopro":
        return GoPro(root, split=split, gamma=gamma, crops=crops, seed=seed, cache=cache)
    if layout == "side-by-side":
        return SideBySide(root, crops=crops, seed=seed, cache=cache)
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

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`, which on CUDA is not waited for."""
        blurred, sharp = (part.to(device, non_blocking=True) for part in (self.blurred, self.sharp))
        return replace(self, blurred=blurred, sharp=sharp)


class Planned(NamedTuple):
    """A batch before its crops are finished."""

    crops: list[Plan]
    bad: dict[str, str]
    small: dict[str, str]


class Batches(Dataset[Batch]):
    """Batch number `step` of a training, from its number alone: epochs are permutations of the dataset, end to end.

    A bad file's place is taken by the next good one of the permutation, in another crop. Threads may share it.
    """

    def __init__(self, dataset: PairDataset, batch_size: int, *, seed: int = 0) -> None:
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self._orders: dict[int, NDArray[np.int64]] = {}

    def __getitem__(self, step: int) -> Batch:
        planned = self.plan(step)
        return Batch(*_made(planned.crops, self.dataset.device), planned.bad, planned.small)

    def to(self, device: torch.device) -> Batches:
        """The same batches with crops that are finished on `device`."""
        part = copy(self)
        part.dataset = self.dataset.to(device)
        return part

    def plan(self, step: int) -> Planned:
        """The host's part of a batch. Raises ValueError where no picture can be used."""
        planned = Planned([], {}, {})
        for k in range(self.batch_size):
            planned.crops.append(self._crop(step * self.batch_size + k, planned.bad, planned.small))
        return planned

    def _crop(self, position: int, bad: dict[str, str], small: dict[str, str]) -> Plan:
        n = len(self.dataset)
        for attempt in range(n):
            epoch, place = divmod(position + attempt, n)
            index = int(self._order(epoch)[place])
            try:
                return self.dataset.plan(index, epoch=epoch, attempt=attempt)
            except (images.ImageError, OSError) as error:
                listed = small if isinstance(error, BelowCrop) else bad
                path = Path(getattr(error, "path", None) or self.dataset.path(index, epoch=epoch))
                listed[self.dataset.below_root(path)] = getattr(error, "reason", None) or str(error)
        name, reason = next(iter((bad | small).items()))
        raise ValueError(f"data must hold a usable picture, found none of {n}; {name}: {reason}")

    def _order(self, epoch: int) -> NDArray[np.int64]:
        order = self._orders.get(epoch)
        if order is None:
            random = np.random.default_rng(derived_seed(Stream.ORDER, self.seed, epoch))
            order = random.permutation(len(self.dataset))
            near = {at: known for at, known in self._orders.items() if abs(at - epoch) < 3}
            self._orders = {**near, epoch: order}  # replaced, not changed: other threads may be reading it
        return order


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


def _reduced(photo: Pixels, region: tuple[int, int, int, int], height: int, width: int) -> Pixels:
    """`region` (left, top, right, bottom) of the photo reduced to height x width."""
    left, top, right, bottom = region
    if (height, width) == photo.shape[:2]:
        return photo[top:bottom, left:right]
    x, y = photo.shape[1] / width, photo.shape[0] / height
    reach_x, reach_y = math.ceil(3 * x) + 1, math.ceil(3 * y) + 1  # of the Lanczos filter
    first, above = max(0, math.floor(left * x) - reach_x), max(0, math.floor(top * y) - reach_y)
    part = photo[above : math.ceil(bottom * y) + reach_y, first : math.ceil(right * x) + reach_x]
    box = (left * x - first, top * y - above, right * x - first, bottom * y - above)
    picture = Image.fromarray(part)  # which copies its pixels: not those of the whole photo
    return np.asarray(picture.resize((right - left, bottom - top), Image.Resampling.LANCZOS, box=box))


def _detail(picture: Pixels, top: int, left: int, side: int) -> float:
    """Mean absolute difference of neighbours in a square of the green channel, in levels."""
    green = np.ascontiguousarray(picture[top : top + side, left : left + side, 1])
    return _difference(green[1:], green[:-1]) + _difference(green[:, 1:], green[:, :-1])


def _difference(a: Pixels, b: Pixels) -> float:
    """Mean |a - b|, in levels."""
    return float((np.maximum(a, b) - np.minimum(a, b)).mean())
