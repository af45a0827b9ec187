"""Datasets: what they find in a folder, and what they refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import deblurgan
from conftest import texture
from deblurgan import images
from deblurgan.blur import MotionBlur, apply_psf
from deblurgan.data import (
    Batches,
    Crops,
    GoPro,
    Mixed,
    PairedFolder,
    RngStream,
    SharpFolder,
    SideBySide,
    derived_seed,
    open_dataset,
)
from deblurgan.data.cache import PictureCache
from deblurgan.data.sharpness import halves_agree
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


@pytest.mark.parametrize(
    ("photos", "pairs", "ratio", "synthetic"),
    [
        (4, 3, 0.5, 2),
        (4, 3, 2.0, 6),
        (4, 3, 3.7, 11),
        (1, 1, 0.1, 1),
        (1, 1, 2.0, 2),
        (5, 1, 1.0, 1),
        (7, 10, 2.0, 20),
        (100, 10, 3.7, 37),
        (3, 100, 0.01, 1),
        (3, 2103, 2.0, 4206),
    ],
)
def test_mix_by_counting_what_is_drawn(photos: int, pairs: int, ratio: float, synthetic: int) -> None:
    """What the batches draw in 12 epochs: each pair once in each; every photo as often as the others, to one, at any
    time; no crop twice. No file is looked at."""
    two = [Path(f"{i}.png") for i in range(pairs)]
    sharp = SharpFolder("photos", pictures=[Path(f"{i}.png") for i in range(photos)])
    paired = PairedFolder("pairs", pairs=[(path, path) for path in two])
    mixed = Mixed(sharp, paired, ratio=ratio)
    order = Batches(mixed, 1)._order
    counts, crops = np.zeros(photos, int), set[tuple[bool, int, int]]()
    assert len(mixed) == pairs + synthetic
    for epoch in range(12):
        drawn = [mixed.locate(int(i), epoch) for i in order(epoch)]
        assert sorted(index for data, index, _ in drawn if data is paired) == list(range(pairs))
        assert {at for data, _, at in drawn if data is paired} == {epoch}
        for _, index, _ in (one for one in drawn if one[0] is sharp):
            counts[index] += 1
        assert counts.sum() == (epoch + 1) * synthetic and counts.max() - counts.min() <= 1
        crops |= {(data is paired, index, at) for data, index, at in drawn}
    assert len(crops) == 12 * len(mixed)


@pytest.mark.parametrize("ratio", [0.5, 2.0, 3.7])
def test_mix_spreads_evenly(ratio: float) -> None:
    """Any stretch of an epoch holds the share of pairs that the whole has, to one."""
    paths = [Path(f"{i}.png") for i in range(40)]
    sharp = SharpFolder("photos", pictures=paths)
    mixed = Mixed(sharp, PairedFolder("pairs", pairs=[(path, path) for path in paths]), ratio=ratio)
    passed = np.cumsum([mixed.locate(i, 0)[0] is not sharp for i in range(len(mixed))])
    assert np.abs(passed - np.arange(1, len(mixed) + 1) * 40 / len(mixed)).max() < 1


def test_mix_at_half_the_size_of_the_pictures(photos: Path, tmp_path: Path) -> None:
    """The paper's regime: pictures are reduced to half their size before they are cropped."""
    write_pairs(tmp_path / "pairs")
    crops = Crops(32, flip=False, scale=(0.5, 0.5))
    data = PairedFolder(tmp_path / "pairs", crops=crops)
    pair, whole = data.sample(1, epoch=0), PairedFolder(tmp_path / "pairs").whole(1)
    half = torch.nn.functional.interpolate(whole.sharp[None].float(), scale_factor=0.5, mode="area")[0]
    windows = half.unfold(1, 32, 1).unfold(2, 32, 1)
    differences = (windows - pair.sharp[:, None, None].float()).abs().mean((0, 3, 4))
    assert differences.min() < 6 < differences.median() / 2
    mixed = Mixed(SharpFolder(photos, crops=crops), data)
    assert all(mixed.sample(i, epoch=0).sharp.shape == (3, 32, 32) for i in range(3))


def test_pictures_whose_halves_agree_are_asked_about(tmp_path: Path) -> None:
    scene = images.read(Path(deblurgan.__file__).parent / "assets" / "demo.png").pixels
    for i in range(3):
        sharp = np.ascontiguousarray(scene[60 * i : 60 * i + 200, 100 * i : 100 * i + 300])
        blurred = MotionBlur(length=30.0, exposure=(1.0,))(torch.from_numpy(sharp).permute(2, 0, 1), index=i)
        both = np.concatenate([blurred.permute(1, 2, 0).numpy(), sharp], 1)
        (tmp_path / "data").mkdir(exist_ok=True)
        images.write(images.Picture(both), tmp_path / "data" / f"{i}.png")
    with pytest.raises(ValueError, match=r"halves show the same.*0\.png.*side-by-side .* or sharp"):
        open_dataset(tmp_path / "data")
    assert isinstance(open_dataset(tmp_path / "data", layout="side-by-side"), SideBySide)
    assert isinstance(open_dataset(tmp_path / "data", layout="sharp"), SharpFolder)
    write(tmp_path / "data" / "0.png", seed=0, h=200, w=600)
    write(tmp_path / "data" / "1.png", seed=1, h=200, w=600)
    assert isinstance(open_dataset(tmp_path / "data"), SharpFolder), "one of three is no rule"


def test_pictures_of_one_name_that_agree_are_asked_about(tmp_path: Path) -> None:
    """In folders whose names say nothing."""
    scene = images.read(Path(deblurgan.__file__).parent / "assets" / "demo.png").pixels
    for i in range(3):
        sharp = np.ascontiguousarray(scene[60 * i : 60 * i + 200, 100 * i : 100 * i + 300])
        blurred = MotionBlur(length=30.0, exposure=(1.0,))(torch.from_numpy(sharp).permute(2, 0, 1), index=i)
        pictures = {"before": blurred.permute(1, 2, 0).numpy(), "after": sharp, "frames/1": scene[-200:, -300:]}
        for folder, pixels in {**pictures, "frames/2": sharp}.items():
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            images.write(images.Picture(np.ascontiguousarray(pixels)), tmp_path / folder / f"{i}.png")
    assert isinstance(open_dataset(tmp_path / "frames"), SharpFolder), "of one name, but of two scenes"
    shutil.rmtree(tmp_path / "frames")
    with pytest.raises(ValueError, match=r"two pictures of each name .*after/0\.png and .*before/0\.png"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, layout="sharp")) == 6


def test_pictures_of_one_number_that_agree_are_asked_about(tmp_path: Path) -> None:
    scene = images.read(Path(deblurgan.__file__).parent / "assets" / "demo.png").pixels
    blur = MotionBlur(length=30.0, exposure=(1.0,))
    for i in range(3):
        sharp = np.ascontiguousarray(scene[60 * i : 60 * i + 200, 100 * i : 100 * i + 300])
        images.write(images.Picture(sharp), tmp_path / f"{i}b.png")
        other = blur(torch.from_numpy(sharp).permute(2, 0, 1), index=i).permute(1, 2, 0).numpy()
        images.write(images.Picture(np.ascontiguousarray(other)), tmp_path / f"{i}a.png")
    with pytest.raises(ValueError, match=r"two pictures of each number .*0a\.png and .*0b\.png"):
        open_dataset(tmp_path)
    for i in range(3):
        write(tmp_path / f"{i}a.png", seed=i, h=200, w=300)
    assert isinstance(open_dataset(tmp_path), SharpFolder), "of one number, but of two scenes"


def test_panoramas_are_no_pairs(tmp_path: Path) -> None:
    scene = images.read(Path(deblurgan.__file__).parent / "assets" / "demo.png").pixels
    sky = np.linspace(255, 0, 200)[:, None, None] * np.ones((1, 600, 3))
    pictures = [scene[:200], scene[200:], (sky * 0.7 + texture(200, 600, seed=1) * 0.3).astype(np.uint8)]
    pictures += [np.full((200, 600, 3), 90, np.uint8), np.tile(scene[:200, :300], (1, 2, 1))]  # none is blurrier
    for i, pixels in enumerate(pictures):
        images.write(images.Picture(np.ascontiguousarray(pixels)), tmp_path / f"{i}.png")
        assert not halves_agree(pixels), i
    assert isinstance(open_dataset(tmp_path), SharpFolder)


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
