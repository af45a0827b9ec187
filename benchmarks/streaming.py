"""Pictures in strips: what they take and how long, each in a process of its own. Prints a table and writes JSON.

python -m benchmarks.streaming sizes    seconds and bytes of four sizes, whole and in strips
python -m benchmarks.streaming large    a picture of 100 megapixels within 1.5 GB
python -m benchmarks.streaming ways     bytes a pixel by preset, type and way
python -m benchmarks.streaming parity   strips beside the whole picture and naive tiles, 100 pieces of photos
python -m benchmarks.streaming paper    the same of one picture with `paper` and random weights, beside fp64
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import machine
from deblurgan import Deblurrer, Generator, images
from deblurgan.checkpoint import DEFAULT_WEIGHTS, load_generator
from deblurgan.inference import plans
from deblurgan.inference import restorer as restorers

KEPT = {"all stored": 1, "half resolution stored": 2, "recomputed": 4, "file": 4, "half, file": 2, "all, file": 1}
FIGURES = ("planned MB", "measured MB", "bytes a pixel", "disk MB", "s", "s/MP", "CPU s/MP")


def synthetic(h: int, w: int, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 [h, w, 3] with edges and noise, made by strips of 64 rows."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 60, (64, w, 3), dtype=np.uint8)
    picture, x = np.empty((h, w, 3), np.uint8), np.arange(w)
    for top in range(0, h, 64):
        rows = np.arange(top, min(h, top + 64))[:, None]
        squares = ((x // 37 + rows // 23) % 2 * 120 + (x * rows // 5003) % 70).astype(np.uint8)
        picture[top : top + 64] = squares[..., None] + noise[: len(rows)]
    return picture


def network(preset: Any) -> Generator:
    torch.manual_seed(0)
    return load_generator(DEFAULT_WEIGHTS) if preset == "tiny" else Generator(preset)


def force(deblurrer: Deblurrer, way: str) -> None:
    """Makes every picture go that way."""
    restorers.WHOLE_PIXELS = 2**40 if way == "whole" else 0
    if way != "whole":
        limits = plans.Limits(float("inf"), "", planes=0 if way.endswith("file") else float("inf"))

        def strips_plan(h: int, w: int, ignored: plans.Limits) -> plans.StripPlan:
            padded, spec = (deblurrer.restorer.padded(h), deblurrer.restorer.padded(w)), deblurrer.generator.spec
            rows = plans._heights(spec, padded, deblurrer.dtype, deblurrer.device, limits)[0]
            shape = plans.Shape(spec, *padded, rows, KEPT[way])
            plan = plans._placed(shape, deblurrer.dtype, limits, plans.EVERYWHERE)
            assert plan is not None
            return plan

        deblurrer.restorer.strips_plan = strips_plan  # type: ignore[method-assign]


def memory_of_process(name: str) -> int:
    """VmRSS, or VmHWM, its peak, in bytes."""
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def measured(preset: str, dtype: str, way: str, h: int, w: int, budget: int) -> dict[str, Any]:
    """One picture in this process, after a small one. `budget`, in bytes, is max_memory where it is not 0."""
    picture = synthetic(h, w)
    deblurrer = Deblurrer(network(preset), device="cpu", dtype=dtype, max_memory=budget or "auto", scale=1.0)
    if way != "auto":
        force(deblurrer, way)
    deblurrer(picture[:128, :128])
    plan = deblurrer.plan(h, w)
    print(plan, file=sys.stderr, flush=True)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
    before = memory_of_process("VmRSS")
    start, cpu_start = time.perf_counter(), time.process_time()
    peaks = [0]  # before the last pass, which writes the result
    last = 1.0
    if plan.strips is not None:
        shape = plan.strips.shape
        last -= shape.work(shape.passes[-1]) / shape.total_work

    def note_peak(share: float) -> None:
        if share < last:
            peaks[0] = memory_of_process("VmHWM")

    result = deblurrer(picture, progress=note_peak)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = max(peaks[0] - before, memory_of_process("VmHWM") - before - result.nbytes)
    pixels = h * w
    memory = plan.peak_bytes / 1e6, peak / 1e6, peak / pixels, plan.disk_bytes / 1e6
    values = *memory, seconds, seconds / pixels * 1e6, cpu_seconds / pixels * 1e6
    figures = dict(zip(FIGURES, (round(value, 3) for value in values), strict=True))
    load = round(os.getloadavg()[0], 1)
    whole = memory_of_process("VmHWM") / 1e6
    return {
        "preset": preset,
        "dtype": dtype,
        "way": way,
        "size": f"{w}x{h}",
        **figures,
        "process MB": whole,
        "load": load,
    }


def in_process(*options: object) -> dict[str, Any]:
    """`measured` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.streaming", "one", *map(str, options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def sizes() -> Iterator[dict[str, Any]]:
    """Time is linear in pixels. The whole picture beside it."""
    for h, w in ((768, 1024), (1536, 2048), (2304, 3072), (3072, 4096)):
        yield in_process("tiny", "bf16", "auto", h, w, 0)
    yield in_process("tiny", "bf16", "whole", 1536, 2048, 0)


def ways() -> Iterator[dict[str, Any]]:
    """Bytes a pixel."""
    for preset, h, w in (("tiny", 1536, 2048), ("paper", 768, 1024)):
        for dtype in ("bf16", "fp32"):
            for way in ("whole", *KEPT):
                yield in_process(preset, dtype, way, h, w, 0)


def large() -> Iterator[dict[str, Any]]:
    """100 megapixels within 1.5 GB, and 4 whole."""
    yield in_process("tiny", "bf16", "whole", 1536, 2048, 0)
    yield in_process("tiny", "bf16", "auto", 8632, 11585, 1_500_000_000)


def parity(count: int, photos: Path | None) -> Iterator[dict[str, Any]]:
    """The largest difference to the whole picture: as values in [0, 1] in fp32, and in 8 bits; naive tiles in dB."""
    random_numbers = random.Random(0)
    generator = network("tiny")
    whole = Deblurrer(generator, device="cpu", dtype="fp32")
    worst, worst_levels, tiles = 0.0, 0, []
    for i in range(count):
        h, w = random_numbers.randrange(100, 300), random_numbers.randrange(100, 300)
        picture = cropped(h, w, i, photos)
        plan = random_plan(generator, h, w, random_numbers)
        wanted, got = whole(picture / 255), strips_by(plan, whole, picture / 255)
        worst = max(worst, float(np.abs(got - wanted).max()))
        levels = strips_by(plan, whole, picture).astype(int) - whole(picture)
        worst_levels = max(worst_levels, int(np.abs(levels).max()))
        tiles.append(decibels(naive_tiles(whole, picture / 255, 64), wanted))
    yield {"preset": "tiny", "pairs": count, "largest": worst, "in 8 bits": worst_levels, **spread(tiles)}


def paper() -> Iterator[dict[str, Any]]:
    """`paper` with random weights, the whole picture and strips beside fp64, which takes 6 GB, and naive tiles."""
    generator = network("paper")
    deblurrer, picture = Deblurrer(generator, device="cpu", dtype="fp32"), synthetic(360, 640) / 255.0
    restorers.WHOLE_PIXELS = 2**40
    whole = deblurrer(picture)
    restorers.WHOLE_PIXELS = 0
    strips = deblurrer(picture)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None] * 2 - 1
    with torch.no_grad():
        truth = ((generator.double().eval()(x) + 1) / 2)[0].permute(1, 2, 0).numpy()
    found = {
        "strips to whole": float(np.abs(strips - whole).max()),
        "strips to fp64": float(np.abs(strips - truth).max()),
        "whole to fp64": float(np.abs(whole - truth).max()),
    }
    yield {"preset": "paper", **found, **spread([decibels(naive_tiles(deblurrer, picture, 256), truth)])}


def spread(tiles: list[float]) -> dict[str, float]:
    return {"tiles dB": round(float(np.median(tiles)), 1), "least": round(min(tiles), 1), "most": round(max(tiles), 1)}


def cropped(h: int, w: int, number: int, photos: Path | None) -> NDArray[np.uint8]:
    """A piece of a photo or, without photos, a synthetic picture."""
    if photos is None:
        return synthetic(h, w, number)
    paths = sorted(photos.glob("*.jpg"))
    pixels = images.read(paths[number % len(paths)]).pixels
    top, left = (pixels.shape[0] - h) // 2, (pixels.shape[1] - w) // 2
    return np.ascontiguousarray(pixels[top : top + h, left : left + w])


def random_plan(generator: Generator, h: int, w: int, numbers: random.Random) -> plans.StripPlan:
    """Strips of any height, planes that are stored or not, in memory or in files."""
    multiple = generator.spec.size_multiple
    padded = [-(-side // multiple) * multiple for side in (h, w)]
    rows, keep = multiple * numbers.randrange(1, padded[0] // multiple + 1), 2 ** numbers.randrange(3)
    shape = plans.Shape(generator.spec, padded[0], padded[1], rows, keep)
    places = tuple(numbers.choice(("device", "disk")) for _ in shape.planes)
    return plans.StripPlan(shape, torch.float32, places)


def strips_by(plan: plans.StripPlan, deblurrer: Deblurrer, picture: NDArray[Any]) -> NDArray[Any]:
    source = torch.from_numpy(picture).permute(2, 0, 1)
    result = torch.empty_like(source)
    with torch.no_grad():
        limits = plans.Limits(float("inf"), "")
        deblurrer.restorer.in_strips(source, result, plan, limits, lambda share: None)
    return result.permute(1, 2, 0).numpy()


def naive_tiles(deblurrer: Deblurrer, picture: NDArray[Any], side: int, overlap: int = 16) -> NDArray[Any]:
    """Tiles restored each by itself with what surrounds them, as tools for large pictures do."""
    result = np.empty_like(picture)
    for top in range(0, picture.shape[0], side):
        for left in range(0, picture.shape[1], side):
            above, before = max(0, top - overlap), max(0, left - overlap)
            tile = deblurrer(picture[above : top + side + overlap, before : left + side + overlap])
            inside = tile[top - above :, left - before :]
            target = result[top : top + side, left : left + side]
            target[:] = inside[: target.shape[0], : target.shape[1]]
    return result


def decibels(got: NDArray[Any], wanted: NDArray[Any]) -> float:
    return float(-10 * np.log10(np.mean((got - wanted) ** 2)))


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [[str(value) for value in row.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(rows[0]), ["---"] * len(rows[0]), *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sizes", "large", "ways", "parity", "paper", "one"])
    parser.add_argument("options", nargs="*")
    parser.add_argument("--out", type=Path, help="a JSON file for the rows")
    parser.add_argument("--photos", type=Path, help="a folder whose photos the pieces of parity are cut from")
    parser.add_argument("--count", type=int, default=100, help="pieces of parity")
    arguments = parser.parse_args()
    if arguments.what == "one":
        preset, dtype, way, h, w, budget = arguments.options
        print(json.dumps(measured(preset, dtype, way, int(h), int(w), int(budget))))
        return
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "sizes": sizes,
        "large": large,
        "ways": ways,
        "paper": paper,
    }
    parts["parity"] = partial(parity, arguments.count, arguments.photos)
    rows = list(parts[arguments.what]())
    print(markdown(rows))
    if arguments.out:
        arguments.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
