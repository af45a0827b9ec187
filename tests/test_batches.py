"""Batches come from their numbers alone, and bad files do them no harm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from deblurgan.blur import MotionBlur
from deblurgan.data import Batches, Crops, Mixed, PairedFolder, SharpFolder
from picture_folders import SMALL, write, write_pairs


def test_torch_s_default_device_has_no_say(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    batches = Batches(PairedFolder(tmp_path, crops=SMALL), 2)
    with torch.device("meta"):
        batch = batches[0]
    assert torch.equal(batch.blurred, batches[0].blurred) and torch.equal(batch.sharp, batches[0].sharp)


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


@pytest.mark.parametrize("usable", [0, 3, 7])
def test_the_only_usable_picture_stands_in_for_all(usable: int, tmp_path: Path) -> None:
    for i in range(8):
        write(tmp_path / f"{i}.png", seed=i, **({"h": 72, "w": 96} if i == usable else {"h": 20, "w": 20}))
    batches = Batches(SharpFolder(tmp_path, crops=SMALL), 4)
    made = [batches[step] for step in range(12)]
    assert len({crop.numpy().tobytes() for batch in made for crop in batch.blurred}) == 48, "a stand-in repeats a crop"
    assert set().union(*(batch.small for batch in made)) == {f"{i}.png" for i in range(8) if i != usable}


def test_the_bad_one_of_a_pair_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    (tmp_path / "sharp" / "1.png").write_bytes(b"no picture")
    batch = Batches(PairedFolder(tmp_path, crops=SMALL), 3)[0]
    assert list(batch.bad) == ["sharp/1.png"]


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"data must hold a usable picture, found none of 1; a\.png: damaged"):
        Batches(SharpFolder(tmp_path, crops=SMALL), 1)[0]
