"""How far a batch is: shares by pixels, a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from deblurgan.display import Display, duration
from deblurgan.inference.progress import Work


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """Keeps what is on the screen's last line, and the lines above it."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        lines = []
        for line in self.getvalue().split("\n"):
            shown = ""
            for part in line.split("\r"):
                shown = part + shown[len(part) :]
            lines.append(shown.rstrip())
        return lines


@pytest.fixture
def sources(tmp_path: Path) -> Callable[..., list[Path]]:
    def make(*sizes: int) -> list[Path]:
        paths = [tmp_path / f"{i}" for i in range(len(sizes))]
        for path, size in zip(paths, sizes, strict=True):
            path.write_bytes(bytes(size))
        return paths

    return make


def test_the_share_of_a_batch_goes_by_pixels_and_by_bytes_where_they_are_unknown(
    sources: Callable[..., list[Path]],
) -> None:
    a, b, c = sources(100, 300, 600)
    work = Work([a, b, c])
    work.measured(a, 1000)
    assert work.reached(a, 0.5) == pytest.approx(0.05)  # 500 of 10,000 at 10 pixels a byte
    assert work.reached(a, 1.0) == pytest.approx(0.1)
    work.measured(b, 9000)
    assert work.reached(b, 0.5) == pytest.approx(5500 / (10_000 + 600 * 25))
    work.measured(c, 0)  # there already
    assert work.reached(b, 1.0) == 1


def test_the_share_never_falls(sources: Callable[..., list[Path]]) -> None:
    a, b = sources(100, 100)
    work = Work([a, b])
    work.measured(a, 1000)
    assert work.reached(a, 1.0) == 0.5
    work.measured(b, 10**6)
    assert work.reached(b, 0.0) == 0.5
    assert work.reached(b, 1.0) == 1


def test_files_that_are_gone_have_a_share_too(tmp_path: Path) -> None:
    work = Work([tmp_path / "gone", tmp_path / "as well"])
    assert work.reached(tmp_path / "gone", 1.0) == 1


def test_a_bar_is_there_from_the_start_and_gone_at_the_end() -> None:
    clock, terminal = Clock(), Terminal()
    display = Display(terminal, clock=clock)
    with display:
        assert display._ticking.is_alive()
        clock.now = 3
        display.above(lambda: None)
        assert re.fullmatch(r"\.+   0 %, 3 s gone", terminal.screen()[-1])
        clock.now = 20
        display(0.25)
        display.above(lambda: None)
        assert re.fullmatch(r"#+\.+  25 %, about 1 min 00 s to go", terminal.screen()[-1])
        clock.now = 30  # which counts down between two calls
        display.above(lambda: None)
        assert "about 50 s to go" in terminal.screen()[-1]
        clock.now = 200
        display.above(lambda: None)
        assert "about 0 s to go" in terminal.screen()[-1]
    assert terminal.screen()[-1] == ""
    display._ticking.join(5)
    assert not display._ticking.is_alive()
    display(0.5)
    display.above(lambda: None)
    assert terminal.screen()[-1] == ""


def test_lines_stand_above_the_bar() -> None:
    terminal = Terminal()
    with Display(terminal, clock=Clock()) as display:
        display(0.5)
        for line in ("one", "two"):
            display.above(lambda line=line: print(line, file=terminal))  # type: ignore[misc]
        *lines, bar = terminal.screen()
    assert lines == ["one", "two"]
    assert " 50 %" in bar


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    clock, stream = Clock(), io.StringIO()
    with Display(stream, clock=clock) as display:
        for second in range(1, 101):
            clock.now = second
            display(second / 400)  # 2.5 % in 10 s
        for second in range(101, 121):
            clock.now = second
            display(0.25 + (second - 100) / 50)  # 20 % in 10 s
    lines = stream.getvalue().splitlines()
    assert [int(line.split()[1]) for line in lines] == [7, 15, 22, 33, 53]
    assert lines[0] == "deblurgan: 7 %, about 6 min 10 s to go"


def test_quick_work_says_nothing_without_a_terminal() -> None:
    clock, stream = Clock(), io.StringIO()
    with Display(stream, clock=clock) as display:
        for i in range(100):
            clock.now += 2
            display(i / 100)
            display.above(lambda: None)  # a picture's own line
        clock.now += 60
        display(1.0)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("dumb", [True, False])
def test_a_terminal_that_cannot_draw_gets_lines(dumb: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb" if dumb else "xterm")
    terminal = Terminal()
    with Display(terminal, clock=Clock()) as display:
        display.above(lambda: None)
        assert ("\r" in terminal.getvalue()) is not dumb


def test_nobody_reading_is_no_failure() -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with Display(Gone(), clock=Clock()) as display:
        display(0.5)
        display.above(lambda: None)


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3600, "1 h 00 min"),
        (9e4, "25 h 00 min"),
        (1e6, "11 d 13 h"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
