"""The figures of a report, made again from its saved pictures by Pillow, scikit-image and SciPy alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.signal import convolve2d
from scipy.stats import t as students
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from conftest import texture
from deblurgan import Deblurrer, Generator, evaluate
from deblurgan.blur import random_trajectories, rasterize_psf
from deblurgan.detection.boxes import Detections

SSIM = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
ROUNDED = 1e-6  # figures have 6 digits
Parts = dict[str, Any]


class Squares:
    """Finds a square around the brightest pixel of each quarter."""

    name, classes = "squares", ("left", "right")

    def __call__(self, picture: Any) -> Detections:
        light, found = picture.sum(0).numpy(), Detections([], [], [])
        for top in (0, 30):
            for label, left in enumerate((0, 40)):
                quarter = light[top : top + 30, left : left + 40]
                y, x = np.unravel_index(quarter.argmax(), quarter.shape)
                found.boxes.append((float(left + x - 4), float(top + y - 4), float(left + x + 4), float(top + y + 4)))
                found.labels.append(label)
                found.scores.append(float(quarter.max()) / 765)
        return found


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recomputed")
    (folder / "photos").mkdir()
    for i in range(3):
        Image.fromarray(texture(60, 80, seed=i)).save(folder / "photos" / f"{i}.png")
    torch.manual_seed(0)
    deblurrer = Deblurrer(Generator("tiny", width=4, blocks=1), device="cpu", dtype="fp32")
    evaluate(
        deblurrer,
        folder / "photos",
        ("ssim-y", "psnr", "ssim", "psnr-y", "psnr"),
        kernels=1,
        baselines=("unsharp",),
        detector=Squares(),
        confidence=0.3,
        iou=0.3,
        out=folder / "out",
        save_pictures=True,
    )
    return folder / "out"


@pytest.fixture(scope="module")
def report(out: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((out / "report.json").read_text())
    return values


def saved(out: Path, system: str, row: Parts) -> np.ndarray:
    name = "{picture}_exposure{exposure}_kernel{kernel}".format(
        picture=row["picture"].removesuffix(".png"), **row["parts"]
    )
    return np.asarray(Image.open(out / "pictures" / system / f"{name}.png"))


def test_every_figure_is_that_of_the_saved_pictures(out: Path, report: dict[str, Any]) -> None:
    assert report["metrics"] == ["ssim-y", "psnr", "ssim", "psnr-y"]  # one that is given twice is one
    assert len(report["rows"]) == 6
    for row in report["rows"]:
        sharp = saved(out, "sharp", row)
        for system, figures in row["figures"].items():
            picture = saved(out, system, row)
            y = [p.astype(float) @ [0.299, 0.587, 0.114] for p in (sharp, picture)]
            assert figures == pytest.approx(
                {
                    "psnr": peak_signal_noise_ratio(sharp, picture, data_range=255),
                    "ssim": structural_similarity(sharp, picture, channel_axis=2, **SSIM),
                    "psnr-y": peak_signal_noise_ratio(*y, data_range=255),
                    "ssim-y": structural_similarity(*y, **SSIM),
                },
                abs=ROUNDED,
            )


def test_every_mean_gain_and_interval_is_that_of_the_figures(report: dict[str, Any]) -> None:
    lines = [({}, report["systems"])] + [({"exposure": line["exposure"]}, line["systems"]) for line in report["by"]]
    assert [part for part, _ in lines] == [{}, {"exposure": 0.5}, {"exposure": 1.0}]
    for part, systems in lines:
        rows = [row for row in report["rows"] if row["parts"].items() >= part.items()]
        for name, of in systems.items():
            for metric, found in of["means"].items():
                require_mean(found, [row["figures"][name][metric] for row in rows])
            if name != "blurred":
                won = [row["figures"][name]["ssim-y"] - row["figures"]["blurred"]["ssim-y"] for row in rows]
                require_mean(of["gain"], won)


def require_mean(found: dict[str, Any], values: list[float]) -> None:
    """The pictures have as many scenes each, and come one after the other."""
    pictures = np.reshape(values, (3, -1)).mean(1)
    half = students.ppf(0.975, 2) * pictures.std(ddof=1) / 3**0.5
    mean = float(np.mean(values))
    assert (found["number"], found["mean"]) == (len(values), pytest.approx(mean, abs=ROUNDED))
    assert found["interval"] == pytest.approx([mean - half, mean + half], abs=ROUNDED)
    assert [found["lowest"], found["highest"]] == pytest.approx([min(values), max(values)], abs=ROUNDED)


def test_blur_is_the_convolution_with_the_kernel_and_not_with_its_mirror_image(
    out: Path, report: dict[str, Any]
) -> None:
    row = report["rows"][0]
    psf = rasterize_psf(random_trajectories(1, seed=0), exposure=0.5)[0].double().numpy()
    radius = len(psf) // 2
    channel = np.pad(saved(out, "sharp", row)[..., 0].astype(float), radius, mode="reflect")
    blurred = saved(out, "blurred", row)[..., 0]
    right, mirrored = (convolve2d(channel, taps, "valid") - blurred for taps in (psf, psf[::-1, ::-1]))
    assert np.abs(right).max() < 0.501
    assert np.abs(mirrored).max() > 5


def test_what_is_detected_again_is_that_of_the_boxes(report: dict[str, Any]) -> None:
    """No box of a class has two candidates here: the squares of a class are of different quarters."""
    for name, of in report["detected"]["systems"].items():
        right = found = objects = 0
        for row in report["rows"]:
            sharp, seen = (row["detections"][key] for key in ("sharp", name))
            truths, guesses = (list(zip(*sure(boxes), strict=True)) for boxes in (sharp, seen))
            objects, found = objects + len(truths), found + len(guesses)
            right += sum(any(label == at and shared(box, b) >= 0.3 for b, at in truths) for box, label in guesses)
        assert (of["tp"], of["fp"], of["fn"]) == (right, found - right, objects - right)
        assert of["f1"] == pytest.approx(2 * right / (objects + found))
        assert right > 0


def sure(found: dict[str, Any]) -> tuple[list[Any], list[int]]:
    chosen = [i for i, score in enumerate(found["scores"]) if score >= 0.3]
    return [found["boxes"][i] for i in chosen], [found["labels"][i] for i in chosen]


def shared(a: list[float], b: list[float]) -> float:
    w, h = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    return w * h / (128 - w * h) if w > 0 and h > 0 else 0.0
