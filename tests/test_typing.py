"""What a type checker says of a user's scripts: it refuses the lines that end with `# error`, and no others."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import deblurgan
from deblurgan.config import TrainConfig, TrainOptions

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "tests" / "typing").glob("*.py"))


@pytest.fixture(scope="module")
def flagged_lines() -> dict[str, set[int]]:
    """By script, the numbers of the lines in which mypy finds an error. One process with the options of `mypy` alone:
    what that read of the package and of torch is in its cache."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    command = [sys.executable, "-m", "mypy", *(script.relative_to(ROOT) for script in SCRIPTS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    flagged = defaultdict(set)
    for line in done.stdout.splitlines():
        if ": error:" in line:
            path, number = line.split(":")[:2]
            flagged[Path(path).name].add(int(number))
    assert flagged.keys() <= {script.name for script in SCRIPTS}, done.stdout
    return flagged


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_bad_calls_are_flagged_and_no_others(script: Path, flagged_lines: dict[str, set[int]]) -> None:
    lines = script.read_text().splitlines()
    assert flagged_lines[script.name] == {i for i, line in enumerate(lines, 1) if line.endswith("# error")}


def with_strings(hint: Any) -> Any:
    """The type of a keyword: where the config holds a Path, a string will do."""
    return hint | str if Path in (hint, *getattr(hint, "__args__", ())) else hint


def test_the_keywords_of_train_are_the_config_s_fields() -> None:
    named = set(inspect.signature(deblurgan.train).parameters)
    wanted = {name: with_strings(hint) for name, hint in get_type_hints(TrainConfig).items() if name not in named}
    assert get_type_hints(TrainOptions) == wanted
