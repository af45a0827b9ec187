"""The pictures' cache: each file decoded once, within its limits, and nothing left behind."""

from __future__ import annotations

import errno
import os
import pickle
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from conftest import texture
from deblurgan import images
from deblurgan.data import cache
from deblurgan.data.cache import PictureCache, spill_folder

SIZE = 72 * 96 * 3  # bytes of one of `photos`


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was decoded."""
    counts: Counter[str] = Counter()
    read = images.read

    def counted(path: Path) -> images.Picture:
        counts[path.name] += 1
        return read(path)

    monkeypatch.setattr(images, "read", counted)
    return counts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "spill").mkdir()
    return tmp_path / "spill"


def read_all(pictures: PictureCache, photos: Path) -> None:
    """Reads the four photos, which must come as they are."""
    for i in range(4):
        assert np.array_equal(pictures.read(photos / f"{i}.png"), texture(72, 96, seed=i))


@pytest.mark.parametrize("in_memory", [0, 1, 3, 4])
def test_files_are_decoded_once(in_memory: int, photos: Path, folder: Path, decoded: Counter[str]) -> None:
    pictures = PictureCache(in_memory * SIZE + SIZE // 2, spill=folder, reserve=0)
    for _ in range(3):
        read_all(pictures, photos)
    assert decoded == {f"{i}.png": 1 for i in range(4)}
    assert (pictures.bytes, pictures.spilled_bytes) == (in_memory * SIZE, (4 - in_memory) * SIZE)


def test_without_a_file_the_rest_is_decoded_again(photos: Path, decoded: Counter[str]) -> None:
    pictures = PictureCache(2 * SIZE)
    for _ in range(3):
        read_all(pictures, photos)
    assert decoded == {"0.png": 1, "1.png": 1, "2.png": 3, "3.png": 3}
    assert (pictures.bytes, pictures.spilled_bytes) == (2 * SIZE, 0)


def test_pictures_in_the_file_cannot_be_changed(photos: Path, folder: Path) -> None:
    pixels = PictureCache(0, spill=folder, reserve=0).read(photos / "0.png")
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0, 0] = 1


@pytest.mark.parametrize("reason", ["reserve", "write", "folder"])
def test_full_disk_is_said_once_and_costs_no_picture(
    reason: str, photos: Path, folder: Path, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    written = os.pwrite

    def full(file: int, data: memoryview, at: int) -> int:
        """A disk that takes the first picture and half of the second, in small parts."""
        if at > 3 * SIZE // 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(file, data[:1000], at)

    if reason == "write":
        monkeypatch.setattr(os, "pwrite", full)
    where = folder / "missing" if reason == "folder" else folder
    pictures = PictureCache(SIZE, spill=where, reserve=2**62 if reason == "reserve" else 0, log=lines.append)
    for _ in range(2):
        read_all(pictures, photos)
    held = 2 if reason == "write" else 1
    assert decoded == {f"{i}.png": 1 if i < held else 2 for i in range(4)}
    assert pictures.spilled_bytes == (held - 1) * SIZE
    assert len(lines) == 1 and lines[0].startswith("cache is full with 0.0 GiB in memory")


def test_disk_that_fills_up_later_keeps_its_reserve(
    photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [10 * SIZE, 10 * SIZE, 4 * SIZE, 4 * SIZE - 1]  # asked once for the file and once for each picture
    lines: list[str] = []

    class Usage:
        def __init__(self, folder: Path) -> None:
            self.free = left.pop(0)

    monkeypatch.setattr(cache.shutil, "disk_usage", Usage)
    pictures = PictureCache(0, spill=folder, reserve=3 * SIZE, log=lines.append)
    read_all(pictures, photos)
    assert not left
    assert pictures.spilled_bytes == 2 * SIZE and len(lines) == 1


def test_nothing_is_left_behind(photos: Path, folder: Path) -> None:
    pictures = PictureCache(0, spill=folder, reserve=0)
    read_all(pictures, photos)
    assert pictures.spilled_bytes == 4 * SIZE
    assert not list(folder.iterdir()), "a killed process would leave the file"
    pictures.close()
    assert (pictures.bytes, pictures.spilled_bytes) == (0, 0)
    read_all(pictures, photos)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_close_gives_the_file_back(photos: Path, folder: Path) -> None:
    def held() -> list[str]:
        """The deleted files in `folder` that this process still holds, by descriptor or mapping."""
        links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        open_files = [os.readlink(link) for link in links if link.is_symlink()]
        return [
            line for line in [*open_files, *Path("/proc/self/maps").read_text().splitlines()] if str(folder) in line
        ]

    pictures = PictureCache(0, spill=folder, reserve=0)
    pixels = pictures.read(photos / "0.png")
    assert held()
    pictures.close()
    assert np.array_equal(pixels, texture(72, 96, seed=0)), "an array outlives the cache"
    del pixels
    assert not held()


def test_bad_files_are_decoded_once_and_keep_their_reason(tmp_path: Path, decoded: Counter[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    pictures = PictureCache()
    reasons = []
    for _ in range(3):
        with pytest.raises(images.ImageError) as caught:
            pictures.read(tmp_path / "a.png")
        reasons.append(caught.value.reason)
    assert decoded["a.png"] == 1 and len(set(reasons)) == 1 and reasons[0].startswith("damaged")


def test_missing_file_may_come_back(photos: Path) -> None:
    pictures = PictureCache()
    data = (photos / "0.png").read_bytes()
    (photos / "0.png").unlink()
    with pytest.raises(FileNotFoundError):
        pictures.read(photos / "0.png")
    (photos / "0.png").write_bytes(data)
    read_all(pictures, photos)


def test_threads_share_it(photos: Path, folder: Path) -> None:
    for in_memory in range(5):
        pictures = PictureCache(in_memory * SIZE, spill=folder, reserve=0)
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(read_all, pictures, photos) for _ in range(16)]:
                done.result()
        assert (pictures.bytes, pictures.spilled_bytes) == (in_memory * SIZE, (4 - in_memory) * SIZE)


def test_forked_process_leaves_the_file_alone(photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = PictureCache(0, spill=folder, reserve=0)
    pictures.read(photos / "0.png")
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    read_all(pictures, photos)
    assert pictures.spilled_bytes == SIZE


def test_copy_for_another_process_starts_empty(photos: Path, folder: Path) -> None:
    pictures = PictureCache(SIZE, spill=folder, reserve=0)
    read_all(pictures, photos)
    copy = pickle.loads(pickle.dumps(pictures))
    assert (copy.limit, copy.bytes, copy.spilled_bytes) == (SIZE, 0, 0)
    read_all(copy, photos)
    assert (copy.bytes, copy.spilled_bytes) == (SIZE, 0)


def test_temporary_files_go_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert spill_folder() == tmp_path
    monkeypatch.delenv("TMPDIR")
    assert os.access(spill_folder(), os.W_OK)
