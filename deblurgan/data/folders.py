"""Pictures in folders: which files are pictures, and which blurred one belongs to which sharp one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from deblurgan import images
from deblurgan.data.layouts import BLURRED, LETTERS, SHARP, WORDS, Couple, Lone, find_couples, name_words

OWN_PICTURES = ("psf.png", "deblurgan-demo.png")  # contact sheets of `deblurgan blur`, and what the demo writes
RUN_FILES = ("history.csv", "state.safetensors", "last.safetensors", "best.safetensors")


def find_pictures(
    root: Path | str, *, without: Iterable[Path] = (), log: Callable[[str], object] = warnings.warn
) -> list[Path]:
    """The picture files anywhere in the folder, but for those in the folders `without` inside it and those that this
    package made to be looked at.

    `log` is told of these. Raises FileNotFoundError where the folder is missing.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(f"data must be a folder, got {root}")
    found = images.find(root, log=log)
    root = Path(root)
    samples = {
        folder for folder in {path.parent for path in found} if _is_samples(folder) or _is_of_report(folder, root)
    }
    photos = [path for path in found if path.parent not in samples and path.name not in OWN_PICTURES]
    if len(photos) < len(found):
        own = sorted(set(found).difference(photos))
        log(f"left out {len(own)} pictures that deblurgan made to be looked at, such as {own[0]}")
    return outside(root, without, photos)


def outside(root: Path, folders: Iterable[Path], pictures: list[Path]) -> list[Path]:
    """The pictures but for those in the folders, as far as these lie inside `root`."""
    real = root.resolve()
    below = [path.relative_to(real) for path in (folder.resolve() for folder in folders) if real in path.parents]
    return [path for path in pictures if not any(path.is_relative_to(root / folder) for folder in below)]


def _is_samples(folder: Path) -> bool:
    """Whether a training wrote the folder's pictures: samples/ in a run folder."""
    run = folder.parent
    return folder.name == "samples" and (run / "config.yaml").exists() and any((run / n).exists() for n in RUN_FILES)


def _is_of_report(folder: Path, root: Path) -> bool:
    """Whether an evaluation whose folder lies in `root` saved the folder's pictures: pictures/ and all below it."""
    between = [part for part in (folder, *folder.parents) if part != root and part.is_relative_to(root)]
    return any(part.name == "pictures" and (part.parent / "records" / "settings.json").exists() for part in between)


def match_pairs(
    root: Path,
    pictures: Sequence[Path],
    *,
    gamma: bool = False,
    log: Callable[[str], object] = warnings.warn,
    lone: Lone | None = None,
) -> list[tuple[Path, Path]]:
    """The pairs (blurred, sharp) among the pictures of `root`; of a GoPro sequence blur or, with `gamma`, blur_gamma.

    `log` is told of pictures that belong to none. Raises ValueError where there are no pairs, or one lacks its partner,
    unless `lone` takes those.
    """
    couples = find_couples(root, pictures, gamma=gamma) or find_couples(root, pictures, gamma=gamma, certain=False)
    if not couples:
        raise ValueError(
            f"data must hold a folder of blurred pictures ({', '.join(BLURRED)} or A) beside one of sharp ones "
            f"({', '.join(SHARP)} or B), got {root}"
        )
    pairs = _match_couples(couples, pictures, lone)
    for blurred, sharp in couples:
        if WORDS.keys().isdisjoint(name_words(blurred.name)):
            log(f"takes the pictures in {blurred} for blurred and those in {sharp} for sharp, by their names alone")
    others = sorted(set(pictures).difference(*pairs))
    if others:
        log(f"left out {len(others)} pictures that belong to no pair, such as {others[0]}")
    return pairs


def match_gopro(
    root: Path, pictures: Sequence[Path], split: str | None, *, gamma: bool, lone: Lone | None = None
) -> list[tuple[Path, Path]]:
    """The pairs (blurred, sharp) of one split of GoPro's tree or, with None, of both, sequence after sequence.

    `lone` is that of `match_pairs`.
    """
    if split not in ("train", "test", None):
        raise ValueError(f"split must be 'train', 'test' or None, got {split!r}")
    needed = split or "train"
    blurred = "blur_gamma" if gamma else "blur"
    folders = {path.parent for path in pictures if path.parent.name in (blurred, "sharp")}
    sequences = sorted({folder.parent for folder in folders if folder.parent.parent == root / needed})
    if not sequences:
        raise ValueError(f"data must be a GoPro root with {needed}/SEQUENCE/sharp folders, got {root}")
    if split is None:
        sequences += sorted({folder.parent for folder in folders if folder.parent.parent == root / "test"})
    return _match_couples([Couple(sequence / blurred, sequence / "sharp") for sequence in sequences], pictures, lone)


def _match_couples(
    couples: Sequence[Couple], pictures: Sequence[Path], lone: Lone | None = None
) -> list[tuple[Path, Path]]:
    """The pairs of all couples of folders, one couple after the other."""
    below: dict[Path, list[Path]] = {folder: [] for couple in couples for folder in couple}
    direct: dict[Path, list[Path]] = {}
    for path in pictures:
        direct.setdefault(path.parent, []).append(path)
    for leaf, members in direct.items():
        for folder in (leaf, *leaf.parents):
            if folder in below:
                below[folder] += members
    pairs = [pair for couple in couples for pair in _match_by_name(couple, below, lone)]
    return pairs if pairs or lone is None else _match_couples(couples, pictures)


def _match_by_name(couple: Couple, below: Mapping[Path, Sequence[Path]], lone: Lone | None) -> list[tuple[Path, Path]]:
    """Pairs the two folders' pictures by their paths without suffix; a picture without its one partner is for `lone`
    or an error.

    Where these differ, words for blurred and sharp in them do not count: blur_1.png goes with gt_1.png.
    """
    copies, originals = (_by_name(folder, below[folder]) for folder in couple)
    alone = sorted(str(name) for name in originals.keys() ^ copies.keys())
    if alone:
        originals, copies = _without_words(originals, "sharp"), _without_words(copies, "blurred")
    if originals.keys() != copies.keys() and lone is None:
        raise ValueError(
            f"{couple.blurred} and {couple.sharp} must hold the same names; {len(alone)} differ, such as {alone[0]} "
            "(if these are no pairs, say that the layout is sharp)"
        )
    if lone is not None:
        for pictures, others, lack in ((copies, originals, "sharp"), (originals, copies, "blurred")):
            for name in sorted(pictures.keys() - others.keys()):
                lone(pictures[name], f"has no {lack} picture")
    return [(copies[name], originals[name]) for name in sorted(originals.keys() & copies.keys())]


def _by_name(folder: Path, pictures: Sequence[Path]) -> dict[Path, Path]:
    """The folder's pictures by their paths below it without suffix."""
    names: dict[Path, Path] = {}
    between = {parent: parent.relative_to(folder) for parent in {path.parent for path in pictures}}
    for path in pictures:
        name = between[path.parent] / path.stem
        if name in names:
            raise ValueError(f"{folder} must hold one picture of each name, got {names[name].name} and {path.name}")
        names[name] = path
    return names


def _without_words(names: dict[Path, Path], kind: str) -> dict[Path, Path]:
    """The pictures by their paths without the words for `kind`; as they are where two would become one."""
    known = WORDS | LETTERS

    def without(part: str) -> str:
        return "_".join(word for word in name_words(part) if known.get(word) != kind) or part

    bare = {Path(*(without(part) for part in name.parts)): path for name, path in names.items()}
    return bare if len(bare) == len(names) else names
