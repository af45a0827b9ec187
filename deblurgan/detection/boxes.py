"""Boxes around objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from deblurgan import images

Array = npt.NDArray[np.float64]


class Detections(NamedTuple):
    """Objects in one picture, the surest first.

    boxes:  left, top, right, bottom of each, px.
    labels: indices into the detector's classes.
    scores: 0 to 1.
    """

    boxes: list[tuple[float, float, float, float]]
    labels: list[int]
    scores: list[float]

    def above(self, confidence: float) -> Detections:
        """Those whose score is at least `confidence`."""
        count = sum(score >= confidence for score in self.scores)
        return Detections(self.boxes[:count], self.labels[:count], self.scores[:count])


class Detector(Protocol):
    """What finds objects in pictures; any callable with these attributes does."""

    @property
    def name(self) -> str:
        """Says which one it is, in reports."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of its labels."""

    def __call__(self, picture: Tensor) -> Detections:
        """Of a uint8 picture [3, h, w]: all objects down to a low score, from which thresholds pick.

        Tensors and arrays do for the lists, in any order.
        """


def detect(detector: Detector, picture: Tensor) -> Detections:
    """What the detector finds in a uint8 picture [3, h, w], as plain lists, the surest first.

    Raises ValueError, which names the detector, for what are no detections: lists of different lengths, values that are
    not finite, boxes without an area, unknown labels, scores outside 0 ... 1. An error of its own that is none of
    images.FAILURES becomes a RuntimeError.
    """
    try:
        boxes, labels, scores = detector(picture.clone())  # which may work in it
        found = Detections(
            [_box(detector.name, box) for box in boxes],
            [int(label) for label in labels],
            [float(score) for score in scores],
        )
    except images.FAILURES:
        raise
    except Exception as error:
        raise RuntimeError(f"detector {detector.name} failed: {type(error).__name__}: {error}") from error
    if not len(found.boxes) == len(found.labels) == len(found.scores):
        counts = ", ".join(f"{len(values)} {field}" for field, values in found._asdict().items())
        raise ValueError(f"detector {detector.name} must give a label and a score for each box, got {counts}")
    for left, top, right, bottom in found.boxes:
        if not (left < right and top < bottom and np.isfinite([left, top, right, bottom]).all()):
            wanted = "finite left < right and top < bottom"
            raise ValueError(f"detector {detector.name} must give boxes of {wanted}, got {(left, top, right, bottom)}")
    for label, score in zip(found.labels, found.scores, strict=True):
        if not 0 <= label < len(detector.classes):
            raise ValueError(f"detector {detector.name} must give labels below {len(detector.classes)}, got {label}")
        if not 0 <= score <= 1:
            raise ValueError(f"detector {detector.name} must give scores of 0 to 1, got {score}")
    return _picked(found, sorted(range(len(found.scores)), key=lambda i: -found.scores[i]))


def overlaps(a: Sequence[Sequence[float]] | Array, b: Sequence[Sequence[float]] | Array) -> Array:
    """Intersection over union of each box of `a` with each of `b`: [len(a), len(b)]. Boxes have an area."""
    first, second = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (a, b))
    left_top = np.maximum(first[:, None, :2], second[None, :, :2])
    right_bottom = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(right_bottom - left_top, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def suppressed(found: Detections, threshold: float) -> Detections:
    """Without boxes that overlap a surer one of their class by more than `threshold`, one that itself stays.

    (Non-maximum suppression; `found` has the surest first.)
    """
    boxes, labels = np.asarray(found.boxes, np.float64).reshape(-1, 4), np.asarray(found.labels)
    kept: list[int] = []
    for label in set(found.labels):
        left = np.flatnonzero(labels == label)
        while len(left):
            kept.append(int(left[0]))
            left = left[1:][overlaps(boxes[left[:1]], boxes[left[1:]])[0] <= threshold]
    return _picked(found, sorted(kept))


def _picked(found: Detections, indices: Sequence[int]) -> Detections:
    return Detections(
        [found.boxes[i] for i in indices], [found.labels[i] for i in indices], [found.scores[i] for i in indices]
    )


def _box(name: str, box: Sequence[float]) -> tuple[float, float, float, float]:
    values = [float(value) for value in box]
    if len(values) != 4:
        raise ValueError(f"detector {name} must give boxes of left, top, right, bottom, got {values}")
    return values[0], values[1], values[2], values[3]
