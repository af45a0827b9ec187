"""Batches made ahead: the same bytes in the same order whatever makes them, and no thread or error lost."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from conftest import texture
from deblurgan import images, ops
from deblurgan.blur import MotionBlur
from deblurgan.data import Batch, Batches, Crops, Mixed, PairDataset, PairedFolder, SharpFolder, SideBySide
from deblurgan.data.cache import PictureCache
from deblurgan.data.prefetch import Prefetcher

CPU = torch.device("cpu")
SIZE = 33  # odd, so that nothing that is packed after a crop happens to be aligned
KINDS = ["sharp", "reduced", "pairs", "side by side", "mixed"]


def dataset(kind: str, photos: Path) -> PairDataset:
    blur = MotionBlur(length=20.0, noise=(0.0, 0.02), p=0.8)
    if kind == "sharp":
        return SharpFolder(photos, blur=blur, crops=Crops(SIZE), seed=1)
    if kind == "reduced":
        return SharpFolder(photos, blur=blur, crops=Crops(SIZE, scale=(0.5, 1.0), texture=2), seed=1)
    if kind == "side by side":
        return SideBySide(photos, crops=Crops(SIZE), seed=1)
    root = photos.parent / "pairs"
    for folder in ("blur", "sharp"):
        (root / folder).mkdir(parents=True)
        for i in range(3):
            images.write(images.Picture(texture(60, 50, seed=10 * len(folder) + i)), root / folder / f"{i}.png")
    pairs = PairedFolder(root, crops=Crops(SIZE), seed=1)
    return pairs if kind == "pairs" else Mixed(dataset("sharp", photos), pairs)


def assert_same(got: Batch, wanted: Batch) -> None:
    assert torch.equal(got.blurred.cpu(), wanted.blurred) and torch.equal(got.sharp.cpu(), wanted.sharp)
    assert (got.bad, got.small) == (wanted.bad, wanted.small)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("deblurgan-data")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not threads()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_are_those_of_their_steps(kind: str, workers: int, photos: Path) -> None:
    (photos / "broken.png").write_bytes(b"no picture")
    images.write(images.Picture(texture(20, 20)), photos / "small.png")
    data = dataset(kind, photos)
    steps = range(2, 9)
    wanted = [Batches(data, 3, seed=5)[step] for step in steps]
    data.cache = PictureCache()
    with Prefetcher(Batches(data, 3, seed=5), steps, CPU, workers=workers) as batches:
        got = list(batches)
    assert len(got) == 7
    for one, other in zip(got, wanted, strict=True):
        assert_same(one, other)
        assert one.sharp.shape == (3, 3, SIZE, SIZE) and one.sharp.dtype == torch.uint8
    if kind in ("sharp", "reduced"):
        assert set().union(*(batch.bad for batch in got)) == {"broken.png"}
        assert set().union(*(batch.small for batch in got)) == {"small.png"}


def test_spilled_pictures_give_the_same_batches(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "spill").mkdir()
    data = dataset("sharp", photos)
    wanted = [Batches(data, 2)[step] for step in range(8)]
    data.cache = PictureCache(0, spill=tmp_path / "spill", reserve=0)
    with Prefetcher(Batches(data, 2), range(8), CPU, workers=2) as batches:
        for got, one in zip(batches, wanted, strict=True):
            assert_same(got, one)
    assert data.cache.spilled_bytes == 4 * 72 * 96 * 3


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_made_ahead_and_not_further(workers: int, photos: Path) -> None:
    made: list[int] = []

    class Noted(Batches):
        def __getitem__(self, step: int) -> Batch:
            made.append(step)
            return super().__getitem__(step)

    ahead = 2 * workers + 1
    with Prefetcher(Noted(dataset("sharp", photos), 1), range(100), CPU, workers=workers) as batches:
        for taken in range(1, 4):
            next(batches)
            deadline = time.monotonic() + 30
            while len(made) < ahead + taken - 1 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.1)
            assert sorted(made) == list(range(ahead + taken - 1))


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_in_their_turn_with_their_text(workers: int, photos: Path) -> None:
    class Failing(Batches):
        def __getitem__(self, step: int) -> Batch:
            if step == 2:
                raise RuntimeError(f"no batch {step}")
            return super().__getitem__(step)

    with Prefetcher(Failing(dataset("sharp", photos), 1), range(6), CPU, workers=workers) as batches:
        next(batches)
        next(batches)
        with pytest.raises(RuntimeError, match="no batch 2"):
            next(batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_usable_picture_is_an_error(workers: int, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    batches = Prefetcher(Batches(SharpFolder(tmp_path), 1), range(6), CPU, workers=workers)
    with batches, pytest.raises(ValueError, match=r"found none of 1; a\.png: damaged"):
        next(batches)


def test_interrupt_ends_the_threads(photos: Path) -> None:
    batches = Prefetcher(Batches(dataset("sharp", photos), 1), range(100), CPU, workers=2)
    with pytest.raises(KeyboardInterrupt), batches:
        next(batches)
        assert threads()
        raise KeyboardInterrupt
    assert not threads()
    assert not list(batches), "a closed iterator has no batches"


def test_dropped_iterator_ends_its_threads(photos: Path) -> None:
    batches = Prefetcher(Batches(dataset("sharp", photos), 1), range(100), CPU, workers=2)
    next(batches)
    assert threads()
    del batches
    gc.collect()
    deadline = time.monotonic() + 30
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


def test_workers_are_counted(photos: Path) -> None:
    with pytest.raises(ValueError, match="workers must be at least 0, got -1"):
        Prefetcher(Batches(dataset("sharp", photos), 1), range(1), CPU, workers=-1)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
def test_gpu_gives_the_cpu_s_crops_and_is_not_waited_for(kind: str, workers: int, photos: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    device = torch.device("cuda", torch.cuda.current_device())
    if not ops.is_native(device):
        pytest.skip("deblurgan._C was built without CUDA")
    data = dataset(kind, photos)
    wanted = [Batches(data, 3)[step] for step in range(1, 9)]
    with Prefetcher(Batches(data, 3), range(1, 9), device, workers=workers) as batches:
        torch.cuda.set_sync_debug_mode("error")
        try:
            got = list(batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(got, wanted, strict=True):
        assert one.sharp.is_cuda and one.blurred.is_cuda
        assert torch.equal(one.sharp.cpu(), other.sharp)
        difference = (one.blurred.cpu().int() - other.blurred.int()).abs()
        assert difference.max() <= 1 and difference.double().mean() < 1e-3, "more than ties rounded the other way"
    with Prefetcher(Batches(data, 3), range(1, 9), device, workers=1 - min(workers, 1)) as again:
        for one, other in zip(got, again, strict=True):
            assert torch.equal(one.blurred, other.blurred)
