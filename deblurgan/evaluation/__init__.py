"""How good restored pictures are: PSNR and SSIM against the sharp originals, before and after.

Restored pictures are rounded to 8 bits first, and each figure is the mean of the pictures' own values, over RGB and
the whole picture. Pairs are taken as they are (GoPro: its test split); sharp photos are blurred by fixed kernels.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from deblurgan import images, metrics
from deblurgan.blur import apply_psf, random_trajectories, rasterize_psf
from deblurgan.data import PairDataset, SharpFolder, open_dataset
from deblurgan.inference import Deblurrer

HARD = 30.0  # dB: pictures that start below count as visibly blurred
METRICS = {"psnr": metrics.capped_psnr, "ssim": metrics.ssim}


@dataclass(frozen=True)
class Row:
    """One blurred picture: its name, exposure and kernel (synthetic blur only), and each metric before and after."""

    name: str
    exposure: float | None
    kernel: int | None
    before: dict[str, float]
    after: dict[str, float]


@dataclass
class Report:
    """An evaluation: `rows`, the PSNR of sharp pictures given to the network (`sharp`, by name), and bad files."""

    rows: list[Row] = field(default_factory=list)
    sharp: dict[str, float] = field(default_factory=dict)
    failed: list[tuple[str, str]] = field(default_factory=list)

    def mean(self, metric: str = "psnr", *, after: bool = True, exposure: float | None = None) -> float:
        """Mean over the pictures (of one exposure)."""
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
        """Writes every row; the file is whole or absent."""
        text = io.StringIO()
        writer = csv.writer(text)
        names = list(self.rows[0].after) if self.rows else []
        writer.writerow(["name", "exposure", "kernel", *(f"blurred_{name}" for name in names), *names])
        for row in self.rows:
            figures = [f"{side[name]:.6f}" for side in (row.before, row.after) for name in names]
            writer.writerow([row.name, row.exposure, row.kernel, *figures])
        path = Path(path)
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
        lines += [f"left out {name}: {reason}" for name, reason in self.failed]
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


def evaluate(
    deblurrer: Deblurrer,
    data: PairDataset | Path | str,
    metrics: Sequence[str] = ("psnr", "ssim"),
    *,
    layout: str = "auto",
    gamma: bool = False,
    kernels: int = 4,
    exposure: Sequence[float] = (0.5, 1.0),
    seed: int = 0,
    log: Callable[[str], None] | None = None,
) -> Report:
    """Measure a Deblurrer on pairs, or on sharp pictures blurred by the first `kernels` kernels of `seed` at each
    exposure (centred, the same for every picture), which it is then given sharp as well.

    `data` is a dataset or a folder in any layout of `deblurgan.data`; metrics are of "psnr" (dB) and "ssim". A bad file
    is listed in the report and left out. Raises ValueError for unknown metrics and where nothing can be measured.
    """
    unknown = sorted(set(metrics) - set(METRICS))
    if unknown or not metrics:
        raise ValueError(f"metrics must be of {', '.join(METRICS)}, got {', '.join(unknown) or 'none'}")
    if kernels < 1:
        raise ValueError(f"kernels must be at least 1, got {kernels}")
    if not exposure:
        raise ValueError("exposure must name at least one share of the path, got none")
    dataset = data if isinstance(data, PairDataset) else open_dataset(data, layout=layout, gamma=gamma, split="test")
    report = Report()
    psfs = _kernels(kernels, exposure, seed) if isinstance(dataset, SharpFolder) else []
    for index in range(len(dataset)):
        name = dataset.name(index)
        try:
            pair = dataset.whole(index)
            rows = []
            for share, kernel, blurred in _blurred(pair.sharp, psfs) if psfs else [(None, None, pair.blurred)]:
                before = _measure(blurred, pair.sharp, metrics)
                after = _measure(deblurrer(blurred), pair.sharp, metrics)
                rows.append(Row(name, share, kernel, before, after))
            if psfs:
                report.sharp[name] = _measure(deblurrer(pair.sharp), pair.sharp, ["psnr"])["psnr"]
            report.rows += rows  # of the whole picture or, where it is listed as bad, none
        except (ValueError, OSError, MemoryError, ArithmeticError, RuntimeError) as error:
            report.failed.append((name, getattr(error, "reason", None) or str(error)))
        if log is not None:
            log(f"[{index + 1}/{len(dataset)}] {name}")
    if not report.rows:
        raise ValueError(f"data must hold a readable picture, got {report.failed[0][0]}: {report.failed[0][1]}")
    return report


def _kernels(count: int, exposures: Sequence[float], seed: int) -> list[tuple[float, int, Tensor]]:
    paths = random_trajectories(count, seed=seed)
    psfs = {share: rasterize_psf(paths, exposure=share) for share in exposures}
    return [(share, k, psfs[share][k]) for share in exposures for k in range(count)]


def _blurred(sharp: Tensor, psfs: list[tuple[float, int, Tensor]]) -> Iterator[tuple[float, int, Tensor]]:
    for share, k, psf in psfs:
        yield share, k, apply_psf(sharp, psf)


def _measure(picture: Tensor, sharp: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Metrics of a uint8 picture [3, h, w]."""
    return {name: float(METRICS[name](picture, sharp, 255.0)) for name in names}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
