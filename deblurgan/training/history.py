"""history.csv: what a training measures of itself as it goes on."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from deblurgan import images, limits
from deblurgan.training.objective import MEASURES

MACHINE = ("images_per_s", "data_wait", "memory_mb", "cuda_memory_mb", "seconds")
"""The columns that differ from machine to machine and from day to day."""
COLUMNS = ("step", "epoch", "lr", *MEASURES, "skipped", *MACHINE, "blurred_psnr", "val_psnr", "val_ssim")

Item = TypeVar("Item")


class Stopwatch:
    """Seconds since the row before: in all, waiting for batches, and paused for what is no training."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self.begun, self.waited, self.paused = time.monotonic(), 0.0, 0.0

    def waits(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The batches; the time until each is there counts as waited."""
        batches, nothing = iter(batches), object()
        while True:
            begun = time.monotonic()
            batch = next(batches, nothing)
            self.waited += time.monotonic() - begun
            if batch is nothing:
                return
            yield batch  # type: ignore[misc]

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time within it counts as paused."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.paused += time.monotonic() - begun

    def lap(self, count: int) -> dict[str, float]:
        """The columns of a row after `count` pictures; the next row's time begins."""
        seconds = time.monotonic() - self.begun
        training = max(seconds - self.paused, 1e-9)
        row = {"images_per_s": count / training, "data_wait": self.waited, "seconds": seconds}
        self._restart()
        return {name: round(value, 3) for name, value in row.items()}


class History:
    """history.csv: means of a step's measures since the row before, what the machine did, and validation figures."""

    def __init__(self, path: Path, step: int, log: Callable[[str], None], own: Sequence[str] = ()) -> None:
        """Starts the file or, after `step` steps, goes on with it: the first row written drops those of later steps.

        `own` are measures beside MEASURES; their columns are the last. A file of fewer columns, as older versions
        wrote them, gets the others, empty. One that another program has written otherwise is set aside, and `log` told.
        """
        self.path, self.log = path, log
        self.measures, self.columns = (*MEASURES, *own), (*COLUMNS, *own)
        self._first: int | None = step  # until a row is written
        self.watch = Stopwatch()
        self._sums = torch.zeros(2, len(self.measures), dtype=torch.float64, device="cpu")  # of finite values; how many
        self._pictures = self._skipped = 0

    def add(self, values: Mapping[str, Tensor], pictures: int) -> None:
        """Adds the measures of a step on so many pictures; they stay on their device, which nothing waits for."""
        measures = torch.stack([values[name] for name in self.measures])
        finite = measures.isfinite()
        self._sums = self._sums.to(measures.device) + torch.stack([measures.where(finite, 0.0), finite])
        self._pictures += pictures

    def means(self) -> dict[str, float]:
        """The means since the row before, of the values that were finite; of others there is none. It waits for the
        device."""
        sums, counts = self._sums.tolist()
        return {name: total / n for name, total, n in zip(self.measures, sums, counts, strict=True) if n}

    def write_means(self, step: int, *, epoch: int, lr: float, skipped: int) -> dict[str, float]:
        """Writes a row after `step` steps and returns it. `skipped` counts the steps left out in all."""
        row = {"step": step, "epoch": epoch, "lr": lr, **self.means(), "skipped": skipped - self._skipped}
        row |= self.watch.lap(self._pictures) | _memory(self._sums.device)
        self.write(row)
        self._sums, self._pictures, self._skipped = torch.zeros_like(self._sums), 0, skipped
        return row

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


def _memory(device: torch.device) -> dict[str, float]:
    """What the process holds of the machine's memory and, at most until now, of the GPU's; in MB."""
    resident = limits.resident_memory()
    row = {} if resident is None else {"memory_mb": resident / 1e6}
    if device.type == "cuda":
        row["cuda_memory_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    return {name: round(value, 1) for name, value in row.items()}


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
