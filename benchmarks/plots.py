"""Plots of a report as SVG, readable on white and on black: medians, ratios to the peers, and the roofline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import groupby
from typing import Any

Figure = dict[str, Any]
STYLE = """
<style>
text { fill: #222 } .paper { fill: #fff } .grid { stroke: #e4e4e4 } .axis { stroke: #888 } .floor { stroke: #c0392b }
.ours { fill: #1f6f8b } .peer { fill: #b8b8b8 } .loss { fill: #d9822b } .roof { stroke: #c0392b; fill: none }
@media (prefers-color-scheme: dark) {
text { fill: #ddd } .paper { fill: #16181a } .grid { stroke: #333 } .axis { stroke: #888 } .peer { fill: #777 }
.ours { fill: #4aa3c0 } }
</style>"""


def three_digits(value: float | None, scale: float = 1) -> str:
    """Three significant digits, without an exponent; nothing for None or 0."""
    if not value:
        return ""
    value *= scale
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def document(width: float, height: float, parts: Iterable[str]) -> str:
    body = "\n".join(['<rect class="paper" width="100%" height="100%"/>', *parts])
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    font = 'font-family="sans-serif" font-size="11"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>{STYLE}\n{body}\n</svg>\n'


def logarithmic(values: Sequence[float], start: float, end: float) -> tuple[Callable[[float], float], list[float]]:
    """A scale from whole powers of ten around the values to start ... end, and these powers."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    return (
        lambda value: start + (end - start) * (math.log10(value) - low) / (high - low),
        [10.0**power for power in range(low, high + 1)],
    )


def medians(figures: Sequence[Figure]) -> str:
    """A bar of each median on a logarithmic scale, a tick on it where its floor stands."""
    left, width, line = 330, 560, 16
    times = [1e3 * t for f in figures for t in (f["median_s"], f.get("floor_s") or f["median_s"])]
    x, powers = logarithmic(times, left, left + width)
    parts, y = [], 40
    for group, members in groupby(figures, lambda f: f["group"]):
        y += line
        parts.append(f'<text x="8" y="{y}" font-weight="bold">{escape(group)}</text>')
        for f in members:
            y += line
            peer = "over_ours" in f and not f["path"].startswith("ours")
            ms, kind = 1e3 * f["median_s"], "peer" if peer else "ours"
            parts.append(f'<text x="{left - 8}" y="{y}" text-anchor="end">{escape(f["path"])}</text>')
            parts.append(f'<rect class="{kind}" x="{left}" y="{y - 10}" width="{x(ms) - left:.1f}" height="12"/>')
            parts.append(f'<text x="{x(ms) + 4:.1f}" y="{y}">{three_digits(ms)}</text>')
            if f.get("floor_s"):
                at = x(1e3 * f["floor_s"])
                parts.append(f'<path class="floor" d="M{at:.1f} {y - 11}v14" stroke-width="2"/>')
    title = '<text x="8" y="16">median in ms, logarithmic; grey: the peers; red: the floor</text>'
    return document(left + width + 70, y + 20, [title, *_powers(x, powers, y), *parts])


def ratios(figures: Sequence[Figure]) -> str:
    """A bar of each peer's time over ours, from 1 on a logarithmic scale: to the right ours is faster."""
    left, width, line = 390, 480, 16
    compared = [f for f in figures if "over_ours" in f and not f["path"].startswith("ours")]
    if not compared:
        return ""
    x, powers = logarithmic([1.0, *(f["over_ours"] for f in compared)], left, left + width)
    parts, y, one = [], 40, x(1.0)
    for group, members in groupby(compared, lambda f: f["group"]):
        y += line
        parts.append(f'<text x="8" y="{y}" font-weight="bold">{escape(group)}</text>')
        for f in members:
            y += line
            ratio = f["over_ours"]
            low, high = sorted((one, x(ratio)))
            kind = "ours" if ratio >= 1 else "loss"
            parts.append(f'<text x="{left - 8}" y="{y}" text-anchor="end">{escape(f["path"])}</text>')
            parts.append(f'<rect class="{kind}" x="{low:.1f}" y="{y - 10}" width="{high - low:.1f}" height="12"/>')
            parts.append(f'<text x="{high + 4:.1f}" y="{y}">{three_digits(ratio)}</text>')
    title = '<text x="8" y="16">times ours that a peer takes, logarithmic; orange: the peer is faster</text>'
    axis = f'<path class="axis" d="M{one:.1f} 40V{y + 6}"/>'
    return document(left + width + 70, y + 20, [title, *_powers(x, powers, y), axis, *parts])


def roofline(figures: Sequence[Figure]) -> str:
    """Operations a second over operations a byte, below the roofs that were measured; ours and the peers."""
    shown = [f for f in figures if f.get("multiply_adds") and "multiply_adds_per_s" in f]
    if not shown:
        return ""
    left, top, width, height = 60, 30, 620, 340
    roofs = {(f["device"], f["precision"], f["threads"]): (f["multiply_adds_per_s"], f["bytes_per_s"]) for f in shown}
    intensity = [2 * f["multiply_adds"] / f["bytes"] for f in shown]
    reached = [2 * f.get("calls", 1) * f["multiply_adds"] / f["median_s"] / 1e9 for f in shown]
    peaks = [2 * rate / 1e9 for rate, _ in roofs.values()]
    x, across = logarithmic([*intensity, 0.5], left, left + width)
    y, up = logarithmic([*reached, *peaks], top + height, top)
    parts = []
    for power in across:
        parts.append(f'<path class="grid" d="M{x(power):.1f} {top}V{top + height}"/>')
        parts.append(f'<text x="{x(power):.1f}" y="{top + height + 16}" text-anchor="middle">{power:g}</text>')
    for power in up:
        parts.append(f'<path class="grid" d="M{left} {y(power):.1f}H{left + width}"/>')
        parts.append(f'<text x="{left - 6}" y="{y(power) + 4:.1f}" text-anchor="end">{power:g}</text>')
    for (device, precision, threads), (rate, copied) in roofs.items():
        ridge, peak = 2 * rate / copied, 2 * rate / 1e9
        first = max(across[0], up[0] / (copied / 1e9))
        begin = f"{x(first):.1f} {y(first * copied / 1e9):.1f}"
        corner = f"{x(min(max(ridge, first), across[-1])):.1f} {y(peak):.1f}"
        parts.append(f'<path class="roof" d="M{begin}L{corner}H{left + width}"/>')
        label = f"{device}, {precision}, {threads} threads: {three_digits(peak)}"
        parts.append(f'<text x="{left + width}" y="{y(peak) - 4:.1f}" text-anchor="end">{label}</text>')
    for f, at, speed in zip(shown, intensity, reached, strict=True):
        kind = "ours" if f["path"].startswith("ours") else "peer"
        title = f"<title>{escape(f['group'])}, {escape(f['path'])}: {three_digits(speed)} GFLOP/s</title>"
        parts.append(f'<circle class="{kind}" cx="{x(at):.1f}" cy="{y(speed):.1f}" r="4">{title}</circle>')
    words = "GFLOP/s over FLOP a byte, both logarithmic; blue: ours, grey: the peers, red: torch.mm and copy_"
    return document(left + width + 30, top + height + 30, [f'<text x="8" y="16">{words}</text>', *parts])


def _powers(x: Callable[[float], float], powers: Iterable[float], foot: float) -> list[str]:
    """Lines and numbers of a scale across."""
    parts = []
    for power in powers:
        parts.append(f'<path class="grid" d="M{x(power):.1f} 40V{foot + 6}"/>')
        parts.append(f'<text x="{x(power):.1f}" y="34" text-anchor="middle">{power:g}</text>')
    return parts
