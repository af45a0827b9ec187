"""A folder is restored by a process that is killed at random moments and started again with skip_existing: every output
that is there is whole at any time, and in the end all are what one undisturbed run writes."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from deblurgan import Deblurrer, Generator, images

PICTURES = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)  # so that forks can work
    torch.manual_seed(0)
    deblurrer = Deblurrer(Generator("tiny", width=4, blocks=1), device="cpu", dtype="fp32")
    with tempfile.TemporaryDirectory() as folder:
        run(deblurrer, Path(folder), random.Random(options.seed), options.kills)


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
    main()
