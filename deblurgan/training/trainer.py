"""The Trainer: it runs steps, validates and saves between them, and goes on where a run was stopped."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from deblurgan import checkpoint, memory
from deblurgan.checkpoint import CheckpointError
from deblurgan.config import TrainConfig, to_mapping, train_config
from deblurgan.data import Batch, Batches
from deblurgan.data.cache import PictureCache, spill_folder
from deblurgan.data.prefetch import Prefetcher
from deblurgan.device import pick_device, torch_defaults
from deblurgan.distributed import Processes, joined, local_device
from deblurgan.images import printable
from deblurgan.nn import Generator
from deblurgan.signals import Interrupted, StopRequest, ending_signals, stop
from deblurgan.training.callbacks import Callback
from deblurgan.training.errors import DivergedError
from deblurgan.training.history import History
from deblurgan.training.networks import build_networks
from deblurgan.training.objective import OwnLoss
from deblurgan.training.opening import opening_lines
from deblurgan.training.own import Pairs, stand_in, with_own
from deblurgan.training.own_optimizer import OptimizerFactory
from deblurgan.training.pictures import LeftOut, digest_of_names, open_picture_sets
from deblurgan.training.progress import Progress, ProgressBar
from deblurgan.training.report import HtmlReport
from deblurgan.training.run_folder import RunFolder, RunState
from deblurgan.training.schedule import Schedule
from deblurgan.training.skipped_steps import SkippedSteps
from deblurgan.training.step import Step
from deblurgan.training.tensorboard import TensorBoard
from deblurgan.training.validation import Validation, validate

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deblurgan.config import TrainOptions

WORKERS_ON_CUDA = 2  # threads, unless the config says how many
VALIDATIONS = 20  # in a training, unless the config says how often
SLOW_STEP = 2.0  # s; after one that took longer, a signal breaks off the next, on a CPU


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended."""

    out: Path
    """Its run folder."""
    generator: Generator
    """With the weights of the best validation, on the CPU."""
    steps: int
    """Generator updates of the whole training, those before a resume included."""
    best_psnr: float
    """Of the validations, in dB."""


def train(
    data: Path | str | TrainConfig | Pairs,
    *,
    val: Path | str | Pairs | None = None,
    optimizer: Literal["adam", "muon"] | OptimizerFactory | None = None,
    losses: Mapping[str, OwnLoss] | None = None,
    log: Callable[[str], None] | None = print,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[TrainOptions],
) -> TrainResult:
    """Trains a generator on the pictures in `data`, a folder in any layout that `deblurgan.data` reads.

    `options` are the fields of TrainConfig (out=, preset=, steps=, ...); a TrainConfig may stand in for all of them.
    `data`, `val`, `optimizer` and `losses` may be things of your own, as Trainer takes them.
    `log` is called with each line of progress, unless it is None; an OSError of it is passed over. `callbacks` are told
    what happens. Processes that torchrun has started train together. A run folder that holds a state goes on from it.
    Ctrl-C saves, then raises KeyboardInterrupt, and a second one raises it at once; SIGTERM and SIGHUP save, then raise
    SystemExit.

    Raises ValueError for options out of range, TrainingError where training cannot go on, of which DivergedError says
    that too many steps in a row are not finite and SaveError that the run folder cannot be written, CheckpointError
    where all of its states are damaged.
    """
    plain: dict[str, Any] = {**options}
    own: dict[str, Any] = {"losses": losses}
    for name, given in (("val", val), ("optimizer", optimizer)):
        if given is not None:
            (plain if isinstance(given, str | os.PathLike) else own)[name] = given
    if isinstance(data, TrainConfig) and plain:
        raise ValueError(f"options must be in the TrainConfig, got {', '.join(plain)} beside it")
    if losses and not isinstance(data, TrainConfig):
        plain["losses"] = tuple(losses)  # which may be all that is minimised
    if not isinstance(data, str | os.PathLike | TrainConfig):
        own["data"], data = data, stand_in(data)
    config = data if isinstance(data, TrainConfig) else train_config(data, **plain)
    remedy = "the same command goes on from the last saved state"
    with ending_signals(), joined(remedy, watched=True) as processes:
        return Trainer(config, log=log, callbacks=callbacks, processes=processes, **own).fit()


class Trainer:
    """One run: its pictures, networks and run folder.

    `fit()` does all of it, as one of several `processes` where `distributed.joined` gave these. Who loops over batches
    himself calls `step(batch)`, with `batches[i]` or any other Batch.

    It trains in the same way whatever torch's defaults, gradient mode and autocast are, and leaves them as they were.

    Args:
        log: takes each line of progress.
        callbacks: are told what happens, in their order.
        data: a map-style dataset of (blurred, sharp) pairs in place of the config's folder, or a PairDataset. A picture
            is a tensor [3, h, w] or an array [h, w, 3], uint8 or floats in [0, 1], or a PIL image, larger than the
            crop, which is drawn here. Items are asked for one at a time, in threads where the config has workers.
        val: such a dataset to validate on.
        optimizer: makes an optimiser of the generator's parameters, in place of Adam or Muon. Its learning rates are
            the highest; they rise and fall as `lr`, the critic's, does.
        losses: more terms of what the generator minimises, by name: functions of the restored and the sharp pictures,
            fp32 [n, 3, h, w] in [-1, 1], whose result's mean is added. Modules are moved to the device and frozen.

    With an optimiser or losses of one's own steps are no CUDA graphs. Raises ValueError for what is none of these.
    """

    @torch_defaults()
    def __init__(
        self,
        config: TrainConfig,
        *,
        log: Callable[[str], None] | None = None,
        callbacks: Sequence[Callback] = (),
        processes: Processes | None = None,
        data: Pairs | None = None,
        val: Pairs | None = None,
        optimizer: OptimizerFactory | None = None,
        losses: Mapping[str, OwnLoss] | None = None,
    ) -> None:
        pictures = {name: own for name, own in (("data", data), ("val", val)) if own is not None}
        config = with_own(config, pictures, losses or {}, optimizer)
        self.config, self.processes = config, processes or Processes()
        ours = [HtmlReport(), *([TensorBoard()] if config.tensorboard else [])]
        self.callbacks = (*ours, *callbacks) if self.processes.leads else ()
        self.log = _careful(log if log and self.processes.leads else (lambda line: None))
        rows = self.processes.rows(config.batch_size, config.accumulate)
        self.device = pick_device(local_device(config.device))
        self.cache = PictureCache(config.cache, spill=spill_folder(), log=self.log)
        self.train_set, self.val_set = open_picture_sets(config, self.cache, self.log, pictures)
        if len(set(self.processes.gathered([digest_of_names(self.train_set)]))) > 1:
            raise ValueError(f"data must hold the same pictures for all processes, got others in {config.data}")
        self.batches = Batches(self.train_set, config.batch_size, seed=config.seed, rows=rows)
        self.schedule = Schedule(config, len(self.train_set))
        self.folder = RunFolder(config.out, config.keep)
        self.networks = build_networks(self._network_config(), self.device)
        self.one_step = Step(config, self.networks, self.processes, losses=losses, optimizer=optimizer)
        self.skipped = SkippedSteps(config.max_bad_steps, self.log)
        self.progress = Progress(self.schedule.total_steps, config.losses)
        self.left_out = LeftOut(len(self.train_set.names()), config.max_bad_fraction, self.log)
        self.steps_done = 0
        self.best_psnr, self.measured_on = -math.inf, ""
        self.validated_at = 0
        self.owns_folder = self.stopped = False
        self._saved: RunState | None = None
        self._stop_request = StopRequest(self._tell_of_stop)
        self._step_is_slow = True  # until one has been timed

    def _network_config(self) -> TrainConfig:
        """The config, but a run that goes on is of the network that it saved and needs its init no more."""
        if self.config.init and self.config.resume and self.folder.states():
            for path in (self.folder.last, self.folder.best):
                if path.exists() and self._is_whole(path):
                    return replace(self.config, init=path)
        return self.config

    @torch_defaults()
    def fit(self) -> TrainResult:
        """Runs to the end, from the run folder's state where there is one."""
        held = self.folder.held() if self.processes.leads else nullcontext()
        with held, _retained_memory(self.device), self.folder.tells_of_failed_writes():
            self.resume()
            if self.owns_folder and self.processes.leads:
                self.folder.write_config(self.resolved())
            self._announce()
            self.stopped = False
            self._tell("on_fit_start")
            self._run_to_the_end()
            self._tell("on_fit_end")
            for summary in (self.left_out.summary(), self.skipped.summary(self.steps_done)):
                if summary is not None:
                    self.log(summary)
            best, psnr = self.processes.first(lambda: (self.folder.load_best(), self.best_psnr))
            return TrainResult(self.config.out, best, self.steps_done, psnr)

    def _announce(self) -> None:
        for line in opening_lines(self):
            self.log(line)

    def stop(self) -> None:
        """Ends the training after the step at hand, for callbacks: it is validated and saved as after the last one, and
        the same call goes on from there."""
        self.stopped = True

    def _tell(self, event: str, *values: Any) -> None:
        """Calls a method of all callbacks. Where one raises, the steps so far are saved."""
        try:
            for callback in self.callbacks:
                getattr(callback, event)(self, *values)
        except Exception:
            if self.steps_done:
                self._write_state()
            raise

    def _run_to_the_end(self) -> None:
        history = History(self.folder.history, self.steps_done, self.log, self.config.losses)
        self.progress.begin_at(self.steps_done)
        val_every, save_every = self.resolved().val_every or 1, self.config.save_every
        with self._stop_request.heard(), self.upcoming_batches() as batches:
            try:
                if self.steps_done > self.validated_at and self._is_due(val_every):  # stopped before its validation
                    self._validate_and_save(history)
                for batch in history.watch.waits(self._noted(batches)):
                    values = self._breakable_step(batch)
                    history.add(values, pictures=len(batch.sharp) * self.processes.count)
                    self.progress.stepped(self.steps_done)
                    self._tell("on_step_end", values)
                    if not self.owns_folder:
                        self.save()  # what makes that impossible shows at once
                    self._report(history)
                    if self._is_due(val_every):
                        with history.watch.pause():
                            self._validate_and_save(history)
                    elif save_every and self.steps_done % save_every == 0:
                        self.save()
                    if self.processes.largest(int(self.stopped)):
                        self.log(f"stopped at step {self.steps_done}")
                        return
                    if self.processes.count > 1 and (number := self.processes.largest(self._stop_request.number)):
                        raise Interrupted(number)
            except Interrupted as interruption:
                self._save_and_stop(interruption.number)

    def _noted(self, batches: Prefetcher) -> Iterator[Batch]:
        """The batches, once what they leave out is noted. Where pictures end the run, its steps so far are saved."""
        try:
            while True:
                with self._breaking_off():
                    batch = next(batches, None)
                if batch is None:
                    return
                self.left_out.note(batch.known_to_all(self.processes))
                yield batch
        except Exception:
            if self.owns_folder:
                self.save()
            raise

    def _breakable_step(self, batch: Batch) -> dict[str, Tensor]:
        """A step. A signal breaks off a slow one on a CPU, which is then as if it had not begun."""
        begun = time.monotonic()
        if self.device.type != "cpu" or self.processes.count > 1 or not self._step_is_slow:
            values = self.step(batch)
        else:
            step, state = self.steps_done, {name: value.clone() for name, value in self.state_dict().items()}
            try:
                with self._stop_request.breaking_off(), _backward_heeds_signals(self.config):
                    values = self.step(batch)
            except Interrupted:
                self.load_state_dict(state)
                self.steps_done = step
                raise
        self._step_is_slow = time.monotonic() - begun > SLOW_STEP
        return values

    def _breaking_off(self) -> AbstractContextManager[None]:
        """Within it a signal breaks off what is at work; not in one of several processes, for which others wait."""
        return self._stop_request.breaking_off() if self.processes.count == 1 else nullcontext()

    def _tell_of_stop(self, number: int) -> None:
        again = ", and a second Ctrl-C ends at once without saving" if number == signal.SIGINT else ""
        self.log(f"{signal.Signals(number).name}: saves, then stops{again}")

    def _save_and_stop(self, number: int) -> None:
        """Saves, unless that would replace another run before the first step, and ends the program."""
        if self.owns_folder or not self.folder.holds_run():
            if self._saved != self._run_state():
                self.save()
            self.log(f"step {self.steps_done} is saved: the same command goes on from there")
        self.processes.wait()  # torchrun ends the others once one has ended
        stop(number)

    def _is_due(self, every: int) -> bool:
        """Whether it is time for what is done every so many steps, and at the end."""
        return self.steps_done % every == 0 or self.steps_done == self.schedule.total_steps or self.stopped

    def upcoming_batches(self) -> Prefetcher:
        """The batches of all steps to come, loaded ahead by the config's workers."""
        steps = range(self.steps_done, self.schedule.total_steps)
        return Prefetcher(self.batches, steps, self.device, workers=self.resolved().workers or 0)

    @torch_defaults()
    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Critic updates, then the generator's, on one batch. Returns what MEASURES names, and your own losses: scalars
        on the device.

        An update whose gradients are not finite is left out, and so is the generator's after such a critic update;
        config.max_bad_steps such steps in a row raise DivergedError, on CUDA a few steps late, since nothing here waits
        for it.
        """
        blurred, sharp = (part.to(self.device, non_blocking=True) for part in (batch.blurred, batch.sharp))
        values = self.one_step(blurred, sharp, number=self.steps_done, rate=self.learning_rate())
        self.steps_done += 1
        self.skipped.note(self.steps_done, self.one_step.skipped_steps)
        return dict(zip(self.one_step.measures, values, strict=True))

    def learning_rate(self) -> float:
        """Adam's learning rate in the step to come."""
        return self.schedule.learning_rate(self.steps_done)

    def _report(self, history: History) -> None:
        """Every so many steps a row of the history with its line; a line alone where there was none for long, unless a
        bar shows the same."""
        step, has_bar = self.steps_done, any(isinstance(callback, ProgressBar) for callback in self.callbacks)
        if self._is_due(self.config.log_every):
            self.skipped.wait()
            if not self.processes.leads:
                return
            epoch, lr, skipped = self.schedule.epoch(step), self.learning_rate(), self.skipped.total
            row = history.write_means(step, epoch=epoch, lr=lr, skipped=skipped)
            self.log(self.progress.line(step, row))
            self._tell("on_log", row)
        elif self.processes.leads and not has_bar and self.progress.is_due(step):
            self.log(self.progress.line(step, history.means()))

    def _validate_and_save(self, history: History) -> None:
        """Saves even where the validation fails. One process does it; the others wait where they look for signals."""
        if not self.processes.leads:
            return
        try:
            row = self.validate()
            history.write(row)
            self._tell("on_log", row)
        except Exception:
            self.save()
            raise
        self.save()

    def validate(self) -> dict[str, float]:
        """Validates, writes samples, and saves the weights if they are the best so far. Returns the history's row.

        A run that goes on with other validation pictures measures its best weights so far on these.
        """
        found = self._measure(self.networks.validated)
        self._own_folder()
        self.log(found.line(self.steps_done))
        self.folder.write_samples(self.steps_done, found.grid())
        self._tell("on_validation_end", found)
        digest = found.digest()
        if self.best_psnr > -math.inf and digest != self.measured_on:
            before, self.best_psnr = self.best_psnr, self._measure(self.folder.load_best().to(self.device)).psnr
            self.log(f"other validation pictures: the best so far gives {self.best_psnr:.2f} on them, not {before:.2f}")
        self.measured_on = digest
        if found.psnr > self.best_psnr:
            self.best_psnr = found.psnr
            self._save_weights(self.folder.best)
        self.validated_at = self.steps_done
        return found.row(self.steps_done)

    def _measure(self, generator: Generator) -> Validation:
        count, precision = self.config.val_pictures, self.one_step.precision

        def tell(done: int) -> None:
            if line := self.progress.validation_line(done, min(count, len(self.val_set))):
                self.log(line)

        try:
            with self._breaking_off():
                return validate(
                    generator.eval(),
                    self.val_set,
                    count,
                    precision=precision,
                    leave_out=self.left_out.add,
                    done=tell,
                )
        finally:
            self.networks.generator.train()

    def save(self) -> None:
        """Writes last.safetensors and state.safetensors, each whole or not at all.

        The first time, with config.resume False, they replace all that an earlier run has left; else that is refused
        with ValueError.
        """
        self._write_state()
        self._tell("on_save")

    def _write_state(self) -> None:
        if not self.processes.leads:
            self.owns_folder = True  # of the one that leads
            return
        _require_finite(self.state_dict(), self.steps_done)
        before = self._saved
        self._own_folder()
        self._save_weights(self.folder.last)
        if self._saved is before:  # else the folder's first state was written just now
            self._save_state(alone=True)

    def _save_state(self, *, alone: bool) -> None:
        state = self._run_state()._replace(alone=alone)
        self.folder.save_state(self.state_dict(), state)
        self._saved = state if alone else self._saved

    def _own_folder(self) -> None:
        """Before the first file of a new run is written. A process that ends here leaves a state that tells whose the
        other files are."""
        if self.owns_folder:
            return
        self._require_no_other_run()
        replaces = self.folder.holds_run()
        self._save_state(alone=not replaces)
        if replaces:
            self.folder.forget_all_but_state()
        self.folder.write_config(self.resolved())
        self.owns_folder = True

    def _require_no_other_run(self) -> None:
        if self.config.resume and self.folder.holds_run():
            raise ValueError("out holds weights of a run that cannot be gone on with: choose another, or resume=False")

    def _save_weights(self, path: Path) -> None:
        _require_finite(self.networks.validated.state_dict(), self.steps_done)
        card = {"step": self.steps_done, "config": to_mapping(self.resolved())}
        checkpoint.save_generator(self.networks.validated, path, card=card)

    def resume(self) -> None:
        """Goes on from the run folder's newest state that is whole, if it has one and config.resume is True.

        Raises ValueError where the folder is of another run, CheckpointError where all states are damaged.
        """
        found = self.processes.first(self._found)
        if found is None:
            return
        tensors, before = found
        before.require_same_run(self._run_state())
        try:
            self.load_state_dict(tensors)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.folder.state}: of another network ({error})") from error
        if not before.alone and self.processes.leads:
            self.folder.forget_all_but_state()
        self.owns_folder = True
        self.steps_done, self.validated_at, self._saved = before.step, before.validated, before
        if self.processes.leads:
            self._look_at_weights(before)
        self.log(f"resumed at step {self.steps_done}")
        if self.config.init is not None and str(self.config.init) != before.config["init"]:
            self.log("init has no effect on a run that goes on")

    def _found(self) -> tuple[dict[str, Tensor], RunState] | None:
        """The state to go on from; None where this is a new run. Raises as `resume`."""
        found = self.folder.load_state(self.log) if self.config.resume else None
        if found is None:
            self._require_no_other_run()
            if self.folder.holds_run():
                self.log(f"begins anew: the first step replaces the run in {self.folder.path}")
        return found

    def _look_at_weights(self, before: RunState) -> None:
        """Drops the samples of later steps; damaged weights count as missing."""
        self.folder.forget_samples_after(before.step)
        if self.folder.best.exists() and self._is_whole(self.folder.best):
            self.best_psnr, self.measured_on = before.best_psnr, before.measured_on
        if self.folder.last.exists() and not self._is_whole(self.folder.last):
            self._save_weights(self.folder.last)

    def _is_whole(self, path: Path) -> bool:
        """Whether a file holds weights that load. The next save replaces damaged ones."""
        try:
            checkpoint.load_generator(path)
        except (CheckpointError, OSError) as error:
            self.log(f"{error}: goes on as if it were missing")
            return False
        return True

    def _run_state(self) -> RunState:
        pictures, config = digest_of_names(self.train_set), to_mapping(self.resolved())
        return RunState(self.steps_done, self.best_psnr, self.measured_on, pictures, config, self.validated_at)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, average and the optimisers' moments, as tensors by name."""
        return self.one_step.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """What `state_dict` gave. Raises ValueError or RuntimeError for that of another network."""
        self.one_step.load_state_dict(state)

    def resolved(self) -> TrainConfig:
        """The config with what it left open filled in: the network, the device, when to validate. Of a run that began
        anew, too, it is the config to go on with."""
        spec, workers = self.networks.generator.spec, self.config.workers
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
            resume=True,
            val_every=self.config.val_every or max(1, self.schedule.total_steps // VALIDATIONS),
        )


def _require_finite(tensors: dict[str, Tensor], step: int) -> None:
    """Raises DivergedError, so that no file is replaced by what is of no use."""
    finite = torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).tolist()
    if not all(finite):
        name = next(name for name, good in zip(tensors, finite, strict=True) if not good)
        raise DivergedError(
            f"{name} is not finite after step {step}, which is not saved: the run folder holds weights of before"
        )


def _careful(log: Callable[[str], None]) -> Callable[[str], None]:
    """A log that takes lines that can be printed, whatever names they hold, prints them at once, and passes over its
    own OSError: a terminal that has closed must not end a training, or keep it from saving."""
    log = partial(print, flush=True) if log is print else log

    def say(line: str) -> None:
        with suppress(OSError):
            log(printable(line))

    return say


def _backward_heeds_signals(config: TrainConfig) -> AbstractContextManager[None]:
    """Within it a backward pass, which may take long, calls Python for each saved tensor, and Python any handler; not
    that of a compiled network, which would be compiled once more without it."""
    if config.compile:
        return nullcontext()

    def same(tensor: Tensor) -> Tensor:
        return tensor.detach()

    return saved_tensors_hooks(same, same)


def _retained_memory(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU freed memory stays with the process, which saves each step the system's zeroing of it."""
    return memory.retain_freed() if device.type == "cpu" else nullcontext()
