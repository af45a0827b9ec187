"""Datasets: pairs (blurred, sharp), uint8 [3, h, w], whole or as random crops, from folders in several layouts.

SharpFolder reads sharp photos, which it blurs as they are drawn; PairedFolder blur/ and sharp/ folders; GoPro its tree;
SideBySide A|B pictures. Mixed joins two datasets.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
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
from deblurgan.data.folders import find_pictures, match_gopro, match_pairs, outside
from deblurgan.data.layouts import Lone, detect_layout, splits
from deblurgan.data.seeds import RngStream, derived_seed
from deblurgan.data.shards import find_members, find_shards, is_shard, match_members, shard_of
from deblurgan.data.sharpness import halves_agree, look_like_pair
from deblurgan.data.sources import same_folders, same_photos

LOOKED_AT = 5  # photos of a folder in which pairs are recognised


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
        return self.sample(range(len(self))[index], epoch=0)  # counted from the end where it is negative

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

    def files(self, index: int) -> list[Path]:
        """All files that the picture is read from."""
        return [self.path(index)]

    def name(self, index: int, *, epoch: int = 0) -> str:
        """The picture's path below the root."""
        return self.below_root(self.path(index, epoch=epoch))

    def names(self) -> list[str]:
        """The names of all pictures, in order."""
        return [self.name(i) for i in range(len(self))]

    def layout(self) -> str:
        """How many pictures there are and how they are laid out, in words."""
        raise NotImplementedError

    def sources(self) -> list[int]:
        """Of each picture a number, the same for those that were made from one photo."""
        return list(range(len(self)))

    def sequences(self) -> list[int]:
        """Of each picture a number, the same for those that may be frames of one sequence: all, where nothing tells."""
        return [0] * len(self)

    def below_root(self, path: Path) -> str:
        """The path relative to the root, or whole where it lies elsewhere: how messages name a file."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def decoded(self, index: int) -> tuple[Pixels, ...]:
        """The picture's files, uint8 [h, w, 3] each: the blurred one where there is one, and the sharp one.

        Raises ImageError for a bad file.
        """
        raise NotImplementedError

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
    photo's own border. Of several blurs each crop draws one, and whole pictures take them in turn. `pictures` gives the
    files instead of all in the folder.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        pictures: Sequence[Path] | None = None,
        blur: MotionBlur | Sequence[MotionBlur] | None = None,
        crops: Crops | None = None,
        seed: int = 0,
        cache: PictureCache | None = None,
    ) -> None:
        entries = find_pictures(root) if pictures is None else pictures
        super().__init__(entries, Path(root), crops=crops, seed=seed, cache=cache)
        blurs = blur or MotionBlur()
        self.blurs = (blurs,) if isinstance(blurs, MotionBlur) else tuple(blurs)

    def to(self, device: torch.device) -> SharpFolder:
        part = cast(SharpFolder, super().to(device))
        part.blurs = tuple(deepcopy(blur).to(device) for blur in self.blurs)
        return part

    def path(self, index: int, *, epoch: int = 0) -> Path:
        return self.entries[index]

    def layout(self) -> str:
        return f"{len(self)} sharp photos{_in_shards(self.entries)}, blurred as they are drawn"

    def sources(self) -> list[int]:
        return same_photos(self.entries)

    def decoded(self, index: int) -> tuple[Pixels, ...]:
        return (self.cache.read(self.entries[index]),)

    def whole(self, index: int) -> Pair:
        sharp = to_tensor(reduced_whole(self.cache.read(self.entries[index]), self.crops))
        blur = self.blurs[index % len(self.blurs)]
        return Pair(blur(sharp, index=derived_seed(RngStream.WHOLE, self.seed, index)), sharp)

    def plan(self, index: int, *, epoch: int, attempt: int = 0) -> Plan:
        photo = self.cache.read(self.entries[index])
        kernel = derived_seed(RngStream.KERNEL, self.seed, epoch, index, attempt)
        blur = self.blurs[kernel % len(self.blurs)]
        size, reach = self.crops.size, blur.size // 2 + 1
        crop = self._draw_position((epoch, index, attempt), photo, self.entries[index])
        up, before = min(reach, crop.top), min(reach, crop.left)
        down, after = min(reach, crop.height - size - crop.top), min(reach, crop.width - size - crop.left)
        region = (crop.left - before, crop.top - up, crop.left + size + after, crop.top + size + down)
        sharp = reduced_region(photo, region, crop.height, crop.width)
        return Plan((sharp,), (up, before, int(crop.flip)), size, blur, kernel)


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

    def files(self, index: int) -> list[Path]:
        return list(self.entries[index])

    def layout(self) -> str:
        if _in_shards(self.entries[0]):
            return f"{len(self)} pairs{_in_shards(entry[0] for entry in self.entries)}"
        folders = {(blurred.parent, sharp.parent) for blurred, sharp in self.entries}
        blurred, sharp = min(folders)
        below, above = blurred.parts, sharp.parts
        names = next(((a, b) for a, b in zip(below, above, strict=False) if a != b), (blurred.name, sharp.name))
        often = f", {len(folders)} such folders" if len(folders) > 1 else ""
        return f"{len(self)} pairs, {names[0]}/ beside {names[1]}/{often}"

    def sources(self) -> list[int]:
        return same_photos([sharp for _, sharp in self.entries])

    def sequences(self) -> list[int]:
        return same_folders([sharp for _, sharp in self.entries])

    def decoded(self, index: int) -> tuple[Pixels, ...]:
        return self._read(index)

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

    `split` None takes both. `pictures` gives the files to take them from instead of all in the folder; `lone` takes
    those without their partner, which else are an error.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        split: str | None = "train",
        gamma: bool = False,
        pictures: Sequence[Path] | None = None,
        lone: Lone | None = None,
        crops: Crops | None = None,
        seed: int = 0,
        cache: PictureCache | None = None,
    ) -> None:
        found = find_pictures(root) if pictures is None else pictures
        pairs = match_gopro(Path(root), found, split, gamma=gamma, lone=lone)
        super().__init__(root, pairs=pairs, crops=crops, seed=seed, cache=cache)

    def layout(self) -> str:
        blurred = self.path(0).parent.name
        return f"{len(self)} pairs of GoPro's tree, {blurred}/ beside sharp/ in {len(set(self.sequences()))} sequences"


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

    def layout(self) -> str:
        return f"{len(self)} A|B pictures, blurred on the left and sharp on the right"

    def sequences(self) -> list[int]:
        return [0] * len(self)

    def _read(self, index: int) -> tuple[Pixels, Pixels]:
        both = self.cache.read(self.path(index))
        if both.shape[1] % 2:
            raise images.ImageError(self.path(index), f"an A|B picture has an even width, got {both.shape[1]}")
        half = both.shape[1] // 2
        return both[:, :half], both[:, half:]


class Mixed(PairDataset):
    """`ratio` synthetic pictures for each real pair, spread evenly: the paper's Comb regime at 2.

    An epoch holds every pair once and ratio x pairs synthetic pictures, rounded, at least one. These go on from epoch
    to epoch where they stopped, so that each is drawn as often as the others, to one, however many there are.
    """

    def __init__(self, synthetic: PairDataset, pairs: PairDataset, *, ratio: float = 2.0) -> None:
        if not ratio > 0:
            raise ValueError(f"ratio must be positive, got {ratio}")
        length = len(pairs) + max(1, round(ratio * len(pairs)))
        super().__init__(range(length), pairs.root, crops=pairs.crops, seed=pairs.seed)
        self.synthetic, self.pairs, self.ratio = synthetic, pairs, ratio
        self.length = length

    def to(self, device: torch.device) -> Mixed:
        part = cast(Mixed, super().to(device))
        part.synthetic, part.pairs = self.synthetic.to(device), self.pairs.to(device)
        return part

    def locate(self, index: int, epoch: int) -> tuple[PairDataset, int, int]:
        """The dataset that picture `index` of `epoch` comes from, with its index and epoch there."""
        position, length, pairs = self.entries[index], self.length, len(self.pairs)
        passed = position * pairs // length
        if (position + 1) * pairs // length > passed:
            return self.pairs, passed, epoch
        drawn = epoch * (length - pairs) + position - passed
        return self.synthetic, drawn % len(self.synthetic), drawn // len(self.synthetic)

    def layout(self) -> str:
        return f"{self.synthetic.layout()}, {self.ratio:g} drawn for each of {self.pairs.layout()}"

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
    blur: MotionBlur | Sequence[MotionBlur] | None = None,
    crops: Crops | None = None,
    seed: int = 0,
    split: str | None = "train",
    without: Iterable[Path] = (),
    cache: PictureCache | None = None,
    log: Callable[[str], object] = warnings.warn,
    lone: Lone | None = None,
) -> PairDataset:
    """The dataset in a folder or a tar file: SharpFolder, PairedFolder, GoPro or SideBySide.

    Args:
        layout: "sharp", "paired", "gopro", "side-by-side", "tar" or "auto", which goes by the folders' names: GoPro's
            tree, folders of blurred and of sharp pictures side by side at any depth, tar files where there are no
            pictures beside them, and all else sharp photos, unless names or a few of the pictures speak against it. In
            tar files NAME.blur.png and NAME.sharp.png are pairs; other members count as if they lay in folders.
        gamma: of GoPro, take the blur_gamma pictures.
        split: "train", "val", "test" or, for all, None. Folders test/ and val/ beside train/ hold what their names say,
            all else is for training; a folder without such a division is taken whole.
        without: folders inside `root` whose pictures are no part of it.
        log: takes a line where pictures are left out.
        lone: takes each picture of the split that has no partner, and what it lacks; if not given, one is an error.

    Raises FileNotFoundError for a missing folder, ValueError for one without pictures or of no known layout, and for
    one whose pictures look like pairs that nothing says to be pairs.
    """
    root, cache = as_path("data", root), cache or PictureCache()

    def tell(line: str) -> None:
        log(images.printable(line))

    options: dict[str, Any] = {"crops": crops, "seed": seed, "cache": cache}
    in_shards = layout == "tar" or is_shard(root)
    pictures = [] if in_shards else find_pictures(root, without=without, log=tell)
    members = [] if pictures else _members(root, without, tell)
    alone: list[tuple[Path, str]] = []
    take = None if lone is None else lambda path, lack: alone.append((path, lack))
    pairs = match_members(members, log=tell, lone=take) if layout in ("auto", "tar") else []
    pictures = pictures or members
    if layout in ("auto", "tar"):
        layout = "tar" if pairs else detect_layout(root, pictures, gamma=gamma)
        if layout == "sharp":
            _require_no_pairs(pictures, cache)
    dataset: PairDataset
    if layout == "sharp":
        dataset = SharpFolder(root, pictures=pictures, blur=blur, **options)
    elif layout in ("paired", "tar"):
        pairs = pairs or match_pairs(root, pictures, gamma=gamma, log=tell, lone=take)
        dataset = PairedFolder(root, pairs=pairs, **options)
    elif layout == "gopro":
        split = "test" if split == "val" else split
        return GoPro(root, split=split, gamma=gamma, pictures=pictures, lone=lone, **options)
    elif layout == "side-by-side":
        dataset = SideBySide(root, pictures=pictures, **options)
    else:
        raise ValueError(f"layout must be auto, sharp, paired, gopro, side-by-side or tar, got {layout!r}")
    part = None if split is None else dataset.part(split)
    if part is not None:
        tell(
            f"took {len(part)} of {len(dataset)} pictures in {root}: by their folders' names the others are not for "
            f"{split}"
        )
        alone = _of_part(part, dataset, alone)
    if lone is not None:
        for path, lack in alone:
            lone(path, lack)
    return part or dataset


def _of_part(part: PairDataset, dataset: PairDataset, alone: Sequence[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Those of the pictures without partner that belong to the same split of the dataset as the part does."""
    taken, others = ([of.path(i) for i in range(len(of))] for of in (part, dataset))
    paths = [*others, *(path for path, _ in alone)]
    split = dict(zip(paths, splits(dataset.root, paths), strict=True))
    wanted = {split[path] for path in taken}
    return [(path, lack) for path, lack in alone if split[path] in wanted]


def _members(root: Path, without: Iterable[Path], log: Callable[[str], object]) -> list[Path]:
    """The pictures in the tar files of the folder, or in the one that `root` is."""
    return find_members(outside(root, without, find_shards(root)), log=log)


def _in_shards(paths: Iterable[Path]) -> str:
    """ " in 4 tar files", where the pictures lie in such."""
    shards = {shard_of(folder / "x") for folder in {path.parent for path in paths}} - {None}
    if not shards:
        return ""
    return f" in {len(shards)} tar files" if len(shards) > 1 else " in a tar file"


def _require_no_pairs(pictures: Sequence[Path], cache: PictureCache) -> None:
    """Raises ValueError where a few of the photos look like pairs: the halves of one, or two of the same name or with
    the same numbers in theirs, as 7a.png and 7b.png."""
    both = [(path, path) for path in _spread(pictures)]
    if _most(both, lambda one, _: halves_agree(one), cache):
        raise ValueError(
            f"data holds pictures whose halves show the same, one blurrier than the other, such as {pictures[0]}: say "
            "that the layout is side-by-side (blurred | sharp) or sharp"
        )
    for word, keys in (("name", [path.stem for path in pictures]), ("number", map(_numbers, pictures))):
        first: dict[str, Path] = {}
        twins = [
            (first[key], path)
            for path, key in zip(pictures, keys, strict=True)
            if key and first.setdefault(key, path) != path
        ]
        if _most(_spread(twins), look_like_pair, cache):
            raise ValueError(
                f"data holds two pictures of each {word} that show the same, one blurrier than the other, such as "
                f"{twins[0][0]} and {twins[0][1]}: name their folders blur and sharp, or say that the layout is sharp"
            )


def _numbers(path: Path) -> str:
    """Those in the file's name."""
    return " ".join(re.findall(r"\d+", path.stem))


def _spread(things: Sequence[Any]) -> Sequence[Any]:
    """A few of them, from the first to near the last."""
    return things[:: max(1, len(things) // LOOKED_AT)][:LOOKED_AT]


def _most(twos: Iterable[tuple[Path, Path]], alike: Callable[[Pixels, Pixels], bool], cache: PictureCache) -> bool:
    """Whether more than half of the twos that can be read are alike."""
    found = []
    for two in twos:
        with suppress(images.ImageError, OSError):  # said when it is drawn
            found.append(alike(*(cache.read(path) for path in two)))
    return sum(found) > len(found) / 2
