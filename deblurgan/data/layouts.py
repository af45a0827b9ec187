"""How folders of pictures are laid out, as their names tell.

A word in a name counts where a folder beside it has the same name with another word of the kind: blur/ beside sharp/,
train_blur/ beside train_sharp/, train/ beside test/.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

BLURRED = ("blur", "blurred", "blurry", "degraded", "input", "inputs", "lq", "lr")
SHARP = ("sharp", "target", "targets", "gt", "groundtruth", "hq", "hr", "clean", "clear")
WORDS = {**dict.fromkeys(BLURRED, "blurred"), **dict.fromkeys(SHARP, "sharp")}
LETTERS = {"a": "blurred", "b": "sharp"}  # of pix2pix; they are names of albums as well
SPLITS = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset"), "val"),
    **dict.fromkeys(("test", "testing", "testset", "eval", "evaluation"), "test"),
}
NEVER_SHARP = {"blur", "blurred", "blurry", "deblurred"}  # whatever else the folder's name says
Lone = Callable[[Path, str], object]  # takes a picture without its partner, and what it lacks
FILLERS = {"image", "images", "img", "picture", "pictures", "photo", "photos", "crops", "patches", *SPLITS}


class Couple(NamedTuple):
    """Two folders side by side, whose pictures make pairs."""

    blurred: Path
    sharp: Path


def detect_layout(root: Path, pictures: Sequence[Path], *, gamma: bool = False) -> str:
    """ "gopro", "paired" or "sharp". Raises ValueError where the names of folders speak against all three."""
    couples = find_couples(root, pictures, gamma=gamma)
    if couples and all(_is_gopro(path.relative_to(root).parts) for path in pictures):
        return "gopro"
    if not couples:
        _require_sharp_photos(root, pictures)
        return "sharp"
    elsewhere = _not_below({couple.blurred.parent for couple in couples}, pictures)
    if elsewhere:
        raise ValueError(
            f"data holds pairs ({couples[0].blurred} and {couples[0].sharp.name}) and other pictures "
            f"({elsewhere[0]}): give the folder of one of them, or say that the layout is paired"
        )
    return "paired"


def _is_gopro(parts: tuple[str, ...]) -> bool:
    """Whether the parts of a path are those of a picture in GoPro's tree: train/SEQUENCE/blur/name."""
    return len(parts) > 3 and parts[0] in ("train", "test") and parts[2] in ("blur", "blur_gamma", "sharp")


def find_couples(root: Path, pictures: Sequence[Path], *, gamma: bool = False, certain: bool = True) -> list[Couple]:
    """The folders of blurred pictures below `root` and of sharp ones beside them, the outermost of each branch.

    A and B may be albums as well: unless `certain` is False they count only where all folders of pictures lie in such
    couples. Of blur and blur_gamma, side by side, `gamma` chooses the second.
    """
    folders = _folders(root, pictures)
    for curve in [folder for folder in folders if folder.name == "blur_gamma"]:
        if curve.with_name("blur") in folders:
            folders.discard(curve.with_name("blur") if gamma else curve)
    worded = _couples(folders, WORDS)
    above = {folder for couple in worded for folder in couple.blurred.parents}  # A/ and B/ with pairs in each are none
    lettered = _couples(folders - above, WORDS | LETTERS)
    members = {folder for couple in lettered for folder in couple}
    holding = {path.parent for path in pictures} - {folder.parent for folder in members}
    covered = all(folder in members or not members.isdisjoint(folder.parents) for folder in holding)
    return lettered if covered or not certain else worded


def _couples(folders: Iterable[Path], words: Mapping[str, str]) -> list[Couple]:
    couples = []
    for group in _kin(folders, words):
        for kind, members in group.items():
            if len(members) > 1:
                names = " and ".join(folder.name for folder in members)
                raise ValueError(f"data must hold one folder of {kind} pictures, got {names} in {members[0].parent}")
        couples.append(Couple(group["blurred"][0], group["sharp"][0]))
    paired = {folder for couple in couples for folder in couple}
    return [couple for couple in couples if paired.isdisjoint(couple.blurred.parents)]


def _kin(folders: Iterable[Path], words: Mapping[str, str], *, whole: bool = True) -> list[dict[str, list[Path]]]:
    """Folders side by side whose names differ by one of the `words`, by what that word says; groups of one are none.

    Unless `whole`, their names need only begin alike: DIV2K_train_HR/ and DIV2K_train_LR_bicubic/.
    """
    groups: dict[tuple[Path, tuple[str, ...]], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for folder in sorted(folders):
        name = name_words(folder.name)
        at = next((i for i, word in enumerate(name) if word in words), None)
        if at is not None and (whole or at):
            groups[folder.parent, (*name[:at], *name[at + 1 :]) if whole else name[:at]][words[name[at]]].append(folder)
    return [group for group in groups.values() if len(group) > 1]


@lru_cache(2**16)
def name_words(name: str) -> tuple[str, ...]:
    """The words of a name, in lower case: of "train_blur", "Train Blur", "trainBlur" and "trainblur" ("train", "blur").

    "gamma" is none: of GoPro's folders blur_gamma is another blur.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|[\W_]+", " ", name).lower().replace("ground truth", "groundtruth")
    spaced = re.sub(r"(?<!de)(blurred|blurry|blur|sharp)", r" \1 ", spaced)
    return tuple(word for word in spaced.split() if word != "gamma")


def _folders(root: Path, paths: Iterable[Path]) -> set[Path]:
    """All folders on the way from `root` to the files."""
    direct = {path.parent for path in paths}
    return {folder for leaf in direct for folder in (leaf, *leaf.parents) if root in folder.parents}


def _not_below(folders: set[Path], pictures: Sequence[Path]) -> list[Path]:
    """The pictures that lie in none of the folders, at any depth."""
    outside = {folder for folder in {path.parent for path in pictures} if folders.isdisjoint((folder, *folder.parents))}
    return [path for path in pictures if path.parent in outside]


def _require_sharp_photos(root: Path, pictures: Sequence[Path]) -> None:
    """Raises ValueError where names say that not all of the pictures are sharp photos."""
    kinds = {folder: _kind(folder.name) for folder in _folders(root, pictures)}
    blurred = [folder for folder, kind in kinds.items() if kind == "blurred"]
    blurred += [folder for group in _kin(kinds, WORDS, whole=False) for folder in group["blurred"]]
    blurred += [folder for folder in (root.resolve(), root.resolve().parent) if _is_blurred_half(folder)]
    if blurred:
        raise ValueError(
            f"data holds pictures that are no sharp photos by their folder's name ({blurred[0]}): give a folder of "
            "blurred and sharp ones side by side (blur/ and sharp/, ...), or say that the layout is sharp"
        )
    worded = [path for path in pictures if not WORDS.keys().isdisjoint(name_words(path.stem))]
    for group in _kin((path.with_suffix("") for path in worded), WORDS):
        names = f"{group['blurred'][0]} and {group['sharp'][0].name}"
        raise ValueError(
            f"data holds blurred and sharp pictures in one folder ({names}): give each kind a folder of its own, blur "
            "and sharp, or say that the layout is sharp"
        )
    if twin := next(_sharp_beside_bare(pictures), None):
        raise ValueError(
            f"data holds pictures beside what is their sharp one by its name, such as {twin}: give each kind a "
            "folder of its own, blur and sharp, or say that the layout is sharp"
        )
    if named := _blurred_by_name(pictures):
        raise ValueError(
            f"data holds pictures that are no sharp photos by their own names, such as {named[0]}: take these out, or "
            "say that the layout is sharp"
        )
    sharp = {folder for folder, kind in kinds.items() if kind == "sharp"}
    others = _not_below(sharp, pictures)
    if sharp and others:
        raise ValueError(
            f"data holds sharp pictures by their folder's name ({min(sharp)}) and others, such as {others[0]}: give "
            "the folder of the sharp ones or of pairs, or say that the layout is sharp"
        )


def _blurred_by_name(pictures: Sequence[Path]) -> list[Path]:
    """Pictures whose own names say that they are blurred: all, or those whose sharp ones lie beside them.

    0_blur.png lies beside 0.png or 0_orig.png. The word alone may as well be a title.
    """
    marked = [path for path in pictures if not NEVER_SHARP.isdisjoint(name_words(path.stem))]
    if not marked or len(marked) == len(pictures):
        return marked
    beginnings: set[tuple[Path, tuple[str, ...]]] = set()
    for path in set(pictures).difference(marked):
        name = name_words(path.stem)
        beginnings.update((path.parent, name[:k]) for k in range(1, len(name) + 1))
    bare = {path: tuple(word for word in name_words(path.stem) if word not in NEVER_SHARP) for path in marked}
    return [path for path, name in bare.items() if (path.parent, name) in beginnings]


def _sharp_beside_bare(pictures: Sequence[Path]) -> Iterator[Path]:
    """Pictures such as 0_sharp.png and 0_gt.png beside 0.png."""
    marked = [path for path in pictures if (name := name_words(path.stem))[-1:] and name[-1] in SHARP]
    names = {(path.parent, name_words(path.stem)) for path in (pictures if marked else [])}
    for path in marked:
        if (name := name_words(path.stem))[:-1] and (path.parent, name[:-1]) in names:
            yield path


def _is_blurred_half(folder: Path) -> bool:
    """Whether the folder, by its name, holds the blurred versions of the pictures in one beside it."""
    if _kind(folder.name) != "blurred":
        return False
    beside = [other for other in folder.parent.iterdir() if other.is_dir()]
    return any(_kind(other.name) == "sharp" for other in beside) or any(
        folder in group["blurred"] for group in _kin(beside, WORDS)
    )


def _kind(name: str) -> str | None:
    """Of what kind a folder's pictures are, where its name leaves no doubt."""
    words = set(name_words(name)) - FILLERS
    if words & NEVER_SHARP or words == {"ab"}:  # pix2pix's AB/ holds both halves side by side
        return "blurred"
    return WORDS.get(words.pop()) if len(words) == 1 else None


def splits(root: Path, pictures: Sequence[Path]) -> list[str]:
    """Of each picture "train", "val" or "test".

    Lists of paths tell, such as RealBlur_J_test_list.txt in `root` or the folder above, and test/ or val/ folders
    beside train/; all else is for training.
    """
    groups = [group for group in _kin(_folders(root, pictures), SPLITS) if "train" in group]
    named = {folder: split for group in groups for split, members in group.items() for folder in members}
    for above in (root, root.parent):
        for file in above.glob("*_list.txt"):
            split = next((SPLITS[word] for word in name_words(file.stem) if word in SPLITS), None)
            if split is not None:
                named |= {above / name: split for name in file.read_text(errors="replace").split()}
    if not named:
        return ["train"] * len(pictures)
    of = {
        folder: next((named[above] for above in (folder, *folder.parents) if above in named), "train")
        for folder in {picture.parent for picture in pictures}
    }
    return [named.get(picture, of[picture.parent]) for picture in pictures]
