"""Files of weights and states are damaged at random: bits flipped, ends cut off, parts swapped, runs of zeros. All
of it is detected, as a CheckpointError, and a run with a damaged state goes on from the one before it."""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import torch

from deblurgan.checkpoint import CheckpointError, load_generator, save_generator
from deblurgan.nn import Generator
from deblurgan.training.run_folder import RunFolder, RunState


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000, help="of each kind of file")
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        print(damaged_weights(Path(folder), random.Random(options.seed), options.count))
        print(damaged_states(Path(folder), random.Random(options.seed), options.count))


def damaged_weights(folder: Path, draws: random.Random, count: int) -> str:
    path = folder / "weights.safetensors"
    save_generator(Generator("tiny", width=2, blocks=1), path, card={"made": "for damage"})
    whole = path.read_bytes()
    for _ in range(count):
        path.write_bytes(damaged(whole, draws))
        try:
            load_generator(path)
        except CheckpointError:
            continue
        raise AssertionError("damaged weights were loaded")
    return f"{count} damaged weights, all refused as CheckpointError"


def damaged_states(folder: Path, draws: random.Random, count: int) -> str:
    run = RunFolder(folder / "run", keep=2)
    run.path.mkdir()
    for step in (20, 40):
        tensors = {f"adam.{i}": torch.randn(8 * i + 1, 3) for i in range(12)}
        run.save_state(tensors, RunState(step, 20.0, "d" * 64, "p" * 64, {"lr": 1e-4, "steps": 100}, step))
    whole = run.state.read_bytes()
    for _ in range(count):
        run.state.write_bytes(damaged(whole, draws))
        told: list[str] = []
        found = run.load_state(told.append)
        assert found is not None and found[1].step == 20, "a damaged state was loaded"
        assert len(told) == 1 and told[0].endswith("goes on from state-0000020.safetensors, of step 20")
    run.states()[1].write_bytes(damaged(whole, draws))
    try:
        run.load_state(told.append)
    except CheckpointError:
        return f"{count} damaged states, all told of, the one before each loaded; with none whole: CheckpointError"
    raise AssertionError("two damaged states were loaded")


def damaged(data: bytes, draws: random.Random) -> bytes:
    """A copy that differs; half of the damage lies near the beginning, where the header is."""
    while True:
        copy = bytearray(data)
        at = draws.randrange(len(data) if draws.random() < 0.5 else min(len(data), 2000))
        n = min(draws.randrange(1, 65), len(data) - at)
        kind = draws.randrange(4)
        if kind == 0:
            copy[at] ^= 1 << draws.randrange(8)
        elif kind == 1:
            del copy[at:]
        elif kind == 2:
            other = draws.randrange(len(data) - n + 1)
            copy[at : at + n], copy[other : other + n] = data[other : other + n], data[at : at + n]
        else:
            copy[at : at + n] = bytes(n)
        if copy != data:
            return bytes(copy)


if __name__ == "__main__":
    main()
