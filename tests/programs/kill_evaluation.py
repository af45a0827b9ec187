"""An evaluation is killed at random moments and started again: it loses no picture that was measured, and its reports
are those of an undisturbed one, to the byte."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import kill_rounds
from noise_photos import write_noise_photos

from deblurgan import Deblurrer, evaluate
from deblurgan.evaluation.store import REPORTS

PICTURES = 6
OPTIONS: dict[str, Any] = {"kernels": 1, "baselines": ("unsharp",), "save_pictures": True}


def run(deblurrer: Deblurrer, folder: Path, draws: random.Random, kills: int) -> None:
    write_noise_photos(folder / "photos", PICTURES)
    evaluate(deblurrer, folder / "photos", out=folder / "whole", **OPTIONS)
    start = time.monotonic()
    evaluate(deblurrer, folder / "photos", out=folder / "whole", overwrite=True, **OPTIONS)
    seconds = time.monotonic() - start
    whole, rounds, left = written(folder / "whole"), 0, kills
    while left:
        rounds += 1
        overwrite, measured = True, 0
        while left and overwrite | (measured < PICTURES):
            left -= 1
            work = multiprocessing.get_context("fork").Process(target=measure, args=(deblurrer, folder, overwrite))
            work.start()
            time.sleep(draws.uniform(0, seconds))
            os.kill(work.pid or 0, draws.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
            work.join()
            overwrite, before = False, measured
            measured = lines(folder / "out")
            assert measured >= before or rounds > 1, "a picture that was measured is lost"
        measure(deblurrer, folder, False)
        assert written(folder / "out") == whole, "reports or pictures are not those of an undisturbed evaluation"
    print(f"{kills} kills in {rounds} evaluations: each ends with the bytes of an undisturbed one")


def measure(deblurrer: Deblurrer, folder: Path, overwrite: bool) -> None:
    report = evaluate(deblurrer, folder / "photos", out=folder / "out", overwrite=overwrite, **OPTIONS)
    assert not report.failed


def lines(out: Path) -> int:
    """Of pictures that are kept."""
    return sum(path.read_bytes().count(b"\n") for path in (out / "records").glob("*.jsonl"))


def written(out: Path) -> dict[str, bytes]:
    """The reports and the saved pictures."""
    files = [out / name for name in REPORTS] + sorted((out / "pictures").rglob("*.png"))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


if __name__ == "__main__":
    kill_rounds.main(run, __doc__, 30)
