"""The figures of an evaluation: means, and as text and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deblurgan import images
from deblurgan.config import as_path
from deblurgan.evaluation.detected import Rules, summarise
from deblurgan.evaluation.records import Failure, Record, Row
from deblurgan.evaluation.systems import BLURRED, RESTORED

HARD = 30.0  # dB: pictures that start below count as visibly blurred


@dataclass
class Report:
    """An evaluation.

    protocol, metrics, conventions, lines_by, samples_by: those of the protocol.
    rules:  by which a detector judged; None without one.
    rows:   every scene that was measured.
    sharp:  PSNR of sharp pictures that were given to the network, by name; of synthetic blur only.
    failed: what was not measured, or by some systems only.
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
        return [row.figures[system][metric] for row in self._having(parts) if system in row.figures]

    def mean(self, metric: str = "psnr", system: str = RESTORED, **parts: str | float) -> float:
        """Mean of `values`; NaN where there are none."""
        return _mean(self.values(metric, system, **parts))

    def gains(self, system: str = RESTORED, *, below: float = math.inf, **parts: str | float) -> list[float]:
        """What the system won over the blurred picture in the first metric, of each scene that starts below `below`."""
        metric = self.metrics[0]
        return [
            row.figures[system][metric] - row.figures[BLURRED][metric]
            for row in self._having(parts)
            if system in row.figures and row.figures[BLURRED][metric] < below
        ]

    def to_csv(self, path: Path | str) -> None:
        """Writes every row. An older file is replaced whole or, after an error, not at all."""
        text = io.StringIO()
        writer = csv.writer(text)
        parts = list(dict.fromkeys(name for row in self.rows for name in row.parts))
        heads = [(system, metric) for system in self.systems() for metric in self.metrics]
        writer.writerow(["picture", *parts, *(f"{system}_{metric}" for system, metric in heads)])
        for row in self.rows:
            figures = [_figure(row, system, metric) for system, metric in heads]
            writer.writerow([images.printable(row.picture), *(row.parts.get(name, "") for name in parts), *figures])
        path = as_path("path", path)
        path.parent.mkdir(parents=True, exist_ok=True)
        images.replace_file(path, text.getvalue().encode())

    def __str__(self) -> str:
        if not self.rows:
            return "no picture was measured"
        lines = [f"{subject}: {words}" for subject, words in self.conventions.items()]
        lines += [f"{'':24}{'pictures':>9}" + "".join(f"{name:>10}" for name in self.metrics)]
        lines += [self._line(system, system) for system in self.systems()]
        if self.lines_by is not None:
            for value in dict.fromkeys(row.parts[self.lines_by] for row in self.rows):
                part = {self.lines_by: value}
                lines += [self._line(f"{self.lines_by} {value}, {name}", name, **part) for name in self.systems()]
        if self.metrics[0].startswith("psnr") and RESTORED in self.systems():
            gains, hard = self.gains(), self.gains(below=HARD)
            lines.append(f"PSNR gain: mean {_mean(gains):+.2f} dB, worst {min(gains):+.2f}, best {max(gains):+.2f}")
            if hard:
                lines.append(f"PSNR gain of the {len(hard)} that start below {HARD:g} dB: mean {_mean(hard):+.2f} dB")
        if self.rules is not None:
            lines += summarise(self.rows, self.rules, self.samples_by).lines()
        if self.sharp:
            values = list(self.sharp.values())
            lines.append(f"sharp pictures come back at {_mean(values):.2f} dB, the worst at {min(values):.2f}")
        lines += [images.printable(f"left out {f.picture} {f.system}: {f.reason}") for f in self.failed]
        return "\n".join(lines)

    def _line(self, title: str, system: str, **parts: str | float) -> str:
        line = f"{title:24}{len(self.values(self.metrics[0], system, **parts)):9d}"
        for metric in self.metrics:
            digits = 2 if metric.startswith("psnr") else 4
            line += f"{self.mean(metric, system, **parts):10.{digits}f}"
        return line

    def _having(self, parts: dict[str, str | float]) -> Iterable[Row]:
        return (row for row in self.rows if all(row.parts.get(name) == value for name, value in parts.items()))


def _figure(row: Row, system: str, metric: str) -> str:
    return f"{row.figures[system][metric]:.6f}" if system in row.figures else ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
