"""Small video files for tests, made by PyAV, and what a file holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

TICKS = 90_000  # of the clock in a second
EVEN = tuple(3600 * i for i in range(12))  # 25 frames a second
UNEVEN = tuple(2 * TICKS + 7 + t for t in (0, 3003, 6006, 6999, 12012, 30000, 33003, 36036, 36500, 42000, 50001, 60007))
_PLAIN = {"libx264": {"bf": "2", "g": "6", "x264-params": "mbtree=0"}, "libvpx-vp9": {"cpu-used": "8"}}
JPEG = Path(__file__).parent.parent / "docs" / "before-after.jpg"


class Held(NamedTuple):
    """What a video file holds: its time base, each frame's pts, the frames, and (pts, bytes) of each audio packet."""

    time_base: Fraction
    pts: list[int]
    frames: list[Any]
    audio: list[tuple[Fraction, bytes]]


def picture(w: int, h: int, i: int = 0) -> NDArray[np.uint8]:
    """Smooth colours that move with i, uint8 [h, w, 3]."""
    y, x = np.mgrid[:h, :w]
    waves = [127 + 90 * np.sin(x / 9 + i / 3), 127 + 90 * np.cos(y / 7), 127 + 90 * np.sin((x + y) / 11)]
    return np.stack(waves, -1).astype(np.uint8)


def make_clip(
    path: Path,
    pts: Sequence[int] = EVEN,
    *,
    size: tuple[int, int] = (32, 32),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    tags: tuple[int, int, int, int] | None = None,
    sound: bool = True,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    setup: Any = None,
) -> Path:
    """A clip of moving colours with B-frames, and a tone. `tags` are colour range, matrix, primaries and transfer;
    `setup` is called with the container and the video stream before anything is written."""
    times = {"video_track_timescale": str(TICKS), "movie_timescale": str(8 * TICKS)}
    exact = times if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", container_options=exact | (container or {})) as out:
        stream: Any = out.add_stream(codec, rate=25, options=_PLAIN.get(codec, {}) if options is None else options)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
        if tags is not None:
            stream.color_range, stream.colorspace, stream.color_primaries, stream.color_trc = tags
        if setup is not None:
            setup(out, stream)
        tone: Any = out.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48000) if sound else None
        for i, t in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(picture(*size, i), "rgb24")
            if tags is not None:
                frame = frame.reformat(
                    format=pix_fmt, dst_colorspace=min(tags[1], 5), src_color_range=2, dst_color_range=tags[0]
                )
            frame.pts, frame.time_base = t, Fraction(1, TICKS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound:
            _add_tone(out, tone)
    return path


def _add_tone(out: Any, tone: Any) -> None:
    for i in range(20):
        samples = 8000 * np.sin((np.arange(1024) + 1024 * i) * 0.05)
        frame = av.AudioFrame.from_ndarray(samples.astype(np.int16)[None], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 1024 * i, Fraction(1, 48000)
        out.mux(tone.encode(frame))
    out.mux(tone.encode(None))


def with_stream(clip: Path, target: Path, add: Callable[[Any], Any], packets: Sequence[bytes]) -> Path:
    """The clip with one stream more, which `add` gives, and a packet in it every tenth of a second."""
    with av.open(str(clip)) as source, av.open(str(target), "w") as out:
        copies = [out.add_stream_from_template(stream, opaque=True) for stream in source.streams]
        stream = add(out)
        for i, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts, packet.dts, packet.duration = 100 * i, 100 * i, 90
            out.mux(packet)
        for packet in source.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                out.mux(packet)
    return target


def held(path: Path) -> Held:
    with av.open(str(path)) as video:
        frames = list(video.decode(video=0))
        time_base = video.streams.video[0].time_base
    with av.open(str(path)) as video:
        packets = [p for p in video.demux() if p.stream.type == "audio" and p.size]
        audio = [(p.pts * p.time_base, bytes(p)) for p in packets]
    return Held(time_base, [frame.pts for frame in frames], frames, audio)
