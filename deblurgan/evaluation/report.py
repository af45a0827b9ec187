"""The figures of an evaluation: means with their intervals, as text, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deblurgan import images
from deblurgan.config import as_path
from deblurgan.display import counted
from deblurgan.evaluation.detected import Rules, summarise
from deblurgan.evaluation.means import DIGITS, Mean, mean_of
from deblurgan.evaluation.records import Failure, Record, Row
from deblurgan.evaluation.systems import BLURRED, RESTORED
from deblurgan.evaluation.table import paragraphs, table
from deblurgan.metrics import LOWER_IS_BETTER

HARD = 30.0  # dB: pictures that start below count as visibly blurred
FORMAT, VERSION = "deblurgan evaluation", 1  # of the JSON
SHOWN = 20  # failures in the text; JSON has all


@dataclass
class Report:
    """An evaluation.

    protocol, metrics, conventions, lines_by, samples_by: those of the protocol.
    rules:    by which a detector judged; None without one.
    rows:     every scene that was measured.
    sharp:    PSNR of sharp pictures that were given to the network, by name; of synthetic blur only.
    failed:   what was not measured, or by some systems only.
    settings: of the network and the programs, as plain values.
    """

    protocol: str
    metrics: tuple[str, ...] = ()
    conventions: dict[str, str] = field(default_factory=dict)
    lines_by: str | None = None
    samples_by: str = "picture"
    rules: Rules | None = None
    rows: list[Row] = field(default_factory=list)
    sharp: dict[str, float] = field(default_factory=dict)
    failed: list[Failure] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, record: Record) -> None:
        """Takes in the record of the picture of that name."""
        self.rows += record.rows
        self.failed += record.failed
        if record.sharp is not None:
            self.sharp[name] = record.sharp

    def systems(self) -> list[str]:
        """The names of what is compared, in order."""
        return list(dict.fromkeys(name for row in self.rows for name in row.figures))

    def values(self, metric: str, system: str = RESTORED, **parts: str | float) -> list[float]:
        """The metric of all scenes that the system restored and that have the parts."""
        return [row.figures[system][metric] for row in self._having(parts, system)]

    def mean(self, metric: str = "psnr", system: str = RESTORED, **parts: str | float) -> float:
        """Mean of `values`; NaN where there are none."""
        return self.summary(metric, system, **parts).mean

    def summary(self, metric: str = "psnr", system: str = RESTORED, **parts: str | float) -> Mean:
        """Mean of `values` with its 95 % interval, lowest and highest."""
        return mean_of(self.values(metric, system, **parts), self._samples(self._having(parts, system)))

    def gains(self, system: str = RESTORED, *, below: float = math.inf, **parts: str | float) -> list[float]:
        """What the system won over the blurred picture in the first metric, of each scene that starts below `below`."""
        metric = self.metrics[0]
        rows = self._having(parts, system, below)
        return [row.figures[system][metric] - row.figures[BLURRED][metric] for row in rows]

    def gain(self, system: str = RESTORED, *, below: float = math.inf, **parts: str | float) -> Mean:
        """Mean of `gains` with its 95 % interval, lowest and highest: of the same scenes before and after."""
        rows = self._having(parts, system, below)
        return mean_of(self.gains(system, below=below, **parts), self._samples(rows))

    def to_csv(self, path: Path | str) -> None:
        """Writes every row. An older file is replaced whole or, after an error, not at all."""
        text = io.StringIO()
        writer = csv.writer(text)
        parts = list(dict.fromkeys(name for row in self.rows for name in row.parts))
        heads = [(system, metric) for system in self.systems() for metric in self.metrics]
        writer.writerow(["picture", *parts, *(images.printable(f"{system}_{metric}") for system, metric in heads)])
        for row in self.rows:
            figures = [_figure(row, system, metric) for system, metric in heads]
            told = [row.picture, *(str(row.parts.get(name, "")) for name in parts)]
            writer.writerow([*map(images.printable, told), *figures])
        _write(path, text.getvalue())

    def to_json(self, path: Path | str) -> None:
        """Writes all that the report holds, and its means. The same evaluation gives the same bytes."""
        values = self.to_mapping()
        rows = ",\n".join(json.dumps(row, allow_nan=False) for row in values.pop("rows"))  # a line a scene
        head = json.dumps(values, indent=1, allow_nan=False).removesuffix("\n}")
        _write(path, f'{head},\n "rows": [\n{rows}\n]\n}}\n')

    @classmethod
    def from_json(cls, path: Path | str) -> Report:
        """The report that `to_json` wrote. Raises ValueError for another file."""
        values = json.loads(as_path("path", path).read_bytes())
        if not isinstance(values, dict) or (values.get("format"), values.get("version")) != (FORMAT, VERSION):
            raise ValueError(f"path must be a file by Report.to_json of version {VERSION}, got {path}")
        rules = values["rules"]
        return cls(
            values["protocol"],
            tuple(values["metrics"]),
            values["conventions"],
            values["lines_by"],
            values["samples_by"],
            None if rules is None else Rules(**{**rules, "classes": tuple(rules["classes"])}),
            [Row.from_mapping(row) for row in values["rows"]],
            values["sharp"],
            [Failure(**failure) for failure in values["failed"]],
            values["settings"],
        )

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        detected = None if self.rules is None else summarise(self.rows, self.rules, self.samples_by).to_mapping()
        return {
            "format": FORMAT,
            "version": VERSION,
            "protocol": self.protocol,
            "metrics": list(self.metrics),
            "lines_by": self.lines_by,
            "samples_by": self.samples_by,
            "samples": len(set(self._samples(self.rows))),
            "settings": self.settings,
            "conventions": self.conventions,
            "systems": self._systems_mapping(),
            "by": [{self.lines_by: value, "systems": self._systems_mapping(**part)} for value, part in self._lines()],
            "detected": detected,
            "sharp_mean": round(_mean(list(self.sharp.values())), DIGITS) if self.sharp else None,
            "sharp": self.sharp,
            "rules": None if self.rules is None else asdict(self.rules),
            "failed": [failure._asdict() for failure in self.failed],
            "rows": [row.to_mapping() for row in self.rows],
        }

    def __str__(self) -> str:
        blocks = [self._measured_how(), *(self._figures() if self.rows else [["no picture was measured"]])]
        if self.rules is not None and self.rows:
            blocks.append(summarise(self.rows, self.rules, self.samples_by).lines())
        blocks.append(self._notes())
        lines = [line for block in blocks if block for line in [*block, ""]]
        return "\n".join(map(images.printable, lines)).rstrip()

    def _measured_how(self) -> list[str]:
        if not self.rows:
            return []
        pictures, samples = len({row.picture for row in self.rows}), len(set(self._samples(self.rows)))
        sizes = {row.size for row in self.rows if row.size is not None}
        scenes = f", {counted(len(self.rows), 'scene')} (a picture under one blur is a scene)"
        of = counted(pictures, "picture") + (scenes if len(self.rows) > pictures else "")
        failed = len({failure.picture for failure in self.failed if not failure.system})
        but = f"; {counted(failed, 'picture')} failed" if failed else ""
        words = {"measured": f"{of}{', ' if sizes else ''}{_sizes(sizes)}{but}"} | self.conventions
        if samples > 1:
            over = counted(samples, self.samples_by)
            words["intervals"] = f"95 %, by Student's t over {over}, which count as independent"
        return paragraphs(words)

    def _figures(self) -> list[list[str]]:
        """The tables: of each system, of what it won, and of each part."""
        systems, metric, total = self.systems(), self.metrics[0], len(self.rows)
        head = [self.protocol, self._unit(), *map(_title, self.metrics)]
        rows = [
            [system, f"{len(self.values(metric, system))}"]
            + [_cell(self.summary(name, system), name) for name in self.metrics]
            for system in systems
        ]
        blocks = [table(head, rows, numbers=[1])]
        gains = [line for system in systems if system != BLURRED for line in self._gain_lines(system)]
        if gains:
            head = [f"gain in {_title(metric)}", self._unit(), "mean", "worst", "best"]
            blocks.append(table(head, gains, numbers=[1, 3, 4]))
        lines = self._lines()
        if lines:
            head = [f"{_title(metric)} by {self.lines_by}", self._unit(), *systems]
            rows = [self._part_line(value, part, systems) for value, part in lines]
            blocks.append(table(head, rows, numbers=range(1, len(head))))
        lacking = {system: total - len(self.values(metric, system)) for system in systems}
        blocks.append([_lack(system, lack, total, self._unit()) for system, lack in lacking.items() if lack])
        return blocks

    def _unit(self) -> str:
        """What the figures are of, in words."""
        return "scenes" if len(self.rows) > len({row.picture for row in self.rows}) else "pictures"

    def _gain_lines(self, system: str) -> list[list[str]]:
        metric = self.metrics[0]
        found = [(system, self.gain(system))]
        if metric.startswith("psnr"):
            found.append((f"  where it starts below {HARD:g}", self.gain(system, below=HARD)))
        lines = []
        for title, gain in found:
            if gain.number and (title == system or gain.number < found[0][1].number):
                ends = (gain.highest, gain.lowest) if metric in LOWER_IS_BETTER else (gain.lowest, gain.highest)
                cells = [_cell(gain, metric, "+"), *(_number(end, metric, "+") for end in ends)]
                lines.append([title, f"{gain.number}", *cells])
        return lines

    def _part_line(self, value: str | float, part: dict[str, str | float], systems: Iterable[str]) -> list[str]:
        metric, total = self.metrics[0], len(list(self._having(part)))
        cells = []
        for system in systems:
            values = self.values(metric, system, **part)
            cells.append(_number(_mean(values), metric) + ("" if len(values) == total else f" of {len(values)}"))
        return [f"{value:g}" if isinstance(value, float) else str(value), f"{total}", *cells]

    def _notes(self) -> list[str]:
        lines = []
        if self.sharp:
            worst = min(self.sharp, key=lambda name: self.sharp[name])
            lines.append(
                f"sharp pictures come back at {_mean(list(self.sharp.values())):.2f} dB, the worst at "
                f"{self.sharp[worst]:.2f} ({worst})"
            )
        lines += [f"failed: {failure.subject()}: {failure.reason}" for failure in self.failed[:SHOWN]]
        if len(self.failed) > SHOWN:
            lines.append(f"failed: {len(self.failed) - SHOWN} more, which report.json names")
        return lines

    def _systems_mapping(self, **parts: str | float) -> dict[str, Any]:
        total = len(list(self._having(parts)))
        found = {}
        for system in self.systems():
            count = len(list(self._having(parts, system)))
            means = {metric: self.summary(metric, system, **parts).to_mapping() for metric in self.metrics}
            gain = None if system == BLURRED else self.gain(system, below=math.inf, **parts).to_mapping()
            found[system] = {"scenes": count, "lacks": total - count, "means": means, "gain": gain}
        return found

    def _lines(self) -> list[tuple[str | float, dict[str, str | float]]]:
        """The values of the part that has lines of its own."""
        name = self.lines_by
        return [] if name is None else [(v, {name: v}) for v in dict.fromkeys(row.parts[name] for row in self.rows)]

    def _samples(self, rows: Iterable[Row]) -> list[Hashable]:
        return [row.sample(self.samples_by) for row in rows]

    def _having(self, parts: dict[str, str | float], system: str = BLURRED, below: float = math.inf) -> Iterable[Row]:
        """The rows with these parts that the system restored and whose blurred picture lies below in the first
        metric."""
        return (
            row
            for row in self.rows
            if system in row.figures
            and all(row.parts.get(name) == value for name, value in parts.items())
            and (below == math.inf or row.figures[BLURRED][self.metrics[0]] < below)
        )


def _write(path: Path | str, text: str) -> None:
    path = as_path("path", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    images.replace_file(path, text.encode())


def _title(metric: str) -> str:
    if metric in LOWER_IS_BETTER:
        return f"{metric}, lower is better"
    return f"{metric}, dB" if metric.startswith("psnr") else metric


def _number(value: float, metric: str, sign: str = "") -> str:
    return f"{value:{sign}.{2 if metric.startswith('psnr') else 4}f}"


def _cell(of: Mean, metric: str, sign: str = "") -> str:
    """A mean with its interval."""
    if not of.number:
        return "-"
    ends = "" if of.interval is None else " [" + ", ".join(_number(end, metric, sign) for end in of.interval) + "]"
    return _number(of.mean, metric, sign) + ends


def _figure(row: Row, system: str, metric: str) -> str:
    return f"{row.figures[system][metric]:.{DIGITS}f}" if system in row.figures else ""


def _lack(system: str, lack: int, total: int, unit: str) -> str:
    rest = f"its means are of the other {total - lack}, its gains over the blurred ones of those"
    return f"{system} lacks {lack} of {total} {unit}: {rest}"


def _sizes(sizes: set[tuple[int, int]]) -> str:
    """Width first."""
    words = [f"{w}x{h}" for h, w in sorted(sizes, key=lambda size: (size[0] * size[1], size))]
    if len(words) > 4:
        return f"{len(words)} sizes from {words[0]} to {words[-1]} px"
    return f"{', '.join(words)} px" if words else ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
