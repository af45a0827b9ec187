"""What the programs that kill a process again and again share: options, a small network, a folder."""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from deblurgan import Deblurrer, Generator

Run = Callable[[Deblurrer, Path, random.Random, int], None]


def main(run: Run, words: str | None, kills: int) -> None:
    """Calls run(deblurrer, folder, draws, kills); `words` describe the program."""
    parser = argparse.ArgumentParser(description=words)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=kills)
    options = parser.parse_args()
    torch.set_num_threads(1)  # so that forks can work
    torch.manual_seed(0)
    deblurrer = Deblurrer(Generator("tiny", width=4, blocks=1), device="cpu", dtype="fp32")
    with tempfile.TemporaryDirectory() as folder:
        run(deblurrer, Path(folder), random.Random(options.seed), options.kills)
