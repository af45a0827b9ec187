"""Small trainings into which NaN or infinity is put, at every place and at random steps: no file that they save ever
holds a value that is not finite, and each ends with its last step or with DivergedError."""

from __future__ import annotations

import argparse
import csv
import math
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from noise_photos import write_noise_photos
from torch import Tensor

from deblurgan import checkpoint
from deblurgan.config import train_config
from deblurgan.training import Callback, DivergedError, Trainer

STEPS, MOST = 6, 3
OPTIONS: dict[str, Any] = {
    "preset": "tiny",
    "width": 4,
    "blocks": 1,
    "crop": 32,
    "batch_size": 1,
    "steps": STEPS,
    "log_every": 2,
    "val_every": 2,
    "val_pictures": 1,
    "blur_length": 12.0,
    "precision": "fp32",
    "device": "cpu",
    "gan": "wgan-gp",
    "critic_steps": 2,
    "pixel": "l2",
    "ema": 0.9,
    "max_bad_steps": MOST,
}
# Where the value is put, and the options that it takes
PLACES: dict[str, dict[str, Any]] = {
    "blurred pixel": {},
    "sharp pixel": {},
    "critic loss": {"gan": "lsgan"},
    "penalty": {"backend": "reference"},
    "adversarial loss": {},
    "content loss": {"content": "vgg16"},
    "pixel loss": {},
    "tv loss": {"tv_weight": 0.1},
    "generator gradient": {},
    "muon gradient": {"optimizer": "muon"},
    "critic gradient": {},
    "fused critic gradient": {},
    "loss scale": {"precision": "fp16"},
    "generator weight": {},
    "critic weight": {},
    "average weight": {},
}
LOSSES = {
    "critic loss": "critic_loss",
    "penalty": "gradient_penalty",
    "adversarial loss": "generator_loss",
    "content loss": "content",
    "pixel loss": "pixel",
    "tv loss": "total_variation",
}


class Poison(Callback):
    """Puts `value` in at a place in some steps, counted from 0, and looks at all that is saved."""

    def __init__(self, place: str, steps: set[int], value: float) -> None:
        self.place, self.steps, self.value = place, steps, value
        self.saves = 0

    def strikes(self, run: Trainer) -> bool:
        return run.steps_done in self.steps

    def on_step_end(self, trainer: Trainer, values: dict[str, Tensor]) -> None:
        if self.place.endswith("weight") and self.strikes(trainer):
            net = getattr(trainer.networks, self.place.split()[0])
            spoil(next(net.parameters()).data, self.value)

    def on_save(self, trainer: Trainer) -> None:
        self.saves += 1
        require_finite(trainer.folder.path)

    @contextmanager
    def at_work(self, run: Trainer) -> Iterator[None]:
        def spoils(function: Callable[..., Any], spoiled: Callable[[Any], Any]) -> Callable[..., Any]:
            return lambda *words, **options: (
                spoiled(function(*words, **options)) if self.strikes(run) else function(*words, **options)
            )

        def hook(gradient: Tensor) -> Tensor:
            return spoil(gradient.clone(), self.value) if self.strikes(run) else gradient

        with ExitStack() as stack:
            if self.place in LOSSES:
                module, name = "deblurgan.losses", LOSSES[self.place]
                real = getattr(__import__(module, fromlist=[name]), name)
                stack.enter_context(patch(f"{module}.{name}", spoils(real, lambda loss: loss * self.value)))
            elif self.place.endswith("pixel"):
                stack.enter_context(patch("deblurgan.training.step.to_network", Pixels(self, run)))
            elif self.place == "fused critic gradient":
                gradients = run.one_step.critic_gradients
                assert gradients is not None and gradients.uses_fused_pass()
                gradients.fused = spoils(gradients.fused, self._in_weights)
            elif self.place.endswith("gradient"):
                net = run.networks.critic if self.place == "critic gradient" else run.networks.generator
                assert net is not None
                trained = run.one_step.optimizers.parameters("critic" if net is run.networks.critic else "generator")
                handle = trained[-1].register_hook(hook)
                stack.callback(handle.remove)
            elif self.place == "loss scale":
                scale = run.one_step.optimizers.scale
                assert scale is not None
                real_prepare = run.one_step._prepare
                run.one_step._prepare = spoils(real_prepare, lambda _: scale.value.mul_(2.0**30))  # type: ignore[method-assign]
            yield

    def _in_weights(self, found: Any) -> Any:
        loss, penalty, of_weights, of_bias = found
        return loss, penalty, [spoil(of_weights[0], self.value), *of_weights[1:]], of_bias


class Pixels:
    """to_network with a spoiled pixel; a step calls it for the blurred pictures, then for the sharp ones."""

    def __init__(self, poison: Poison, run: Trainer) -> None:
        self.poison, self.run, self.calls = poison, run, 0

    def __call__(self, pictures: Tensor) -> Tensor:
        self.calls += 1
        wanted = "blurred" if self.calls % 2 else "sharp"
        values = pictures.to(torch.float32) / 127.5 - 1
        struck = self.poison.strikes(self.run) and self.poison.place.startswith(wanted)
        return spoil(values, self.poison.value) if struck else values


def spoil(values: Tensor, value: float) -> Tensor:
    """Changes one of the values, the middle one."""
    values.view(-1)[values.numel() // 2] = value
    return values


def require_finite(out: Path) -> None:
    for path in out.glob("*.safetensors"):
        for name, tensor in checkpoint.load_tensors(path)[0].items():
            assert tensor.isfinite().all(), f"{path.name}: {name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=60)
    options = parser.parse_args()
    draws, ends = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        photos = write_noise_photos(Path(folder) / "photos", 3)
        for i in range(options.count):
            ends[train(photos, Path(folder) / f"{i}", draws, list(PLACES)[i % len(PLACES)])] += 1
    print(", ".join(f"{count} {end}" for end, count in sorted(ends.items())) + ", 0 bad files")


def train(photos: Path, out: Path, draws: random.Random, place: str) -> str:
    """One training with poison. Returns how it ended."""
    first = draws.randrange(STEPS)
    steps = set(draws.choice([range(first, first + 1), range(first, STEPS)]))
    poison = Poison(place, steps, draws.choice([math.nan, math.inf, -math.inf]))
    lines: list[str] = []
    config = train_config(photos, out=out, seed=draws.randrange(1000), **{**OPTIONS, **PLACES[place]})
    run = Trainer(config, log=lines.append, callbacks=[poison])
    try:
        with poison.at_work(run):
            run.fit()
        end = "ran on"
    except DivergedError:
        end = "stopped"
    require_finite(out)
    assert poison.saves or (end == "stopped" and run.steps_done <= MOST), place
    if place.endswith("weight"):
        assert end == "stopped" or not steps & set(range(1, STEPS + 1)), place
    else:
        check_count(run, steps, place, end, lines)
    return end


def check_count(run: Trainer, steps: set[int], place: str, end: str, lines: list[str]) -> None:
    """All steps that were struck were left out, and this was said; the history holds finite figures alone."""
    told = len([line for line in lines if line.endswith("losses or gradients are not finite, update left out")])
    assert told == run.skipped.total
    if place != "loss scale":  # which it takes several steps to come down from
        assert run.skipped.total == (len(steps) if end == "ran on" else MOST), (place, run.skipped.total)
        assert end == "ran on" or len(steps) >= MOST, place
    assert run.skipped.total, place
    with (run.folder.history).open() as file:
        rows = list(csv.DictReader(file))
    assert all(math.isfinite(float(value)) for row in rows for value in row.values() if value), place
    if end == "ran on":
        assert sum(int(row["skipped"] or 0) for row in rows) == run.skipped.total
        assert lines[-1] == f"steps left out as not finite: {run.skipped.total} of {STEPS}"


if __name__ == "__main__":
    main()
