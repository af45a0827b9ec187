"""Restoring a video frame by frame; all else in the file stays what it was.

One thread decodes ahead, the caller's restores, and one encodes behind: a few frames are in memory, however long the
video is.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import os
import secrets
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deblurgan.config import as_path
from deblurgan.images import FAILURES, ImageError, failure_reason, require_absent
from deblurgan.images.picture import StrPath, one_line

Pixels = NDArray[np.uint8]

# Of files that can be read, and of those that can be written, with the container that each suffix names
VIDEO_SUFFIXES: frozenset[str] = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts"}
    | {".wmv", ".asf", ".flv", ".ogv"}
)
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
# By name, since other demuxers (playlists) open further files
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg"
_FREE_CLOCKS = ("mpegts", "mpeg")  # whose timestamps start anywhere, as a broadcast's do

DEFAULT_QUALITY = 85  # visually lossless: crf 17 of H.264, 20 of VP9
_AHEAD = 3  # frames that are decoded before they are asked for, and that wait to be encoded
_MOST_PACKETS = 256  # of other streams, that one step carries
_MISSING_END = 1.0  # s that a Matroska file may lack of the length that it states: writers round it
_SAME_TIME = 0.001  # s between frames that share a time, since their container counts too coarsely
_SHARED_TIMES = "the times of frames that shared one"

# FFmpeg's numbers (ISO/IEC 23091-2) of colour matrices that it converts, as swscale numbers them, and of HDR's curves
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
_BT709, _BT601, _UNSPECIFIED = 1, 5, 2
_LIMITED, _FULL = 1, 2
_HDR = {16: "PQ", 18: "HLG"}
# Side data of frames, by FFmpeg's name, that an encoded frame of ours lacks
_LOST_SIDE_DATA = {
    "A53_CC": "closed captions",
    "SPHERICAL": "the mark of a 360-degree video",
    "STEREO3D": "the layout of a stereo video",
    "S12M_TIMECODE": "timecodes",
    "ICC_PROFILE": "the colour profile",
}
# Metadata that describe the encoded file, not the video
_STALE_METADATA = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration", "vendor_id"}
_STALE_STATISTICS = ("bps", "number_of_", "_statistics")
_ATTACHED_PICTURE = 1 << 10  # the disposition of a cover
_DISCARDED = 48  # what FFmpeg sets for a track that it has read as chapters


@dataclass(frozen=True)
class VideoReport:
    """What became of a video.

    path:   the file that was written.
    frames: how many were restored.
    lost:   what the file lacks of the source, in words.
    damage: what was damaged or missing in the source, in words; "" for a whole one.
    """

    path: Path
    frames: int
    lost: tuple[str, ...] = ()
    damage: str = ""


class VideoError(ImageError):
    """A video that cannot be read, restored or written. The message is "PATH: reason".

    Where the source was damaged or cut short, `report` tells of the partial video that was written; otherwise it is
    None, and nothing was.
    """

    def __init__(self, path: StrPath, reason: str, report: VideoReport | None = None) -> None:
        super().__init__(path, reason)
        self.args = (path, reason, report)
        self.report = report


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
    _require_pyav()
    source, target = as_path("source", source), as_path("target", target)
    if target.suffix.lower() not in CONTAINERS:
        raise VideoError(target, f"unknown suffix {target.suffix!r}: use one of {', '.join(CONTAINERS)}")
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality must be 1..100, got {quality}")
    require_absent(target, overwrite=overwrite)
    with _Source(source) as video, _whole_file(target) as file:
        steps = video.steps()
        first = next(steps)
        if first.frame is None:
            raise VideoError(source, f"holds no frame that can be decoded{video.damage_after(': ')}")
        if check_size is not None:
            check_size(first.frame.pixels.shape[1], first.frame.pixels.shape[0])
        with _Target(file.temporary, target, video, DEFAULT_QUALITY if quality is None else quality) as out:
            _pipeline(
                itertools.chain([first], steps), lambda step: _restored(step, restore, video, progress), out.write
            )
        lost = video.lost + out.lost + _missing_metadata(video, file.temporary)
        if video.damage:
            file.final = _partial_name(file.final)
        report = VideoReport(file.final, video.frames, tuple(lost), video.damage_after(""))
    if progress is not None:
        progress(1.0)
    if report.damage:
        reason = f"{report.damage}; the {report.frames} frames that could be decoded are in {report.path}"
        raise VideoError(source, reason, report)
    return report


class _Frame(NamedTuple):
    number: int  # from 1
    pixels: Pixels
    pts: int  # in units of the stream's time base
    duration: int


class _Step(NamedTuple):
    """A frame, or None, and packets of other streams that come before it."""

    packets: list[Any]
    frame: _Frame | None


class _Source:
    """A video file that is read."""

    def __init__(self, path: Path) -> None:
        import av

        self.path = path
        self.frames = 0
        self.lost: list[str] = []
        self.damage: Counter[str] = Counter()
        self._packet_times: deque[int | None] = deque()
        self._last_pts: int | None = None
        with open(path, "rb"):  # its OSError says what is wrong
            pass
        try:
            self.container = av.open(  # an absolute path, since "a:b.mp4" would name a protocol
                os.path.abspath(path),
                metadata_errors="surrogateescape",
                container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"},
            )
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(path, f"damaged, or not a video that can be read ({one_line(error)})") from error
        try:
            self.stream = self._main_stream()
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.container.close()

    def _main_stream(self) -> Any:
        streams = [s for s in self.container.streams.video if not s.disposition.value & _ATTACHED_PICTURE]
        if not streams:
            raise VideoError(self.path, "holds no video stream")
        main = max(streams, key=lambda s: (bool(s.disposition.value & 1), -s.index))
        if main.codec_context is None:
            raise VideoError(self.path, "this FFmpeg has no decoder for its video")
        main.thread_type = "AUTO"
        self.lost += [f"the restoration of video stream {s.index}" for s in streams if s is not main]
        return main

    @property
    def others(self) -> list[Any]:
        """The streams that are copied: all but the one that is restored, and but chapters, which are kept apart."""
        return [s for s in self.container.streams if s is not self.stream and s.discard.value != _DISCARDED]

    @property
    def offset(self) -> Fraction:
        """Seconds that are taken from all times, so that a free clock starts at 0."""
        free = self.container.format.name in _FREE_CLOCKS and self.container.start_time is not None
        return Fraction(self.container.start_time, 1_000_000) if free else Fraction(0)

    def shifted(self, time: int, time_base: Fraction) -> int:
        return time - round(self.offset / time_base)

    def seconds(self, frame: _Frame) -> float:
        return float(frame.pts * self.stream.time_base)

    def damage_after(self, words: str) -> str:
        """What is damaged, after some words; "" where nothing is."""
        said = (what if n == 1 else f"{what} ({n} times)" for what, n in self.damage.items())
        return words + ", ".join(said) if self.damage else ""

    def steps(self) -> Iterator[_Step]:
        """What the file holds, in its order: the first step has a frame, unless the file has none."""
        import av

        waiting: list[Any] = []
        for packet in self._packets():
            if packet.stream is not self.stream:
                if packet.is_corrupt:
                    self.damage[f"a packet of {_name(packet.stream)} is damaged"] += 1
                elif packet.size:
                    waiting.append(packet)
                if self.frames and len(waiting) == _MOST_PACKETS:
                    yield _Step(waiting, None)
                    waiting = []
                continue
            try:
                decoded = packet.decode()
            except (av.FFmpegError, ValueError):
                self.damage["a video packet cannot be decoded"] += 1
                continue
            if packet.size:
                self._packet_times.append(packet.dts)
            for frame in decoded:
                pts = self._time(frame)
                if pts is None:
                    self.damage["a frame without a time is left out"] += 1
                    continue
                if frame.is_corrupt:
                    self.damage["a frame is damaged"] += 1
                self.frames += 1
                yield _Step(waiting, _Frame(self.frames, self._rgb(frame), pts, frame.duration or 0))
                waiting = []
        yield _Step(waiting, None)

    def _time(self, frame: Any) -> int | None:
        """The frame's time, after that of the frame before; None where it has none, or one that lies back.

        An AVI file holds times of decoding alone: there frames, which come in the order of display, take these in turn.
        """
        earliest = self._packet_times.popleft() if self._packet_times else None
        pts: int | None = earliest if self.container.format.name == "avi" else frame.pts
        if pts is not None and self._last_pts is not None and pts <= self._last_pts:
            if (self._last_pts - pts) * self.stream.time_base > _SAME_TIME:
                return None
            pts = self._last_pts + 1
            if _SHARED_TIMES not in self.lost:
                self.lost.append(_SHARED_TIMES)
        self._last_pts = self._last_pts if pts is None else pts
        return pts

    def _packets(self) -> Iterator[Any]:
        """The packets of all streams, and at last an empty one of each, which has a decoder give what it keeps."""
        import av

        seen, end = 0, 0.0
        try:
            for packet in self.container.demux():
                seen += packet.stream is self.stream and packet.size > 0
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                yield packet
        except (av.FFmpegError, ValueError) as error:
            self.damage[f"unreadable after {end:.2f} s ({one_line(error)})"] += 1
            packet = av.Packet()
            packet.stream = self.stream
            yield packet
        missing = len(self.stream.index_entries) - seen
        if missing > 0:
            self.damage[f"{missing} video packets are missing"] += 1
        stated = (self.container.duration or 0) / 1e6
        if "matroska" in self.container.format.name and stated - end > _MISSING_END:
            self.damage[f"it ends after {end:.2f} s of {stated:.2f} s"] += 1

    def _rgb(self, frame: Any) -> Pixels:
        if self.frames == 1:
            self._look(frame)
        if (frame.width, frame.height) != self.size:
            size = f"from {self.size[0]}x{self.size[1]} to {frame.width}x{frame.height}"
            raise VideoError(self.path, f"frame {self.frames}: the size of the picture changes {size}")
        if frame.interlaced_frame:
            raise VideoError(self.path, f"frame {self.frames} is interlaced: deinterlace the video first")
        for data in frame.side_data:
            words = _LOST_SIDE_DATA.get(data.type.name)
            if words is not None and words not in self.lost:
                self.lost.append(words)
        rgb = frame.reformat(
            format="rgb24",
            src_colorspace=None if frame.format.is_rgb else _MATRICES[self._matrix(frame)],
            src_color_range=_color_range(frame),
            dst_color_range=_FULL,
            interpolation=_interpolation(),
        )
        pixels: Pixels = rgb.to_ndarray()
        return pixels

    def _look(self, frame: Any) -> None:
        """Notes from the first frame what the target must have too."""
        self.size = frame.width, frame.height
        self.color_range = frame.color_range if not frame.format.is_rgb else _LIMITED
        self.color_primaries, self.color_trc = frame.color_primaries, frame.color_trc
        self.color_tag = _BT709 if frame.format.is_rgb else frame.colorspace
        self.matrix = _MATRICES[self._matrix(frame)]
        if frame.format.name.startswith("yuvj"):
            self.color_range = _FULL
        self.display_matrix = next(
            (np.frombuffer(bytes(data), np.int32) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"),
            None,
        )
        if frame.color_trc in _HDR:
            kind = _HDR[frame.color_trc]
            raise VideoError(self.path, f"is HDR ({kind}), which 8 bits cannot hold: convert it to SDR first")
        if max(part.bits for part in frame.format.components) > 8:
            self.lost.append("colours finer than 8 bits")
        if any(part.is_alpha for part in frame.format.components):
            self.lost.append("transparency")

    def _matrix(self, frame: Any) -> int:
        """The matrix of the frame's colours; where it is not tagged, the one that players take."""
        if frame.format.is_rgb:
            return _BT709
        if frame.colorspace == _UNSPECIFIED:
            return _BT709 if frame.height >= 720 else _BT601
        if frame.colorspace not in _MATRICES:
            raise VideoError(self.path, f"its colours (matrix {frame.colorspace}) cannot be converted")
        return int(frame.colorspace)


class _Target:
    """A video file that is written."""

    def __init__(self, temporary: Path, path: Path, source: _Source, quality: int) -> None:
        self.source, self.path = source, path
        self.lost: list[str] = []
        self._durations: dict[int, int] = {}
        with self._own_errors():
            self._open(temporary, quality)

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            with self._own_errors():
                if kind is None:
                    self._encode(None)
                self.container.close()
        except VideoError:
            if kind is None:  # otherwise the error under way says more
                raise

    @contextlib.contextmanager
    def _own_errors(self) -> Iterator[None]:
        import av

        try:
            yield
        except av.FFmpegError as error:
            raise VideoError(self.path, f"cannot be written ({one_line(error)})") from error

    def _open(self, temporary: Path, quality: int) -> None:
        import av

        format = CONTAINERS[self.path.suffix.lower()]
        copied = [stream for stream in self.source.others if _holds(format, stream)]
        self.lost += [_name(stream) for stream in self.source.others if stream not in copied]
        self.container = av.open(
            str(temporary.absolute()),
            "w",
            format=format,
            metadata_errors="surrogateescape",
            container_options=_exact_times(self.source.stream, copied) | _all_metadata(self.source.container, copied)
            if format in ("mp4", "mov")
            else {},
        )
        try:
            self._video = self._video_stream("libvpx-vp9" if format == "webm" else "libx264", quality)
            self._copies = {stream.index: self._copy(stream) for stream in copied}
            self.container.metadata.update(_lasting(self.source.container.metadata))
            self.container.set_chapters(self.source.container.chapters())
            self.container.start_encoding()
        except BaseException:
            self.container.close()
            raise

    def _video_stream(self, encoder: str, quality: int) -> Any:
        import av

        source = self.source.stream
        try:
            stream = self.container.add_stream(
                encoder, rate=source.average_rate or source.guessed_rate or 25, options=_options(encoder, quality)
            )
        except av.codec.codec.UnknownCodecError as error:
            raise VideoError(self.path, f"this FFmpeg lacks the encoder {encoder}: PyAV's own wheels have it") from error
        stream.width, stream.height = self.source.size
        odd = any(side % 2 for side in self.source.size)
        stream.pix_fmt = "yuv444p" if odd and encoder == "libx264" else "yuv420p"  # its 4:2:0 needs even sides
        stream.time_base = stream.codec_context.time_base = source.time_base
        stream.sample_aspect_ratio = source.sample_aspect_ratio or Fraction(0, 1)
        stream.color_range, stream.colorspace = self.source.color_range, self.source.color_tag
        stream.color_primaries, stream.color_trc = self.source.color_primaries, self.source.color_trc
        if self.source.display_matrix is not None:
            stream.set_display_matrix(self.source.display_matrix)
        stream.disposition = source.disposition
        stream.metadata.update(_lasting(source.metadata))
        return stream

    def _copy(self, stream: Any) -> Any:
        copy = self.container.add_stream_from_template(stream, opaque=True)
        copy.disposition = stream.disposition
        copy.metadata.update(stream.metadata)
        return copy

    def write(self, step: _Step) -> None:
        with self._own_errors():
            for packet in step.packets:
                copy = self._copies.get(packet.stream.index)
                if copy is None:
                    continue
                if packet.pts is not None:
                    packet.pts = self.source.shifted(packet.pts, packet.time_base)
                if packet.dts is not None:
                    packet.dts = self.source.shifted(packet.dts, packet.time_base)
                packet.stream = copy
                self.container.mux(packet)
            if step.frame is not None:
                self._encode(step.frame)

    def _encode(self, frame: _Frame | None) -> None:
        """Encodes a frame, or with None those that the encoder still has."""
        for packet in self._video.encode(None if frame is None else self._yuv(frame)):
            packet.duration = self._durations.pop(packet.pts, 0)
            self.container.mux(packet)

    def _yuv(self, frame: _Frame) -> Any:
        import av

        yuv = av.VideoFrame.from_ndarray(frame.pixels, "rgb24").reformat(
            format=self._video.pix_fmt,
            dst_colorspace=self.source.matrix,
            src_color_range=_FULL,
            dst_color_range=self.source.color_range or _LIMITED,
            interpolation=_interpolation(),
        )
        yuv.pts = self.source.shifted(frame.pts, self.source.stream.time_base)
        yuv.time_base = self.source.stream.time_base
        self._durations[yuv.pts] = frame.duration
        return yuv


def _require_pyav() -> None:
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ImportError("videos need PyAV: pip install 'deblurgan[video]'") from error


def _pipeline(steps: Iterator[_Step], work: Callable[[_Step], _Step], write: Callable[[_Step], None]) -> None:
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
    step: _Step, restore: Callable[[Pixels], Pixels], source: _Source, progress: Callable[[float], object] | None
) -> _Step:
    frame = step.frame
    if frame is None:
        return step
    where = f"frame {frame.number} at {source.seconds(frame):.3f} s"
    try:
        pixels = restore(frame.pixels)
    except FAILURES as error:
        raise VideoError(source.path, f"{where}: {failure_reason(error)}") from error
    if pixels.dtype != np.uint8 or pixels.shape != frame.pixels.shape:
        shape = list(frame.pixels.shape)
        raise ValueError(f"restore must give uint8 {shape}, got {pixels.dtype} {list(pixels.shape)} for {where}")
    duration = source.container.duration
    if progress is not None and duration:
        start = source.container.start_time or 0
        progress(min(1.0, max(0.0, (source.seconds(frame) * 1e6 - start) / duration)))
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
    names = (target.with_suffix(f".partial{k}{target.suffix}") for k in ("", *map("-{}".format, range(2, 1000))))
    return next(name for name in names if not name.exists())


def _holds(format: str, stream: Any) -> bool:
    """Whether a container takes the stream's packets as they are: FFmpeg says so only where it is tried."""
    import av

    try:
        with av.open(io.BytesIO(), "w", format=format) as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _name(stream: Any) -> str:
    codec = "" if stream.codec_context is None else f" ({stream.codec_context.name})"
    return f"{stream.type} stream {stream.index}{codec}"


def _options(encoder: str, quality: int) -> dict[str, str]:
    if encoder == "libx264":
        return {"crf": str(round(51 - 0.4 * quality))}
    return {"crf": str(round(63 - 0.5 * quality)), "b": "0", "deadline": "good", "cpu-used": "2", "row-mt": "1"}


def _exact_times(video: Any, copied: Iterable[Any]) -> dict[str, str]:
    """Options by which MP4 and MOV hold all times of these streams as they are."""
    ticks = math.lcm(video.time_base.denominator, *(stream.time_base.denominator for stream in copied))
    movie = ticks if ticks < 2**31 else video.time_base.denominator
    return {"video_track_timescale": str(video.time_base.denominator), "movie_timescale": str(movie)}


def _all_metadata(source: Any, copied: Iterable[Any]) -> dict[str, str]:
    """An option by which MP4 and MOV hold keys such as com.apple.quicktime.make; they cannot hold a cover beside."""
    covers = any(stream.disposition.value & _ATTACHED_PICTURE for stream in copied)
    dotted = any("." in key for key in source.metadata)
    return {"movflags": "use_metadata_tags"} if dotted and not covers else {}


def _lasting(metadata: dict[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _STALE_METADATA and not key.lower().startswith(_STALE_STATISTICS)
    }


def _missing_metadata(source: _Source, written: Path) -> list[str]:
    """The metadata that the file lacks, for it is opened: containers leave out what they do not know."""
    with _Source(written) as result:
        there = {key.lower() for key in result.container.metadata}
    return [f"metadata {key}" for key in _lasting(source.container.metadata) if key.lower() not in there]


def _color_range(frame: Any) -> int:
    return _FULL if frame.color_range == _FULL or frame.format.name.startswith(("yuvj", "gray")) else _LIMITED


def _interpolation() -> Any:
    """For colours: a round trip keeps 60 dB of luma, and without the last three flags 46."""
    from av.video.reformatter import Interpolation as Flag

    return Flag.BICUBIC | Flag.FULL_CHR_H_INT | Flag.FULL_CHR_H_INP | Flag.ACCURATE_RND
