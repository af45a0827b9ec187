"""python -m benchmarks.numbers: writes docs/numbers.md, every published figure, from the files in benchmarks/results,
and what other pages quote of them (benchmarks/claims.py).

Nothing is measured or rounded by hand: a figure stands on the page because a committed file holds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import claims, defaults, roofline
from benchmarks.results_files import CPU, HARD, RESULTS, ROOT, Pictures, digits, has_table, load, report_path
from deblurgan.spec import PRESETS

PAGE = ROOT / "docs" / "numbers.md"
STANDING_COMMAND = "deblurgan evaluate PHOTOS --protocol detection --baselines unsharp richardson-lucy -o OUT"

Figure = dict[str, Any]
Row = list[str]

INTRO = """# Numbers

Every figure that this project publishes, with where it comes from. This page is made by `python -m benchmarks.numbers`
from the files in `benchmarks/results/` and is not edited by hand; a test holds the two together.

**On a GPU: not run.** No kernel of this package has run on a GPU yet. What stands below about an H200 is
arithmetic, and is called so. The CPU figures are from two cores of a server, and other work on a machine changes such
figures several times over; measure yours with `python -m benchmarks.report --out DIR`.
"""

QUALITY = """## What the shipped weights reach

Twelve photographs that the network was never trained on (short side 720 px), each blurred by camera shakes at exposures
1/2 and 1, restored in fp32 on a CPU. PSNR in dB over RGB; a gain is what a picture wins.
"""

STANDING = """## The standing benchmark

The same photographs, each under 4 kernels at exposures 1/2 and 1, beside what one would compare with: unsharp masking,
and Richardson-Lucy deconvolution with the true kernel, which nobody has of a real picture. Beside the means are 95 %
intervals over the photographs.
"""

DETECTION = """What YOLOv3-tiny finds again of the objects that it finds in the sharp pictures, with scores of at least
{confidence:g} and overlaps of at least {iou:g}: {objects} of them, each counted under 8 kernels, in {pictures} of the
photographs. That is few, and the intervals say how little it tells.
"""

LIMITS = """These are figures of `tiny`, a network of 1.1 million parameters that was trained on two CPU cores for about
six hours by squared error alone, on its own kind of blur. They say nothing of the paper's network, and cannot be
compared with its GoPro figures, which are of other pictures and another blur.
"""

ROBUSTNESS = """## Other conditions

The middle 512 px of the same photographs, each under two shakes, restored by the shipped weights in fp32 under one
condition after the other. Blur averages light (gamma 2.2) where it says so or speaks of a sensor, else values.
"""

CURVE = """The learning curve of the shipped weights, in two stages that were validated on other blur. What ships is
their mean, three tenths of the first's and seven of the second's.

![dB won over the updates](figures/learning-curve.svg)
"""

BLUR = """## Camera-shake blur on a CPU

`released` is what DeblurGAN's `motion_blur/` does (its four exposures, an FFT for each channel); `lean` is the same job
written carefully in Python floats, for the one exposure that is wanted. Both include drawing the kernel, as ours does.
"Application" is the convolution alone, with a kernel that is given. `x` is a path's time over ours: below 1 it is
faster than ours.
"""

GENERATOR = """## The generator on a CPU

One picture. `ours` is the whole call of a `Deblurrer` in bf16, `channels_last`. Here `x` is the time of eager fp32
over the path's: above 1 the path is faster than eager fp32.
"""

TRAINING = """## A training step on a CPU

The networks of `paper`, crops of 256x256, batch 1: five updates of the critic with their penalties, and one of the
generator. `x` is a path's time over ours.
"""

FILES = """## From file to file on a CPU

A JPEG of {size} and the weights that ship, in bf16: decoding, the network, encoding, all of it, a folder, and how long
a process takes to begin. `x` is a path's time over ours.
"""

FLOORS = """## Floors and expectations on an H200

Arithmetic, not measurement. A kernel's floor is its FLOPs at 790 TFLOP/s (8-bit operands 1580) or its bytes at
4.3 TB/s, whichever takes longer; "expected" adds what such kernels fall short of it, reads from L2 and 2 to 3 us for
each launch (`benchmarks/roofline.py`; reasons in `benchmarks/NOTES.md`, where other GPUs are too). Generator `paper`,
one picture of 720x1280. Measured: not run.
"""

DEFAULTS = """## What runs where by default

The way of each layer in half types, on GPUs that no table has rows for (`kernels/heuristics.py`; `python -m
benchmarks.defaults`): pixels x channels x products a step of our kernel, or cuDNN where the roofline expects that to be
faster. In fp32 the head alone is ours. `deblurgan tune` measures and replaces these. All not run.
"""

EXACTNESS = """## How exact the kernels are

Relative error |result - truth| / |truth| against fp64, of our kernels in Triton's interpreter and of torch computing in
the same type. More, with gradients and loss curves, in `benchmarks/results/epyc-2-cores/agreement.md`.
"""

COMPILED = """## What the compilers make of the kernels

Every Triton configuration that tuning may choose, those of the defaults for six GPUs, and every CUDA kernel of `csrc/`,
compiled without a GPU. Registers, shared memory and instructions of each are in `benchmarks/results/compile/`.
"""


def table(headings: Row, rows: Iterable[Row]) -> str:
    """A table in Markdown; columns of numbers stand to the right."""
    rows = list(rows)
    right = [all(re.match(r"[+-]?[\d.]+x?$|$", cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [headings, ["---:" if numbers else "---" for numbers in right], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def name_of(path: Path) -> str:
    return f"`{path.relative_to(ROOT).as_posix()}`"


def provenance(path: Path) -> str:
    """A line about the machine, versions and commit of a report."""
    report = load(path)
    machine = report["machine"]
    commit = report["commit"]
    changed = ", with changes that were not committed" if commit["dirty"] else ""
    return (
        f"{machine['threads']} threads of an {machine['cpu']}, Python {machine['python']}, torch {machine['torch']}, "
        f"{report['date'][:10]}, commit `{commit['id'][:8]}`{changed}. Source: {name_of(path)}.\n"
    )


def quality() -> list[str]:
    known, new = Pictures(CPU / "held-out.csv"), Pictures(CPU / "held-out-seed-2026.csv")
    rows = [
        known.line("all"),
        known.line("exposure 1/2", lambda row: row["exposure"] == "0.5"),
        known.line("exposure 1", lambda row: row["exposure"] == "1.0"),
        known.line("below 30 dB when blurred", lambda row: float(row["blurred_psnr"]) < HARD),
    ]
    others = [
        new.line("all, unseen kernels"),
        new.line("below 30 dB, unseen kernels", lambda row: float(row["blurred_psnr"]) < HARD),
    ]
    headings = ["pictures", "number", "blurred", "restored", "mean gain", "worst", "best"]
    sharp = load(CPU / "standing.json")
    return [
        QUALITY,
        table(headings, rows + others),
        f"Source: {name_of(CPU / 'held-out.csv')}, every picture of `deblurgan evaluate PHOTOS --dtype fp32 --kernels "
        f"16 --metrics psnr`. Kernels of that seed may have been drawn in training too, on other "
        f"photos; the unseen ones are of `--kernels 8 --seed 2026`, {name_of(CPU / 'held-out-seed-2026.csv')}.\n",
        f"The twelve photographs themselves, sharp as they are, come back at {sharp['sharp_mean']:.2f} dB, the worst "
        f"at {min(sharp['sharp'].values()):.2f} dB. Source: {name_of(CPU / 'standing.json')}.\n",
        LIMITS,
    ]


def interval(mean: float, ends: list[float], digits: int, sign: str = "") -> str:
    """A mean with its interval."""
    low, high = (f"{end:{sign}.{digits}f}" for end in ends)
    return f"{mean:{sign}.{digits}f} ({low} to {high})"


def of_mean(mean: Figure, digits: int, sign: str = "") -> str:
    return interval(mean["mean"], mean["interval"], digits, sign)


def standing() -> list[str]:
    path = CPU / "standing.json"
    report = load(path)
    rows = []
    for name, system in report["systems"].items():
        psnr, ssim, gain = system["means"]["psnr"], system["means"]["ssim"], system["gain"]
        won = [of_mean(gain, 2, "+"), f"{gain['lowest']:+.2f}", f"{gain['highest']:+.2f}"] if gain else ["", "", ""]
        rows.append([name, of_mean(psnr, 2), of_mean(ssim, 3), *won])
    detected = report["detected"]
    found: list[Row] = []
    for name, scores in detected["systems"].items():
        figures = [f"{scores[key]:.3f}" for key in ("precision", "recall", "f1", "ap")]
        ends = scores["gain_interval"]
        won_f1 = "" if name in ("sharp", "blurred") else interval(scores["gain"], ends, 3, "+")
        found.append([name, str(scores["tp"] + scores["fp"]), *figures, won_f1])
    seen = [
        row
        for row in report["rows"]
        if any(score >= detected["confidence"] for score in row["detections"]["sharp"]["scores"])
    ]
    scenes = len(report["rows"]) // len({row["picture"] for row in report["rows"]})
    words = {"objects": detected["systems"]["sharp"]["tp"] // scenes, "pictures": len({row["picture"] for row in seen})}
    return [
        STANDING,
        table(["system", "PSNR, dB", "SSIM", "gain in PSNR", "worst", "best"], rows),
        DETECTION.format(**detected, **words),
        table(["system", "found", "precision", "recall", "F1", "mAP", "gain in F1"], found),
        f"Source: {name_of(path)}, the report.json of `{STANDING_COMMAND}`, which says how each figure is measured; "
        f"{name_of(CPU / 'photos.tsv')} names the photographs.\n",
    ]


def robustness() -> list[str]:
    path = CPU / "robustness.json"
    rows = []
    for name, row in load(path)["rows"].items():
        if "gain" in row:
            gain = row["gain"]
            figures = [f"{row['blurred']['mean']:.2f}", f"{row['restored']['mean']:.2f}", of_mean(gain, 2, "+")]
            rows.append([name, *figures, f"{gain['lowest']:+.2f}"])
        else:
            rows.append([name, "", f"{row['restored']['mean']:.2f}", "", ""])
    curves = " and ".join(name_of(CPU / f"learning-curve-{stage}.csv") for stage in (1, 2))
    return [
        ROBUSTNESS,
        table(["condition", "blurred, dB", "restored, dB", "mean gain", "worst"], rows),
        f"Source: {name_of(path)}, by `python -m benchmarks.robustness PHOTOS -o JSON`.\n",
        CURVE,
        f"Source: {curves}.\n",
    ]


def group_rows(figures: list[Figure], prefix: str) -> list[Row]:
    """Job, path, median in ms and the ratio to ours, of the figures whose group begins with `prefix`."""
    found = [figure for figure in figures if figure["group"].startswith(prefix)]
    return [
        [
            figure["group"].removeprefix(prefix).strip(),
            figure["path"],
            digits(1e3 * figure["median_s"]),
            digits(figure["over_ours"]) + "x" if "over_ours" in figure else "",
        ]
        for figure in found
    ]


def blur() -> list[str]:
    path = report_path("blur")
    figures = load(path)["figures"]
    headings = ["job", "path", "median ms", "x"]
    return [
        BLUR,
        provenance(path),
        "A picture, its kernel included:\n",
        table(headings, group_rows(figures, "blur ")),
        "The kernels alone:\n",
        table(headings, group_rows(figures, "kernels ")),
        "Application:\n",
        table(headings, group_rows(figures, "application ")),
        "Scaling with the kernel's size and with threads:\n",
        table(headings, group_rows(figures, "scaling ")),
    ]


def generator() -> list[str]:
    path = report_path("generator")
    found = [figure for figure in load(path)["figures"] if figure["group"].startswith("generator ")]
    rows = [
        [
            figure["group"].removeprefix("generator "),
            figure["path"],
            digits(1e3 * figure["median_s"]),
            digits(figure["baseline_over"]) + "x" if figure.get("baseline_over") else "",
        ]
        for figure in found
    ]
    return [GENERATOR, provenance(path), table(["network", "path", "median ms", "x"], rows)]


def training() -> list[str]:
    path = report_path("training")
    figures = load(path)["figures"]
    headings = ["job", "path", "median ms", "x"]
    return [
        TRAINING,
        provenance(path),
        table(headings, group_rows(figures, "training ")),
        "What a step is made of:\n",
        table(["part", "median ms"], [[row[0], row[2]] for row in group_rows(figures, "anatomy ")]),
        "The gradient penalty with its gradients, 256x256. In fp32 double backward is the faster way here:\n",
        table(headings, group_rows(figures, "penalty ")),
        "Batches of crops with their blur: in the first epoch decoded from JPEG files, then (warm) from the cache:\n",
        table(headings, group_rows(figures, "data ")),
    ]


def files() -> list[str]:
    """Nothing where no report has the table yet."""
    if not has_table("files"):
        return []
    path = report_path("files")
    figures = load(path)["figures"]
    size = next(f["group"].split()[2] for f in figures if f["group"].startswith("files network "))
    rows = group_rows(figures, "files ")
    return [FILES.format(size=size), provenance(path), table(["job", "path", "median ms", "x"], rows)]


def floors() -> list[str]:
    spec = PRESETS["paper"]
    half = roofline.generator_kernels(spec, 720, 1280)
    eight_bit = roofline.generator_kernels(spec, 720, 1280, quantize=True)
    return [FLOORS, roofline.markdown(half, eight_bit) + "\n"]


def by_default() -> list[str]:
    return [DEFAULTS, defaults.table() + "\n"]


def exactness() -> list[str]:
    path = CPU / "agreement.json"
    rows = [[f["name"], f["dtype"], f"{f['kernels']:.1e}", f"{f['torch']:.1e}"] for f in load(path)["forward"]]
    return [
        EXACTNESS,
        f"Source: {name_of(path)}.\n",
        table(["what", "type", "our kernels", "torch in that type"], rows),
    ]


def compiled() -> list[str]:
    def row(title: str, path: Path) -> Row:
        found = load(path)
        architectures = sorted({f["arch"] for f in found}, key=lambda arch: int(arch.removeprefix("sm_")))
        spilled = sum(f["spill_bytes"] for f in found)
        return [title, str(len(found)), ", ".join(architectures), str(spilled), name_of(path)]

    compile_results = RESULTS / "compile"
    rows = [
        row("Triton, candidates", compile_results / "triton.json"),
        row("Triton, defaults", compile_results / "defaults.json"),
        row("CUDA, csrc/", compile_results / "cuda.json"),
    ]
    return [COMPILED, table(["kernels", "compiled forms", "for", "bytes spilled, all together", "source"], rows)]


def markdown() -> str:
    """The page."""
    sections = (quality, standing, robustness, blur, generator, training, files)
    sections += (floors, by_default, exactness, compiled)
    return "\n".join([INTRO, *(part for section in sections for part in section())])


def quoted_table(text: str) -> str:
    """README.md with the page's table of systems."""
    start = text.index("| system |")
    page = markdown()
    begin = page.index("| system |")
    return text[:start] + page[begin : page.index("\n\n", begin)] + text[text.index("\n\n", start) :]


def write() -> None:
    PAGE.write_text(markdown())
    readme = ROOT / "README.md"
    readme.write_text(quoted_table(readme.read_text()))
    claims.write()


if __name__ == "__main__":
    write()
