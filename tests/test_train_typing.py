"""`deblurgan.train` is typed: its keywords are TrainConfig's fields, and a type checker refuses wrong ones."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import deblurgan
from deblurgan.config import TrainConfig, TrainOptions

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tests" / "typing" / "train_calls.py"


def with_strings(hint: Any) -> Any:
    """The type of a keyword: where the config holds a Path, a string will do."""
    return hint | str if Path in (hint, *getattr(hint, "__args__", ())) else hint


def test_the_keywords_are_the_config_s_fields() -> None:
    named = set(inspect.signature(deblurgan.train).parameters)
    wanted = {name: with_strings(hint) for name, hint in get_type_hints(TrainConfig).items() if name not in named}
    assert get_type_hints(TrainOptions) == wanted


def test_mypy_refuses_wrong_calls_and_no_others() -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--follow-imports=silent", str(SCRIPT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    refused = {int(number) for number in re.findall(rf"{SCRIPT.name}:(\d+): error:", done.stdout)}
    lines = SCRIPT.read_text().splitlines()
    assert refused == {i for i, line in enumerate(lines, 1) if line.endswith("# wrong")}, done.stdout + done.stderr
