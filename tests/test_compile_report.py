"""What nvcc made of the CUDA kernels, as `python -m benchmarks.compile_report` reads it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
KEYS = {"kernel", "arch", "config", "registers", "spill_bytes", "shared_bytes", "hgmma", "tma"}


def kernels_in_source() -> set[str]:
    return set(re.findall(r"^__global__ void (\w+)", (ROOT / "csrc" / "blur_kernels.cuh").read_text(), re.M))


def check(rows: list[dict[str, Any]]) -> None:
    assert {row["kernel"].partition("<")[0] for row in rows} == kernels_in_source()
    for row in rows:
        assert row.keys() == KEYS
        assert row["spill_bytes"] == 0, row
        assert row["shared_bytes"] <= 48 * 1024, row
        assert row["registers"] <= 128, f"two blocks of 256 threads must fit on an SM: {row}"


def test_the_built_kernels_spill_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.compile_report", "--json", str(tmp_path / "rows.json")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if "no CUDA code" in ran.stderr or "cuobjdump is not on PATH" in ran.stderr:
        pytest.skip(ran.stderr.splitlines()[-1])
    assert ran.returncode == 0, ran.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert rows
    check(rows)


def test_the_kept_table_is_of_these_kernels() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "compile" / "cuda.json").read_text())
    assert {"sm_80", "sm_90", "sm_100", "sm_120"} <= {row["arch"] for row in rows}
    check(rows)
