"""Measuring a Deblurrer, and what it is compared with, on the pictures of a protocol."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from deblurgan import images
from deblurgan.config import as_path
from deblurgan.data import PairDataset
from deblurgan.detection.boxes import Detector
from deblurgan.evaluation.baselines import BASELINES
from deblurgan.evaluation.protocols import open_protocol
from deblurgan.evaluation.records import Failure, Record, Row
from deblurgan.evaluation.report import Report
from deblurgan.evaluation.scenes import Protocol, Scene
from deblurgan.evaluation.systems import BLURRED, RESTORED, SHARP, System, conventions, open_systems, save_picture
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
    kernels: int = 4,
    exposure: float | Sequence[float] = (0.5, 1.0),
    seed: int = 0,
    frames: tuple[int, int] = (5, 25),
    baselines: Sequence[str] = (),
    compare: Mapping[str, Path | str] | None = None,
    out: Path | str | None = None,
    save_pictures: bool = False,
    log: Callable[[str], None] | None = None,
) -> Report:
    """Measures a Deblurrer on blurred pictures whose sharp originals are known, or on sharp ones that are blurred.

    Args:
        data: a dataset, or a folder in any layout of `deblurgan.data`; of train/ and test/ folders only test/.
        metrics: names of `deblurgan.metrics.METRICS`; if not given, those of the protocol.
        protocol: "pairs", "synthetic", ... or "auto", which is synthetic for sharp photos and pairs for all else.
        layout, gamma: how a folder is laid out, and whether to take GoPro's blur_gamma pictures; see
            `data.open_dataset`.
        kernels, exposure, seed: of synthetic blur; seed is of a video's windows too.
        frames: the fewest and the most in a window of a video.
        baselines: names of `deblurgan.evaluation.baselines.BASELINES`, to measure too.
        compare: folders of other programs' outputs by name, to measure too; see `systems.folder_system`.
        out: a folder for results.
        save_pictures: write blurred, sharp and restored pictures to out/pictures/.
        log: takes a line a picture, and one where pictures of the folder are left out.

    A bad file is listed in the report and left out. Raises ValueError for options out of range, and where no picture
    can be measured.
    """
    metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    opened = open_protocol(
        protocol,
        data,
        metrics,
        layout=layout,
        gamma=gamma,
        kernels=kernels,
        exposure=tuple(exposure) if isinstance(exposure, Iterable) else (exposure,),
        seed=seed,
        frames=frames,
        log=log or warnings.warn,
    )
    if save_pictures and out is None:
        raise ValueError("save_pictures must come with out, the folder that takes them")
    folder = as_path("out", out) / "pictures" if save_pictures and out is not None else None
    folders = {name: as_path("compare", path) for name, path in (compare or {}).items()}
    systems = open_systems(deblurrer, opened, baselines, folders)
    said = opened.conventions() | conventions(systems)
    report = Report(opened.name, opened.metrics, said, opened.lines_by, opened.samples_by)
    names = opened.pictures()
    for index, name in enumerate(names):
        report.add(name, judge(opened, index, systems, pictures=folder))
        if log is not None:
            log(images.printable(f"[{index + 1}/{len(names)}] {name}"))
    if not report.rows:
        raise ValueError(
            f"data must hold a readable picture, got {report.failed[0].picture}: {report.failed[0].reason}"
        )
    return report


def judge(
    protocol: Protocol,
    index: int,
    systems: Mapping[str, System],
    detector: Detector | None = None,
    pictures: Path | None = None,
) -> Record:
    """The record of one picture of the protocol. `pictures` is a folder for what is measured, but for what other
    programs made.

    A bad file, or one whose blurred pictures cannot be measured, gives no rows; a system that fails lacks its figures.
    """
    name, record = protocol.pictures()[index], Record()
    try:
        for scene in protocol.scenes(index):
            _add_scene(record, name, scene, protocol, systems, detector, pictures)
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
    pictures: Path | None,
) -> None:
    if pictures is not None:
        save_picture(pictures / BLURRED, name, scene.parts, scene.blurred)
        save_picture(pictures / SHARP, name, scene.parts, scene.sharp)
    row = Row(name, scene.parts, {BLURRED: protocol.measure(scene.blurred, scene)})
    if detector is not None:
        row.detections.update({SHARP: detector(scene.sharp), BLURRED: detector(scene.blurred)})
    for system, restore in systems.items():
        try:
            picture = restore(name, scene)
            if pictures is not None and system in (RESTORED, *BASELINES):
                save_picture(pictures / system, name, scene.parts, picture)
            row.figures[system] = protocol.measure(picture, scene)
            if detector is not None:
                row.detections[system] = detector(picture)
        except images.FAILURES as error:
            record.failed.append(Failure(name, scene.parts, system, images.failure_reason(error)))
    record.rows.append(row)
