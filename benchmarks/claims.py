"""The figures that pages quote in their sentences, each with the result file and the place in it that hold it.

`python -m benchmarks.numbers` writes them into the pages.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from benchmarks.results_files import CPU, HARD, ROOT, Pictures, digits, load, report_with

NUMBER = r"([+-]?\d[\d,]*(?:\.\d+)?)"
CARD = "deblurgan/assets/tiny.md"


class Claim(NamedTuple):
    """A piece of a page's text, `{}` where its figures stand."""

    page: str
    words: str
    figures: list[str]

    def match(self, text: str) -> re.Match[str]:
        """Where it stands in `text`, whatever its figures and line breaks; ValueError unless it is there once."""
        pieces = [r"\s+".join(map(re.escape, piece.split(" "))) for piece in self.words.split("{}")]
        found = list(re.finditer(NUMBER.join(pieces), text))
        if len(found) != 1:
            raise ValueError(f"{self.page} must say once {self.words!r}, says it {len(found)} times")
        return found[0]

    def written(self, text: str) -> str:
        """`text` with the figures in their places."""
        match = self.match(text)
        for group, figure in reversed(list(enumerate(self.figures, 1))):
            start, end = match.span(group)
            text = text[:start] + figure + text[end:]
        return text


def timing(group: str, path: str = "ours") -> dict[str, float]:
    """A figure of the report that holds its table."""
    (found,) = [f for f in report_with(group.split()[0])["figures"] if (f["group"], f["path"]) == (group, path)]
    return dict(found)


def ms(figure: dict[str, float]) -> str:
    return digits(1e3 * figure["median_s"])


def detection_figures(standing: Any) -> list[str]:
    """F1 of blurred and of restored pictures, and its gain with the ends of its interval."""
    blurred, restored = (standing["detected"]["systems"][name] for name in ("blurred", "restored"))
    gain = [f"{value:+.3f}" for value in (restored["gain"], *restored["gain_interval"])]
    return [f"{blurred['f1']:.3f}", f"{restored['f1']:.3f}", *gain]


def gain_claims() -> list[Claim]:
    """held-out.csv, held-out-seed-2026.csv and standing.json."""
    known, new = Pictures(CPU / "held-out.csv"), Pictures(CPU / "held-out-seed-2026.csv")
    mean, worst, best = known.line("")[4:]
    standing = load(CPU / "standing.json")
    sharp = [f"{standing['sharp_mean']:.2f}", f"{min(standing['sharp'].values()):.2f}"]
    restored = standing["systems"]["restored"]["gain"]
    rows = {
        "all": known.line(""),
        "exposure 1/2": known.line("", lambda row: row["exposure"] == "0.5"),
        "exposure 1": known.line("", lambda row: row["exposure"] == "1.0"),
        "below 30 dB when blurred": known.line("", lambda row: float(row["blurred_psnr"]) < HARD),
    }
    unseen, hard = new.line(""), new.line("", lambda row: float(row["blurred_psnr"]) < HARD)
    return [
        Claim("README.md", "the mean is {} dB, between {} and {} dB", [mean, worst, best]),
        Claim("README.md", "F1 {} blurred, {} restored, gain {} ({} to {})", detection_figures(standing)),
        Claim("docs/index.md", "it wins {} dB on average", [mean.lstrip("+")]),
        Claim("docs/quickstart.md", "they win {} dB on average, between {} and {}", [mean.lstrip("+"), worst, best]),
        Claim("docs/quickstart.md", "comes back a little changed, at {} dB", sharp[:1]),
        Claim("docs/evaluation.md", "sharp pictures come back at {} dB, the worst at {} (", sharp),
        Claim(
            "docs/evaluation.md",
            "won {} dB on average and lost at most {} on one of the {};",
            [f"{restored['mean']:.2f}", f"{-restored['lowest']:.2f}", str(restored["number"])],
        ),
        *(
            Claim(CARD, f"| {title} | {{}} | {{}} | {{}} | {{}} | {{}} | {{}} |", row[1:])
            for title, row in rows.items()
        ),
        Claim(
            CARD,
            "{} pictures, `held-out-seed-2026.csv`) the mean gain is {} dB, the worst {}, and {} for the {} that start",
            [unseen[1], unseen[4], unseen[5], hard[4], hard[1]],
        ),
        Claim(CARD, "come back at {} dB on average, {} dB at worst", sharp),
    ]


def time_claims() -> list[Claim]:
    """The machine's report."""
    step = timing("training step of 1, paper 256x256")
    released = timing("training step of 1, paper 256x256", "eager fp32, as released")
    blur, avx2, python = (timing("blur 256x256 uint8", path) for path in ("ours", "ours, avx2", "released"))
    return [
        Claim("README.md", "takes them {} ms in bf16, {}x", [ms(step), digits(released["over_ours"])]),
        Claim("docs/training.md", "for GPUs | {} s a step in bf16", [digits(step["median_s"])]),
        Claim("README.md", "takes it {} ms on two CPU cores, {} ms without AVX-512", [ms(blur), ms(avx2)]),
        Claim("README.md", "released Python {}x as long", [digits(python["over_ours"])]),
    ]


def gap_claims() -> list[Claim]:
    """The machine's report, in the notes' table of gaps."""
    jobs = {
        "a training step of `paper`, 256x256, batch 1, bf16": "training step of 1, paper 256x256",
        "the forward pass of `tiny`, 256x256, bf16": "generator tiny 256x256",
        "a first epoch's batch of 16 crops, decoded in one thread": "data first epoch, batch 16, cpu",
    }
    return [
        Claim(
            "benchmarks/NOTES.md",
            f"| {words} | {{}} | {{}} | {{}} % |",
            [ms(figure), digits(1e3 * figure["floor_s"]), digits(100 * figure["share_of_floor"])],
        )
        for words, group in jobs.items()
        for figure in [timing(group)]
    ]


def memory_claims() -> list[Claim]:
    """streaming.json."""
    whole, strips = load(CPU / "streaming.json")["rows"]
    mib = f"{strips['measured MB'] * 1e6 / 2**20:,.0f}"
    seconds, share = f"{strips['s']:.0f}", f"{strips['s/MP'] / whole['s/MP']:.2f}"
    return [
        Claim("README.md", "100 megapixels took one core of a Zen 4 {} s,", [seconds]),
        Claim("docs/quickstart.md", "a megapixel takes one core of a Zen 4 {} s,", [f"{strips['s/MP']:.1f}"]),
        Claim(
            "docs/kernels.md",
            "took {} MiB and {} s on one core (Zen 4), for each megapixel {} times as long",
            [mib, seconds, share],
        ),
    ]


def loss_claims() -> list[Claim]:
    """content-against-gan.json."""
    rows = load(CPU / "content-against-gan.json")["rows"]
    names = {
        "blurred": "the blurred pictures",
        "the shipped weights": "nothing more: the weights they began from",
        "pixel": "squared error",
        "content": "content",
        "content and GAN": "content and a critic",
    }
    return [
        Claim(
            "docs/losses.md",
            f"| {name} | {{}} dB | {{}} | {{}} |",
            [f"{rows[key]['psnr']:.2f}", f"{rows[key]['ssim']:.3f}", f"{rows[key]['detail']:.2f}"],
        )
        for key, name in names.items()
    ]


def claims() -> list[Claim]:
    return [*gain_claims(), *time_claims(), *gap_claims(), *memory_claims(), *loss_claims()]


# What is no figure of a result file, by page: other people's figures, arithmetic, options
CITED = {
    "README.md": [],
    CARD: ["below 30 dB."],
    "docs/index.md": [],
    "docs/quickstart.md": [],
    "docs/training.md": [],
    "docs/losses.md": ["cost it 0.8 dB on GoPro"],
    "docs/kernels.md": ["0.25 s untiled", "0.33 s with what is stored", "2.1 s pass"],
}
# Figures that were measured once, whose file was not kept: each is to get one, or to go
UNSOURCED = {
    "docs/training.md": [
        "stood still at a gain of 0.5 dB",
        "took 0.15 s in fp32, 1.7 s in bf16 with AVX2 alone, and 0.10 s in bf16 with AVX512-BF16; fp16 took 1.8 s",
    ],
    "docs/losses.md": ["run was that of content alone to 0.01 dB"],
}


def write() -> None:
    """The figures into the pages."""
    for claim in claims():
        path = ROOT / claim.page
        path.write_text(claim.written(path.read_text()))
