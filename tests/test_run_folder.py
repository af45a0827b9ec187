"""The run folder: what a run leaves there, and whom it lets go on."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock

import deblurgan
from deblurgan import checkpoint, images
from deblurgan.checkpoint import files
from deblurgan.config import TrainConfig, from_mapping, train_config
from deblurgan.training import SaveError, TrainingError
from deblurgan.training.run_folder import RunFolder
from deblurgan.training.validation import validate
from picture_folders import write
from small_training import SMALL, history, same, trainer


def test_run_folder(photos: Path, tmp_path: Path) -> None:
    out, lines = tmp_path / "run", []
    result = deblurgan.train(photos, out=out, log=lines.append, **SMALL)
    assert result.steps == 6 and result.out == out and result.best_psnr > 10
    config = from_mapping(TrainConfig, yaml.safe_load((out / "config.yaml").read_text()))
    assert config == train_config(photos, out=out, **SMALL, dropout=0.0)
    rows = history(out)
    assert [row["step"] for row in rows] == ["2", "3", "4", "6", "6"]
    assert [row["step"] for row in rows if row["val_psnr"]] == ["3", "6"]
    assert all(float(row["pixel"]) > 0 for row in rows if row["pixel"])
    assert sorted(path.name for path in (out / "samples").iterdir()) == ["0000003.png", "0000006.png"]
    assert images.read(out / "samples" / "0000006.png").pixels.shape[1] == 3 * 96
    for name in ("best", "last"):
        assert checkpoint.load_generator(out / f"{name}.safetensors").spec.width == 4
    assert any("ETA" in line and "step 4/6" in line for line in lines)
    assert sorted(path.name for path in out.iterdir()) == [
        *(".lock", "best.safetensors", "config.yaml", "history.csv", "last.safetensors"),
        *("report.html", "samples", "state-0000003.safetensors", "state.safetensors"),
    ]


HOLD = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


def test_two_runs_cannot_share_a_folder_and_a_killed_one_holds_it_no_more(photos: Path, tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / ".lock")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    left = tmp_path / ".0123456789abcdef.tmp"
    left.write_bytes(b"of the run at work")
    try:
        with pytest.raises(TrainingError, match="out must be a folder of its own, another run is at work in"):
            deblurgan.train(photos, out=tmp_path, **SMALL)
        assert left.exists() and not list(tmp_path.glob("*.safetensors"))
    finally:
        child.kill()
        child.communicate()
    (tmp_path / "samples").mkdir()
    others = [tmp_path / ".note.tmp", tmp_path / "samples" / ".0123456789abcdeg.tmp"]
    for path in (tmp_path / "samples" / ".fedcba9876543210.tmp", *others):
        path.write_bytes(b"")
    deblurgan.train(photos, out=tmp_path, **SMALL)
    assert sorted(path for path in tmp_path.rglob(".*") if path.name != ".lock") == others


def test_a_file_system_without_locks_is_trained_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock(lock: FileLock) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", no_lock)
    left = tmp_path / ".0123456789abcdef.tmp"
    left.write_bytes(b"of a run that may be at work")
    assert deblurgan.train(photos, out=tmp_path, **SMALL).steps == 6
    assert left.exists()


NO_FCNTL = """
import sys
sys.modules["fcntl"] = None
import json, deblurgan
print(deblurgan.train(sys.argv[1], out=sys.argv[2], log=None, **json.loads(sys.argv[3])).steps)
"""


def test_training_needs_no_fcntl(photos: Path, tmp_path: Path) -> None:
    options = json.dumps({**SMALL, "steps": 2})
    words = [sys.executable, "-c", NO_FCNTL, str(photos), str(tmp_path), options]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "2\n"


def test_finished_run_stays_finished(photos: Path, tmp_path: Path) -> None:
    first = deblurgan.train(photos, out=tmp_path, **SMALL)
    again = deblurgan.train(photos, out=tmp_path, **SMALL)
    assert again.steps == 6 and again.best_psnr == first.best_psnr
    longer = deblurgan.train(photos, out=tmp_path, **{**SMALL, "steps": 8})
    assert longer.steps == 8


def test_another_run_s_folder_is_refused(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="out holds a run with another lr, seed"):
        deblurgan.train(photos, out=tmp_path, **{**SMALL, "lr": 0.1, "seed": 4})
    (photos / "9.png").write_bytes((photos / "0.png").read_bytes())
    with pytest.raises(ValueError, match="data holds other pictures"):
        deblurgan.train(photos, out=tmp_path, **{**SMALL, "steps": 8})
    assert deblurgan.train(photos, out=tmp_path, **{**SMALL, "seed": 4, "resume": False}).steps == 6


def test_a_run_of_an_older_version_goes_on(photos: Path, tmp_path: Path) -> None:
    """Options that it did not know have their defaults, the preset's among them."""
    run = trainer(photos, tmp_path / "run", steps=2)
    run.fit()
    tensors, metadata = checkpoint.load_tensors(run.folder.state)
    config = json.loads(metadata["config"])
    for name in ("blur_realism", "mix_scale", "ema", "blur_noise", "init", "losses"):
        del config[name]
    older = {name: value for name, value in metadata.items() if name not in ("validated", "alone")}
    checkpoint.save_tensors(tensors, run.folder.state, metadata={**older, "config": json.dumps(config)})
    again = trainer(photos, tmp_path / "run", steps=3)
    again.resume()
    assert (again.steps_done, again.saved.validated_at) == (2, 2)
    with pytest.raises(ValueError, match="a run with another blur_realism, ema:"):
        trainer(photos, tmp_path / "run", steps=3, ema=0.5, blur_realism="camera").resume()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stop_at(start: str) -> Callable[[str], None]:
    def log(line: str) -> None:
        if line.startswith(start):
            raise KeyboardInterrupt

    return log


@pytest.mark.parametrize(
    "options, error",
    [({"crop": 4096}, ValueError), ({"data": "broken"}, ValueError), ({"val": "missing"}, OSError)],
    ids=["crop", "pictures", "validation"],
)
def test_a_run_that_cannot_begin_anew_leaves_the_old_one(
    options: dict[str, Any], error: type[Exception], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    deblurgan.train(photos, out="run", **SMALL)
    before = contents(tmp_path / "run")
    Path("broken").mkdir()
    for name in "abc":
        Path("broken", f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(error):
        deblurgan.train(**{"data": photos, "out": "run", **SMALL, "resume": False, "init": "run", **options})
    assert contents(tmp_path / "run") == before


def test_a_new_run_replaces_the_old_one_whole_with_its_first_save(photos: Path, tmp_path: Path) -> None:
    run, note = tmp_path / "run", tmp_path / "run" / "samples" / "note.png"
    deblurgan.train(photos, out=run, **SMALL)
    old = contents(run)
    note.write_bytes(b"mine")
    options = {**SMALL, "seed": 4, "resume": False, "init": run / "best.safetensors", "log_every": 1}
    with pytest.raises(KeyboardInterrupt):
        deblurgan.train(photos, out=run, log=stop_at("step 1/"), **options)
    new = contents(run)
    names = {path.name for path in new}
    assert names == {".lock", "state.safetensors", "last.safetensors", "history.csv", "config.yaml", "note.png"}
    assert not {data for data in old.values() if data} & set(new.values())
    assert [row["step"] for row in history(run)] == ["1"]
    result = deblurgan.train(photos, out=run, **{**options, "resume": True})
    assert result.steps == 6, "though the old best, its init, is gone"


def test_a_kill_between_two_runs_leaves_the_new_one(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: RunFolder) -> None:
        raise KeyboardInterrupt

    deblurgan.train(photos, out=tmp_path / "run", **SMALL)
    options = {**SMALL, "seed": 4}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "forget_all_but_state", killed)
        deblurgan.train(photos, out=tmp_path / "run", **options, resume=False)
    again = trainer(photos, tmp_path / "run", **options)
    again.resume()
    assert again.steps_done == 1 and not again.folder.best.exists() and not again.folder.last.exists()
    wanted = deblurgan.train(photos, out=tmp_path / "whole", **options)
    got = deblurgan.train(photos, out=tmp_path / "run", **options)
    assert same(got.generator.state_dict(), wanted.generator.state_dict()) and got.best_psnr == wanted.best_psnr


def test_weights_without_a_state_are_not_replaced_unasked(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL, keep=1)
    (tmp_path / "state.safetensors").unlink()
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="out holds weights of a run that cannot be gone on with"):
        deblurgan.train(photos, out=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="out holds weights of a run that cannot be gone on with"):
        trainer(photos, tmp_path).save()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("how", ["another folder", "changed files", "more pictures"])
def test_the_best_figure_belongs_to_its_pictures(how: str, photos: Path, tmp_path: Path) -> None:
    """Flat pictures blur to themselves and give high figures; those of textures stay below."""
    easy, out, lines = tmp_path / "easy", tmp_path / "run", []
    for i in range(2):
        write(easy / f"{i}.png", seed=i)
        images.write(images.Picture(np.full((40, 40, 3), 90, np.uint8)), easy / f"{i}.png")
    options = {**SMALL, "val": easy}
    first = deblurgan.train(photos, out=out, **options)
    if how == "another folder":
        options["val"] = photos
    elif how == "changed files":
        write(easy / "0.png", seed=0)
    else:
        write(easy / "1.png", seed=1)
        options["val_pictures"] = 2
    second = deblurgan.train(photos, out=out, log=lines.append, **{**options, "steps": 8})
    assert second.best_psnr < first.best_psnr
    assert [line for line in lines if line.startswith("other validation pictures: the best so far gives ")]
    run = trainer(photos, out, **options)
    found = validate(
        second.generator, run.val_set, run.config.val_pictures, precision="fp32", leave_out=lambda name, reason: None
    )
    assert second.best_psnr == pytest.approx(found.psnr, abs=1e-9)


def test_the_same_pictures_keep_the_best_figure(photos: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    first = deblurgan.train(photos, out=tmp_path / "run", **SMALL)
    again = deblurgan.train(photos, out=tmp_path / "run", log=lines.append, **{**SMALL, "steps": 8})
    assert again.best_psnr >= first.best_psnr
    assert not [line for line in lines if "other validation" in line]


def test_init_of_a_run_that_goes_on_is_said_to_have_no_effect(photos: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    deblurgan.train(photos, out=tmp_path, **SMALL)
    longer = {**SMALL, "steps": 8, "init": tmp_path / "best.safetensors"}
    assert deblurgan.train(photos, out=tmp_path, log=lines.append, **longer).steps == 8
    assert "init has no effect on a run that goes on" in lines


def test_a_run_goes_on_with_what_does_not_shape_it(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    options = {**SMALL, "steps": 8, "val_pictures": 2, "max_bad_fraction": 0.9, "workers": 1}
    assert deblurgan.train(photos.parent / "." / photos.name, out=tmp_path, **options).steps == 8


def damage(path: Path) -> bytes:
    """Changes one bit of a file; returns what it then holds."""
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    return bytes(data)


def test_damaged_states_are_refused_by_name_not_overwritten(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    paths = [tmp_path / "state.safetensors", tmp_path / "state-0000003.safetensors"]
    for path in paths:
        damage(path)
    before = contents(tmp_path)
    with pytest.raises(checkpoint.CheckpointError) as refusal:
        deblurgan.train(photos, out=tmp_path, **{**SMALL, "steps": 8})
    assert all(f"{path}: damaged" in str(refusal.value) for path in paths)
    assert contents(tmp_path) == before


STATES = {**SMALL, "steps": 9, "save_every": 2, "val_every": 6, "keep": 3}


def states(out: Path) -> dict[str, int]:
    """The saved states, by name, and the step that each holds."""
    return {path.name: int(checkpoint.load_tensors(path)[1]["step"]) for path in sorted(out.glob("state*"))}


def test_the_newest_states_are_kept(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **STATES)
    newest = {"state-0000006.safetensors": 6, "state-0000008.safetensors": 8, "state.safetensors": 9}
    assert states(tmp_path) == newest
    deblurgan.train(photos, out=tmp_path, **{**STATES, "steps": 10, "keep": 1})
    assert states(tmp_path) == {"state.safetensors": 10}


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_run_goes_on_from_the_newest_state_that_is_whole(damaged: int, photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **STATES)
    before, kept = checkpoint.load_tensors(tmp_path / "state.safetensors")[0], states(tmp_path)
    steps = [row["step"] for row in history(tmp_path)]
    for name in ["state", "state-0000008"][:damaged]:
        damage(tmp_path / f"{name}.safetensors")
    lines: list[str] = []
    deblurgan.train(photos, out=tmp_path, log=lines.append, **STATES)
    told = [line for line in lines if "do not match its SHA-256: goes on from" in line]
    assert len(told) == damaged and told[0].startswith(str(tmp_path / "state.safetensors"))
    assert f"resumed at step {(8, 6)[damaged - 1]}" in lines
    assert states(tmp_path) == kept and [row["step"] for row in history(tmp_path)] == steps
    assert same(checkpoint.load_tensors(tmp_path / "state.safetensors")[0], before)


def test_a_damaged_state_pushes_out_no_good_one(photos: Path, tmp_path: Path) -> None:
    """Not even where the run is stopped again and again before it is past it."""
    deblurgan.train(photos, out=tmp_path, **{**STATES, "keep": 2})
    damage(tmp_path / "state.safetensors")
    (tmp_path / "samples" / "0000009.png").rename(tmp_path / "samples" / "0000099.png")
    run = trainer(photos, tmp_path, **{**STATES, "keep": 2})
    run.resume()
    assert not (tmp_path / "samples" / "0000099.png").exists(), "of a later step"
    run.save()
    assert states(tmp_path) == {"state.safetensors": 8}
    run.step(run.batches[8])
    run.save()
    assert states(tmp_path) == {"state-0000008.safetensors": 8, "state.safetensors": 9}


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none"])
def test_a_failed_save_at_any_call_leaves_the_newest_state(
    links: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill at the k-th call of the system that changes a folder, and an error there, for every k."""

    def no_links(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    run = trainer(photos, tmp_path / "run", **STATES)
    (tmp_path / "run").mkdir()
    for step in range(2):
        run.step(run.batches[step])
        run.save()
    tensors, state = run.state_dict(), run.saved.state(3)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    for error in (OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()):
        for k in range(20):
            copy = tmp_path / f"{type(error).__name__}{k}"
            shutil.copytree(tmp_path / "run", copy)
            folder = RunFolder(copy, keep=2)
            assert folder.load_state(print) is not None
            with monkeypatch.context() as patch:
                calls = fail_at(k, error, patch)
                with contextlib.suppress(OSError, KeyboardInterrupt):
                    folder.save_state(tensors, state)
            found = RunFolder(copy).load_state(print)
            assert found is not None and found[1].step == (3 if calls() <= k else found[1].step) and found[1].step >= 2
            assert not list(copy.glob(".*.tmp")) and all(checkpoint.load_tensors(path) for path in folder.states())
            if calls() <= k:
                break
        else:
            pytest.fail("a save has more calls than 20")


def fail_at(k: int, error: BaseException, patch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Has the k-th call that changes a folder raise the error before it is made; gives their number so far."""
    count = 0

    def failing(name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count - 1 == k:
                raise error
            return call(*args, **kwargs)

        return called

    for name in ("link", "rename", "replace", "unlink", "fsync"):
        patch.setattr(os, name, failing(name))
    return lambda: count


@pytest.mark.parametrize(
    "tensors, metadata, words",
    [
        ({}, {}, "not the state of a training by this version"),
        ({"generator.stem.weight": 1}, None, "of another network"),
    ],
    ids=["other file", "other network"],
)
def test_another_state_is_refused_not_overwritten(
    tensors: dict[str, int], metadata: dict[str, str] | None, words: str, photos: Path, tmp_path: Path
) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    path = tmp_path / "state.safetensors"
    if metadata is None:
        metadata = checkpoint.load_tensors(path)[1]
    checkpoint.save_tensors({name: torch.zeros(n) for name, n in tensors.items()}, path, metadata=metadata)
    before = contents(tmp_path)
    (tmp_path / "state-0000003.safetensors").unlink()
    before.pop(tmp_path / "state-0000003.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match=rf"state\.safetensors: {words}"):
        deblurgan.train(photos, out=tmp_path, **{**SMALL, "steps": 8})
    assert contents(tmp_path) == before


def test_a_full_disk_leaves_the_state_before(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = files.replace_file

    def full(path: Path, data: bytes) -> None:
        if b'"step":"3"' in data:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(path, data)

    with monkeypatch.context() as patch, pytest.raises(SaveError, match=r"No space left on device.* MB left$"):
        patch.setattr(files, "replace_file", full)
        deblurgan.train(photos, out=tmp_path, **SMALL)
    assert checkpoint.load_tensors(tmp_path / "state.safetensors")[1]["step"] == "1"
    assert deblurgan.train(photos, out=tmp_path, **SMALL).steps == 6


def test_a_torn_history_goes_on(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    with (tmp_path / "history.csv").open("a") as file:
        file.write("6,0,0.1\n\n,,,,,,,,,,,,,,,,\n8,1" + ",1" * 40)
    deblurgan.train(photos, out=tmp_path, **{**SMALL, "steps": 8})
    assert [row["step"] for row in history(tmp_path)] == ["2", "3", "4", "6", "6", "6", "8", "8"]


@pytest.mark.parametrize(
    "text",
    [
        "step,note\n2,caf\u00e9\n".encode("latin-1"),
        "step,epoch\n2,1\n".encode("utf-16"),
        b"step;epoch\n2;1\n",
        b"step\n" + b"2" * 200_000 + b"\n",
    ],
    ids=["Latin-1", "UTF-16", "semicolons", "one long field"],
)
def test_a_history_saved_by_another_program_is_set_aside(text: bytes, photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    (tmp_path / "history.csv").write_bytes(text)
    lines: list[str] = []
    deblurgan.train(photos, out=tmp_path, log=lines.append, **{**SMALL, "steps": 8})
    assert [row["step"] for row in history(tmp_path)] == ["8", "8"]
    assert (tmp_path / "history-until-6.csv").read_bytes() == text
    assert any(line.endswith("set aside as history-until-6.csv") for line in lines)


def test_a_history_with_a_byte_order_mark_goes_on(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    written = tmp_path / "history.csv"
    written.write_bytes("\ufeff".encode() + written.read_bytes() + "\u00b2,1\n".encode())
    deblurgan.train(photos, out=tmp_path, **{**SMALL, "steps": 8})
    assert [row["step"] for row in history(tmp_path)] == ["2", "3", "4", "6", "6", "8", "8"]


@pytest.mark.parametrize("content", [b"", b"hello", None], ids=["empty", "text", "cut"])
def test_damaged_best_weights_are_replaced_by_the_next_validation(
    content: bytes | None, photos: Path, tmp_path: Path
) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    best, last = tmp_path / "best.safetensors", tmp_path / "last.safetensors"
    best.write_bytes(best.read_bytes()[:-99] if content is None else content)
    done = deblurgan.train(photos, out=tmp_path, **SMALL)
    assert same(done.generator.state_dict(), checkpoint.load_generator(last).state_dict()), "nothing left to validate"
    lines: list[str] = []
    result = deblurgan.train(photos, out=tmp_path, log=lines.append, **{**SMALL, "steps": 9})
    assert any(line.startswith(str(best)) and line.endswith("goes on as if it were missing") for line in lines)
    assert same(checkpoint.load_generator(best).state_dict(), result.generator.state_dict())


def test_pictures_that_end_a_run_lose_no_step(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deblurgan.training.trainer.spill_folder", lambda: None)  # each step reads its files

    def vanish(line: str) -> None:
        if line.startswith("step 4/"):
            for path in photos.iterdir():
                path.unlink()

    options = {**SMALL, "val_every": 6, "cache": 0}
    with pytest.raises(ValueError, match="data must hold a usable picture"):
        deblurgan.train(photos, out=tmp_path, log=vanish, **options)  # type: ignore[arg-type]
    assert checkpoint.load_tensors(tmp_path / "state.safetensors")[1]["step"] == "4"


def test_state_holds_plain_tensors(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    state, metadata = checkpoint.load_tensors(tmp_path / "state.safetensors")
    assert json.loads(metadata["config"])["steps"] == 6
    assert {name.split(".")[0] for name in state} == {"generator", "average", "adam"}


def test_damaged_last_weights_are_written_anew(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    last = tmp_path / "last.safetensors"
    wanted = checkpoint.load_generator(last).state_dict()
    damage(last)
    again = {**SMALL, "init": tmp_path / "best.safetensors"}  # whose network last.safetensors else tells
    assert deblurgan.train(photos, out=tmp_path, **again).steps == 6
    assert same(checkpoint.load_generator(last).state_dict(), wanted)
