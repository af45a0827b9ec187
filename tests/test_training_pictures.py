"""Which pictures a training uses, and which it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import deblurgan
from conftest import texture
from deblurgan import images
from deblurgan.training import TrainingError
from small_training import SMALL, trainer


def test_bad_pictures_are_reported_once_and_skipped(photos: Path, tmp_path: Path) -> None:
    (photos / "9.png").write_bytes(b"not a picture")
    lines: list[str] = []
    deblurgan.train(photos, out=tmp_path / "run", log=lines.append, **SMALL, max_bad_fraction=0.5)
    assert len([line for line in lines if line.startswith("left out 9.png")]) == 1


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
    options = {**SMALL, "out": photos / "runs"}
    deblurgan.train(photos, **options)
    assert (photos / "runs" / "samples" / "0000006.png").exists()
    assert deblurgan.train(photos, **{**options, "steps": 8}).steps == 8


def test_validation_folder_and_mix(photos: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    for kind in ("blur", "sharp"):
        (pairs / kind).mkdir(parents=True)
        for path in photos.iterdir():
            (pairs / kind / path.name).write_bytes(path.read_bytes())
    run = trainer(photos, tmp_path / "run", mix=pairs, val=pairs)
    assert len(run.train_set) == 12 and len(run.val_set) == 4
    assert run.fit().steps == 6
