"""A training is killed at random moments, half of them within a save, and started again each time: its newest state is
whole at any time, at most `save_every` steps are lost, the next start leaves no temporary file, and in the end the
weights are those of an undisturbed run. Signals that may be handled save, and end it with a shell's code."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch
import tyro  # noqa: F401  # once, for all children
from noise_photos import write_noise_photos

import deblurgan
from deblurgan import checkpoint, cli
from deblurgan.training import Callback, Trainer
from deblurgan.training.run_folder import RunFolder

SAVE_EVERY = 3
OPTIONS: dict[str, Any] = {
    **{"preset": "tiny", "width": 4, "blocks": 1, "crop": 16, "batch_size": 2, "blur_length": 12.0},
    **{"precision": "fp32", "device": "cpu", "log_every": 5, "val_every": 50, "val_pictures": 1},
    "save_every": SAVE_EVERY,
}
FORK = multiprocessing.get_context("fork")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--signals", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # as with one thread, so that forks can train after a training
    draws = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_noise_photos(folder / "photos", 4)
        print(killed(folder, draws, options.kills))
        print(signalled(folder, draws, options.signals))


def killed(folder: Path, draws: random.Random, kills: int) -> str:
    run, steps = RunFolder(folder / "killed"), 60 * kills + 40  # more than a quiet machine makes in the waits
    in_saves, most_lost, left = 0, 0, 0
    # First, so that no child has to import what a training takes
    deblurgan.train(folder / "photos", out=folder / "whole", log=None, steps=steps, **OPTIONS)
    for i in range(kills):
        came_to, saving = FORK.Value("i", 0), FORK.Value("i", 0)
        child = FORK.Process(target=train, args=(folder / "photos", run.path, steps, came_to, saving))
        child.start()
        wait_for(lambda: came_to.value or not child.is_alive())  # noqa: B023
        if i % 2:
            wait_for(lambda: saving.value % 2 or not child.is_alive())  # noqa: B023
            time.sleep(draws.uniform(0, 0.005))
        else:
            time.sleep(draws.uniform(0, 0.3))
        assert child.is_alive(), "the training is at its end before its last kill: more steps"
        child.kill()
        child.join()
        in_saves += saving.value % 2
        left += len(temporaries(run.path))
        found = run.load_state(fail)
        assert found is not None, "no state is whole"
        most_lost = max(most_lost, came_to.value - found[1].step)
    assert most_lost <= SAVE_EVERY, f"{most_lost} steps are lost"
    deblurgan.train(folder / "photos", out=run.path, log=None, steps=steps, **OPTIONS)
    for file in ("state", "last", "best"):
        a, b = (checkpoint.load_tensors(out / f"{file}.safetensors")[0] for out in (run.path, folder / "whole"))
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a), f"{file} differs"
    assert not temporaries(run.path)
    return (
        f"{kills} kills, {in_saves} of them within a save: {kills} resumed, at most {most_lost} steps lost of "
        f"{SAVE_EVERY} between saves, {left} temporary files removed at the next start; the end is bit for bit that of "
        "an undisturbed run"
    )


def train(photos: Path, out: Path, steps: int, came_to: Synchronized[int], saving: Synchronized[int]) -> None:
    """Trains, and tells how far it has come; `saving` is odd within a save."""
    save = RunFolder.save_state

    def counted(*args: Any) -> None:
        saving.value += 1
        save(*args)
        saving.value += 1

    RunFolder.save_state = counted  # type: ignore[method-assign]
    deblurgan.train(photos, out=out, log=None, callbacks=[Told(came_to)], steps=steps, **OPTIONS)


class Told(Callback):
    def __init__(self, came_to: Synchronized[int]) -> None:
        self.came_to = came_to

    def on_fit_start(self, trainer: Trainer) -> None:
        assert not temporaries(trainer.folder.path), "the next start has left a temporary file"

    def on_step_end(self, trainer: Trainer, values: dict[str, torch.Tensor]) -> None:
        self.came_to.value = trainer.steps_done


def signalled(folder: Path, draws: random.Random, count: int) -> str:
    run = RunFolder(folder / "signalled")
    words = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = ["train", str(folder / "photos"), "--out", str(run.path), "--steps", "100000", *words]
    longest, before, early = 0.0, 0, 0
    for i in range(count):
        number = (signal.SIGINT, signal.SIGTERM)[i % 2]
        said = folder / "said"
        child = FORK.Process(target=command, args=(words, said))
        child.start()
        time.sleep(draws.uniform(0.1, 1.5))
        assert child.pid is not None and child.is_alive()
        begun = time.monotonic()
        os.kill(child.pid, number)
        child.join(60)
        longest = max(longest, time.monotonic() - begun)
        assert child.exitcode in (128 + number, -number), f"exit code {child.exitcode} for {number.name}"
        found, text = run.load_state(fail), said.read_text()
        early += "is saved" not in text
        if "is saved" in text:
            assert found is not None and f"step {found[1].step} is saved, the same command goes on from there" in text
        elif before:
            assert found is not None and found[1].step == before, "stopped before its first step, yet another state"
        before = 0 if found is None else found[1].step
        assert not temporaries(run.path)
    assert longest < 10, f"{longest:.1f} s from a signal to the end"
    return (
        f"{count} signals: {count - early} states written, {early} before there was anything new to save, exit codes "
        f"130 and 143, at most {longest:.2f} s to the end"
    )


def command(words: list[str], said: Path) -> None:
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has its background jobs ignore
    code = cli.main(words)
    sys.stdout.flush()
    os._exit(code)


def temporaries(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.tmp"))


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the training does not come on"
        time.sleep(0.001)


def fail(line: str) -> None:
    raise AssertionError(line)


if __name__ == "__main__":
    main()
