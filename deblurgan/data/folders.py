"""Pictures in folders: how a folder is laid out, and which blurred picture belongs to which sharp one."""

from __future__ import annotations

from pathlib import Path

from deblurgan import images

BLURRED_NAMES = ("blur", "blurred", "blurry", "input", "lq", "A")
SHARP_NAMES = ("sharp", "target", "gt", "groundtruth", "hq", "B")


def find_pictures(root: Path | str) -> list[Path]:
    """The picture files anywhere in the folder. Raises FileNotFoundError where it is missing."""
    if not Path(root).is_dir():
        raise FileNotFoundError(f"data must be a folder, got {root}")
    return images.find(root)


def detect_layout(root: Path) -> str:
    """ "gopro", "paired" or "sharp". Raises ValueError for folders of blurred pictures that are laid out otherwise."""
    if any(root.glob("train/*/sharp")) or any(root.glob("test/*/sharp")):
        return "gopro"
    if find_pair_folders(root):
        return "paired"
    blurred = [path for depth in ("*", "*/*") for path in root.glob(depth) if path.name in ("blur", "blur_gamma")]
    if blurred:
        raise ValueError(
            f"data holds blurred pictures ({blurred[0]}) in no known layout: give the folder of GoPro's train/ and "
            "test/, one of blur/ and sharp/, or name the layout"
        )
    return "sharp"


def find_pair_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders of blurred and of sharp pictures in `root`, by their names; None where either is missing."""
    folders = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    blurred = [folders[name.lower()] for name in BLURRED_NAMES if name.lower() in folders]
    sharp = [folders[name.lower()] for name in SHARP_NAMES if name.lower() in folders]
    return (blurred[0], sharp[0]) if blurred and sharp else None


def match_pairs(root: Path) -> list[tuple[Path, Path]]:
    """The pairs (blurred, sharp) of the two folders in `root`. Raises ValueError where they are missing or differ."""
    folders = find_pair_folders(root)
    if folders is None:
        raise ValueError(
            f"data must hold a folder of blurred pictures ({', '.join(BLURRED_NAMES)}) and one of sharp ones "
            f"({', '.join(SHARP_NAMES)}), got {root}"
        )
    return match_by_name(*folders)


def match_by_name(blurred: Path, sharp: Path) -> list[tuple[Path, Path]]:
    """Pairs the two folders' pictures by their paths without suffix; a picture without its one partner is an error."""
    originals, copies = _by_name(sharp), _by_name(blurred)
    alone = sorted(str(name) for name in originals.keys() ^ copies.keys())
    if alone:
        raise ValueError(f"{blurred} and {sharp} must hold the same names; {len(alone)} differ, such as {alone[0]}")
    return [(copies[name], originals[name]) for name in sorted(originals)]


def _by_name(folder: Path) -> dict[Path, Path]:
    """The folder's pictures by their paths below it without suffix."""
    names: dict[Path, Path] = {}
    for path in find_pictures(folder):
        name = path.relative_to(folder).with_suffix("")
        if name in names:
            raise ValueError(f"{folder} must hold one picture of each name, got {names[name].name} and {path.name}")
        names[name] = path
    return names


def match_gopro(root: Path, split: str, *, gamma: bool) -> list[tuple[Path, Path]]:
    """The pairs (blurred, sharp) of one split of GoPro's tree, sequence after sequence."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    sequences = sorted((root / split).glob("*/sharp"))
    if not sequences:
        raise ValueError(f"data must be a GoPro root with {split}/SEQUENCE/sharp folders, got {root}")
    blurred = "blur_gamma" if gamma else "blur"
    return [pair for sharp in sequences for pair in match_by_name(sharp.with_name(blurred), sharp)]
