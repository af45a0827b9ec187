"""apply_psf with all its options at random, in every instruction set, against its formulas in NumPy.

Arguments: how many cases, 2000 if not given, and a seed, 0 if not given. Prints how many passed.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch

from deblurgan.ops.native import _C

sys.path.append(str(Path(__file__).parents[1]))
from blur_formulas import assert_follows, drawn_case


def main(count: int = 2000, seed: int = 0) -> None:
    torch.use_deterministic_algorithms(True)  # what torch.empty gives is NaN
    draw, sets = random.Random(seed), _C.instruction_sets()
    for number in range(count):
        x, psf, options = drawn_case(draw)
        torch.set_num_threads(1 + number % 3)
        _C.use_instruction_set(sets[number % len(sets)])
        try:
            assert_follows(x, psf, options, torch.device("cpu"))
        except AssertionError as error:
            called = f"{x.dtype} {tuple(x.shape)}, psf {tuple(psf.shape)}, {options}"
            raise AssertionError(f"case {number}, {_C.instruction_set()}: {called}") from error
    print(f"{count} cases in {', '.join(sets)}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
