"""Videos from files: decoded frames in order, the packets of all other streams, and what is damaged."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deblurgan.images import ImageError
from deblurgan.images.picture import StrPath, one_line

Pixels = NDArray[np.uint8]

# By name, since other demuxers (playlists) open further files
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg"
_FREE_CLOCKS = ("mpegts", "mpeg")  # whose timestamps start anywhere, as a broadcast's do

_MICROSECONDS = 1_000_000  # FFmpeg's unit for a whole file
_MOST_PACKETS = 256  # of other streams, that one step carries
_MISSING_END = 1.0  # s that a Matroska file may lack of the length that it states: writers round it
_GAP = 512  # bytes between blocks of a Matroska file that tell of damage
_SAME_TIME = 0.001  # s between frames that share a time, since their container counts too coarsely
_SHARED_TIMES = "the times of frames that shared one"

# FFmpeg's numbers (ISO/IEC 23091-2) of colour matrices that it converts, as swscale numbers them, and of HDR's curves
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
_BT709, _BT601, _UNSPECIFIED = 1, 5, 2
LIMITED, FULL = 1, 2
_HDR = {16: "PQ", 18: "HLG"}
# Side data of frames, by FFmpeg's name, that an encoded frame of ours lacks
_LOST_SIDE_DATA = {
    "A53_CC": "closed captions",
    "SPHERICAL": "the mark of a 360-degree video",
    "STEREO3D": "the layout of a stereo video",
    "S12M_TIMECODE": "timecodes",
    "ICC_PROFILE": "the colour profile",
}
ATTACHED_PICTURE = 1 << 10  # the disposition of a cover
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


class Frame(NamedTuple):
    number: int  # from 1
    pixels: Pixels
    pts: int  # in units of the stream's time base
    duration: int


class Step(NamedTuple):
    """A frame, or None, and packets of other streams that come before it."""

    packets: list[Any]
    frame: Frame | None


class Source:
    """A video file that is read."""

    def __init__(self, path: Path) -> None:
        import av

        self.path = path
        self.frames = 0
        self.lost: list[str] = []
        self.damage: Counter[str] = Counter()
        self._last_pts: int | None = None
        self._block = self._block_end = 0  # positions in a Matroska file, bytes
        with open(path, "rb"):  # its OSError says what is wrong
            pass
        try:
            self.container = av.open(  # an absolute path, since "a:b.mp4" would name a protocol
                os.path.abspath(path),
                metadata_errors="surrogateescape",
                container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"},
            )
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(path, f"damaged, or not a video that can be read ({why(error)})") from error
        try:
            self.stream = self._main_stream()
        except BaseException:
            self.container.close()
            raise
        self._times_of_decoding = self.container.format.name == "avi"
        self._packet_times: deque[int | None] = deque()
        free = self.container.format.name in _FREE_CLOCKS
        self.start = Fraction(self.container.start_time or 0, _MICROSECONDS)
        self.length = Fraction(self.container.duration or 0, _MICROSECONDS)  # s; 0 where it is unknown
        self.offset = self.start if free else Fraction(0)  # s that are taken from all times, so that these start at 0

    def __enter__(self) -> Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.container.close()

    def _main_stream(self) -> Any:
        streams = [s for s in self.container.streams.video if not s.disposition.value & ATTACHED_PICTURE]
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

    def shifted(self, time: int, time_base: Fraction) -> int:
        return time - round(self.offset / time_base)

    def seconds(self, frame: Frame) -> Fraction:
        return Fraction(frame.pts * self.stream.time_base)

    def damage_after(self, words: str) -> str:
        """What is damaged, after some words; "" where nothing is."""
        said = (what if n == 1 else f"{what} ({n} times)" for what, n in self.damage.items())
        return words + ", ".join(said) if self.damage else ""

    def steps(self) -> Iterator[Step]:
        """What the file holds, in its order: the first step has a frame, unless the file has none."""
        import av

        waiting: list[Any] = []
        for packet in self._packets():
            if packet.is_corrupt:
                self.damage[f"a packet of {name(packet.stream)} is damaged"] += 1
            if packet.stream is not self.stream:
                if packet.size and not packet.is_corrupt:
                    waiting.append(packet)
                if self.frames and len(waiting) == _MOST_PACKETS:
                    yield Step(waiting, None)
                    waiting = []
                continue
            try:
                decoded = packet.decode()
            except (av.FFmpegError, ValueError):
                self.damage["a video packet cannot be decoded"] += 1
                continue
            if packet.size and self._times_of_decoding:
                self._packet_times.append(packet.dts)
            for frame in decoded:
                pts = self._time(frame)
                if pts is None:
                    self.damage["a frame without a time is left out"] += 1
                    continue
                if frame.is_corrupt:
                    self.damage["a frame is damaged"] += 1
                self.frames += 1
                yield Step(waiting, Frame(self.frames, self._rgb(frame), pts, frame.duration or 0))
                waiting = []
        yield Step(waiting, None)

    def _time(self, frame: Any) -> int | None:
        """The frame's time, after that of the frame before; None where it has none, or one that lies back.

        An AVI file holds times of decoding alone: there frames, which come in the order of display, take these in turn.
        """
        pts: int | None = frame.pts
        if self._times_of_decoding:
            pts = self._packet_times.popleft() if self._packet_times else None
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

        seen, end, matroska = 0, 0.0, "matroska" in self.container.format.name
        try:
            for packet in self.container.demux():
                seen += packet.stream is self.stream and packet.size > 0
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if matroska:
                    self._note_gap(packet)
                yield packet
        except (av.FFmpegError, ValueError) as error:
            self.damage[f"unreadable after {end:.2f} s ({why(error)})"] += 1
            packet = av.Packet()
            packet.stream = self.stream
            yield packet
        missing = len(self.stream.index_entries) - seen
        if missing > 0:
            self.damage[f"{missing} video packets are missing"] += 1
        stated = float(self.length)
        if matroska and stated - end > _MISSING_END:
            self.damage[f"it ends after {end:.2f} s of {stated:.2f} s"] += 1

    def _note_gap(self, packet: Any) -> None:
        """Notices bytes that FFmpeg has skipped in silence: blocks of Matroska lie 6 to 60 bytes apart."""
        if not packet.pos or not packet.size:
            return
        if packet.pos != self._block:  # laced packets have one position
            if self._block_end and packet.pos - self._block_end > _GAP:
                self.damage["a damaged part is left out"] += 1
            self._block = self._block_end = packet.pos
        self._block_end += packet.size
        if packet.has_sidedata("matroska_block_additional"):  # of unknown size in the file
            self._block_end = 0

    def _rgb(self, frame: Any) -> Pixels:
        import av

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
        try:
            pixels: Pixels = frame.reformat(
                format="rgb24",
                src_colorspace=None if frame.format.is_rgb else _MATRICES[self._matrix(frame)],
                src_color_range=_color_range(frame),
                dst_color_range=FULL,
                interpolation=interpolation(),
            ).to_ndarray()
        except av.FFmpegError as error:
            raise VideoError(self.path, f"frame {self.frames} cannot be converted ({why(error)})") from error
        return pixels

    def _look(self, frame: Any) -> None:
        """Notes from the first frame what the target must have too."""
        if frame.color_trc in _HDR:
            kind = _HDR[frame.color_trc]
            raise VideoError(self.path, f"is HDR ({kind}), which 8 bits cannot hold: convert it to SDR first")
        self.size = frame.width, frame.height
        self.color_range = frame.color_range if not frame.format.is_rgb else LIMITED
        self.color_primaries, self.color_trc = frame.color_primaries, frame.color_trc
        self.color_tag = _BT709 if frame.format.is_rgb else frame.colorspace
        self.matrix = _MATRICES[self._matrix(frame)]
        matrices = [data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"]
        self.display_matrix = np.frombuffer(bytes(matrices[0]), np.int32).tolist() if matrices else None
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


def why(error: Exception) -> str:
    """What an error of FFmpeg says, without the names that it goes by there."""
    return getattr(error, "strerror", None) or one_line(error)


def name(stream: Any) -> str:
    codec = "" if stream.codec_context is None else f" ({stream.codec_context.name})"
    return f"{stream.type} stream {stream.index}{codec}"


def _color_range(frame: Any) -> int:
    return FULL if frame.color_range == FULL or frame.format.name.startswith("gray") else LIMITED


def interpolation() -> Any:
    """For colours: a round trip keeps 60 dB of luma, and without the last three flags 46."""
    from av.video.reformatter import Interpolation as Flag

    return Flag.BICUBIC | Flag.FULL_CHR_H_INT | Flag.FULL_CHR_H_INP | Flag.ACCURATE_RND
