"""Nothing is lost: the programs that kill a training, fill its disk and damage its files, each with a small count."""

from __future__ import annotations

import os
import random
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"


@pytest.mark.skipif(sys.platform != "linux", reason="forks of a process with torch work on Linux")
@pytest.mark.parametrize(
    "words, said",
    [
        (["kill_training.py", "--kills", "2", "--signals", "2"], "2 kills, "),
        (["full_disk.py", "--points", "2"], "2 points of a full disk: exit code 4"),
        (["hostile_files.py"], "25 hostile files: none ran"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_program(words: list[str], said: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROGRAMS.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(PROGRAMS / words[0]), *words[1:]]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert any(line.startswith(said) for line in ended.stdout.splitlines()), ended.stdout


def test_damaged_files(tmp_path: Path) -> None:
    program = runpy.run_path(str(PROGRAMS / "damaged_files.py"))
    for check in (program["damaged_weights"], program["damaged_states"]):
        assert check(tmp_path, random.Random(0), 100).startswith("100 damaged ")
