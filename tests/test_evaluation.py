"""Figures agree with scikit-image's; every layout is read; what cannot be measured is said."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import texture
from deblurgan import Deblurrer, Generator, evaluate, images
from deblurgan.blur import apply_psf, random_trajectories, rasterize_psf


@pytest.fixture
def deblurrer(small_generator: Generator) -> Deblurrer:
    return Deblurrer(small_generator, device="cpu")


@pytest.fixture
def identity(small_generator: Generator) -> Deblurrer:
    """Gives every picture back as it is: the last convolution is zero."""
    torch.nn.init.zeros_(small_generator.head.weight)
    torch.nn.init.zeros_(small_generator.head.bias)
    return Deblurrer(small_generator, device="cpu")


def figures(picture: np.ndarray, sharp: np.ndarray) -> dict[str, float]:
    """scikit-image's, of uint8 pictures [h, w, 3]."""
    skimage = pytest.importorskip("skimage.metrics", reason="the extra baselines")
    ssim = skimage.structural_similarity(
        sharp, picture, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2, data_range=255
    )
    return {"psnr": skimage.peak_signal_noise_ratio(sharp, picture, data_range=255), "ssim": ssim}


def add(path: Path, pixels: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(images.Picture(pixels), path)
    return pixels


def test_one_metric_and_one_exposure_need_no_list(deblurrer: Deblurrer, tmp_path: Path) -> None:
    add(tmp_path / "a.png", texture(30, 41))
    report = evaluate(deblurrer, tmp_path, "psnr", kernels=1, exposure=0.5)
    assert [(row.parts["exposure"], list(row.figures["restored"])) for row in report.rows] == [(0.5, ["psnr"])]


def soft(sharp: np.ndarray) -> np.ndarray:
    """A blurred version: each pixel the mean of itself and its right neighbour."""
    return ((sharp.astype(int) + np.roll(sharp, -1, 1)) // 2).astype(np.uint8)


def paired(root: Path, count: int = 2) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A paired folder; gives (blurred, sharp) by name."""
    pairs = {}
    for i in range(count):
        sharp = add(root / "sharp" / f"{i}.png", texture(30, 41, seed=i))
        pairs[f"blur/{i}.png"] = add(root / "blur" / f"{i}.png", soft(sharp)), sharp
    return pairs


def gopro(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A GoPro tree whose training split must not be measured."""
    pairs = {}
    for sequence in ("GOPR01", "GOPR02"):
        for folder in ("train", "test"):
            sharp = add(root / folder / sequence / "sharp" / "000001.png", texture(30, 41, seed=len(pairs)))
            blurred = add(root / folder / sequence / "blur" / "000001.png", soft(sharp))
            add(root / folder / sequence / "blur_gamma" / "000001.png", sharp)
        pairs[f"test/{sequence}/blur/000001.png"] = blurred, sharp
    return pairs


def side_by_side(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    sharp = texture(30, 41)
    add(root / "ab.png", np.concatenate([soft(sharp), sharp], 1))
    return {"ab.png": (soft(sharp), sharp)}


@pytest.mark.parametrize(
    "make, layout",
    [(paired, "auto"), (paired, "paired"), (gopro, "auto"), (gopro, "gopro"), (side_by_side, "side-by-side")],
)
def test_figures_of_pairs_are_scikit_images(
    deblurrer: Deblurrer, make: Callable[[Path], dict], layout: str, tmp_path: Path
) -> None:
    pairs = make(tmp_path)
    report = evaluate(deblurrer, tmp_path, layout=layout)
    assert [row.picture for row in report.rows] == list(pairs)
    for row in report.rows:
        blurred, sharp = pairs[row.picture]
        assert row.figures["blurred"] == pytest.approx(figures(blurred, sharp), abs=1e-4)
        assert row.figures["restored"] == pytest.approx(figures(deblurrer(blurred), sharp), abs=1e-4)
        assert row.figures["blurred"] != row.figures["restored"]
        assert row.parts == ({"sequence": row.picture.split("/")[1]} if report.protocol == "gopro" else {})
    assert report.mean("ssim") == pytest.approx(np.mean([row.figures["restored"]["ssim"] for row in report.rows]))
    assert report.mean("psnr", system="blurred") == pytest.approx(
        np.mean([row.figures["blurred"]["psnr"] for row in report.rows])
    )
    assert report.gains() == [row.figures["restored"]["psnr"] - row.figures["blurred"]["psnr"] for row in report.rows]
    assert (report.sharp, report.failed) == ({}, [])


def test_sharp_photos_are_blurred_by_fixed_centred_kernels(deblurrer: Deblurrer, photos: Path) -> None:
    report = evaluate(deblurrer, photos, kernels=2, exposure=(0.5, 1.0), seed=3)
    assert [(row.picture, row.parts["exposure"], row.parts["kernel"]) for row in report.rows] == [
        (f"{i}.png", exposure, k) for i in range(4) for exposure in (0.5, 1.0) for k in range(2)
    ]
    paths = random_trajectories(2, seed=3)
    for row in report.rows:
        sharp = images.read(photos / row.picture).pixels
        psf = rasterize_psf(paths, exposure=row.parts["exposure"])[row.parts["kernel"]]
        blurred = apply_psf(torch.from_numpy(sharp).permute(2, 0, 1), psf).permute(1, 2, 0).numpy()
        assert row.figures["blurred"] == pytest.approx(figures(blurred, sharp), abs=1e-4)
        assert row.figures["restored"] == pytest.approx(figures(deblurrer(blurred), sharp), abs=1e-4)
    wanted = {f"{i}.png": figures(deblurrer(s), s)["psnr"] for i in range(4) for s in [texture(72, 96, seed=i)]}
    assert report.sharp == pytest.approx(wanted, abs=1e-4)
    assert report.mean(exposure=0.5) != report.mean(exposure=1.0)
    assert len(report.gains(exposure=1.0)) == 8


@pytest.mark.any_cpu
def test_the_same_seed_gives_the_same_report(deblurrer: Deblurrer, photos: Path) -> None:
    first, again = (evaluate(deblurrer, photos, kernels=1, exposure=(1.0,), seed=5) for _ in range(2))
    assert first == again
    other = evaluate(deblurrer, photos, kernels=1, exposure=(1.0,), seed=6)
    assert first.rows[0].figures["blurred"] != other.rows[0].figures["blurred"]
    more = evaluate(deblurrer, photos, kernels=2, exposure=(1.0,), seed=5)
    assert more.rows[::2] == first.rows


def test_an_identity_gains_nothing_and_returns_sharp_pictures_at_100_db(identity: Deblurrer, photos: Path) -> None:
    report = evaluate(identity, photos, kernels=1)
    assert all(row.figures["blurred"] == row.figures["restored"] for row in report.rows)
    assert set(report.gains()) == {0.0}
    assert report.sharp == dict.fromkeys(["0.png", "1.png", "2.png", "3.png"], 100.0)
    assert "sharp pictures come back at 100.00 dB, the worst at 100.00" in str(report)
    assert re.search(r"^restored +8  \+0.00 \[\+0.00, \+0.00\]  \+0.00  \+0.00$", str(report), re.MULTILINE)


def test_metrics_can_be_chosen(deblurrer: Deblurrer, tmp_path: Path) -> None:
    paired(tmp_path)
    report = evaluate(deblurrer, tmp_path, ["ssim"])
    assert all(list(row.figures["blurred"]) == list(row.figures["restored"]) == ["ssim"] for row in report.rows)
    assert "ssim" in str(report)
    assert "dB" not in str(report)


def test_a_dataset_may_stand_in_for_a_folder(deblurrer: Deblurrer, tmp_path: Path) -> None:
    from deblurgan.data import PairedFolder

    paired(tmp_path)
    assert evaluate(deblurrer, PairedFolder(tmp_path)) == evaluate(deblurrer, tmp_path)


def test_a_bad_or_too_small_picture_is_listed_and_counted_nowhere(deblurrer: Deblurrer, photos: Path) -> None:
    (photos / "bad.png").write_bytes(b"not a picture")
    add(photos / "small.png", texture(10, 40))
    lines: list[str] = []
    report = evaluate(deblurrer, photos, kernels=1, log=lines.append)
    assert [failure.picture for failure in report.failed] == ["bad.png", "small.png"]
    assert "at least 11" in report.failed[1].reason
    assert {row.picture for row in report.rows} == set(report.sharp) == {"0.png", "1.png", "2.png", "3.png"}
    assert f"failed: bad.png: {report.failed[0].reason}" in str(report)
    assert "4 pictures, 8 scenes (a picture under one blur is a scene), 96x72 px; 2 pictures failed" in str(report)
    assert len(lines) == 6
    assert lines[4] == f"[5/6] bad.png failed: {report.failed[0].reason}"


def test_the_report_says_mean_worst_best_and_the_hard_ones(deblurrer: Deblurrer, photos: Path) -> None:
    report = evaluate(deblurrer, photos, kernels=1)
    gains = report.gains()
    lines = [re.split(" {2,}", line) for line in str(report).splitlines()]
    table = {cells[0]: cells[1:] for cells in lines if cells[0] == "restored" and len(cells) == 5}
    assert [table["restored"][i] for i in (0, 2, 3)] == ["8", f"{min(gains):+.2f}", f"{max(gains):+.2f}"]
    assert table["restored"][1].startswith(f"{np.mean(gains):+.2f} [")
    starts = [row.figures["blurred"]["psnr"] for row in report.rows]
    middle = float(np.median(starts))
    hard = [gain for gain, start in zip(gains, starts, strict=True) if start < middle]
    assert len(hard) == 4
    assert report.gains(below=middle) == hard
    assert report.gain(below=middle).mean == pytest.approx(np.mean(hard))
    for share in (0.5, 1.0):
        means = [f"{report.mean(system=name, exposure=share):.2f}" for name in ("blurred", "restored")]
        assert [f"{share:g}", "4", *means] in lines


def test_csv_holds_every_row(deblurrer: Deblurrer, photos: Path, tmp_path: Path) -> None:
    report = evaluate(deblurrer, photos, kernels=1)
    report.to_csv(tmp_path / "figures.csv")
    with (tmp_path / "figures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "picture",
        "exposure",
        "kernel",
        "blurred_psnr",
        "blurred_ssim",
        "restored_psnr",
        "restored_ssim",
    ]
    assert len(rows) == len(report.rows) == 8
    for read, row in zip(rows, report.rows, strict=True):
        assert (read["picture"], float(read["exposure"]), int(read["kernel"])) == (
            row.picture,
            row.parts["exposure"],
            row.parts["kernel"],
        )
        assert float(read["blurred_psnr"]) == pytest.approx(row.figures["blurred"]["psnr"], abs=1e-6)
        assert float(read["restored_ssim"]) == pytest.approx(row.figures["restored"]["ssim"], abs=1e-6)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"metrics": ["psnr", "niqe"]}, "metrics must be of psnr, ssim.*, got niqe"),
        ({"kernels": 0}, "kernels must be at least 1, got 0"),
        ({"exposure": ()}, "exposure must name at least one"),
        ({"exposure": (0.0,)}, "exposure"),
        ({"exposure": (1.5,)}, "exposure"),
        ({"layout": "zip"}, "layout must be"),
    ],
)
def test_wrong_options_are_refused(deblurrer: Deblurrer, photos: Path, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(deblurrer, photos, **options)


def test_data_without_a_readable_picture_is_refused(deblurrer: Deblurrer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="data must be a folder"):
        evaluate(deblurrer, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="data must hold pictures, found none"):
        evaluate(deblurrer, tmp_path)
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"data must hold a picture that can be measured, got bad.png: empty file"):
        evaluate(deblurrer, tmp_path)


def test_an_empty_report_prints(tmp_path: Path) -> None:
    from deblurgan import Report

    assert str(Report("pairs")) == "no picture was measured"
    assert math.isnan(Report("pairs").mean())
    Report("pairs").to_csv(tmp_path / "empty.csv")
    assert (tmp_path / "empty.csv").read_text().startswith("picture")
