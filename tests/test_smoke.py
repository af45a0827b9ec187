"""The smoke test's own bookkeeping: what a failure, or the end of a process, leaves of the other checks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import smoke

# Stands for a process of checks: one named "wrong" fails, "dead" takes the process with it, "late" only as it ends
PROCESS = """#!/bin/bash
while [[ $1 != --until-failure ]]; do shift; done
for name in "${@:2}"; do
  [[ $name == dead ]] && kill -9 $$
  ok=$([[ $name == wrong ]] && echo false || echo true)
  echo "{\\"name\\": \\"$name\\", \\"ok\\": $ok, \\"error\\": \\"\\"}"
  [[ $ok == true ]] || exit 1
done
[[ $name != late ]]
"""


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text(PROCESS)
    program.chmod(0o755)
    monkeypatch.setattr(smoke.sys, "executable", str(program))


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["a", "b"], [True, True]),
        (["wrong", "a", "wrong", "b"], [False, True, False, True]),
        (["a", "dead", "b", "dead"], [True, False, True, False]),
        (["dead", "wrong", "dead"], [False, False, False]),
        (["a", "late"], [True, True]),
    ],
    ids=str,
)
def test_every_check_has_a_line(
    names: list[str], wanted: list[bool], process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    code = smoke.run_in_processes(names)
    lines = printed(capsys)
    assert [(line["name"], line["ok"]) for line in lines] == list(zip(names, wanted, strict=True))
    assert code == (0 if all(wanted) and "late" not in names else 1)
    assert all("ended with -9" in line["error"] for line in lines if line["name"] == "dead")


def test_what_a_check_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def skipped() -> smoke.Found:
        raise smoke.Skipped("no GPU")

    def broken() -> smoke.Found:
        raise RuntimeError("out of order")

    checks = {
        "good": lambda: smoke.Found(1e-3, 1e-2),
        "far": lambda: smoke.Found(1e-1, 1e-2),
        "nan": lambda: smoke.Found(math.nan, 1e-2),
        "skipped": skipped,
        "broken": broken,
    }
    monkeypatch.setattr(smoke, "CHECKS", checks)
    monkeypatch.setattr(smoke, "DEVICE", smoke.torch.device("cpu"))
    assert [smoke.run(name) for name in checks] == [True, False, False, True, False]
    lines = printed(capsys)
    assert [line["ok"] for line in lines] == [True, False, False, None, False]
    assert [line["figure"] for line in lines] == [1e-3, 1e-1, None, None, None]
    said = ["", "0.1 above 0.01", "nan above 0.01", "skipped: no GPU", "RuntimeError: out of order"]
    assert all(part in line["error"] for part, line in zip(said, lines, strict=True))


def test_every_kind_of_layer_and_gradient_is_forced() -> None:
    forced = {name.removeprefix("forced ") for name in smoke.CHECKS if name.startswith("forced ")}
    layers = ["stem", "down", "trunk", "up", "head"]
    assert forced == {*layers, *(f"{kind}.wgrad" for kind in layers), *(f"{kind}.dgrad" for kind in layers[1:])}
