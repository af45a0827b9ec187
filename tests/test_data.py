"""Datasets: what they find in a folder, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import texture
from deblurgan import images
from deblurgan.blur import MotionBlur, apply_psf
from deblurgan.data import GoPro, Mixed, PairedFolder, RngStream, SharpFolder, SideBySide, derived_seed, open_dataset
from deblurgan.data.cache import PictureCache
from picture_folders import SMALL, write, write_pairs


def test_sharp_folder_blurs_on_the_fly(photos: Path) -> None:
    blur = MotionBlur(length=20.0)
    data = SharpFolder(photos, blur=blur, crops=SMALL, seed=3)
    assert len(data) == 4
    blurred, sharp = data.whole(1)
    assert torch.equal(sharp.permute(1, 2, 0), torch.from_numpy(images.read(photos / "1.png").pixels))
    assert torch.equal(blurred, apply_psf(sharp, blur.psf(1, index=derived_seed(RngStream.WHOLE, 3, 1))))
    pair = data.sample(1, epoch=2)
    assert pair.blurred.shape == pair.sharp.shape == (3, 32, 32)
    assert pair.blurred.dtype == torch.uint8


@pytest.mark.parametrize(("blurred", "sharp"), [("blur", "sharp"), ("input", "target"), ("lq", "gt"), ("A", "B")])
def test_paired_folders_and_their_synonyms(tmp_path: Path, blurred: str, sharp: str) -> None:
    write_pairs(tmp_path, blurred, sharp)
    data = open_dataset(tmp_path, crops=SMALL)
    assert isinstance(data, PairedFolder) and len(data) == 3
    pair = data.whole(2)
    assert torch.equal(pair.blurred.permute(1, 2, 0), torch.from_numpy(texture(72, 96, seed=102)))
    assert torch.equal(pair.sharp.permute(1, 2, 0), torch.from_numpy(texture(72, 96, seed=2)))
    assert data.sample(0, epoch=0).sharp.shape == (3, 32, 32)


def test_gopro_tree(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for sequence in ("GOPR01", "GOPR02"):
            for i in range(2):
                for k, kind in enumerate(("blur", "blur_gamma", "sharp")):
                    write(tmp_path / split / sequence / kind / f"00{i}.png", seed=10 * k + i)
    data = open_dataset(tmp_path, crops=SMALL)
    assert isinstance(data, GoPro) and len(data) == 4
    assert data.name(3) == "train/GOPR02/blur/001.png"
    assert torch.equal(data.whole(1).blurred.permute(1, 2, 0), torch.from_numpy(texture(72, 96, seed=1)))
    gamma = GoPro(tmp_path, split="test", gamma=True)
    assert torch.equal(gamma.whole(0).blurred.permute(1, 2, 0), torch.from_numpy(texture(72, 96, seed=10)))


def test_side_by_side_pictures(tmp_path: Path) -> None:
    pixels = write(tmp_path / "a.png", seed=5)
    data = open_dataset(tmp_path, layout="side-by-side", crops=SMALL)
    pair = data.whole(0)
    assert torch.equal(pair.blurred.permute(1, 2, 0), torch.from_numpy(pixels[:, :48].copy()))
    assert torch.equal(pair.sharp.permute(1, 2, 0), torch.from_numpy(pixels[:, 48:].copy()))
    write(tmp_path / "odd" / "a.png", seed=5, w=97)
    with pytest.raises(images.ImageError, match="even width, got 97"):
        SideBySide(tmp_path / "odd").whole(0)


def test_mix_is_two_to_one_and_covers_both(photos: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", n=6)
    synthetic, pairs = SharpFolder(photos, crops=SMALL), PairedFolder(tmp_path / "pairs", crops=SMALL)
    mixed = Mixed(synthetic, pairs, ratio=2.0)
    assert len(mixed) == 18
    where = [mixed.locate(i, 0) for i in range(18)]
    assert [index for data, index, _ in where if data is pairs] == list(range(6))
    assert [data is pairs for data, _, _ in where] == [False, False, True] * 6
    assert mixed.sample(0, epoch=0).sharp.shape == (3, 32, 32)
    assert mixed.name(2) == "blur/0.png"


@pytest.mark.parametrize("ratio", [0.5, 2.0, 3.7])
def test_mix_draws_every_photo_alike_and_no_crop_twice(photos: Path, tmp_path: Path, ratio: float) -> None:
    write_pairs(tmp_path / "pairs", n=3)
    synthetic, pairs = SharpFolder(photos, crops=SMALL), PairedFolder(tmp_path / "pairs", crops=SMALL)
    mixed = Mixed(synthetic, pairs, ratio=ratio)
    drawn = [mixed.locate(i, epoch) for epoch in range(20) for i in range(len(mixed))]
    assert len({(id(data), index, epoch) for data, index, epoch in drawn}) == len(drawn)
    counts = [sum(data is synthetic and index == i for data, index, _ in drawn) for i in range(4)]
    assert max(counts) - min(counts) <= 1
    assert sum(data is pairs for data, _, _ in drawn) == 20 * 3


def test_datasets_can_share_a_cache(photos: Path) -> None:
    cache = PictureCache()
    one, other = (open_dataset(photos, layout=layout, crops=SMALL, cache=cache) for layout in ("sharp", "side-by-side"))
    one.whole(0)
    held = cache.bytes
    other.whole(0)
    assert held == cache.bytes == 72 * 96 * 3


def test_take_keeps_the_chosen_pictures(photos: Path) -> None:
    data = SharpFolder(photos)
    part = data.take([3, 1])
    assert [part.name(i) for i in range(2)] == ["3.png", "1.png"] and len(data) == 4


def test_missing_empty_and_mismatched_folders(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data must be a folder, got .*nowhere"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="data must hold pictures, found none in"):
        open_dataset(tmp_path / "empty")
    with pytest.raises(ValueError, match="layout must be auto, sharp"):
        open_dataset(photos, layout="stereo")
    with pytest.raises(ValueError, match="data must hold a folder of blurred pictures"):
        PairedFolder(photos)
    with pytest.raises(ValueError, match="GoPro root"):
        GoPro(photos)
    write_pairs(tmp_path / "pairs")
    (tmp_path / "pairs" / "blur" / "2.png").unlink()
    with pytest.raises(ValueError, match="must hold the same names; 1 differ, such as 2"):
        PairedFolder(tmp_path / "pairs")
    write(tmp_path / "pairs" / "blur" / "2.png", seed=1, h=80)
    with pytest.raises(images.ImageError, match="96x80 blurred but 96x72 sharp"):
        PairedFolder(tmp_path / "pairs").whole(2)
    write(tmp_path / "pairs" / "blur" / "2.bmp", seed=1)
    with pytest.raises(ValueError, match=r"one picture of each name, got 2\.(bmp|png) and 2\.(bmp|png)"):
        PairedFolder(tmp_path / "pairs")


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for i in range(2):
        for kind in ("blur", "blur_gamma", "sharp"):
            write(tmp_path / "train" / "GOPR01" / kind / f"{i}.png", seed=i)
    with pytest.raises(ValueError, match="GoPro root with test/SEQUENCE"):
        open_dataset(tmp_path, split="test")
    assert len(open_dataset(tmp_path / "train", layout="sharp")) == 6
