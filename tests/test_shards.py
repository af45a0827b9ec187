"""Tar files of pictures: read in any order, by any process, and no damage stops the others."""

from __future__ import annotations

import io
import json
import os
import pickle
import runpy
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import deblurgan
from conftest import texture
from deblurgan import cli, images
from deblurgan.data import Batches, PairDataset, PairedFolder, SharpFolder, open_dataset, shards
from deblurgan.data.shards import index_of, read_picture
from picture_folders import SMALL
from small_training import SMALL as TRAINING


def png(seed: int) -> bytes:
    data, _ = images.encode(images.Picture(texture(48, 56, seed=seed)), "x.png")
    return data


def write_shard(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def write_pairs(root: Path, shards: int = 2, n: int = 3) -> Path:
    """Shards as WebDataset has them, beside the files of labels that such hold."""
    for s in range(shards):
        samples = [(f"{s}{i:03d}", 10 * s + i) for i in range(n)]
        members = {}
        for key, seed in samples:
            members |= {f"{key}.blur.png": png(seed + 100), f"{key}.json": b"{}", f"{key}.sharp.png": png(seed)}
        write_shard(root / f"{s:04d}.tar", members)
    return root


def opened(root: Path, **options: str) -> tuple[PairDataset, list[str]]:
    lines: list[str] = []
    return open_dataset(root, crops=SMALL, log=lines.append, **options), lines  # type: ignore[arg-type]


def pixels(seed: int) -> torch.Tensor:
    return torch.from_numpy(texture(48, 56, seed=seed)).permute(2, 0, 1)


@pytest.mark.parametrize("layout", ["auto", "tar"])
def test_pairs_in_shards(tmp_path: Path, layout: str) -> None:
    data, lines = opened(write_pairs(tmp_path), layout=layout)
    assert isinstance(data, PairedFolder) and lines == []
    assert data.names() == [f"{s:04d}.tar/{s}{i:03d}.blur.png" for s in range(2) for i in range(3)]
    assert torch.equal(data.whole(4).blurred, pixels(111)) and torch.equal(data.whole(4).sharp, pixels(11))
    assert data.layout() == "6 pairs in 2 tar files"
    assert opened(tmp_path / "0001.tar")[0].names() == [f"1{i:03d}.blur.png" for i in range(3)]


def test_photos_and_folders_in_shards(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "photos" / "a.tar", {"0.png": png(0), "./sub/1.JPG": png(1), ".hidden.png": b"", "x.txt": b""}
    )
    data, _ = opened(tmp_path / "photos")
    assert isinstance(data, SharpFolder) and data.names() == ["a.tar/0.png", "a.tar/sub/1.JPG"]
    assert torch.equal(torch.from_numpy(data.decoded(1)[0]).permute(2, 0, 1), pixels(1))
    write_shard(tmp_path / "pairs.tar", {f"set/{kind}/{i}.png": png(i) for kind in ("blur", "sharp") for i in range(2)})
    assert opened(tmp_path / "pairs.tar")[0].names() == ["set/blur/0.png", "set/blur/1.png"]
    for split in ("train", "val"):
        write_shard(tmp_path / "split" / f"{split}-000.tar", {f"{split}.png": png(0)})
    assert opened(tmp_path / "split")[0].names() == ["train-000.tar/train.png"]
    write_shard(tmp_path / "twins.tar", {"0_blur.png": png(0), "0_sharp.png": png(1)})
    with pytest.raises(ValueError, match=r"in one folder \(.*0_blur and 0_sharp\)"):
        opened(tmp_path / "twins.tar")
    write_shard(tmp_path / "raw.tar", {"0.png": png(0), "1.dng": b"", "2.psd": b""})
    data, lines = opened(tmp_path / "raw.tar")
    assert data.names() == ["0.png"] and lines[0].startswith("left out 2 pictures, such as ") and "raw" in lines[0]


def test_a_folder_called_as_a_tar_file_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "old.tar").mkdir()
    images.write(images.Picture(texture(48, 56)), tmp_path / "old.tar" / "0.png")
    data, _ = opened(tmp_path / "old.tar")
    assert data.names() == ["0.png"] and data.decoded(0)[0].shape == (48, 56, 3)
    for empty in ("auto", "tar"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="data must hold pictures, found none in"):
            opened(tmp_path / "empty", layout=empty)


def test_pictures_beside_shards_are_the_data(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    images.write(images.Picture(texture(48, 56)), tmp_path / "0.png")
    assert opened(tmp_path)[0].names() == ["0.png"]
    assert len(opened(tmp_path, layout="tar")[0]) == 6


def test_any_batch_comes_from_its_number_in_any_process(tmp_path: Path) -> None:
    batches = Batches(opened(write_pairs(tmp_path))[0], 2, seed=3)
    straight = [batches[step] for step in range(7)]
    again = pickle.loads(pickle.dumps(batches))
    assert torch.equal(again[5].blurred, straight[5].blurred)
    for step, batch in enumerate(DataLoader(batches, batch_size=None, sampler=range(1, 7), num_workers=2), 1):
        assert torch.equal(batch.sharp, straight[step].sharp)


def test_a_shard_gives_the_same_crops_as_its_files_in_folders(tmp_path: Path) -> None:
    write_pairs(tmp_path / "shards", shards=1)
    for kind in ("blur", "sharp"):
        (tmp_path / "folders" / kind).mkdir(parents=True)
        for i in range(3):
            data = read_picture(tmp_path / "shards" / "0000.tar" / f"0{i:03d}.{kind}.png")
            images.write(data, tmp_path / "folders" / kind / f"{i}.png")
    one, other = (Batches(opened(tmp_path / name)[0], 3)[1] for name in ("shards", "folders"))
    assert torch.equal(one.blurred, other.blurred) and torch.equal(one.sharp, other.sharp)


def test_the_index_is_kept_and_follows_its_shard(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", {"0.png": png(0)})
    index_of(shard)
    file = tmp_path / "a.tar.index"
    kept = json.loads(file.read_bytes())
    assert kept["members"] == [["0.png", 512, len(png(0))]]
    file.write_text(json.dumps({**kept, "members": [["known.png", 512, 3]]}))
    moved = Path(shutil.copytree(tmp_path, tmp_path.with_name("moved"), copy_function=shutil.copy2))
    assert list(index_of(moved / "a.tar").members) == ["known.png"], "the index was not read"
    for damaged in (b"", b"{", b"[]", b'{"of": 1}', json.dumps({**kept, "members": [["x"]]}).encode()):
        (moved / "a.tar.index").write_bytes(damaged)
        os.utime(moved / "a.tar", ns=(1, 1 + len(damaged)))
        assert list(index_of(moved / "a.tar").members) == ["0.png"]
    write_shard(shard, {"0.png": png(0), "1.png": png(1)})
    assert list(index_of(shard).members) == ["0.png", "1.png"]


def test_much_to_look_through_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pairs(tmp_path)
    monkeypatch.setattr(shards, "WORTH_A_LINE", 100)
    assert opened(tmp_path)[1] == ["looks through 2 tar files, 0.0 GiB, once"]
    assert opened(tmp_path)[1] == []


def test_a_folder_that_takes_no_index_is_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "read-only")

    write_pairs(tmp_path)
    monkeypatch.setattr(images, "replace_file", refuse)
    assert len(opened(tmp_path)[0]) == 6 and not list(tmp_path.glob("*.index"))


@pytest.mark.parametrize("cut", [512 * 3 + 100, -10240, "header", "zeros", "all"])
def test_damaged_shards_are_named_and_their_readable_part_counts(tmp_path: Path, cut: int | str) -> None:
    write_pairs(tmp_path)
    shard = tmp_path / "0001.tar"
    data = bytearray(shard.read_bytes())
    second = 512 + (len(png(110)) + 511) // 512 * 512  # of 1000.json, after 1000.blur.png
    if isinstance(cut, int):
        del data[cut:]
    else:
        data[second : second + 512] = {"header": bytes(range(256)) * 2, "zeros": bytes(512), "all": b""}[cut]
    shard.write_bytes(b"no tar" if cut == "all" else data)
    dataset, lines = opened(tmp_path)
    assert len(dataset) == (5 if cut == -10240 else 3)
    assert any(f"pictures in {shard}: damaged tar file" in line for line in lines)
    assert Batches(dataset, 3)[0].bad == {}


def test_damaged_members_are_named_and_do_not_stop_a_batch(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    members = {"a.blur.png": png(0)[:200], "a.sharp.png": png(0), "b.blur.png": b"", "b.sharp.png": png(1)}
    write_shard(tmp_path / "0002.tar", members)
    batch = Batches(opened(tmp_path)[0], 8)[0]
    assert sorted(batch.bad) == ["0002.tar/a.blur.png", "0002.tar/b.blur.png"]
    assert batch.bad["0002.tar/b.blur.png"] == "empty file"
    assert batch.sharp.shape == (8, 3, 32, 32)


def test_a_member_without_its_partner_is_told_of(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", {"0.blur.png": png(0), "0.sharp.png": png(1), "1.blur.png": png(2)})
    data, lines = opened(tmp_path)
    assert len(data) == 1
    assert lines == [f"left out 1 pictures that belong to no pair, such as {tmp_path / 'a.tar' / '1.blur.png'}"]
    write_shard(tmp_path / "a.tar", {"1.blur.png": png(2)})
    with pytest.raises(ValueError, match="no sharp photos"):
        opened(tmp_path)


def test_hard_links_are_pictures_and_what_leads_elsewhere_is_none(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "x.tar", {"0.png": png(0), "../1.png": png(1), "/2.png": png(2)})
    with tarfile.open(shard, "a") as file:
        for name, kind in (("hard.png", tarfile.LNKTYPE), ("soft.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "0.png"
            file.addfile(info)
    data, _ = opened(shard)
    assert data.names() == ["0.png", "hard.png"]
    assert torch.equal(torch.from_numpy(data.decoded(1)[0]).permute(2, 0, 1), pixels(0))


def test_a_layout_is_said_of_shards_too(tmp_path: Path) -> None:
    tree = {f"train/S1/{kind}/{i}.png": png(i) for kind in ("blur", "sharp") for i in range(2)}
    shard = write_shard(tmp_path / "x.tar", tree)
    assert opened(shard, layout="gopro")[0].names() == ["train/S1/blur/0.png", "train/S1/blur/1.png"]
    for root in (shard, tmp_path):
        data, _ = opened(root, layout="sharp")
        assert isinstance(data, SharpFolder) and len(data) == 4


def test_an_index_that_leads_out_of_its_shard_is_written_anew(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "x.tar", {"0.png": png(0)})
    index_of(shard)
    kept = json.loads((tmp_path / "x.tar.index").read_bytes())
    for at, size in ((-1, 10), (10**30, 10), (0, 10**15)):
        (tmp_path / "x.tar.index").write_text(json.dumps({**kept, "members": [["0.png", at, size]]}))
        shards._index.cache_clear()
        assert index_of(shard).members == {"0.png": (512, len(png(0)))}


def test_versions_of_one_photo_are_known_in_shards(tmp_path: Path) -> None:
    versions = [(i, k, kind) for i in range(3) for k in range(2) for kind in ("blur", "sharp")]
    seeds = {f"{i}_{k:03d}.{kind}.png": i + 50 * k * (kind == "blur") for i, k, kind in versions}
    write_shard(tmp_path / "a.tar", {name: png(seed) for name, seed in seeds.items()})
    assert opened(tmp_path)[0].sources() == [0, 0, 2, 2, 4, 4]


def test_a_member_that_is_gone_is_missing(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", {"0.png": png(0)})
    with pytest.raises(FileNotFoundError, match=r"a\.tar/1\.png is not in its shard"):
        read_picture(shard / "1.png")


def test_training_on_shards_goes_on_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path / "shards", n=2)
    small = {name: value for name, value in TRAINING.items() if name != "steps"} | {"constant": 1.0}
    words = [word for name, value in small.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    for steps in ("3", "5"):
        out = str(tmp_path / "cut")
        assert cli.main(["train", str(tmp_path / "shards"), "-o", out, "--steps", steps, *words]) == 0
    assert "data is read as 4 pairs in 2 tar files" in capsys.readouterr().out
    deblurgan.train(tmp_path / "shards", out=tmp_path / "straight", log=None, steps=5, **small)
    last = [(tmp_path / run / "last.safetensors") for run in ("cut", "straight")]
    one, other = (deblurgan.load_generator(path).state_dict() for path in last)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_random_damage(capsys: pytest.CaptureFixture[str]) -> None:
    """More of it by the program itself."""
    program = runpy.run_path(str(Path(__file__).parent / "programs" / "mutate_shards.py"))
    program["main"](7, 20)
    told = capsys.readouterr().out
    assert "damage told" in told and "refused" in told
