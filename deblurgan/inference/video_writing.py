"""Videos to files: frames encoded, the packets of all other streams copied."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

from deblurgan.images.files import CONTAINERS
from deblurgan.inference.video_reading import (
    ATTACHED_PICTURE,
    FULL,
    LIMITED,
    Frame,
    Source,
    Step,
    VideoError,
    interpolation,
    name,
    why,
)

# Metadata that describe the encoded file, not the video
_STALE_METADATA = {"encoder", "software", "major_brand", "minor_version", "compatible_brands", "duration", "vendor_id"}
_STALE_STATISTICS = ("bps", "number_of_", "_statistics")


class Target:
    """A video file that is written."""

    def __init__(self, temporary: Path, path: Path, source: Source, first: Step, quality: int) -> None:
        self.source, self.path = source, path
        self.lost: list[str] = []
        self._durations: dict[int, int] = {}
        with self._own_errors():
            self._open(temporary, first, quality)

    def __enter__(self) -> Target:
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
            raise VideoError(self.path, f"cannot be written ({why(error)})") from error

    def _open(self, temporary: Path, first: Step, quality: int) -> None:
        import av

        format = CONTAINERS[self.path.suffix.lower()]
        copied = [stream for stream in self.source.others if _holds(format, stream)]
        self.lost += [name(stream) for stream in self.source.others if stream not in copied]
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
            covers = [stream for stream in copied if format == "matroska" and _is_cover(stream)]
            self._copies = {stream.index: self._copy(stream) for stream in copied if stream not in covers}
            for stream in covers:
                self._attach(stream, first.packets)
            self.container.metadata.update(_lasting(self.source.container.metadata))
            self.container.set_chapters(self.source.container.chapters())
            self.container.start_encoding()
        except BaseException:
            self.container.close()
            raise

    def _video_stream(self, encoder: str, quality: int) -> Any:
        import av

        source = self.source.stream
        rate = min(
            source.guessed_rate or source.average_rate or 25, 1 / source.time_base
        )  # libvpx refuses a higher one
        try:
            stream: Any = self.container.add_stream(encoder, rate=rate, options=_options(encoder, quality))
        except av.codec.codec.UnknownCodecError as error:
            raise VideoError(
                self.path, f"this FFmpeg lacks the encoder {encoder}: PyAV's own wheels have it"
            ) from error
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

    def _attach(self, cover: Any, packets: Iterable[Any]) -> None:
        """Matroska's covers are attachments."""
        kind = "jpeg" if cover.codec_context.name == "mjpeg" else cover.codec_context.name
        data = b"".join(bytes(packet) for packet in packets if packet.stream is cover)
        self.container.add_attachment(cover.metadata.get("filename", f"cover.{kind}"), f"image/{kind}", data)

    def write(self, step: Step) -> None:
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

    def _encode(self, frame: Frame | None) -> None:
        """Encodes a frame, or with None those that the encoder still has."""
        for packet in self._video.encode(None if frame is None else self._yuv(frame)):
            packet.duration = self._durations.pop(packet.pts, 0)
            self.container.mux(packet)

    def _yuv(self, frame: Frame) -> Any:
        import av

        yuv = av.VideoFrame.from_ndarray(frame.pixels, "rgb24").reformat(
            format=self._video.pix_fmt,
            dst_colorspace=self.source.matrix,
            src_color_range=FULL,
            dst_color_range=self.source.color_range or LIMITED,
            interpolation=interpolation(),
        )
        yuv.pts = self.source.shifted(frame.pts, self.source.stream.time_base)
        yuv.time_base = self.source.stream.time_base
        self._durations[yuv.pts] = frame.duration
        return yuv


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


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition.value & ATTACHED_PICTURE)


def _options(encoder: str, quality: int) -> dict[str, str]:
    if encoder == "libx264":
        return {"crf": str(round(52 - 0.4 * quality)), "x264-params": "mbtree=0"}  # with it each run gives other bytes
    return {"crf": str(round(63 - 0.5 * quality)), "b": "0", "deadline": "good", "cpu-used": "2", "row-mt": "1"}


def _exact_times(video: Any, copied: Iterable[Any]) -> dict[str, str]:
    """Options by which MP4 and MOV hold all times of these streams as they are."""
    ticks = math.lcm(video.time_base.denominator, *(stream.time_base.denominator for stream in copied))
    movie = ticks if ticks < 2**31 else video.time_base.denominator
    return {"video_track_timescale": str(video.time_base.denominator), "movie_timescale": str(movie)}


def _all_metadata(source: Any, copied: Iterable[Any]) -> dict[str, str]:
    """An option by which MP4 and MOV hold keys such as com.apple.quicktime.make; they cannot hold a cover beside."""
    dotted = any("." in key for key in source.metadata)
    return {"movflags": "use_metadata_tags"} if dotted and not any(map(_is_cover, copied)) else {}


def missing_metadata(source: Source, written: Path) -> list[str]:
    """The metadata that the file lacks, for it is opened: containers leave out what they do not know."""
    with Source(written) as result:
        there = {key.lower() for key in result.container.metadata}
    return [f"metadata {key}" for key in _lasting(source.container.metadata) if key.lower() not in there]


def _lasting(metadata: dict[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _STALE_METADATA and not key.lower().startswith(_STALE_STATISTICS)
    }
