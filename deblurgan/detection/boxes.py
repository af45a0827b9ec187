"""Boxes around objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Detections(NamedTuple):
    """Objects in one picture, the surest first.

    boxes:  left, top, right, bottom of each, px.
    labels: indices into the detector's classes.
    scores: 0 to 1.
    """

    boxes: list[tuple[float, float, float, float]]
    labels: list[int]
    scores: list[float]


class Detector(Protocol):
    """What finds objects in pictures; any callable of this form does.

    name:    says which one it is, in reports.
    classes: the names of its labels.
    """

    name: str
    classes: Sequence[str]

    def __call__(self, picture: Tensor) -> Detections:
        """Of a uint8 picture [3, h, w]: all objects down to a low score, from which thresholds pick."""
