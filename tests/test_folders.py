"""Many pictures in a pipeline: the order of things, what stops it and what does not, and what lies beside results."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import texture
from deblurgan import Deblurrer, Generator, images
from deblurgan.images import FilesReport, compare
from deblurgan.inference import folders
from deblurgan.inference.folders import Options, Tools, plan_files, restore_files

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="names are bytes, and links are free, on Linux")
PROGRAM = Path(__file__).parent / "programs" / "kill_and_resume.py"


def picture(path: Path, seed: int = 0, format: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(texture(16, 20, seed=seed)).save(path, format)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def read(path: Path, seen: Callable[[int, int], object]) -> images.Picture:
    return images.read(path, check_size=seen)


def negative(picture: images.Picture, progress: Callable[[float], object]) -> tuple[images.Picture, float]:
    return picture.with_pixels(255 - picture.pixels), 1.0


def no_video(source: Path, target: Path, progress: Callable[[float], object]) -> Any:
    raise ImportError("videos need PyAV: pip install 'deblurgan[video]'")


TOOLS = Tools(read, negative, no_video)


def restore(
    inputs: Any, out: Path | None = None, *, tools: Tools = TOOLS, log: Any = None, progress: Any = None, **options: Any
) -> FilesReport:
    """restore_files with the negative as the network."""
    planning = {name: options.pop(name) for name in ("listed", "suffix", "format") if name in options}
    return restore_files(plan_files(inputs, out, **planning), tools, Options(**options), log=log, progress=progress)


@pytest.fixture
def deblurrer(small_generator: Generator) -> Deblurrer:
    return Deblurrer(small_generator, device="cpu", dtype="fp32")


# The pipeline


def test_results_lines_and_report_come_in_the_order_of_the_inputs(tmp_path: Path) -> None:
    sources = [picture(tmp_path / "in" / f"{i}.png", i) for i in range(6)]
    sources[2].write_bytes(b"none")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "4.png").write_bytes(b"mine")
    lines: list[str] = []
    report = restore([tmp_path / "in"], tmp_path / "out", log=lines.append)
    done = [tmp_path / "out" / f"{i}.png" for i in (0, 1, 3, 5)]
    assert (report.done, [source for source, _ in report.failed]) == (done, [sources[2], sources[4]])
    assert [line.split("]")[0] for line in lines] == [f"[{i}/6" for i in range(1, 7)]
    assert list(report.changes) == done
    for target in done:
        before, after = (images.read(path).pixels for path in (tmp_path / "in" / target.name, target))
        assert np.array_equal(after, 255 - before)
        assert report.changes[target].mean == pytest.approx(np.abs(after.astype(float) - before).mean(), abs=1e-4)


def test_the_next_picture_is_decoded_and_the_last_one_written_while_one_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        picture(tmp_path / "in" / f"{i}.png")
    decoded, written = [threading.Event() for _ in range(5)], [threading.Event() for _ in range(4)]
    write, alive = images.write, []

    def reading(path: Path, seen: Callable[[int, int], object]) -> images.Picture:
        result = read(path, seen)
        decoded[int(path.stem)].set()
        return result

    def restoring(picture: images.Picture, progress: Callable[[float], object]) -> tuple[images.Picture, float]:
        i = len(alive)
        if i < 3:
            assert decoded[i + 1].wait(10)
        if i > 0:
            assert written[i - 1].wait(10)
        alive.append([event.is_set() for event in decoded].count(True))
        return negative(picture, progress)

    def writing(picture: images.Picture, path: Path, **options: Any) -> tuple[str, ...]:
        lost = write(picture, path, **options)
        written[int(Path(path).stem)].set()
        return lost

    monkeypatch.setattr(images, "write", writing)
    assert len(restore([tmp_path / "in"], tmp_path / "out", tools=Tools(reading, restoring, no_video)).done) == 4
    assert alive == [2, 3, 4, 4]  # never more than one ahead


def test_of_pictures_too_large_for_two_one_at_a_time_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "AHEAD", 16 * 20)
    for i in range(4):
        picture(tmp_path / "in" / f"{i}.png")
    inside: list[int] = []
    enter, leave = folders._Room.enter, folders._Room.leave

    def entering(room: Any, number: int, pixels: int) -> None:
        enter(room, number, pixels)
        inside.append(number)
        assert len(inside) == 1

    def leaving(room: Any, number: int) -> None:
        inside.remove(number)
        leave(room, number)

    monkeypatch.setattr(folders._Room, "enter", entering)
    monkeypatch.setattr(folders._Room, "leave", leaving)
    assert len(restore([tmp_path / "in"], tmp_path / "out").done) == 4


@pytest.mark.parametrize("stage", ["read", "restore"])
def test_an_interruption_leaves_what_is_written_whole(tmp_path: Path, stage: str) -> None:
    for i in range(5):
        picture(tmp_path / "in" / f"{i}.png", i)
    calls: list[int] = []

    def third(work: Callable[..., Any]) -> Callable[..., Any]:
        def interrupted(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return work(*arguments)

        return interrupted

    tools = TOOLS._replace(**{stage: third(getattr(TOOLS, stage))})
    with pytest.raises(KeyboardInterrupt):
        restore([tmp_path / "in"], tmp_path / "out", tools=tools)
    assert names(tmp_path / "out") == ["0.png", "1.png"]
    report = restore([tmp_path / "in"], tmp_path / "out", skip_existing=True)
    assert (len(report.skipped), len(report.done)) == (2, 3)


def test_memory_that_the_picture_before_had_in_use_is_waited_for(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / "in" / f"{i}.png")
    busy = threading.Event()

    def reading(path: Path, seen: Callable[[int, int], object]) -> images.Picture:
        if path.stem == "1" and threading.current_thread() is not threading.main_thread():
            busy.set()
            raise MemoryError
        return read(path, seen)

    def restoring(picture: images.Picture, progress: Callable[[float], object]) -> tuple[images.Picture, float]:
        assert busy.wait(10)
        return negative(picture, progress)

    report = restore([tmp_path / "in"], tmp_path / "out", tools=Tools(reading, restoring, no_video))
    assert (len(report.done), report.failed) == (3, [])


def test_a_picture_that_fails_anywhere_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(4):
        picture(tmp_path / "in" / f"{i}.png")
    write = images.write

    def restoring(picture: images.Picture, progress: Callable[[float], object]) -> tuple[images.Picture, float]:
        if len(calls := restoring.__dict__.setdefault("calls", [])) == 1:
            calls.append(1)
            raise FloatingPointError("not finite")
        calls.append(1)
        return negative(picture, progress)

    def writing(picture: images.Picture, path: Path, **options: Any) -> tuple[str, ...]:
        if path.name == "2.png":
            raise OSError(28, "No space left on device", os.fspath(path))
        return write(picture, path, **options)

    monkeypatch.setattr(images, "write", writing)
    report = restore([tmp_path / "in"], tmp_path / "out", tools=Tools(read, restoring, no_video))
    assert [path.name for path in report.done] == ["0.png", "3.png"]
    (_, first), (_, second) = report.failed
    assert first == "not finite"
    assert "No space left" in second


def test_progress_grows_to_1(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / "in" / f"{i}.png", i)
    (tmp_path / "in" / "2.png").write_bytes(b"none")
    shares: list[float] = []

    def restoring(picture: images.Picture, progress: Callable[[float], object]) -> tuple[images.Picture, float]:
        progress(0.5)
        return negative(picture, progress)

    tools = Tools(read, restoring, no_video)
    restore([tmp_path / "in"], tmp_path / "out", tools=tools, progress=shares.append)
    assert len(shares) == 3 * 2 + 1
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.5
    assert shares[-1] == 1


def test_threads_are_gone_after_all(tmp_path: Path) -> None:
    before = threading.active_count()
    restore([picture(tmp_path / "a.png")], tmp_path / "out")
    assert threading.active_count() == before


def test_killed_at_random_and_run_again_every_output_is_whole(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}
    command = [sys.executable, str(PROGRAM), "--seed", "0", "--kills", "4"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Names of results


def test_a_result_lies_beside_its_source_and_is_not_restored_again(tmp_path: Path) -> None:
    picture(tmp_path / "album" / "a.png")
    picture(tmp_path / "album" / "sub" / "b.png")
    one = picture(tmp_path / "one.jpg")
    for _ in range(2):
        restore([tmp_path / "album", one], skip_existing=True, compare=True)
    wanted = ["album-deblurred/a-compare.jpg", "album-deblurred/a.png", "album-deblurred/sub/b-compare.jpg"]
    wanted += ["album-deblurred/sub/b.png", "album/a.png", "album/sub/b.png", "one-deblurred-compare.jpg"]
    wanted += ["one-deblurred.jpg", "one.jpg"]
    assert names(tmp_path) == wanted
    plan = plan_files([tmp_path], tmp_path.parent / "elsewhere")
    assert [source.relative_to(tmp_path).as_posix() for source, _ in plan.pairs] == [
        "album/a.png", "album/sub/b.png", "one.jpg",
    ]  # fmt: skip
    assert len(plan.left_out) == 3  # the folder as one
    everything = sorted(tmp_path.glob("*.jpg"))  # as a shell gives *.jpg
    assert [source for source, _ in plan_files(everything, None).pairs] == [one]


def test_what_is_named_as_a_result_of_nothing_is_a_picture(tmp_path: Path) -> None:
    path = picture(tmp_path / "price-compare.jpg")
    picture(tmp_path / "old-deblurred.png")
    assert len(plan_files([tmp_path], tmp_path / "out").pairs) == 2
    picture(tmp_path / "price.jpg")
    assert plan_files([path], None).pairs == [(path, tmp_path / "price-compare-deblurred.jpg")]  # asked for by name


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({}, "a-deblurred.png"),
        ({"format": "webp"}, "a-deblurred.webp"),
        ({"suffix": "_sharp"}, "a_sharp.png"),
        ({"suffix": "_sharp", "out": "."}, "a_sharp.png"),
        ({"suffix": "_sharp", "out": ".", "format": "tiff"}, "a_sharp.tiff"),
        ({"compare": True}, "a-deblurred.png"),
    ],
)
def test_skip_existing_finds_its_own_outputs(tmp_path: Path, options: dict[str, Any], wanted: str) -> None:
    source = picture(tmp_path / "a.png")
    out = tmp_path if options.pop("out", None) else None
    inputs: list[Path] = [source]
    for run in range(3):
        report = restore(inputs if out is None else [tmp_path], out, skip_existing=True, **options)
        assert (report.done if run == 0 else report.skipped) == [tmp_path / wanted]
        inputs = sorted(tmp_path.iterdir())
    made = {"a.png", wanted} | ({"a-deblurred-compare.jpg"} if "compare" in options else set())
    assert set(names(tmp_path)) == made


def test_other_formats_of_an_earlier_run_are_results_too(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "a_sharp.tiff")
    picture(tmp_path / "b_sharp.png")
    plan = plan_files([tmp_path], tmp_path, suffix="_sharp")
    assert [target.name for _, target in plan.pairs] == ["a_sharp.png", "b_sharp_sharp.png"]


def test_the_working_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "album" / "a.png")
    monkeypatch.chdir(tmp_path / "album")
    assert restore(["."]).done == [tmp_path / "album-deblurred" / "a.png"]
    assert restore(["../album/"], suffix="_x").done == [Path("../album_x/a.png")]
    with pytest.raises(ValueError, match="out must be given for the folder /"):
        folders.images.batch._beside(Path("/"), "-deblurred")


# Comparisons


def test_sheets_of_pictures_with_one_stem_have_their_extensions(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.png"):
        picture(tmp_path / "in" / name)
    restore([tmp_path / "in"], tmp_path / "out", compare=True)
    sheets = {name for name in names(tmp_path / "out") if "compare" in name}
    assert sheets == {"a.jpg-compare.jpg", "a.png-compare.jpg", "b-compare.jpg"}
    assert [path.name for path, _ in plan_files([tmp_path / "out"], None).pairs] == ["a.jpg", "a.png", "b.png"]


def test_a_sheet_replaces_nothing_unasked(tmp_path: Path) -> None:
    source, sheet = picture(tmp_path / "a.png"), tmp_path / "a-deblurred-compare.jpg"
    sheet.write_bytes(b"mine")
    assert "a-deblurred-compare.jpg exists" in restore([source], compare=True).failed[0][1]
    assert (names(tmp_path), sheet.read_bytes()) == (["a-deblurred-compare.jpg", "a.png"], b"mine")
    assert restore([source], compare=True, overwrite=True).failed == []
    with Image.open(sheet) as image:
        assert image.format == "JPEG"


def test_the_sheet_is_there_where_its_picture_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that --skip-existing never leaves one out."""
    source = picture(tmp_path / "a.png")
    monkeypatch.setattr(compare, "compare_sheet", lambda before, after: 1 / 0)
    assert len(restore([source], compare=True).failed) == 1
    assert names(tmp_path) == ["a.png"]


# What goes with each picture


def test_the_line_says_how_much_changed_at_which_scale_and_what_is_lacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = picture(tmp_path / "a.png")
    large, small = compare.Change(4.25, 4.0), compare.Change(0.4, 4.0)
    changes = iter([large, small])
    monkeypatch.setattr(compare, "change", lambda before, after: next(changes))
    scales = iter([0.25, 1.0])
    tools = TOOLS._replace(restore=lambda picture, progress: (picture, next(scales)))
    monkeypatch.setattr(images, "write", lambda picture, target, **_: target.touch() or ("comment",))
    lines: list[str] = []
    report = restore([source], tools=tools, log=lines.append)
    restore([source], tools=tools, log=lines.append, overwrite=True)
    target = tmp_path / "a-deblurred.png"
    assert lines == [
        f"[1/1] {source} -> {target} at scale 0.25, without comment, {large}",
        f"[1/1] {source} -> {target}, without comment, {small}",
    ]
    assert (report.changes, report.scales) == ({target: large}, {target: 0.25})


def test_metadata_is_stripped_and_quality_given_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = picture(tmp_path / "a.jpg")
    bare = images.Picture(texture(8, 8, seed=9))
    monkeypatch.setattr(images.Picture, "without_metadata", lambda self: bare, raising=False)
    restore([source], strip_metadata=True, format="png")
    assert np.array_equal(images.read(tmp_path / "a-deblurred.png").pixels, bare.pixels)
    sizes = []
    for quality in (10, 90):
        restore([source], tmp_path / f"{quality}.jpg", quality=quality)
        sizes.append((tmp_path / f"{quality}.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


# Videos


def test_a_video_is_restored_by_name_and_counted_in_a_folder(tmp_path: Path) -> None:
    clip = tmp_path / "in" / "clip.mp4"
    picture(tmp_path / "in" / "a.png")
    clip.write_bytes(b"frames")
    seen: list[tuple[Path, Path]] = []

    def video(source: Path, target: Path, progress: Callable[[float], object]) -> Any:
        seen.append((source, target))
        progress(0.5)
        if source.stem == "cut":
            raise images.ImageError(source, "breaks off")
        target.write_bytes(b"restored")
        return SimpleNamespace(lost=("subtitles",))

    tools, lines = TOOLS._replace(video=video), list[str]()
    report = restore([tmp_path / "in"], tmp_path / "out", tools=tools)
    assert ([path.name for path in report.done], report.others, seen) == (["a.png"], [clip], [])
    restore([clip], tools=tools, format="png", log=lines.append)
    restore([tmp_path / "in" / "*.MP4".lower()], tmp_path / "out", tools=tools)
    restore([clip], tmp_path / "x.mkv", tools=tools)
    assert [target for _, target in seen] == [
        clip.with_name("clip-deblurred.mp4"), tmp_path / "out" / "clip.mp4", tmp_path / "x.mkv",
    ]  # fmt: skip
    assert lines == [f"[1/1] {clip} -> {clip.with_name('clip-deblurred.mp4')}, without subtitles"]
    assert "exists" in restore([clip], tools=tools).failed[0][1]
    assert restore([clip], tools=tools, skip_existing=True).failed == []
    cut = clip.rename(clip.with_name("cut.mp4"))
    assert restore([cut], tools=tools).failed == [(cut, "breaks off")]
    for out in ("x.png", "x.avi"):
        with pytest.raises(ValueError, match=r"out must be a folder or end in \.mp4, \.mov, \.mkv, \.webm, got"):
            restore([cut], tmp_path / out)
    with pytest.raises(ValueError, match=r"end in \.jpg, \.png, \.tif, \.webp, \.avif, \.bmp, got"):
        restore([tmp_path / "in" / "a.png"], tmp_path / "y.mp4")
    old = cut.rename(cut.with_name("old.AVI"))
    assert restore([old], tools=tools).done == [old.with_name("old-deblurred.mp4")]


def test_a_video_does_not_keep_what_was_to_be_stripped_in_silence(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"frames")
    reason = "strip_metadata=True is for pictures: a video keeps its place and time"
    assert restore([clip], strip_metadata=True).failed == [(clip, reason)]
    plan = folders.plan_files([clip], None)
    assert list(folders.preview(plan, folders.Options(strip_metadata=True), lambda h, w: "")) == [
        (False, f"{clip} fails: {reason}")
    ]
    assert names(tmp_path) == ["clip.mp4"]


def test_a_video_without_its_extra_fails_in_words(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mov"
    clip.touch()
    assert restore([clip]).failed == [(clip, "videos need PyAV: pip install 'deblurgan[video]'")]
    assert names(tmp_path) == ["clip.mov"]


# Patterns and lists


@LINUX
def test_patterns_match_what_a_shell_would_and_folders_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("t/a.png", "t/2024/b.png", "t/2024/x/c.png", "t/2025/b.png", "t/.hidden.png", "t/[d].png"):
        picture(tmp_path / name)
    (tmp_path / "t" / "notes.txt").touch()
    (tmp_path / "t" / "film.mp4").touch()
    (tmp_path / "t" / "2025" / "again").symlink_to("..")

    def targets(*patterns: str) -> list[str]:
        return [target.relative_to("out").as_posix() for _, target in plan_files(patterns, "out").pairs]

    assert targets("t/2024/*.png") == ["b.png"]
    assert targets("t/**/*.png") == ["2024/b.png", "2024/x/c.png", "2025/b.png", "[d].png", "a.png"]
    assert targets("t/*/b.png") == ["2024/b.png", "2025/b.png"]
    assert targets("t/[d].png") == ["[d].png"]  # a file of that very name
    assert targets("t/202[4]") == ["2024/b.png", "2024/x/c.png"]
    assert {target.name for _, target in plan_files(["t/202*"], None).pairs} == {"b.png", "c.png", "a.png", "[d].png"}
    assert plan_files(["t/202[4]"], None).pairs[0][1] == Path("t/2024-deblurred/b.png")
    assert targets("t/[.d[]*.png") == ["[d].png"]
    plan = plan_files(["t/*"], "out2")
    assert {path.name for path in plan.others} == {"film.mp4", "notes.txt"}
    with pytest.raises(ValueError, match=r"found none in t/\*\.txt: 1 \.txt"):
        plan_files(["t/*.txt"], "out")
    for pattern in ("t/*.gif", "nowhere/**", "t/*/*.jpg"):
        with pytest.raises(FileNotFoundError, match="inputs must match files, nothing matches"):
            plan_files([pattern], "out")


def test_a_list_keeps_relative_paths_and_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = picture(tmp_path / "other" / "z.png")
    for name in ("t/a.png", "t/x/a.png"):
        picture(tmp_path / name)
    (tmp_path / "t" / "notes.txt").touch()
    report = restore([], Path("out"), listed=["t/a.png", "./t/x/a.png", "t/gone.png", "t/notes.txt", absolute])
    assert names(tmp_path / "out") == ["t/a.png", "t/x/a.png", "z.png"]
    assert report.failed == [(Path("t/gone.png"), "no such file")]
    assert report.others == [Path("t/notes.txt")]


def test_heic_is_a_picture_where_something_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in" / "a.HEIC"
    path.parent.mkdir()
    path.touch()
    monkeypatch.setitem(sys.modules, "pillow_heif", ModuleType("pillow_heif"))
    monkeypatch.setattr(sys.modules["pillow_heif"], "__spec__", ModuleSpec("pillow_heif", None))
    assert plan_files([path], None).pairs == [(path, path.with_name("a-deblurred.jpg"))]


def test_gif_is_kept_as_png(tmp_path: Path) -> None:
    Image.fromarray(texture(16, 20)).save(tmp_path / "a.GIF")
    assert restore([tmp_path / "a.GIF"]).done == [tmp_path / "a-deblurred.png"]


# Oddities of file systems: what is beside a good picture, and what becomes of it


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        server.bind(path.name)
        os.chdir(before)


def text(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("not a picture")
    return path


ODDITIES: dict[str, tuple[Callable[[Path], object], list[str], str | None]] = {
    "empty": (lambda d: (d / "x.jpg").touch(), [], "empty file"),
    "text": (lambda d: text(d / "x.png"), [], "damaged, or not a"),
    "half": (lambda d: picture(d / "x.png") and os.truncate(d / "x.png", 300), [], "truncated"),
    "a folder with a picture's name": (lambda d: (d / "x.jpg").mkdir(), [], None),
    "a picture in such a folder": (lambda d: picture(d / "x.jpg" / "y.png"), ["x.jpg/y.png"], None),
    "a link to nothing": (lambda d: (d / "x.png").symlink_to("nowhere"), [], "No such file"),
    "a link to itself": (lambda d: (d / "x.png").symlink_to("x.png"), [], "symbolic links"),
    "a link to the folder": (lambda d: (d / "loop").symlink_to("."), [], None),
    "folders that link to each other": (
        lambda d: [picture(d / a / f"{a}.png") and (d / a / "link").symlink_to(f"../{b}") for a, b in ("pq", "qp")],
        ["p/p.png", "q/q.png"],
        None,
    ),
    "a link to a picture": (lambda d: (d / "x.png").symlink_to("good.png"), ["x.png"], None),
    "a link to a folder elsewhere": (
        lambda d: picture(d.parent / "far" / "y.png") and (d / "link").symlink_to("../far"),
        ["link/y.png"],
        None,
    ),
    "a second name": (lambda d: os.link(d / "good.png", d / "x.png"), ["x.png"], None),
    "a pipe": (lambda d: os.mkfifo(d / "x.png"), [], "not a regular file"),
    "a socket": (lambda d: socket_at(d / "x.png"), [], "not a regular file"),
    "a device": (lambda d: (d / "x.png").symlink_to("/dev/zero"), [], "not a regular file"),
    "Latin-1": (lambda d: picture(d / os.fsdecode(b"caf\xe9.png")), [os.fsdecode(b"caf\xe9.png")], None),
    "two lines": (lambda d: picture(d / "a\nb.png"), ["a\nb.png"], None),
    "a long name": (lambda d: picture(d / f"{'x' * 251}.png"), [f"{'x' * 251}.png"], None),
    "a deep folder": (lambda d: picture(d / "/".join("x" * 60) / "y.png"), [f"{'x/' * 60}y.png"], None),
    "wildcards": (lambda d: picture(d / "*[a]?.png"), ["*[a]?.png"], None),
    "a switch": (lambda d: picture(d / "--help.png"), ["--help.png"], None),
    "a dot at its end": (lambda d: picture(d / "x..png"), ["x..png"], None),
    "spaces": (lambda d: picture(d / " x .png"), [" x .png"], None),
    "a tilde": (lambda d: picture(d / "~" / "x.png"), ["~/x.png"], None),
    "a backslash": (lambda d: picture(d / "a\\b.png"), ["a\\b.png"], None),
    "large letters": (lambda d: [picture(d / name) for name in ("x.PNG", "X.png")], ["X.png", "x.PNG"], None),
    "two forms of one letter": (
        lambda d: [picture(d / name) for name in ("\xe9.png", "e\u0301.png")],
        ["e\u0301.png", "\xe9.png"],
        None,
    ),
    "another format's suffix": (lambda d: picture(d / "x.jpg", format="PNG"), ["x.jpg"], None),
    "two suffixes": (lambda d: picture(d / "x.png.jpg"), ["x.png.jpg"], None),
    "hidden": (lambda d: [picture(d / name) for name in (".x.png", ".thumbnails/x.png")], [], None),
    "thumbnails of a NAS": (lambda d: picture(d / "@eaDir" / "x.png"), [], None),
    "camera raw": (lambda d: text(d / "x.CR2"), [], "camera raw files cannot be read"),
    "sidecars": (lambda d: [text(d / name) for name in ("x.xmp", "Thumbs.db", "noext")], [], None),
    "the target is a folder": (lambda d: (d.parent / "out" / "x.png").mkdir(parents=True) or picture(d / "x.png"), [],
                               "x.png is a folder"),
    "the target's folder is a file": (lambda d: text(d.parent / "out" / "x") and picture(d / "x" / "y.png"), [],
                                      "exists"),
    "the target is a link to nothing": (
        lambda d: (d.parent / "out").mkdir() or (d.parent / "out" / "x.png").symlink_to("y") or picture(d / "x.png"),
        ["x.png", "y"],
        None,
    ),
}  # fmt: skip


@LINUX
@pytest.mark.parametrize("oddity", ODDITIES)
def test_an_oddity_beside_a_picture_does_it_no_harm(tmp_path: Path, oddity: str) -> None:
    build, done, reason = ODDITIES[oddity]
    folder = picture(tmp_path / "in" / "good.png").parent
    build(folder)
    there = set(names(tmp_path / "out")) if (tmp_path / "out").exists() else set()
    report = restore([folder], tmp_path / "out")
    assert tmp_path / "out" / "good.png" in report.done
    assert sorted(set(names(tmp_path / "out")) - there) == sorted([*done, "good.png"])
    assert [why for _, why in report.failed if reason is None or reason not in why] == []
    assert len(report.failed) == (reason is not None)


@LINUX
def test_a_name_with_no_room_for_the_ending_fails_alone(tmp_path: Path) -> None:
    long, good = picture(tmp_path / f"{'x' * 250}.png"), picture(tmp_path / "good.png")
    report = restore([long, good])
    assert report.done == [tmp_path / "good-deblurred.png"]
    assert "File name too long" in report.failed[0][1]


# With a network


def test_a_folder_is_restored_as_its_pictures_are(deblurrer: Deblurrer, photos: Path) -> None:
    report = deblurrer.files([photos])
    assert [path.name for path in report.done] == names(photos)
    assert report.done[0].parent == photos.with_name("photos-deblurred")
    for path in report.done:
        assert images.read(path).to_pil().tobytes() == deblurrer(photos / path.name).tobytes()


def test_the_share_that_is_done_of_one_file(deblurrer: Deblurrer, photos: Path, tmp_path: Path) -> None:
    shares: list[float] = []
    deblurrer.file(photos / "0.png", tmp_path / "x.png", progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
