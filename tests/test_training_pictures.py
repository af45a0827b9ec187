"""Which pictures a training uses, and which it leaves out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import deblurgan
from conftest import texture
from deblurgan import images
from deblurgan.blur.camera import CAMERA, OFF
from deblurgan.config import train_config
from deblurgan.data import SharpFolder
from deblurgan.training import Trainer, TrainingError
from deblurgan.training.pictures import digest_of_names
from picture_folders import write
from small_training import SMALL, trainer


def test_bad_pictures_are_reported_once_and_skipped(photos: Path, tmp_path: Path) -> None:
    (photos / "9.png").write_bytes(b"not a picture")
    lines: list[str] = []
    deblurgan.train(photos, out=tmp_path / "run", log=lines.append, **SMALL, max_bad_fraction=0.5)
    assert len([line for line in lines if line.startswith("left out 9.png")]) == 1


def test_one_bad_picture_may_always_be_unless_none_may(photos: Path, tmp_path: Path) -> None:
    (photos / "2.png").write_bytes(b"not a picture")
    lines: list[str] = []
    assert deblurgan.train(photos, out=tmp_path / "run", log=lines.append, **SMALL).steps == 6
    assert lines[-1] == "pictures left out in all: 1"
    with pytest.raises(TrainingError, match=r"1 of 3 pictures are unreadable, more than max_bad_fraction 0\.0"):
        deblurgan.train(photos, out=tmp_path / "none", **SMALL, max_bad_fraction=0.0)


def test_too_many_bad_pictures_stop_training(photos: Path, tmp_path: Path) -> None:
    for i in range(6, 9):
        (photos / f"{i}.png").write_bytes(b"not a picture")
    with pytest.raises(TrainingError, match=r"of 6 pictures are unreadable, more than max_bad_fraction 0\.1"):
        deblurgan.train(photos, out=tmp_path / "run", **SMALL)


def test_small_pictures_are_left_out_and_do_not_count(photos: Path, tmp_path: Path) -> None:
    for i in range(6, 12):
        images.write(images.Picture(texture(12, 40, seed=i)), photos / f"{i}.png")
    lines: list[str] = []
    assert deblurgan.train(photos, out=tmp_path / "run", log=lines.append, **SMALL).steps == 6
    assert any("40x12 is below the crop of 16" in line for line in lines)


def test_one_photo_is_enough_and_keeps_its_blur(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    images.write(images.Picture(texture(40, 40)), tmp_path / "photos" / "0.png")
    run = trainer(tmp_path / "photos", tmp_path / "run", blur_exposure=(0.1,), blur_p=0.0)
    batch = run.batches[0]
    assert torch.equal(batch.blurred, batch.sharp)


def test_samples_among_the_photos_are_no_photos(photos: Path) -> None:
    options = {**SMALL, "out": photos / "runs" / "one"}
    deblurgan.train(photos, **options)
    assert (photos / "runs" / "one" / "samples" / "0000006.png").exists()
    assert deblurgan.train(photos, **{**options, "steps": 8}).steps == 8
    assert trainer(photos, photos / "runs" / "two").train_set.names() == ["1.png", "2.png", "3.png"]


def test_pictures_for_tests_are_not_trained_on(photos: Path, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        shutil.copytree(photos, tmp_path / "data" / split)
    lines: list[str] = []
    run = Trainer(train_config(tmp_path / "data", out=tmp_path / "run", **SMALL), log=lines.append)
    assert run.train_set.names() == [f"train/{i}.png" for i in range(4)]
    assert run.val_set.names() == [f"val/{i}.png" for i in range(4)]
    assert any(line.startswith("trains on 4 of 12 pictures") for line in lines)


def test_validation_pictures_among_the_photos_are_not_trained_on(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, photos / "kept")
    run = trainer(photos, tmp_path / "run", val=photos / "kept")
    assert run.train_set.names() == [f"{i}.png" for i in range(4)] and len(run.val_set) == 4


def test_pairs_among_the_photos_are_no_photos(photos: Path, tmp_path: Path) -> None:
    for name in ("pairs/blur/0", "pairs/sharp/0", "kept/blur/1", "kept/sharp/1"):
        write(photos / f"{name}.png", seed=0)
    run = trainer(photos, tmp_path / "run", mix=photos / "pairs", val=photos / "kept")
    assert set(run.train_set.names()) == {*(f"{i}.png" for i in range(4)), "blur/0.png"}
    assert run.val_set.names() == ["kept/blur/1.png"]


def test_validation_pictures_that_are_trained_on_are_told_of(photos: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    Trainer(train_config(photos, out=tmp_path / "run", val=photos, **SMALL), log=lines.append)
    assert lines == [f"4 of 4 validation pictures are trained on too, such as {photos / '0.png'}"]


def test_mix_takes_pairs_alone_and_all_names_count(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mix must hold pairs"):
        trainer(photos, tmp_path / "run", mix=photos)
    for kind in ("blur", "blur_gamma", "sharp"):
        write(tmp_path / "pairs" / kind / "0.png", seed=0)
    run = trainer(photos, tmp_path / "run", mix=tmp_path / "pairs", gamma=True)
    assert run.train_set.names() == ["1.png", "2.png", "3.png", "blur_gamma/0.png"]
    before = digest_of_names(run.train_set)
    (photos / "3.png").rename(photos / "4.png")
    assert digest_of_names(trainer(photos, tmp_path / "run", mix=tmp_path / "pairs", gamma=True).train_set) != before


def test_validation_folder_and_mix(photos: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    for kind in ("blur", "sharp"):
        (pairs / kind).mkdir(parents=True)
        for path in photos.iterdir():
            (pairs / kind / path.name).write_bytes(path.read_bytes())
    run = trainer(photos, tmp_path / "run", mix=pairs, val=pairs)
    assert len(run.train_set) == 12 and len(run.val_set) == 4
    assert run.fit().steps == 6


def test_realism_is_for_training_and_validation(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path / "run", blur_realism="camera")
    for data in (run.train_set, run.val_set):
        assert isinstance(data, SharpFolder)
        assert data.blur.camera == CAMERA
    mine = trainer(photos, tmp_path / "mine", blur_realism="camera", blur_gamma=1.0)
    assert isinstance(mine.train_set, SharpFolder)
    assert mine.train_set.blur.camera == CAMERA._replace(gamma=1.0)
    plain = trainer(photos, tmp_path / "plain")
    assert isinstance(plain.train_set, SharpFolder)
    assert plain.train_set.blur.camera == OFF
