"""What every system makes of a picture's scenes, measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deblurgan import images
from deblurgan.detection.boxes import Detections, Detector, detect
from deblurgan.evaluation.baselines import BASELINES
from deblurgan.evaluation.means import DIGITS
from deblurgan.evaluation.records import Failure, Record, Row
from deblurgan.evaluation.scenes import Protocol, Scene
from deblurgan.evaluation.store import StoreError, telling_of
from deblurgan.evaluation.systems import BLURRED, RESTORED, SHARP, System, save_picture
from deblurgan.metrics import capped_psnr

BOX_DIGITS = 3  # of px


@dataclass(frozen=True)
class Judge:
    """A protocol, what is compared by it, a detector where one is asked, and the folder where pictures are saved."""

    protocol: Protocol
    systems: Mapping[str, System]
    detector: Detector | None = None
    saved: Path | None = None

    def record(self, index: int) -> Record:
        """Of one picture of the protocol.

        A bad file, or one whose blurred pictures cannot be measured, gives no rows; a system that fails lacks its
        figures. Raises StoreError where pictures cannot be saved.
        """
        name, record = self.protocol.pictures()[index], Record()
        try:
            for scene in self.protocol.scenes(index):
                self._add_scene(record, name, scene)
            sharp = self.protocol.sharp(index)
        except StoreError:
            raise
        except images.FAILURES as error:
            return Record(failed=[Failure(name, {}, "", images.failure_reason(error))])
        if sharp is not None:
            try:
                restored = self.systems[RESTORED](name, Scene(sharp, sharp))
                record.sharp = round(float(capped_psnr(restored, sharp, 255.0)), DIGITS)
            except images.FAILURES as error:
                record.failed.append(Failure(name, {}, f"{RESTORED} sharp", images.failure_reason(error)))
        return record

    def pictures_of(self, row: Row) -> dict[str, Tensor]:
        """The pictures of a row, uint8 [3, h, w], made again: blurred, sharp and those of each system that has one."""
        index = list(self.protocol.pictures()).index(row.picture)
        scene = next(scene for scene in self.protocol.scenes(index) if dict(scene.parts) == dict(row.parts))
        restored = {name: self.systems[name](row.picture, scene) for name in row.figures if name != BLURRED}
        return {BLURRED: scene.blurred, SHARP: scene.sharp, **restored}

    def _add_scene(self, record: Record, name: str, scene: Scene) -> None:
        size = (scene.blurred.shape[1], scene.blurred.shape[2])
        row = Row(name, scene.parts, {BLURRED: self._figures(scene.blurred, scene)}, size=size)
        self._save(BLURRED, name, scene, scene.blurred)
        self._save(SHARP, name, scene, scene.sharp)
        if self.detector is not None:
            row.detections[SHARP] = _detections(self.detector, scene.sharp)
            row.detections[BLURRED] = _detections(self.detector, scene.blurred)
        for system, restore in self.systems.items():
            try:
                picture = restore(name, scene)
                figures = self._figures(picture, scene)
                found = None if self.detector is None else _detections(self.detector, picture)
            except images.FAILURES as error:
                record.failed.append(Failure(name, scene.parts, system, images.failure_reason(error)))
                continue
            row.figures[system] = figures
            if found is not None:
                row.detections[system] = found
            self._save(system, name, scene, picture)
        record.rows.append(row)

    def _figures(self, picture: Tensor, scene: Scene) -> dict[str, float]:
        if picture.dtype != torch.uint8 or picture.shape != scene.blurred.shape:
            shape, came = tuple(scene.blurred.shape), tuple(picture.shape)
            raise ValueError(f"a restored picture must be uint8 {shape}, got {picture.dtype} {came}")
        figures = self.protocol.measure(picture, scene)
        for metric, value in figures.items():
            if not math.isfinite(value):
                raise ValueError(f"its {metric} is {value}")
        return {metric: round(value, DIGITS) for metric, value in figures.items()}

    def _save(self, system: str, name: str, scene: Scene, picture: Tensor) -> None:
        if self.saved is not None and system in (BLURRED, SHARP, RESTORED, *BASELINES):  # others have their own
            with telling_of(self.saved):
                save_picture(self.saved / system, name, scene.parts, picture)


def _detections(detector: Detector, picture: Tensor) -> Detections:
    found = detect(detector, picture)
    boxes = [
        (round(left, BOX_DIGITS), round(top, BOX_DIGITS), round(right, BOX_DIGITS), round(bottom, BOX_DIGITS))
        for left, top, right, bottom in found.boxes
    ]
    return Detections(boxes, found.labels, [round(score, DIGITS) for score in found.scores])
