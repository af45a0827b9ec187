"""What was found of each picture, and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from deblurgan.detection.boxes import Detections
from deblurgan.evaluation.scenes import Parts


class Failure(NamedTuple):
    """What has no figures: a whole picture where `system` is "", else one system's output of a scene."""

    picture: str
    parts: Parts
    system: str
    reason: str

    def subject(self) -> str:
        """What failed, in words."""
        parts = ", ".join(f"{name} {value}" for name, value in self.parts.items()) if self.system else ""
        scene = f"{self.picture} ({parts})" if parts else self.picture
        return f"{self.system} of {scene}" if self.system else scene


@dataclass(frozen=True)
class Row:
    """A scene: the metrics and, where a detector was asked, the detections of each system by its name.

    detections: those of the sharp picture are under "sharp".
    size:       height and width, px.
    """

    picture: str
    parts: Parts
    figures: dict[str, dict[str, float]]
    detections: dict[str, Detections] = field(default_factory=dict)
    size: tuple[int, int] | None = None

    def sample(self, by: str) -> str | float:
        """Which of the independent samples it is of: its picture, or the value of a part."""
        return self.picture if by == "picture" else self.parts[by]

    def to_mapping(self) -> dict[str, Any]:
        found = {system: detections._asdict() for system, detections in self.detections.items()}
        return {**asdict(self), "parts": dict(self.parts), "detections": found}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Row:
        found = {system: _detections(each) for system, each in values["detections"].items()}
        size = None if values["size"] is None else (values["size"][0], values["size"][1])
        return cls(values["picture"], values["parts"], values["figures"], found, size)


@dataclass
class Record:
    """A picture: its scenes, the PSNR of its sharp version given to the network, and what failed."""

    rows: list[Row] = field(default_factory=list)
    sharp: float | None = None
    failed: list[Failure] = field(default_factory=list)

    def to_mapping(self) -> dict[str, Any]:
        failed = [failure._asdict() for failure in self.failed]
        return {"rows": [row.to_mapping() for row in self.rows], "sharp": self.sharp, "failed": failed}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Record:
        rows = [Row.from_mapping(row) for row in values["rows"]]
        return cls(rows, values["sharp"], [Failure(**failure) for failure in values["failed"]])


def _detections(values: Mapping[str, Any]) -> Detections:
    boxes = [(left, top, right, bottom) for left, top, right, bottom in values["boxes"]]
    return Detections(boxes, values["labels"], values["scores"])
