"""Published figures: the page is what the result files give, and pages quote what the files hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import claims, numbers, roofline
from deblurgan.spec import PRESETS

ROOT = Path(__file__).parent.parent
MEASURED = r"([+-]?\d+(?:\.\d+)?) ?(dB|ms|us|s|x)(?!\w)"  # 256x256 is a size, not a factor


def test_page_is_made_from_the_results() -> None:
    assert numbers.PAGE.read_text() == numbers.markdown(), "run python -m benchmarks.numbers"


@pytest.mark.parametrize("claim", claims.claims(), ids=lambda claim: f"{claim.page}: {claim.words[:40]}")
def test_a_page_quotes_what_the_result_file_holds(claim: claims.Claim) -> None:
    text = (ROOT / claim.page).read_text()
    assert claim.written(text) == text, "run python -m benchmarks.numbers"


@pytest.mark.parametrize("page", claims.CITED)
def test_no_figure_is_without_a_source(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    for claim in claims.claims():
        if claim.page == page:
            text = text.replace(claim.match(text)[0], "")
    text = " ".join(text.split())
    for words in claims.CITED[page] + claims.UNSOURCED.get(page, []):
        assert words in text, f"{words!r} is no longer on the page: take it out of benchmarks/claims.py"
        text = text.replace(words, "")
    assert re.findall(MEASURED, text) == []


def test_a_stale_figure_is_rewritten_and_a_lost_sentence_named() -> None:
    claim = claims.Claim("page", "gains {} dB, at worst {}", ["+1.25", "-0.10"])
    assert claim.written("It gains +9 dB,\nat worst -3.5.") == "It gains +1.25 dB,\nat worst -0.10."
    with pytest.raises(ValueError, match="page must say once"):
        claim.written("It loses 9 dB")


def test_readme_s_table_of_systems_is_the_page_s() -> None:
    text = (ROOT / "README.md").read_text()
    assert numbers.quoted_table(text) == text, "run python -m benchmarks.numbers"


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
