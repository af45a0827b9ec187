"""Videos: every frame keeps its time, all else in the file is copied, and a damaged file is told from a whole one."""

from __future__ import annotations

import builtins
import pickle
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deblurgan import Deblurrer, Generator, ImageError
from deblurgan.inference.video import CONTAINERS, VIDEO_SUFFIXES, VideoError, VideoReport, restore_video

av = pytest.importorskip("av", reason="videos need PyAV")

from video_clips import EVEN, JPEG, TICKS, UNEVEN, held, make_clip, picture, with_stream  # noqa: E402  after PyAV is known to be here

Pixels = NDArray[np.uint8]


def same(pixels: Pixels) -> Pixels:
    return pixels


def inverted(pixels: Pixels) -> Pixels:
    return 255 - pixels


def psnr(a: Any, b: Any) -> float:
    return float(10 * np.log10(255**2 / np.mean((np.float64(a) - np.float64(b)) ** 2)))


def luma(frame: Any) -> Any:
    return frame.reformat(format="yuv420p").to_ndarray()[: frame.height]


def refused(path: Path, target: Path, restore: Callable[[Pixels], Pixels] = same, **options: Any) -> VideoError:
    """The error of a video that leaves nothing behind."""
    before = set(target.parent.iterdir())
    with pytest.raises(VideoError) as caught:
        restore_video(restore, path, target, **options)
    assert set(target.parent.iterdir()) == before
    return caught.value


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("pts", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_times_and_sound_are_kept_to_the_tick(tmp_path: Path, suffix: str, pts: tuple[int, ...]) -> None:
    clip = make_clip(tmp_path / f"clip{suffix}", pts)
    report = restore_video(inverted, clip, tmp_path / f"out{suffix}")
    assert report == VideoReport(tmp_path / f"out{suffix}", len(pts))
    before, after = held(clip), held(report.path)
    assert before.pts == list(pts) and after.pts == list(pts)
    assert after.time_base == before.time_base == Fraction(1, TICKS)
    assert after.audio == before.audio and len(after.audio) >= 20
    for i, frame in enumerate(after.frames):
        assert psnr(luma(frame), luma(av.VideoFrame.from_ndarray(255 - picture(32, 32, i), "rgb24"))) > 30


@pytest.mark.parametrize("source", [".mkv", ".webm", ".ts"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_times_are_kept_across_containers(tmp_path: Path, source: str, suffix: str) -> None:
    clip = make_clip(tmp_path / f"clip{source}", UNEVEN, codec="libvpx-vp9" if source == ".webm" else "libx264")
    report = restore_video(same, clip, tmp_path / f"out{suffix}")
    before, after = held(clip), held(report.path)
    assert report.lost == () and len(after.pts) == len(UNEVEN)
    tick = max(after.time_base, before.time_base) if source == ".ts" else Fraction(0)
    for t, u in zip(before.pts, after.pts, strict=True):
        assert abs((t - before.pts[0]) * before.time_base - (u - after.pts[0]) * after.time_base) <= tick


def test_webm_is_vp9_and_names_what_it_cannot_hold(tmp_path: Path) -> None:
    report = restore_video(same, make_clip(tmp_path / "clip.mp4"), tmp_path / "out.webm")
    assert report.lost == ("audio stream 1 (aac)",)
    with av.open(str(report.path)) as video:
        assert [stream.codec_context.name for stream in video.streams] == ["vp9"]


def test_avi_times_are_those_of_decoding_in_turn(tmp_path: Path) -> None:
    def clock(_: Any, stream: Any) -> None:
        stream.time_base = stream.codec_context.time_base = Fraction(1, 25)

    clip = make_clip(tmp_path / "clip.avi", EVEN, setup=clock)
    assert held(restore_video(same, clip, tmp_path / "out.mp4").path).pts == list(range(len(EVEN)))


def test_frames_that_share_a_time_are_all_kept(tmp_path: Path) -> None:
    """Matroska counts milliseconds: two of these frames are at one."""
    clip = make_clip(tmp_path / "clip.mkv", (0, 3600, 3610, 7200))
    assert held(clip).pts == [0, 40, 40, 80]
    report = restore_video(same, clip, tmp_path / "out.mkv")
    assert held(report.path).pts == [0, 40, 41, 80]
    assert report.lost == ("the times of frames that shared one",)


def test_frames_cut_off_by_an_edit_list_stay_cut_off(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", EVEN, sound=False)
    data = bytearray(clip.read_bytes())
    entry = data.index(b"elst") + 12
    start = int.from_bytes(data[entry + 4 : entry + 8], "big")
    data[entry + 4 : entry + 8] = (start + 3 * 3600).to_bytes(4, "big")
    clip.write_bytes(data)
    assert len(held(clip).pts) == len(EVEN) - 3
    report = restore_video(same, clip, tmp_path / "out.mp4")
    assert held(report.path).pts == held(clip).pts


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize("turn", [(90, False), (180, False), (270, True)])
def test_rotation_is_kept(tmp_path: Path, suffix: str, turn: tuple[int, bool]) -> None:
    def turned(_: Any, stream: Any) -> None:
        stream.set_display_rotation(turn[0], hflip=turn[1])

    def matrix(path: Path) -> bytes:
        return next(bytes(data) for data in held(path).frames[0].side_data if data.type.name == "DISPLAYMATRIX")

    clip = make_clip(tmp_path / "clip.mp4", EVEN[:2], sound=False, setup=turned)
    report = restore_video(same, clip, tmp_path / f"out{suffix}")
    assert matrix(report.path) == matrix(clip)
    assert held(report.path).frames[0].rotation == held(clip).frames[0].rotation != 0


@pytest.mark.parametrize(
    "tags",
    [(1, 1, 1, 1), (2, 1, 1, 1), (1, 6, 6, 6), (1, 5, 5, 1), (0, 2, 2, 2)],
    ids=lambda tags: "-".join(map(str, tags)),
)
def test_colours_survive_the_round_trip(tmp_path: Path, tags: tuple[int, int, int, int]) -> None:
    fine = {"crf": "4", "x264-params": "mbtree=0"}
    clip = make_clip(tmp_path / "clip.mp4", EVEN[:3], size=(64, 48), tags=tags, options=fine, sound=False)
    seen: list[Pixels] = []
    report = restore_video(lambda x: seen.append(x) or x, clip, tmp_path / "out.mp4", quality=100)  # type: ignore[func-returns-value]
    for i, (before, after) in enumerate(zip(held(clip).frames, held(report.path).frames, strict=True)):
        assert psnr(before.to_ndarray(), after.to_ndarray()) > 44
        assert psnr(seen[i], picture(64, 48, i)) > 38  # and the network sees true colours
        for tag in ("color_range", "colorspace", "color_primaries", "color_trc"):
            assert getattr(after, tag) == getattr(before, tag)


@pytest.mark.parametrize("size", [(33, 31), (32, 31), (1, 1), (2, 50)])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_every_size_is_kept(tmp_path: Path, size: tuple[int, int], suffix: str) -> None:
    clip = make_clip(tmp_path / "clip.mkv", EVEN[:2], size=size, pix_fmt="yuv444p", sound=False)
    frame = held(restore_video(same, clip, tmp_path / f"out{suffix}").path).frames[0]
    assert (frame.width, frame.height) == size


def test_aspect_of_pixels_is_kept(tmp_path: Path) -> None:
    def wide(_: Any, stream: Any) -> None:
        stream.sample_aspect_ratio = Fraction(16, 11)

    report = restore_video(same, make_clip(tmp_path / "clip.mp4", EVEN[:2], setup=wide), tmp_path / "out.mkv")
    with av.open(str(report.path)) as video:
        assert video.streams.video[0].sample_aspect_ratio == Fraction(16, 11)


def test_metadata_chapters_and_languages_are_kept(tmp_path: Path) -> None:
    told = {"title": "Ein Café", "comment": "c", "creation_time": "2020-01-02T03:04:05.000000Z"}
    told["com.apple.quicktime.make"] = "Someone"

    def setup(out: Any, stream: Any) -> None:
        out.metadata.update(told, location="+48.1+011.5/")
        one, two = {"title": "one"}, {"title": "two"}
        millisecond = Fraction(1, 1000)
        out.set_chapters(
            [
                {"id": 1, "start": 0, "end": 200, "time_base": millisecond, "metadata": one},
                {"id": 2, "start": 200, "end": 400, "time_base": millisecond, "metadata": two},
            ]
        )
        stream.metadata["language"] = "deu"

    clip = make_clip(tmp_path / "clip.mp4", setup=setup, container={"movflags": "use_metadata_tags"})
    report = restore_video(same, clip, tmp_path / "out.mp4")
    assert report.lost == ()
    with av.open(str(report.path)) as video:
        assert told.items() <= video.metadata.items() and video.metadata["location"] == "+48.1000+011.5000/"
        assert [chapter["metadata"]["title"] for chapter in video.chapters()] == ["one", "two"]
        assert video.streams.video[0].metadata["language"] == "deu"


def test_metadata_that_the_target_cannot_hold_is_named(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", EVEN[:2], setup=lambda out, _: out.metadata.update(camera="a", title="b"))
    report = restore_video(same, clip, tmp_path / "out.mp4")
    assert report.lost == ("metadata CAMERA",)


def test_attachments_are_copied_where_they_can_be(tmp_path: Path) -> None:
    def setup(out: Any, _: Any) -> None:
        out.add_attachment("font.ttf", "application/x-truetype-font", b"hello")
        out.add_attachment("cover.jpg", "image/jpeg", JPEG.read_bytes())

    clip = make_clip(tmp_path / "clip.mkv", setup=setup)
    report = restore_video(same, clip, tmp_path / "out.mkv")
    assert report.lost == ()
    with av.open(str(clip)) as before, av.open(str(report.path)) as after:
        kinds = [stream.type for stream in after.streams]
        assert kinds == [stream.type for stream in before.streams] == ["video", "audio", "attachment", "video"]
        assert after.streams[2].data == b"hello"
        assert [bytes(p) for p in after.demux(after.streams[3]) if p.size] == [JPEG.read_bytes()]
    assert restore_video(same, clip, tmp_path / "out.mp4").lost == ("attachment stream 2",)


def test_cover_is_not_taken_for_the_video(tmp_path: Path) -> None:
    """A cover lies in an MP4 as one more video stream; it is copied byte for byte."""

    def cover(out: Any) -> Any:
        stream = out.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt, stream.disposition = 16, 16, "yuvj420p", 1 << 10
        return stream

    covered = with_stream(make_clip(tmp_path / "clip.mp4"), tmp_path / "covered.mp4", cover, [JPEG.read_bytes()])
    for suffix in (".mp4", ".mkv"):
        report = restore_video(inverted, covered, tmp_path / f"out{suffix}")
        assert report.frames == len(EVEN) and report.lost == ()
        with av.open(str(report.path)) as video:
            pictures = [s for s in video.streams.video if s.disposition.value & 1 << 10]
            assert [bytes(p) for p in video.demux(pictures) if p.size] == [JPEG.read_bytes()]


def test_subtitles_are_copied_or_named(tmp_path: Path) -> None:
    lines = [b"Hello", "Grüße".encode()]
    titled = with_stream(
        make_clip(tmp_path / "clip.mkv"), tmp_path / "titled.mkv", lambda out: out.add_mux_stream("subrip"), lines
    )
    report = restore_video(same, titled, tmp_path / "out.mkv")
    with av.open(str(report.path)) as video:
        assert [(p.pts, p.duration, bytes(p)) for p in video.demux(subtitles=0) if p.size] == [
            (0, 90, lines[0]),
            (100, 90, lines[1]),
        ]
    assert report.lost == ()
    assert restore_video(same, titled, tmp_path / "out.mp4").lost == ("subtitle stream 2 (srt)",)
    assert "subtitle stream 2 (srt)" in restore_video(same, titled, tmp_path / "out.webm").lost


def test_depth_is_reduced_with_a_word_and_hdr_is_refused(tmp_path: Path) -> None:
    deep = make_clip(tmp_path / "deep.mkv", EVEN[:2], pix_fmt="yuv420p10le", sound=False)
    assert restore_video(same, deep, tmp_path / "out.mp4").lost == ("colours finer than 8 bits",)
    for transfer, name in ((16, "PQ"), (18, "HLG")):
        hdr = make_clip(tmp_path / f"{name}.mp4", EVEN[:2], tags=(1, 1, 9, transfer), sound=False)
        assert f"HDR ({name})" in refused(hdr, tmp_path / "no.mp4").reason


def test_interlaced_video_is_refused(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", options={"x264-params": "tff=1"})
    assert refused(clip, tmp_path / "out.mp4").reason == "frame 1 is interlaced: deinterlace the video first"


def test_a_size_that_changes_is_refused(tmp_path: Path) -> None:
    parts = [make_clip(tmp_path / f"{w}.ts", EVEN, size=(w, 32), sound=False) for w in (32, 48)]
    clip = tmp_path / "clip.ts"
    clip.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert "the size of the picture changes from 32x32 to 48x32" in refused(clip, tmp_path / "out.mp4").reason


def test_a_file_without_video_is_refused(tmp_path: Path) -> None:
    sound = tmp_path / "sound.mp4"
    with av.open(str(make_clip(tmp_path / "clip.mp4"))) as source, av.open(str(sound), "w") as out:
        copy = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    assert refused(sound, tmp_path / "out.mp4").reason == "holds no video stream"


@pytest.mark.parametrize(
    "content",
    [b"", b"no video", JPEG.read_bytes(), b"#EXTM3U\n#EXTINF:1,\nclip.mp4\n"],
    ids=["empty", "text", "jpeg", "list"],
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    make_clip(tmp_path / "clip.mp4", EVEN[:2])
    (tmp_path / "not.mp4").write_bytes(content)
    error = refused(tmp_path / "not.mp4", tmp_path / "out.mp4")
    assert isinstance(error, ImageError) and "not a video that can be read" in error.reason and error.report is None


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_what_is_cut_short_gives_a_partial_video(tmp_path: Path, suffix: str, share: float) -> None:
    pts = tuple(3600 * i for i in range(75))
    playable = {"movflags": "faststart"} if suffix == ".mp4" else {}  # while it is loaded
    clip = make_clip(tmp_path / f"clip{suffix}", pts, size=(64, 64), container=playable)
    data = clip.read_bytes()
    clip.write_bytes(data[: int(share * len(data))])
    with pytest.raises(VideoError) as caught:
        restore_video(same, clip, tmp_path / "out.mp4")
    report = caught.value.report
    assert report is not None and report.damage in str(caught.value) and 1 < report.frames < 75
    assert report.path == tmp_path / "out.partial.mp4" and {clip, report.path} == set(tmp_path.iterdir())
    after = held(report.path)
    assert len(after.pts) == report.frames and {t * after.time_base for t in after.pts} <= {
        Fraction(t, TICKS) for t in pts
    }
    assert pickle.loads(pickle.dumps(caught.value)).report == report


def test_a_cut_between_two_packets_is_told(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", sound=False, container={"movflags": "faststart"})
    with av.open(str(clip)) as video:
        ends = sorted(packet.pos + packet.size for packet in video.demux() if packet.size)
    clip.write_bytes(clip.read_bytes()[: ends[6]])
    with pytest.raises(VideoError, match="5 video packets are missing; the 7 frames"):
        restore_video(same, clip, tmp_path / "out.mp4")


def test_damage_inside_is_told(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv", ".ts"):
        clip = make_clip(tmp_path / f"clip{suffix}", tuple(3600 * i for i in range(50)), size=(96, 96), sound=False)
        data = bytearray(clip.read_bytes())
        data[len(data) // 3 : len(data) // 3 + 1500] = b"\x55" * 1500
        clip.write_bytes(data)
        with pytest.raises(VideoError) as caught:
            restore_video(same, clip, tmp_path / "out.mkv")
        assert caught.value.report is not None and caught.value.report.damage


def test_partial_videos_replace_nothing(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "out.partial.mp4", container={"movflags": "faststart"})
    clip.write_bytes(clip.read_bytes()[:-400])
    before = clip.read_bytes()
    with pytest.raises(VideoError, match=r"out\.partial-2\.mp4"):
        restore_video(same, clip, tmp_path / "out.mp4")
    assert clip.read_bytes() == before


@pytest.mark.parametrize("error", [FloatingPointError("not finite"), ValueError("bad"), KeyboardInterrupt()])
def test_an_error_in_a_frame_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    clip, before = make_clip(tmp_path / "clip.mp4"), set(threading.enumerate())
    calls = 0

    def restore(pixels: Pixels) -> Pixels:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise error
        return pixels

    with pytest.raises((VideoError, KeyboardInterrupt)) as caught:
        restore_video(restore, clip, tmp_path / "out.mp4")
    if isinstance(error, Exception):
        assert str(caught.value) == f"{clip}: frame 5 at 0.160 s: {error}"
    assert list(tmp_path.iterdir()) == [clip]
    assert set(threading.enumerate()) <= before


def test_what_restore_gives_is_checked(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    with pytest.raises(
        ValueError, match=r"restore must give uint8 \[32, 32, 3\], got float64 \[32, 32, 3\] for frame 1"
    ):
        restore_video(lambda x: x / 255, clip, tmp_path / "out.mp4")  # type: ignore[arg-type,return-value]
    assert list(tmp_path.iterdir()) == [clip]


def test_existing_files_are_kept_without_overwrite(tmp_path: Path) -> None:
    clip, old = make_clip(tmp_path / "clip.mp4"), tmp_path / "old.mp4"
    old.write_bytes(b"old")
    for target in (old, clip):
        with pytest.raises(FileExistsError):
            restore_video(same, clip, target)
    assert old.read_bytes() == b"old"
    old.chmod(0o640)
    restore_video(same, clip, old, overwrite=True)
    assert held(old).pts == list(EVEN) and old.stat().st_mode & 0o777 == 0o640
    restore_video(inverted, clip, clip, overwrite=True)
    assert held(clip).pts == list(EVEN) and {clip, old} == set(tmp_path.iterdir())


def test_arguments_are_checked(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", EVEN[:2])
    assert "use one of .mp4, .m4v, .mov, .mkv, .webm" in refused(clip, tmp_path / "out.avi").reason
    assert set(CONTAINERS) <= VIDEO_SUFFIXES
    with pytest.raises(ValueError, match=r"quality must be 1\.\.100, got 0"):
        restore_video(same, clip, tmp_path / "out.mp4", quality=0)
    with pytest.raises(FileNotFoundError):
        restore_video(same, tmp_path / "none.mp4", tmp_path / "out.mp4")
    with pytest.raises(VideoError, match=r"out\.mp4: cannot be written \(No such file or directory\)$"):
        restore_video(same, clip, tmp_path / "none" / "out.mp4")


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", size=(256, 256))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for suffix in (".mp4", ".mkv", ".webm"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
        try:
            error = refused(clip, tmp_path / f"out{suffix}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert error.reason == "cannot be written (File too large)" and error.path == tmp_path / f"out{suffix}"


def test_names_like_addresses_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip(tmp_path / "clip.mp4", EVEN[:2]).rename(tmp_path / "concat:a|b.mp4")
    monkeypatch.chdir(tmp_path)
    assert restore_video(same, "concat:a|b.mp4", "http:é.mp4").frames == 2
    assert (tmp_path / "http:é.mp4").exists()


def test_quality_and_progress(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", size=(96, 96), sound=False)
    shares: list[float] = []
    sizes = [
        restore_video(same, clip, tmp_path / f"{q}.mp4", quality=q, progress=shares.append).path.stat().st_size
        for q in (20, 85, 100)
    ]
    assert sizes == sorted(set(sizes))
    assert shares[: len(shares) // 3] == sorted(shares[: len(shares) // 3])
    assert shares[0] == 0 and shares[-1] == 1 and len(shares) == 3 * (len(EVEN) + 1)


def test_only_a_few_frames_are_decoded_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deblurgan.inference.video_reading import Source

    decoded, restored, ahead = 0, 0, []
    plain = Source._rgb

    def counted(self: Any, frame: Any) -> Pixels:
        nonlocal decoded
        decoded += 1
        return plain(self, frame)

    def restore(pixels: Pixels) -> Pixels:
        nonlocal restored
        restored += 1
        ahead.append(decoded - restored)
        return pixels

    monkeypatch.setattr(Source, "_rgb", counted)
    clip = make_clip(tmp_path / "clip.mp4", tuple(3600 * i for i in range(100)), sound=False)
    restore_video(restore, clip, tmp_path / "out.mp4")
    assert decoded == restored == 100 and max(ahead) <= 4


def test_threads_give_the_same_bytes(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda i: restore_video(inverted, clip, tmp_path / f"{i}.mp4"), range(4)))
    assert len({report.path.read_bytes() for report in reports}) == 1


def test_deblurrer_restores_every_frame_as_a_picture(tmp_path: Path) -> None:
    deblur = Deblurrer(Generator("tiny", width=4, blocks=1), device="cpu", dtype="fp32")
    clip = make_clip(tmp_path / "clip.mp4", EVEN[:3])
    report = deblur.video(clip, tmp_path / "out.mp4", quality=100)
    seen: list[Pixels] = []
    restore_video(lambda x: seen.append(deblur(x)) or x, clip, tmp_path / "same.mp4")  # type: ignore[func-returns-value]
    for frame, pixels in zip(held(report.path).frames, seen, strict=True):
        assert psnr(luma(frame), luma(av.VideoFrame.from_ndarray(pixels, "rgb24"))) > 35
    small = Deblurrer(Generator("tiny", width=4, blocks=1), device="cpu", max_memory=1000)
    with pytest.raises(MemoryError, match="picture of 32x32: it needs"):
        small.video(clip, tmp_path / "none.mp4")
    assert not (tmp_path / "none.mp4").exists()


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def missing(name: str, *args: Any) -> Any:
        if name == "av":
            raise ImportError("no av")
        return load(name, *args)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'deblurgan\[video\]'"):
        restore_video(same, tmp_path / "clip.mp4", tmp_path / "out.mp4")


def test_mutated_files_neither_crash_nor_hang(tmp_path: Path) -> None:
    program = Path(__file__).parent / "programs" / "mutated_videos.py"
    subprocess.run([sys.executable, str(program), str(tmp_path), "7", "12"], check=True, timeout=120)
