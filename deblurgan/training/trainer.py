"""The Trainer: it runs steps, and reports, validates and saves between them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from deblurgan import memory
from deblurgan.config import TrainConfig, train_config
from deblurgan.data import Batch, Batches
from deblurgan.data.cache import PictureCache, spill_folder
from deblurgan.data.prefetch import Prefetcher
from deblurgan.device import pick_device, torch_defaults
from deblurgan.distributed import Processes, joined, local_device
from deblurgan.images import printable
from deblurgan.nn import Generator
from deblurgan.signals import Interrupted, ending_signals, stop
from deblurgan.training.callbacks import Callback
from deblurgan.training.history import History
from deblurgan.training.networks import build_networks
from deblurgan.training.objective import OwnLoss
from deblurgan.training.opening import opening_lines
from deblurgan.training.own import Pairs, stand_in, with_own
from deblurgan.training.own_optimizer import OptimizerFactory
from deblurgan.training.pictures import LeftOut, digest_of_names, open_picture_sets
from deblurgan.training.progress import Progress, ProgressBar
from deblurgan.training.report import HtmlReport
from deblurgan.training.run_folder import RunFolder
from deblurgan.training.saving import SavedRun, with_saved_network
from deblurgan.training.schedule import Schedule
from deblurgan.training.skipped_steps import SkippedSteps
from deblurgan.training.step import Step
from deblurgan.training.stopping import Stopping
from deblurgan.training.tensorboard import TensorBoard
from deblurgan.training.validation import Validation, validate

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deblurgan.config import TrainOptions

WORKERS_ON_CUDA = 2  # threads, unless the config says how many
VALIDATIONS = 20  # in a training, unless the config says how often


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
        names = digest_of_names(self.train_set)
        if len(set(self.processes.gathered([names]))) > 1:
            raise ValueError(f"data must hold the same pictures for all processes, got others in {config.data}")
        self.batches = Batches(self.train_set, config.batch_size, seed=config.seed, rows=rows)
        self.schedule = Schedule(config, len(self.train_set))
        self.folder = RunFolder(config.out, config.keep)
        self.networks = build_networks(with_saved_network(config, self.folder, self.log), self.device)
        self.one_step = Step(config, self.networks, self.processes, losses=losses, optimizer=optimizer)
        self.saved = SavedRun(
            self.folder,
            self.one_step,
            self.resolved(),
            pictures=names,
            goes_on=config.resume,
            log=self.log,
        )
        self.skipped = SkippedSteps(config.max_bad_steps, self.log)
        self.progress = Progress(self.schedule.total_steps, config.losses)
        self.left_out = LeftOut(len(self.train_set.names()), config.max_bad_fraction, self.log)
        self.stopping = Stopping(self.processes, self.log)
        self.steps_done = 0
        self.stopped = False

    @torch_defaults()
    def fit(self) -> TrainResult:
        """Runs to the end, from the run folder's state where there is one."""
        held = self.folder.held() if self.processes.leads else nullcontext()
        with held, _retained_memory(self.device), self.folder.tells_of_failed_writes():
            self.resume()
            for line in opening_lines(self):
                self.log(line)
            self.stopped = False
            self._tell("on_fit_start")
            self._run_to_the_end()
            self._tell("on_fit_end")
            for summary in (self.left_out.summary(), self.skipped.summary(self.steps_done)):
                if summary is not None:
                    self.log(summary)
            best, psnr = self.processes.first(lambda: (self.folder.load_best(), self.saved.best_psnr))
            return TrainResult(self.config.out, best, self.steps_done, psnr)

    def resume(self) -> None:
        """Goes on from the run folder's newest state that is whole, if it has one and config.resume is True.

        Raises ValueError where the folder is of another run, CheckpointError where all states are damaged.
        """
        step = self.saved.resume()
        self.steps_done = self.steps_done if step is None else step

    def stop(self) -> None:
        """Ends the training after the step at hand, for callbacks: it is validated and saved as after the last one, and
        the same call goes on from there."""
        self.stopped = True

    def _run_to_the_end(self) -> None:
        history = History(self.folder.history, self.steps_done, self.log, self.config.losses)
        self.progress.begin_at(self.steps_done)
        val_every, save_every = self.resolved().val_every or 1, self.config.save_every
        with self.stopping.heard(), self.upcoming_batches() as batches:
            try:
                if self.steps_done > self.saved.validated_at and self._is_due(val_every):  # stopped before it
                    self._validate_and_save(history)
                    self.stopping.heed()
                for batch in history.watch.waits(self._noted(batches)):
                    with self.stopping.breaking_off_step(self):
                        values = self.step(batch)
                    history.add(values, pictures=len(batch.sharp) * self.processes.count)
                    self.progress.stepped(self.steps_done)
                    self._tell("on_step_end", values)
                    if not self.saved.owns_folder:
                        self.save()  # what makes that impossible shows at once
                    self._report(history)
                    if self._is_due(val_every):
                        with history.watch.pause():
                            self._validate_and_save(history)
                    elif save_every and self.steps_done % save_every == 0:
                        self.save()
                    self.stopping.heed()
                    if self.processes.largest(int(self.stopped)):
                        self.log(f"stopped at step {self.steps_done}")
                        return
            except Interrupted as interruption:
                self._save_and_stop(interruption.number)

    def upcoming_batches(self) -> Prefetcher:
        """The batches of all steps to come, loaded ahead by the config's workers."""
        steps = range(self.steps_done, self.schedule.total_steps)
        return Prefetcher(self.batches, steps, self.device, workers=self.resolved().workers or 0)

    def _noted(self, batches: Prefetcher) -> Iterator[Batch]:
        """The batches, once what they leave out is noted. Where pictures end the run, its steps so far are saved."""
        try:
            while True:
                with self.stopping.breaking_off_together():
                    batch = next(batches, None)
                if batch is None:
                    return
                self.left_out.note(batch.known_to_all(self.processes))
                yield batch
        except Exception:
            if self.saved.owns_folder:
                self.save()
            raise

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

    def _is_due(self, every: int) -> bool:
        """Whether it is time for what is done every so many steps, and at the end."""
        return self.steps_done % every == 0 or self.steps_done == self.schedule.total_steps or self.stopped

    def _validate_and_save(self, history: History) -> None:
        """Saves even where the validation fails. One process does both, while the others wait for it in `heed`; so a
        signal, which breaks the validation off, stops it there too."""
        if not self.processes.leads:
            return
        try:
            row = self.validate()
            history.write(row)
            self._tell("on_log", row)
        except Interrupted:
            pass
        except Exception:
            self.save()
            raise
        self.save()

    def validate(self) -> dict[str, float]:
        """Validates, writes samples, and saves the weights if they are the best so far. Returns the history's row.

        A run that goes on with other validation pictures measures its best weights so far on these.
        """
        found = self._measure(self.networks.validated)
        self.saved.own_folder(self.steps_done)
        self.log(found.line(self.steps_done))
        self.folder.write_samples(self.steps_done, found.grid())
        self._tell("on_validation_end", found)
        self.saved.note_validation(found, self.steps_done, self._measure)
        return found.row(self.steps_done)

    def _measure(self, generator: Generator) -> Validation:
        count, precision = self.config.val_pictures, self.one_step.precision

        def tell(done: int) -> None:
            if line := self.progress.validation_line(done, min(count, len(self.val_set))):
                self.log(line)

        try:
            with self.stopping.breaking_off():
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
        self.saved.save(self.steps_done)
        self._tell("on_save")

    def _save_and_stop(self, number: int) -> None:
        """Saves, unless that would replace another run before the first step, and ends the program."""
        if self.saved.needs_save(self.steps_done):
            self.save()
        if self.saved.owns_folder:
            again = "the same command goes on from there"
            self.log(f"{signal.Signals(number).name}: step {self.steps_done} is saved, {again}")
        self.processes.wait()  # torchrun ends the others once one has ended
        stop(number)

    def _tell(self, event: str, *values: Any) -> None:
        """Calls a method of all callbacks. Where one raises, the steps so far are saved."""
        try:
            for callback in self.callbacks:
                getattr(callback, event)(self, *values)
        except Exception:
            if self.steps_done:
                self.saved.save(self.steps_done)
            raise

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


def _careful(log: Callable[[str], None]) -> Callable[[str], None]:
    """A log that takes lines that can be printed, whatever names they hold, prints them at once, and passes over its
    own OSError: a terminal that has closed must not end a training, or keep it from saving."""
    log = partial(print, flush=True) if log is print else log

    def say(line: str) -> None:
        with suppress(OSError):
            log(printable(line))

    return say


def _retained_memory(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU freed memory stays with the process, which saves each step the system's zeroing of it."""
    return memory.retain_freed() if device.type == "cpu" else nullcontext()
