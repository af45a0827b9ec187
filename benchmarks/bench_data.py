"""Training batches from JPEG files: how many a second, the first time round and later, and the host's part alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from harness import Work, measure
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.utils.data import DataLoader

from deblurgan.data import Batch, Batches, Crops, Plan, SharpFolder
from deblurgan.data.cache import PictureCache
from deblurgan.data.crops import finish_crops, pack_plans
from deblurgan.data.prefetch import Prefetcher

FILES, HEIGHT, WIDTH = 12, 1500, 2000
STEP_S = 2.5e-3  # a training step on a fast GPU, which batches of 1 have to keep up with
CPU = torch.device("cpu")
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=NO_CUDA)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG files with edges and some grain."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for i in range(FILES):
        coarse = Image.fromarray(random.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
        grainy = np.clip(smooth + random.normal(0, 5, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(grainy).save(folder / f"{i}.jpg", quality=92)
    return folder


def batches_of(photos: Path, batch: int, cache: PictureCache | None = None) -> Batches:
    return Batches(SharpFolder(photos, crops=Crops(256), cache=cache), batch)


def warm(batches: Batches) -> Batches:
    """The same, every file decoded."""
    for index in range(len(batches.dataset)):
        batches.dataset.plan(index, epoch=0)
    return batches


def pictures_of(made: list[Batch]) -> Tensor:
    return torch.cat([part for batch in made for part in (batch.blurred, batch.sharp)])


def crops_of(planned: list[tuple[list[Plan], Tensor]]) -> Tensor:
    return torch.cat([part for plans, packed in planned for part in finish_crops(plans, packed)])


def steps_for(batch: int) -> range:
    return range(max(4, 48 // batch))


def facts(batches: Batches, decoded: int = 0) -> dict[str, object]:
    """What one batch takes: its regions are read and its crops written, and `decoded` bytes of pictures before it."""
    packed = pack_plans(batches.plan(0).crops).nbytes
    crops = 2 * 3 * 256 * 256 * batches.batch_size
    return {"pictures": batches.batch_size, "work": Work(multiply_adds=0, bytes=packed + crops + decoded)}


def against_a_step(benchmark: BenchmarkFixture) -> None:
    """How many batches are made in the time of a training step: 1 or more keep it busy."""
    if benchmark.enabled:
        info = benchmark.extra_info
        info["batches_per_step"] = STEP_S * info["calls"] / benchmark.stats.stats.median


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", [1, 16])
def bench_first_epoch(benchmark: BenchmarkFixture, photos: Path, batch: int, device: str, workers: int) -> None:
    steps = range(FILES if batch == 1 else 2)
    known = warm(batches_of(photos, batch))

    def first() -> list[Batch]:
        with Prefetcher(batches_of(photos, batch), steps, torch.device(device), workers=workers) as made:
            return list(made)

    measure(
        benchmark,
        first,
        pictures_of([known[step] for step in steps]).to(device),
        group=f"data first epoch, batch {batch}, {device}",
        path=f"ours, {workers} threads" if workers else "ours",
        tolerance=0.0 if device == "cpu" else 1e-3,
        compared=pictures_of,
        calls=len(steps),
        **facts(known, FILES * HEIGHT * WIDTH * 3 // len(steps)),
    )
    against_a_step(benchmark)


@pytest.mark.parametrize("path", ["ours", "ours, 2 threads", "ours, from the file", "2 processes"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", [1, 16])
def bench_warm(benchmark: BenchmarkFixture, photos: Path, tmp_path: Path, batch: int, device: str, path: str) -> None:
    steps = steps_for(batch)
    cache = PictureCache(0, spill=tmp_path) if path == "ours, from the file" else None
    batches = warm(batches_of(photos, batch, cache))
    if path == "2 processes" and device == "cuda":
        pytest.skip("a process of the loader has no CUDA context")
    loader = DataLoader(batches, batch_size=None, sampler=steps, num_workers=2, persistent_workers=True)

    def later() -> list[Batch]:
        if path == "2 processes":
            return list(loader)
        with Prefetcher(batches, steps, torch.device(device), workers=2 if path == "ours, 2 threads" else 0) as made:
            return list(made)

    measure(
        benchmark,
        later,
        pictures_of([batches[step] for step in steps]).to(device),
        group=f"data warm, batch {batch}, {device}",
        path=path,
        tolerance=0.0 if device == "cpu" else 1e-3,
        compared=pictures_of,
        calls=len(steps),
        **facts(batches),
    )
    against_a_step(benchmark)


@pytest.mark.parametrize("batch", [1, 16])
def bench_host_part(benchmark: BenchmarkFixture, photos: Path, batch: int) -> None:
    """Planning and packing, all that is left to the host where a GPU blurs, but for the queueing of its kernels."""
    steps, batches = steps_for(batch), warm(batches_of(photos, batch))

    def planned() -> list[tuple[list[Plan], Tensor]]:
        plans = [batches.plan(step).crops for step in steps]
        return [(crops, pack_plans(crops)) for crops in plans]

    packed = sum(part.nbytes for _, part in planned()) // len(steps)
    measure(
        benchmark,
        planned,
        pictures_of([batches[step] for step in steps]),
        group=f"data host part, batch {batch}",
        path="ours",
        tolerance=0.0,
        compared=crops_of,
        calls=len(steps),
        pictures=batch,
        work=Work(multiply_adds=0, bytes=2 * packed),
    )
    against_a_step(benchmark)
