"""What a training says of itself: its first lines, progress, history and TensorBoard; and that it goes bad in no
silence."""

from __future__ import annotations

import csv
import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_progress import Clock, Terminal

import deblurgan
from deblurgan import cli, limits, losses
from deblurgan.checkpoint import load_tensors
from deblurgan.display import Display, counted
from deblurgan.training import Callback, DivergedError, ProgressBar, TrainingError
from deblurgan.training.history import COLUMNS, History, Stopwatch
from deblurgan.training.objective import MEASURES
from deblurgan.training.progress import Progress
from deblurgan.training.skipped_steps import SkippedSteps
from small_training import SMALL, history, trainer

PROGRAMS = Path(__file__).parent / "programs"


def measures(**given: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(given.get(name, 1.0)) for name in MEASURES}


# The opening


def test_the_first_lines_say_what_runs(photos: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    deblurgan.train(photos, out=tmp_path / "run", log=lines.append, **{**SMALL, "gan": "wgan-gp", "crop": 32})
    first = next(i for i, line in enumerate(lines) if line.startswith("step 1/6"))
    said = "\n".join(lines[:first])
    assert "3 pictures to train on, 1 to validate on" in said
    assert f"cpu ({counted(torch.get_num_threads(), 'thread')}), fp32: as asked for" in said
    assert "each step in plain torch" in said
    assert "generator of 0.00874 million parameters, critic of 2.76 million" in said
    assert "6 steps of 2 crops of 32 px, 3 epochs; validated every 3 steps and at the end" in said


# Progress


def test_lines_come_by_time_and_the_first_step_s_at_once() -> None:
    clock, said = Clock(), []
    progress = Progress(1000, clock=clock)
    clock.now = 100
    progress.begin_at(200)
    for step in range(201, 260):
        clock.now += 4 if step == 201 else 3
        progress.stepped(step)
        if progress.is_due(step):
            said.append((step, progress.line(step, {"pixel": 0.02, "tv": 0.0})))
    assert [step for step, _ in said] == [201, 205, 209, 213, 217, 221, 225, 229, 233, 237, 242, 247, 253, 259]
    assert said[0][1] == "step 201/1000  0.25 steps/s  ETA 53 min 16 s  pixel 0.0200"
    assert said[1][1] == "step 205/1000  0.33 steps/s  ETA 39 min 45 s  pixel 0.0200", "the first step was slower"


def test_slow_steps_are_given_in_seconds() -> None:
    clock = Clock()
    progress = Progress(10, clock=clock)
    clock.now = 40
    progress.stepped(1)
    assert progress.line(1, {}) == "step 1/10  40.0 s a step  ETA 6 min 00 s"


def test_a_long_validation_says_how_far_it_is() -> None:
    clock = Clock()
    progress = Progress(10, clock=clock)
    said = []
    for picture in range(1, 8):
        clock.now += 4
        said.append(progress.validation_line(picture, 16))
    assert [line for line in said if line] == ["validation: 3 of 16 pictures", "validation: 6 of 16 pictures"]


def test_a_bar_stands_in_for_the_lines_between_rows(photos: Path, tmp_path: Path) -> None:
    terminal, lines = Terminal(), []
    with Display(terminal, clock=Clock()) as display:
        bar = ProgressBar(display)
        options = {**SMALL, "log_every": 4}
        deblurgan.train(photos, out=tmp_path / "run", log=lines.append, callbacks=[bar], **options)
        display.above(lambda: None)
        assert " 100 %" in terminal.screen()[-1] and "  6/6  pixel 0." in terminal.screen()[-1]
        assert "  PSNR " in terminal.screen()[-1]
    assert [line.split()[1] for line in lines if "ETA" in line] == ["4/6", "6/6"]


def test_a_bar_that_goes_on_counts_the_time_from_there() -> None:
    clock, terminal = Clock(), Terminal()
    with Display(terminal, clock=clock) as display:
        clock.now = 1000
        display.begin_at(0.5)
        clock.now = 1010
        display(0.6, "  6/10")
        assert display.text() == " 60 %, about 40 s to go  6/10"


def test_a_narrow_terminal_gets_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: __import__("os").terminal_size((30, 24)))
    terminal = Terminal()
    with Display(terminal, clock=Clock()) as display:
        display(0.5, "  a note that is longer than the line")
        display.above(lambda: None)
        assert len(terminal.screen()[-1]) < 30


def test_print_is_flushed_at_once(photos: Path, tmp_path: Path) -> None:
    """Else a program whose output goes into a file would show nothing for hours."""
    program = f"""
import deblurgan, os
from deblurgan.training import Callback
class Stop(Callback):
    def on_step_end(self, trainer, values):
        if trainer.steps_done == 3:
            os._exit(0)
deblurgan.train({str(photos)!r}, out={str(tmp_path / "run")!r}, callbacks=[Stop()], **{SMALL!r})
"""
    out = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert "step 2/6" in out


# history.csv


def test_rows_say_what_the_machine_did(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, log=None, **SMALL)
    rows = [row for row in history(tmp_path) if row["pixel"]]
    for row in rows:
        assert float(row["images_per_s"]) > 0 and 0 <= float(row["data_wait"]) <= float(row["seconds"])
        assert float(row["generator_grad"]) > 0 and row["skipped"] == "0" and row["cuda_memory_mb"] == ""
        assert (float(row["memory_mb"]) > 50) == (limits.resident_memory() is not None)


def test_waiting_and_pauses_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("deblurgan.training.history.time.monotonic", clock)

    def batches() -> Any:
        for _ in range(3):
            clock.now += 2
            yield "batch"

    watch = Stopwatch()
    for _ in watch.waits(batches()):
        clock.now += 5
    with watch.pause():
        clock.now += 100
    assert watch.lap(42) == {"images_per_s": 2.0, "data_wait": 6.0, "seconds": 121.0}
    clock.now += 4
    assert watch.lap(42) == {"images_per_s": 10.5, "data_wait": 0.0, "seconds": 4.0}


def test_means_are_of_finite_values(tmp_path: Path) -> None:
    written = History(tmp_path / "history.csv", 0, print)
    for pixel, tv in ((1.0, math.nan), (math.nan, math.inf), (3.0, math.nan)):
        written.add(measures(pixel=pixel, tv=tv), pictures=2)
    row = written.write_means(3, epoch=0, lr=0.1, skipped=2)
    assert row["pixel"] == 2.0 and "tv" not in row and row["skipped"] == 2
    written.add(measures(), pictures=2)
    assert written.write_means(4, epoch=0, lr=0.1, skipped=5)["skipped"] == 3
    rows = list(csv.DictReader(io.StringIO((tmp_path / "history.csv").read_text())))
    assert [row["tv"] for row in rows] == ["", "1.0"]


def test_a_file_of_fewer_columns_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("step,epoch,lr,pixel,seconds,val_psnr\n2,0,0.1,0.5,3.0,\n2,,,,,25.0\n4,0,0.1,0.25,3.0,\n")
    written = History(path, 2, print)
    written.add(measures(pixel=0.125), pictures=1)
    written.write_means(4, epoch=0, lr=0.1, skipped=0)
    rows = list(csv.DictReader(path.open()))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["step"], row["pixel"], row["val_psnr"]) for row in rows] == [
        ("2", "0.5", ""),
        ("2", "", "25.0"),
        ("4", "0.125", ""),
    ]


# What is not finite


def test_skipped_steps_are_counted_and_said(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    run = trainer(photos, tmp_path)
    run.log = run.skipped.log = lines.append
    pixel = losses.pixel
    monkeypatch.setattr(
        losses, "pixel", lambda *words, **kind: pixel(*words, **kind) * (math.nan if run.steps_done in (2, 4) else 1)
    )
    run.fit()
    assert [row["skipped"] for row in history(tmp_path) if row["skipped"]] == ["0", "1", "1"]
    told = [line for line in lines if "not finite" in line]
    assert told == [
        "step 3: losses or gradients are not finite, update left out",
        "step 5: losses or gradients are not finite, update left out",
        "steps left out as not finite: 2 of 6",
    ]


def test_counts_start_again_after_a_good_step() -> None:
    skipped = SkippedSteps(2, lambda line: None)
    for step, count in enumerate((0, 1, 0, 1)):
        skipped.note(step, torch.tensor(count))
    assert skipped.total == 2 and skipped.summary(4) == "steps left out as not finite: 2 of 4"
    with pytest.raises(DivergedError, match="2 steps in a row were not finite, up to step 4"):
        skipped.note(4, torch.tensor(2))
    assert SkippedSteps(2, print).summary(4) is None


@pytest.mark.parametrize("which", ["generator", "average"])
def test_weights_that_are_not_finite_are_not_saved(which: str, photos: Path, tmp_path: Path) -> None:
    class Spoil(Callback):
        def on_step_end(self, trainer: deblurgan.Trainer, values: dict[str, torch.Tensor]) -> None:
            if trainer.steps_done == 4:
                getattr(trainer.networks, which).head.weight.data[0, 0, 0, 0] = math.nan

    with pytest.raises(DivergedError, match=rf"{which}.head.weight is not finite after step 4, which is not saved"):
        deblurgan.train(photos, out=tmp_path, log=None, callbacks=[Spoil()], **{**SMALL, "ema": 0.9, "val_every": 2})
    for name in ("best", "last", "state"):
        tensors, _ = load_tensors(tmp_path / f"{name}.safetensors")
        assert all(tensor.isfinite().all() for tensor in tensors.values()), name


def test_pictures_that_are_not_finite_are_no_best(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(photos, tmp_path)
    monkeypatch.setattr(run.networks.validated, "forward", lambda pictures: pictures * math.nan)
    (tmp_path / "samples").mkdir()
    row = run.validate()
    assert math.isnan(row["val_psnr"]) and row["blurred_psnr"] > 0
    assert not run.folder.best.exists()


def test_a_training_that_diverges_is_exit_3(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert issubclass(DivergedError, TrainingError)
    calls = []

    def pixel(restored: torch.Tensor, sharp: torch.Tensor, *, kind: str) -> torch.Tensor:
        calls.append(kind)
        return restored.square().mean() * (math.nan if len(calls) > 3 else 1)

    monkeypatch.setattr(losses, "pixel", pixel)
    words = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += ["--max-bad-steps", "2", "--val-every", "2"]
    assert cli.main(["train", str(photos), "-o", str(tmp_path / "run"), *words]) == 3
    assert "deblurgan: 2 steps in a row were not finite, up to step 5: the run folder" in capsys.readouterr().err
    assert load_tensors(tmp_path / "run" / "state.safetensors")[1]["step"] == "4"


def test_poison_at_every_place_reaches_no_file() -> None:
    """With --count 60 and other seeds it is a longer trial."""
    command = [sys.executable, str(PROGRAMS / "poison_steps.py"), "--count", "4", "--seed", "3"]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROGRAMS.parents[1]).stdout
    assert out.endswith("0 bad files\n")


# TensorBoard


def test_without_tensorboard_the_error_names_the_extra(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'deblurgan\[tensorboard\]'"):
        deblurgan.train(photos, out=tmp_path / "run", tensorboard=True, **SMALL)
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_rows_and_samples(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Cut(Callback):
        def on_step_end(self, trainer: deblurgan.Trainer, values: dict[str, torch.Tensor]) -> None:
            if trainer.steps_done == 6:
                raise RuntimeError("cut")

    options = {**SMALL, "steps": 8, "log_every": 1, "tensorboard": True}
    with pytest.raises(RuntimeError, match="cut"):
        deblurgan.train(photos, out=tmp_path, log=None, callbacks=[Cut()], **options)
    deblurgan.train(photos, out=tmp_path, log=None, **options)  # from step 3 on
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [event.step for event in found.Scalars("pixel")] == [1, 2, 3, 4, 5, 6, 7, 8]
    rows = [float(row["pixel"]) for row in history(tmp_path) if row["pixel"]]
    assert [event.value for event in found.Scalars("pixel")] == pytest.approx(rows)
    assert [event.step for event in found.Scalars("val_psnr")] == [3, 6, 8]
    assert [event.step for event in found.Images("samples")] == [3, 6, 8]
    assert not [name for name in found.Tags()["scalars"] if name in ("step", "seconds")]
