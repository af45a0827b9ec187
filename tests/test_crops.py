"""Crops: where they lie, and what is reduced, blurred and mirrored."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from conftest import texture
from deblurgan import images
from deblurgan.blur import MotionBlur, apply_psf
from deblurgan.data import Crops, PairedFolder, RngStream, SharpFolder, derived_seed
from deblurgan.data.crops import reduced_region
from picture_folders import SMALL, write

CAMERA, UNCODED = (MotionBlur(length=20.0, realism="camera", jpeg=quality) for quality in (80, 0))


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


def test_a_cameras_crop_repeats_and_is_coded_from_its_own_corner(photos: Path) -> None:
    torch.manual_seed(0)
    camera, uncoded = (SharpFolder(photos, blur=blur, crops=Crops(32), seed=3) for blur in (CAMERA, UNCODED))
    crops = [camera.sample(index, epoch=1) for index in range(4)]
    torch.manual_seed(1)
    for index, crop in enumerate(crops):
        assert all(map(torch.equal, crop, camera.sample(index, epoch=1)))
        blurred = Image.fromarray(uncoded.sample(index, epoch=1).blurred.permute(1, 2, 0).numpy())
        buffer = io.BytesIO()
        blurred.save(buffer, "JPEG", quality=80)
        assert np.array_equal(crop.blurred.permute(1, 2, 0), np.asarray(Image.open(buffer)))


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


def test_pairs_are_cropped_alike(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / "blur" / f"{i}.png", seed=i)
        write(tmp_path / "sharp" / f"{i}.png", seed=i)
    data = PairedFolder(tmp_path, crops=Crops(32, texture=2))
    assert all(torch.equal(*data.sample(i, epoch=e)) for i in range(2) for e in range(10))
