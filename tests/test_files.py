"""Folders of pictures: what is found, what is planned, what is replaced; and that no file's name stops the work."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import texture
from deblurgan import Deblurrer, Generator, cli, evaluate, images, save_generator, train
from deblurgan.config import BlurConfig, DeblurConfig
from deblurgan.data import SharpFolder, open_dataset
from deblurgan.images import FilesReport, Plan, kinds, plan_outputs, printable, run_plan
from small_training import SMALL

ODD = os.fsdecode(b"caf\xe9.png")  # Latin-1, as on an old disk
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="names are bytes, and links are free, on Linux")


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def picture(path: Path, format: str | None = None) -> Path:
    """A real picture, written by Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(texture(16, 20)).save(path, format)
    return path


def copy(source: Path, target: Path) -> tuple[str, ...]:
    images.write(images.read(source), target)
    return ()


def targets(plan: Plan, out: Path) -> list[str]:
    return [target.relative_to(out).as_posix() for _, target in plan.pairs]


@pytest.fixture
def deblurrer(small_generator: Generator) -> Deblurrer:
    return Deblurrer(small_generator, device="cpu", dtype="fp32")


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture, and in it one that nobody may list (which permissions would not keep from root)."""
    folder = picture(tmp_path / "drive" / "DCIM" / "a.png").parents[1]
    (folder / "lost+found").mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "lost+found":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    return folder


# What is found


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".jfi", ".jif", ".pjp", ".pjpeg", ".JPE", ".Jfif"])
def test_a_jpeg_is_one_by_any_of_its_suffixes(tmp_path: Path, suffix: str) -> None:
    picture(tmp_path / "in" / f"a{suffix}", "JPEG")
    report = run_plan(plan_outputs([tmp_path / "in"], tmp_path / "out"), copy)
    assert report == FilesReport(done=[tmp_path / "out" / f"a{suffix}"])
    with Image.open(report.done[0]) as image:
        assert image.format == "JPEG"


def test_pictures_that_cannot_be_read_are_named_and_other_files_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    picture(folder / "a.png")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if not installed
    foreign = {touch(folder / name) for name in ("b.heic", "c.avifs", "d.jxl", "e.jp2", "f.psd", "g.exr", "sub/h.NEF")}
    for name in ("a.xmp", "a.png.xmp", "film.mp4", "notes.txt", "Thumbs.db", ".DS_Store", "._a.heic", "noext"):
        touch(folder / name)
    lines: list[str] = []
    report = run_plan(plan_outputs([folder], tmp_path / "out"), copy, log=lines.append)
    assert report.done == [tmp_path / "out" / "a.png"]
    assert {path for path, _ in report.failed} == foreign
    reasons = {path.suffix: reason for path, reason in report.failed}
    assert reasons.pop(".heic") == "HEIC needs pillow_heif: pip install 'deblurgan[heic]'"
    assert reasons.pop(".NEF") == "camera raw files cannot be read: develop to TIFF, PNG or JPEG first"
    assert all(
        reason == f"{suffix.lower()} pictures cannot be read: convert to PNG, TIFF or JPEG first"
        for suffix, reason in reasons.items()
    )
    assert kinds(report.others) == "1 video (.mp4; deblur takes it by name), 2 .xmp, 1 .db, 1 .txt, 1 without a suffix"
    assert len(lines) == 1 + len(foreign)
    with pytest.warns(UserWarning, match=r"left out 7 pictures, such as .*b\.heic: HEIC needs pillow_heif"):
        assert images.find(folder) == [folder / "a.png"]


def test_a_folder_of_nothing_that_can_be_read_is_no_empty_one(tmp_path: Path) -> None:
    path = touch(tmp_path / "in" / "a.heics")
    plan = plan_outputs([path.parent], tmp_path / "out")
    assert (plan.pairs, [source for source, _ in plan.failed]) == ([], [path])


@pytest.mark.parametrize("suffix", [".dng", ".NEF", ".cr2"])
def test_the_thumbnail_of_a_raw_file_is_not_taken_for_the_picture(tmp_path: Path, suffix: str) -> None:
    path = picture(tmp_path / f"a{suffix}", "TIFF")  # as the first picture in a raw file is
    with pytest.raises(images.ImageError, match="camera raw"):
        images.read(path)


def test_a_picture_is_read_by_its_content_where_its_suffix_lies(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.heics", "JPEG")
    assert run_plan(plan_outputs([path], tmp_path / "out.jpg"), copy).done == [tmp_path / "out.jpg"]


@pytest.mark.parametrize(
    "folder",
    ["@eaDir", "@EADIR/a.jpg", "#recycle", "#snapshot", "@Recycle", "$RECYCLE.BIN/S-1-5", "RECYCLER", "__MACOSX",
     ".Trash-1000", ".@__thumb"],
)  # fmt: skip
def test_thumbnails_and_deleted_pictures_are_passed_over_unless_they_are_named(tmp_path: Path, folder: str) -> None:
    kept = touch(tmp_path / "DCIM" / "a.jpg")
    inside = touch(tmp_path / folder / "b.jpg")
    touch(tmp_path / folder / "c.heics")
    assert images.find(tmp_path) == [kept]
    (inside.parent / "c.heics").unlink()
    assert images.find(inside.parent) == [inside]
    assert images.find(inside) == [inside]


@pytest.mark.parametrize("name", ["#1 wedding", "@home", "$", "thumbs", "Recycled paper", "recycle"])
def test_folders_with_names_of_that_kind_are_not_passed_over(tmp_path: Path, name: str) -> None:
    path = touch(tmp_path / name / "a.jpg")
    assert images.find(tmp_path) == [path]


def test_a_folder_that_cannot_be_listed_is_one_failure(locked: Path, tmp_path: Path) -> None:
    report = run_plan(plan_outputs([locked], tmp_path / "out"), copy)
    assert report.done == [tmp_path / "out" / "DCIM" / "a.png"]
    assert report.failed == [(locked / "lost+found", "cannot be listed (Permission denied)")]
    report = run_plan(plan_outputs([locked / "lost+found"], tmp_path / "out"), copy)
    assert (report.done, len(report.failed)) == ([], 1)


def test_training_says_which_folder_cannot_be_listed(locked: Path) -> None:
    with pytest.raises(PermissionError, match=r"lost\+found"):
        open_dataset(locked)


@LINUX
def test_pictures_that_lead_nowhere_are_failures(tmp_path: Path) -> None:
    folder = picture(tmp_path / "in" / "a.png").parent
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "self.png").symlink_to(folder / "self.png")
    os.mkfifo(folder / "pipe.png")
    report = run_plan(plan_outputs([folder], tmp_path / "out"), copy)
    assert report.done == [tmp_path / "out" / "a.png"]
    reasons = {source.name: reason for source, reason in report.failed}
    assert "No such file" in reasons.pop("gone.png")
    assert "symbolic links" in reasons.pop("self.png")
    assert reasons == {"pipe.png": "not a regular file"}


# Names


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a b/ä 日本.png", "a b/ä 日本.png"),
        (f"in/{ODD}", r"in/caf\xe9.png"),
        ("two\nlines\t\x1b[31m.png", r"two\nlines\t\x1b[31m.png"),
        ("a\u2028b", r"a\u2028b"),
        ("\N{FAMILY}\u200d\N{GIRL}", "\N{FAMILY}\u200d\N{GIRL}"),
    ],
)
def test_any_name_is_one_line_that_utf8_can_hold(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).encode()


@LINUX
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_no_name_stops_the_commands(
    encoding: str,
    small_generator: Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [ODD, "smile\N{GRINNING FACE}.png", "two\nlines.png", "z.png"]
    for name in names:
        picture(tmp_path / "in" / name)
    touch(tmp_path / "in" / os.fsdecode(b"bad\xe9\n.png"))
    save_generator(small_generator, tmp_path / "w.safetensors")
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stdout)
    model = ["-m", str(tmp_path / "w.safetensors"), "--device", "cpu"]
    assert cli.main(["deblur", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *model]) == 1
    assert sorted(os.listdir(tmp_path / "out")) == sorted(names)
    assert cli.main(["blur", str(tmp_path / "in"), "-o", str(tmp_path / "set"), "--pairs"]) == 1
    assert sorted(os.listdir(tmp_path / "set" / "sharp")) == sorted(names)
    figures = ["--csv", str(tmp_path / "f.csv"), "--kernels", "1", "--exposure", "1.0", "--metrics", "psnr"]
    assert cli.main(["evaluate", str(tmp_path / "in"), *model, *figures]) == 1
    assert r"caf\xe9.png" in (tmp_path / "f.csv").read_text("utf-8")
    stdout.flush()
    lines = stdout.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]
    failures = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("[")]) + len(failures) == 2 * 5 + 1
    assert all(r"bad\xe9\n.png failed: " in line for line in failures)
    assert any(r"two\nlines.png" in line for line in lines)


@LINUX
def test_the_lines_of_a_measurement_can_be_printed(deblurrer: Deblurrer, tmp_path: Path) -> None:
    picture(tmp_path / ODD)
    touch(tmp_path / os.fsdecode(b"bad\xe9.png"))
    lines: list[str] = []
    report = evaluate(deblurrer, tmp_path, ("psnr",), kernels=1, exposure=(1.0,), log=lines.append)
    assert "\n".join([*lines, str(report)]).encode()
    assert any(r"caf\xe9.png" in line for line in lines)


@LINUX
def test_weights_and_run_folders_may_have_any_name(
    photos: Path, small_generator: Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, run = tmp_path / os.fsdecode(b"w\xe9.safetensors"), tmp_path / os.fsdecode(b"run\xe9")
    save_generator(small_generator, weights)
    for init in ({"init": weights}, {"steps": 9}):
        train(photos, out=run, **{**SMALL, **init}, log=lambda line: assert_printable(line))
    assert cli.main(["deblur", str(photos), "-o", str(tmp_path / "out"), "-m", str(run)]) == 0
    assert len(os.listdir(tmp_path / "out")) == 4


def assert_printable(line: str) -> None:
    assert line.encode("utf-8")


@LINUX
def test_what_datasets_say_of_any_name_can_be_printed(photos: Path) -> None:
    root = photos.rename(photos.with_name(os.fsdecode(b"caf\xe9")))
    touch(root / "raw.cr2")
    picture(root / "psf.png")
    lines: list[str] = []
    open_dataset(root, log=lines.append)
    assert len(lines) == 2
    assert all(r"caf\xe9" in line for line in lines)


def test_a_leading_tilde_is_the_home_folder_to_the_library_too(
    deblurrer: Deblurrer, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert len(deblurrer.files(["~/photos"], "~/out").done) == 4
    deblurrer.file("~/photos/0.png", "~/one.png")
    assert deblurrer("~/one.png").size == (96, 72)
    evaluate(deblurrer, "~/out", kernels=1, exposure=1.0).to_csv("~/f.csv")
    save_generator(deblurrer.generator, "~/g.safetensors")
    assert {"one.png", "out", "f.csv", "g.safetensors"} <= set(os.listdir(tmp_path))
    assert os.listdir() == []


# What is planned


def test_an_empty_path_is_not_the_working_folder(deblurrer: Deblurrer, tmp_path: Path) -> None:
    for inputs, out in (([""], tmp_path), ([tmp_path], "")):
        with pytest.raises(ValueError, match=r"(inputs|out) must be a path, got ''"):
            deblurrer.files(inputs, out)
    for read in (images.find, open_dataset, SharpFolder):
        with pytest.raises(ValueError, match="must be a path, got ''"):
            read("")
    with pytest.raises(ValueError, match="target must be a path, got ''"):
        deblurrer.file(picture(tmp_path / "a.png"), "", overwrite=True)


def test_one_path_is_no_list_of_paths(deblurrer: Deblurrer, tmp_path: Path) -> None:
    for inputs in ("photos", tmp_path):
        with pytest.raises(ValueError, match="inputs must be a list of paths, got"):
            deblurrer.files(inputs, tmp_path / "out")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "inputs, options, words",
    [
        (["in/a.png", "in/b.png"], {"out": "both.jpg"}, "out must be a folder for a folder or several pictures"),
        (["in"], {"out": "both.PNG"}, "out must be a folder for a folder or several pictures"),
        (["in/a.png", "in/b.png"], {"out": "both.heic"}, "out must be a folder for a folder or several pictures"),
        (["in/a.png"], {"out": "notes"}, "out must be a folder or a picture's name, got notes"),
        (["in/a.png", "in/b.png"], {"out": "in/c.jpg"}, "out must be a folder for a folder or several pictures"),
        (["in/a.png"], {"out": "x.jpg", "suffix": "_x"}, "suffix goes with a folder as out"),
        (["in/a.png"], {"out": "x.jpg", "format": "png"}, "format must be that of out or keep"),
        (["in/a.png"], {"out": "out", "format": ".png"}, "format must be keep or one of"),
        (["in/a.png"], {"out": "out", "format": "heic"}, "format must be keep or one of"),
        (["in"], {"out": "out", "format": "png"}, "out/c.png would be the output of both in/c.jpg and in/c.png"),
        (["in/a.png", "in/sub/a.png"], {"out": "out"}, "out/a.png would be the output of both in/a.png and in/sub/a"),
        (["in"], {"out": "in", "format": "png"}, "in/c.png would be the output of both in/c.jpg and in/c.png"),
    ],
)
def test_what_contradicts_itself_is_refused_before_any_work(
    inputs: list[str], options: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/b.png", "in/c.jpg", "in/c.png", "in/sub/a.png", "notes"):
        touch(tmp_path / name)
    with pytest.raises((ValueError, OSError)) as caught:
        plan_outputs(inputs, **options)
    assert words in str(caught.value)


@pytest.mark.parametrize("out, format", [("x.jpeg", "jpg"), ("x.TIF", "tiff"), ("x.jpg", "keep")])
def test_the_format_of_a_named_file_may_be_said_twice(out: str, format: str, tmp_path: Path) -> None:
    source = touch(tmp_path / "a.png")
    assert plan_outputs([source], tmp_path / out, format=format).pairs == [(source, tmp_path / out)]


def test_a_folder_may_have_a_picture_s_name(tmp_path: Path) -> None:
    source, out = touch(tmp_path / "a.png"), tmp_path / "album.png"
    out.mkdir()
    assert plan_outputs([source], out).pairs == [(source, out / "a.png")]


@LINUX
def test_a_picture_that_is_given_twice_is_restored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in2").symlink_to("in")
    lines: list[str] = []
    plan = plan_outputs(["in/a.png", "./in/../in/a.png", "in", "in2"], "out")
    assert run_plan(plan, copy, log=lines.append).done == [Path("out/a.png")]
    assert lines[:-1] == [f"{path} left out: given twice" for path in ("in/../in/a.png", "in/a.png", "in2/a.png")]


@LINUX
def test_two_links_to_one_picture_are_two_outputs_but_for_work_in_place(tmp_path: Path) -> None:
    folder = touch(tmp_path / "in" / "a.png").parent
    (folder / "b.png").symlink_to("a.png")
    assert targets(plan_outputs([folder], tmp_path / "out"), tmp_path / "out") == ["a.png", "b.png"]
    assert targets(plan_outputs([folder], folder), folder) == ["a.png"]


def test_results_beside_their_sources_are_no_sources(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    for _ in range(2):
        lines: list[str] = []
        plan = plan_outputs([tmp_path], tmp_path, suffix="_sharp")
        report = run_plan(plan, copy, is_done=Path.exists, log=lines.append)
        assert (len(report.done) + len(report.skipped), report.failed) == (1, [])
    assert sorted(os.listdir(tmp_path)) == ["a.png", "a_sharp.png"]
    assert lines[0] == f"{tmp_path / 'a_sharp.png'} left out: the output of {tmp_path / 'a.png'}"


def test_an_input_is_not_its_own_existing_output(deblurrer: Deblurrer, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    report = deblurrer.files([tmp_path], tmp_path, skip_existing=True)
    assert report == FilesReport(failed=[(path, f"{path} is the input itself: overwrite=True replaces it")])


@pytest.mark.parametrize("is_done", [None, Path.exists])
def test_no_output_replaces_another_on_a_disk_that_takes_their_names_for_one(tmp_path: Path, is_done: Any) -> None:
    """As case-insensitive disks do: the second target is there, as the file that was just written."""
    one, two = tmp_path / "out" / "A.jpg", tmp_path / "out" / "a.jpg"

    def work(source: Path, target: Path) -> tuple[str, ...]:
        target.write_bytes(b"first")
        os.link(one, two)
        return ()

    plan = Plan([(tmp_path / "x" / "A.jpg", one), (tmp_path / "y" / "a.jpg", two)])
    report = run_plan(plan, work, is_done=is_done)
    assert report.done == [one]
    assert report.failed == [(plan.pairs[1][0], f"{two} is the output of {plan.pairs[0][0]} already")]


# Options


@pytest.mark.parametrize(
    "options, words",
    [
        ({"overwrite": True, "skip_existing": True}, "overwrite=True and skip_existing=True contradict each other"),
        ({"seed": 3}, "seed goes with stochastic, got seed 3"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DeblurConfig(inputs=(Path("a"),), out=Path("b"), **options)


def test_overwrite_and_skip_existing_contradict_each_other(deblurrer: Deblurrer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contradict"):
        BlurConfig(inputs=(Path("a"),), out=Path("b"), overwrite=True, skip_existing=True)
    with pytest.raises(ValueError, match="contradict"):
        deblurrer.files([tmp_path], tmp_path / "out", overwrite=True, skip_existing=True)


# What is replaced


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@LINUX
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666, 0o755])
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path, umask: None, mode: int) -> None:
    path = touch(tmp_path / "a.png")
    path.chmod(mode)
    images.replace_file(path, b"new")
    assert (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) == (mode, b"new")


def on_fsync(monkeypatch: pytest.MonkeyPatch, look: Callable[[int], object]) -> None:
    """Looks when a file goes to the disk; folders do later."""
    monkeypatch.setattr(os, "fsync", lambda number: stat.S_ISREG(os.fstat(number).st_mode) and look(number))


@LINUX
def test_a_private_file_is_never_open_to_others(tmp_path: Path, umask: None, monkeypatch: pytest.MonkeyPatch) -> None:
    path = touch(tmp_path / "a.png")
    path.chmod(0o600)
    modes = []
    on_fsync(monkeypatch, lambda number: modes.append(stat.S_IMODE(os.fstat(number).st_mode)))
    images.replace_file(path, b"new")
    assert modes == [0o600]


@LINUX
@pytest.mark.parametrize("older", [b"old", None])
def test_a_new_name_goes_to_the_disk_after_its_file(
    tmp_path: Path, older: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "a.png", []
    if older is not None:
        touch(path, older)

    def look(number: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(number).st_mode)
        seen.append((is_folder, path.read_bytes() if path.exists() else None))

    monkeypatch.setattr(os, "fsync", look)
    images.replace_file(path, b"new")
    assert seen == [(False, older), (True, b"new")]


def test_what_a_killed_write_has_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path / ".0123456789abcdef.tmp")
    others = [touch(tmp_path / name) for name in (".0123456789abcdeg.tmp", "0123456789abcdef.tmp", ".note.tmp")]
    images.remove_temporaries(tmp_path)
    images.remove_temporaries(tmp_path / "none")
    assert sorted(tmp_path.iterdir()) == sorted(others)


@LINUX
@pytest.mark.parametrize("older", [b"old", None])
def test_a_file_has_no_name_before_it_is_whole(
    tmp_path: Path, older: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        os.close(os.open(tmp_path, os.O_TMPFILE | os.O_WRONLY))
    except OSError:
        pytest.skip("this disk has no nameless files")
    path = tmp_path / "a.png"
    if older is not None:
        touch(path, older)
    seen = []
    on_fsync(monkeypatch, lambda number: seen.append((os.fstat(number).st_size, os.listdir(tmp_path))))
    images.replace_file(path, b"new")
    assert seen == [(3, [] if older is None else ["a.png"])]
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"new", ["a.png"])


@LINUX
@pytest.mark.parametrize("lacking", ["O_TMPFILE", "link"])
@pytest.mark.parametrize("older", [b"old", None])
def test_a_disk_without_nameless_files_gets_a_hidden_one(
    tmp_path: Path, umask: None, older: bytes | None, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    def open_named(path: Path, flags: int, mode: int = 0o777) -> int:
        return refuse() if flags & os.O_TMPFILE == os.O_TMPFILE else os_open(path, flags, mode)

    path = tmp_path / "a.png"
    if older is not None:
        touch(path, older)
    os_open, seen = os.open, list[str]()
    name, lacks = ("link", refuse) if lacking == "link" else ("open", open_named)
    monkeypatch.setattr(os, name, lacks)
    on_fsync(monkeypatch, lambda number: seen.extend(set(os.listdir(tmp_path)) - {"a.png"}))
    images.replace_file(path, b"new")
    assert [(name[0], name[-4:]) for name in seen] == [(".", ".tmp")]
    assert [(path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.iterdir()] == [(b"new", 0o644)]


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root gives files away")
def test_a_replaced_file_keeps_its_owner(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.png")
    os.chown(path, 1234, 2345)
    images.replace_file(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


@LINUX
@pytest.mark.parametrize("older", [b"old", None])
def test_a_link_stays_one_and_its_file_is_replaced(tmp_path: Path, older: bytes | None) -> None:
    real, link = tmp_path / "store" / "real.png", tmp_path / "link.png"
    touch(real)
    if older is None:
        real.unlink()
    link.symlink_to("store/real.png")
    images.replace_file(link, b"new")
    assert link.is_symlink()
    assert (real.read_bytes(), os.listdir(real.parent)) == (b"new", ["real.png"])


@LINUX
def test_the_other_name_of_a_replaced_file_keeps_the_old_one(tmp_path: Path) -> None:
    path, other = touch(tmp_path / "a.png", b"old"), tmp_path / "b.png"
    os.link(path, other)
    images.replace_file(path, b"new")
    assert (path.read_bytes(), other.read_bytes()) == (b"new", b"old")


def test_an_error_names_the_file_that_was_meant(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none/a\.png'$"):
        images.replace_file(tmp_path / "none" / "a.png", b"x")


def test_a_read_only_file_and_a_folder_are_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = touch(tmp_path / "a.png")
    images.require_absent(path, overwrite=True)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write to any file
    with pytest.raises(PermissionError, match=r"a\.png is read-only"):
        images.require_absent(path, overwrite=True)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        images.require_absent(tmp_path, overwrite=True)
