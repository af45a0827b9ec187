"""Validation: odd pictures stop nothing, and its failure loses nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import deblurgan
from conftest import texture
from deblurgan import checkpoint, images
from deblurgan.training import TrainingError
from deblurgan.training.validation import validate
from small_training import SMALL, trainer


@pytest.mark.parametrize("odd", [texture(5, 40), np.zeros((40, 40, 3), np.uint8)], ids=["tiny", "black"])
def test_odd_validation_pictures_stop_nothing(odd: np.ndarray, photos: Path, tmp_path: Path) -> None:
    val = tmp_path / "val"
    val.mkdir()
    images.write(images.Picture(odd), val / "0.png")
    images.write(images.Picture(texture(40, 40)), val / "1.png")
    result = deblurgan.train(photos, out=tmp_path / "run", val=val, **{**SMALL, "val_pictures": 2})
    assert result.steps == 6 and 0 < result.best_psnr < 100


@pytest.mark.parametrize("bad", [["0"], ["0", "1", "2"]])
def test_a_usable_picture_takes_the_place_of_a_bad_one(bad: list[str], photos: Path, tmp_path: Path) -> None:
    """Of four photos the first is held out."""
    whole = trainer(photos, tmp_path / "whole")
    for name in bad:
        (photos / f"{name}.png").write_bytes(b"no picture")
    lines: list[str] = []
    result = deblurgan.train(photos, out=tmp_path / "run", log=lines.append, **SMALL, max_bad_fraction=0.9)
    assert 0 < result.best_psnr < 100
    assert f"validates on {len(bad)}.png, which is trained on too" in "\n".join(lines)
    for name in bad:
        assert len([line for line in lines if line.startswith(f"left out {name}.png: ")]) == 1
    assert trainer(photos, tmp_path / "again").train_set.names() == whole.train_set.names(), "or no run could go on"


def test_validation_looks_at_as_many_usable_pictures_as_asked_for(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "val")
    (tmp_path / "val" / "0.png").write_bytes(b"no picture")
    (photos / "0.png").write_bytes(b"no picture")
    left_out: list[str] = []
    run = trainer(photos, tmp_path / "run", val=tmp_path / "val")
    found = validate(
        run.networks.generator, run.val_set, 2, precision="fp32", leave_out=lambda name, reason: left_out.append(name)
    )
    assert left_out == [str(tmp_path / "val" / "0.png")], "a photo has the same name"
    assert [int(sample.sharp[0, 0, 0]) for sample in found.samples] == [
        int(texture(72, 96, seed=i)[0, 0, 0]) for i in (1, 2)
    ]


@pytest.mark.parametrize("option", ["val", "data"])
def test_no_usable_picture_is_said_at_once(option: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    for name in ("0.png", "1.png"):
        (tmp_path / "bad" / name).write_bytes(b"no picture")
    folders = {"data": photos, "out": tmp_path / "run", option: tmp_path / "bad"}
    with pytest.raises(ValueError, match=rf"{option} must hold a usable picture, found none of 2; .*0\.png: damaged"):
        deblurgan.train(**folders, **SMALL)
    assert not (tmp_path / "run").exists()


def test_failed_validation_still_saves(photos: Path, tmp_path: Path) -> None:
    val = tmp_path / "val"
    val.mkdir()
    images.write(images.Picture(texture(40, 40)), val / "0.png")
    run = trainer(photos, tmp_path / "run", val=val)
    run.cache.close()
    (val / "0.png").unlink()
    with pytest.raises(TrainingError, match="no validation picture could be read"):
        run.fit()
    assert checkpoint.load_tensors(tmp_path / "run" / "state.safetensors")[1]["step"] == "3"
