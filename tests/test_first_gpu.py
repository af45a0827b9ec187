"""benchmarks/first_gpu.sh on a machine whose programs only say what they were asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "first_gpu.sh"
pytestmark = pytest.mark.skipif(
    os.name == "nt" or shutil.which("timeout") is None, reason="the script needs bash and timeout"
)

FIRST = ["install wheels", "install", "nvidia-smi", "versions", "deblurgan info", "smoke", "parity"]
SECOND = ["tune fp16", "tune bf16 gradients", "benchmarks", "memcheck", "racecheck"]


def program(folder: Path, name: str, text: str = "echo $0 $*") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "a.whl").touch()
    for name in ("python", "nvidia-smi", "compute-sanitizer"):
        program(tmp_path, name)
    return tmp_path


def steps(call: int, machine: Path, **environment: str) -> tuple[int, dict[str, str]]:
    """The exit code of a call, and what became of each step."""
    out = machine / "out"
    environment = {
        "PATH": f"{machine}:{os.environ['PATH']}",
        "PYTHON": str(machine / "python"),
        "OUT": str(out),
        "WHEELS": str(machine),
        **environment,
    }
    ran = subprocess.run([SCRIPT, str(call)], env=environment, capture_output=True, text=True)
    assert len(list(out.iterdir())) <= 8
    lines = (out / f"summary-{call}.txt").read_text().splitlines()
    assert ran.stdout.splitlines()[-len(lines) :] == lines, "the summary comes last"
    return ran.returncode, {line[:28].rstrip(): line[29:69].rstrip() for line in lines}


@pytest.mark.parametrize(("call", "wanted"), [(1, FIRST), (2, SECOND)])
def test_all_steps_in_order(call: int, wanted: list[str], machine: Path) -> None:
    code, found = steps(call, machine)
    assert code == 0 and found == dict.fromkeys(wanted, "ok")
    log = (machine / "out" / f"log-{call}.txt").read_text()
    assert "-m pip install" in log if call == 1 else "tune --dtype bf16 --budget 40 --gradients-only" in log


def test_a_failure_stops_nothing_and_shows(machine: Path) -> None:
    program(machine, "python", "[[ $* == *benchmarks.smoke* ]] && exit 3 || exit 0")
    code, found = steps(1, machine)
    assert code == 1 and found["smoke"] == "FAILED with exit code 3" and found["parity"] == "ok"


def test_a_smoke_check_that_fails_is_tried_with_kernels_in_turn(machine: Path) -> None:
    failing = "[[ $* == *benchmarks.smoke* ]] || exit 0; echo '{\"ok\": false}'; [[ ${DEBLURGAN_PDL:-1} == 0 ]]"
    program(machine, "python", failing)
    code, found = steps(1, machine)
    assert code == 1
    assert found["smoke, kernels in turn"] == "ok"


def test_what_is_not_reached_is_named(machine: Path) -> None:
    code, found = steps(2, machine, SECONDS="398")  # bash counts from there
    assert code == 0 and found == dict.fromkeys(SECOND, "not reached")


def test_measured_rows_serve_the_benchmarks(machine: Path) -> None:
    text = '[[ $* == *tune* ]] && echo rows >$DEBLURGAN_TABLE; [[ $* == *report* ]] && cat "$DEBLURGAN_TABLE"; exit 0'
    program(machine, "python", text)
    steps(2, machine)
    assert (machine / "out" / "table.json").read_text() == "rows\n"
    assert "rows" in (machine / "out" / "log-2.txt").read_text().split("benchmarks.report")[1]


def test_a_rehearsal_says_what_needs_a_gpu(machine: Path) -> None:
    program(machine, "python", "[[ $* == *tune* ]] && { echo torch sees no CUDA device >&2; exit 2; }; exit 0")
    (machine / "compute-sanitizer").unlink()
    code, found = steps(2, machine, DEBLURGAN_REHEARSAL="1")
    assert code == 0 and found["tune fp16"] == "skipped: no GPU" and found["benchmarks"] == "ok"
    assert found["memcheck"] == "skipped: no compute-sanitizer"
    code, found = steps(2, machine)
    assert code == 1 and found["tune fp16"] == "FAILED with exit code 2"
