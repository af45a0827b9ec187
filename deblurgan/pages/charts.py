"""Charts of lines and of dots as SVG, for pages in light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 460, 190  # px
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 24  # margins around the lines
POINTS = 200  # of a line, at most: more of them are averaged
SPREAD = 30  # greatest by smallest value, above which a scale is logarithmic

Scale = Callable[[float], float]  # from a value to its place in px


class Line(NamedTuple):
    """A curve: its points (step, value) and the class that its colour is given by."""

    name: str
    points: Sequence[tuple[float, float]]
    kind: str = "main"


class Dot(NamedTuple):
    """A value of a scatter chart: its place, the class that its colour is given by, and what it is."""

    x: float
    y: float
    kind: str
    title: str


def chart(title: str, lines: Sequence[Line]) -> str:
    """A figure with the lines over the steps, or nothing where no line has a point.

    Values that are not finite are left out. Where all are positive and far apart the scale is logarithmic, and says so.
    """
    lines = [line._replace(points=_thinned([p for p in line.points if math.isfinite(p[1])])) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    values = [value for line in lines for _, value in line.points]
    steps = [step for line in lines for step, _ in line.points]
    is_log = min(values) > 0 and max(values) > SPREAD * min(values)
    ticks = _log_ticks(min(values), max(values)) if is_log else _ticks(min(values), max(values))
    x, y = _scale(min(steps), max(steps), LEFT, WIDTH - RIGHT), _scale_of(ticks, is_log=is_log)
    digits = None if is_log else _digits(ticks)
    parts = _grid(ticks, y, digits)
    for step, anchor in ((min(steps), "start"), (max(steps), "end")):
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{step:,.0f}</text>')
    for line in lines:
        parts.append(_drawn(line, digits, [(x(step), y(value)) for step, value in line.points]))
    labels = "".join(_label(line, digits, named=len(lines) > 1) for line in lines)
    return _figure(title, "logarithmic" if is_log else "", labels, parts)


def scatter(title: str, note: str, dots: Sequence[Dot], base: Sequence[tuple[float, float]], *, steps: bool) -> str:
    """A figure with the dots, which must be finite, and a line to compare them with, or nothing without dots.

    note: says what stands across. steps: the numbers across are whole and only the first and the last is written.
    """
    if not dots:
        return ""
    xs = [dot.x for dot in dots] + [x for x, _ in base]
    ys = [dot.y for dot in dots] + [y for _, y in base]
    ticks = _ticks(min(ys), max(ys))
    across = [min(xs), max(xs)] if steps else _ticks(min(xs), max(xs))
    x, y = _scale(across[0], across[-1], LEFT + 6, WIDTH - RIGHT - 6), _scale_of(ticks, is_log=False)
    digits = 0 if steps else _digits(across)
    parts = _grid(ticks, y, _digits(ticks))
    parts += [
        f'<text x="{x(tick):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{_text(tick, digits)}</text>' for tick in across
    ]
    path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in base)
    parts.append(f'<polyline class="base" points="{path}"/>')
    parts += [
        f'<circle class="{dot.kind}" cx="{x(dot.x):.1f}" cy="{y(dot.y):.1f}" r="{3 if len(dots) < 300 else 2}">'
        f"<title>{html.escape(dot.title)}</title></circle>"
        for dot in dots
    ]
    return _figure(title, note, "", parts)


def _figure(title: str, note: str, labels: str, parts: Sequence[str]) -> str:
    title, note = html.escape(title), html.escape(note)
    return (
        f"<figure><figcaption><b>{title}</b> <i>{note}</i>{labels}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg></figure>'
    )


def _grid(ticks: Sequence[float], y: Scale, digits: int | None) -> list[str]:
    """Lines across at the ticks, with their values."""
    return [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{_text(tick, digits)}</text>'
        for tick in ticks
    ]


def _label(line: Line, digits: int | None, *, named: bool) -> str:
    """The last value, with the line's name where there are several."""
    name = f"{html.escape(line.name)} " if named else ""
    digits = None if digits is None else digits + 1
    return f'<span class="{line.kind}">{name}{_text(line.points[-1][1], digits)}</span>'


def _drawn(line: Line, digits: int | None, at: Sequence[tuple[float, float]]) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    if len(at) > 60:
        return f'<polyline class="{line.kind}" points="{path}"/>'
    dots = "".join(
        f'<circle class="{line.kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5">'
        f"<title>step {step:,.0f}: {html.escape(line.name)} {_text(value, digits)}</title></circle>"
        for (x, y), (step, value) in zip(at, line.points, strict=True)
    )
    return f'<polyline class="{line.kind}" points="{path}"/>{dots}'


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS points: the means of neighbours."""
    size = math.ceil(len(points) / POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)] if points else []
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _scale(low: float, high: float, first: float, last: float) -> Scale:
    span = high - low or 1.0
    return lambda value: first + (value - low) / span * (last - first)


def _scale_of(ticks: Sequence[float], *, is_log: bool) -> Scale:
    """Where a value stands between the lowest and the highest tick."""
    if not is_log:
        return _scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    scale = _scale(math.log10(ticks[0]), math.log10(ticks[-1]), HEIGHT - BOTTOM, TOP)
    return lambda value: scale(math.log10(value))


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below the lowest value to above the highest."""
    if low == high:
        low, high = min(low, 0.0), max(high, 0.0) or 1.0
    span = high - low
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= 4.5)
    return [i * step for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / 5))
    return [10.0**power for power in range(first, last + every, every)]


def _digits(ticks: Sequence[float]) -> int | None:
    """Decimals that tell the ticks apart; None where they are powers of ten, or numbers for which decimals are odd."""
    step = ticks[1] - ticks[0]
    decimals = next(n for n in range(20) if abs(round(step, n) - step) < step / 100)
    return decimals if decimals <= 5 else None


def _text(value: float, digits: int | None) -> str:
    return f"{value:.3g}" if digits is None or value == 0 else f"{value:,.{digits}f}"
