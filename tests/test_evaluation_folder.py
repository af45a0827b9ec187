"""An evaluation's folder: it goes on where it was interrupted, is for one evaluation alone, and loses nothing."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from side_by_side import pytestmark, side_by_side  # noqa: F401

from conftest import texture
from deblurgan import Deblurrer, Generator, cli, distributed, evaluate, images, save_generator
from deblurgan.evaluation.judge import Judge
from deblurgan.evaluation.records import Record
from deblurgan.evaluation.report import Report
from deblurgan.evaluation.store import Store, StoreError

FILES = ("report.json", "figures.csv", "report.html")
FEW: dict[str, Any] = {"metrics": "psnr", "kernels": 1, "exposure": 1.0}


@pytest.fixture
def deblurrer(small_generator: Generator) -> Deblurrer:
    return Deblurrer(small_generator, device="cpu", dtype="fp32")


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that are measured."""
    names: list[str] = []
    record = Judge.record

    def noted(self: Judge, index: int) -> Record:
        names.append(self.protocol.pictures()[index])
        return record(self, index)

    monkeypatch.setattr(Judge, "record", noted)
    return names


def at_picture(number: int, act: Callable[[], Any]) -> None:
    """Has the picture of that number, from 0, do something before it is measured. For forks and monkeypatch alike."""
    record = Judge.record

    def acting(self: Judge, index: int) -> Record:
        if index == number:
            act()
        return record(self, index)

    Judge.record = acting  # type: ignore[method-assign]


def bytes_of(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in FILES]


def ended(work: Callable[[], Any]) -> int | None:
    """The exit code of work in a process of its own."""

    def run() -> None:
        torch.set_num_threads(1)
        os._exit(work() or 0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    return process.exitcode


def test_a_killed_evaluation_goes_on_and_ends_as_an_undisturbed_one(
    deblurrer: Deblurrer, photos: Path, tmp_path: Path, judged: list[str]
) -> None:
    def killed() -> None:
        at_picture(2, lambda: os.kill(os.getpid(), signal.SIGKILL))
        evaluate(deblurrer, photos, out=tmp_path / "killed", **FEW)

    assert ended(killed) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "report.json").exists()
    lines: list[str] = []
    report = evaluate(deblurrer, photos, out=tmp_path / "killed", warn=lines.append, **FEW)
    assert judged == ["2.png", "3.png"]
    assert lines == ["2 of 4 pictures were measured before"]
    assert report == evaluate(deblurrer, photos, out=tmp_path / "whole", **FEW)
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    assert Report.from_json(tmp_path / "whole" / "report.json") == report
    before = bytes_of(tmp_path / "whole")
    judged.clear()
    evaluate(deblurrer, photos, out=tmp_path / "whole", **FEW)
    assert (judged, bytes_of(tmp_path / "whole")) == ([], before)


def test_what_is_cut_short_damaged_changed_or_failed_is_measured_again(
    deblurrer: Deblurrer, photos: Path, tmp_path: Path, judged: list[str]
) -> None:
    (photos / "bad.png").write_bytes(b"none")
    evaluate(deblurrer, photos, out=tmp_path / "out", **FEW)
    records = tmp_path / "out" / "records" / "0.jsonl"
    first, second, third, fourth, bad = records.read_bytes().splitlines(keepends=True)
    assert json.loads(bad)["failed"]
    other = second.replace(b'"psnr": ', b'"psnr": 1', 1)
    assert json.loads(other)["rows"][0]["figures"] != json.loads(second)["rows"][0]["figures"]
    records.write_bytes(first + other + third + bad + fourth[:-30])
    os.utime(photos / "2.png", ns=(1, 1))
    images.write(images.Picture(texture(30, 40)), photos / "bad.png")
    judged.clear()
    report = evaluate(deblurrer, photos, out=tmp_path / "out", **FEW)
    assert judged == ["1.png", "2.png", "3.png", "bad.png"]
    assert report.failed == []
    assert len(records.read_bytes().splitlines()) == 5


@pytest.mark.parametrize(
    "other, words",
    [
        ({"exposure": 0.5}, "another blur"),
        ({"metrics": "ssim"}, "another metrics"),
        ({"baselines": ("unsharp",)}, "another systems"),
    ],
)
def test_a_folder_of_another_evaluation_is_refused_unless_it_may_start_anew(
    deblurrer: Deblurrer, photos: Path, tmp_path: Path, judged: list[str], other: dict[str, Any], words: str
) -> None:
    out = tmp_path / "out"
    evaluate(deblurrer, photos, out=out, **FEW)
    before = bytes_of(out)
    with pytest.raises(ValueError, match=f"out holds an evaluation with {words}.*overwrite=True starts anew"):
        evaluate(deblurrer, photos, out=out, **{**FEW, **other})
    assert bytes_of(out) == before
    judged.clear()
    report = evaluate(deblurrer, photos, out=out, overwrite=True, **{**FEW, **other})
    assert len(judged) == 4
    assert Report.from_json(out / "report.json") == report


def test_other_weights_and_pictures_are_another_evaluation(
    small_generator: Generator, deblurrer: Deblurrer, photos: Path, tmp_path: Path
) -> None:
    evaluate(deblurrer, photos, out=tmp_path / "out", **FEW)
    with torch.no_grad():
        small_generator.head.bias += 1
    with pytest.raises(ValueError, match="another sha256, weights"):
        evaluate(Deblurrer(small_generator, device="cpu", dtype="fp32"), photos, out=tmp_path / "out", **FEW)
    (photos / "3.png").rename(photos / "4.png")
    with pytest.raises(ValueError, match="another pictures"):
        evaluate(deblurrer, photos, out=tmp_path / "out", **FEW)


def test_records_without_their_settings_count_for_nothing(
    deblurrer: Deblurrer, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judged: list[str]
) -> None:
    evaluate(deblurrer, photos, out=tmp_path / "out", **FEW)

    def interrupted(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(images, "replace_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(deblurrer, photos, out=tmp_path / "out", overwrite=True, seed=1, **FEW)
    judged.clear()
    report = evaluate(deblurrer, photos, out=tmp_path / "out", seed=1, **FEW)
    assert len(judged) == 4
    assert report == evaluate(deblurrer, photos, seed=1, **FEW)


def test_pictures_that_were_saved_inside_the_data_are_not_measured(
    deblurrer: Deblurrer, photos: Path, judged: list[str]
) -> None:
    report = evaluate(deblurrer, photos, out=photos / "out", save_pictures=True, **FEW)
    judged.clear()
    lines: list[str] = []
    assert evaluate(deblurrer, photos, out=photos / "out", save_pictures=True, log=lines.append, **FEW) == report
    assert judged == []
    assert lines[0].startswith("left out 12 pictures that deblurgan made to be looked at, such as ")
    saved = evaluate(deblurrer, photos / "out" / "pictures", protocol="pairs", metrics="psnr", log=lines.append)
    assert len(saved.rows) == 4


def test_a_name_too_long_for_a_saved_picture_fails_that_picture(
    deblurrer: Deblurrer, photos: Path, tmp_path: Path
) -> None:
    (photos / "3.png").rename(photos / f"{'x' * 250}.png")
    report = evaluate(deblurrer, photos, out=tmp_path / "out", save_pictures=True, **FEW)
    assert len(report.rows) == 3
    assert [failure.picture[:3] for failure in report.failed] == ["xxx"]
    assert (tmp_path / "out" / "report.json").exists()


def test_names_that_are_no_utf_8_do_not_stop_the_reports(deblurrer: Deblurrer, tmp_path: Path) -> None:
    name = b"\xff".decode("utf-8", "surrogateescape")
    for folder in ("blur", "sharp"):
        (tmp_path / "data" / "test" / name / folder).mkdir(parents=True)
        images.write(images.Picture(texture(20, 24)), tmp_path / "data" / "test" / name / folder / "1.png")
    compare = {name: tmp_path / "data" / "test" / name / "sharp"}
    evaluate(deblurrer, tmp_path / "data", "psnr", compare=compare, out=tmp_path / "out")
    head, row = (tmp_path / "out" / "figures.csv").read_text("utf-8").splitlines()
    assert head == r"picture,sequence,blurred_psnr,restored_psnr,\xff_psnr"
    assert row.startswith(r"test/\xff/blur/1.png,\xff,100.000000,")


def test_reports_of_something_else_and_no_folder_are_refused(
    deblurrer: Deblurrer, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.html").write_text("a training's")
    with pytest.raises(FileExistsError, match=r"report\.html exists"):
        evaluate(deblurrer, photos, out=tmp_path / "run", **FEW)
    assert (tmp_path / "run" / "report.html").read_text() == "a training's"
    with pytest.raises(NotADirectoryError, match="out must be a folder, got"):
        evaluate(deblurrer, photos, out=tmp_path / "run" / "report.html", **FEW)
    with pytest.raises(ValueError, match="save_pictures needs out"):
        evaluate(deblurrer, photos, save_pictures=True, **FEW)


def test_a_folder_is_for_one_evaluation_at_a_time(deblurrer: Deblurrer, photos: Path, tmp_path: Path) -> None:
    with Store(tmp_path / "out").held(), pytest.raises(ValueError, match="another evaluation is at work in"):
        evaluate(deblurrer, photos, out=tmp_path / "out", **FEW)
    evaluate(deblurrer, photos, out=tmp_path / "out", **FEW)


def test_a_full_disk_is_named_and_loses_nothing(
    deblurrer: Deblurrer, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judged: list[str]
) -> None:
    def full(path: Any, data: Any, *rest: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        fsync, synced = os.fsync, []

        def third(handle: int) -> None:
            synced.append(handle)
            if len(judged) == 3:
                full(None, None)
            fsync(handle)

        patch.setattr(os, "fsync", third)
        with pytest.raises(StoreError, match=r"out cannot be written: No space left on device; its disk has .* MB"):
            evaluate(deblurrer, photos, out=tmp_path / "out", **FEW)
    with monkeypatch.context() as patch:
        patch.setattr("deblurgan.evaluation.judge.save_picture", full)
        with pytest.raises(StoreError, match="pictures cannot be written: No space left"):
            evaluate(deblurrer, photos, out=tmp_path / "saved", save_pictures=True, **FEW)
    judged.clear()
    evaluate(deblurrer, photos, out=tmp_path / "out", **FEW)
    assert judged[-1] == "3.png"
    assert (tmp_path / "out" / "report.json").exists()


def test_progress_runs_to_1(deblurrer: Deblurrer, photos: Path) -> None:
    shares: list[float] = []
    evaluate(deblurrer, photos, progress=shares.append, **FEW)
    assert shares == [0.25, 0.5, 0.75, 1.0]


@pytest.fixture
def words(small_generator: Generator, photos: Path, tmp_path: Path) -> list[str]:
    """A command but for its folder."""
    save_generator(small_generator, tmp_path / "w.safetensors")
    few = ["--kernels", "1", "--exposure", "1.0", "--metrics", "psnr"]
    return ["evaluate", str(photos), "-m", str(tmp_path / "w.safetensors"), "--device", "cpu", "--dtype", "fp32", *few]


def test_a_signal_keeps_what_is_measured(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], judged: list[str]
) -> None:
    words += ["-o", str(tmp_path / "out")]

    def interrupted() -> int:
        at_picture(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        return cli.main(words)

    assert ended(interrupted) == 143
    said = capfd.readouterr().err
    assert said == "interrupted: what is measured is kept, and the same command goes on from there\n"
    assert cli.main(words) == 0
    said = capfd.readouterr()
    assert "1 of 4 pictures were measured before" in said.err
    assert "[1/4]" not in said.out + said.err
    assert judged == ["1.png", "2.png", "3.png"]
    assert cli.main([*words, "--seed", "1"]) == 2
    assert "--overwrite starts anew" in capfd.readouterr().err


def test_two_processes_give_the_bytes_of_one_and_one_that_dies_ends_the_other(
    words: list[str], photos: Path, tmp_path: Path, judged: list[str]
) -> None:
    (photos / "bad.png").write_bytes(b"none")
    assert cli.main([*words, "-o", str(tmp_path / "one")]) == 1

    def both(rank: int) -> int:
        code = cli.main([*words, "-o", str(tmp_path / "two")])
        if rank == 1:
            at_picture(3, lambda: os._exit(7))
        return 10 * code + cli.main([*words, "-o", str(tmp_path / "dies")])

    codes, said = side_by_side(tmp_path, both)
    assert codes == [11, 7], said
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")
    assert (said[0].count("restored "), said[1].count("restored ")) == (2, 0)
    message = "another process of this run has ended before its work was done; the same command goes on from here"
    assert message in said[0]
    judged.clear()
    assert cli.main([*words, "-o", str(tmp_path / "dies")]) == 1
    assert judged == ["3.png", "bad.png"]
    assert bytes_of(tmp_path / "dies") == bytes_of(tmp_path / "one")


def test_processes_with_other_pictures_are_refused(deblurrer: Deblurrer, photos: Path) -> None:
    class Two(distributed.Processes):
        def gathered(self, results: list[Any]) -> list[Any]:
            return [*results, "other"]

    with pytest.raises(ValueError, match="data must hold the same pictures for all processes"):
        evaluate(deblurrer, photos, processes=Two(), **FEW)
