"""What the committed files in benchmarks/results hold."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CPU = RESULTS / "epyc-2-cores"
HARD = 30.0  # dB: pictures that start below count as visibly blurred


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def reports_of(table: str, machine: Path) -> list[Path]:
    """The report.json files of a machine that have figures of `table`."""
    reports = sorted(machine.glob("**/report.json"))
    return [path for path in reports if any(f["group"].split()[0] == table for f in load(path)["figures"])]


def has_table(table: str, machine: Path = CPU) -> bool:
    return bool(reports_of(table, machine))


def report_path(table: str, machine: Path = CPU) -> Path:
    """The one report.json of a machine that has figures of `table`. Raises ValueError for none and for several."""
    found = reports_of(table, machine)
    if len(found) != 1:
        raise ValueError(f"one report.json in {machine.name} must have the table {table!r}, {len(found)} have it")
    return found[0]


def report_with(table: str, machine: Path = CPU) -> Any:
    return load(report_path(table, machine))


def digits(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:.0f}"


class Pictures:
    """The rows of an evaluation's CSV file."""

    def __init__(self, path: Path) -> None:
        with path.open(newline="") as file:
            self.rows = [{key: row[key] for key in row} for row in csv.DictReader(file)]

    def line(self, title: str, wanted: Callable[[dict[str, str]], bool] = lambda row: True) -> list[str]:
        """PSNR before and after, and the gains, of the rows that are wanted."""
        pairs = [(float(row["blurred_psnr"]), float(row["restored_psnr"])) for row in self.rows if wanted(row)]
        before, after = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
        gains = [restored - blurred for blurred, restored in pairs]
        mean = sum(gains) / len(gains)
        signed = [f"{value:+.2f}" for value in (mean, min(gains), max(gains))]
        return [title, str(len(pairs)), f"{before:.2f}", f"{after:.2f}", *signed]
