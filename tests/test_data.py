"""Datasets: what they find, that crops come from their numbers alone, and that bad files do no harm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

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
from deblurgan.data.crops import reduced_region

SMALL = Crops(32)


def write(path: Path, seed: int, h: int = 72, w: int = 96) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = texture(h, w, seed=seed)
    images.write(images.Picture(pixels), path)
    return pixels


def write_pairs(root: Path, blurred: str = "blur", sharp: str = "sharp", n: int = 3) -> None:
    for i in range(n):
        write(root / blurred / f"{i}.png", seed=100 + i)
        write(root / sharp / f"{i}.png", seed=i)


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


def test_crop_is_the_blurred_photo_s_own_crop(photos: Path) -> None:
    """The margin around a crop makes its blur that of the whole photo, up to the photo's border."""
    blur = MotionBlur(length=20.0)
    data = SharpFolder(photos, blur=blur, crops=Crops(32, flip=False), seed=3)
    for index in range(4):
        for epoch in range(3):
            blurred, sharp = data.sample(index, epoch=epoch)
            photo = torch.from_numpy(images.read(photos / f"{index}.png").pixels).permute(2, 0, 1)
            whole = apply_psf(photo, blur.psf(1, index=derived_seed(RngStream.KERNEL, 3, epoch, index, 0)))
            corners = [
                (i, j)
                for i in range(72 - 31)
                for j in range(96 - 31)
                if torch.equal(photo[:, i : i + 32, j : j + 32], sharp)
            ]
            assert len(corners) == 1
            i, j = corners[0]
            assert torch.equal(whole[:, i : i + 32, j : j + 32], blurred)


def test_crops_differ_by_epoch_index_and_seed_and_repeat(photos: Path) -> None:
    draws = [
        SharpFolder(photos, crops=Crops(32, scale=(0.6, 1.0), texture=3), seed=seed).sample(index, epoch=epoch)
        for seed in (0, 1)
        for index in (0, 1)
        for epoch in (0, 1)
        for _ in range(2)
    ]
    for i in range(0, 16, 2):
        assert torch.equal(draws[i].sharp, draws[i + 1].sharp) and torch.equal(draws[i].blurred, draws[i + 1].blurred)
        assert all(not torch.equal(draws[i].sharp, draws[j].sharp) for j in range(0, i, 2))


def test_flips_are_shared_and_half(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 3, 64, 0).repeat(3, 2)
    images.write(images.Picture(ramp), tmp_path / "ramp.png")
    data = SharpFolder(tmp_path, blur=MotionBlur(p=0.0), crops=SMALL)
    rising = [bool((pair.sharp[0, 0].int().diff() > 0).all()) for pair in (data.sample(0, epoch=e) for e in range(200))]
    assert 70 < sum(rising) < 130
    assert all(torch.equal(*data.sample(0, epoch=e)) for e in range(20))
    plain = SharpFolder(tmp_path, crops=Crops(32, flip=False))
    assert all((plain.sample(0, epoch=e).sharp[0, 0].int().diff() > 0).all() for e in range(20))


def test_scale_reduces_pairs_alike(tmp_path: Path) -> None:
    for kind in ("blur", "sharp"):
        write(tmp_path / kind / "0.png", seed=0)
    data = PairedFolder(tmp_path, crops=Crops(32, scale=(0.5, 0.9)))
    crops = [data.sample(0, epoch=epoch) for epoch in range(5)]
    assert all(torch.equal(*pair) for pair in crops)
    whole = torch.from_numpy(texture(72, 96, seed=0)).permute(2, 0, 1).unfold(1, 32, 1).unfold(2, 32, 1)
    assert not any((whole == crops[0].sharp[:, None, None]).all(-1).all(-1).all(0).flatten().tolist())


def test_scale_reduces_the_photo(tmp_path: Path) -> None:
    stripes = np.tile(np.repeat(np.array([0, 255], np.uint8), 8), 16)[None, :, None].repeat(256, 0).repeat(3, 2)
    images.write(images.Picture(stripes), tmp_path / "stripes.png")
    for scale, period in ((1.0, 16), (0.5, 8)):
        data = SharpFolder(tmp_path, blur=MotionBlur(p=0.0), crops=Crops(64, scale=(scale, scale)))
        line = data.sample(0, epoch=0).sharp[0, 5].double()
        spectrum = torch.fft.rfft(line - line.mean()).abs()
        assert int(spectrum.argmax()) == 64 // period


def test_reduced_part_is_that_of_the_reduced_photo() -> None:
    photo = texture(150, 210)
    for height, width in ((75, 105), (149, 208), (40, 60), (150, 210)):
        whole = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS))
        for left, top in ((0, 0), (7, 3), (width - 30, height - 20)):
            part = reduced_region(photo, (left, top, left + 30, top + 20), height, width)
            wanted = whole[top : top + 20, left : left + 30]
            difference = np.abs(part.astype(int) - wanted)  # Pillow orders its two passes, and so rounds, by the sizes
            assert difference.max() <= 2 and difference.mean() < 0.1


def test_texture_prefers_detail(tmp_path: Path) -> None:
    pixels = np.full((64, 256, 3), 128, np.uint8)
    pixels[:, 192:] = texture(64, 64)
    images.write(images.Picture(pixels), tmp_path / "a.png")

    def detail(tries: int) -> float:
        data = SharpFolder(tmp_path, blur=MotionBlur(p=0.0), crops=Crops(64, texture=tries))
        return sum(float(data.sample(0, epoch=e).sharp.double().std()) for e in range(30))

    assert detail(8) > 1.5 * detail(1)


@pytest.mark.parametrize(("blurred", "sharp"), [("blur", "sharp"), ("input", "target"), ("lq", "gt"), ("A", "B")])
def test_paired_folders_and_their_synonyms(tmp_path: Path, blurred: str, sharp: str) -> None:
    write_pairs(tmp_path, blurred, sharp)
    data = open_dataset(tmp_path, crops=SMALL)
    assert isinstance(data, PairedFolder) and len(data) == 3
    pair = data.whole(2)
    assert torch.equal(pair.blurred.permute(1, 2, 0), torch.from_numpy(texture(72, 96, seed=102)))
    assert torch.equal(pair.sharp.permute(1, 2, 0), torch.from_numpy(texture(72, 96, seed=2)))
    assert data.sample(0, epoch=0).sharp.shape == (3, 32, 32)


def test_pairs_are_cropped_alike(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / "blur" / f"{i}.png", seed=i)
        write(tmp_path / "sharp" / f"{i}.png", seed=i)
    data = PairedFolder(tmp_path, crops=Crops(32, texture=2))
    assert all(torch.equal(*data.sample(i, epoch=e)) for i in range(2) for e in range(10))


def test_torch_s_default_device_has_no_say(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    batches = Batches(PairedFolder(tmp_path, crops=SMALL), 2)
    with torch.device("meta"):
        batch = batches[0]
    assert torch.equal(batch.blurred, batches[0].blurred) and torch.equal(batch.sharp, batches[0].sharp)


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


def test_bad_file_in_a_mix_is_named_and_only_it(photos: Path, tmp_path: Path) -> None:
    (photos / "9.png").write_bytes(b"no picture")
    write_pairs(tmp_path / "pairs", n=4)

    def batches() -> Batches:
        synthetic, pairs = SharpFolder(photos, crops=SMALL), PairedFolder(tmp_path / "pairs", crops=SMALL)
        return Batches(Mixed(synthetic, pairs), 3)

    one = batches()
    straight = [one[step] for step in range(20)]
    assert set().union(*(batch.bad for batch in straight)) == {str(photos / "9.png")}
    for step in (19, 7, 0):
        assert torch.equal(batches()[step].sharp, straight[step].sharp)


def test_streams_never_share_a_seed() -> None:
    seeds = [
        derived_seed(rng_stream, seed, *rest)
        for rng_stream in RngStream
        for seed in (0, 1, 7, 2**32)
        for rest in ((0,), (5,))
    ]
    seeds += [derived_seed(RngStream.CROP, seed, e, i) for seed, e, i in ((7, 3, 5), (7 + 3 * 2**32, 5, 0), (7, 5, 3))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_any_batch_comes_from_its_number_alone(photos: Path) -> None:
    def batches() -> Batches:
        return Batches(SharpFolder(photos, crops=SMALL, seed=1), 3, seed=1)

    straight = [batches()[step] for step in range(6)]
    one = batches()
    for step in (5, 0, 3, 3):
        assert torch.equal(one[step].sharp, straight[step].sharp)
        assert torch.equal(one[step].blurred, straight[step].blurred)


def test_an_epoch_visits_every_picture_once(photos: Path) -> None:
    data = SharpFolder(photos, crops=Crops(72, flip=False), blur=MotionBlur(p=0.0))
    batches = Batches(data, 2)
    for epoch in range(3):
        seen = torch.cat([batches[2 * epoch + k].sharp for k in range(2)]).flatten(1).double().mean(1)
        assert len(set(seen.tolist())) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_give_the_same_batches(photos: Path, workers: int) -> None:
    batches = Batches(SharpFolder(photos, crops=SMALL), 2)
    loader = DataLoader(batches, batch_size=None, sampler=range(1, 5), num_workers=workers)
    for step, batch in enumerate(loader, 1):
        assert torch.equal(batch.blurred, batches[step].blurred)


def test_bad_files_are_replaced_and_named(photos: Path) -> None:
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    (photos / "empty.jpg").touch()
    write(photos / "small.png", seed=1, h=20, w=20)
    batches = Batches(SharpFolder(photos, crops=SMALL), 7)
    bad, small = batches[0].bad | batches[1].bad, batches[0].small | batches[1].small
    assert sorted(bad) == ["broken.png", "empty.jpg"]
    assert bad["empty.jpg"] == "empty file"
    assert small == {"small.png": "20x20 is below the crop of 32"}
    assert batches[0].sharp.shape == (7, 3, 32, 32)
    assert len({float(part.double().mean()) for part in batches[3].sharp}) == 7, "a stand-in repeats a crop"


def test_the_bad_one_of_a_pair_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    (tmp_path / "sharp" / "1.png").write_bytes(b"no picture")
    batch = Batches(PairedFolder(tmp_path, crops=SMALL), 3)[0]
    assert list(batch.bad) == ["sharp/1.png"]


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"data must hold a usable picture, found none of 1; a\.png: damaged"):
        Batches(SharpFolder(tmp_path, crops=SMALL), 1)[0]


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


def test_folders_of_blurred_pictures_are_never_taken_for_sharp_photos(tmp_path: Path) -> None:
    for i in range(2):
        for kind in ("blur", "blur_gamma", "sharp"):
            write(tmp_path / "train" / "GOPR01" / kind / f"{i}.png", seed=i)
    with pytest.raises(ValueError, match="in no known layout"):
        open_dataset(tmp_path / "train")
    with pytest.raises(ValueError, match="GoPro root with test/SEQUENCE"):
        open_dataset(tmp_path, split="test")
    assert len(open_dataset(tmp_path / "train", layout="sharp")) == 6
