"""What was found of each picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from deblurgan.detection.boxes import Detections
from deblurgan.evaluation.scenes import Parts


class Failure(NamedTuple):
    """What has no figures: a whole picture where `system` is "", else one system's output of a scene."""

    picture: str
    parts: Parts
    system: str
    reason: str


@dataclass(frozen=True)
class Row:
    """A scene: the metrics and, where a detector was asked, the detections of each system by its name.

    detections: those of the sharp picture are under "sharp".
    """

    picture: str
    parts: Parts
    figures: dict[str, dict[str, float]]
    detections: dict[str, Detections] = field(default_factory=dict)


@dataclass
class Record:
    """A picture: its scenes, the PSNR of its sharp version given to the network, and what failed."""

    rows: list[Row] = field(default_factory=list)
    sharp: float | None = None
    failed: list[Failure] = field(default_factory=list)
