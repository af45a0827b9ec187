"""The run folder: what a run leaves there, and whom it lets go on."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest
import yaml

import deblurgan
from deblurgan import checkpoint, images
from deblurgan.config import TrainConfig, from_mapping, train_config
from deblurgan.training import TrainingError
from small_training import SMALL, history, trainer


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


def test_starting_anew_forgets_the_old_run_at_once(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    fresh = trainer(photos, tmp_path, resume=False, seed=4)
    fresh.resume()
    assert not list(tmp_path.glob("*.safetensors")) and fresh.steps_done == 0


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


def test_state_holds_plain_tensors(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    state, metadata = checkpoint.load_tensors(tmp_path / "state.safetensors")
    assert json.loads(metadata["config"])["steps"] == 6
    assert {name.split(".")[0] for name in state} == {"generator", "average", "adam"}
