"""What the library and the command do where something around them is missing: a reader, a compiler, threads."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deblurgan import Deblurrer, cli, images
from deblurgan.checkpoint import save_generator
from deblurgan.nn import Generator

ROOT = Path(__file__).parents[1]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")


@pytest.fixture
def unread() -> Iterator[int]:
    """The end to write to of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def command(*words: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "deblurgan", *words], cwd=ROOT, text=True, **streams)


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("info", "--help")], ids=" ".join)
def test_output_that_nobody_reads_to_its_end_is_no_failure(unread: int, words: tuple[str, ...]) -> None:
    done = command(*words, stdout=unread, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_that_nobody_reads_keeps_its_code(unread: int) -> None:
    assert command("nonsense", stderr=unread).returncode == 2


@pytest.mark.parametrize("words, code", [("deblur --help", 0), ("nonsense", 2)])
def test_closed_streams_keep_the_code_and_no_message_goes_elsewhere(words: str, code: int, tmp_path: Path) -> None:
    shell = f"{sys.executable} -m deblurgan {words}"
    for closed in ("<&- >&- 2>&-", f">&- 2>{tmp_path}/said"):
        assert subprocess.run(["/bin/sh", "-c", f"{shell} {closed}"], cwd=ROOT).returncode == code
    assert (tmp_path / "said").read_text().startswith("deblurgan: unknown command" if code else "")
    assert "Traceback" not in (tmp_path / "said").read_text()
    done = subprocess.run(["/bin/sh", "-c", f"{shell} 2>&-"], cwd=ROOT, capture_output=True, text=True)
    assert "unknown command" not in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_onto_a_full_disk_is_said() -> None:
    with open("/dev/full", "w") as full:
        done = command("--version", stdout=full, stderr=subprocess.PIPE)
    assert done.stderr.startswith("deblurgan: standard output takes no more lines: [Errno 28]")


def test_pictures_are_restored_though_nobody_reads_the_log(
    unread: int, photos: Path, small_generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_generator(small_generator, tmp_path / "small.safetensors")
    monkeypatch.setattr(sys, "stdout", open(unread, "w", closefd=False))  # noqa: SIM115
    words = ["deblur", str(photos), "--weights", str(tmp_path / "small.safetensors"), "-o", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert [path.name for path in images.find(tmp_path / "out")] == ["0.png", "1.png", "2.png", "3.png"]


def test_everything_imports_without_docstrings_home_and_folder_for_temporary_files(tmp_path: Path) -> None:
    modules = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "deblurgan").glob("*/__init__.py")]
    names = ["deblurgan.cli", *(".".join(path.parent.parts) for path in modules if path.parent.name != "kernels")]
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(names)}"
    missing = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-OO", "-c", program], env=missing, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_compile_is_refused_without_a_compiler(small_generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(ValueError, match=r"compile must be off .* no C\+\+ compiler '/nowhere/g\+\+'"):
        Deblurrer(small_generator, device="cpu", compile=True)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def in_fork(work: Callable[[], Any]) -> Any:
    """What the work gives, or the words of its error, in a process forked from this one."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def send() -> None:
        try:
            sender.send(work())
        except RuntimeError as error:
            sender.send(str(error))

    process = context.Process(target=send, daemon=True)
    process.start()
    try:
        assert receiver.poll(60), "the fork hangs"
        return receiver.recv()
    finally:
        process.kill()
        process.join()


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_is_told_that_it_has_no_threads(small_generator: Generator, two_threads: None) -> None:
    deblurrer, x = Deblurrer(small_generator, device="cpu"), torch.rand(3, 24, 24)
    assert "must call torch.set_num_threads(1) first" in in_fork(lambda: deblurrer(x))
    assert "must call torch.set_num_threads(1) first" in in_fork(lambda: Deblurrer(small_generator, device="cpu"))


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_restores_pictures_on_one_thread(small_generator: Generator, two_threads: None) -> None:
    deblurrer, x = Deblurrer(small_generator, device="cpu", dtype="fp32"), torch.rand(3, 24, 24)

    def restored() -> list[float]:
        torch.set_num_threads(1)
        return list(deblurrer(x).flatten().tolist())

    assert in_fork(restored) == pytest.approx(deblurrer(x).flatten().tolist(), abs=1e-5)
