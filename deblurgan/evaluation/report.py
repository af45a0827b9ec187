"""The figures of an evaluation, as text and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deblurgan import images
from deblurgan.config import as_path

HARD = 30.0  # dB: pictures that start below count as visibly blurred


@dataclass(frozen=True)
class Row:
    """One blurred picture: each metric of it (`before`) and of its restored version (`after`), against the sharp one.

    `exposure` and `kernel`, its number, are those of synthetic blur, else None.
    """

    name: str
    exposure: float | None
    kernel: int | None
    before: dict[str, float]
    after: dict[str, float]


@dataclass
class Report:
    """An evaluation.

    rows:   every blurred picture.
    sharp:  PSNR of sharp pictures that were given to the network, by name; of synthetic blur only.
    failed: (name, reason) of bad files.
    """

    rows: list[Row] = field(default_factory=list)
    sharp: dict[str, float] = field(default_factory=dict)
    failed: list[tuple[str, str]] = field(default_factory=list)

    def mean(self, metric: str = "psnr", *, after: bool = True, exposure: float | None = None) -> float:
        """Mean over all pictures, or those of one exposure, after or before restoring; NaN where there are none."""
        rows = [row for row in self.rows if exposure in (None, row.exposure)]
        return _mean([(row.after if after else row.before)[metric] for row in rows])

    def gains(self, *, below: float = math.inf, exposure: float | None = None) -> list[float]:
        """PSNR won, in dB, by each picture that starts below `below` dB."""
        return [
            row.after["psnr"] - row.before["psnr"]
            for row in self.rows
            if row.before["psnr"] < below and exposure in (None, row.exposure)
        ]

    def to_csv(self, path: Path | str) -> None:
        """Writes every row. An older file is replaced whole or, after an error, not at all."""
        text = io.StringIO()
        writer = csv.writer(text)
        names = list(self.rows[0].after) if self.rows else []
        writer.writerow(["name", "exposure", "kernel", *(f"blurred_{name}" for name in names), *names])
        for row in self.rows:
            figures = [f"{side[name]:.6f}" for side in (row.before, row.after) for name in names]
            writer.writerow([images.printable(row.name), row.exposure, row.kernel, *figures])
        path = as_path("path", path)
        path.parent.mkdir(parents=True, exist_ok=True)
        images.replace_file(path, text.getvalue().encode())

    def __str__(self) -> str:
        if not self.rows:
            return "no picture was measured"
        heads = "".join(f"{name + ' blurred':>15}{'restored':>10}" for name in self._names())
        lines = [f"{'':16}{'pictures':>9}{heads}", self._line("all", None)]
        exposures = sorted({row.exposure for row in self.rows if row.exposure is not None})
        lines += [self._line(f"exposure {exposure:g}", exposure) for exposure in exposures]
        if "psnr" in self._names():
            gains, hard = self.gains(), self.gains(below=HARD)
            lines.append(f"PSNR gain: mean {_mean(gains):+.2f} dB, worst {min(gains):+.2f}, best {max(gains):+.2f}")
            if hard:
                lines.append(f"PSNR gain of the {len(hard)} that start below {HARD:g} dB: mean {_mean(hard):+.2f} dB")
        if self.sharp:
            values = list(self.sharp.values())
            lines.append(f"sharp pictures come back at {_mean(values):.2f} dB, the worst at {min(values):.2f}")
        lines += [images.printable(f"left out {name}: {reason}") for name, reason in self.failed]
        return "\n".join(lines)

    def _names(self) -> list[str]:
        return list(self.rows[0].after)

    def _line(self, title: str, exposure: float | None) -> str:
        count = len([row for row in self.rows if exposure in (None, row.exposure)])
        line = f"{title:16}{count:9d}"
        for name in self._names():
            digits = 2 if name == "psnr" else 4
            before = self.mean(name, after=False, exposure=exposure)
            line += f"{before:15.{digits}f}{self.mean(name, exposure=exposure):10.{digits}f}"
        return line


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
