"""What nvcc and Triton made of the kernels, as `python -m benchmarks.compile_report` reads it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))

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


SHARED_KB = {
    "sm_80": 163,
    "sm_86": 99,
    "sm_89": 99,
    "sm_90": 227,
    "sm_100": 227,
    "sm_120": 99,
}  # the most that a program may have
CONVOLUTIONS = {"conv_stats", "flat_conv_stats", "up_conv_stats", "output_tail", "conv_wgrad", "flat_conv_wgrad"}
TENSOR_CORE = {
    "sm_80": "hmma",
    "sm_86": "hmma",
    "sm_89": "hmma",
    "sm_90": "hgmma",
    "sm_100": "tcgen05",
    "sm_120": "hmma",
}
EIGHT_BIT_CORE = {
    "int8": {"sm_90": "igmma", "sm_100": "imma", "sm_120": "imma"},
    "float8_e4m3fn": {"sm_90": "qgmma", "sm_100": "utcqmma", "sm_120": "qmma"},
}
CORES = ("hgmma", "igmma", "qgmma", "hmma", "imma", "qmma", "tcgen05", "utcqmma")


def check_triton(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert "error" not in row, row
        assert row.keys() >= KEYS
        assert row["spill_bytes"] == row["ldl"] == row["stl"] == 0, row
        assert row["shared_bytes"] <= 1024 * SHARED_KB[row["arch"]], row
        core = EIGHT_BIT_CORE.get(row["dtype"], TENSOR_CORE)
        used = {key for key in CORES if row[key]}
        assert used == ({core[row["arch"]]} if row["kernel"] in CONVOLUTIONS else set()), row
        assert (row["tma"] > 0) == row["kernel"].startswith("flat_"), row
        assert row["kernel"].startswith("flat_") == row["config"].startswith("tma"), row


def test_triton_compiles_the_trunk_well(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    trunk = r"sm_(80|90) float16 trunk (tma 128x128x64 w4|pointer 128x128x64 w8)"
    command = [sys.executable, "-m", "benchmarks.compile_report", "triton", "-k", f"{trunk}|sm_90 float16 norm_act"]
    command += ["--json", str(tmp_path / "rows.json")]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {(row["arch"], row["kernel"]) for row in rows} == {
        ("sm_80", "conv_stats"),
        ("sm_90", "conv_stats"),
        ("sm_90", "flat_conv_stats"),
        ("sm_90", "norm_act"),
    }
    check_triton(rows)


@pytest.fixture(scope="module")
def two_rows() -> list[dict[str, Any]]:
    """Of a layer with sums in fp16, and of one in a configuration that cannot be compiled."""
    pytest.importorskip("triton")
    program = """
import json
from dataclasses import astuple
from benchmarks.compile_report import Job, jobs, triton_rows
from deblurgan.kernels.config import ConvConfig
config = astuple(ConvConfig(64, 128, 64, 4, 3, accumulate="fp16"))
job = next(jobs())
wrong = job._replace(config=(100, *job.config[1:]))
print(json.dumps(triton_rows([Job(89, "float16", layer="trunk", kind="trunk", config=config), wrong])))
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    rows: list[dict[str, Any]] = json.loads(ran.stdout)
    assert len(rows) == 2
    return rows


def test_sums_in_fp16_are_those_of_tensor_cores(two_rows: list[dict[str, Any]]) -> None:
    row = two_rows[0]
    assert row["hmma_fp16"] == row["hmma"] > 0 == row["spill_bytes"]


def test_the_kept_triton_table_is_of_all_candidates() -> None:
    pytest.importorskip("triton")
    from benchmarks.compile_report import jobs

    rows = json.loads((ROOT / "benchmarks" / "results" / "compile" / "triton.json").read_text())
    check_triton(rows)
    found = {(row["arch"], row["dtype"], row["layer"] or row["kernel"], row["config"]) for row in rows}
    wanted = {(f"sm_{job.arch}", job.dtype, job.layer or job.kernel, job.label) for job in jobs()}
    assert found == wanted
    assert {arch for arch, *_ in found} == {"sm_80", "sm_90", "sm_100", "sm_120"}


def test_the_kept_table_of_defaults_is_of_them_all() -> None:
    pytest.importorskip("triton")
    from benchmarks.compile_report import default_jobs

    rows = json.loads((ROOT / "benchmarks" / "results" / "compile" / "defaults.json").read_text())
    check_triton(rows)
    found = {(row["arch"], row["dtype"], row["layer"], row["config"], row.get("preset", "paper")) for row in rows}
    assert found == {(f"sm_{job.arch}", job.dtype, job.layer, job.label, job.preset) for job in default_jobs()}
    assert {arch for arch, *_ in found} == set(SHARED_KB)


def test_a_kernel_that_does_not_compile_is_a_row(two_rows: list[dict[str, Any]]) -> None:
    assert "error" in two_rows[1] and "error" not in two_rows[0]
