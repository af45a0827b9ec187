"""What ends a training early: signals, and a terminal that has closed. Nothing of it loses the run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import deblurgan
from deblurgan import checkpoint
from deblurgan.checkpoint import files
from deblurgan.signals import StopRequest
from small_training import SMALL, history, same, trainer

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONG = {**SMALL, "steps": 40, "log_every": 1, "val_every": 40}


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Each test leaves the handlers that it found."""
    before = [signal.getsignal(number) for number in HANDLED]
    yield
    for number, handler in zip(HANDLED, before, strict=True):
        assert signal.signal(number, handler) is handler


def step_of(out: Path) -> int:
    return int(checkpoint.load_tensors(out / "state.safetensors")[1]["step"])


def on_line(start: str, *numbers: int) -> Callable[[str], None]:
    """A log that sends this process the signals at a line that begins so."""

    def log(line: str) -> None:
        if line.startswith(start):
            for number in numbers:
                os.kill(os.getpid(), number)

    return log


@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGTERM], [signal.SIGHUP], [signal.SIGHUP, signal.SIGHUP], [signal.SIGHUP, signal.SIGINT]],
    ids=["SIGTERM", "SIGHUP", "SIGHUP twice", "SIGHUP and SIGINT"],
)
def test_a_signal_saves_then_ends_the_program_with_the_shells_code(
    numbers: list[int], photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as caught:
        deblurgan.train(photos, out=tmp_path, log=on_line("step 3/", *numbers), **LONG)
    assert caught.value.code == 128 + numbers[0]
    assert step_of(tmp_path) == 3


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_saves_however_often_it_comes(times: int, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        deblurgan.train(photos, out=tmp_path, log=on_line("step 3/", *[signal.SIGINT] * times), **LONG)
    assert step_of(tmp_path) == 3


def test_what_is_ignored_stays_ignored(photos: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        result = deblurgan.train(photos, out=tmp_path, log=on_line("step 3/", signal.SIGHUP), **{**LONG, "steps": 5})
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.steps == 5


def test_a_signal_before_the_first_step_saves_the_start(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, **LONG)
    note = run.left_out.note
    run.left_out.note = lambda batch: (os.kill(os.getpid(), signal.SIGTERM), note(batch))[1]  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        run.fit()
    assert step_of(tmp_path) == 0
    assert deblurgan.train(photos, out=tmp_path, **{**LONG, "steps": 3}).steps == 3


def test_a_signal_before_the_first_step_leaves_a_run_that_was_to_be_replaced(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    before = [path.read_bytes() for path in sorted(tmp_path.glob("*.*"))]
    begins = on_line("cpu (", signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        deblurgan.train(photos, out=tmp_path, log=begins, **SMALL, resume=False)
    assert caught.value.code == 143
    assert [path.read_bytes() for path in sorted(tmp_path.glob("*.*"))] == before


@pytest.mark.parametrize("number, ends", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGHUP, SystemExit)])
def test_a_signal_while_pictures_are_found_ends_at_once(
    number: int, ends: type[BaseException], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(*args: object) -> None:
        os.kill(os.getpid(), number)
        pytest.fail("goes on")

    monkeypatch.setattr("deblurgan.training.trainer.open_picture_sets", find)
    with pytest.raises(ends):
        deblurgan.train(photos, out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


def test_a_signal_during_a_validation_saves_its_step(photos: Path, tmp_path: Path) -> None:
    options = {**LONG, "val_every": 2}
    with pytest.raises(SystemExit):
        deblurgan.train(photos, out=tmp_path, log=on_line("step 2: validation", signal.SIGHUP), **options)
    assert step_of(tmp_path) == 2 and (tmp_path / "best.safetensors").exists()


def test_a_validation_that_is_broken_off_is_made_when_the_run_goes_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out, lines = tmp_path / "whole", tmp_path / "run", []
    deblurgan.train(photos, out=whole, **SMALL)
    run = trainer(photos, out)
    whole_picture = run.val_set.whole

    def interrupted(index: int) -> object:
        if run.steps_done == 6:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("goes on")
        return whole_picture(index)

    monkeypatch.setattr(run.val_set, "whole", interrupted)
    with pytest.raises(SystemExit):
        run.fit()
    assert step_of(out) == 6 and [row["step"] for row in history(out)] == ["2", "3", "4", "6"]
    deblurgan.train(photos, out=out, log=lines.append, **SMALL)
    assert [line.split(":")[0] for line in lines if "validation PSNR" in line] == ["step 6"]
    figures = [[row["val_psnr"] for row in history(folder)] for folder in (out, whole)]
    assert figures[0] == figures[1]
    for name in ("best", "state"):
        assert same(*(checkpoint.load_tensors(folder / f"{name}.safetensors")[0] for folder in (out, whole)))


@pytest.mark.parametrize(
    "where, options",
    [("backward", {"ema": 0.9}), ("end", {"gan": "wgan-gp", "critic_steps": 2, "crop": 32})],
    ids=["within the backward pass", "after all updates"],
)
def test_a_slow_step_is_broken_off_and_as_if_it_had_not_begun(
    where: str, options: dict[str, Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**options, "steps": 2, "val_every": 4, "keep": 1}
    whole = trainer(photos, tmp_path / "whole", **options)
    whole.fit()
    run = trainer(photos, tmp_path / "run", **options)
    note, restore = run.skipped.note, run.one_step.restore

    def stop(steps_done: int) -> None:
        if run.steps_done == steps_done:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("goes on")

    def restored(blurred: Tensor) -> Tensor:
        pictures = restore(blurred)
        pictures.register_hook(lambda gradient: stop(1))
        return pictures

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("deblurgan.training.stopping.SLOW_STEP", 0.0)
        if where == "backward":
            patch.setattr(run.one_step, "restore", restored)
        else:
            patch.setattr(run.skipped, "note", lambda *values: (note(*values), stop(2)))
        run.fit()
    assert step_of(tmp_path / "run") == 1
    again = trainer(photos, tmp_path / "run", **options)
    again.fit()
    assert same(again.state_dict(), whole.state_dict())


def test_a_second_ctrl_c_ends_at_once_without_saving(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is no echo of the first: a terminal and a parent process may both send one."""
    lines: list[str] = []
    monkeypatch.setattr(StopRequest, "REPEATED", 0.0)
    log = on_line("step 3/", signal.SIGINT, signal.SIGINT)

    def heard(line: str) -> None:
        lines.append(line)
        log(line)

    with pytest.raises(KeyboardInterrupt):
        deblurgan.train(photos, out=tmp_path, log=heard, **LONG)
    assert step_of(tmp_path) == 1
    assert lines[-1] == "SIGINT: saves, then stops, and a second Ctrl-C ends at once without saving"


def test_a_signal_while_a_state_is_written_leaves_a_whole_one(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = files.replace_file

    def interrupted(path: Path, data: bytes) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        replace(path, data)

    monkeypatch.setattr(files, "replace_file", interrupted)
    with pytest.raises(SystemExit):
        deblurgan.train(photos, out=tmp_path, **LONG)
    assert step_of(tmp_path) == 1
    monkeypatch.undo()
    assert deblurgan.train(photos, out=tmp_path, **{**LONG, "steps": 3}).steps == 3


@pytest.mark.parametrize("error", [BrokenPipeError, OSError(5, "Input/output error")], ids=["pipe", "terminal"])
def test_a_log_that_cannot_be_written_ends_nothing(error: OSError, photos: Path, tmp_path: Path) -> None:
    def log(line: str) -> None:
        raise error

    assert deblurgan.train(photos, out=tmp_path, log=log, **SMALL).steps == SMALL["steps"]


def test_training_runs_in_any_thread(photos: Path, tmp_path: Path) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(deblurgan.train(photos, out=tmp_path, **SMALL)))
    thread.start()
    thread.join()
    assert results[0].steps == SMALL["steps"]
