"""Many pictures restored: the next is decoded and the one before is encoded while the network works on one."""

from __future__ import annotations

import io
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import indent
from threading import Condition
from typing import Any, NamedTuple

from PIL import Image

from deblurgan import images
from deblurgan.distributed import Processes
from deblurgan.images import FilesReport, Picture, Plan, compare, printable
from deblurgan.images.batch import Written, is_video, report_of, require_not_itself, say_beforehand, speakers
from deblurgan.inference.processes import share
from deblurgan.inference.progress import Work

RESULT, SHEET = "-deblurred", "-compare"  # endings of names
AHEAD = 2**25  # pixels in flight above which no further picture is decoded
FAILURES = (*images.FAILURES, ImportError)  # of an extra that is not installed

Progress = Callable[[float], object]


class Tools(NamedTuple):
    """What a Deblurrer brings."""

    read: Callable[[Path, Callable[[int, int], object]], Picture]
    """Reads a file; the callable gets its width and height before anything is decoded."""
    restore: Callable[[Picture, Progress], tuple[Picture, float]]
    """Gives the restored picture and the scale that it was restored at."""
    video: Callable[[Path, Path, Progress], Any]
    """Restores a video file; gives a report whose `lost` says what the target lacks."""


@dataclass(frozen=True)
class Options:
    """How files are written."""

    overwrite: bool = False
    skip_existing: bool = False
    quality: int | None = None
    compare: bool = False
    strip_metadata: bool = False


class Job(NamedTuple):
    """One picture of a plan."""

    number: int
    source: Path
    target: Path
    sheet: Path | None
    """Where the comparison of before and after goes."""

    @property
    def outputs(self) -> str:
        return " and ".join(str(path) for path in (self.target, self.sheet) if path is not None)


class Restored(NamedTuple):
    """A picture before and after, and its scale."""

    before: Picture
    after: Picture
    scale: float


class Video(NamedTuple):
    """What a video that was written lacks."""

    lost: tuple[str, ...]


Result = Restored | Video | Exception | None  # the last is of a job whose target is there


class Outcome(NamedTuple):
    """What became of a job: the target is there, or else there is a reason for the failure."""

    number: int
    source: Path
    target: Path
    reason: str | None = None
    is_new: bool = True
    """Not so where the target existed, and the picture was left out."""
    change: compare.Change | None = None
    scale: float = 1.0


def plan_files(
    inputs: Iterable[Path | str],
    out: Path | str | None,
    *,
    listed: Iterable[Path | str] = (),
    suffix: str = "",
    format: str = "keep",
) -> Plan:
    """Where each result goes, as Deblurrer.files says it."""
    added = RESULT if out is None and not suffix else suffix
    return images.plan_outputs(inputs, out, listed=listed, suffix=added, format=format, results=(RESULT, SHEET))


def restore_files(
    plan: Plan,
    tools: Tools,
    options: Options,
    *,
    log: Callable[[str], None] | None = None,
    warn: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
) -> FilesReport:
    """Works on each pair of the plan; a failure is listed, not raised. Of several `processes` each works on a share of
    the pairs, and all give the report of the whole."""
    processes = processes or Processes()
    say, complain = speakers(log, warn)
    if processes.leads:
        say_beforehand(plan, say, complain)

    def tell(outcome: Outcome, words: str) -> None:
        speak = say if outcome.reason is None else complain
        speak(f"[{outcome.number}/{len(plan.pairs)}] {outcome.source} {words}")

    jobs = share(_jobs(plan, options.compare), processes)
    outcomes = processes.gathered(_Pipeline(tools, options, tell, progress).run(jobs))
    return _report(plan, sorted(outcomes, key=lambda outcome: outcome.number))


def preview(plan: Plan, options: Options, network_plan: Callable[[int, int], object]) -> Iterator[tuple[bool, str]]:
    """What `restore_files` would do, as far as the beginnings of files tell: whether it would succeed, and lines, for
    each part of the plan. `network_plan` takes a height and a width, and its str() says how such a picture is restored.
    """
    for source, reason in plan.left_out:
        yield True, printable(f"{source} left out: {reason}")
    for path in plan.others:
        yield True, printable(f"{path} left out: no picture")
    for source, reason in plan.failed:
        yield False, printable(f"{source} fails: {reason}")
    for job in _jobs(plan, options.compare):
        try:
            yield True, _preview(job, options, network_plan)
        except FAILURES as error:
            yield False, printable(f"{job.source} fails: {images.failure_reason(error)}")


def _preview(job: Job, options: Options, network_plan: Callable[[int, int], object]) -> str:
    if options.skip_existing and job.target.exists():
        require_not_itself(job.source, job.target)
        return printable(f"{job.source} left out: {job.target} exists")
    images.require_absent(job.target, overwrite=options.overwrite)
    line = printable(f"{job.source} -> {job.outputs}{', replaced' if job.target.exists() else ''}")
    if is_video(job.source):
        _require_for_videos(options)
        return line
    w, h = _size(job.source)
    return f"{line}\n{indent(str(network_plan(h, w)), '  ')}"


def _require_for_videos(options: Options) -> None:
    """Raises ValueError for what is asked for in vain, as who asks would not want it to be passed over."""
    if options.strip_metadata:
        raise ValueError("strip_metadata=True is for pictures: a video keeps its place and time")


def _size(path: Path) -> tuple[int, int]:
    """Width and height as the file's beginning says them. Raises ImageError and OSError as images.read."""

    class Seen(MemoryError):  # the error that reading lets through
        pass

    def stop(w: int, h: int) -> None:
        raise Seen(w, h)

    try:
        images.read(path, check_size=stop)
    except Seen as seen:
        return seen.args[0], seen.args[1]
    raise AssertionError(f"{path} was decoded")


def _jobs(plan: Plan, compare: bool) -> list[Job]:
    stems = Counter((target.parent, target.stem) for _, target in plan.pairs)

    def sheet(target: Path) -> Path:
        name = target.stem if stems[target.parent, target.stem] == 1 else target.name
        return target.with_name(f"{name}{SHEET}.jpg")

    return [
        Job(i, source, target, sheet(target) if compare and not is_video(source) else None)
        for i, (source, target) in enumerate(plan.pairs, 1)
    ]


def _report(plan: Plan, outcomes: list[Outcome]) -> FilesReport:
    report = report_of(plan)
    for outcome in outcomes:
        if outcome.reason is not None:
            report.failed.append((outcome.source, outcome.reason))
        elif outcome.is_new:
            report.done.append(outcome.target)
            report.scales[outcome.target] = outcome.scale
            if outcome.change is not None:
                report.changes[outcome.target] = outcome.change
        else:
            report.skipped.append(outcome.target)
    return report


class _Pipeline:
    """The work on some jobs, in their order."""

    def __init__(
        self, tools: Tools, options: Options, tell: Callable[[Outcome, str], None], progress: Progress | None
    ) -> None:
        self.tools, self.options, self.tell = tools, options, tell
        self.progress = progress or (lambda share: None)
        self.room = _Room(AHEAD)
        self.written = Written()
        self.outcomes: list[Outcome] = []

    def run(self, jobs: list[Job]) -> list[Outcome]:
        """One thread decodes, this one restores, one encodes and writes."""
        self.work = Work(job.source for job in jobs)
        decoder, encoder = ThreadPoolExecutor(1, "decode"), ThreadPoolExecutor(1, "encode")
        writing: Future[None] | None = None
        try:
            for job, decoded in _ahead(decoder, partial(self._decode, enter=self.room.enter), jobs):
                result = self._restore(job, decoded)
                if writing is not None:
                    writing.result()
                writing = encoder.submit(self._finish, job, result)
            if writing is not None:
                writing.result()
        finally:  # of an interruption too: what is being written gets whole
            self.room.close()
            decoder.shutdown(wait=False, cancel_futures=True)
            encoder.shutdown()
        return self.outcomes

    def _decode(self, job: Job, enter: Callable[[int, int], object] | None = None) -> Picture | None:
        """The picture of a job; None for a video, and where the target is there already. Raises what the job fails by.

        `enter` takes the job's number and its pixels before the decoding.
        """
        if self._is_done(job):
            return None
        images.require_absent(job.target, overwrite=self.options.overwrite)
        if job.sheet is not None:  # one without its picture is left of an interruption
            images.require_absent(job.sheet, overwrite=self.options.overwrite or self.options.skip_existing)
        if is_video(job.source):
            _require_for_videos(self.options)
            return None

        def seen(w: int, h: int) -> None:
            self.work.measured(job.source, w * h)
            if enter is not None:
                enter(job.number, w * h)

        picture = self.tools.read(job.source, seen)
        images.require_writable(picture, job.target)
        return picture

    def _is_done(self, job: Job) -> bool:
        return self.options.skip_existing and job.target.exists()

    def _restore(self, job: Job, decoded: Future[Picture | None]) -> Result:
        def reached(share: float) -> None:
            self.progress(self.work.reached(job.source, share))

        try:
            try:
                picture = decoded.result()
            except MemoryError:  # it was in use by the picture before
                picture = self._decode(job)
            if picture is not None:
                result: Result = Restored(picture, *self.tools.restore(picture, reached))
            elif self._is_done(job):
                self.work.measured(job.source, 0)
                return None
            else:
                result = self._restore_video(job, reached)
        except FAILURES as error:
            result = error
        reached(1.0)
        return result

    def _restore_video(self, job: Job, reached: Progress) -> Video:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        return Video(tuple(self.tools.video(job.source, job.target, reached).lost))

    def _finish(self, job: Job, result: Result) -> None:
        """Writes what was restored, and enters and says what became of the job."""
        try:
            if isinstance(result, Exception):
                raise result
            if not isinstance(result, Video):
                self.written.require_new(job.target)
            outcome, words = self._outcome(job, result)
            self.written.add(job.target, job.source)
        except FAILURES as error:
            reason = images.failure_reason(error)
            outcome, words = Outcome(*job[:3], reason=reason), f"failed: {reason}"
        self.room.leave(job.number)
        self.outcomes.append(outcome)
        self.tell(outcome, words)

    def _outcome(self, job: Job, result: Restored | Video | None) -> tuple[Outcome, str]:
        if result is None:
            require_not_itself(job.source, job.target)
            return Outcome(*job[:3], is_new=False), f"left out: {job.target} exists"
        if isinstance(result, Video):
            return Outcome(*job[:3]), f"-> {job.target}{_without(result.lost)}"
        return self._write(job, result)

    def _write(self, job: Job, restored: Restored) -> tuple[Outcome, str]:
        """Writes the sheet, if one is wanted, and then the picture: where that is there, both are."""
        before, after, scale = restored
        images.require_absent(job.target, overwrite=self.options.overwrite)  # once more, as it may be there by now
        change = compare.change(before.pixels, after.pixels)
        job.target.parent.mkdir(parents=True, exist_ok=True)
        if job.sheet is not None:
            _write_sheet(compare.compare_sheet(before.pixels, after.pixels), job.sheet)
        if self.options.strip_metadata:
            after = after.without_metadata()
        lacking = images.write(after, job.target, quality=self.options.quality)
        at = "" if scale == 1 else f" at scale {scale:.3g}"
        return Outcome(*job[:3], change=change, scale=scale), f"-> {job.outputs}{at}{_without(lacking)}, {change}"


def _without(lacking: Iterable[str]) -> str:
    words = ", ".join(lacking)
    return f", without {words}" if words else ""


def _write_sheet(sheet: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=95, subsampling=0)
    images.replace_file(path, buffer.getvalue())


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Job], Picture | None], jobs: Iterable[Job]
) -> Iterator[tuple[Job, Future[Picture | None]]]:
    """Each job with the work on it, in order; that on the next one is begun before."""
    begun = deque[tuple[Job, Future[Picture | None]]]()
    for job in jobs:
        begun.append((job, pool.submit(work, job)))
        if len(begun) == 2:
            yield begun.popleft()
    yield from begun


class _Room:
    """Where decoded pictures stay until they are written. One too many waits outside; one alone is never too many."""

    def __init__(self, pixels: int) -> None:
        self._limit = pixels
        self._inside: dict[int, int] = {}
        self._changed = Condition()

    def enter(self, number: int, pixels: int) -> None:
        """Waits until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: not self._inside or sum(self._inside.values()) + pixels <= self._limit)
            self._inside[number] = pixels

    def leave(self, number: int) -> None:
        with self._changed:
            self._inside.pop(number, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Lets in whoever waits, since nobody leaves any more."""
        with self._changed:
            self._inside.clear()
            self._limit = sys.maxsize
            self._changed.notify_all()
