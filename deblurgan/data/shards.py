"""Pictures in tar files, named as WebDataset names them: NAME.jpg, or NAME.blur.png and NAME.sharp.png for a pair.

A member goes by the path SHARD.tar/MEMBER, as if the shard were a folder. Where each picture lies in its shard is read
once and kept beside it in SHARD.tar.index, so that any of them can be read by itself: a batch is a function of its
number here too, whatever the rank, the worker and the step that a training goes on from.
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from deblurgan import images
from deblurgan.data.layouts import WORDS, Lone
from deblurgan.images.files import PICTURE_SUFFIXES, scan, sort_files

SUFFIX = ".tar"
CHUNK = 2**20  # bytes
WORTH_A_LINE = 2**30  # bytes of shards without an index


class Stored(NamedTuple):
    """Where the bytes of a picture lie."""

    file: Path
    offset: int
    size: int


class Index(NamedTuple):
    """The pictures of a shard."""

    members: dict[str, tuple[int, int]]
    """Offset and size of each, by name, in the shard's order."""
    damage: str | None
    """Why what follows the last of them cannot be read."""


def is_shard(path: Path) -> bool:
    """Whether the path is that of a tar file."""
    return path.suffix == SUFFIX and path.is_file()


def find_shards(root: Path) -> list[Path]:
    """The tar files anywhere in the folder, or the one that `root` is itself."""
    found = scan(root)
    return [path for path in [*found.pictures, *found.others] if path.suffix == SUFFIX]


def find_members(shards: Iterable[Path], *, log: Callable[[str], object]) -> list[Path]:
    """The pictures in the shards. `log` is told of damaged shards, whose readable part counts, of pictures whose format
    cannot be read, and beforehand of large shards that have no index."""
    shards, found = list(shards), list[Path]()
    new = [shard.stat().st_size for shard in shards if not _index_file(shard).exists()]
    if sum(new) > WORTH_A_LINE:
        log(f"looks through {len(new)} tar files, {sum(new) / 2**30:.1f} GiB, once")
    for shard in shards:
        index = index_of(shard)
        if index.damage is not None:
            log(f"left out what follows the first {len(index.members)} pictures in {shard}: {index.damage}")
        found += [shard / name for name in index.members]
    sorted_by_kind = sort_files(found)
    if sorted_by_kind.failed:
        path, reason = sorted_by_kind.failed[0]
        log(f"left out {len(sorted_by_kind.failed)} pictures, such as {path}: {reason}")
    return sorted_by_kind.pictures


def match_members(
    pictures: Sequence[Path], *, log: Callable[[str], object], lone: Lone | None = None
) -> list[tuple[Path, Path]]:
    """The pairs (blurred, sharp) NAME.blur.png and NAME.sharp.png, or by other such words; none where there are none.

    `log` is told of pictures that belong to no pair, `lone` takes those that lack their partner.
    """
    samples: dict[Path, dict[str, Path]] = {}
    for path in pictures:
        name, _, word = path.stem.rpartition(".")
        if kind := WORDS.get(word.lower()):
            samples.setdefault(path.parent / name, {})[kind] = path
    pairs = [(sample["blurred"], sample["sharp"]) for sample in samples.values() if len(sample) == 2]
    others = set(pictures).difference(*pairs)
    if pairs and others:
        log(f"left out {len(others)} pictures that belong to no pair, such as {min(others)}")
    if pairs and lone is not None:
        for (kind, path), *partner in (sample.items() for sample in samples.values()):
            if not partner:
                lone(path, f"has no {'sharp' if kind == 'blurred' else 'blurred'} picture")
    return pairs


def read_picture(path: Path) -> images.Picture:
    """The picture in a file or a member of a shard. Raises ImageError for a bad one, OSError where it is missing."""
    shard = shard_of(path)
    if shard is None:
        return images.read(path)
    at = stored(path)
    with open(at.file, "rb") as file:
        file.seek(at.offset)
        data = io.BytesIO(file.read(at.size))
    data.name = str(path)  # what errors call it
    return images.read(data)


def stored(path: Path) -> Stored:
    """Where the picture's bytes lie. Raises OSError where it is missing."""
    shard = shard_of(path)
    if shard is None:
        return Stored(path, 0, path.stat().st_size)
    member = index_of(shard).members.get(path.relative_to(shard).as_posix())
    if member is None:
        raise FileNotFoundError(f"{path} is not in its shard")
    return Stored(shard, *member)


def shard_of(path: Path) -> Path | None:
    """The shard that a path leads into; None for a path of the file system."""
    if SUFFIX not in str(path):
        return None
    return next(filter(is_shard, path.parents), None)


def index_of(shard: Path) -> Index:
    """The shard's pictures, by the index beside it where that is of this shard; otherwise it is written anew."""
    status = shard.stat()
    return _index(shard, status.st_size, status.st_mtime_ns)


def _index_file(shard: Path) -> Path:
    return shard.with_name(shard.name + ".index")


@cache
def _index(shard: Path, size: int, changed: int) -> Index:
    file = _index_file(shard)
    of = [size, changed]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(file.read_bytes())
        index = Index({str(name): (int(at), int(length)) for name, at, length in known["members"]}, known["damage"])
        if known["of"] == of and all(0 <= at <= at + length <= size for at, length in index.members.values()):
            return index
    index = _read_headers(shard)
    members = [[name, *where] for name, where in index.members.items()]
    content: dict[str, Any] = {"of": of, "damage": index.damage, "members": members}
    with contextlib.suppress(OSError):  # a folder that takes no file: the shard's headers are read each time
        images.replace_file(file, json.dumps(content).encode())
    return index


def _read_headers(shard: Path) -> Index:
    members: dict[str, tuple[int, int]] = {}
    try:
        size = shard.stat().st_size
        with tarfile.open(shard, "r:") as file:
            while (member := file.next()) is not None:
                is_whole = member.offset_data + member.size <= size
                name, linked = (PurePosixPath(name).as_posix() for name in (member.name, member.linkname))
                if member.islnk() and linked in members and _is_picture(name):
                    members[name] = members[linked]
                if member.isreg() and not member.issparse() and is_whole and _is_picture(name):
                    members[name] = (member.offset_data, member.size)
                file.members.clear()  # type: ignore[attr-defined]  # they are of no more use, and many
            end = file.offset
        with open(shard, "rb") as plain:  # tarfile takes damage for the end, in silence
            plain.seek(end)
            rest = plain.read(tarfile.BLOCKSIZE)
            while rest and not any(rest):
                rest = plain.read(CHUNK)
        if rest or end + tarfile.BLOCKSIZE > size:
            return Index(members, "damaged tar file")
    except (tarfile.TarError, OSError, ValueError) as error:
        return Index(members, f"damaged tar file ({error})")
    return Index(members, None)


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in PICTURE_SUFFIXES and not hidden and not path.is_absolute()
