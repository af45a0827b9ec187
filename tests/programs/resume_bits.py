"""A training that is cut, at half or within an epoch, and goes on in a new process, with other workers, ends with the
bits of one that runs straight: generator, critic, average and all moments, in bf16. Prints their SHA-256."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from noise_photos import write_noise_photos
from torch import Tensor

import deblurgan
from deblurgan import checkpoint
from deblurgan.training import Callback, Trainer

PICTURES = 4  # of which one is validated on
OPTIONS: dict[str, Any] = {
    **{"preset": "tiny", "width": 4, "blocks": 1, "crop": 32, "batch_size": 2, "blur_length": 12.0, "dropout": 0.5},
    **{"gan": "wgan-gp", "critic_steps": 2, "ema": 0.9, "precision": "bf16", "device": "cpu", "val_pictures": 1},
    "val_every": 1000,
}
PROGRAM = Path(__file__).parent / "train.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40, help="at least 4")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    half, within = steps // 2, steps // 2 - 1
    while within * OPTIONS["batch_size"] % (PICTURES - 1) == 0:
        within -= 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_noise_photos(folder / "photos", PICTURES)
        ways = {
            "straight": digests(folder, "straight", steps, workers=0),
            "straight, 2 workers": digests(folder, "workers", steps, workers=2),
            f"cut at {half}, new process": digests(folder, "half", steps, workers=0, cut=half),
            f"cut at {within} within an epoch, 2 workers": digests(folder, "within", steps, workers=2, cut=within),
        }
    for way, found in ways.items():
        print(f"{way}: " + ", ".join(f"{name} {digest[:16]}" for name, digest in found.items()))
    (wanted, *others) = ways.values()
    assert {"generator", "critic", "average", "adam"} <= wanted.keys() and all(other == wanted for other in others)


def digests(folder: Path, name: str, steps: int, *, workers: int, cut: int | None = None) -> dict[str, str]:
    """SHA-256 of each part of the last state."""
    options, out = {**OPTIONS, "steps": steps, "workers": workers}, folder / name
    if cut is None:
        deblurgan.train(folder / "photos", out=out, log=None, **options)
    else:
        with suppress(Cut):
            deblurgan.train(folder / "photos", out=out, log=None, callbacks=[CutAt(cut)], **options)
        words = [sys.executable, str(PROGRAM), str(folder / "photos"), str(out)]
        environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2]), "OMP_NUM_THREADS": "1"}
        options["workers"] = 2 - workers
        said = subprocess.run([*words, json.dumps(options)], env=environment, stdout=subprocess.PIPE, check=True).stdout
        assert f"resumed at step {cut}\n" in said.decode()
    parts: dict[str, Any] = {}
    tensors = checkpoint.load_tensors(out / "state.safetensors")[0]
    for key in sorted(tensors):
        parts.setdefault(key.split(".")[0], hashlib.sha256()).update(key.encode() + raw(tensors[key]))
    return {part: sha.hexdigest() for part, sha in parts.items()}


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


class Cut(Exception):
    """The process ends here."""


class CutAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer, values: dict[str, Tensor]) -> None:
        if trainer.steps_done == self.step:
            trainer.save()
            raise Cut


if __name__ == "__main__":
    main()
