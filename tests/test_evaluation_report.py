"""Means with intervals, the table of them, JSON that holds all; nothing that failed is averaged away."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import texture
from deblurgan import Deblurrer, Generator, Report, evaluate
from deblurgan.detection.boxes import Detections
from deblurgan.evaluation import Failure, Protocol, Row, Scene
from deblurgan.evaluation.detected import Rules
from deblurgan.evaluation.judge import Judge
from deblurgan.evaluation.means import mean_of, students_t
from deblurgan.evaluation.table import paragraphs, table
from deblurgan.metrics import METRICS


def test_an_interval_is_that_of_many_independent_values() -> None:
    values = np.random.default_rng(1).normal(30, 2, 400)
    found = mean_of(list(values), range(400))
    assert found.interval is not None
    half = 1.96 * values.std() / 20
    assert found.interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert (found.mean, found.lowest, found.highest) == pytest.approx((values.mean(), values.min(), values.max()))


def test_values_of_one_sample_are_not_independent() -> None:
    values, samples = [20.0, 24.0, 31.0, 22.0], ["a", "b", "c", "d"]
    once, often = mean_of(values, samples), mean_of(values * 9, samples * 9)
    assert often.interval == pytest.approx(once.interval)
    assert mean_of(values, ["a"] * 4).interval is None
    assert math.isnan(mean_of([], []).mean)


def test_samples_of_different_sizes_count_by_their_values() -> None:
    """By hand: each sample's sum departs from its share of the mean by 9 of 10 values' sum, with either sign."""
    found = mean_of([10.0] + [20.0] * 9, ["a"] + ["b"] * 9)
    assert found.mean == 19
    half = 12.706204736 * math.sqrt(2 * (0.9**2 + 0.9**2))
    assert found.interval == pytest.approx((19 - half, 19 + half))


@pytest.mark.parametrize(
    ("degrees", "exceeded"), [(1, 12.7062), (2, 4.3027), (10, 2.2281), (11, 2.2010), (120, 1.9799)]
)
def test_student_s_t_is_that_of_the_tables(degrees: int, exceeded: float) -> None:
    assert students_t(degrees) == pytest.approx(exceeded, abs=5e-5)


@pytest.mark.parametrize("n", [3, 12])
def test_intervals_of_few_samples_hold_the_truth_as_often_as_they_say(n: int) -> None:
    """Samples of unequal sizes, whose scenes have much in common; 2.4 % is 3 standard errors of the count."""
    draw = np.random.default_rng(n)
    held = 0
    for _ in range(750):
        samples = np.repeat(np.arange(n), draw.integers(4, 9, n))
        values = draw.normal(0, 2, n)[samples] + draw.normal(0, 1, len(samples))
        low, high = mean_of(list(values), list(samples)).interval or (0.0, 0.0)
        held += low <= 0 <= high
    assert held / 750 == pytest.approx(0.95, abs=0.024)


def made(systems: Sequence[str] = ("blurred", "restored"), metrics: Sequence[str] = ("psnr",), n: int = 6) -> Report:
    rows = []
    for i in range(n):
        figures = {
            name: {metric: 20.0 + i + j for metric in metrics}
            for j, name in enumerate(systems)
            if not (name == "other" and i == 1)
        }
        rows.append(Row(f"{i // 2}.png", {"exposure": (0.5, 1.0)[i % 2]}, figures, size=(48, 64)))
    lost = Failure("0.png", {"exposure": 1.0}, "other", "missing")
    return Report("synthetic", tuple(metrics), {"data": "few"}, "exposure", rows=rows, failed=[lost])


def test_a_system_that_lacks_scenes_is_said_so_wherever_it_stands_beside_others() -> None:
    report = made(("blurred", "restored", "other"))
    text = str(report)
    assert "other lacks 1 of 6 scenes: its means are of the other 5, its gains over the blurred ones of those" in text
    assert "failed: other of 0.png (exposure 1.0): missing" in text
    assert report.gains("other") == [2.0] * 5
    assert [line.split() for line in text.splitlines() if line.startswith("1  ")] == [
        ["1", "3", "23.00", "24.00", "26.00", "of", "2"]
    ]
    assert report.to_mapping()["systems"]["other"]["lacks"] == 1


def test_the_text_fits_100_columns_and_lacks_no_mean() -> None:
    systems = ("blurred", "restored", "unsharp", "richardson-lucy", "another-program-of-old", "one-more", "and-more")
    report = made(systems, tuple(METRICS))
    report.conventions["blur"] = "words " * 60
    report.sharp["0.png"] = 40.0
    text = str(report)
    assert max(map(len, text.splitlines())) <= 100
    for metric in METRICS:
        assert f"{report.mean(metric, 'and-more'):.{2 if metric.startswith('psnr') else 4}f} [" in text


def test_wide_tables_go_on_below() -> None:
    heads, row = ["name", *(f"{i}" * 30 for i in range(4))], ["x", "a", "b", "c", "d"]
    lines = table(heads, [row], numbers=[1])
    assert lines == [
        f"name  {'0' * 30}  {'1' * 30}  {'2' * 30}",
        f"x     {'a':>30}  {'b':30}  c",
        "",
        f"name  {'3' * 30}",
        "x     d",
    ]
    assert paragraphs({"a": "one two", "longer": "three"}) == ["a       one two", "longer  three"]


def test_json_holds_all_and_gives_the_report_back(tmp_path: Path) -> None:
    report = made()
    report.rules = Rules("plain", ("car", "dog"), 0.5, 0.5)
    for row in report.rows:
        row.detections["sharp"] = row.detections["blurred"] = Detections([(1.0, 2.0, 3.5, 4.0)], [1], [0.75])
    report.sharp["0.png"] = 41.5
    report.settings = {"weights": "file w", "generator": {"width": 4}}
    report.to_json(tmp_path / "a.json")
    again = Report.from_json(tmp_path / "a.json")
    assert again == report
    assert str(again) == str(report)
    again.to_json(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    values = json.loads((tmp_path / "a.json").read_text())
    of = values["systems"]["restored"]
    assert (of["scenes"], of["means"]["psnr"]["mean"], of["gain"]["lowest"]) == (6, 23.5, 1.0)
    assert [line["exposure"] for line in values["by"]] == [0.5, 1.0]
    assert values["detected"]["systems"]["blurred"]["f1"] == 1.0
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(ValueError, match=r"path must be a file by Report\.to_json of version 1, got"):
        Report.from_json(tmp_path / "c.json")


def test_an_empty_report_is_json_without_nan(tmp_path: Path) -> None:
    Report("pairs", ("psnr",)).to_json(tmp_path / "empty.json")
    assert Report.from_json(tmp_path / "empty.json") == Report("pairs", ("psnr",))


def test_a_report_says_how_was_measured(small_generator: Generator, photos: Path) -> None:
    deblurrer = Deblurrer(small_generator, device="cpu", dtype="fp32", scale=0.5)
    report = evaluate(deblurrer, photos, kernels=1, exposure=1.0)
    words = " ".join(str(report).split())
    for said in (
        "in fp32 on cpu, without dropout, pictures at scale 0.5",
        f"sha256 of the tensors in fp32 {report.settings['sha256'][:16]}",
        "the squared error averaged over all pixels and channels of a picture",
        "outputs are rounded to the nearest of 0 ... 255",
        "95 %, by Student's t over 4 pictures",
        "kernel 0 of seed 0",
        f"torch {torch.__version__}",
    ):
        assert said in words
    with torch.no_grad():
        small_generator.head.bias += 1
    other = evaluate(Deblurrer(small_generator, device="cpu"), photos, kernels=1, exposure=1.0)
    assert other.settings["sha256"] != report.settings["sha256"]


def test_output_that_is_not_finite_is_a_failure_of_the_network_alone(small_generator: Generator, photos: Path) -> None:
    torch.nn.init.constant_(small_generator.head.bias, math.nan)
    report = evaluate(Deblurrer(small_generator, device="cpu", dtype="fp32"), photos, "psnr", kernels=1, exposure=1.0)
    assert [row.figures.keys() for row in report.rows] == [{"blurred"}] * 4
    assert {failure.system for failure in report.failed} == {"restored", "restored sharp"}
    assert all("finite" in failure.reason for failure in report.failed)
    assert "failed: restored of 0.png (exposure 1.0, kernel 0): " in str(report)
    assert report.sharp == {}


class Two(Protocol):
    """A picture of two scenes, of whose metric one is not a number where the picture is white."""

    name, metrics = "two", ("psnr",)

    def pictures(self) -> list[str]:
        return ["a"]

    def scenes(self, index: int) -> Iterable[Scene]:
        sharp = torch.from_numpy(texture(20, 20)).permute(2, 0, 1)
        return [Scene(sharp // 2, sharp, {"n": n}) for n in range(2)]

    def conventions(self) -> dict[str, str]:
        return {}

    def measure(self, picture: Tensor, scene: Scene) -> dict[str, float]:
        return {"psnr": math.nan if bool((picture == 255).all()) else super().measure(picture, scene)["psnr"]}


def test_each_system_fails_by_itself_and_for_its_own_reason() -> None:
    def raising(picture: str, scene: Scene) -> Tensor:
        if scene.parts["n"] == 1:
            raise RuntimeError("out of ideas")
        return scene.blurred

    systems = {
        "restored": lambda picture, scene: scene.sharp,
        "raising": raising,
        "small": lambda picture, scene: scene.sharp[:, :10],
        "float": lambda picture, scene: scene.sharp.float(),
        "white": lambda picture, scene: torch.full_like(scene.sharp, 255),
    }
    record = Judge(Two(), systems).record(0)
    assert [set(row.figures) for row in record.rows] == [{"blurred", "restored", "raising"}, {"blurred", "restored"}]
    reasons = {(failure.system, failure.parts["n"]): failure.reason for failure in record.failed}
    assert reasons[("raising", 1)] == "out of ideas"
    assert reasons[("small", 0)] == "a restored picture must be uint8 (3, 20, 20), got torch.uint8 (3, 10, 20)"
    assert reasons[("float", 0)] == "a restored picture must be uint8 (3, 20, 20), got torch.float32 (3, 20, 20)"
    assert reasons[("white", 1)] == "its psnr is nan"
    assert len(reasons) == 7
