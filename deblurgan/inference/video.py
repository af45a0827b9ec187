"""Restoring a video frame by frame; all else in the file stays what it was.

One thread decodes ahead, the caller's restores, and one encodes behind: a few frames are in memory, however long the
video is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deblurgan.config import as_path
from deblurgan.images import FAILURES, failure_reason, require_absent
from deblurgan.images.files import CONTAINERS, VIDEO_SUFFIXES
from deblurgan.images.picture import StrPath
from deblurgan.inference.video_reading import Pixels, Source, Step, VideoError, VideoReport
from deblurgan.inference.video_writing import Target, missing_metadata

__all__ = ["CONTAINERS", "VIDEO_SUFFIXES", "VideoError", "VideoReport", "restore_video"]

DEFAULT_QUALITY = 85  # visually lossless: crf 18 of H.264, 20 of VP9
_AHEAD = 3  # frames that are decoded before they are asked for, and that wait to be encoded


def restore_video(
    restore: Callable[[Pixels], Pixels],
    source: StrPath,
    target: StrPath,
    *,
    overwrite: bool = False,
    quality: int | None = None,
    check_size: Callable[[int, int], object] | None = None,
    progress: Callable[[float], object] | None = None,
) -> VideoReport:
    """Restores a video file frame by frame.

    Each frame keeps its time, also at a variable frame rate. Sound, subtitles, data, covers and attachments are copied
    without decoding, as far as the target's container takes them; chapters, metadata, rotation, the pixels' aspect
    ratio and the colour tags are kept.

    Args:
        restore: takes and gives a frame, uint8 RGB [h, w, 3]; called in the caller's thread, in order.
        source: a video file with at least one frame.
        target: .mp4, .m4v, .mov or .mkv for H.264 video, .webm for VP9. It is written whole or not at all.
        overwrite: replaces a file that exists, be it the source itself.
        quality: of the encoder, 1 to 100; None is visually lossless.
        check_size: called with the width and height in pixels before anything is restored, to raise.
        progress: called with the share done, 0 ... 1.

    Raises VideoError for a video that cannot be read, restored or written (HDR and interlaced ones among them). Where
    the source is damaged or cut short, what could be decoded goes to NAME.partial.SUFFIX beside the target, and
    VideoError tells of it. Raises FileExistsError where target exists, unless `overwrite`; OSError for a source that
    cannot be opened; ImportError without PyAV.
    """
    require_pyav()
    source, target = as_path("source", source), as_path("target", target)
    if target.suffix.lower() not in CONTAINERS:
        raise VideoError(target, f"unknown suffix {target.suffix!r}: use one of {', '.join(CONTAINERS)}")
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality must be 1..100, got {quality}")
    require_absent(target, overwrite=overwrite)
    with Source(source) as video, _whole_file(target) as file:
        steps = video.steps()
        first = next(steps)
        if first.frame is None:
            raise VideoError(source, f"holds no frame that can be decoded{video.damage_after(': ')}")
        if check_size is not None:
            check_size(first.frame.pixels.shape[1], first.frame.pixels.shape[0])
        with Target(file.temporary, target, video, first, DEFAULT_QUALITY if quality is None else quality) as out:
            _pipeline(
                itertools.chain([first], steps), lambda step: _restored(step, restore, video, progress), out.write
            )
        lost = video.lost + out.lost + missing_metadata(video, file.temporary)
        if video.damage:
            file.final = _partial_name(file.final)
        path = file.final if video.damage else target
        report = VideoReport(path, video.frames, tuple(lost), video.damage_after(""))
    if progress is not None:
        progress(1.0)
    if report.damage:
        reason = f"{report.damage}; the {report.frames} frames that could be decoded are in {report.path}"
        raise VideoError(source, reason, report)
    return report


def require_pyav() -> None:
    try:
        import av
    except ImportError as error:
        raise ImportError("videos need PyAV: pip install 'deblurgan[video]'") from error
    if int(av.__version__.split(".")[0]) < 18:  # it cannot write the rotation
        raise ImportError(f"videos need PyAV 18 or newer, got {av.__version__}: pip install 'deblurgan[video]'")


def _pipeline(steps: Iterator[Step], work: Callable[[Step], Step], write: Callable[[Step], None]) -> None:
    """Has each step read in one thread, worked on in this one and written in another, a few of them at a time."""
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        coming = deque(reader.submit(next, steps, None) for _ in range(_AHEAD))
        going: deque[Future[None]] = deque()
        while (step := coming.popleft().result()) is not None:
            coming.append(reader.submit(next, steps, None))
            going.append(writer.submit(write, work(step)))
            if len(going) > _AHEAD:
                going.popleft().result()
        for ending in going:
            ending.result()


def _restored(
    step: Step, restore: Callable[[Pixels], Pixels], source: Source, progress: Callable[[float], object] | None
) -> Step:
    frame = step.frame
    if frame is None:
        return step
    where = f"frame {frame.number} at {float(source.seconds(frame)):.3f} s"
    try:
        pixels = restore(frame.pixels)
    except FAILURES as error:
        raise VideoError(source.path, f"{where}: {failure_reason(error)}") from error
    if pixels.dtype != np.uint8 or pixels.shape != frame.pixels.shape:
        shape = list(frame.pixels.shape)
        raise ValueError(f"restore must give uint8 {shape}, got {pixels.dtype} {list(pixels.shape)} for {where}")
    if progress is not None and source.length:
        progress(min(1.0, max(0.0, float((source.seconds(frame) - source.start) / source.length))))
    return step._replace(frame=frame._replace(pixels=np.ascontiguousarray(pixels)))


@dataclass
class _File:
    temporary: Path
    final: Path


@contextlib.contextmanager
def _whole_file(target: Path) -> Iterator[_File]:
    """A file beside the target to be written, which gets its final name at the end, or vanishes after an error."""
    real = Path(os.path.realpath(target))
    file = _File(real.with_name(f".{secrets.token_hex(8)}{real.suffix}"), real)
    try:
        yield file
        with open(file.temporary, "rb+") as written:
            os.fsync(written.fileno())
        if file.final.exists():
            shutil.copymode(file.final, file.temporary)
        os.replace(file.temporary, file.final)
    except BaseException:
        with contextlib.suppress(OSError):
            file.temporary.unlink()
        raise


def _partial_name(target: Path) -> Path:
    """NAME.partial.SUFFIX, or with a number where that exists."""
    endings = itertools.chain([""], (f"-{k}" for k in itertools.count(2)))
    names = (target.with_suffix(f".partial{ending}{target.suffix}") for ending in endings)
    return next(name for name in names if not name.exists())
