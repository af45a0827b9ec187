"""report.html: an evaluation on one page that needs nothing else: figures, charts, and the pictures to look into."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from deblurgan import images
from deblurgan.display import counted, plural
from deblurgan.evaluation.baselines import NEEDS_PSF
from deblurgan.evaluation.detected import summarise
from deblurgan.evaluation.looks import DIALOG, LEGEND, SCRIPT, STYLE, looks
from deblurgan.evaluation.means import Mean
from deblurgan.evaluation.records import Row
from deblurgan.evaluation.report import Report
from deblurgan.evaluation.systems import BLURRED, RESTORED, SHARP
from deblurgan.metrics import LOWER_IS_BETTER
from deblurgan.pages.charts import Dot, scatter
from deblurgan.pages.parts import escaped, page, pairs, section, table, tiles

MOST, TYPICAL = 4, 2  # scenes that are shown: of the worst and of the best, of those between
ROOM = 5_000_000  # bytes of the page, for all pictures
NONE = "\N{EN DASH}"  # for a value that is not defined
FEW = 20  # failures that are listed without being asked for
DOTS = 2000  # of a chart; of more scenes every second, third, ... is drawn


def write_page(path: Path, report: Report, pictures_of: Callable[[Row], dict[str, Tensor]]) -> None:
    """Writes the report as one HTML file of less than about 6 MB, which shows at most ten scenes.

    The same report gives the same bytes. An older file is replaced whole or, after an error, not at all.

    Args:
        pictures_of: gives a row's pictures by system, "blurred" and "sharp" among them: uint8 [3, h, w], of one size.
            It is called for the scenes that are shown, one after the other. Where it raises one of images.FAILURES, the
            page says so.
    """
    title = f"Evaluation: {escaped(report.protocol)}{' with detection' if report.rules is not None else ''}"
    found = None if report.rules is None else summarise(report.rows, report.rules, report.samples_by).to_mapping()
    judged = [row for row in report.rows if RESTORED in row.figures]
    parts = [
        _head(report, title, found),
        _systems(report),
        _detected(found) if found is not None else "",
        _by_part(report),
        _charts(report, judged),
        *_scenes(report, judged, pictures_of),
        _failed(report),
        section("How this was measured", table(pairs(report.conventions), "words") + _settings(report)),
        DIALOG,
    ]
    text = page(title, "\n".join(part for part in parts if part), style=STYLE, script=SCRIPT)
    images.replace_file(path, text.encode())


def _head(report: Report, title: str, found: dict[str, Any] | None) -> str:
    """What was measured, and the figures that one looks for first."""
    words = [escaped(report.conventions[name]) for name in ("data", "weights") if name in report.conventions]
    head = f"<header><h1>{title}</h1><p>{'; restored by '.join(words)}</p></header>"
    if not report.rows:
        return head
    metric, gain = report.metrics[0], report.gain()
    failed = f'<a href="#failures">{counted(len(report.failed), "failure")}</a>' if report.failed else "none failed"
    figures = {
        f"{_title(metric)}, restored": (
            _number(report.mean(metric), metric),
            f"{_number(report.mean(metric, BLURRED), metric)} blurred",
        ),
        f"Gain in {_title(metric)}": (
            _number(gain.mean, metric, "+"),
            "no interval" if gain.interval is None else f"95 %: {_ends(gain.interval, metric, '+')}",
        ),
    }
    if found is not None and RESTORED in found["systems"]:
        after, before = (found["systems"][name]["f1"] for name in (RESTORED, BLURRED))
        figures["F1 of objects, restored"] = (_share(after), f"{_share(before)} blurred")
    if report.sharp:
        values = list(report.sharp.values())
        note = f"to itself; the worst {_number(min(values), 'psnr')}"
        figures["PSNR, dB, of sharp input"] = (_number(sum(values) / len(values), "psnr"), note)
    pictures = counted(len({row.picture for row in report.rows}), "picture")
    figures["Scenes"] = (f"{len(report.rows):,}", f"of {pictures}, {failed}")
    return head + tiles(figures)


def _systems(report: Report) -> str:
    """The table of systems: means, their intervals, and what was won over the blurred pictures."""
    if not report.rows:
        return section("Systems", "<p>No picture was measured.</p>")
    metric, *others = report.metrics
    best = {name: _best(report, name) for name in report.metrics}
    heads = [
        "system",
        _title(metric),
        f"gain in {_title(metric)}",
        *map(_title, others),
        "worst gain",
        "best",
        "scenes",
    ]
    lines = []
    for system in report.systems():
        first, *rest = (
            _mean_cell(report.summary(name, system), name, is_best=best[name] == system) for name in report.metrics
        )
        gain, *ends = _gain_cells(report.gain(system), metric) if system != BLURRED else ["<td></td>"] * 3
        note = "<small>knows the true kernel</small>" if system in NEEDS_PSF else ""
        cells = [first, gain, *rest, *ends, f"<td>{_count(report, system)}</td>"]
        lines.append(f'<th scope="row">{escaped(system)}{note}</th>{"".join(cells)}')
    note = (
        f"Means of the single scenes' figures; below them the 95 % interval over {escaped(plural(report.samples_by))} "
        "where there are several. Bold: the best that knows no kernel, of those that have every scene."
    )
    return section("Systems", _figures_table(heads, lines), note)


def _by_part(report: Report) -> str:
    """The first metric of each system for each value of the part that the protocol tells apart."""
    name = report.lines_by
    if name is None or not report.rows:
        return ""
    systems, metric = report.systems(), report.metrics[0]
    lines = []
    for value in dict.fromkeys(row.parts[name] for row in report.rows):
        cells = "".join(_part_cell(report, system, {name: value}) for system in systems)
        count = len(report.values(metric, BLURRED, **{name: value}))
        lines.append(f'<th scope="row">{_value(value)}</th>{cells}<td>{count:,}</td>')
    heads = [escaped(name), *map(escaped, systems), "scenes"]
    note = "Below the means what is won over the blurred pictures, and of how many scenes where some lack."
    return section(f"{_title(metric)} by {escaped(name)}", _figures_table(heads, lines), note)


def _part_cell(report: Report, system: str, part: dict[str, Any]) -> str:
    """The mean, what was won, and of how many scenes where some lack."""
    metric, won = report.metrics[0], report.gain(system, **part)
    count, total = (len(report.values(metric, name, **part)) for name in (system, BLURRED))
    notes = [] if system == BLURRED or not won.number else [_signed(won.mean, metric)]
    notes += [f"of {count:,}"] if count < total else []
    below = f"<small>{', '.join(notes)}</small>" if notes else ""
    return f"<td>{_number(report.mean(metric, system, **part), metric)}{below}</td>"


def _detected(found: dict[str, Any]) -> str:
    """What a detector finds again, and of which classes."""
    systems = found["systems"]
    heads = ["system", "F1", "gain in F1", "precision", "recall", "mAP"]
    lines = []
    for name, of in systems.items():
        is_judged = name not in (SHARP, BLURRED)
        cells = [_share(of["f1"]) + _range(of["f1_interval"])]
        cells += [_share(of["gain"], "+") + _range(of["gain_interval"], "+") if is_judged else ""]
        cells += [_share(of[key]) for key in ("precision", "recall", "ap")]
        lines.append(f'<th scope="row">{escaped(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}')
    judged = [name for name in systems if name != SHARP]
    by_class = []
    for label in found["classes"]:
        of_class = [systems[name]["classes"].get(label) for name in judged]
        if any(of_class):
            shares = [_share(of and of[key]) for of in of_class for key in ("f1", "ap")]
            by_class.append(f'<th scope="row">{escaped(label)}</th>{"".join(f"<td>{share}</td>" for share in shares)}')
    class_heads = ["class", *(f"{escaped(name)}, {key}" for name in judged for key in ("F1", "AP"))]
    classes = f"<details><summary>by class</summary>{_figures_table(class_heads, by_class)}</details>"
    objects = sum(systems[SHARP][key] for key in ("tp", "fn")) if SHARP in systems else 0
    note = (
        f"What {escaped(found['detector'])} finds again of the {counted(objects, 'object')} that it finds in the sharp "
        f"pictures; scores from {found['confidence']:g}, IoU from {found['iou']:g}."
    )
    return section("Detection", _figures_table(heads, lines) + (classes if by_class else ""), note)


def _charts(report: Report, judged: Sequence[Row]) -> str:
    """What each scene won, in order, and restored over blurred."""
    if not judged:
        return ""
    metric = report.metrics[0]
    rows = [row for row in _ordered(judged, metric) if math.isfinite(_gain(row, metric))]
    rows = rows[:: math.ceil(len(rows) / DOTS) or 1]
    dots, pairs_of = [], []
    for rank, row in enumerate(rows, 1):
        before, after = row.figures[BLURRED][metric], row.figures[RESTORED][metric]
        kind = "loss" if _is_loss(after - before, metric) else "main"
        words = f"{_name(row)}: {_number(before, metric)} blurred, {_number(after, metric)} restored"
        dots.append(Dot(rank, after - before, kind, words))
        pairs_of.append(Dot(before, after, kind, words))
    if not dots:
        return ""
    low, high = min(dot.x for dot in pairs_of), max(dot.x for dot in pairs_of)
    charts = scatter(
        f"gain in {_title(metric)}", "each scene, the worst first", dots, [(1, 0), (len(dots), 0)], steps=True
    )
    charts += scatter(
        f"{_title(metric)} restored",
        "against blurred; dashed: no change",
        pairs_of,
        [(low, low), (high, high)],
        steps=False,
    )
    return section("Each scene", f'<div class="charts duo">{charts}</div>')


def _scenes(report: Report, judged: Sequence[Row], pictures_of: Callable[[Row], dict[str, Tensor]]) -> list[str]:
    """The pictures of the worst, the best and typical scenes."""
    ordered = _ordered(judged, report.metrics[0]) if judged else []
    count = min(MOST, math.ceil(len(ordered) / 3))
    worst = _varied(ordered, count, report.samples_by)
    rest = [row for row in ordered if not any(row is other for other in worst)]
    best = _varied(rest[::-1], count, report.samples_by)
    rest = [row for row in rest if not any(row is other for other in best)]
    middle = max(0, (len(rest) - TYPICAL) // 2)
    groups = [
        ("Worst", worst, f"Those that gain least, each of another {escaped(report.samples_by)} while there is one."),
        ("Best", best, "Those that gain most, chosen alike."),
        ("Typical", rest[middle : middle + TYPICAL], "Those in the middle of the order."),
    ]
    groups = [group for group in groups if group[1]]
    room = ROOM // max(1, sum(len(rows) for _, rows, _ in groups))
    how = (
        " In all systems the same square, that in which blurred and sharp differ most: the frame in the whole picture. "
        f"Beside the names: {' and '.join(_title(metric).replace(', ', ' in ') for metric in report.metrics[:2])}."
    )
    legend = LEGEND if report.rules is not None else ""
    return [
        section(
            f"{title} scenes",
            ("" if i else legend) + "".join(_article(report, row, pictures_of, room) for row in rows),
            note + ("" if i else how),
        )
        for i, (title, rows, note) in enumerate(groups)
    ]


def _varied(rows: Sequence[Row], count: int, samples_by: str) -> list[Row]:
    """`count` of them in their order: the first of every sample before a second one, as a sample's are alike."""
    seen: Counter[object] = Counter()
    turns = []
    for row in rows:
        sample = row.picture if samples_by == "picture" else row.parts[samples_by]
        turns.append(seen[sample])
        seen[sample] += 1
    return [rows[i] for i in sorted(sorted(range(len(rows)), key=turns.__getitem__)[:count])]


def _article(report: Report, row: Row, pictures_of: Callable[[Row], dict[str, Tensor]], room: int) -> str:
    """A scene: its figures and its pictures."""
    metric = report.metrics[0]
    captions = {
        name: "<span>" + ", ".join(f"{_number(of[each], each)}{_unit(each)}" for each in report.metrics[:2]) + "</span>"
        for name, of in row.figures.items()
    }
    try:
        given = pictures_of(row)
        others = [name for name in report.systems() if name in given and name not in (BLURRED, SHARP)]
        pictures = {name: given[name] for name in (BLURRED, *others, SHARP)}
        small, shown = looks(row, pictures, captions, report.rules, room)
    except images.FAILURES as error:
        small, shown = "", f"<p>Its pictures cannot be shown: {escaped(images.failure_reason(error))}</p>"
    gain = _gain(row, metric)
    kind = "loss" if _is_loss(gain, metric) else "gain"
    parts = ", ".join(f"{escaped(name)} {_value(value)}" for name, value in row.parts.items())
    return (
        f'<article><div class="about">{small}<div><h3><code>{escaped(row.picture)}</code></h3><p>{parts}</p>'
        f'<b class="{kind}">{_number(gain, metric, "+")}{_unit(metric)}</b></div></div><div>{shown}</div></article>'
    )


def _failed(report: Report) -> str:
    """Everything that has no figures, and why."""
    if not report.failed:
        return ""
    heads = ["picture", "scene", "system", "reason"]
    lines = []
    for failure in report.failed:
        parts = ", ".join(f"{escaped(name)} {_value(value)}" for name, value in failure.parts.items())
        lines.append(
            f'<th scope="row"><code>{escaped(failure.picture)}</code></th><td>{parts}</td>'
            f"<td>{escaped(failure.system or 'all')}</td><td>{escaped(failure.reason)}</td>"
        )
    note = f"{counted(len(report.failed), 'failure')}: these are in no mean of the systems that they name."
    is_open = " open" if len(lines) <= FEW else ""
    listed = f"<details{is_open}><summary>all of them</summary>{table([_heads(heads), *lines], 'words')}</details>"
    return section('<span id="failures">Failures</span>', listed, note)


def _ordered(rows: Iterable[Row], metric: str) -> list[Row]:
    """The worst first; values that are no numbers are the worst."""

    def key(row: Row) -> float:
        gain = -_gain(row, metric) if metric in LOWER_IS_BETTER else _gain(row, metric)
        return -math.inf if math.isnan(gain) else gain

    return sorted(rows, key=key)


def _gain(row: Row, metric: str) -> float:
    return row.figures[RESTORED][metric] - row.figures[BLURRED][metric]


def _is_loss(gain: float, metric: str) -> bool:
    """Whether it is worse, in the digits that are shown, or no number."""
    shown = round(gain, _digits(metric)) if math.isfinite(gain) else math.nan
    return not (shown <= 0 if metric in LOWER_IS_BETTER else shown >= 0)


def _best(report: Report, metric: str) -> str | None:
    """The system with the best mean, of those that have every scene and know no kernel."""
    means = {
        name: report.mean(metric, name)
        for name in report.systems()
        if name not in NEEDS_PSF
        and len(report.values(metric, name)) == len(report.rows)
        and math.isfinite(report.mean(metric, name))
    }
    choose = min if metric in LOWER_IS_BETTER else max
    return choose(means, key=means.__getitem__) if means else None


def _count(report: Report, system: str) -> str:
    """How many scenes the system has figures of, and of how many where it lacks some."""
    count, total = len(report.values(report.metrics[0], system)), len(report.rows)
    return f"{count:,}" if count == total else f"{count:,} of {total:,}"


def _mean_cell(of: Mean, metric: str, *, is_best: bool = False) -> str:
    mean = _number(of.mean, metric)
    ends = "" if of.interval is None else f"<small>{_ends(of.interval, metric)}</small>"
    return f"<td>{f'<b>{mean}</b>' if is_best else mean}{ends}</td>"


def _gain_cells(gain: Mean, metric: str) -> list[str]:
    """The mean with its interval, the worst and the best."""
    ends = "" if gain.interval is None else f"<small>{_ends(gain.interval, metric, '+')}</small>"
    worst, best = sorted((gain.lowest, gain.highest), reverse=metric in LOWER_IS_BETTER)
    cells = [_signed(gain.mean, metric) + ends, _number(worst, metric, "+"), _number(best, metric, "+")]
    return [f"<td>{cell}</td>" for cell in cells]


def _signed(gain: float, metric: str) -> str:
    """A gain in the colour of gains or of losses."""
    return f'<span class="{"loss" if _is_loss(gain, metric) else "gain"}">{_number(gain, metric, "+")}</span>'


def _ends(interval: Sequence[float], metric: str, sign: str = "") -> str:
    return " … ".join(_number(end, metric, sign) for end in interval)


def _figures_table(heads: Sequence[str], lines: Sequence[str]) -> str:
    return table([_heads(heads), *lines], "figures")


def _heads(heads: Sequence[str]) -> str:
    """Of HTML, the first line of a table."""
    return "".join(f'<th scope="col">{head}</th>' for head in heads)


def _settings(report: Report) -> str:
    lines = table(pairs(_flat(report.settings)), "words")
    return f"<details><summary>all settings</summary>{lines}</details>" if report.settings else ""


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """Mappings within a mapping as names with a dot."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _name(row: Row) -> str:
    parts = ", ".join(f"{name} {value}" for name, value in row.parts.items())
    return images.printable(f"{row.picture} ({parts})" if parts else row.picture)


def _value(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else escaped(value)


def _title(metric: str) -> str:
    return f"{metric.upper()}{_unit(metric, ', ')}"


def _unit(metric: str, gap: str = " ") -> str:
    return f"{gap}dB" if metric.startswith("psnr") else ""


def _digits(metric: str) -> int:
    return 2 if metric.startswith("psnr") else 4


def _number(value: float, metric: str, sign: str = "") -> str:
    """In the digits of the metric; a dash for what is no number."""
    if not math.isfinite(value):
        return NONE
    digits = _digits(metric)
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # no -0.00


def _share(value: float | None, sign: str = "") -> str:
    return NONE if value is None else f"{value:{sign}.3f}"


def _range(interval: Sequence[float] | None, sign: str = "") -> str:
    return "" if interval is None else f"<small>{' … '.join(_share(end, sign) for end in interval)}</small>"
