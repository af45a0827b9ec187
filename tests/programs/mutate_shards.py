"""Damages tar files of pictures at random and reads them: python mutate_shards.py SEED COUNT.

Each must open, or be refused as one without pictures; each of its pictures must be read, or be refused as damaged or
missing; and the pictures of a shard beside it must not change. Prints how often each happened.
"""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from deblurgan import images
from deblurgan.data import open_dataset
from deblurgan.data.shards import index_of, read_picture


def main(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    seen = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        whole = shard(random)
        for i in range(count):
            root = Path(folder) / str(i)
            root.mkdir()
            (root / "good.tar").write_bytes(whole)
            (root / "bad.tar").write_bytes(damaged(whole, random))
            for _ in range(2):  # the second time by the index
                seen.update(look_at(root))
    print(dict(sorted(seen.items())))


def shard(random: np.random.Generator) -> bytes:
    """Three pairs as WebDataset has them, one with a long name."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for key in ("0", "1", "x" * 120):
            for kind in ("blur", "sharp"):
                picture = images.Picture(random.integers(0, 256, (12, 14, 3), dtype=np.uint8))
                data, _ = images.encode(picture, "x.png")
                info = tarfile.TarInfo(f"{key}.{kind}.png")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def damaged(whole: bytes, random: np.random.Generator) -> bytes:
    """Bytes changed, cut off, put in or zeroed."""
    data, kind = bytearray(whole), int(random.integers(4))
    at = int(random.integers(len(data) * 3 // 4))
    length = int(2 ** random.uniform(0, 11))
    if kind == 0:
        data[at : at + length] = random.bytes(min(length, len(data) - at))
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = random.bytes(length)
    else:
        data[at : at + length] = bytes(min(length, len(data) - at))
    return bytes(data)


def look_at(root: Path) -> list[str]:
    lines: list[str] = []
    data = open_dataset(root, log=lines.append)
    good = [i for i in range(len(data)) if "good.tar" in data.name(i)]
    assert len(good) == 3, "a shard beside a damaged one lost pictures"
    for i in good:
        data.whole(i)
    told = any("damaged tar" in line for line in lines)
    alone = any("belong to no pair" in line for line in lines)  # a long name has no checksum
    assert told or alone or len(index_of(root / "bad.tar").members) == 6, f"{root} lost pictures in silence"
    found = ["damage told" if told else "no shard damaged"]
    for blurred, sharp in data.entries:
        for path in (blurred, sharp) if "bad.tar" in str(blurred) else ():
            try:
                read_picture(path)
                found.append("read")
            except images.ImageError as error:
                assert str(error.path) == str(path)
                found.append("refused")
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
