"""report.html: a run on one page that needs nothing else: curves, samples, the worst pictures, options and machine."""

from __future__ import annotations

import base64
import csv
import html
import io
import math
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from deblurgan import __version__, images
from deblurgan.config import TrainConfig, to_mapping
from deblurgan.display import counted, duration
from deblurgan.training.callbacks import Callback
from deblurgan.training.charts import Line, chart
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
            page = self._page(trainer, self.found, is_done=is_done)
            images.replace_file(trainer.folder.report, page.encode("utf-8", "replace"))
        except OSError as error:
            trainer.log(f"{trainer.folder.report} is not written: {error}")

    def _page(self, trainer: Trainer, found: Validation, *, is_done: bool) -> str:
        rows = _rows(trainer.folder.history)
        total = trainer.schedule.total_steps
        state = "finished" if is_done and trainer.steps_done == total else "stopped" if is_done else "running"
        preset, name = trainer.config.preset, html.escape(images.printable(trainer.folder.path.resolve().name))
        sections = [
            f"<header><h1>{name}</h1><p>{preset}, {state} at step {trainer.steps_done:,} of {total:,} "
            f"<time>{time.strftime('%Y-%m-%d %H:%M')}</time></p></header>",
            _tiles(rows, found, trainer),
            _curves(rows),
            self._over_time(trainer, found),
            _worst(found),
            _left_out(trainer),
            f'<div class="two">{_options(trainer)}{_section("Machine", _table(_pairs(_machine(trainer))))}</div>',
        ]
        return PAGE.format(title=name, style=STYLE, body="\n".join(part for part in sections if part))

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
        return _section("Samples", _table(lines, "film"), "Where blur and original differ most, pixel for pixel.")


def _tiles(rows: Sequence[Mapping[str, float]], found: Validation, trainer: Trainer) -> str:
    """The figures that one looks for first."""
    best = max(trainer.saved.best_psnr, found.psnr)
    seconds = sum(row.get("seconds", 0.0) for row in rows)
    skipped = sum(row.get("skipped", 0.0) for row in rows)
    tiles = {
        "PSNR now": (f"{found.psnr:.2f} dB", f"{found.psnr - found.blurred_psnr:+.2f} dB by restoring"),
        "Best PSNR": (
            f"{best:.2f} dB",
            f"of {counted(len(found.samples), 'validation picture')}",
        ),
        "SSIM now": (f"{found.ssim:.4f}", "1 is the original"),
        "Pictures": (f"{len(trainer.train_set):,}", f"to train on, {len(trainer.val_set):,} to validate on"),
        "Time": (duration(seconds), f"steps left out as not finite: {skipped:.0f}"),
    }
    parts = (f"<div><h3>{name}</h3><b>{value}</b><p>{note}</p></div>" for name, (value, note) in tiles.items())
    return f'<section class="tiles">{"".join(parts)}</section>'


def _curves(rows: Sequence[Mapping[str, float]]) -> str:
    def line(name: str, column: str, kind: str = "main") -> Line:
        return Line(name, [(row["step"], row[column]) for row in rows if column in row], kind)

    columns = list(dict.fromkeys(name for row in rows for name in row if name not in NOT_DRAWN))
    own = [name for name in columns if name not in (*LOSSES, *TITLES)]
    used = [name for name in (*LOSSES, *own, *TITLES) if any(row.get(name) for row in rows)]
    charts = [chart("PSNR, dB", [line("blurred", "blurred_psnr", "base"), line("restored", "val_psnr")])]
    charts += [chart(TITLES.get(name, f"loss: {name}"), [line(name, name)]) for name in used if name not in NOT_DRAWN]
    return _section("Curves", f'<div class="charts">{"".join(charts)}</div>', "Over the steps; the number is the last.")


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
            f"<code>{html.escape(images.printable(score.name))}</code></td>"
        )
    note = "Of the validation pictures those that gain least, where they are furthest from the original."
    return _section("Worst pictures", _table(lines, "film"), note)


def _left_out(trainer: Trainer) -> str:
    files = trainer.left_out.unreadable | trainer.left_out.other
    if not files:
        return ""
    listed = list(files.items())[:LISTED]
    lines = [
        f"<td><code>{html.escape(images.printable(name))}</code></td><td>{html.escape(images.printable(reason))}</td>"
        for name, reason in listed
    ]
    rest = f" The first {LISTED} of them." if len(files) > LISTED else ""
    return _section("Pictures left out", _table(lines), f"{len(files)} in all, since this process began.{rest}")


def _options(trainer: Trainer) -> str:
    """The options that were chosen, then all of them."""
    config = trainer.resolved()
    values = to_mapping(config)
    names = [field.name for field in fields(TrainConfig)]
    always = ["data", "preset"]
    chosen = [name for name in names if name not in always and trainer.config.chosen(name)]
    tables = [_table(_pairs({name: values[name] for name in some})) for some in ([*always, *chosen], names)]
    return _section(
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
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy())).save(file, "JPEG", quality=88)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="" width="{picture.shape[2]}" height="{picture.shape[1]}" src="data:image/jpeg;base64,{data}">'


def _pairs(values: Mapping[str, object]) -> list[str]:
    return [
        f"<th>{html.escape(name)}</th><td>{html.escape(images.printable(_text(value)))}</td>"
        for name, value in values.items()
    ]


def _text(value: object) -> str:
    """As a person would write it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))


def _table(lines: Iterable[str], kind: str = "") -> str:
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table class="{kind}">{rows}</table></div>'


def _section(title: str, body: str, note: str = "") -> str:
    return f"<section><h2>{title}</h2>{f'<p>{note}</p>' if note else ''}{body}</section>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}: training</title><style>{style}</style></head>
<body>{body}</body></html>
"""

STYLE = """
:root { --ground: #fff; --card: #f6f7f8; --ink: #1b1f24; --soft: #667079; --rule: #e2e5e8; --main: #00796b;
  --base: #98a1a9; --loss: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --card: #1d2125; --ink: #e6e9ec; --soft: #98a1a9;
  --rule: #30363c; --main: #4db6ac; --base: #7b858e; --loss: #f2877f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 2.4rem 0 0; font-size: 1.15rem; }
h3 { margin: 0; font-size: .8rem; font-weight: 500; color: var(--soft); }
p { margin: 0 0 .8rem; color: var(--soft); } time { margin-left: .8em; white-space: nowrap; }
code { font-size: .85em; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .8rem; }
.tiles div, figure { background: var(--card); border-radius: 8px; padding: .8rem 1rem; }
.tiles b { font-size: 1.5rem; font-weight: 600; } .tiles p { margin: 0; font-size: .82rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); gap: .8rem; }
figure { margin: 0; } figcaption { font-size: .85rem; display: flex; gap: .6em; align-items: baseline; }
figcaption i { color: var(--soft); font-style: normal; flex: 1; }
figcaption b, figcaption span { white-space: nowrap; }
figcaption span { font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; margin-top: .4rem; } svg text { font-size: 11px; fill: var(--soft); }
.grid { stroke: var(--rule); } polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
polyline.main { stroke: var(--main); } polyline.base { stroke: var(--base); stroke-dasharray: 5 4; }
circle.main { fill: var(--main); } circle.base { fill: var(--base); } span.main { color: var(--main); }
span.base { color: var(--base); }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 0 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th { text-align: left; font-weight: 500; color: var(--soft); } th, td { padding: .25rem 1.2rem .25rem 0; }
.film th, .film td { padding: 0 .4rem .4rem 0; font-size: .82rem; vertical-align: top; }
.film img { border-radius: 4px; }
img { display: block; } .about { padding-left: .6rem !important; min-width: 11rem; }
.gain { color: var(--main); } .loss { color: var(--loss); } .about b { font-size: 1.1rem; }
summary { cursor: pointer; margin-top: .6rem; color: var(--main); }
"""
