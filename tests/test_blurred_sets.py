"""Sets of blurred pictures that are made in more than one go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deblurgan import images
from deblurgan.blur import MotionBlur, apply_psf
from deblurgan.config import BlurConfig
from deblurgan.data import blurred_sets
from deblurgan.data.blurred_sets import write_blurred

PAIRS = [f"{folder}/{i}_{k:03d}.png" for folder in ("blur", "sharp") for i in range(4) for k in range(2)]


def options(photos: Path, out: Path, **more: Any) -> BlurConfig:
    return BlurConfig(**{"inputs": (photos,), "out": out, "pairs": True, "n": 2, "seed": 5, "length": 12.0, **more})


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def kernels(out: Path) -> dict[str, np.ndarray]:
    with np.load(out / "psf.npz", allow_pickle=False) as file:
        return dict(zip(file["names"].tolist(), file["psf"], strict=True))


def interrupt(config: BlurConfig, writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after so many pictures have been written."""
    left = iter(range(writes))

    def write(*args: Any, **keywords: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return images.write(*args, **keywords)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(blurred_sets, "images", Patched(write))
        write_blurred(config)


class Patched:
    """deblurgan.images with another `write`."""

    def __init__(self, write: Any) -> None:
        self.write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(images, name)


@pytest.fixture
def whole(photos: Path, tmp_path: Path) -> dict[str, bytes]:
    """The files of a set that was made in one go."""
    write_blurred(options(photos, tmp_path / "whole"))
    return contents(tmp_path / "whole")


@pytest.mark.parametrize("writes", [0, 1, 6, 15])
def test_an_interrupted_set_becomes_the_one_that_was_not(
    writes: int, photos: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = options(photos, tmp_path / "set")
    interrupt(config, writes, monkeypatch)
    made = contents(config.out)
    assert len(made) == writes + 1
    times = {name: (config.out / name).stat().st_mtime_ns for name in made}
    report = write_blurred(config)
    assert (len(report.done), len(report.skipped), report.failed) == (8 - writes // 2, writes // 2, [])
    assert contents(config.out) == whole
    assert sorted(whole) == [*PAIRS[:8], "psf.npz", *PAIRS[8:]]
    again = {name for name in made if (config.out / name).stat().st_mtime_ns != times[name]}
    half = {PAIRS[writes // 2]} if writes % 2 else set()
    assert again == {"psf.npz"} | half


def test_the_kernels_of_a_continued_set_are_those_of_its_pictures(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = options(photos, tmp_path / "set")
    interrupt(config, 5, monkeypatch)
    write_blurred(config)
    for name, psf in kernels(config.out).items():
        blurred, sharp = (
            torch.from_numpy(images.read(config.out / folder / name).pixels).permute(2, 0, 1)
            for folder in ("blur", "sharp")
        )
        assert torch.equal(apply_psf(sharp, torch.from_numpy(psf)), blurred)
    assert len(kernels(config.out)) == 8


def test_a_cameras_set_is_gone_on_with(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, config = (options(photos, tmp_path / name, realism="camera") for name in ("whole", "set"))
    write_blurred(whole)
    interrupt(config, 5, monkeypatch)
    write_blurred(config)
    assert contents(config.out) == contents(whole.out)
    blur = MotionBlur(realism="camera", length=12.0)
    sharp, blurred = (images.read(whole.out / folder / "1_000.png").pixels for folder in ("sharp", "blur"))
    assert np.array_equal(blurred, blur(sharp, seed=5, index=2))


def test_a_set_that_is_older_than_the_camera_is_gone_on_with(
    photos: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    config = options(photos, tmp_path / "whole")
    with np.load(config.out / "psf.npz", allow_pickle=False) as file:
        arrays = dict(file)
    told = json.loads(str(arrays["options"]))
    for name in ("highlights", "shot", "read", "jpeg"):
        del told[name]
    np.savez(config.out / "psf.npz", **{**arrays, "options": np.array(json.dumps(told))})
    with pytest.raises(FileExistsError, match="is of a set with highlights"):
        write_blurred(options(photos, config.out, realism="camera", gamma=1.0))
    write_blurred(config)
    assert contents(config.out) == whole


@pytest.mark.parametrize(
    "other, words",
    [
        ({"seed": 6}, "is of a set with seed 5, not 6"),
        ({"n": 3}, "is of a set with n 2, not 3"),
        ({"length": 13.0}, "is of a set with length 12.0, not 13.0"),
        ({"exposure": (1.0,)}, r"is of a set with exposure \[0.1, 0.5, 1.0\], not \[1.0\]"),
        ({"padding": "zero"}, "is of a set with padding reflect, not zero"),
        ({"gamma": 2.2}, "is of a set with gamma 1.0, not 2.2"),
        ({"realism": "camera"}, "is of a set with gamma 1.0, not 2.2"),
        ({"realism": "camera", "gamma": 1.0}, r"is of a set with highlights \[0.0, 0.0\], not \[0.25, 1.75\]"),
        ({"noise": (0.0, 0.1)}, r"is of a set with noise \[0.0, 0.0\], not \[0.0, 0.1\]"),
        ({"inputs": ("photos/0.png",)}, "is of other pictures, such as "),
        ({"inputs": ("photos/3.png", "photos/2.png", "photos/1.png", "photos/0.png")}, "is of other pictures, such as"),
    ],
)
@pytest.mark.parametrize("writes", [4, None])
def test_sets_are_not_mixed(
    other: dict[str, Any],
    words: str,
    writes: int | None,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = options(photos, tmp_path / "set")
    if writes is None:
        write_blurred(config)
    else:
        interrupt(config, writes, monkeypatch)
    before = contents(config.out)
    with pytest.raises(FileExistsError, match=f"{words}.*: overwrite=True replaces it"):
        write_blurred(options(photos, config.out, **other))
    assert contents(config.out) == before


def test_a_set_takes_in_later_pictures_and_mended_ones(photos: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    config = options(photos, tmp_path / "set")
    shutil.move(photos / "3.png", tmp_path / "3.png")
    (tmp_path / "1.png").write_bytes((photos / "1.png").read_bytes())
    (photos / "1.png").write_bytes(b"damaged")
    assert len(write_blurred(config).failed) == 2
    assert sorted(kernels(config.out)) == ["0_000.png", "0_001.png", "2_000.png", "2_001.png"]
    for name in ("1.png", "3.png"):
        shutil.move(tmp_path / name, photos / name)
    assert len(write_blurred(config).skipped) == 4
    assert contents(config.out) == whole


@pytest.mark.parametrize("name", ["blur/0_000.png", "sharp/3_001.png"])
def test_what_is_no_part_of_the_set_stays(name: str, photos: Path, tmp_path: Path) -> None:
    config = options(photos, tmp_path / "set")
    (config.out / name).parent.mkdir(parents=True)
    (config.out / name).write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=f"{name} exists: overwrite=True replaces it"):
        write_blurred(config)
    assert contents(config.out) == {name: b"mine"}


@pytest.mark.parametrize("archive", [b"", b"mine", None])
def test_an_archive_that_says_nothing_of_its_set_stays(archive: bytes | None, photos: Path, tmp_path: Path) -> None:
    config = options(photos, tmp_path / "set")
    config.out.mkdir()
    if archive is None:
        np.savez(config.out / "psf.npz", names=np.array(["0_000.png"]), psf=np.zeros((1, 3, 3), np.float32))
    else:
        (config.out / "psf.npz").write_bytes(archive)
    before = contents(config.out)
    with pytest.raises(FileExistsError, match=r"psf\.npz does not say how it was made: overwrite=True replaces it"):
        write_blurred(config)
    assert contents(config.out) == before


def test_an_interrupted_replacement_is_not_taken_for_a_set(
    photos: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = options(photos, tmp_path / "set")
    write_blurred(options(photos, config.out, seed=6))
    interrupt(options(photos, config.out, overwrite=True), 6, monkeypatch)
    with pytest.raises(FileExistsError, match="exists: overwrite=True replaces it"):
        write_blurred(config)
    write_blurred(options(photos, config.out, overwrite=True))
    assert contents(config.out) == whole


def test_no_archive_is_left_of_a_set_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"damaged")
    assert len(write_blurred(options(tmp_path / "in", tmp_path / "set", n=1)).failed) == 1
    assert contents(tmp_path / "set") == {}


def test_a_set_is_not_put_among_its_own_inputs(photos: Path) -> None:
    with pytest.raises(ValueError, match="out must be a folder and no input with pairs=True"):
        write_blurred(options(photos, photos))
    for _ in range(2):
        write_blurred(options(photos, photos / "set"))
    assert sorted(contents(photos / "set")) == [*PAIRS[:8], "psf.npz", *PAIRS[8:]]


def test_single_versions_are_gone_on_with_by_skip_existing(photos: Path, tmp_path: Path) -> None:
    shared = {"pairs": False, "show_psf": True}
    write_blurred(options(photos, tmp_path / "whole", **shared))
    config = options(photos, tmp_path / "set", skip_existing=True, **shared)
    write_blurred(options(photos / "0.png", config.out, pairs=False))
    assert (len((report := write_blurred(config)).done), len(report.skipped)) == (6, 2)
    assert contents(config.out) == contents(tmp_path / "whole")
