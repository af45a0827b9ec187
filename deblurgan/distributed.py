"""Several processes that work together: torchrun's, or those of any launcher that sets its variables.

Training averages gradients after backward and before the update, all of a network in one flat all-reduce. torch's
DistributedDataParallel would not do: the critic's gradients come from a fused pass that autograd does not see, and so
neither do DDP's hooks; a step updates the critic several times before the generator, and all of it is one CUDA graph.
The mean is the same bits in every process, so networks that begin alike stay alike.

What processes say to one another beside that (a signal came, a file is bad, wait for a validation) goes over gloo, from
host to host, so that no GPU is waited for. A process that dies closes its connections, at which the others end.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
START = timedelta(minutes=5)  # until which all processes must have begun
STEP = timedelta(minutes=10)  # for a sum of gradients: more than compiling kernels takes
PULSE, GRACE = 2.0, 20.0  # seconds between looks whether the others live, and until the end where one does not
PATIENCE = timedelta(days=30)  # that a process waits for another's share of the work, unless that process ends
LEFT, FAILED = 1, 2  # what a process tells the others as it goes
_meetings = itertools.count()


class Processes:
    """This process as the `rank`th of `count`, which talk in the gloo group `group`; one alone has no need of the
    others, nor of torch.distributed. `remedy` says how to go on where another process has ended."""

    def __init__(
        self, rank: int = 0, count: int = 1, group: dist.ProcessGroup | None = None, *, remedy: str = ""
    ) -> None:
        self.rank, self.count, self.group, self.remedy = rank, count, group, remedy
        self._groups: dict[torch.device, dist.ProcessGroup] = {}  # that take tensors on a device
        self._backends: dict[torch.device, str] = {}
        self.graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()
        """CUDA graphs that hold averages: nccl waits for their end, for ever, before it ends itself."""

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes and speaks for all."""
        return self.rank == 0

    def first(self, work: Callable[[], T]) -> T:
        """What the first process's work gives, or the error that it raises, in every process."""
        if self.count == 1:
            return work()
        box: list[Any] = [None]
        if self.leads:
            try:
                box = [work()]
            except Exception as error:
                box = [error]
        with self._others():
            dist.broadcast_object_list(box, src=0, group=self.group)
        if isinstance(box[0], Exception):
            raise box[0]
        result: T = box[0]
        return result

    def gathered(self, results: list[T]) -> list[T]:
        """The results of all processes, in every one; waits for them."""
        if self.count == 1:
            return results
        lists: list[Any] = [None] * self.count
        with self._others():
            dist.all_gather_object(lists, results, group=self.group)
        return [result for part in lists for result in part]

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers, in every one; waits for them."""
        if self.count == 1:
            return number
        with self._others():
            return _largest(number, self.group)

    def wait(self) -> None:
        """Waits until all processes have come here."""
        self.largest(0)

    def rows(self, batch_size: int, parts: int = 1) -> range:
        """The rows of a batch that are this process's share, which `parts` divide.

        Raises ValueError where the shares or their parts would not be equal.
        """
        if batch_size % (self.count * parts):
            raise ValueError(
                f"batch_size must be a multiple of {self.count * parts} ({self.count} processes x accumulate {parts}), "
                f"got {batch_size}"
            )
        share = batch_size // self.count
        return range(self.rank * share, (self.rank + 1) * share)

    def average(self, sums: list[Tensor], parts: int) -> None:
        """Turns sums over `parts` equal parts of each process's share into means over all of them, in place.

        fp32, all on one device; the same bits in every process. On CUDA the host waits for nothing.
        """
        if self.count == 1:
            if parts > 1:
                torch._foreach_div_(sums, parts)
            return
        bucket = torch.empty(sum(each.numel() for each in sums), dtype=torch.float32, device=sums[0].device)
        shares = bucket.split([each.numel() for each in sums])
        # In the sums' own layouts, so that the copies are a launch or two
        views = [share.as_strided(each.shape, each.stride()) for share, each in zip(shares, sums, strict=True)]
        torch._foreach_copy_(views, sums)
        with self._others():
            dist.all_reduce(bucket, group=self._group(bucket.device))
        bucket.div_(self.count * parts)
        torch._foreach_copy_(sums, views)

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Replaces the values of tensors by those of the first process."""
        if self.count == 1:
            return
        for tensor in tensors:
            whole = tensor.contiguous()
            with self._others():
                dist.broadcast(whole, src=0, group=self._group(tensor.device))
            tensor.copy_(whole)

    def backend(self, device: torch.device) -> str:
        """What gradients on that device are averaged over: nccl, where each process has a GPU of its own, or gloo. All
        processes ask for it the first time."""
        if device not in self._backends:
            alone = device.type == "cuda" and len(set(self.gathered([_gpu(device)]))) == self.count
            self._backends[device] = "nccl" if alone and dist.is_nccl_available() else "gloo"
        return self._backends[device]

    def leave(self, *, failed: bool) -> None:
        """Ends the groups that were made here. After a failure nccl's are left to the end of the program, which aborts
        them: an orderly end would wait for processes that may be waiting for this one."""
        for graph in self.graphs:
            graph.reset()
        for device, group in self._groups.items():
            if not (failed and self.backend(device) == "nccl"):
                dist.destroy_process_group(group)
        dist.destroy_process_group(self.group)

    @property
    def over_nccl(self) -> bool:
        """Whether a GPU's sums go over nccl."""
        return "nccl" in self._backends.values()

    def describe(self, device: torch.device) -> str:
        """How many there are, and what they share gradients over."""
        return f"{self.count} processes over {self.backend(device)}"

    def _group(self, device: torch.device) -> dist.ProcessGroup:
        """The group for tensors on that device. All processes make it at their first such call."""
        if device not in self._groups:
            if device.type == "cuda":
                torch.cuda.set_device(device)  # else pinned memory would take some of the first GPU, in each process
            self._groups[device] = dist.new_group(backend=self.backend(device), timeout=STEP)
        return self._groups[device]

    @contextmanager
    def _others(self) -> Iterator[None]:
        """Says what it means that the others cannot be reached."""
        try:
            yield
        except (torch.OutOfMemoryError, torch.AcceleratorError, dist.DistBackendError):  # which say what it is
            raise
        except RuntimeError as error:
            remedy = f"; {self.remedy}" if self.remedy else ""
            raise RuntimeError(f"another process of this run has ended before its work was done{remedy}") from error


@contextmanager
def joined(remedy: str = "", *, watched: bool = False) -> Iterator[Processes]:
    """This process among those that it was started with, by RANK and WORLD_SIZE; alone without these.

    One that is `watched` ends with code 1 soon after another has ended, whatever it waits for. A process group that the
    caller has initialised is used and left.
    """
    if _world_size() == 1:
        yield Processes()
        return
    if not dist.is_available():
        raise RuntimeError("this torch has no torch.distributed: start one process")
    initialised = dist.is_initialized()
    if not initialised:
        store, rank, count = _meeting_place()
        # Names of its own: those of an earlier group still lead to connections that have ended
        store = dist.PrefixStore(f"deblurgan-{next(_meetings)}", store)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=START)
    aborted = False
    try:
        with _watched() if watched else nullcontext():
            group = dist.new_group(backend="gloo", timeout=PATIENCE)
            processes = Processes(dist.get_rank(), dist.get_world_size(), group, remedy=remedy)
            try:
                yield processes
            except BaseException:
                aborted = processes.over_nccl
                raise
            finally:
                processes.leave(failed=aborted)
    finally:
        if not initialised and not aborted:
            dist.destroy_process_group()


@contextmanager
def _watched() -> Iterator[None]:
    """Within it this process ends once another has, at the latest after GRACE seconds: it may be waiting for a GPU that
    waits for the dead one's. So it does where another leaves by an error."""
    group, leaving, word = dist.new_group(backend="gloo", timeout=PATIENCE), threading.Event(), LEFT

    def watch() -> None:
        try:
            while not (heard := _largest(word if leaving.is_set() else 0, group)):
                leaving.wait(PULSE)
        except RuntimeError:
            heard = FAILED
        if heard == FAILED and not leaving.wait(GRACE):
            print("deblurgan: ends, as another process of this run has ended", file=sys.stderr, flush=True)
            os._exit(1)

    thread = threading.Thread(target=watch, name="deblurgan-watch", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        word = FAILED
        raise
    finally:
        leaving.set()
        thread.join(2 * PULSE)


@cache
def _meeting_place() -> tuple[dist.Store, int, int]:
    """The store through which processes find one another, this one's rank and their number."""
    place: tuple[dist.Store, int, int] = next(dist.rendezvous("env://", timeout=START))
    return place


def _largest(number: int, group: dist.ProcessGroup | None) -> int:
    box = torch.tensor([number], dtype=torch.int64, device="cpu")
    dist.all_reduce(box, dist.ReduceOp.MAX, group=group)
    return int(box)


def _gpu(device: torch.device) -> str:
    """Which one it is among those of all machines."""
    return str(torch.cuda.get_device_properties(device).uuid)


def leads() -> bool:
    """Whether this process is the first of those that it was started with, or alone."""
    return _world_size() == 1 or os.environ.get("RANK", "0") == "0"


def local_device(name: str) -> str:
    """The device of that name for this process: of several on a machine each has the GPU of its number, LOCAL_RANK."""
    local = os.environ.get("LOCAL_RANK")
    wanted = name == "auto" or name.startswith("cuda")
    if not wanted or local is None or _world_size() == 1 or not torch.cuda.is_available():
        return name
    return f"cuda:{int(local) % torch.cuda.device_count()}"


def _world_size() -> int:
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))
