"""What a detector sees of what it sees in the sharp pictures: precision, recall, F1 and average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deblurgan.detection.boxes import Detections, overlaps
from deblurgan.evaluation.means import Interval, interval
from deblurgan.evaluation.records import Row
from deblurgan.evaluation.systems import BLURRED, SHARP
from deblurgan.evaluation.table import table

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


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
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"detector {self.detector} must name its classes differently, got {self.classes}")

    def __str__(self) -> str:
        return (
            f"the truth is what {self.detector} finds in the sharp picture with a score of at least "
            f"{self.confidence:g}; an object is found again where one of its class with such a score overlaps it by "
            f"an IoU of at least {self.iou:g}, the surest first and each once; counts are summed over all pictures, "
            "AP takes lower scores too (the article states none of these settings)"
        )


@dataclass(frozen=True)
class Scores:
    """True and false positives and false negatives, of all classes or of one.

    ap: average precision, or its mean over the classes that occur; None where no object is there.
    """

    tp: int
    fp: int
    fn: int
    ap: float | None

    @property
    def objects(self) -> int:
        """How many are there."""
        return self.tp + self.fn

    @property
    def found(self) -> int:
        """How many detections count."""
        return self.tp + self.fp

    @property
    def precision(self) -> float | None:
        """None where nothing is found."""
        return _ratio(self.tp, self.found)

    @property
    def recall(self) -> float | None:
        """None where no object is there."""
        return _ratio(self.tp, self.objects)

    @property
    def f1(self) -> float | None:
        """None where no object is there and nothing is found."""
        return _ratio(2 * self.tp, self.objects + self.found)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON; None where one is not defined."""
        return {**asdict(self), "precision": self.precision, "recall": self.recall, "f1": self.f1}


NOTHING = Scores(0, 0, 0, None)


@dataclass(frozen=True)
class SystemScores:
    """A system's.

    classes: of each class that occurs, in the detector's order.
    f1_interval: of 95 %, over the samples that hold objects or detections; None of fewer than two.
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
        if not any(of.overall.objects or of.overall.found for of in self.systems.values()):
            rules = self.rules
            return [f"{rules.detector} finds nothing with a score of at least {rules.confidence:g} in any picture"]
        heads = ["detections", "objects", "found", "precision", "recall", "F1", "mAP", "gain in F1"]
        rows = []
        for name, of in self.systems.items():
            all_ = of.overall
            counts = [f"{all_.objects}", f"{all_.found}", _said(all_.precision), _said(all_.recall)]
            gain = "" if name in (SHARP, BLURRED) else _said(of.gain, "+") + _range(of.gain_interval, "+")
            rows.append([name, *counts, _said(all_.f1) + _range(of.f1_interval), _said(all_.ap), gain])
        judged = [name for name in self.systems if name != SHARP]
        class_heads = ["class", "objects", *(f"{word} {name}" for name in judged for word in ("F1", "AP"))]
        by_class = []
        for label in self.rules.classes:
            scores = [self.systems[name].classes.get(label, NOTHING) for name in judged]
            if any(of_class != NOTHING for of_class in scores):
                cells = [cell for of_class in scores for cell in (_said(of_class.f1), _said(of_class.ap))]
                by_class.append([label, f"{max(of_class.objects for of_class in scores)}", *cells])
        lines = [*table(heads, rows, numbers=[1, 2, 3, 4, 6]), ""]
        lines += table(class_heads, by_class, numbers=range(1, len(class_heads)))
        if any("-" in row for row in rows + by_class):
            lines.append("- is not defined: no object is there, or nothing is found")
        return lines

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON; None where one is not defined."""
        rules = {"detector": self.rules.detector, "confidence": self.rules.confidence, "iou": self.rules.iou}
        systems = {name: system.to_mapping() for name, system in self.systems.items()}
        return {**rules, "classes": list(self.rules.classes), "systems": systems}


def summarise(rows: Sequence[Row], rules: Rules, samples_by: str = "picture") -> Summary:
    """The figures of every system over the rows that hold detections.

    A system is judged on the scenes that it has. Intervals are over samples: pictures, or scenes that share the part
    `samples_by`.
    """
    judged = [row for row in rows if SHARP in row.detections]
    names = dict.fromkeys(name for row in judged for name in row.detections)
    return Summary(rules, {name: _scores_of(name, judged, rules, samples_by) for name in names})


def matched(found: Detections, objects: Detections, iou: float) -> list[int | None]:
    """Which object each detection, the surest first, finds; None where it is false.

    It takes the one that it overlaps most of those of its class that none before it found, if by at least `iou`.
    """
    if not objects.labels:
        return [None] * len(found.labels)
    shares = overlaps(found.boxes, objects.boxes)
    shares[np.not_equal.outer(found.labels, objects.labels)] = 0
    taken: list[int | None] = []
    for row in shares:
        best = int(row.argmax())
        taken.append(best if row[best] >= iou else None)
        if taken[-1] is not None:
            shares[:, best] = 0
    return taken


def average_precision(right: Flags, objects: int) -> float | None:
    """Area below the precision that is reached at each recall or a higher one, of detections in order of their scores.

    None where there are no objects.
    """
    if not objects:
        return None
    precision = right.cumsum() / np.arange(1, len(right) + 1)
    reached = np.maximum.accumulate(precision[::-1])[::-1]
    return float(reached[right].sum() / objects)


class _Judged(NamedTuple):
    """All detections of a system, and all objects by their labels.

    counts: true positives, false positives and false negatives of each sample, fp64 [samples, 3].
    """

    labels: Numbers
    scores: Array
    right: Flags
    objects: Numbers
    counts: Array


def _judged(name: str, scenes: Sequence[Row], rules: Rules, samples_by: str) -> _Judged:
    labels, scores, right, objects = list[int](), list[float](), list[bool](), list[int]()
    counts: dict[str | float, Array] = {}
    for row in scenes:
        found, truth = row.detections[name], row.detections[SHARP].above(rules.confidence)
        hits = [taken is not None for taken in matched(found, truth, rules.iou)]
        counted = len(found.above(rules.confidence).labels)
        tp, sample = sum(hits[:counted]), row.sample(samples_by)
        counts[sample] = counts.get(sample, 0) + np.array([tp, counted - tp, len(truth.labels) - tp], np.float64)
        labels += found.labels
        scores += found.scores
        right += hits
        objects += truth.labels
    return _Judged(
        np.array(labels, np.int64),
        np.array(scores, np.float64),
        np.array(right, np.bool_),
        np.array(objects, np.int64),
        np.stack([*counts.values()]),
    )


def _scores_of(name: str, scenes: Sequence[Row], rules: Rules, samples_by: str) -> SystemScores:
    scenes = [row for row in scenes if name in row.detections]
    judged, before = (_judged(system, scenes, rules, samples_by) for system in (name, BLURRED))
    of_labels = {title: _class_scores(judged, label, rules.confidence) for label, title in enumerate(rules.classes)}
    classes = {title: scores for title, scores in of_labels.items() if scores != NOTHING}
    precisions = [scores.ap for scores in classes.values() if scores.ap is not None]
    mean = sum(precisions) / len(precisions) if precisions else None
    overall, was = _total(judged.counts, mean), _total(before.counts, None)
    if overall.f1 is None or was.f1 is None:
        return SystemScores(overall, classes, None, None, None)
    gain, moved, moved_before = overall.f1 - was.f1, _departures(judged.counts), _departures(before.counts)
    told = (judged.counts + before.counts).any(1)  # samples without an object or a detection say nothing of F1
    moved, moved_before = moved[told], moved_before[told]
    won = _clipped(interval(gain, moved - moved_before), -1)
    return SystemScores(overall, classes, _clipped(interval(overall.f1, moved), 0), gain, won)


def _class_scores(judged: _Judged, label: int, confidence: float) -> Scores:
    of_class = judged.labels == label
    scores, right = judged.scores[of_class], judged.right[of_class]
    objects, counted = int((judged.objects == label).sum()), scores >= confidence
    ranked = right[np.argsort(-scores, kind="stable")]
    tp = int(right[counted].sum())
    return Scores(tp, int(counted.sum()) - tp, objects - tp, average_precision(ranked, objects))


def _total(counts: Array, ap: float | None) -> Scores:
    tp, fp, fn = (int(count) for count in counts.sum(0))
    return Scores(tp, fp, fn, ap)


def _departures(counts: Array) -> Array:
    """How much each sample moves F1, to first order: it is a ratio of two sums."""
    tp, fp, fn = counts.T
    parts, wholes = 2 * tp, 2 * tp + fp + fn
    whole = wholes.sum()
    moved: Array = (parts - parts.sum() / whole * wholes) / whole
    return moved


def _clipped(ends: Interval | None, lowest: float) -> Interval | None:
    return None if ends is None else (max(lowest, ends[0]), min(1.0, ends[1]))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _said(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3f}"


def _range(interval: Interval | None, sign: str = "") -> str:
    return "" if interval is None else f" [{', '.join(_said(end, sign) for end in interval)}]"
