"""What is free is the least of what the machine has and what each limit leaves, wherever a system shows them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import deblurgan
from deblurgan import Deblurrer, limits
from deblurgan.config import BlurConfig
from deblurgan.data.blurred_sets import write_blurred
from deblurgan.limits import FreeMemory, available_memory
from deblurgan.nn import Generator

UNLIMITED = 2**63 - 4096  # what version 1 shows where there is no limit


class Machine:
    """A /proc and mounted control groups below a folder."""

    def __init__(self, root: Path) -> None:
        self.proc, self.root, self.mounts = root / "proc", root, list[str]()
        (self.proc / "self").mkdir(parents=True)
        self.write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
        self.write("proc/self/statm", "100 50 20 10 0 70 0\n")
        self.mount("proc", at="proc")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def mount(self, kind: str, *, at: str, root: str = "/", options: str = "rw") -> None:
        point = str(self.root / at).replace(" ", r"\040")
        self.mounts.append(f"35 31 0:32 {root} {point} rw,relatime shared:9 - {kind} {kind} {options}\n")
        self.write("proc/self/mountinfo", "".join(self.mounts))

    def group(self, path: str, **files: int | str) -> None:
        """A control group's files; `memory_max` is memory.max."""
        for name, value in files.items():
            self.write(f"{path}/{name.replace('memory_', 'memory.')}", f"{value}\n")

    def free(self) -> FreeMemory:
        found = available_memory(self.proc)
        assert found is not None
        return found

    def source(self) -> str:
        return str(Path(self.free().source).relative_to(self.root))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "a machine")


def test_without_limits_it_is_what_the_machine_has(machine: Machine) -> None:
    machine.mount("cgroup2", at="cgroup")
    machine.write("proc/self/cgroup", "0::/session\n")
    machine.group("cgroup/session", memory_max="max", memory_high="max", memory_current=5000)
    assert machine.free() == FreeMemory(8000 * 1024, "MemAvailable in /proc/meminfo")


def test_a_system_without_proc_reports_nothing(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None


@pytest.mark.parametrize("limit", ["memory_max", "memory_high"])
def test_version_2_counts_the_groups_limit(machine: Machine, limit: str) -> None:
    machine.mount("cgroup2", at="cgroup")
    machine.write("proc/self/cgroup", "0::/batch/job 1\n")
    machine.group(
        "cgroup/batch/job 1", memory_current=3000, memory_stat="anon 1000\ninactive_file 400", **{limit: 5000}
    )
    assert (machine.free().bytes, machine.source()) == (2400, f"cgroup/batch/job 1/{limit.replace('_', '.')}")


def test_version_1_counts_the_groups_limit(machine: Machine) -> None:
    machine.mount("cgroup", at="cgroup/cpu", options="rw,cpu,cpuacct")
    machine.mount("cgroup", at="cgroup/memory", options="rw,memory")
    machine.write("proc/self/cgroup", "5:cpu,cpuacct:/other\n4:memory:/job\n")
    stat = "inactive_file 9\ntotal_inactive_file 400"
    machine.group("cgroup/memory", memory_limit_in_bytes=UNLIMITED, memory_usage_in_bytes=9000)
    machine.group("cgroup/memory/job", memory_limit_in_bytes=5000, memory_usage_in_bytes=3000, memory_stat=stat)
    assert (machine.free().bytes, machine.source()) == (2400, "cgroup/memory/job/memory.limit_in_bytes")


def test_hybrid_mounts_count_both_versions(machine: Machine) -> None:
    machine.mount("cgroup2", at="cgroup/unified")
    machine.mount("cgroup", at="cgroup/memory", options="rw,memory")
    machine.write("proc/self/cgroup", "4:memory:/job\n1:name=systemd:/job\n0::/job\n")
    (machine.root / "cgroup/unified/job").mkdir(parents=True)
    machine.group("cgroup/memory/job", memory_limit_in_bytes=5000, memory_usage_in_bytes=1000)
    assert machine.free().bytes == 4000


def test_the_tightest_of_the_groups_above_counts(machine: Machine) -> None:
    machine.mount("cgroup2", at="cgroup")
    machine.write("proc/self/cgroup", "0::/user.slice/user-1.slice/run.scope\n")
    machine.group("cgroup/user.slice", memory_max=7000, memory_current=6500)
    machine.group("cgroup/user.slice/user-1.slice/run.scope", memory_max=6000, memory_current=1000)
    assert (machine.free().bytes, machine.source()) == (500, "cgroup/user.slice/memory.max")


@pytest.mark.parametrize(
    ("root", "path"),
    [
        ("/", "/"),  # a namespace of its own
        ("/docker/1a2b", "/docker/1a2b"),  # the host's paths, and a mount of this group alone
        ("/", "/docker/1a2b"),  # the host's path beside a mount that does not show it
        ("/../..", "/"),  # mounted from outside of the namespace
        ("/", "/../../elsewhere"),  # moved out of the namespace
    ],
)
def test_a_container_counts_the_group_that_it_sees(machine: Machine, root: str, path: str) -> None:
    machine.mount("cgroup2", at="cgroup", root=root)
    machine.write("proc/self/cgroup", f"0::{path}\n")
    machine.group("cgroup", memory_max=5000, memory_current=1000)
    machine.group("elsewhere", memory_max=2000, memory_current=1000)  # where ".." would lead
    assert machine.free().bytes == 4000


def test_what_is_used_beyond_a_limit_leaves_nothing(machine: Machine) -> None:
    machine.mount("cgroup2", at="cgroup")
    machine.write("proc/self/cgroup", "0::/\n")
    machine.group("cgroup", memory_max=5000, memory_current=6000)
    assert machine.free().bytes == 0


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process are counted on Linux")
@pytest.mark.parametrize(("name", "pages"), [("RLIMIT_AS", 100), ("RLIMIT_DATA", 70)])
def test_a_process_limit_counts(machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str, pages: int) -> None:
    import resource

    limit = {getattr(resource, name): 2**20}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit.get(which, resource.RLIM_INFINITY), 0))
    assert machine.free() == FreeMemory(2**20 - pages * resource.getpagesize(), name)


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with 70 MiB left."""
    free = FreeMemory(70 * 2**20, "a test")
    monkeypatch.setattr(limits, "available_memory", lambda: free)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def deblurrer() -> Deblurrer:
    torch.manual_seed(0)
    return Deblurrer(Generator("tiny", width=4, blocks=1), device="cpu", dtype="fp32")


def test_a_batch_goes_on_after_a_picture_that_needs_more_than_is_free(
    deblurrer: Deblurrer, scarce: None, tmp_path: Path
) -> None:
    """The large one is refused by its header: the file has no pixels."""
    for name, size in (("a.bmp", (400, 400)), ("b.png", (40, 40))):
        Image.new("RGB", size, "grey").save(tmp_path / name)
    (tmp_path / "a.bmp").write_bytes((tmp_path / "a.bmp").read_bytes()[:60])
    report = deblurrer.files([tmp_path], tmp_path / "out")
    assert [path.name for path in report.done] == ["b.png"]
    ((source, reason),) = report.failed
    assert source.name == "a.bmp"
    assert reason == "picture of 400x400: it needs 10 MiB in the smallest strips, 6 MiB are left of 70 MiB (a test)"


def test_a_picture_too_large_to_blur_is_refused_by_its_header(scarce: None, tmp_path: Path) -> None:
    for name, size in (("a.bmp", (1200, 1000)), ("b.png", (40, 40))):
        Image.new("RGB", size, "grey").save(tmp_path / name)
    (tmp_path / "a.bmp").write_bytes((tmp_path / "a.bmp").read_bytes()[:60])
    report = write_blurred(BlurConfig(inputs=(tmp_path,), out=tmp_path / "out"))
    assert [path.name for path in report.done] == ["b.png"]
    ((_, reason),) = report.failed
    assert reason == "picture of 1200x1000 needs about 73 MiB, 70 MiB are free (a test)"


def test_the_result_of_a_large_batch_counts(deblurrer: Deblurrer, scarce: None) -> None:
    x = torch.zeros(1, 3, 16, 16)
    assert deblurrer(x).shape == x.shape
    with pytest.raises(MemoryError, match="needs 10 MiB in the smallest strips, 0 MiB are left of 70 MiB"):
        deblurrer(x.expand(20_000, -1, -1, -1))


def test_bytes_that_the_user_allows_count_as_they_are(scarce: None) -> None:
    deblurrer = Deblurrer(Generator("tiny", width=4, blocks=1), device="cpu", dtype="fp32", max_memory=2**30)
    assert deblurrer(np.zeros((400, 400, 3), np.uint8)).shape == (400, 400, 3)


def test_info_shows_what_is_free_and_by_which_limit(scarce: None) -> None:
    lines = dict(line.split(":", 1) for line in deblurgan.info().splitlines())
    assert lines["memory"].strip() == "70 MiB free, by a test"


@pytest.mark.parametrize(("suffix", "size"), [(".webp", (16_384, 4)), (".jpg", (4, 65_501))])
def test_a_side_too_long_for_the_format_is_refused_before_any_work(
    deblurrer: Deblurrer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str, size: tuple[int, int]
) -> None:
    Image.new("RGB", size).save(tmp_path / "long.png")
    monkeypatch.setattr(Generator, "forward", None)
    with pytest.raises(deblurgan.ImageError, match="pixels a side"):
        deblurrer.file(tmp_path / "long.png", tmp_path / f"out{suffix}")
