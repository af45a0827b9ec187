"""python docs/figures/learning_curve.py: makes docs/figures/learning-curve.svg, the training of the weights that ship.

Its two stages were validated on other blur, so each has a curve of its own: what restoring wins, over the updates.
"""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.plots import document

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "epyc-2-cores"
FIGURE = Path(__file__).parent / "learning-curve.svg"
STAGES = {
    "learning-curve-1.csv": "values averaged",
    "learning-curve-2.csv": "half as a camera blurs",
}
LEFT, TOP, WIDTH, HEIGHT = 46, 30, 620, 240
HIGHEST, TICK = 2.0, 0.5  # dB


def gains(name: str) -> list[tuple[int, float]]:
    """(step, dB won) of each validation."""
    with (RESULTS / name).open(newline="") as file:
        return [(int(row["step"]), float(row["val_psnr"]) - float(row["blurred_psnr"])) for row in csv.DictReader(file)]


def main() -> None:
    curves = {name: gains(name) for name in STAGES}
    total = sum(curve[-1][0] for curve in curves.values())
    parts, before = [], 0
    for k in range(round(HIGHEST / TICK) + 1):
        y = TOP + HEIGHT * (1 - k * TICK / HIGHEST)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{LEFT + WIDTH}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">+{k * TICK:.1f}</text>')
    for name, curve in curves.items():
        places = [(LEFT + WIDTH * (before + step) / total, TOP + HEIGHT * (1 - gain / HIGHEST)) for step, gain in curve]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="#1f8fb5" stroke-width="2"/>')
        (first, _), (last, y) = places[0], places[-1]
        parts.append(f'<text x="{first:.1f}" y="{TOP + HEIGHT - 8}">{STAGES[name]}</text>')
        parts.append(f'<text x="{last:.1f}" y="{y - 8:.1f}" text-anchor="end">{curve[-1][1]:+.2f}</text>')
        before += curve[-1][0]
        x = LEFT + WIDTH * before / total
        parts.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 16}" text-anchor="end">{before:,}</text>')
    title = '<text x="8" y="16">dB won on 12 photographs held out, each under one kernel, over the updates</text>'
    FIGURE.write_text(document(LEFT + WIDTH + 14, TOP + HEIGHT + 28, [title, *parts]))


if __name__ == "__main__":
    main()
