"""Batches: which crops make up step number `step` of a training."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from deblurgan import images
from deblurgan.data.crops import BelowCrop, Plan, make_crops
from deblurgan.data.datasets import PairDataset
from deblurgan.data.seeds import RngStream, derived_seed
from deblurgan.distributed import Processes


@dataclass(frozen=True)
class Batch:
    """Crops, uint8 [n, 3, size, size], and the files that could not be used, by name, each with the reason.

    `bad` files are unreadable, `small` pictures are below the crop.
    """

    blurred: Tensor
    sharp: Tensor
    bad: dict[str, str] = field(default_factory=dict)
    small: dict[str, str] = field(default_factory=dict)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, as torch's loader asks for it."""
        return replace(self, blurred=self.blurred.pin_memory(), sharp=self.sharp.pin_memory())

    def known_to_all(self, processes: Processes) -> Batch:
        """The batch with the files that all processes' shares of it left out."""
        if not processes.largest(bool(self.bad or self.small)):
            return self
        parts = processes.gathered([(self.bad, self.small)])
        bad, small = ({name: why for part in parts for name, why in part[kind].items()} for kind in (0, 1))
        return replace(self, bad=bad, small=small)

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`. On CUDA the host does not wait for the transfer."""
        blurred, sharp = (part.to(device, non_blocking=True) for part in (self.blurred, self.sharp))
        return replace(self, blurred=blurred, sharp=sharp)


class BatchPlan(NamedTuple):
    """A batch before its crops are finished, and the files left out: unreadable (`bad`) or below the crop (`small`)."""

    crops: list[Plan]
    bad: dict[str, str]
    small: dict[str, str]

    def leave_out(self, name: str, error: Exception) -> None:
        """Notes why the file of this name could not be used."""
        listed = self.small if isinstance(error, BelowCrop) else self.bad
        listed[name] = getattr(error, "reason", None) or str(error)


class Batches(Dataset[Batch]):
    """Batch number `step` of a training, from its number alone: epochs are permutations of the dataset, end to end.

    `rows` are those of each batch that are made, the share of one process; all if not given. In place of a file that
    cannot be used comes the next usable one of its epoch, after the last the first, in another crop than its own.
    Threads may share one object.
    """

    def __init__(self, dataset: PairDataset, batch_size: int, *, seed: int = 0, rows: range | None = None) -> None:
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rows = range(batch_size) if rows is None else rows
        self._orders: dict[int, NDArray[np.int64]] = {}

    def __getitem__(self, step: int) -> Batch:
        planned = self.plan(step)
        return Batch(*make_crops(planned.crops, self.dataset.device), planned.bad, planned.small)

    def to(self, device: torch.device) -> Batches:
        """The same batches with crops that are finished on `device`."""
        part = copy(self)
        part.dataset = self.dataset.to(device)
        return part

    def plan(self, step: int) -> BatchPlan:
        """The host's part of a batch. Raises ValueError where no picture can be used."""
        planned = BatchPlan([], {}, {})
        for k in self.rows:
            planned.crops.append(self._plan_crop(step * self.batch_size + k, planned))
        return planned

    def _plan_crop(self, number: int, planned: BatchPlan) -> Plan:
        """Crop `number` of the whole training; files that cannot be used are noted in `planned`."""
        n = len(self.dataset)
        epoch, position = divmod(number, n)
        order = self._order(epoch)
        for attempt in range(n):
            index = int(order[(position + attempt) % n])
            try:
                return self.dataset.plan(index, epoch=epoch, attempt=attempt)
            except (images.ImageError, OSError) as error:
                path = Path(getattr(error, "path", None) or self.dataset.path(index, epoch=epoch))
                planned.leave_out(self.dataset.below_root(path), error)
        name, reason = next(iter((planned.bad | planned.small).items()))
        raise ValueError(f"data must hold a usable picture, found none of {n}; {name}: {reason}")

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The epoch's permutation of the dataset's indices."""
        order = self._orders.get(epoch)
        if order is None:
            random = np.random.default_rng(derived_seed(RngStream.ORDER, self.seed, epoch))
            order = random.permutation(len(self.dataset))
            near = {at: known for at, known in self._orders.items() if abs(at - epoch) < 3}
            self._orders = {**near, epoch: order}  # replaced, not changed: other threads may be reading it
        return order
