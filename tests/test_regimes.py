"""The paper's three ways with pictures: what they reduce, what they mix, and the data that they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deblurgan import cli, images
from deblurgan.data import Crops, GoPro, Mixed, PairedFolder, SharpFolder
from picture_folders import write, write_pairs
from small_training import history, trainer


@pytest.fixture
def gopro(tmp_path: Path) -> Path:
    """A small GoPro tree, blurred pictures of 96 x 72."""
    for split, sequence, number in (("train", "S1", 3), ("train", "S2", 2), ("test", "S3", 2)):
        write_pairs(tmp_path / "GOPRO" / split / sequence, n=number)
    return tmp_path / "GOPRO"


def halved(path: Path) -> torch.Tensor:
    """uint8 [3, h, w]"""
    with Image.open(path) as picture:
        half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(half)).permute(2, 0, 1)


def is_part(crop: torch.Tensor, picture: torch.Tensor) -> bool:
    """Whether the crop [3, s, s] or its mirror image stands somewhere in the picture [3, h, w]."""
    size = crop.shape[-1]
    windows = picture.unfold(1, size, 1).unfold(2, size, 1).permute(1, 2, 0, 3, 4)
    return any(bool((windows == one).flatten(2).all(2).any()) for one in (crop, crop.flip(-1)))


def test_gopro_is_crops_of_pairs_at_half_their_size(gopro: Path, tmp_path: Path) -> None:
    run = trainer(gopro, tmp_path / "run", regime="gopro", crop=32)
    assert isinstance(run.train_set, GoPro) and (len(run.train_set), len(run.val_set)) == (5, 2)
    for i in range(5):
        crop = run.train_set.sample(i, epoch=0)
        blurred = run.train_set.path(i)
        assert is_part(crop.blurred, halved(blurred))
        assert is_part(crop.sharp, halved(blurred.parents[1] / "sharp" / blurred.name))
    for i, pair in ((i, run.val_set.whole(i)) for i in range(2)):
        assert torch.equal(pair.blurred, halved(run.val_set.path(i))), "validated at the size that is trained on"


def test_combined_is_two_photos_for_each_pair_at_half_its_size(photos: Path, gopro: Path, tmp_path: Path) -> None:
    for path in gopro.rglob("*.png"):
        images.write(images.Picture(np.full((72, 96, 3), 7, np.uint8)), path)
    run = trainer(photos, tmp_path / "run", regime="combined", mix=gopro, crop=32, batch_size=1)
    mixed = run.train_set
    assert isinstance(mixed, Mixed)
    assert (mixed.synthetic.crops.scale, mixed.pairs.crops.scale) == ((1.0, 1.0), (0.5, 0.5))
    assert len(mixed) == 3 * 5, "an epoch passes once over the pairs"
    of_pairs = [bool((run.batches[step].sharp == 7).all()) for step in range(2 * len(mixed))]
    assert (sum(of_pairs[: len(mixed)]), sum(of_pairs[len(mixed) :])) == (5, 5), "in each epoch"


def test_synthetic_is_sharp_photos_at_full_size(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path / "run", regime="synthetic")
    assert isinstance(run.train_set, SharpFolder)
    assert (run.train_set.crops.scale, run.train_set.blurs[0].p, run.train_set.blurs[0].exposure) == (
        (1, 1),
        1,
        (0.1, 0.5, 1),
    )


def test_one_factor_reduces_whole_pictures_too(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data", n=1)
    write(tmp_path / "photos" / "0.png", seed=5)
    for scale, size, wanted in (((0.5, 0.5), 16, (36, 48)), ((0.5, 0.5), 54, (54, 72)), ((0.5, 1.0), 16, (72, 96))):
        pairs = PairedFolder(tmp_path / "data", crops=Crops(size, scale=scale))
        photos = SharpFolder(tmp_path / "photos", crops=Crops(size, scale=scale))
        for pair in (pairs.whole(0), photos.whole(0)):
            assert pair.sharp.shape[1:] == pair.blurred.shape[1:] == wanted
    assert torch.equal(
        PairedFolder(tmp_path / "data", crops=Crops(200, scale=(0.5, 0.5))).whole(0).sharp, pixels(tmp_path)
    )


def pixels(tmp_path: Path) -> torch.Tensor:
    return torch.from_numpy(images.read(tmp_path / "data" / "sharp" / "0.png").pixels).permute(2, 0, 1)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"data": "photos", "regime": "gopro"},
            "regime gopro goes with pairs of blurred and sharp pictures, got photos",
        ),
        ({"data": "GOPRO", "regime": "synthetic"}, "regime synthetic goes with sharp photos, got pairs in .*GOPRO"),
        ({"data": "GOPRO", "regime": "combined", "mix": "GOPRO"}, "regime combined goes with sharp photos, got pairs"),
        ({"data": "photos", "regime": "combined", "mix": "photos"}, "mix must hold pairs"),
    ],
)
def test_data_of_another_kind_is_refused(
    options: dict[str, Any], message: str, photos: Path, gopro: Path, tmp_path: Path
) -> None:
    paths = {name: tmp_path / options[name] for name in ("data", "mix") if name in options}
    with pytest.raises(ValueError, match=message):
        trainer(paths.pop("data"), tmp_path / "run", regime=options["regime"], **paths)


def test_a_regime_on_the_command_line_trains_and_goes_on(photos: Path, gopro: Path, tmp_path: Path) -> None:
    words = ["--preset=tiny", "--width=4", "--blocks=1", "--crop=32", "--steps=2", "--device=cpu", "--precision=fp32"]
    words += ["--regime=combined", f"--mix={gopro}", f"--out={tmp_path / 'run'}"]
    assert cli.main(["train", str(photos), *words]) == 0
    assert cli.main(["train", f"--config={tmp_path / 'run' / 'config.yaml'}", "--steps=3"]) == 0
    assert [row["step"] for row in history(tmp_path / "run")][-1] == "3"
