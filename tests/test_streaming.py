"""Pictures of any size within a budget of memory: the same result, by a plan that holds, whatever runs out."""

from __future__ import annotations

import errno
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import texture
from deblurgan import Deblurrer, Generator
from deblurgan.checkpoint import DEFAULT_WEIGHTS, load_generator
from deblurgan.generator.strips import Shape
from deblurgan.inference import deblurrer as deblurrers
from deblurgan.inference import planes, plans, streaming
from deblurgan.inference import restorer as restorers
from deblurgan.inference.plans import Limits, StripPlan
from deblurgan.limits import FreeMemory, lies_in_memory

CPU = torch.device("cpu")


@pytest.fixture
def small_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of few rows, for every picture of more than 32 x 32."""
    monkeypatch.setattr(plans, "STRIP_BYTES", {"cpu": 2**13})
    monkeypatch.setattr(plans, "CODE_BYTES", 0)
    monkeypatch.setattr(restorers, "WHOLE_PIXELS", 32 * 32)


def deblurrer_of(generator: Generator, **options: Any) -> Deblurrer:
    return Deblurrer(generator, device="cpu", **({"dtype": "fp32"} | options))


def whole(generator: Generator, picture: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(restorers, "WHOLE_PIXELS", 2**40)
        deblurrer = deblurrer_of(generator, **options)
        assert deblurrer.plan(*picture.shape[:2]).strips is None
        return deblurrer(picture)


# The same result


def test_strips_give_what_the_whole_picture_gives(small_strips: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the shipped network, within budgets from what it would like to what it needs at least."""
    generator, numbers, seen = load_generator(DEFAULT_WEIGHTS), random.Random(0), set()
    for i in range(5):
        h, w = numbers.randrange(40, 64), numbers.randrange(40, 64)
        picture = texture(h, w, seed=i)
        smallest = Shape(generator.spec, -(-h // 4) * 4, -(-w // 4) * 4, 4, 4)
        budget = int(plans.heap_bytes(smallest, torch.float32) * numbers.uniform(1.1, 1.6))
        deblurrer = deblurrer_of(generator, max_memory=budget)
        plan = deblurrer.plan(h, w)
        assert plan.strips is not None
        assert plan.peak_bytes <= budget
        seen |= set(plan.strips.places)
        wanted = whole(generator, picture / 255, monkeypatch)
        np.testing.assert_allclose(deblurrer(picture / 255), wanted, atol=1e-4, rtol=0)
        assert np.abs(deblurrer(picture).astype(int) - whole(generator, picture, monkeypatch)).max() <= 1
    assert seen == {"device", "disk"}


@pytest.mark.parametrize("h, w", [(1, 300), (300, 1), (5, 7), (33, 50), (64, 48)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_any_size_and_kind(
    small_strips: None, small_generator: Generator, h: int, w: int, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restorers, "WHOLE_PIXELS", 0)
    pixels = texture(h, w)
    picture = pixels if kind == np.uint8 else pixels.astype(kind) * 257 if kind == np.uint16 else pixels / kind(255)
    for one in (picture, picture[..., :1], picture[..., 0]):
        got, wanted = deblurrer_of(small_generator)(one), whole(small_generator, one, monkeypatch)
        assert (got.shape, got.dtype) == (one.shape, one.dtype)
        white = {np.uint8: 255, np.uint16: 65535}.get(kind, 1)
        assert np.abs(got / white - wanted / white).max() <= 1e-4 + (white > 1) / white
        assert np.abs(got / white - one / white).mean() > 0.01


@pytest.mark.parametrize("border", ["reflect", "zero"])
def test_a_small_picture_of_a_deep_network_can_be_mirrored(small_strips: None, border: Any, monkeypatch: Any) -> None:
    generator, picture = Generator("tiny", width=2, blocks=1, downsamplings=3, border=border), texture(5, 40) / 255
    wanted = whole(generator, picture, monkeypatch)
    monkeypatch.setattr(restorers, "WHOLE_PIXELS", 0)
    np.testing.assert_allclose(deblurrer_of(generator)(picture), wanted, atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("error")
def test_a_tensor_that_records_gradients_is_a_picture(small_generator: Generator) -> None:
    picture = torch.rand(3, 20, 30)
    restored = deblurrer_of(small_generator)(picture.clone().requires_grad_())
    assert not restored.requires_grad
    assert torch.equal(restored, deblurrer_of(small_generator)(picture))


def test_16_bits_are_restored_as_such(small_generator: Generator) -> None:
    deep = texture(30, 40).astype(np.uint16) * 257 + np.arange(40, dtype=np.uint16)[:, None] * 5
    restored = deblurrer_of(small_generator)(deep)
    exact = deblurrer_of(small_generator)(deep / 65535)
    assert np.abs(restored - exact * 65535).max() <= 0.51
    assert len(np.unique(restored % 257)) > 200
    torch.nn.init.zeros_(small_generator.head.weight)
    torch.nn.init.zeros_(small_generator.head.bias)
    for dtype in ("fp32", "bf16"):
        assert np.array_equal(deblurrer_of(small_generator, dtype=dtype)(deep), deep)


def test_tensors_of_a_batch_go_one_after_another(small_strips: None, small_generator: Generator) -> None:
    batch = torch.stack([torch.from_numpy(texture(40, 50, seed=i)).permute(2, 0, 1) for i in range(3)])
    deblurrer, shares = deblurrer_of(small_generator), list[float]()
    restored = deblurrer(batch, progress=shares.append)
    for x, y in zip(batch, restored, strict=True):
        assert torch.equal(deblurrer(x), y)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_a_gpu_takes_as_many_pictures_at_a_time_as_fit_and_pay(small_generator: Generator) -> None:
    deblurrer = deblurrer_of(small_generator)
    one = plans.StreamPlan(512, 512, "it fits", 2**20)
    roomy, tight = (Limits(size, "") for size in (2.0**40, 2.5 * 512 * 512 * deblurrer.restorer.bytes_per_pixel))
    assert deblurrer.restorer.at_once(one, roomy) == 1
    deblurrer.restorer.device = torch.device("cuda")
    assert [deblurrer.restorer.at_once(one, limits) for limits in (roomy, tight, Limits(0, ""))] == [16, 2, 1]
    deblurrer.restorer.seed = 0  # each picture has the masks of the first
    assert deblurrer.restorer.at_once(one, roomy) == 1


def test_threads_give_what_one_gives(small_strips: None, small_generator: Generator) -> None:
    pictures = [texture(20 + i % 17, 25 + i % 11, seed=i) for i in range(60)]
    deblurrer = deblurrer_of(small_generator)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(deblurrer, pictures))
    for picture, result in zip(pictures, results, strict=True):
        assert deblurrer(picture).tobytes() == result.tobytes()


# Plans


def test_a_smaller_budget_cuts_smaller_then_stores_less_then_leaves_memory(small_generator: Generator) -> None:
    spec, found = small_generator.spec, list[StripPlan]()
    for budget in (2.0**i for i in np.arange(28, 23.6, -0.02)):
        plan = plans.plan_strips(spec, (600, 800), torch.float32, CPU, Limits(budget, ""))
        assert plan.peak_bytes <= budget
        if not found or plan != found[-1]:
            found.append(plan)
    ways = [(plan.shape.keep, plan.most("disk") > 0) for plan in found]
    assert list(dict.fromkeys(ways)) == [(1, False), (2, False), (2, True)]
    for way in ((1, False), (2, False)):
        rows = [plan.shape.rows for plan, each in zip(found, ways, strict=True) if each == way]
        assert rows == sorted(rows, reverse=True)
    assert len({plan.shape.rows for plan in found}) > 2
    with pytest.raises(MemoryError, match=r"needs \d+ MiB in the smallest strips, so little"):
        plans.plan_strips(spec, (600, 800), torch.float32, CPU, Limits(2**20, "so little"))


def test_a_full_disk_costs_time_then_is_named(small_generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    size, limits = (600, 800), Limits(2.0**23.8, "")
    monkeypatch.setattr(planes, "free_disk", lambda folder: 2**40)
    roomy = plans.plan_strips(small_generator.spec, size, torch.float32, CPU, limits)
    monkeypatch.setattr(planes, "free_disk", lambda folder: roomy.most("disk") - 1)
    tight = plans.plan_strips(small_generator.spec, size, torch.float32, CPU, limits)
    assert (roomy.shape.keep, tight.shape.keep) == (2, 4)
    monkeypatch.setattr(planes, "free_disk", lambda folder: 0)
    with pytest.raises(MemoryError, match="MiB of disk are needed, 0 MiB are free in"):
        plans.plan_strips(small_generator.spec, size, torch.float32, CPU, Limits(plans.CODE_BYTES * 1.2, ""))


def test_a_plan_says_in_lines_what_will_be_done(small_generator: Generator) -> None:
    small = deblurrer_of(small_generator, max_memory=10**9).plan(60, 80)
    assert str(small).splitlines()[:2] == [
        "picture  80x60, 0.0 megapixels, at scale 1.0",
        "way      whole: it fits",
    ]
    looked_at = str(Deblurrer(small_generator, device="cpu").plan(2000, 3000)).splitlines()[0]
    assert looked_at == "picture  3000x2000, 6.0 megapixels, at scale 1, or less where its blur is wide"
    deblurrer = deblurrer_of(small_generator, max_memory=20 * 2**20)
    large, whole = deblurrer.plan(2000, 3000), round(2000 * 3000 * deblurrer.restorer.bytes_per_pixel / 2**20)
    lines = str(large).splitlines()
    assert lines[1] == f"way      in strips of 20 rows, 8 passes: whole it needs {whole} MiB, max_memory is 20 MiB"
    assert lines[2] == "plane    down.0: 46 MiB in a temporary file"
    assert lines[-1].endswith(f"{large.bytes_per_pixel:.0f} bytes a pixel, 92 MiB of disk")
    with pytest.raises(ValueError, match="h and w must be at least 1, got 0 and 5"):
        deblurrer_of(small_generator).plan(0, 5)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"stochastic": True}, "stochastic=True draws dropout for a whole picture"),
        ({"compile": True}, "compile=True compiles the network for a whole picture"),
    ],
)
def test_what_takes_whole_pictures_alone_says_so_where_they_do_not_fit(
    options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deblurrers, "why_no_compile", lambda device: None)
    dropout = 0.5 if "stochastic" in options else 0.0
    deblurrer = deblurrer_of(Generator("tiny", width=4, blocks=1, dropout=dropout), max_memory=10**6, **options)
    with pytest.raises(MemoryError, match=rf"picture of 90x80: whole it needs 1 MiB, max_memory is 1 MiB, and {words}"):
        deblurrer(texture(80, 90))


def test_auto_leaves_half_of_the_free_memory_to_others(small_generator: Generator, monkeypatch: Any) -> None:
    monkeypatch.setattr(restorers, "free_memory", lambda device: FreeMemory(2**26 + 2**25, "a test"))
    plan = deblurrer_of(small_generator).plan(1000, 1500)
    assert plan.strips is not None
    assert plan.strips.most("device") <= 2**24


# Where planes lie


def test_a_file_plane_has_no_name_and_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "spill_folder", lambda size: tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        plane = planes.FilePlane((6, 5, 3), dtype, CPU)
        rows = torch.randn(6, 3, 5).to(dtype).transpose(1, 2)
        plane.write(2, rows[2:6])
        plane.write(0, rows[:2])
        assert torch.equal(plane.read(1, 5), rows[1:5])
        assert list(tmp_path.iterdir()) == []
        file = plane.file
        del plane
        assert file.closed


def test_a_file_that_ends_too_early_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "spill_folder", lambda size: tmp_path)
    with pytest.raises(OSError, match="the temporary file ends before row 3"):
        planes.FilePlane((6, 5, 3), torch.float32, CPU).read(0, 3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it is of Linux")
def test_a_disk_that_fills_up_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "spill_folder", lambda size: tmp_path)
    monkeypatch.setattr(planes.tempfile, "TemporaryFile", lambda **options: FileIO("/dev/full", "r+"))
    with pytest.raises(OSError, match=rf"No space left .* temporary file in {tmp_path}: TMPDIR") as raised:
        planes.FilePlane((6, 5, 3), torch.float32, CPU).write(0, torch.zeros(6, 5, 3))
    assert raised.value.errno == errno.ENOSPC


def test_folders_for_files_have_room_and_are_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes.tempfile, "gettempdir", lambda: str(tmp_path))
    free = {tmp_path: 3 * 2**20, planes.LARGE_FILES: 9 * 2**20}
    monkeypatch.setattr(planes, "free_disk", free.__getitem__)
    monkeypatch.setattr(planes, "lies_in_memory", lambda folder: False)
    assert planes.spill_folder(2 * 2**20) == tmp_path
    assert planes.spill_folder(5 * 2**20) == planes.LARGE_FILES
    monkeypatch.setattr(planes, "lies_in_memory", lambda folder: folder == tmp_path)
    assert planes.spill_folder(2 * 2**20) == planes.LARGE_FILES
    words = rf"20 MiB of disk are needed, {tmp_path} lies in memory, 9 MiB are free in /var/tmp: TMPDIR names another"
    with pytest.raises(MemoryError, match=words):
        planes.spill_folder(20 * 2**20)


def test_a_folder_lies_in_memory_where_the_last_mount_there_says_so(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    lines = ["/ / rw - ext4 /dev/a rw", r"/ /a\040b rw - tmpfs t rw", r"/ /a\040b/c rw - ext4 /dev/b rw"]
    (tmp_path / "self/mountinfo").write_text("".join(f"35 31 0:32 {line}\n" for line in lines))
    found = [lies_in_memory(Path(path), tmp_path) for path in ("/", "/x", "/a b", "/a b/d", "/a b/c/d")]
    assert found == [False, False, True, True, False]


# When memory runs out


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """Makes the allocations of these numbers fail, counted over planes, windows and convolutions."""
    real_empty, real_mmap, real_conv = torch.empty, planes.mmap.mmap, torch.nn.functional.conv2d

    def fail(*numbers: int) -> list[str]:
        seen: list[str] = []

        def counted(name: str, real: Any, error: Exception) -> Any:
            def call(*args: Any, **options: Any) -> Any:
                seen.append(name)
                if len(seen) in numbers:
                    raise error
                return real(*args, **options)

            return call

        monkeypatch.setattr(torch, "empty", counted("empty", real_empty, RuntimeError("you: not enough memory")))
        monkeypatch.setattr(planes.mmap, "mmap", counted("plane", real_mmap, OSError(errno.ENOMEM, "no memory")))
        conv = counted("conv", real_conv, RuntimeError("could not create a memory object"))
        monkeypatch.setattr(torch.nn.functional, "conv2d", conv)
        return seen

    yield fail
    monkeypatch.undo()


def by_strips(deblurrer: Deblurrer, picture: np.ndarray, rows: int = 8) -> np.ndarray:
    source = torch.from_numpy(picture).permute(2, 0, 1)
    result = torch.empty_like(source).fill_(255)
    limits = Limits(10**9, "", rows=rows)
    h, w = picture.shape[:2]
    with torch.no_grad():
        deblurrer.restorer.in_strips(
            source, result, deblurrer.restorer.strips_plan(h, w, limits), limits, lambda share: None
        )
    return result.permute(1, 2, 0).numpy()


def test_memory_that_runs_out_anywhere_costs_another_try_and_no_strip(
    small_generator: Generator, failing: Callable[..., list[str]]
) -> None:
    deblurrer, picture = deblurrer_of(small_generator), texture(16, 12)
    wanted = by_strips(deblurrer, picture)
    count = len(failing())
    seen = failing()
    by_strips(deblurrer, picture)
    count = len(seen)
    assert {"empty", "plane", "conv"} == set(seen)
    for number in range(2, count + 1, 3):  # the first is the result's
        failing(number)
        with pytest.warns(UserWarning, match="memory ran out: a picture starts again") as warned:
            got = by_strips(deblurrer, picture)
        assert len(warned) == 1
        assert np.abs(got.astype(int) - wanted).max() <= 1, seen[number - 1]


@pytest.mark.filterwarnings("ignore:memory ran out")
def test_strips_are_halved_then_planes_leave_memory_then_it_is_given_up(
    small_generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[StripPlan] = []

    def run(plan: StripPlan, **_: Any) -> None:
        tried.append(plan)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(streaming, "run", run)
    with pytest.raises(MemoryError, match="memory ran out in the smallest strips, of 4 rows"):
        by_strips(deblurrer_of(small_generator), texture(64, 48), rows=32)
    assert [plan.shape.rows for plan in tried[:4]] == [32, 16, 8, 4]
    in_memory = [plan.most("device") for plan in tried[3:]]
    assert in_memory == sorted(in_memory, reverse=True)
    assert len(set(in_memory)) == len(in_memory)
    assert in_memory[-1] == 0


def test_a_plane_without_memory_goes_to_a_file(small_generator: Generator, failing: Callable[..., list[str]]) -> None:
    plan = plans.plan_strips(small_generator.spec, (16, 16), torch.float32, CPU, Limits(10**9, "", rows=8))
    error = planes.PlaneMemoryError(0)
    limits = streaming.narrower(Limits(10**9, "", rows=8), plan, error)
    assert limits.planes == plan.bytes_of(0) - 1


@pytest.mark.filterwarnings("ignore:memory ran out")
def test_a_whole_picture_that_runs_out_goes_on_in_strips(
    small_generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    deblurrer, picture = deblurrer_of(small_generator), texture(40, 50)
    wanted = deblurrer(picture)

    def fail(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(deblurrer.restorer, "_whole", fail)
    assert np.abs(deblurrer(picture).astype(int) - wanted).max() <= 1
    monkeypatch.setattr(deblurrer.restorer, "seed", 0)
    with pytest.raises(MemoryError, match=r"picture of 50x40: memory ran out: CUDA out of memory, and stochastic=True"):
        deblurrer(picture)


LIMITED = """
import resource, sys, warnings
import numpy as np, torch
from deblurgan import Deblurrer, Generator
torch.set_num_threads(1)
torch.manual_seed(0)
generator = Generator("tiny", width=32, blocks=0)
picture = np.random.default_rng(0).integers(0, 256, (768, 1024, 3), dtype=np.uint8)
deblurrer = Deblurrer(generator, device="cpu", dtype="fp32", max_memory=2**32)
wanted = deblurrer(picture)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 92 * 2**20, resource.RLIM_INFINITY))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    restored = deblurrer(picture)
assert [str(warning.message)[:15] for warning in caught] == ["memory ran out:"], caught
assert np.abs(restored.astype(int) - wanted).max() <= 1
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is of Linux")
def test_a_process_whose_memory_is_limited_gets_there() -> None:
    subprocess.run([sys.executable, "-c", LIMITED], check=True)


# Progress, and what ends it


def test_what_progress_raises_ends_the_call_and_closes_files(
    small_strips: None, small_generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[Any] = []
    made = planes.tempfile.TemporaryFile

    def kept(**options: Any) -> Any:
        files.append(made(**options))
        return files[-1]

    monkeypatch.setattr(planes.tempfile, "TemporaryFile", kept)
    deblurrer = deblurrer_of(small_generator, max_memory=60_000)
    assert "disk" in deblurrer.plan(60, 50).strips.places  # type: ignore[union-attr]
    shares: list[float] = []

    def stop(share: float) -> None:
        shares.append(share)
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deblurrer(texture(60, 50), progress=stop)
    assert shares[-1] < 0.6
    assert files
    assert all(file.closed for file in files)
    assert deblurrer(texture(60, 50)).shape == (60, 50, 3)


@pytest.mark.parametrize("size", [(20, 20), (50, 60)])
def test_what_overflows_half_precision_is_computed_again_in_fp32(
    small_strips: None, small_generator: Generator, size: tuple[int, int]
) -> None:
    with torch.no_grad():
        small_generator.down[0].weight.mul_(5e5)  # InstanceNorm undoes it in fp32
    picture = texture(*size)
    half, shares = deblurrer_of(small_generator, dtype="fp16"), list[float]()
    with pytest.warns(UserWarning, match=r"not finite in torch\.float16: computed again in fp32"):
        restored = half(picture, progress=shares.append)
    assert np.abs(restored.astype(int) - deblurrer_of(small_generator)(picture)).max() <= 2
    assert shares[-1] == pytest.approx(1)


def test_what_overflows_fp32_fails_with_the_reason(small_strips: None, small_generator: Generator) -> None:
    torch.nn.init.constant_(small_generator.head.bias, float("nan"))
    for size in ((20, 20), (50, 60)):
        with pytest.raises(FloatingPointError, match=r"values that are not finite in torch\.float32"):
            deblurrer_of(small_generator)(texture(*size))


@pytest.mark.parametrize("scale", [0, -1, 2, "half", float("nan")])
def test_wrong_scales_are_refused(small_generator: Generator, scale: Any) -> None:
    with pytest.raises(ValueError, match="scale must be 'auto' or above 0 and up to 1, got"):
        deblurrer_of(small_generator, scale=scale)
