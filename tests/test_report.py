"""The benchmarks' report is made of lines that are written one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import Lines, main, report_of, run

BENCHMARKS = """
import pytest

def timed(benchmark, path):
    benchmark.group = "layer a"
    benchmark.pedantic(lambda: 1, rounds=3)
    benchmark.extra_info.update(path=path)

def bench_peer(benchmark):
    timed(benchmark, "peer")

def bench_ours(benchmark):
    timed(benchmark, "ours")

def bench_skipped(benchmark):
    pytest.skip("not here")

def bench_wrong(benchmark):
    assert False, "parity lost"

def bench_killed(benchmark):
    raise KeyboardInterrupt

def bench_later(benchmark):
    timed(benchmark, "ours")
"""


@pytest.fixture
def benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of them."""
    folder = tmp_path / "timed"
    folder.mkdir()
    (folder / "bench_some.py").write_text(BENCHMARKS)
    (folder / "pytest.ini").write_text("[pytest]\npython_files = bench_*.py\npython_functions = bench_*\n")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # pytest-benchmark times nothing in such a process
    return folder


def entries(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_what_ended_before_an_interruption_is_kept(benchmarks: Path, tmp_path: Path) -> None:
    lines = tmp_path / "report.jsonl"
    code = run(["ours", "not later", "later"], Lines(lines), benchmarks)
    assert code == pytest.ExitCode.INTERRUPTED
    first, *rest = entries(lines)
    assert first["run"]["machine"]["torch"] and first["run"].keys() == {"date", "machine", "commit"}
    assert [entry["figure"]["path"] for entry in rest if "figure" in entry] == ["ours", "peer"], "order, each once"
    assert main(["--out", str(tmp_path), "--assemble"]) == 0 and (tmp_path / "report.md").exists()
    report = report_of(lines.read_text())
    assert [f["path"] for f in report["figures"]] == ["ours", "peer"]
    assert report["figures"][0]["rounds"] == 3 and report["figures"][1]["over_ours"] > 0
    assert list(report["skipped"].values()) == ["not here"]
    assert ["parity lost" in reason for reason in report["failed"].values()] == [True]


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    figure = {"group": "layer a", "path": "ours", "median_s": 0.002, "min_s": 0.001}
    facts = {"date": "today", "machine": {"gpu": "A"}, "commit": None}
    whole = [json.dumps(entry) for entry in ({"run": facts}, {"figure": figure})]
    (tmp_path / "report.jsonl").write_text("\n".join([*whole, whole[1][:20]]))
    assert main(["--out", str(tmp_path), "--assemble"]) == 0
    assert "| a | ours | 2.00 | 1.00 |" in (tmp_path / "report.md").read_text()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["machine"] == {"gpu": "A"} and len(report["figures"]) == 1
