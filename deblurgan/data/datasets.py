"""Datasets: pairs (blurred, sharp), uint8 [3, h, w], whole or as random crops, from folders in several layouts.

SharpFolder reads sharp photos, which it blurs as they are drawn; PairedFolder blur/ and sharp/ folders; GoPro its tree;
SideBySide A|B pictures. Mixed joins two datasets.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from copy import copy, deepcopy
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset

from deblurgan import images
from deblurgan.blur import MotionBlur
from deblurgan.config import as_path
from deblurgan.data.cache import PictureCache, Pixels
from deblurgan.data.crops import (
    CropPosition,
    Crops,
    Pair,
    Plan,
    draw_position,
    make_crops,
    reduced_region,
    reduced_whole,
    to_tensor,
)
from deblurgan.data.folders import find_pictures, match_gopro, match_pairs
from deblurgan.data.layouts import detect_layout, splits
from deblurgan.data.seeds import RngStream, derived_seed


class PairDataset(Dataset[Pair]):
    """What all datasets share: names, whole pictures, random crops. `dataset[i]` is the crop of epoch 0.

    Pictures are decoded into `cache`, which several datasets may share. Crops are blurred, cut and mirrored on
    `device`; whole pictures stay on the CPU.
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

    def part(self, split: str) -> PairDataset | None:
        """The dataset of the pictures in one split: "train", "val" or "test", these two for each other where one is
        missing. None where all pictures are for training."""
        found = splits(self.root, [self.path(i) for i in range(len(self))])
        if set(found) == {"train"}:
            return None
        if split not in found and split != "train":
            split = "test" if split == "val" else "val"
        return self.take(i for i, name in enumerate(found) if name == split)

    def to(self, device: torch.device) -> PairDataset:
        """The same dataset with crops on `device`."""
        part = copy(self)
        part.device = device
        return part

    def path(self, index: int, *, epoch: int = 0) -> Path:
        """The file after which the picture is called: of a pair, the blurred one."""
        raise NotImplementedError

    def name(self, index: int, *, epoch: int = 0) -> str:
        """The picture's path below the root."""
        return self.below_root(self.path(index, epoch=epoch))

    def names(self) -> list[str]:
        """The names of all pictures, in order."""
        return [self.name(i) for i in range(len(self))]

    def below_root(self, path: Path) -> str:
        """The path relative to the root, or whole where it lies elsewhere: how messages name a file."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def whole(self, index: int) -> Pair:
        """The uncropped pair, reduced where all crops are by one factor. Raises ImageError for a bad file."""
        raise NotImplementedError

    def sample(self, index: int, *, epoch: int, attempt: int = 0) -> Pair:
        """The random crop of picture `index` in `epoch`; another one for each `attempt`.

        Raises ImageError for a bad file, BelowCrop for a small one.
        """
        blurred, sharp = make_crops([self.plan(index, epoch=epoch, attempt=attempt)], self.device)
        return Pair(blurred[0], sharp[0])

    def plan(self, index: int, *, epoch: int, attempt: int = 0) -> Plan:
        """What `sample` finishes on the device: the part of the work that the host does. Raises the same errors."""
        raise NotImplementedError

    def _draw_position(self, numbers: tuple[int, ...], sharp: Pixels, path: Path) -> CropPosition:
        """The crop that the numbers (epoch, index, attempt) stand for."""
        random = np.random.default_rng(derived_seed(RngStream.CROP, self.seed, *numbers))
        return draw_position(self.crops, random, sharp, path)


class SharpFolder(PairDataset):
    """Sharp photos, blurred as they are drawn: each crop with a kernel of its own, `whole` pictures with one an index.

    A crop is blurred together with a margin of the photo around it, so that the padding of `blur` shows only at the
    photo's own border. `pictures` gives the files instead of all in the folder.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        pictures: Sequence[Path] | None = None,
        blur: MotionBlur | None = None,
        crops: Crops | None = None,
        seed: int = 0,
        cache: PictureCache | None = None,
    ) -> None:
        entries = find_pictures(root) if pictures is None else pictures
        super().__init__(entries, Path(root), crops=crops, seed=seed, cache=cache)
        self.blur = blur or MotionBlur()

    def to(self, device: torch.device) -> SharpFolder:
        part = cast(SharpFolder, super().to(device))
        part.blur = deepcopy(self.blur).to(device)
        return part

    def path(self, index: int, *, epoch: int = 0) -> Path:
        return self.entries[index]

    def whole(self, index: int) -> Pair:
        sharp = to_tensor(reduced_whole(self.cache.read(self.entries[index]), self.crops))
        return Pair(self.blur(sharp, index=derived_seed(RngStream.WHOLE, self.seed, index)), sharp)

    def plan(self, index: int, *, epoch: int, attempt: int = 0) -> Plan:
        photo = self.cache.read(self.entries[index])
        size, reach = self.crops.size, self.blur.size // 2 + 1
        crop = self._draw_position((epoch, index, attempt), photo, self.entries[index])
        up, before = min(reach, crop.top), min(reach, crop.left)
        down, after = min(reach, crop.height - size - crop.top), min(reach, crop.width - size - crop.left)
        region = (crop.left - before, crop.top - up, crop.left + size + after, crop.top + size + down)
        sharp = reduced_region(photo, region, crop.height, crop.width)
        kernel = derived_seed(RngStream.KERNEL, self.seed, epoch, index, attempt)
        return Plan((sharp,), (up, before, int(crop.flip)), size, self.blur, kernel)


class PairedFolder(PairDataset):
    """Blurred and sharp pictures of the same names in folders side by side (blur/ + sharp/, input/ + target/, ...).

    All such couples of folders, at any depth, are joined. `pairs` gives the two files of each picture instead.
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
        entries = match_pairs(root, find_pictures(root)) if pairs is None else pairs
        super().__init__(entries, root, crops=crops, seed=seed, cache=cache)

    def path(self, index: int, *, epoch: int = 0) -> Path:
        return self.entries[index][0]

    def whole(self, index: int) -> Pair:
        return Pair(*(to_tensor(reduced_whole(pixels, self.crops)) for pixels in self._read(index)))

    def plan(self, index: int, *, epoch: int, attempt: int = 0) -> Plan:
        blurred, sharp = self._read(index)
        size = self.crops.size
        crop = self._draw_position((epoch, index, attempt), sharp, self.path(index))
        region = (crop.left, crop.top, crop.left + size, crop.top + size)
        regions = tuple(reduced_region(part, region, crop.height, crop.width) for part in (blurred, sharp))
        return Plan(regions, (0, 0, int(crop.flip)), size)

    def _read(self, index: int) -> tuple[Pixels, Pixels]:
        blurred, sharp = (self.cache.read(path) for path in self.entries[index])
        if blurred.shape != sharp.shape:
            sizes = (f"{part.shape[1]}x{part.shape[0]}" for part in (blurred, sharp))
            raise images.ImageError(self.path(index), "{} blurred but {} sharp".format(*sizes))
        return blurred, sharp


class GoPro(PairedFolder):
    """GoPro's tree: root/{train,test}/SEQUENCE/{blur or blur_gamma,sharp}/. DeblurGAN used the linear `blur`.

    `split` None takes both. `pictures` gives the files to take them from instead of all in the folder.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        split: str | None = "train",
        gamma: bool = False,
        pictures: Sequence[Path] | None = None,
        crops: Crops | None = None,
        seed: int = 0,
        cache: PictureCache | None = None,
    ) -> None:
        found = find_pictures(root) if pictures is None else pictures
        pairs = match_gopro(Path(root), found, split, gamma=gamma)
        super().__init__(root, pairs=pairs, crops=crops, seed=seed, cache=cache)


class SideBySide(PairedFolder):
    """Pictures that hold the blurred one in their left half and the sharp one in their right: the released layout.

    `pictures` gives the files instead of all in the folder.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        pictures: Sequence[Path] | None = None,
        crops: Crops | None = None,
        seed: int = 0,
        cache: PictureCache | None = None,
    ) -> None:
        pairs = [(path, path) for path in (find_pictures(root) if pictures is None else pictures)]
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

    def locate(self, index: int, epoch: int) -> tuple[PairDataset, int, int]:
        """The dataset that picture `index` of `epoch` comes from, with its index and epoch there."""
        position = self.entries[index]
        share = 1 / (1 + self.ratio)
        passed = math.floor(position * share + 1e-9)
        if math.floor((position + 1) * share + 1e-9) > passed:
            return self.pairs, passed, epoch
        drawn = epoch * (len(self.entries) - len(self.pairs)) + position - passed
        return self.synthetic, drawn % len(self.synthetic), drawn // len(self.synthetic)

    def names(self) -> list[str]:
        return self.synthetic.names() + self.pairs.names()

    def path(self, index: int, *, epoch: int = 0) -> Path:
        dataset, i, epoch = self.locate(index, epoch)
        return dataset.path(i, epoch=epoch)

    def whole(self, index: int) -> Pair:
        dataset, i, _ = self.locate(index, 0)
        return dataset.whole(i)

    def plan(self, index: int, *, epoch: int, attempt: int = 0) -> Plan:
        dataset, i, epoch = self.locate(index, epoch)
        return dataset.plan(i, epoch=epoch, attempt=attempt)


def open_dataset(
    root: Path | str,
    *,
    layout: str = "auto",
    gamma: bool = False,
    blur: MotionBlur | None = None,
    crops: Crops | None = None,
    seed: int = 0,
    split: str | None = "train",
    without: Iterable[Path] = (),
    cache: PictureCache | None = None,
    log: Callable[[str], object] = warnings.warn,
) -> PairDataset:
    """The dataset in a folder: SharpFolder, PairedFolder, GoPro or SideBySide.

    Args:
        layout: "sharp", "paired", "gopro", "side-by-side" or "auto", which goes by the folders' names: GoPro's tree,
            folders of blurred and of sharp pictures side by side at any depth, and all else sharp photos, unless names
            speak against it. Side-by-side pictures look like any others, so their layout must be given.
        gamma: of GoPro, take the blur_gamma pictures.
        split: "train", "val", "test" or, for all, None. Folders test/ and val/ beside train/ hold what their names say,
            all else is for training; a folder without such a division is taken whole.
        without: folders inside `root` whose pictures are no part of it.
        log: takes a line where pictures are left out.

    Raises FileNotFoundError for a missing folder, ValueError for one without pictures or of no known layout.
    """
    root = as_path("data", root)

    def tell(line: str) -> None:
        log(images.printable(line))

    pictures = find_pictures(root, without=without, log=tell)
    if layout == "auto":
        layout = detect_layout(root, pictures, gamma=gamma)
    options: dict[str, Any] = {"crops": crops, "seed": seed, "cache": cache}
    dataset: PairDataset
    if layout == "sharp":
        dataset = SharpFolder(root, pictures=pictures, blur=blur, **options)
    elif layout == "paired":
        pairs = match_pairs(root, pictures, gamma=gamma, log=tell)
        dataset = PairedFolder(root, pairs=pairs, **options)
    elif layout == "gopro":
        return GoPro(root, split="test" if split == "val" else split, gamma=gamma, pictures=pictures, **options)
    elif layout == "side-by-side":
        dataset = SideBySide(root, pictures=pictures, **options)
    else:
        raise ValueError(f"layout must be auto, sharp, paired, gopro or side-by-side, got {layout!r}")
    part = None if split is None else dataset.part(split)
    if part is None:
        return dataset
    tell(
        f"took {len(part)} of {len(dataset)} pictures in {root}: by their folders' names the others are not for {split}"
    )
    return part
