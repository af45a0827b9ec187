"""report.html: a run on one page that needs nothing else: curves, samples, the worst pictures, options and machine."""

from __future__ import annotations

import csv
import math
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from deblurgan import __version__, images
from deblurgan.config import TrainConfig, to_mapping
from deblurgan.display import counted, duration
from deblurgan.pages.charts import Line, chart
from deblurgan.pages.parts import embedded, encoded, escaped, page, pairs, section, table, tiles
from deblurgan.training.callbacks import Callback
from deblurgan.training.objective import LOSSES
from deblurgan.training.validation import SAMPLES, Sample, Score, Validation

if TYPE_CHECKING:
    from deblurgan.training.trainer import Trainer

SIDE = 184  # px of the parts of pictures that are shown, at their own size
SHOWN = 2  # pictures whose restoring is shown over time
TIMES = 4  # steps at which it is
WORST = 3  # pictures
LISTED = 40  # files that were left out
TITLES = {
    "critic_grad": "gradient norm, critic",
    "generator_grad": "gradient norm, generator",
    "lr": "learning rate",
    "val_ssim": "SSIM, restored",
    "images_per_s": "images per second",
    "data_wait": "seconds waited for data",
    "memory_mb": "memory, MB",
    "cuda_memory_mb": "GPU memory, MB",
}
NOT_DRAWN = {"step", "epoch", "seconds", "skipped", "blurred_psnr", "val_psnr"}


class HtmlReport(Callback):
    """Writes report.html into the run folder after each validation and at the end, whole or not at all.

    A disk that has no room for it ends no training; the log says so.
    """

    def __init__(self) -> None:
        self.found: Validation | None = None
        self.looks: dict[int, list[str]] = {}  # the restored parts after the steps that are shown, as images
        self.part = (0, 0)  # of the pictures, the height and width that all samples hold
        self.corners: list[tuple[int, int]] = []

    def on_validation_end(self, trainer: Trainer, found: Validation) -> None:
        """Keeps what the page shows of the pictures."""
        self.found = found
        self.part = h, w = found.grid_part()
        self.corners = [_corner(one.blurred[:, :h, :w], one.sharp[:, :h, :w]) for one in found.samples[:SHOWN]]
        self.looks[trainer.steps_done] = self._looks(one.restored for one in found.samples)

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        """Writes the page once the validation's figures stand in history.csv."""
        if "val_psnr" in row:
            self._write(trainer, is_done=False)

    def on_fit_end(self, trainer: Trainer) -> None:
        """Writes the page of the whole training."""
        self._write(trainer, is_done=True)

    def _looks(self, pictures: Iterable[Tensor]) -> list[str]:
        """The parts that are shown of the first pictures."""
        h, w = self.part
        return [_image(_cut(one[:, :h, :w], corner)) for one, corner in zip(pictures, self.corners, strict=False)]

    def _write(self, trainer: Trainer, *, is_done: bool) -> None:
        if self.found is None:  # nothing was left to do: the page stands
            return
        try:
            text = self._page(trainer, self.found, is_done=is_done)
            images.replace_file(trainer.folder.report, text.encode("utf-8", "replace"))
        except OSError as error:
            trainer.log(f"{trainer.folder.report} is not written: {error}")

    def _page(self, trainer: Trainer, found: Validation, *, is_done: bool) -> str:
        rows = _rows(trainer.folder.history)
        total = trainer.schedule.total_steps
        state = "finished" if is_done and trainer.steps_done == total else "stopped" if is_done else "running"
        preset, name = trainer.config.preset, escaped(trainer.folder.path.resolve().name)
        sections = [
            f"<header><h1>{name}</h1><p>{preset}, {state} at step {trainer.steps_done:,} of {total:,} "
            f"<time>{time.strftime('%Y-%m-%d %H:%M')}</time></p></header>",
            _tiles(rows, found, trainer),
            _curves(rows),
            self._over_time(trainer, found),
            _worst(found),
            _left_out(trainer),
            f'<div class="two">{_options(trainer)}{section("Machine", table(pairs(_machine(trainer))))}</div>',
        ]
        return page(f"{name}: training", "\n".join(part for part in sections if part))

    def _over_time(self, trainer: Trainer, found: Validation) -> str:
        """The first pictures after several steps, between the blurred and the sharp one."""
        saved = {int(path.stem): path for path in trainer.folder.samples.glob("*.png") if path.stem.isdecimal()}
        steps = sorted(step for step in {*saved, *self.looks} if step <= trainer.steps_done)
        self.looks = {
            step: self.looks[step] if step in self.looks else self._looks(_restored_in(saved[step], found))
            for step in _spread(steps, TIMES)
        }
        steps = [step for step, looks in self.looks.items() if looks]
        columns = [self._looks(one.blurred for one in found.samples), *(self.looks[step] for step in steps)]
        columns.append(self._looks(one.sharp for one in found.samples))
        heads = ["blurred", *(f"step {step:,}" for step in steps), "sharp"]
        lines = ["".join(f"<th>{head}</th>" for head in heads)]
        lines += ["".join(f"<td>{look}</td>" for look in row) for row in zip(*columns, strict=True)]
        return section("Samples", table(lines, "film"), "Where blur and original differ most, pixel for pixel.")


def _tiles(rows: Sequence[Mapping[str, float]], found: Validation, trainer: Trainer) -> str:
    """The figures that one looks for first."""
    best = max(trainer.saved.best_psnr, found.psnr)
    seconds = sum(row.get("seconds", 0.0) for row in rows)
    skipped = sum(row.get("skipped", 0.0) for row in rows)
    figures = {
        "PSNR now": (f"{found.psnr:.2f} dB", f"{found.psnr - found.blurred_psnr:+.2f} dB by restoring"),
        "Best PSNR": (
            f"{best:.2f} dB",
            f"of {counted(len(found.samples), 'validation picture')}",
        ),
        "SSIM now": (f"{found.ssim:.4f}", "1 is the original"),
        "Pictures": (f"{len(trainer.train_set):,}", f"to train on, {len(trainer.val_set):,} to validate on"),
        "Time": (duration(seconds), f"steps left out as not finite: {skipped:.0f}"),
    }
    return tiles(figures)


def _curves(rows: Sequence[Mapping[str, float]]) -> str:
    def line(name: str, column: str, kind: str = "main") -> Line:
        return Line(name, [(row["step"], row[column]) for row in rows if column in row], kind)

    columns = list(dict.fromkeys(name for row in rows for name in row if name not in NOT_DRAWN))
    own = [name for name in columns if name not in (*LOSSES, *TITLES)]
    used = [name for name in (*LOSSES, *own, *TITLES) if any(row.get(name) for row in rows)]
    charts = [chart("PSNR, dB", [line("blurred", "blurred_psnr", "base"), line("restored", "val_psnr")])]
    charts += [chart(TITLES.get(name, f"loss: {name}"), [line(name, name)]) for name in used if name not in NOT_DRAWN]
    return section("Curves", f'<div class="charts">{"".join(charts)}</div>', "Over the steps; the number is the last.")


def _worst(found: Validation) -> str:
    """The pictures that gain least, where they are furthest from their originals."""
    lines = ["<th>blurred</th><th>restored</th><th>sharp</th><th>picture</th>"]

    def gain_of(one: tuple[Score, Sample]) -> float:
        gain = one[0].psnr - one[0].blurred_psnr
        return -math.inf if math.isnan(gain) else gain  # values that are no numbers are the worst

    for score, sample in sorted(zip(found.scores, found.samples, strict=True), key=gain_of)[:WORST]:
        corner = _corner(sample.restored, sample.sharp)
        looks = "".join(f"<td>{_image(_cut(part, corner))}</td>" for part in sample)
        gain = round(score.psnr - score.blurred_psnr, 2) + 0.0  # no -0.00
        lines.append(
            f'{looks}<td class="about"><b class="{"loss" if gain < 0 else "gain"}">{gain:+.2f} dB</b><br>'
            f"{score.blurred_psnr:.2f} blurred<br>{score.psnr:.2f} restored<br>"
            f"<code>{escaped(score.name)}</code></td>"
        )
    note = "Of the validation pictures those that gain least, where they are furthest from the original."
    return section("Worst pictures", table(lines, "film"), note)


def _left_out(trainer: Trainer) -> str:
    files = trainer.left_out.unreadable | trainer.left_out.other
    if not files:
        return ""
    listed = list(files.items())[:LISTED]
    lines = [f"<td><code>{escaped(name)}</code></td><td>{escaped(reason)}</td>" for name, reason in listed]
    rest = f" The first {LISTED} of them." if len(files) > LISTED else ""
    return section("Pictures left out", table(lines), f"{len(files)} in all, since this process began.{rest}")


def _options(trainer: Trainer) -> str:
    """The options that were chosen, then all of them."""
    config = trainer.resolved()
    values = to_mapping(config)
    names = [field.name for field in fields(TrainConfig)]
    always = ["data", "preset"]
    chosen = [name for name in names if name not in always and trainer.config.chosen(name)]
    tables = [table(pairs({name: values[name] for name in some})) for some in ([*always, *chosen], names)]
    return section(
        "Options",
        f"{tables[0]}<details><summary>all {len(names)} options</summary>{tables[1]}</details>",
        "Those that differ from the preset.",
    )


def _machine(trainer: Trainer) -> dict[str, object]:
    is_cuda = trainer.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(trainer.device) if is_cuda else f"CPU, {_cpu_name()}",
        "precision": trainer.one_step.precision,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "deblurgan": __version__,
    }


def _cpu_name() -> str:
    """As Linux has it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _rows(history: Path) -> list[dict[str, float]]:
    """history.csv's rows, each with its finite figures alone."""
    with history.open(newline="") as file:
        rows = [{name: _number(text) for name, text in row.items() if name} for row in csv.DictReader(file)]
    finite = ({name: value for name, value in row.items() if math.isfinite(value)} for row in rows)
    return [row for row in finite if "step" in row]


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return math.nan


def _spread(steps: Sequence[int], count: int) -> list[int]:
    """At most so many of them, the first and the last among them."""
    if len(steps) <= count:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)]


def _restored_in(path: Path, found: Validation) -> list[Tensor]:
    """The restored pictures of a grid that was saved; none where it cannot be read or is of other pictures."""
    try:
        pixels = torch.from_numpy(images.read(path).in_8_bits().pixels).permute(2, 0, 1)
    except (images.ImageError, OSError):
        return []
    count, (h, w) = min(SAMPLES, len(found.samples)), found.grid_part()
    if pixels.shape[1:] != (count * h, 3 * w):
        return []
    return list(pixels.chunk(3, 2)[1].chunk(count, 1))


def _corner(a: Tensor, b: Tensor) -> tuple[int, int]:
    """The upper left corner of the square of SIDE px, or less, in which two pictures differ most."""
    size = [min(SIDE, side) for side in b.shape[1:]]
    error = (a.float() - b.float()).square().mean(0, keepdim=True)
    means = functional.avg_pool2d(error, size, stride=16)[0]
    row, column = divmod(int(means.argmax()), means.shape[1])
    return 16 * row, 16 * column


def _cut(picture: Tensor, corner: tuple[int, int]) -> Tensor:
    top, left = corner
    return picture[:, top : top + SIDE, left : left + SIDE]


def _image(picture: Tensor) -> str:
    """An <img> that holds a JPEG of the picture, uint8 [3, h, w]."""
    file = encoded(picture.permute(1, 2, 0).numpy(), "JPEG", quality=88)
    return embedded(file, "jpeg", (picture.shape[2], picture.shape[1]))
