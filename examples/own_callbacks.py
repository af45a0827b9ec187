"""Callbacks that log and that stop a training early: python examples/own_callbacks.py PHOTOS OUT [--steps N]."""

import argparse
import json
from pathlib import Path

import deblurgan
from deblurgan.training import Callback, Trainer, Validation


class JsonLines(Callback):
    """Each row of history.csv as a line of JSON. Trackers are fed in the same way: `wandb.log(row, step=...)`."""

    def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
        with (trainer.folder.path / "history.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


class EarlyStopping(Callback):
    """Ends a training whose PSNR has not risen in so many validations. best.safetensors holds the best weights."""

    def __init__(self, patience: int) -> None:
        self.patience, self.best, self.since = patience, float("-inf"), 0

    def on_validation_end(self, trainer: Trainer, found: Validation) -> None:
        self.since = 0 if found.psnr > self.best else self.since + 1
        self.best = max(self.best, found.psnr)
        if self.since >= self.patience:
            trainer.stop()


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("photos", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--steps", type=int, default=20000)
parser.add_argument("--crop", type=int, default=256)
options = parser.parse_args()

callbacks = [JsonLines(), EarlyStopping(patience=5)]
result = deblurgan.train(
    options.photos, out=options.out, preset="tiny", steps=options.steps, crop=options.crop, callbacks=callbacks
)
print(f"{result.steps} steps, at best {result.best_psnr:.2f} dB")
