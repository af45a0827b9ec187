"""What a type checker says of a user's script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "tests" / "typing"


def flagged_lines(script: Path) -> list[int]:
    """The numbers of the lines in which mypy finds an error."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    command = [sys.executable, "-m", "mypy", "--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    done = subprocess.run([*command, script.relative_to(ROOT)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert all(Path(line.split(":")[0]).name == script.name for line in errors), done.stdout
    return [int(line.split(":")[1]) for line in errors]


def test_good_calls_are_accepted() -> None:
    assert flagged_lines(SCRIPTS / "good_calls.py") == []


def test_bad_calls_are_flagged() -> None:
    lines = (SCRIPTS / "bad_calls.py").read_text().splitlines()
    wanted = [number for number, line in enumerate(lines, 1) if line.endswith("# error")]
    assert sorted(set(flagged_lines(SCRIPTS / "bad_calls.py"))) == wanted
