"""What a detector sees of what it sees in the sharp pictures: precision, recall, F1 and average precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deblurgan.detection.boxes import Detections, overlaps
from deblurgan.evaluation.records import Row
from deblurgan.evaluation.systems import BLURRED, SHARP

RESAMPLES, SEED = 2000, 0  # of the confidence intervals
Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Rules:
    """By which a detector judges.

    detector, classes: its name and the names of its labels.
    confidence: the score from which detections count, on sharp pictures as on others.
    iou: the intersection over union from which two boxes are of one object.
    """

    detector: str
    classes: tuple[str, ...]
    confidence: float
    iou: float

    def __post_init__(self) -> None:
        for name, value in (("confidence", self.confidence), ("iou", self.iou)):
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {value}")

    def __str__(self) -> str:
        return (
            f"the truth is what {self.detector} finds in the sharp picture with a score of at least "
            f"{self.confidence:g}; an object is found again where one of its class with such a score overlaps it by "
            f"an IoU of at least {self.iou:g}, the surest first and each once; counts are summed over all pictures, "
            "AP takes lower scores too (the article states none of these settings)"
        )


@dataclass(frozen=True)
class Scores:
    """How many objects there are, how many were seen and how many of these are there; all classes or one.

    ap: average precision, or its mean over the classes that occur; None where no object is there.
    """

    objects: int
    seen: int
    right: int
    ap: float | None

    @property
    def precision(self) -> float | None:
        """None where nothing is seen."""
        return _ratio(self.right, self.seen)

    @property
    def recall(self) -> float | None:
        """None where no object is there."""
        return _ratio(self.right, self.objects)

    @property
    def f1(self) -> float | None:
        """None where no object is there and nothing is seen."""
        return _ratio(2 * self.right, self.objects + self.seen)

    def to_mapping(self) -> dict[str, Any]:
        counts = {"objects": self.objects, "seen": self.seen, "right": self.right}
        return {**counts, "precision": self.precision, "recall": self.recall, "f1": self.f1, "ap": self.ap}


NOTHING = Scores(0, 0, 0, None)


@dataclass(frozen=True)
class SystemScores:
    """A system's.

    classes: of each class that occurs, in the detector's order.
    f1_interval: of 95%, by resampling; None of fewer than two samples.
    gain, gain_interval: F1 won over the blurred pictures of the same scenes.
    """

    overall: Scores
    classes: dict[str, Scores]
    f1_interval: Interval | None
    gain: float | None
    gain_interval: Interval | None

    def to_mapping(self) -> dict[str, Any]:
        classes = {name: scores.to_mapping() for name, scores in self.classes.items()}
        intervals = {"f1_interval": self.f1_interval, "gain_interval": self.gain_interval}
        return {**self.overall.to_mapping(), "gain": self.gain, **intervals, "classes": classes}


@dataclass(frozen=True)
class Summary:
    """Of every system, "sharp" first."""

    rules: Rules
    systems: dict[str, SystemScores]

    def lines(self) -> list[str]:
        """A table of the systems and one of the classes; "-" where a value is not defined."""
        heads = ("objects", "seen", "precision", "recall", "F1", "95% of F1", "mAP", "F1 gain", "95% of gain")
        lines = [_line("detections", heads)]
        for name, system in self.systems.items():
            of = system.overall
            gain = (
                ("", "") if name in (SHARP, BLURRED) else (_said(system.gain, "+"), _range(system.gain_interval, "+"))
            )
            quality = (_said(of.precision), _said(of.recall), _said(of.f1), _range(system.f1_interval), _said(of.ap))
            lines.append(_line(name, (f"{of.objects}", f"{of.seen}", *quality, *gain)))
        judged = [name for name in self.systems if name != SHARP]
        lines.append(_line("class", ("objects", *(word for name in judged for word in (f"F1 {name}", "AP")))))
        for label in self.rules.classes:
            scores = [self.systems[name].classes.get(label, NOTHING) for name in judged]
            if any(of != NOTHING for of in scores):
                cells = [cell for of in scores for cell in (_said(of.f1), _said(of.ap))]
                lines.append(_line(label, [f"{max(of.objects for of in scores)}", *cells]))
        if any("-" in line.split() for line in lines):
            lines.append("- is not defined: no object is there, or nothing is seen")
        return lines

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON; None where one is not defined."""
        rules = {"detector": self.rules.detector, "confidence": self.rules.confidence, "iou": self.rules.iou}
        systems = {name: system.to_mapping() for name, system in self.systems.items()}
        return {**rules, "classes": list(self.rules.classes), "systems": systems}


def summarise(rows: Sequence[Row], rules: Rules, samples_by: str = "picture") -> Summary:
    """The figures of every system over the rows that hold detections.

    A system is judged on the scenes that it has. Intervals are by bootstrap over samples: pictures, or scenes that
    share the part `samples_by`.
    """
    judged = [row for row in rows if SHARP in row.detections]
    names = dict.fromkeys(name for row in judged for name in row.detections)
    return Summary(rules, {name: _scores_of(name, judged, rules, samples_by) for name in names})


def matched(found: Detections, objects: Detections, iou: float) -> list[bool]:
    """Whether each detection, the surest first, finds an object that none before it found.

    It takes the one that it overlaps most of those of its class that are left, if by at least `iou`.
    """
    if not objects.labels:
        return [False] * len(found.labels)
    shares = overlaps(found.boxes, objects.boxes)
    shares[np.not_equal.outer(found.labels, objects.labels)] = 0
    right = []
    for row in shares:
        best = row.argmax()
        right.append(bool(row[best] >= iou))
        if right[-1]:
            shares[:, best] = 0
    return right


def average_precision(right: Flags, objects: int) -> float | None:
    """Area below the precision that is reached at each recall or a higher one, of detections in order of their scores.

    None where there are no objects.
    """
    if not objects:
        return None
    precision = right.cumsum() / np.arange(1, len(right) + 1)
    reached = np.maximum.accumulate(precision[::-1])[::-1]
    return float(reached[right].sum() / objects)


class _Found(NamedTuple):
    """What a system's pictures show: all detections, and all objects by their labels.

    counts: how many objects, detections that count and right ones each sample has.
    """

    labels: Numbers
    scores: Array
    right: Flags
    objects: Numbers
    counts: Array


def _found(name: str, scenes: Sequence[Row], rules: Rules, samples_by: str) -> _Found:
    labels, scores, right, objects = list[int](), list[float](), list[bool](), list[int]()
    counts: dict[str | float, Array] = {}
    for row in scenes:
        found, truth = row.detections[name], row.detections[SHARP].above(rules.confidence)
        hits, seen = matched(found, truth, rules.iou), len(found.above(rules.confidence).labels)
        sample = row.picture if samples_by == "picture" else row.parts[samples_by]
        counts[sample] = counts.get(sample, 0) + np.array([len(truth.labels), seen, sum(hits[:seen])], np.float64)
        labels += found.labels
        scores += found.scores
        right += hits
        objects += truth.labels
    return _Found(
        np.asarray(labels, np.int64),
        np.asarray(scores, np.float64),
        np.asarray(right, np.bool_),
        np.asarray(objects, np.int64),
        np.stack([*counts.values()]),
    )


def _scores_of(name: str, judged: Sequence[Row], rules: Rules, samples_by: str) -> SystemScores:
    scenes = [row for row in judged if name in row.detections]
    found = _found(name, scenes, rules, samples_by)
    classes = {
        title: scores
        for label, title in enumerate(rules.classes)
        if (scores := _class_scores(found, label, rules.confidence)).objects or scores.seen
    }
    precisions = [scores.ap for scores in classes.values() if scores.ap is not None]
    mean = sum(precisions) / len(precisions) if precisions else None
    objects, seen, right = (int(count) for count in found.counts.sum(0))
    overall = Scores(objects, seen, right, mean)
    before = _found(BLURRED, scenes, rules, samples_by).counts
    was = _f1(before.sum(0))
    gain = None if was is None or overall.f1 is None else overall.f1 - was
    drawn, drawn_before = _resampled_f1(found.counts), _resampled_f1(before)
    return SystemScores(
        overall, classes, _interval(drawn, len(before)), gain, _interval(drawn - drawn_before, len(before))
    )


def _class_scores(found: _Found, label: int, confidence: float) -> Scores:
    of_class = found.labels == label
    scores, right = found.scores[of_class], found.right[of_class]
    objects, counted = int((found.objects == label).sum()), scores >= confidence
    ranked = right[np.argsort(-scores, kind="stable")]
    return Scores(objects, int(counted.sum()), int(right[counted].sum()), average_precision(ranked, objects))


def _resampled_f1(counts: Array) -> Array:
    """F1 of samples drawn again with replacement, the same draws for all counts; NaN where it is not defined."""
    draw = np.random.default_rng(SEED).integers
    n = len(counts)
    return np.array([_f1(counts[draw(n, size=n)].sum(0)) for _ in range(RESAMPLES)], np.float64)


def _f1(counts: Array) -> float | None:
    objects, seen, right = (float(count) for count in counts)
    return _ratio(2 * right, objects + seen)


def _interval(values: Array, samples: int) -> Interval | None:
    """Of the middle 95% of those that are defined; None of a single sample, which tells nothing of others."""
    values = values[~np.isnan(values)]
    if samples < 2 or not len(values):
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _said(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3f}"


def _range(interval: Interval | None, sign: str = "") -> str:
    return "-" if interval is None else " ... ".join(_said(end, sign) for end in interval)


def _line(title: str, cells: Iterable[str]) -> str:
    """A line of a table; ends of an interval take more room than a figure."""
    return (f"{title:24}" + "".join(f"{cell:>{max(11, len(cell) + 2)}}" for cell in cells)).rstrip()
