"""Which pictures a training uses, and which it leaves out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import deblurgan
from conftest import texture
from deblurgan import images
from deblurgan.blur.camera import CAMERA, OFF
from deblurgan.config import BlurConfig, train_config
from deblurgan.data import SharpFolder
from deblurgan.data.blurred_sets import write_blurred
from deblurgan.data.cache import PictureCache
from deblurgan.training import Trainer, TrainingError
from deblurgan.training.pictures import PictureSets, digest_of_names, open_picture_sets
from picture_folders import write, write_pairs
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
    assert any(line.startswith("4 pictures to train on, ") for line in lines)


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
    assert [line for line in lines if "trained on too" in line] == [
        f"4 of 4 validation pictures are trained on too, such as {photos / '0.png'}"
    ]


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
        assert [blur.camera for blur in data.blurs] == [CAMERA]
    mine = trainer(photos, tmp_path / "mine", blur_realism="camera", blur_gamma=1.0)
    assert isinstance(mine.train_set, SharpFolder)
    assert mine.train_set.blurs[0].camera == CAMERA._replace(gamma=1.0)
    plain = trainer(photos, tmp_path / "plain")
    assert isinstance(plain.train_set, SharpFolder)
    assert [blur.camera for blur in plain.train_set.blurs] == [OFF]


def test_mixed_realism_blurs_half_as_a_camera(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path / "run", blur_realism="mixed")
    for data in (run.train_set, run.val_set):
        assert isinstance(data, SharpFolder)
        assert [blur.camera for blur in data.blurs] == [OFF, CAMERA]
    assert isinstance(run.train_set, SharpFolder)
    drawn = [run.train_set.plan(0, epoch=epoch).blur for epoch in range(200)]
    assert 70 <= sum(blur is run.train_set.blurs[1] for blur in drawn) <= 130
    plain, camera = (trainer(photos, tmp_path / kind, blur_realism=kind).train_set for kind in ("none", "camera"))
    for index, same in ((0, plain), (1, camera)):
        assert torch.equal(run.train_set.whole(index).blurred, same.whole(index).blurred)


# What the first lines say, and where the validation pictures come from


def opened(data: Path, **options: Any) -> tuple[PictureSets, list[str]]:
    lines: list[str] = []
    config = train_config(data, out=data / "none", **{**SMALL, **options})
    return open_picture_sets(config, PictureCache(), lines.append), lines


def sides(sets: PictureSets) -> tuple[set[str], set[str]]:
    return set(sets.train.names()), set(sets.validation.names())


def test_the_log_says_how_the_pictures_were_read(photos: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs")
    _, lines = opened(photos, mix=tmp_path / "pairs", blur_length=20.0)
    assert lines == [
        "data is read as 4 sharp photos, blurred as they are drawn by camera shake of 20 px (by the names of folders)",
        "3 pictures to train on, 1 to validate on: every twentieth",
        "mix is read as 3 pairs, blur/ beside sharp/; 2 pictures of data are drawn for each",
    ]
    _, lines = opened(photos, layout="side-by-side", val=tmp_path / "pairs" / "sharp")
    assert lines[0] == (
        "data is read as 4 A|B pictures, blurred on the left and sharp on the right (layout side-by-side is given)"
    )
    assert lines[1] == f"4 pictures to train on, 3 to validate on: those of {tmp_path / 'pairs' / 'sharp'}"


@pytest.mark.parametrize("n", [2, 3])
def test_versions_of_one_photo_stand_on_one_side(photos: Path, tmp_path: Path, n: int) -> None:
    """Of names as `deblurgan blur --n N --pairs` writes them, by that very command."""
    for i in range(3):
        write(photos / "more" / f"{i}.png", seed=9 + i)
    write_blurred(BlurConfig(inputs=(photos,), out=tmp_path / "set", pairs=True, n=n, length=12.0))
    sets, lines = opened(tmp_path / "set")
    train, val = sides(sets)
    assert val == {f"blur/0_{k:03d}.png" for k in range(n)}
    assert len(train) == 6 * n and not train & val
    assert lines[1].endswith("every twentieth photo, with all its versions")


def test_copies_of_a_photo_in_two_sets_stand_on_one_side(photos: Path, tmp_path: Path) -> None:
    for seed in range(8):  # whose folders are no sequences
        out = tmp_path / "sets" / str(seed)
        write_blurred(BlurConfig(inputs=(photos,), out=out, pairs=True, seed=seed, length=12.0))
    train, val = (({name.rpartition("/")[2] for name in side}) for side in sides(opened(tmp_path / "sets")[0]))
    assert val == {"0.png"} and train == {"1.png", "2.png", "3.png"}


def test_a_single_photo_in_many_versions_does_both(photos: Path, tmp_path: Path) -> None:
    write_blurred(BlurConfig(inputs=(photos / "0.png",), out=tmp_path / "set", pairs=True, n=3, length=12.0))
    sets, lines = opened(tmp_path / "set")
    assert len(sets.train) == 3 and len(sets.validation) == 1
    assert lines[1].endswith("there is but one photo, which is trained on too")


@pytest.mark.parametrize("above", ["train/", ""])
def test_sequences_stand_on_one_side(tmp_path: Path, above: str) -> None:
    """Of GoPro's tree, and of its train/ alone, which is read as any folders of pairs."""
    for sequence in range(8):
        for frame in range(6 if sequence == 3 else 7):
            for kind in ("blur", "sharp"):
                path = tmp_path / "data" / above / f"S{sequence}" / kind / f"{frame}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, seed=20 * sequence + frame, h=16, w=16)
    sets, lines = opened(tmp_path / "data")
    train, val = sides(sets)
    assert val == {f"{above}S3/blur/{frame}.png" for frame in range(6)} and len(train) == 49
    first, second = (int(Path(name).stem) for name in sets.validation.names()[:2])
    assert abs(first - second) > 1, "a validation looks at neighbours first"
    assert lines[1] == "49 pictures to train on, 6 to validate on: whole sequences, which are not trained on"


def test_two_sequences_of_gopro_are_divided_and_two_folders_of_pairs_are_not(tmp_path: Path) -> None:
    for folder in ("gopro/train/S", "pairs/"):
        for i in range(8):
            for kind in ("blur", "sharp"):
                write(tmp_path / f"{folder}{i % 2}" / kind / f"{i}.png", seed=i + 10 * len(kind), h=16, w=16)
    assert sides(opened(tmp_path / "gopro")[0])[1] == {f"train/S0/blur/{i}.png" for i in (0, 2, 4, 6)}
    train, val = sides(opened(tmp_path / "pairs")[0])
    assert (len(train), val) == (7, {"0/blur/0.png"})


def test_gamma_without_such_pictures_and_a_bad_folder_are_named(photos: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs")
    with pytest.raises(ValueError, match=r"gamma goes with GoPro's blur_gamma folders, found none in .*pairs"):
        opened(tmp_path / "pairs", gamma=True)
    write_pairs(tmp_path / "gopro" / "train" / "S1", blurred="blur_gamma")
    assert len(opened(photos, gamma=True, mix=tmp_path / "gopro")[0].train.names()) == 6
    with pytest.raises(FileNotFoundError, match=r"val must be a folder, got .*0\.png"):
        opened(photos, val=photos / "0.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"mix: data must hold pictures, found none in .*empty"):
        opened(photos, mix=tmp_path / "empty")
