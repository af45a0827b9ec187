"""Published figures: the page is what the result files give, and README quotes the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import numbers, roofline
from deblurgan.spec import PRESETS

ROOT = Path(__file__).parent.parent
MEASURED = r"([+-]?\d+(?:\.\d+)?) ?(dB|ms|us|x)(?!\w)"  # 256x256 is a size, not a factor


def test_page_is_made_from_the_results() -> None:
    assert numbers.PAGE.read_text() == numbers.markdown(), "run python -m benchmarks.numbers"


@pytest.mark.parametrize("name", ["README.md", "docs/index.md", "docs/quickstart.md"])
def test_quoted_figures_are_on_the_page(name: str) -> None:
    page = numbers.markdown()
    for figure, unit in re.findall(MEASURED, (ROOT / name).read_text()):
        cell = f"{figure}x" if unit == "x" else figure
        assert re.search(rf"(?<![\d.]){re.escape(cell)}(?![\d.]*\d)", page), f"{name}: {figure} {unit}"


def test_readme_quotes_figures() -> None:
    assert len(re.findall(MEASURED, (ROOT / "README.md").read_text())) >= 5


def test_readme_s_table_of_systems_is_the_page_s() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| system |"))
    page = numbers.markdown().splitlines()
    table = lines[start : lines.index("", start)]
    assert len(table) == 6
    assert set(table) <= set(page)


def test_floors_in_the_table_of_kernels_are_the_roofline_s() -> None:
    spec = PRESETS["paper"]
    half = roofline.generator_kernels(spec, 720, 1280)
    eight_bit = [k for k in roofline.generator_kernels(spec, 720, 1280, quantize=True) if k.kind == "trunk8"]
    floors = {kernel.name: f"{1e6 * kernel.floor_s():.1f}" for kernel in half}
    lines = [line for line in (ROOT / "docs" / "kernels.md").read_text().splitlines() if line.startswith("|")]
    wanted = {
        "`conv_stats`, in a block": floors["trunk"],
        "the same, 8 bits": f"{1e6 * eight_bit[0].floor_s():.1f}",
        "`conv_stats`, stem 7x7": floors["stem"],
        "`conv_stats`, stride 2": floors["down.0"],
        "`up_conv_stats`": floors["up.0"],
        "`norm_act`, within a block": floors["norm inner"],
        "`norm_act` with the residual": floors["norm residual"],
        "`output_tail`": floors["head"],
    }
    for kernel, floor in wanted.items():
        (line,) = [line for line in lines if line.startswith(f"| {kernel} |")]
        assert line.endswith(f"| {floor} |"), line
