"""Which pictures belong together: versions of one photo, and frames of one sequence."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from deblurgan.data.shards import Stored, stored

SAMPLE = 4096  # bytes from the middle of a file by which copies are known


def same_photos(paths: Sequence[Path]) -> list[int]:
    """Of each file a number, the same for copies of one photo.

    Copies have the same size, the same bytes in their middle, and names that differ in the number at their end at most,
    as those that `deblurgan blur --n 2 --pairs` writes: 0_000.png and 0_001.png. A file that cannot be read is no copy.
    """
    alike: dict[str, list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        alike[re.sub(r"_\d+(?=\.)", "", path.name)].append(i)
    numbers = list(range(len(paths)))
    for candidates in alike.values():
        places: dict[int, list[tuple[int, Stored]]] = defaultdict(list)
        for i in candidates if len(candidates) > 1 else []:
            with suppress(OSError):
                place = stored(paths[i])
                places[place.size].append((i, place))
        for equal in places.values():
            first: dict[bytes, int] = {}
            for i, place in equal if len(equal) > 1 else []:
                with suppress(OSError):
                    numbers[i] = first.setdefault(_middle(place), i)
    return numbers


def same_folders(paths: Sequence[Path]) -> list[int]:
    """Of each file a number, the same for those of one folder."""
    first: dict[Path, int] = {}
    return [first.setdefault(path.parent, i) for i, path in enumerate(paths)]


def _middle(at: Stored) -> bytes:
    with open(at.file, "rb") as file:
        file.seek(at.offset + max(0, at.size - SAMPLE) // 2)
        return sha256(file.read(min(at.size, SAMPLE))).digest()
