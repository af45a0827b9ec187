"""The run folder: what a run leaves there, and whom it lets go on."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import deblurgan
from deblurgan import checkpoint, images
from deblurgan.checkpoint import files
from deblurgan.config import TrainConfig, from_mapping, train_config
from deblurgan.training import TrainingError
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
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp") or path.name.startswith(".")]


def test_two_runs_cannot_share_a_folder(photos: Path, tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(TrainingError, match="out must be a folder of its own, another run is at work in"):
        deblurgan.train(photos, out=tmp_path, **SMALL)
    assert not list(tmp_path.glob("*.safetensors"))
    os.close(handle)
    deblurgan.train(photos, out=tmp_path, **SMALL)


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
    assert names == {"state.safetensors", "last.safetensors", "history.csv", "config.yaml", "note.png"}
    assert not set(old.values()) & set(new.values())
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
    deblurgan.train(photos, out=tmp_path, **SMALL)
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


def test_damaged_state_is_refused_not_overwritten(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    path = tmp_path / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        deblurgan.train(photos, out=tmp_path, **{**SMALL, "steps": 8})
    assert path.read_bytes() == data


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
    with pytest.raises(checkpoint.CheckpointError, match=rf"state\.safetensors: {words}"):
        deblurgan.train(photos, out=tmp_path, **{**SMALL, "steps": 8})
    assert contents(tmp_path) == before


def test_a_full_disk_leaves_the_state_before(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = files.replace_file

    def full(path: Path, data: bytes) -> None:
        if b'"step":"3"' in data:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(path, data)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
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


@pytest.mark.parametrize("damage", [b"", b"hello", None], ids=["empty", "text", "cut"])
def test_damaged_best_weights_are_replaced_by_the_next_validation(
    damage: bytes | None, photos: Path, tmp_path: Path
) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    best = tmp_path / "best.safetensors"
    best.write_bytes(best.read_bytes()[:-99] if damage is None else damage)
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
