"""Training: `train(...)` with the paper's defaults, and the Trainer behind it.

A step is one generator update after `critic_steps` critic updates on the same pictures. Everything random in a step
comes from (seed, step), so a run that was stopped goes on exactly as if it had not been.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from torch import Tensor

from deblurgan import checkpoint, images, memory, metrics
from deblurgan.blur import MotionBlur
from deblurgan.config import TrainConfig, to_mapping, train_config
from deblurgan.data import (
    Batch,
    Batches,
    Crops,
    GoPro,
    Mixed,
    Pair,
    PairDataset,
    SharpFolder,
    open_dataset,
)
from deblurgan.data.cache import PictureCache, spill_folder
from deblurgan.data.prefetch import Prefetcher
from deblurgan.device import pick_device
from deblurgan.nn import Critic, Generator, PerceptualFeatures
from deblurgan.training.step import LOSSES, Networks, Step, TrainingError, to_network

HISTORY = ("step", "epoch", "lr", *LOSSES, "seconds", "blurred_psnr", "val_psnr", "val_ssim")
MAX_BAD_STEPS = 20  # non-finite steps in a row after which training stops
STEPS_AHEAD = 3  # that the host may be ahead of a GPU
WORKERS_ON_CUDA = 2  # threads, unless the config says how many
VALIDATION_SIDE = 512  # validation looks at the centre of larger pictures
# Options that a run may go on with when changed; the pictures themselves are compared by name.
MAY_CHANGE = frozenset(
    {"data", "out", "val", "mix", "init", "epochs", "steps", "device", "workers", "resume"}
    | {"log_every", "val_every", "val_pictures", "max_bad_fraction", "graphs", "deterministic", "cache"}
)


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended: its folder, generator (best weights, on the CPU), steps, and best validation PSNR in dB."""

    out: Path
    generator: Generator
    steps: int
    best_psnr: float


def train(
    data: Path | str | TrainConfig,
    *,
    log: Callable[[str], None] | None = None,
    **options: Any,
) -> TrainResult:
    """Train a generator on the pictures in `data`, a folder in any layout that `deblurgan.data` reads.

    `options` are the fields of TrainConfig (out=, preset=, steps=, ...); a TrainConfig may stand in for all of them.
    `log` takes progress lines. A run folder that holds a state goes on from it. Ctrl-C saves, then raises
    KeyboardInterrupt. Raises ValueError for options out of range, TrainingError where training cannot go on.
    """
    if isinstance(data, TrainConfig):
        if options:
            raise ValueError(f"options must be in the TrainConfig, got {', '.join(options)} beside it")
        return Trainer(data, log=log).fit()
    return Trainer(train_config(data, **options), log=log).fit()


class Trainer:
    """Networks, optimisers and data of one run. `fit()` runs it; `step(batch)` is one step, for those who loop
    themselves."""

    def __init__(self, config: TrainConfig, *, log: Callable[[str], None] | None = None) -> None:
        self.config = config
        self.log = log or (lambda line: None)
        self.device = pick_device(config.device)
        self.cache = PictureCache(config.cache, spill=spill_folder(), log=self.log)
        self.train_set, self.val_set = _datasets(config, self.cache)
        self.batches = Batches(self.train_set, config.batch_size, seed=config.seed)
        self.epoch_steps = math.ceil(len(self.train_set) / config.batch_size)
        self.total_steps = config.steps or config.epochs * self.epoch_steps

        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.generator = _generator(config).to(self.device).train()
            self.critic = None if config.gan == "none" else Critic().to(self.device)
        if self.device.type == "cuda":  # cuDNN's layout, and that of the gradients
            for net in (self.generator, self.critic):
                if net is not None:
                    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = deepcopy(self.generator).eval().requires_grad_(False) if config.ema else None
        features = None
        if config.content != "none":
            features = PerceptualFeatures(config.content, weights=config.content_weights, relu=config.content_relu)
            features = features.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks = Networks(self.generator, self.critic, average, features)
        self.one_step = Step(config, self.networks)
        self.steps_done = 0
        self.best_psnr = -math.inf
        self.bad_steps = 0  # that were left out in a row
        self._counts: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()  # of bad steps, on their way here
        self.bad_files: dict[str, str] = {}
        self.small_files: dict[str, str] = {}

    def fit(self) -> TrainResult:
        """Run to the end, from the run folder's state where there is one."""
        self.config.out.mkdir(parents=True, exist_ok=True)
        with _sole_use(self.config.out), memory.kept() if self.device.type == "cpu" else nullcontext():
            return self._fit()

    def _fit(self) -> TrainResult:
        out = self.config.out
        self._resume()
        images.replace_file(out / "config.yaml", yaml.safe_dump(to_mapping(self.resolved()), sort_keys=False).encode())
        self.log(f"{len(self.train_set)} pictures to train on, {len(self.val_set)} to validate on")
        why_eager = self.one_step.why_eager()
        how = "each step one CUDA graph" if why_eager is None else f"steps are not graphs: {why_eager}"
        self.log(f"{self.device}, {self.one_step.precision}, {how}")
        val_every = self.resolved().val_every or 1
        history = History(out / "history.csv", self.steps_done)
        first, begun = self.steps_done, time.monotonic()
        with _stop_signals() as stopped, self._loader() as batches:
            for batch in batches:
                self._report_bad(batch)
                history.add(self.step(batch))
                done = self.steps_done == self.total_steps
                if self.steps_done % self.config.log_every == 0 or done:
                    self._look_at_counts(0)
                    row = history.flush(self.steps_done, self.steps_done // self.epoch_steps, self.learning_rate())
                    self.log(self._progress(row, first, time.monotonic() - begun))
                if self.steps_done % val_every == 0 or done:
                    try:
                        history.write(self._validate())
                    finally:
                        self.save()
                if stopped:
                    self.save()
                    raise KeyboardInterrupt
        best = out / "best.safetensors"
        generator = checkpoint.load_generator(best if best.exists() else out / "last.safetensors")
        return TrainResult(out, generator, self.steps_done, self.best_psnr)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Critic updates, then the generator's, on one batch. Returns the losses by name, scalars on the device.

        An update whose gradients are not finite is left out, and so is the generator's after such a critic update; 20
        such steps in a row raise TrainingError, on CUDA a few steps late, since nothing here waits for it.
        """
        blurred, sharp = (part.to(self.device, non_blocking=True) for part in (batch.blurred, batch.sharp))
        values = self.one_step(blurred, sharp, number=self.steps_done, rate=self.learning_rate())
        self._count_bad_steps()
        self.steps_done += 1
        return dict(zip(LOSSES, values, strict=True))

    def resolved(self) -> TrainConfig:
        """The config with what it left open filled in: the network, the device, when to validate."""
        spec, workers = self.generator.spec, self.config.workers
        if workers is None and self.device.type == "cuda":
            workers = WORKERS_ON_CUDA
        return replace(
            self.config,
            width=spec.width,
            blocks=spec.blocks,
            dropout=spec.dropout,
            device=str(self.device),
            precision=cast(Any, self.one_step.precision),
            workers=workers,
            val_every=self.config.val_every or max(1, self.total_steps // 20),
        )

    def learning_rate(self) -> float:
        """The paper's schedule: constant, then linear to zero; by whole epochs unless `steps` was given."""
        config = self.config
        if config.steps:
            done, total = self.steps_done, config.steps
        else:
            done, total = self.steps_done // self.epoch_steps, config.epochs
        falling = total * (1 - config.constant)
        return config.lr * (min(1.0, (total - done) / falling) if falling else 1.0)

    def save(self) -> None:
        """Writes last.safetensors and state.safetensors, each whole or not at all."""
        checkpoint.save_generator(self._validated(), self.config.out / "last.safetensors", card=self._card())
        metadata = {
            "step": str(self.steps_done),
            "best_psnr": repr(self.best_psnr),
            "pictures": self._pictures(),
            "config": json.dumps(to_mapping(self.resolved())),
        }
        checkpoint.save_tensors(self.state_dict(), self.config.out / "state.safetensors", metadata=metadata)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, average and Adam's moments, as tensors by name."""
        return self.one_step.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """What `state_dict` gave. Raises ValueError or RuntimeError for that of another network."""
        self.one_step.load_state_dict(state)

    def _validated(self) -> Generator:
        return self.networks.average or self.generator

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Mean PSNR and SSIM of the validation pictures; keeps the best weights and writes a grid of samples."""
        generator = self._validated().eval()
        rows: list[tuple[Tensor, Tensor, Tensor]] = []
        for i in range(min(len(self.val_set), self.config.val_pictures)):
            try:
                pair = _centre(self.val_set.whole(i))
            except (ValueError, OSError) as error:  # an ImageError is a ValueError
                self._report(self.val_set.name(i), getattr(error, "reason", str(error)), counts=False)
                continue
            with self.one_step.autocast():
                restored = generator(to_network(pair.blurred[None].to(self.device)))
            rows.append((pair.blurred, _to_bytes(restored.float())[0].cpu(), pair.sharp))
        self.generator.train()
        if not rows:
            raise TrainingError("no validation picture could be read")
        scores = {
            "blurred_psnr": _mean(metrics.capped_psnr(b, s, 255.0) for b, _, s in rows),
            "val_psnr": _mean(metrics.capped_psnr(r, s, 255.0) for _, r, s in rows),
            "val_ssim": _mean(metrics.ssim(r, s, 255.0) for _, r, s in rows if min(s.shape[1:]) >= 11),
        }
        self.log(
            f"step {self.steps_done}: validation PSNR {scores['blurred_psnr']:.2f} blurred, "
            f"{scores['val_psnr']:.2f} restored, SSIM {scores['val_ssim']:.4f}"
        )
        _write_samples(rows[:4], self.config.out / "samples" / f"{self.steps_done:07d}.png")
        if scores["val_psnr"] > self.best_psnr:
            self.best_psnr = scores["val_psnr"]
            checkpoint.save_generator(self._validated(), self.config.out / "best.safetensors", card=self._card())
        return {"step": self.steps_done, **scores}

    def _resume(self) -> None:
        path = self.config.out / "state.safetensors"
        if not self.config.resume:
            for name in ("state", "best", "last"):
                (self.config.out / f"{name}.safetensors").unlink(missing_ok=True)
        if not path.exists():
            return
        state, metadata = checkpoint.load_tensors(path)
        before, now = json.loads(metadata["config"]), to_mapping(self.resolved())
        changed = sorted(name for name in now if name not in MAY_CHANGE and now[name] != before.get(name))
        if changed:
            raise ValueError(
                f"out holds a run with another {', '.join(changed)}: choose another folder, or resume=False"
            )
        if metadata["pictures"] != self._pictures():
            raise ValueError("data holds other pictures than when the run began: choose another out, or resume=False")
        self.load_state_dict(state)
        self.steps_done, self.best_psnr = int(metadata["step"]), float(metadata["best_psnr"])
        self.log(f"resumed at step {self.steps_done}")

    def _pictures(self) -> str:
        """A digest of the names of the training pictures."""
        names = "\n".join(self.train_set.name(i) for i in range(len(self.train_set)))
        return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()

    def _loader(self) -> Prefetcher:
        workers = self.resolved().workers
        return Prefetcher(self.batches, range(self.steps_done, self.total_steps), self.device, workers=workers or 0)

    def _count_bad_steps(self) -> None:
        """Sends for this step's count, and looks at that of a few steps ago: no further the host runs ahead of CUDA."""
        count, event = self.one_step.bad_steps, None
        if count.is_cuda:
            count = count.to("cpu", non_blocking=True)
            event = torch.cuda.current_stream(self.device).record_event()
        self._counts.append((self.steps_done, count, event))
        self._look_at_counts(0 if event is None else STEPS_AHEAD)

    def _look_at_counts(self, left: int) -> None:
        """Waits for all counts but the last `left`."""
        while len(self._counts) > left:
            step, count, event = self._counts.popleft()
            if event is not None:
                event.synchronize()
            now = int(count)
            if now > self.bad_steps:
                self.log(f"step {step}: losses or gradients are not finite, update left out")
            self.bad_steps = now
            if now >= MAX_BAD_STEPS:
                raise TrainingError(f"{now} steps in a row were not finite, up to step {step}")

    def _report_bad(self, batch: Batch) -> None:
        for name, reason in batch.small.items():
            self._report(name, reason, counts=False)
        for name, reason in batch.bad.items():
            self._report(name, reason)
        share = len(self.bad_files) / len(self.train_set)
        if share > self.config.max_bad_fraction:
            raise TrainingError(
                f"{len(self.bad_files)} of {len(self.train_set)} pictures are unreadable, more than max_bad_fraction "
                f"{self.config.max_bad_fraction}: {', '.join(sorted(self.bad_files)[:5])}"
            )

    def _report(self, name: str, reason: str, *, counts: bool = True) -> None:
        listed = self.bad_files if counts else self.small_files
        if name not in listed:
            listed[name] = reason
            self.log(f"left out {name}: {reason}")

    def _progress(self, row: dict[str, float], first: int, seconds: float) -> str:
        rate = (self.steps_done - first) / max(seconds, 1e-9)
        days, left = divmod(round((self.total_steps - self.steps_done) / rate), 86400)
        eta = (f"{days}d " if days else "") + time.strftime("%H:%M:%S", time.gmtime(left))
        shown = "  ".join(f"{name} {row[name]:.4f}" for name in LOSSES if row[name])
        return f"step {self.steps_done}/{self.total_steps}  {rate:.2f} steps/s  ETA {eta}  {shown}"

    def _card(self) -> dict[str, Any]:
        return {"step": self.steps_done, "config": to_mapping(self.resolved())}


class History:
    """history.csv: means of the losses since the last row, and validation figures."""

    def __init__(self, path: Path, step: int) -> None:
        """Starts the file, or goes on after `step`, leaving out what came later."""
        self.path = path
        kept: list[dict[str, str]] = []
        if step and path.exists():
            with path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if row["step"].isdigit() and int(row["step"]) <= step]
        text = io.StringIO()
        writer = csv.DictWriter(text, HISTORY)
        writer.writeheader()
        writer.writerows(kept)
        images.replace_file(path, text.getvalue().encode())
        self.sums = torch.zeros(len(LOSSES), dtype=torch.float64)
        self.count = 0
        self.begun = time.monotonic()

    def add(self, values: dict[str, Tensor]) -> None:
        self.sums = self.sums.to(values[LOSSES[0]].device) + torch.stack([values[name] for name in LOSSES])
        self.count += 1

    def flush(self, step: int, epoch: int, lr: float) -> dict[str, float]:
        """Writes the row of means and starts the next."""
        row = dict(zip(LOSSES, (self.sums / self.count).tolist(), strict=True))
        now = time.monotonic()
        self.write({"step": step, "epoch": epoch, "lr": lr, "seconds": round(now - self.begun, 3), **row})
        self.sums, self.count, self.begun = torch.zeros_like(self.sums), 0, now
        return row

    def write(self, row: dict[str, float]) -> None:
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, HISTORY).writerow(row)


def _generator(config: TrainConfig) -> Generator:
    if config.init is None:
        generator = Generator(config.preset, width=config.width, blocks=config.blocks, dropout=config.dropout)
        if config.identity_start:
            torch.nn.init.zeros_(generator.get_parameter("head.weight"))
        return generator
    generator = checkpoint.load_generator(config.init)
    if config.dropout is not None:
        weights = generator.state_dict()
        generator = Generator(**{**generator.config(), "dropout": config.dropout})
        generator.load_state_dict(weights)
    for name in ("width", "blocks"):
        wanted, given = getattr(generator.spec, name), getattr(config, name)
        if given not in (None, wanted):
            raise ValueError(f"{name} must be that of init, {wanted}, got {given}")
    return generator


def _datasets(config: TrainConfig, cache: PictureCache) -> tuple[PairDataset, PairDataset]:
    """Training and validation pictures; without `val` GoPro's test split, or every twentieth picture, at least one."""
    crops = Crops(config.crop, config.flip, config.scale, config.texture)
    kind: dict[str, Any] = {"length": config.blur_length, "gamma": config.blur_gamma, "noise": config.blur_noise}
    blur = MotionBlur(**kind, exposure=config.blur_exposure, p=config.blur_p)
    options: dict[str, Any] = {"layout": config.layout, "gamma": config.gamma, "crops": crops, "cache": cache}
    train_set = open_dataset(config.data, blur=blur, seed=config.seed, **options)
    samples = (config.out / "samples").resolve()  # out may lie among the photos
    train_set = train_set.take(
        i for i in range(len(train_set)) if not train_set.path(i).resolve().is_relative_to(samples)
    )
    if config.val is not None:
        val_set = open_dataset(config.val, split="test", **options)
    elif isinstance(train_set, GoPro) and (config.data / "test").is_dir():
        val_set = open_dataset(config.data, split="test", **options)
    elif len(train_set) > 1:
        held = range(0, len(train_set), 20)
        val_set = train_set.take(held)
        train_set = train_set.take(i for i in range(len(train_set)) if i not in held)
    else:
        val_set = train_set.take([0])
    if isinstance(val_set, SharpFolder):
        val_set.blur = MotionBlur(**kind, exposure=(0.5, 1.0))
    if config.mix is not None:
        pairs = open_dataset(config.mix, layout="auto", crops=crops, cache=cache, seed=config.seed)
        train_set = Mixed(train_set, pairs, ratio=config.mix_ratio)
    return train_set, val_set


def _to_bytes(pictures: Tensor) -> Tensor:
    """[-1, 1] -> uint8, to nearest."""
    return ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _centre(pair: Pair) -> Pair:
    """The middle of a pair, its sides multiples of 4 and at most VALIDATION_SIDE. ValueError below 8 px."""
    if min(pair.sharp.shape[1:]) < Generator.MIN_SIZE:
        raise ValueError(f"sides must be at least {Generator.MIN_SIZE}, got {tuple(pair.sharp.shape[1:])}")
    h, w = (min(side, VALIDATION_SIDE) // 4 * 4 for side in pair.sharp.shape[1:])
    top, left = ((side - kept) // 2 for side, kept in zip(pair.sharp.shape[1:], (h, w), strict=True))
    return Pair(*(part[:, top : top + h, left : left + w] for part in pair))


def _mean(values: Iterator[Tensor]) -> float:
    parts = [float(value) for value in values]
    return sum(parts) / len(parts) if parts else math.nan


def _write_samples(rows: list[tuple[Tensor, Tensor, Tensor]], path: Path) -> None:
    """A grid, blurred | restored | sharp, a row a picture."""
    h, w = (min(row[0].shape[i] for row in rows) for i in (1, 2))
    grid = torch.cat([torch.cat([part[:, :h, :w] for part in row], 2) for row in rows], 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(images.Picture(np.ascontiguousarray(grid.permute(1, 2, 0).numpy())), path)


@contextmanager
def _sole_use(folder: Path) -> Iterator[None]:
    """Holds the run folder, until the process ends at the latest. TrainingError where another run holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"out must be a folder of its own, another run is at work in {folder}") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying in the middle of a step. Only the main thread gets signals."""
    stopped: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    handled = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda number, frame: stopped.append(number)) for number in handled]
    try:
        yield stopped
    finally:
        for number, handler in zip(handled, previous, strict=True):
            signal.signal(number, handler)
