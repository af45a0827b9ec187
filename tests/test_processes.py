"""A folder shared by two processes, which talk over gloo as those of torchrun do."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from side_by_side import pytestmark, side_by_side  # noqa: F401

from deblurgan import Deblurrer, Generator, cli, save_generator
from deblurgan.distributed import Processes
from deblurgan.inference.processes import share


@pytest.fixture
def weights(small_generator: Generator, tmp_path: Path) -> Path:
    save_generator(small_generator, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_processes_write_what_one_writes_and_report_it_once(photos: Path, weights: Path, tmp_path: Path) -> None:
    (photos / "deep").mkdir()
    (photos / "3.png").rename(photos / "deep" / "3.png")
    (photos / "bad.png").write_bytes(b"none")
    (photos / "film.mp4").touch()
    words = ["deblur", str(photos), "-m", str(weights), "--device", "cpu", "--compare"]
    torch.set_num_threads(1)
    assert cli.main([*words, "-o", str(tmp_path / "one")]) == 1
    codes, said = side_by_side(tmp_path, lambda rank: cli.main([*words, "-o", str(tmp_path / "two")]))
    assert codes == [1, 1], said
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert len(contents(tmp_path / "one")) == 8
    assert [text.count("4 written, 0 left out, 1 failed") for text in said] == [1, 0]
    assert [text.count("1 video (.mp4; ") for text in said] == [1, 0]
    lines = [line for text in said for line in text.splitlines() if "/5] " in line]
    assert len(lines) == len(set(lines)) == 5
    assert min(text.count("/5] ") for text in said) == 2  # both had work


def test_the_first_one_s_mistake_is_everyone_s(photos: Path, weights: Path, tmp_path: Path) -> None:
    words = ["deblur", str(tmp_path / "nowhere"), "-o", str(tmp_path / "out"), "-m", str(weights)]
    codes, said = side_by_side(tmp_path, lambda rank: cli.main(words))
    assert codes == [2, 2]
    assert all("inputs must exist" in text for text in said)


def test_a_process_that_is_killed_ends_the_other_with_a_message(photos: Path, weights: Path, tmp_path: Path) -> None:
    def work(rank: int) -> int:
        if rank == 1:
            Deblurrer._at_scale = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        return cli.main(["deblur", str(photos), "-o", str(tmp_path / "out"), "-m", str(weights), "--device", "cpu"])

    codes, said = side_by_side(tmp_path, work)
    assert codes == [1, -signal.SIGKILL]
    assert "another process of this run has ended before its work was done; --skip-existing goes on" in said[0]
    assert sorted(contents(tmp_path / "out")) == ["0.png", "2.png"]


def test_sigterm_as_by_torchrun_is_an_interruption(photos: Path, weights: Path, tmp_path: Path) -> None:
    def work(rank: int) -> int:
        Deblurrer._at_scale = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)  # type: ignore[assignment]
        return cli.main(["deblur", str(photos), "-o", str(tmp_path / "out"), "-m", str(weights), "--device", "cpu"])

    codes, said = side_by_side(tmp_path, work)
    assert codes == [143, 143]
    assert all("interrupted: what is written is whole" in text for text in said)


def jobs(*targets: str) -> list[Any]:
    return [SimpleNamespace(target=Path(target)) for target in targets]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_each_job_is_done_by_exactly_one(count: int) -> None:
    all_jobs = jobs(*(f"{i}.png" for i in range(10)))
    shares = [share(all_jobs, Processes(rank, count)) for rank in range(count)]
    assert sorted((job for share in shares for job in share), key=all_jobs.index) == all_jobs
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_names_that_a_disk_may_take_for_one_fall_to_one_process() -> None:
    same = jobs("a/X.png", "a/x.PNG", "caf\xe9.png", "cafe\u0301.png")
    assert [job.target.name for job in share(same, Processes(0, 2))] == ["X.png", "x.PNG"]
    assert len(share(same, Processes(1, 2))) == 2
