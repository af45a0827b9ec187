"""Several processes that share the work on a batch: torchrun's, or those of any launcher that sets its variables."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
START = timedelta(minutes=5)  # until which all processes must have begun
PATIENCE = timedelta(days=30)  # that a process waits for another's share of the work, unless that process ends


class HasTarget(Protocol):
    @property
    def target(self) -> Path: ...


J = TypeVar("J", bound=HasTarget)


class Processes:
    """This process as the `rank`th of `count`, which talk in `group`; one alone has no need of the others."""

    def __init__(self, rank: int = 0, count: int = 1, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.count, self.group = rank, count, group

    def first(self, work: Callable[[], T]) -> T:
        """What the first process's work gives, or the error that it raises, in every process."""
        if self.count == 1:
            return work()
        box: list[Any] = [None]
        if self.rank == 0:
            try:
                box = [work()]
            except Exception as error:
                box = [error]
        with _others():
            dist.broadcast_object_list(box, src=0, group=self.group)
        if isinstance(box[0], Exception):
            raise box[0]
        result: T = box[0]
        return result

    def share(self, jobs: Sequence[J]) -> list[J]:
        """Those jobs that this process does, of a list that all processes have. Targets that some disks take for one
        fall to one process."""
        number: dict[str, int] = {}
        for job in jobs:
            number.setdefault(_folded(job.target), len(number))
        return [job for job in jobs if number[_folded(job.target)] % self.count == self.rank]

    def gathered(self, results: list[T]) -> list[T]:
        """The results of all processes, in every one; waits for them."""
        if self.count == 1:
            return results
        lists: list[Any] = [None] * self.count
        with _others():
            dist.all_gather_object(lists, results, group=self.group)
        return [result for part in lists for result in part]

    def wait(self) -> None:
        """Waits until all processes have come here: torchrun ends the others once one has failed."""
        self.gathered([])


@contextmanager
def joined() -> Iterator[Processes]:
    """This process among those that it was started with, by RANK and WORLD_SIZE; alone without these."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    if not dist.is_available():
        raise RuntimeError("this torch has no torch.distributed: start one process")
    dist.init_process_group("gloo", timeout=START)
    try:
        yield Processes(dist.get_rank(), count, dist.new_group(timeout=PATIENCE))
    finally:
        dist.destroy_process_group()


def local_device(name: str) -> str:
    """The device of that name for this process: "auto" is the GPU of its number on this machine, by LOCAL_RANK."""
    local = os.environ.get("LOCAL_RANK")
    if name != "auto" or local is None or not torch.cuda.is_available():
        return name
    return f"cuda:{int(local) % torch.cuda.device_count()}"


@contextmanager
def _others() -> Iterator[None]:
    """Says what it means that the others cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            "another process of this run has ended before its work was done; --skip-existing goes on from here"
        ) from error


def _folded(path: Path) -> str:
    """What names have in common that a disk may take for one."""
    return unicodedata.normalize("NFC", str(path)).casefold()
