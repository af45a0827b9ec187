"""A folder is restored by a process that is killed at random moments and started again with skip_existing: every output
that is there is whole at any time, and in the end all are what one undisturbed run writes."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from pathlib import Path

import kill_rounds
import numpy as np

from deblurgan import Deblurrer, images

PICTURES = 12


def run(deblurrer: Deblurrer, folder: Path, draws: random.Random, kills: int) -> None:
    for i in range(PICTURES):
        pixels = np.random.default_rng(i).integers(0, 256, (96 + 8 * i, 120, 3), np.uint8)
        (folder / "in").mkdir(exist_ok=True)
        images.write(images.Picture(pixels), folder / "in" / f"{i:02d}.png")
    start = time.monotonic()
    deblurrer.files([folder / "in"], folder / "whole")
    whole = outputs(folder / "whole")
    seconds = time.monotonic() - start
    for _ in range(kills):
        process = multiprocessing.get_context("fork").Process(target=restore, args=(deblurrer, folder))
        process.start()
        time.sleep(draws.uniform(0, seconds))
        process.kill()
        process.join()
        part = outputs(folder / "out")
        assert part.items() <= whole.items(), "an output is not whole, or has a temporary name"
        if part == whole:  # done before all kills
            for path in (folder / "out").iterdir():
                path.unlink()
    restore(deblurrer, folder)
    assert outputs(folder / "out") == whole


def restore(deblurrer: Deblurrer, folder: Path) -> None:
    report = deblurrer.files([folder / "in"], folder / "out", skip_existing=True)
    assert not report.failed


def outputs(folder: Path) -> dict[str, bytes]:
    """The files in a folder; of those with temporary names only where a kill must leave none."""
    pattern = "*" if has_nameless_files(folder.parent) else "*.png"
    return {path.name: path.read_bytes() for path in folder.glob(pattern)}


def has_nameless_files(folder: Path) -> bool:
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY))
    except (AttributeError, OSError):
        return False
    return True


if __name__ == "__main__":
    kill_rounds.main(run, __doc__, 20)
