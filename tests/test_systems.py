"""What is compared: the simple methods, other programs' pictures and how these are found, what is saved, and kernels
that stay what they are."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.restoration import richardson_lucy as skimages
from torch import Tensor

from conftest import texture
from deblurgan import Deblurrer, Generator, evaluate, images
from deblurgan.blur import apply_psf, random_trajectories, rasterize_psf
from deblurgan.cli import main
from deblurgan.data import PairedFolder, SharpFolder
from deblurgan.evaluation import baselines, synthetic
from deblurgan.evaluation.scenes import Pairs, Scene
from deblurgan.evaluation.systems import folder_system, output_name, save_picture
from deblurgan.metrics import psnr
from picture_folders import write, write_pairs

# Of kernels 0 ... 3 of a seed and exposure: the sum of each one's cells times a wave
WAVES = {
    (0, 0.5): [0.33712, -0.62643, -0.66246, -0.8179],
    (0, 1.0): [0.16961, -0.69858, -0.72302, -0.71428],
    (2026, 0.5): [0.0421, -0.30962, -0.73091, -0.85883],
    (2026, 1.0): [-0.29499, -0.43234, -0.5262, -0.72005],
}


@pytest.fixture
def deblurrer(small_generator: Generator) -> Deblurrer:
    return Deblurrer(small_generator, device="cpu")


def tensor(pixels: np.ndarray) -> Tensor:
    return torch.tensor(pixels).permute(2, 0, 1).contiguous()


def shaken(sharp: Tensor, size: int = 21) -> Scene:
    psf = rasterize_psf(random_trajectories(1, seed=4, length=12.0), size=size)[0]
    return Scene(apply_psf(sharp, psf), sharp, {}, psf)


def test_kernels_of_a_seed_are_those_of_the_version() -> None:
    i = torch.arange(65.0, dtype=torch.float64)
    wave = torch.cos(0.31 * i[:, None] + 0.17 * i + 0.05)
    for (seed, exposure), wanted in WAVES.items():
        photos = SharpFolder(Path(), pictures=[Path("a.png")])
        psfs = synthetic.Synthetic(photos, ["psnr"], kernels=4, exposures=[exposure], seed=seed).psfs[exposure]
        found = (psfs.double() * wave).sum((1, 2)).tolist()
        if synthetic.VERSION != 1 or found != pytest.approx(wanted, abs=2e-5):
            pytest.fail(f"seed {seed} gives other kernels than version 1: raise VERSION, and state these here: {found}")


def test_richardson_lucy_undoes_the_blur_of_a_known_kernel() -> None:
    smooth = np.asarray(Image.fromarray(texture(24, 30)).resize((120, 96), Image.Resampling.BICUBIC))
    scene = shaken(tensor(smooth))
    restored = baselines.richardson_lucy("", scene)
    assert (restored.dtype, restored.shape) == (torch.uint8, scene.sharp.shape)
    gain = psnr(restored, scene.sharp, 255.0) - psnr(scene.blurred, scene.sharp, 255.0)
    assert gain > 5
    white = torch.full((3, 40, 50), 255, dtype=torch.uint8)
    assert psnr(baselines.richardson_lucy("", Scene(white, white, {}, scene.psf)), white, 255.0) > 50
    one = skimages(
        np.pad(scene.blurred[1].numpy() / 255, 42, "reflect"), scene.psf.numpy(), num_iter=baselines.ITERATIONS
    )  # type: ignore[union-attr]
    assert np.abs(restored[1].numpy() - 255 * one[42:-42, 42:-42]).max() <= 0.5 + 1e-2


def test_unsharp_is_pillows_and_sharpens() -> None:
    scene = shaken(tensor(texture(40, 50)))
    restored = baselines.unsharp("", scene)
    assert (restored.dtype, restored.shape) == (torch.uint8, scene.sharp.shape)
    assert restored.double().std() > 1.2 * scene.blurred.double().std()
    flat = torch.full((3, 20, 30), 77, dtype=torch.uint8)
    assert baselines.unsharp("", Scene(flat, flat)).equal(flat)


def test_baselines_stand_in_the_report(deblurrer: Deblurrer, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "ITERATIONS", 1)
    report = evaluate(deblurrer, photos, "psnr", kernels=1, exposure=1.0, baselines=["unsharp", "richardson-lucy"])
    assert report.systems() == ["blurred", "restored", "unsharp", "richardson-lucy"]
    assert "the true kernel on each channel" in report.conventions["richardson-lucy"]
    assert "radius 2 and 150 %" in report.conventions["unsharp"]


def test_a_kernel_that_nobody_knows_is_refused_at_the_start(deblurrer: Deblurrer, tmp_path: Path) -> None:
    write_pairs(tmp_path)
    with pytest.raises(ValueError, match="richardson-lucy needs the kernels, which are not known here"):
        evaluate(deblurrer, tmp_path, baselines=["richardson-lucy"])
    with pytest.raises(ValueError, match=r"baselines must be of unsharp, richardson-lucy, got wiener"):
        evaluate(deblurrer, tmp_path, baselines=["wiener"])


def test_without_scikit_image_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("skimage"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "skimage.restoration", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'deblurgan\[baselines\]'"):
        baselines.require_baseline("richardson-lucy", knows_psf=True)
    baselines.require_baseline("unsharp", knows_psf=False)


@pytest.mark.parametrize(
    "picture, parts, wanted",
    [
        ("a.png", {}, "a.png"),
        ("blur/a.png", {"sequence": "GOPR01"}, "blur/a.png"),
        ("a.jpg", {}, "a.jpg.png"),
        ("a.png", {"exposure": 0.5, "kernel": 3}, "a_exposure0.5_kernel3.png"),
        ("b/a.jpg", {"exposure": 1.0, "kernel": 0}, "b/a.jpg_exposure1.0_kernel0.png"),
        ("clip.mp4#000012", {"frame": 12, "frames": 5}, "clip.mp4#000012.png"),
    ],
)
def test_names_of_outputs(picture: str, parts: dict, wanted: str) -> None:
    assert output_name(picture, parts) == Path(wanted)


@pytest.mark.parametrize("picture", ["../a.png", "b/../../a.png", "/tmp/a.png", ".."])  # noqa: S108
def test_nothing_is_saved_out_of_the_folder(picture: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pictures must have names below a folder"):
        save_picture(tmp_path / "out", picture, {}, torch.zeros(3, 4, 5, dtype=torch.uint8))
    assert list(tmp_path.iterdir()) == []


def test_what_is_saved_compares_as_what_was_measured(deblurrer: Deblurrer, photos: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"kernels": 2, "exposure": 0.5, "metrics": "psnr"}
    first = evaluate(deblurrer, photos, **options, baselines=["unsharp"], out=tmp_path / "out", save_pictures=True)
    saved = tmp_path / "out" / "pictures"
    assert {path.name: len(list(path.iterdir())) for path in saved.iterdir()} == dict.fromkeys(
        ["blurred", "sharp", "restored", "unsharp"], 8
    )
    row = first.rows[5]
    name = output_name(row.picture, row.parts)
    pair = [tensor(images.read(saved / system / name).pixels) for system in ("restored", "sharp")]
    assert float(psnr(*pair, 255.0)) == pytest.approx(row.figures["restored"]["psnr"], abs=1e-6)
    folders = {name: saved / name for name in ("restored", "unsharp")}
    again = evaluate(deblurrer, photos, **options, compare={f"other {name}": path for name, path in folders.items()})
    for before, after in zip(first.rows, again.rows, strict=True):
        for name in folders:
            assert after.figures[f"other {name}"] == before.figures[name]
    assert not (first.failed or again.failed)
    assert "another program's" in again.conventions["other unsharp"]


def test_saving_needs_a_folder(deblurrer: Deblurrer, photos: Path) -> None:
    with pytest.raises(ValueError, match="save_pictures needs out"):
        evaluate(deblurrer, photos, save_pictures=True)


@pytest.mark.parametrize("place", ["blur/1.png", "blur/1.jpg", "1.png", "1.tif"])
def test_pairs_are_found_by_path_and_by_bare_name(place: str, tmp_path: Path) -> None:
    write_pairs(tmp_path / "data")
    pairs = Pairs(PairedFolder(tmp_path / "data"), ["psnr"])
    pixels = write(tmp_path / "made" / place, seed=9)
    system = folder_system(tmp_path / "made", pairs)
    found = system("blur/1.png", pairs.scenes(1)[0])
    assert float(psnr(found, tensor(pixels), 255.0)) > (30 if place.endswith("jpg") else 1000)
    with pytest.raises(ValueError, match=r"made lacks blur/0.png"):
        system("blur/0.png", pairs.scenes(0)[0])


def test_a_bare_name_that_several_pictures_have_is_not_taken(tmp_path: Path) -> None:
    for part in "ab":
        write_pairs(tmp_path / "data" / part)
    pairs = Pairs(PairedFolder(tmp_path / "data"), ["psnr"])
    write(tmp_path / "made" / "0.png", seed=9)
    with pytest.raises(ValueError, match=r"made holds none: lacks a/blur/0.png"):
        folder_system(tmp_path / "made", pairs)


def wrong_size(path: Path) -> None:
    write(path, seed=0, h=30, w=40)


def damaged(path: Path) -> None:
    write(path, seed=0)
    path.write_bytes(path.read_bytes()[:-40])


def twice(path: Path) -> None:
    write(path, seed=0)
    write(path.with_suffix(".tif"), seed=1)


@pytest.mark.parametrize(
    "make, reason",
    [
        (wrong_size, "40x30, but the scene is 96x72"),
        (damaged, "damaged or truncated"),
        (twice, "made has several: 0.png, 0.tif"),
    ],
)
def test_bad_pictures_of_others_are_named(
    make: Callable[[Path], None], reason: str, deblurrer: Deblurrer, tmp_path: Path
) -> None:
    write_pairs(tmp_path / "data")
    make(tmp_path / "made" / "blur" / "0.png")
    write(tmp_path / "made" / "blur" / "1.png", seed=0)
    report = evaluate(deblurrer, tmp_path / "data", "psnr", compare={"made": tmp_path / "made"})
    assert [(failure.picture, failure.system) for failure in report.failed] == [
        ("blur/0.png", "made"),
        ("blur/2.png", "made"),
    ]
    assert reason in report.failed[0].reason
    assert "made lacks blur/2.png" in report.failed[1].reason
    assert [("made" in row.figures, "restored" in row.figures) for row in report.rows] == [
        (False, True),
        (True, True),
        (False, True),
    ]


def test_deep_pictures_are_rounded_and_alpha_is_left_out(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data")
    pairs = Pairs(PairedFolder(tmp_path / "data"), ["psnr"])
    deep = 257 * texture(72, 96).astype(np.uint16)
    deep[0, 0] = [128, 129, 65535]
    alpha = np.full((72, 96), 1000, np.uint16)
    (tmp_path / "made").mkdir()
    images.write(images.Picture(deep, alpha), tmp_path / "made" / "0.png")
    found = folder_system(tmp_path / "made", pairs)("blur/0.png", pairs.scenes(0)[0])
    assert found[:, 0, 0].tolist() == [0, 1, 255]
    assert found[:, 1:].equal(tensor(texture(72, 96))[:, 1:])


def test_folders_without_the_protocol_s_pictures_are_refused(
    deblurrer: Deblurrer, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"compare must name folders, got .*nowhere"):
        evaluate(deblurrer, photos, compare={"x": tmp_path / "nowhere"})
    with pytest.raises(ValueError, match=r"photos holds none: lacks 0_exposure0.5_kernel0.png"):
        evaluate(deblurrer, photos, compare={"x": photos})


@pytest.mark.parametrize("name", ["blurred", "sharp", "restored", "unsharp", "richardson-lucy", " "])
def test_names_that_are_taken_are_refused(name: str, deblurrer: Deblurrer, photos: Path) -> None:
    with pytest.raises(ValueError, match="compare must give names other than"):
        evaluate(deblurrer, photos, compare={name: photos})


@pytest.mark.parametrize("words", ["x", "=y", "x=", "x=a x=b"])
def test_what_is_no_name_with_a_folder_is_refused(words: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(photos), "--compare", *words.split()]) == 2
    assert "compare must be NAME=FOLDER, each name once" in capsys.readouterr().err
