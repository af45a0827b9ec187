"""What ends a training early: signals, and a terminal that has closed. Nothing of it loses the run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import deblurgan
from deblurgan import checkpoint
from deblurgan.checkpoint import files
from small_training import SMALL, trainer

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


def test_a_signal_before_the_first_step_saves_that_step(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, **LONG)
    note = run.left_out.note
    run.left_out.note = lambda batch: (os.kill(os.getpid(), signal.SIGTERM), note(batch))[1]  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        run.fit()
    assert step_of(tmp_path) == 1


def test_a_signal_during_a_validation_saves_its_step(photos: Path, tmp_path: Path) -> None:
    options = {**LONG, "val_every": 2}
    with pytest.raises(SystemExit):
        deblurgan.train(photos, out=tmp_path, log=on_line("step 2: validation", signal.SIGHUP), **options)
    assert step_of(tmp_path) == 2 and (tmp_path / "best.safetensors").exists()


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
