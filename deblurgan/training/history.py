"""history.csv and the progress line: what a training says about itself as it goes on."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from deblurgan import images
from deblurgan.training.objective import LOSSES, MEASURES

COLUMNS = ("step", "epoch", "lr", *MEASURES, "seconds", "blurred_psnr", "val_psnr", "val_ssim")


class History:
    """history.csv: means of the losses since the row before, and validation figures."""

    def __init__(self, path: Path, step: int, log: Callable[[str], None], own: Sequence[str] = ()) -> None:
        """Starts the file or, after `step` steps, goes on with it: the first row written drops those of later steps.

        `own` are losses beside MEASURES; their columns are the last. A file that another program has written otherwise
        is set aside, and `log` told.
        """
        self.path, self.log = path, log
        self.measures, self.columns = (*MEASURES, *own), (*COLUMNS, *own)
        self._first: int | None = step  # until a row is written
        self.sums = torch.zeros(len(self.measures), dtype=torch.float64, device="cpu")
        self.count = 0
        self.begun = time.monotonic()

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds a step's measures, which stay on their device."""
        self.sums = self.sums.to(values[MEASURES[0]].device) + torch.stack([values[name] for name in self.measures])
        self.count += 1

    def write_means(self, step: int, epoch: int, lr: float) -> dict[str, float]:
        """Writes the means since the row before, and returns them."""
        means = dict(zip(self.measures, (self.sums / self.count).tolist(), strict=True))
        now = time.monotonic()
        self.write({"step": step, "epoch": epoch, "lr": lr, "seconds": round(now - self.begun, 3), **means})
        self.sums, self.count, self.begun = torch.zeros_like(self.sums), 0, now
        return means

    def write(self, row: Mapping[str, float]) -> None:
        """Appends a row; columns that it lacks stay empty."""
        if self._first is not None:
            rows = _rows_until(self.path, self._first)
            if rows is None:
                aside = self.path.with_name(f"history-until-{self._first}.csv")
                self.path.rename(aside)
                self.log(f"{self.path} is no table of this package any more: set aside as {aside.name}")
            _write_rows(self.path, self.columns, rows or [])
            self._first = None
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)


def _rows_until(path: Path, step: int) -> list[dict[str, str]] | None:
    """The whole rows up to the step; None where the file is not as `_write_rows` wrote it."""
    if not step or not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if (row["step"] or "").isdecimal()]
    except (UnicodeDecodeError, csv.Error, KeyError):
        return None
    return [row for row in rows if int(row["step"]) <= step]


def _write_rows(path: Path, columns: Sequence[str], rows: list[dict[str, str]]) -> None:
    """A whole file or none, whatever stops the process."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    images.replace_file(path, text.getvalue().encode())


class Progress:
    """The line about steps a second, time left and losses; `first` steps were done before it began."""

    def __init__(self, first: int, total: int, own: Sequence[str] = ()) -> None:
        self.first, self.total, self.begun = first, total, time.monotonic()
        self.losses = (*LOSSES, *own)

    def line(self, step: int, means: Mapping[str, float]) -> str:
        """After `step` steps, with the losses that are not 0."""
        rate = (step - self.first) / max(time.monotonic() - self.begun, 1e-9)
        days, seconds = divmod(round((self.total - step) / rate), 86400)
        left = (f"{days}d " if days else "") + time.strftime("%H:%M:%S", time.gmtime(seconds))
        shown = "  ".join(f"{name} {means[name]:.4f}" for name in self.losses if means[name])
        return f"step {step}/{self.total}  {rate:.2f} steps/s  ETA {left}  {shown}"
