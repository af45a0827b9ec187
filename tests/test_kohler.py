"""Köhler's benchmark measures what the authors' code measures, in every layout, and names what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from kohler_transcription import dftregistration, eval_image, mssim_index

from conftest import texture
from deblurgan import Deblurrer, Generator, ImageError, evaluate, images
from deblurgan.evaluation.alignment import matching_gain, shifted, whole_pixel_shift
from deblurgan.evaluation.kohler import KEYS, Kohler, _levels, _ms_ssim
from deblurgan.evaluation.protocols import open_protocol


def write(path: Path, pixels: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(images.Picture(pixels), path)
    return pixels


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def moved(pixels: np.ndarray, down: int, right: int, gain: float) -> np.ndarray:
    """The picture moved round its borders, `gain` times as bright, with a little noise."""
    noise = np.random.default_rng([abs(down), abs(right), int(100 * gain)]).normal(0, 3, pixels.shape)
    return np.clip(np.roll(pixels, (down, right), (0, 1)) * gain + noise, 0, 255).round().astype(np.uint8)


MOVES = [(0, 0, 1.0), (3, -7, 1.15), (-12, 5, 0.8), (1, 0, 0.9)]


def small_set(root: Path, *, size: tuple[int, int] = (40, 48)) -> Path:
    """Two pictures with few frames, one in a folder of its own."""
    for seed, (motif, path) in enumerate([(1, 1), (1, 3), (4, 12)]):
        sharp = texture(*size, seed=seed)
        write(root / f"Blurry{motif}_{path}.png", moved(sharp, 0, 0, 0.9))
        for i, move in enumerate(MOVES):
            write(root / f"Image{motif}/Kernel{path}/GroundTruth{motif}_{path}_{i + 1}.png", moved(sharp, *move))
    return root


def opened(root: Path, *metrics: str) -> Kohler:
    return Kohler(root, metrics or ("psnr",), log=lambda line: None)


@pytest.mark.any_cpu
def test_figures_are_those_of_the_official_code(tmp_path: Path) -> None:
    protocol = opened(small_set(tmp_path, size=(161, 180)), "psnr", "ms-ssim")
    (scene,) = protocol.scenes(0)
    frames = {i + 1: frame.permute(1, 2, 0).numpy() for i, frame in enumerate(scene.frames())}
    assert len(frames) == len(MOVES)
    restored = moved(frames[2], 4, 9, 0.7)
    scores = eval_image(restored, frames, list(frames))
    wanted = {"psnr": max(scores["PSNR"]), "ms-ssim": max(scores["MSSIM"])}
    assert protocol.measure(tensor(restored), scene) == pytest.approx(wanted, rel=1e-10)


def test_of_the_opposite_structure_the_absolute_value_counts() -> None:
    truth = texture(161, 180).mean(2)
    negative, positive = (list(_levels(picture)) for picture in (255 - truth, truth))
    assert _ms_ssim(negative, 1.0, positive) == pytest.approx(mssim_index(truth, 255 - truth), rel=1e-10)


def test_known_gains_and_shifts_are_recovered() -> None:
    truth = texture(61, 70).transpose(2, 0, 1).astype(float)
    for down, right, gain in [(0, 0, 1.25), (5, -8, 0.8), (-29, 30, 1.1), (-4, -1, 0.5), (29, -34, 1.0)]:
        picture = np.roll(truth, (-down, -right), (1, 2)) / gain
        shift = whole_pixel_shift(truth.mean(0), np.fft.rfft2(picture.mean(0)))
        assert shift == (down, right)
        over = [shifted(part, shift) for part in picture]
        mask = shifted(np.ones((61, 70)), shift)
        assert matching_gain(np.array(over), truth * mask) == pytest.approx(gain, rel=1e-12)
        np.testing.assert_allclose(np.array(over) * gain, truth * mask, atol=1e-9)


def test_shifts_of_half_a_side_have_the_official_sign() -> None:
    truth = texture(9, 10).mean(2)
    for down in range(9):
        for right in (4, 5, 6):
            picture = np.roll(truth, (-down, -right), (0, 1))
            wanted = dftregistration(np.fft.fft2(truth), np.fft.fft2(picture))
            assert whole_pixel_shift(truth, np.fft.rfft2(picture)) == wanted
            assert (wanted[0] - down) % 9 == (wanted[1] - right) % 10 == 0


def test_equal_pictures_have_100_db_and_a_similarity_of_1(tmp_path: Path) -> None:
    protocol = opened(small_set(tmp_path, size=(161, 161)), "psnr", "ms-ssim")
    (scene,) = protocol.scenes(0)
    assert protocol.measure(list(scene.frames())[2], scene) == pytest.approx({"psnr": 100.0, "ms-ssim": 1.0})


def test_frame_30_of_the_third_trajectory_is_passed_over(tmp_path: Path) -> None:
    small_set(tmp_path)
    blurred = images.read(tmp_path / "Blurry1_3.png").pixels
    for number in (30, 31, 199):
        write(tmp_path / f"GroundTruth1_3_{number}.png", blurred if number != 31 else texture(40, 48, seed=9))
    protocol = opened(tmp_path)
    (scene,) = protocol.scenes(KEYS.index((1, 3)))
    assert len(list(scene.frames())) == 5
    assert protocol.measure(scene.blurred, scene)["psnr"] < 40
    shutil.copy(tmp_path / "GroundTruth1_3_30.png", tmp_path / "GroundTruth1_3_32.png")
    (scene,) = opened(tmp_path).scenes(KEYS.index((1, 3)))
    assert protocol.measure(scene.blurred, scene)["psnr"] == 100.0


@pytest.mark.parametrize(
    "blurred, frame",
    [
        ("BlurryImages/Blurry{0}_{1}.png", "GroundTruth_pngs_Image{0}/Image{0}/Kernel{1}/GroundTruth{0}_{1}_{2}.png"),
        ("Blurry{0}_{1}.jpg", "groundtruth{0}_{1}_{2}.jpg"),
    ],
)
def test_every_layout_is_read(blurred: str, frame: str, tmp_path: Path) -> None:
    for key in [(1, 1), (3, 12)]:
        write(tmp_path / blurred.format(*key), texture(20, 24))
        for number in (1, 2, 3, 11):
            write(tmp_path / frame.format(*key, number), texture(20, 24, seed=number))
    protocol = opened(tmp_path)
    assert len(protocol.pictures()) == len(set(protocol.pictures())) == 48
    for key in [(1, 1), (3, 12)]:
        index = KEYS.index(key)
        assert protocol.pictures()[index] == blurred.format(*key)
        (scene,) = protocol.scenes(index)
        assert scene.parts == {"motif": key[0], "trajectory": key[1]}
        assert len(list(scene.frames())) == 4
        assert torch.equal(scene.sharp, list(scene.frames())[1])


def test_a_report_has_a_line_a_motif_and_names_what_is_missing(small_generator: Generator, tmp_path: Path) -> None:
    deblurrer = Deblurrer(small_generator, device="cpu")
    small_set(tmp_path)
    (tmp_path / "Blurry4_12.png").unlink()
    write(tmp_path / "Blurry2_7.png", texture(40, 48))
    write(tmp_path / "Blurry2_8.png", texture(40, 48))
    write(tmp_path / "GroundTruth2_8_1.png", texture(41, 48))
    write(tmp_path / "Blurry2_9.png", texture(40, 48))
    write(tmp_path / "GroundTruth2_9_1.png", texture(40, 48))
    (tmp_path / "GroundTruth2_9_2.png").write_bytes(b"")
    report = evaluate(deblurrer, tmp_path, ["psnr"], protocol="kohler")
    assert [row.picture for row in report.rows] == ["Blurry1_1.png", "Blurry1_3.png"]
    reasons = {failure.picture: failure.reason for failure in report.failed}
    assert len(reasons) == 46
    assert reasons["Blurry4_12.png"] == reasons["Blurry1_2.png"] == "is missing"
    assert reasons["Blurry2_7.png"] == "has no sharp frames GroundTruth2_7_1.png ..."
    assert reasons["Blurry2_8.png"] == "GroundTruth2_8_1.png: 48x40 blurred but 48x41 sharp"
    assert reasons["Blurry2_9.png"] == "GroundTruth2_9_2.png: empty file"
    assert "psnr, dB by motif" in str(report)
    assert report.conventions["data"].startswith("5 of 48 blurred pictures, 15 sharp frames of 9545;")
    missing = report.conventions["missing frames"].split("; ")
    assert missing[:3] == ["5-199 of 1_1", "1-199 of 1_2", "5-29, 31-198 of 1_3"]
    assert len(missing) == 48


@pytest.mark.parametrize(
    "names, words",
    [
        (["a.png"], "found no Blurry1_1.png"),
        (["Blurry1_1.png", "GroundTruth1_1.mat"], "found no GroundTruth1_1_1.png .* take the PNG frames"),
        (["Blurry1_1.png", "x/Blurry1_1.jpg"], "one picture Blurry1_1, got .*png and .*jpg"),
        (["Blurry1_1.png", "GroundTruth1_1_1.png", "x/GroundTruth1_1_1.png"], "one picture GroundTruth1_1_1"),
    ],
)
def test_other_folders_are_refused(names: list[str], words: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=words):
        opened(tmp_path)
    with pytest.raises(FileNotFoundError, match="data must be a folder"):
        opened(tmp_path / "nowhere")


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    protocol = opened(small_set(tmp_path), "ms-ssim")
    (scene,) = protocol.scenes(0)
    with pytest.raises(ValueError, match=r"at least 161 for MS-SSIM, got \(40, 48\)"):
        protocol.measure(scene.blurred, scene)
    with pytest.raises(ValueError, match=r"picture must be \(3, 40, 48\), got \(3, 40, 47\)"):
        protocol.measure(scene.blurred[..., :-1], scene)
    with pytest.raises(ValueError, match="a black picture has no gain"):
        opened(tmp_path).measure(torch.zeros_like(scene.blurred), scene)
    with pytest.raises(ImageError, match=r"Blurry1_2\.png: is missing"):
        protocol.scenes(1)


OPTIONS = {
    "frames": (5, 25),
    "layout": "auto",
    "gamma": False,
    "scale": 1.0,
    "kernels": 4,
    "exposure": (1.0,),
    "seed": 0,
    "log": lambda line: None,
}


def test_its_frames_are_not_taken_for_any_sharp_photos(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="say that the protocol is kohler"):
        open_protocol("auto", small_set(tmp_path), [], **OPTIONS)


@pytest.mark.parametrize(
    "metrics, options, words",
    [
        (["ssim"], {}, "metrics must be of psnr, ms-ssim, got ssim"),
        ([], {"scale": 0.5}, "scale must be 1.0 for kohler, got 0.5"),
        ([], {"layout": "paired"}, "layout must be auto for kohler, got paired"),
        ([], {"gamma": True}, "gamma must be False for kohler, got True"),
    ],
)
def test_options_without_effect_are_refused(metrics: list[str], options: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        open_protocol("kohler", tmp_path, metrics, **OPTIONS | options)
