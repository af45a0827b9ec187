"""Freed memory is retained within `retain_freed`, and given back at its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deblurgan import memory

PROGRAM = Path(__file__).parent / "programs" / "retain_memory.py"


def figures(*options: str) -> list[int]:
    command = [sys.executable, str(PROGRAM), *options]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(not memory.can_retain(), reason="this C library has no mallopt")
@pytest.mark.parametrize("options", [(), ("--fail",)], ids=["left", "left by an error"])
def test_pages_are_taken_once_and_given_back(options: tuple[str, ...]) -> None:
    plain, within, given_back, _ = figures(*options)
    assert within < plain / 4, (plain, within)
    assert given_back > 2**24, given_back


def test_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="inside"), memory.retain_freed():
        raise RuntimeError("inside")
