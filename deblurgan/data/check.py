"""A look at training pictures before they are trained on: the work of `deblurgan data check`."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deblurgan import images
from deblurgan.config.data import DataConfig
from deblurgan.data.cache import PictureCache
from deblurgan.data.datasets import PairDataset, open_dataset
from deblurgan.data.sharpness import SOFT, sharpness

AT_ONCE = 256  # pictures that wait for a thread
MOST_THREADS = 16
SOFTER = 1.2  # the share of a blurred picture's sharpness in its sharp one's from which they look swapped


@dataclass
class Checked:
    """What was found of one picture."""

    name: str
    width: int = 0
    height: int = 0
    sharpness: float | None = None
    """Of a pair's sharp one; None where the picture cannot be read."""
    problem: str | None = None
    """bad, small, soft, softer (than its blurred one) or twice."""
    reason: str = ""
    digest: bytes = b""

    def line(self) -> str:
        """As the log has a problem."""
        return images.printable(f"{self.problem}: {self.name}: {self.reason}")


@dataclass
class DataReport:
    """What was found of all."""

    layout: str
    """How many pictures there are and how they are laid out, in words."""
    pictures: list[Checked]

    def usable(self) -> int:
        """How many can be trained on."""
        return sum(one.problem not in ("bad", "small") for one in self.pictures)

    def problems(self) -> Counter[str]:
        """How many pictures have each problem."""
        return Counter(one.problem for one in self.pictures if one.problem is not None)

    def lines(self) -> list[str]:
        """What there is to say of all."""
        read = [one for one in self.pictures if one.width]
        lines = []
        if read:
            low, high = (end(read, key=lambda one: one.width * one.height) for end in (min, max))
            lines.append(f"sizes: {low.width}x{low.height} to {high.width}x{high.height} px")
            middle = sorted(one.sharpness or 0.0 for one in read)[len(read) // 2]
            lines.append(f"sharpness: {middle:.2f} in the middle; below {SOFT} is soft")
        counts = "".join(f", {n} {problem}" for problem, n in sorted(self.problems().items()))
        return [*lines, f"{len(self.pictures)} pictures: {self.problems().total() or 'no'} problems{counts}"]

    def to_mapping(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        pictures = [{name: v for name, v in asdict(one).items() if name != "digest"} for one in self.pictures]
        return {"layout": self.layout, "usable": self.usable(), "pictures": pictures}


def check_data(
    options: DataConfig,
    *,
    log: Callable[[str], object] = print,
    progress: Callable[[float], object] | None = None,
) -> DataReport:
    """Looks at every picture: whether it can be read, its size, how sharp it is, and copies under other names.

    A picture with a problem is told to `log` when it is found; none of them stops the others. `progress` is called with
    the share that is done. Raises ValueError and FileNotFoundError as `open_dataset` does.
    """
    cache = PictureCache(0)
    given = {"layout": options.layout, "gamma": options.gamma}
    dataset = open_dataset(options.data, split=None, cache=cache, log=log, **given)  # type: ignore[arg-type]
    log(f"data is read as {dataset.layout()}")
    first: dict[bytes, tuple[int, str]] = {}
    sources, pictures = dataset.sources(), []
    for i, one in enumerate(_all_checked(dataset, options.crop)):
        pictures.append(one)
        source, name = first.setdefault(one.digest, (sources[i], one.name)) if one.digest else (sources[i], "")
        if one.problem is None and source != sources[i]:
            one.problem, one.reason = (
                "twice",
                f"the same photo as {name}, which may stand on the validation's other side",
            )
        if one.problem is not None:
            log(one.line())
        if progress is not None:
            progress((i + 1) / len(dataset))
    return DataReport(dataset.layout(), pictures)


def _all_checked(dataset: PairDataset, crop: int) -> Iterator[Checked]:
    """Every picture, in order, looked at by threads."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as pool:
        for at in range(0, len(dataset), AT_ONCE):
            yield from pool.map(partial(_checked, dataset, crop), range(at, min(at + AT_ONCE, len(dataset))))


def _checked(dataset: PairDataset, crop: int, index: int) -> Checked:
    try:
        *blurred, sharp = dataset.decoded(index)
        height, width = sharp.shape[:2]
        one = Checked(dataset.name(index), width, height, sharpness(sharp))
        one.digest = hashlib.sha256(f"{width}x{height}".encode() + sharp[::8, ::8].tobytes()).digest()
        if min(width, height) < crop:
            one.problem, one.reason = "small", f"{width}x{height} is below the crop of {crop}"
        elif blurred and sharpness(blurred[0]) > SOFTER * (one.sharpness or 0.0):
            one.problem, one.reason = "softer", "the sharp one is softer than the blurred one: are they swapped?"
        elif (one.sharpness or 0.0) < SOFT:
            one.problem = "soft"
            one.reason = f"sharpness {one.sharpness:.2f} is below {SOFT}: out of focus, shaken, or enlarged"
        return one
    except images.FAILURES as error:
        path = Path(getattr(error, "path", None) or dataset.path(index))
        return Checked(dataset.below_root(path), problem="bad", reason=images.failure_reason(error))
