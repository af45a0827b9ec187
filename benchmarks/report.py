"""python -m benchmarks.report --out DIR: runs the benchmarks; writes report.json, report.md and plots.

Each figure is a line of report.jsonl as it comes; the other files are made of those lines at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Generator
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.utils import get_commit_info

from benchmarks.harness import machine
from benchmarks.plots import medians, ratios, roofline, three_digits

TABLES = [
    "blur",
    "kernels",
    "application",
    "scaling",
    "generator",
    "layer",
    "training",
    "anatomy",
    "penalty",
    "data",
    "files",
]
# What a generator is run as by those who do nothing about it, and DeblurGAN's own blur
BASELINES = ("eager fp32 NCHW", "released")
Figure = dict[str, Any]
PLOTS = {"medians": medians, "ratios": ratios, "roofline": roofline}


class Lines:
    """A pytest plugin that appends a line of JSON to `file` as each benchmark ends: its figure, or why it has none.

    A run that is killed leaves those that ended. Benchmarks that have a line are not run again.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.ended: set[str] = set()

    def append(self, **entry: Any) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid not in self.ended]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Function, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self.ended.add(item.nodeid)
        if report.skipped:
            self.append(skipped=item.nodeid, reason=report.longrepr[2].removeprefix("Skipped: "))
        elif report.failed:
            self.append(failed=item.nodeid, reason=report.longrepr.reprcrash.message.splitlines()[0])
        elif report.when == "call" and item.funcargs["benchmark"].stats:
            self.append(figure=figure(item.funcargs["benchmark"].stats.as_dict(include_data=False)))
        return report


def run(expressions: list[str], lines: Lines, folder: Path) -> int:
    """The benchmarks in `folder` that match the first expression, then those that match the next one, each once;
    pytest's highest exit code, where any was found."""
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    lines.append(run={"date": date, "machine": machine(), "commit": commit()})
    codes = []
    for expression in expressions:
        options = ["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
        options += ["--benchmark-only", "--benchmark-columns=min,median,rounds"]
        codes.append(pytest.main([str(folder), *options, "-k", expression], plugins=[lines]))
        if codes[-1] == pytest.ExitCode.INTERRUPTED:
            break
    empty = pytest.ExitCode.NO_TESTS_COLLECTED
    return int(max((code for code in codes if code != empty), default=empty))


def report_of(text: str) -> dict[str, Any]:
    """What the lines of a run hold, the last of which may be cut off."""
    facts: dict[str, Any] = {}
    figures, skipped, failed = [], {}, {}
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if "run" in entry:
            facts = entry["run"]
        elif "figure" in entry:
            figures.append(entry["figure"])
        elif "skipped" in entry:
            skipped[entry["skipped"]] = entry["reason"]
        else:
            failed[entry["failed"]] = entry["reason"]
    figures = in_order(figures)
    add_ratios(figures)
    return {**facts, "figures": figures, "skipped": skipped, "failed": failed}


def figure(entry: dict[str, Any]) -> Figure:
    """One benchmark's figure; what is the same for all of them stands in the report's `machine`."""
    shared = machine().keys() - {"threads"}
    info = {key: value for key, value in entry["extra_info"].items() if key not in shared}
    calls = info.pop("calls", 1)
    return {
        "group": entry["group"],
        "path": info.pop("path"),
        "name": entry["name"],
        "parameters": entry["param"],
        "median_s": entry["stats"]["median"] / calls,
        "min_s": entry["stats"]["min"] / calls,
        "rounds": entry["stats"]["rounds"],
        **info,
    }


def table_of(figure: Figure) -> str:
    return figure["group"].split()[0]


def in_order(figures: list[Figure]) -> list[Figure]:
    """By table, then by job, as they came; ours first in each job."""
    groups = list(dict.fromkeys(f["group"] for f in figures))
    tables = TABLES + list(dict.fromkeys(table_of(f) for f in figures))
    return sorted(figures, key=lambda f: (tables.index(table_of(f)), groups.index(f["group"]), f["path"] != "ours"))


def add_ratios(figures: list[Figure]) -> None:
    """Each peer's time over ours in the same job: `over_ours` of the peer, `peers` of ours; and the baseline's."""
    ours = {f["group"]: f for f in figures if f["path"] == "ours"}
    baseline = {f["group"]: f for f in figures if f["path"] in BASELINES}
    for f in figures:
        if f["group"] in baseline:
            f["baseline"] = baseline[f["group"]]["path"]
            f["baseline_over"] = baseline[f["group"]]["median_s"] / f["median_s"]
        mine = ours.get(f["group"])
        if mine is not None and f is not mine:
            f["over_ours"] = f["median_s"] / mine["median_s"]
            mine.setdefault("peers", {})[f["path"]] = f["over_ours"]


def commit() -> dict[str, Any] | None:
    info = get_commit_info()
    known = info.get("id") not in (None, "unversioned", "unknown")
    return {"id": info["id"], "dirty": info["dirty"]} if known else None


def rate(f: Figure, amount: str, scale: float) -> str:
    return three_digits(f[amount] / f["median_s"], scale) if amount in f else ""


def expected(f: Figure) -> str:
    return " ... ".join(three_digits(t, 1e3) for t in f["expected_s"].values()) if "expected_s" in f else ""


COLUMNS: dict[str, Callable[[Figure], str]] = {
    "job": lambda f: f["group"].split(maxsplit=1)[1],
    "path": lambda f: f["path"],
    "median ms": lambda f: three_digits(f["median_s"], 1e3),
    "min ms": lambda f: three_digits(f["min_s"], 1e3),
    "times ours": lambda f: three_digits(f.get("over_ours")),
    **{
        f"{name} / this": lambda f, name=name: three_digits(f["baseline_over"]) if f.get("baseline") == name else ""
        for name in BASELINES
    },
    "pictures/s": lambda f: rate(f, "pictures", 1),
    "batches in a step of 2.5 ms": lambda f: three_digits(f.get("batches_per_step")),
    "taps": lambda f: f"{f['taps']:.0f}" if "taps" in f else "",
    "TFLOP/s": lambda f: rate(f, "flops", 1e-12),
    "GB/s": lambda f: rate(f, "moved_bytes", 1e-9),
    "floor ms": lambda f: three_digits(f.get("floor_s"), 1e3),
    "share of floor %": lambda f: three_digits(f.get("share_of_floor"), 100),
    "arithmetic alone ms": lambda f: three_digits(f.get("math_floor_s"), 1e3),
    "expected of ours ms": expected,
    "bytes/pixel": lambda f: three_digits(f.get("bytes_per_pixel")),
    "of it workspace": lambda f: three_digits(f.get("workspace_bytes_per_pixel")),
}


def table(figures: list[Figure]) -> list[str]:
    """Lines of Markdown; a column that all of them leave empty is left out."""
    columns = {heading: [cell(f) for f in figures] for heading, cell in COLUMNS.items()}
    columns = {heading: cells for heading, cells in columns.items() if any(cells)}
    rows = [list(columns), ["---"] * len(columns), *map(list, zip(*columns.values(), strict=True))]
    return [f"| {' | '.join(row)} |" for row in rows]


def rate_lines(figures: list[Figure]) -> list[str]:
    """The rates that the floors stand on."""
    keys = ("device", "precision", "threads", "multiply_adds_per_s", "bytes_per_s")
    rates = sorted({tuple(f[key] for key in keys) for f in figures if "bytes_per_s" in f})
    return [
        f"- {device}, {precision}, threads {threads}: {three_digits(multiply_adds, 1e-9)} G multiply-adds/s, "
        f"{three_digits(copied, 1e-9)} GB/s"
        for device, precision, threads, multiply_adds, copied in rates
    ]


def furthest(figures: list[Figure], count: int = 10) -> list[str]:
    """Lines of Markdown: those of ours that reach the least of their floors, and the time that each has above it."""
    ours = [f for f in figures if f["path"] == "ours" and f.get("share_of_floor")]
    rows = [
        [f["group"], three_digits(f["share_of_floor"], 100), three_digits(f["median_s"] - f["floor_s"], 1e3)]
        for f in sorted(ours, key=lambda f: float(f["share_of_floor"]))[:count]
    ]
    headings = [["job", "share of floor %", "above it ms"], ["---"] * 3]
    return [f"| {' | '.join(row)} |" for row in headings + rows] if rows else []


def markdown(report: dict[str, Any]) -> str:
    figures = report["figures"]
    at = report["commit"]
    where = f"commit {at['id']}{', with changes' if at['dirty'] else ''}" if at else "no checkout"
    lines = ["# Benchmarks", "", f"{report['date']}, {where}", ""]
    lines += [f"- {key}: {value}" for key, value in report["machine"].items()]
    lines += ["", "Rates under the floors:", "", *(rate_lines(figures) or ["- none"])]
    if figures:
        lines += ["", *(f"![{name}]({name}.svg)" for name, plot in PLOTS.items() if plot(figures))]
    if rows_furthest := furthest(figures):
        lines += ["", "## Furthest from the floor", "", *rows_furthest]
    for name, rows in groupby(figures, table_of):
        lines += ["", f"## {name.capitalize()}", "", *table(list(rows))]
    if report["skipped"]:
        lines += ["", "## Not run", ""]
        lines += [f"- {count}: {reason}" for reason, count in Counter(report["skipped"].values()).items()]
    if report["failed"]:
        lines += ["", "## Failed", "", *(f"- `{name}`: {reason}" for name, reason in report["failed"].items())]
    return "\n".join(lines) + "\n"


def write(report: dict[str, Any], out: Path) -> None:
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "report.md").write_text(markdown(report))
    for name, plot in PLOTS.items():
        if drawn := plot(report["figures"]) if report["figures"] else "":
            (out / f"{name}.svg").write_text(drawn)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument(
        "-k",
        action="append",
        metavar="EXPR",
        help="only the benchmarks that match, as in pytest; several in this order",
    )
    parser.add_argument("--assemble", action="store_true", help="run nothing: the tables of a run that was killed")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    lines, code = args.out / "report.jsonl", 0
    if not args.assemble:
        lines.unlink(missing_ok=True)
        code = run(args.k or [""], Lines(lines), Path(__file__).parent)
    write(report_of(lines.read_text()), args.out)
    return code


if __name__ == "__main__":
    sys.exit(main())
