"""Precision, recall, F1 and AP against a program that counts one detection after another, and `evaluate`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import plain_darknet as plain
from conftest import texture
from deblurgan import Deblurrer, Generator, evaluate, images
from deblurgan.cli import main
from deblurgan.detection.boxes import Detections
from deblurgan.evaluation.detected import Rules, Scores, average_precision, matched, summarise
from deblurgan.evaluation.records import Row

CLASSES = ("cat", "dog", "cup", "car")
RULES = Rules("given", CLASSES, 0.4, 0.5)


@pytest.fixture
def deblurrer(small_generator: Generator) -> Deblurrer:
    return Deblurrer(small_generator, device="cpu")


def random_rows(count: int, seed: int) -> list[Row]:
    """Scenes of 4 pictures each, whose systems see what is there shifted, doubled, left out or in another class."""
    draw = np.random.default_rng(seed)
    rows = []
    for scene in range(count):
        corners = draw.integers(0, 60, (draw.integers(0, 9), 2))
        sharp = [(float(x), float(y), float(x + 20), float(y + 16)) for x, y in corners]
        seen = {"sharp": listed(draw, sharp, draw.integers(0, 3, len(sharp)).tolist())}
        for system, shift in (("blurred", 6), ("restored", 3)):
            boxes = [tuple(v + draw.integers(-shift, shift + 1) for v in box) for box in seen["sharp"].boxes * 2]
            labels = [label if draw.random() < 0.9 else 3 for label in seen["sharp"].labels * 2]
            kept = [i for i, (x0, y0, x1, y1) in enumerate(boxes) if x0 < x1 and y0 < y1 and draw.random() < 0.7]
            seen[system] = listed(draw, [boxes[i] for i in kept], [labels[i] for i in kept])
        rows.append(Row(f"{scene // 4}.png", {"kernel": scene % 4}, {}, seen))
    return rows


def listed(draw: np.random.Generator, boxes: list, labels: list[int]) -> Detections:
    """With random scores, none equal to another, the surest first."""
    scores = sorted(draw.random(len(boxes)).tolist(), reverse=True)
    return Detections(boxes, labels, scores)


def hits(found: Detections, truth: Detections, threshold: float) -> list[bool]:
    """As the evaluation of COCO does: each detection looks through all objects for the best that is free."""
    free = set(range(len(truth.boxes)))
    flags = []
    for box, label in zip(found.boxes, found.labels, strict=True):
        best, most = None, threshold
        for i in sorted(free):
            share = plain.iou(box, truth.boxes[i])
            if truth.labels[i] == label and share >= most and (best is None or share > most):
                best, most = i, share
        flags.append(best is not None)
        free -= {best}
    return flags


def area(flags: Sequence[bool], objects: int) -> float:
    """As PASCAL VOC's since 2010: the envelope of the curve, then the sum over the places where recall grows."""
    recall, precision, tp = [0.0], [0.0], 0
    for number, flag in enumerate(flags, 1):
        tp += flag
        recall.append(tp / objects)
        precision.append(tp / number)
    recall.append(1.0)
    precision.append(0.0)
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_a_program_that_counts(seed: int) -> None:
    rows = random_rows(24, seed)
    summary = summarise(rows, RULES)
    assert list(summary.systems) == ["sharp", "blurred", "restored"]
    for name, system in summary.systems.items():
        total, areas = [0, 0, 0], []
        for label, title in enumerate(CLASSES):
            tp = fp = fn = objects = 0
            ranked = []
            for row in rows:
                truth = only(row.detections["sharp"], label, 0.4)
                found = only(row.detections[name], label, 0.0)
                flags = hits(found, truth, 0.5)
                counted = [flag for flag, score in zip(flags, found.scores, strict=True) if score >= 0.4]
                tp, fp, fn = tp + sum(counted), fp + counted.count(False), fn + len(truth.boxes) - sum(counted)
                ranked += [(score, flag) for score, flag in zip(found.scores, flags, strict=True)]
                objects += len(truth.boxes)
            flags = [flag for _, flag in sorted(ranked, key=lambda pair: -pair[0])]
            total = [a + b for a, b in zip(total, (tp, fp, fn), strict=True)]
            areas += [area(flags, objects)] if objects else []
            if tp + fp + fn == 0:
                assert title not in system.classes
                continue
            got = system.classes[title]
            assert (got.tp, got.fp, got.fn) == (tp, fp, fn)
            assert got.ap == (pytest.approx(area(flags, objects), abs=1e-12) if objects else None)
        tp, fp, fn = total
        overall = system.overall
        assert (overall.tp, overall.fp, overall.fn) == (tp, fp, fn)
        assert overall.precision == pytest.approx(tp / (tp + fp))
        assert overall.recall == pytest.approx(tp / (tp + fn))
        assert overall.f1 == pytest.approx(2 / (1 / overall.precision + 1 / overall.recall))
        assert overall.ap == pytest.approx(sum(areas) / len(areas))
        assert system.gain == pytest.approx(overall.f1 - summary.systems["blurred"].overall.f1)
    scores = [summary.systems[name].overall.f1 for name in ("blurred", "restored")]
    assert 0 < scores[0] < scores[1] < 1


def only(found: Detections, label: int, floor: float) -> Detections:
    chosen = [i for i, of in enumerate(found.labels) if of == label and found.scores[i] >= floor]
    return Detections(*([values[i] for i in chosen] for values in found))


def test_the_sharp_pictures_find_themselves() -> None:
    system = summarise(random_rows(24, 5), RULES).systems["sharp"]
    for scores in (system.overall, *(of for of in system.classes.values() if of.objects)):
        assert (scores.precision, scores.recall, scores.f1, scores.ap) == (1, 1, 1, 1)
    assert system.f1_interval == (1, 1)


def test_each_object_is_found_once_and_the_most_overlapped_first() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    truth = Detections([(0.0, 0.0, 10.0, 9.0), box], [0, 0], [0.9, 0.8])
    assert matched(Detections([box, box, box], [0, 0, 0], [0.9, 0.8, 0.7]), truth, 0.5) == [1, 0, None]
    assert matched(Detections([box, box], [0, 0], [0.9, 0.8]), truth, 1.0) == [1, None]
    assert matched(Detections([box], [1], [0.9]), truth, 0.5) == [None]
    assert matched(Detections([(0.0, 0.0, 10.0, 5.0)], [0], [0.9]), Detections([box], [0], [1.0]), 0.5) == [0]
    assert matched(Detections([box], [0], [0.9]), Detections([], [], []), 0.5) == [None]
    assert matched(Detections([], [], []), truth, 0.5) == []


def test_average_precision_of_a_curve_by_hand() -> None:
    right = np.array([True, False, True, False, False, True])
    assert average_precision(right, 4) == pytest.approx((1 + 2 / 3 + 1 / 2) / 4)
    assert average_precision(np.array([], bool), 4) == 0
    assert average_precision(right, 0) is None


def test_what_is_not_defined_is_said() -> None:
    nothing, cup = Detections([], [], []), Detections([(0.0, 0.0, 4.0, 4.0)], [2], [0.9])
    empty = summarise([Row("a", {}, {}, {"sharp": nothing, "blurred": nothing, "restored": cup})], RULES)
    blurred, restored = (empty.systems[name].overall for name in ("blurred", "restored"))
    assert (blurred.precision, blurred.recall, blurred.f1, blurred.ap) == (None, None, None, None)
    assert (restored.precision, restored.recall, restored.f1, restored.ap) == (0, None, 0, None)
    assert empty.systems["restored"].gain is None
    assert empty.systems["restored"].f1_interval is None
    assert empty.lines()[2].split() == ["blurred", "0", "0", "-", "-", "-", "-"]
    assert empty.lines()[-1].startswith("- is not defined")
    assert json.loads(json.dumps(empty.to_mapping()))["systems"]["blurred"]["f1"] is None
    blind = summarise([Row("a", {}, {}, {"sharp": cup, "blurred": nothing})], RULES).systems["blurred"].overall
    assert (blind.precision, blind.recall, blind.f1, blind.ap) == (None, 0, 0, 0)
    assert summarise([Row("a", {}, {})], RULES).systems == {}
    (line,) = summarise([Row("a", {}, {}, {"sharp": nothing, "blurred": nothing})], RULES).lines()
    assert line == f"{RULES.detector} finds nothing with a score of at least {RULES.confidence:g} in any picture"


def test_intervals_are_those_of_leaving_out_each_picture() -> None:
    """The jackknife's error of a ratio is the linearised one's but for terms of 1/n."""
    rows, n = random_rows(80, 7), 20
    summary = summarise(rows, RULES)
    assert summary == summarise(rows, RULES)
    f1s = {}
    for name in ("blurred", "restored"):
        of_pictures = [one_picture(rows, number, name) for number in range(n)]
        counts = np.array([(of.tp, of.fp, of.fn) for of in of_pictures])
        tp, fp, fn = (counts.sum(0) - counts).T
        f1s[name] = 2 * tp / (2 * tp + fp + fn)
    restored = summary.systems["restored"]
    for value, ends, values in (
        (restored.overall.f1, restored.f1_interval, f1s["restored"]),
        (restored.gain, restored.gain_interval, f1s["restored"] - f1s["blurred"]),
    ):
        half = 2.09302 * (n - 1) / n**0.5 * values.std()
        assert ends == pytest.approx((value - half, value + half), abs=0.1 * half)
    wide, narrow = (summarise(rows, RULES, by).systems["blurred"].f1_interval for by in ("kernel", "picture"))
    assert wide != narrow


def test_pictures_without_objects_make_no_interval_narrower() -> None:
    nothing, cup = Detections([], [], []), Detections([(0.0, 0.0, 4.0, 4.0)], [2], [0.9])
    rows = [Row(name, {}, {}, {"sharp": cup, "blurred": seen}) for name, seen in (("a", cup), ("b", nothing))]
    bare = [Row(f"bare {i}", {}, {}, {"sharp": nothing, "blurred": nothing}) for i in range(5)]
    intervals = [summarise(found, RULES).systems["blurred"].f1_interval for found in (rows, rows + bare)]
    assert intervals[0] == intervals[1]
    assert summarise(rows[:1] + bare, RULES).systems["blurred"].f1_interval is None


def test_an_interval_ends_where_f1_does() -> None:
    cup, dog = (Detections([(0.0, 0.0, 4.0, 4.0)], [label], [0.9]) for label in (2, 1))
    rows = [Row(name, {}, {}, {"sharp": cup, "blurred": seen}) for name, seen in (("a", dog), ("b", cup))]
    assert summarise(rows, RULES).systems["blurred"].f1_interval == (0, 1)


def one_picture(rows: list[Row], number: int, name: str) -> Scores:
    return summarise([row for row in rows if row.picture == f"{number}.png"], RULES).systems[name].overall


def test_a_system_is_judged_on_what_it_has() -> None:
    rows = random_rows(12, 8)
    for row in rows[:6]:
        del row.detections["restored"]
    summary = summarise(rows, RULES)
    alone = summarise(rows[6:], RULES)
    assert summary.systems["restored"] == alone.systems["restored"]
    assert summary.systems["blurred"].overall.objects > alone.systems["blurred"].overall.objects


@pytest.mark.parametrize("confidence, iou", [(0.0, 0.5), (1.1, 0.5), (0.5, 0.0), (0.5, 1.5), (math.nan, 0.5)])
def test_thresholds_out_of_range_are_refused(confidence: float, iou: float) -> None:
    with pytest.raises(ValueError, match=r"(confidence|iou) must be above 0 and at most 1, got"):
        Rules("given", CLASSES, confidence, iou)


def test_classes_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="detector given must name its classes differently"):
        Rules("given", ("cat", "cat"), 0.5, 0.5)


class Bright:
    """Finds the brightest pixel, the surer the brighter, and never anything in pictures with `blind` as corner."""

    name, classes = "bright", ("dim", "bright")

    def __init__(self, blind: int | None = None) -> None:
        self.blind = blind

    def __call__(self, picture: torch.Tensor) -> Detections:
        if self.blind is not None and int(picture[0, 0, 0]) == self.blind:
            raise RuntimeError("blinded")
        total = picture.sum(0, dtype=torch.float64)
        y, x = divmod(int(total.argmax()), total.shape[1])
        return Detections([(x - 6.0, y - 6.0, x + 6.0, y + 6.0)], [1], [float(total.max()) / 765])


@pytest.mark.parametrize("protocol", ["detection", "synthetic"])
def test_evaluate_judges_by_the_detector_given(deblurrer: Deblurrer, photos: Path, protocol: str) -> None:
    report = evaluate(
        deblurrer, photos, protocol=protocol, kernels=1, exposure=1.0, detector=Bright(), confidence=0.3, iou=0.25
    )
    assert report.rules == Rules("bright", ("dim", "bright"), 0.3, 0.25)
    assert report.protocol == "synthetic"
    for row in report.rows:
        assert list(row.detections) == ["sharp", "blurred", "restored"]
        sharp = torch.from_numpy(images.read(photos / row.picture).pixels).permute(2, 0, 1)
        found = Bright()(sharp)
        assert row.detections["sharp"] == found._replace(scores=[round(score, 6) for score in found.scores])
    assert all(line in str(report).splitlines() for line in summarise(report.rows, report.rules).lines())
    assert "a score of at least 0.3" in report.conventions["detection"]
    assert "IoU of at least 0.25" in report.conventions["detection"]


def test_without_a_detector_nothing_is_said_of_one(deblurrer: Deblurrer, photos: Path) -> None:
    report = evaluate(deblurrer, photos, kernels=1, exposure=1.0)
    assert report.rules is None
    assert "detection" not in report.conventions
    assert not any(row.detections for row in report.rows)


def test_a_picture_whose_detector_fails_is_listed(deblurrer: Deblurrer, photos: Path) -> None:
    corner = int(texture(72, 96, seed=2)[0, 0, 0])
    assert corner not in [int(texture(72, 96, seed=i)[0, 0, 0]) for i in (0, 1, 3)]
    report = evaluate(deblurrer, photos, kernels=1, exposure=1.0, detector=Bright(corner))
    assert ("2.png", "blinded") in [(failure.picture, failure.reason) for failure in report.failed]
    assert "2.png" not in {row.picture for row in report.rows}
    assert "failed: 2.png: blinded" in str(report)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"detector": "yolov9"}, "detector must be yolov3-tiny or a Detector, got yolov9"),
        ({"detector": Bright(), "confidence": 0.0}, "confidence must be above 0"),
        ({"detector": Bright(), "iou": 2.0}, "iou must be above 0 and at most 1, got 2.0"),
        ({"detector": Bright(), "detector_weights": "file"}, "detector_weights must come with detector yolov3-tiny"),
    ],
)
def test_wrong_options_of_the_detector_are_refused(
    deblurrer: Deblurrer, photos: Path, options: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(deblurrer, photos, **options)


def test_the_command_refuses_other_weights_before_it_works(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.weights").write_bytes(bytes(100))
    words = ["evaluate", str(photos), "--protocol", "detection", "--detector-weights", str(tmp_path / "other.weights")]
    assert main(words) == 2
    assert "not Darknet's yolov3-tiny.weights, its SHA-256 must be dccea06f" in capsys.readouterr().err
    assert main(["evaluate", str(photos), "--detector", "yolov9"]) == 2
