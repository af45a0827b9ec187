"""What names the random draws of a call: a seed and an index, given, counted, or drawn from torch's generator."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import Tensor

from deblurgan import ops

CAMERA_STREAM = 0x1F2E9B53C7A4D680  # is mixed into the seed of what a camera does, so that it draws other numbers
RANK_STREAM = 0x1E3779B97F4A7C15  # times its rank, is mixed into the seeds that a process draws


class Draws(NamedTuple):
    """What names the draws of a call: a seed and the index of its first picture, or both in `counter` on the device."""

    seed: int = 0
    first: int = 0
    counter: Tensor | None = None  # int64 [2]

    def uniforms(self, n: int, device: torch.device) -> Tensor:
        """[n, 4], for the anxiety, the exposure, whether to blur, and the noise."""
        return ops.uniforms(n, seed=self.seed, first=self.first, counter=self.counter, device=device)

    def camera_uniforms(self, n: int, device: torch.device) -> Tensor:
        """[n, 4], for the highlights, the shot noise, the read noise and the JPEG quality."""
        mixed = self._replace(seed=self.seed ^ CAMERA_STREAM)
        if self.counter is not None:
            mixed = Draws(counter=torch.stack([self.counter[0] ^ CAMERA_STREAM, self.counter[1]]))
        return mixed.uniforms(n, device)


def fresh_draws(device: torch.device) -> Draws:
    """Draws of torch's generator for the device, other ones in each process of a distributed training."""
    counter = torch.randint(2**62, (2,), device=device if device.type == "cuda" else "cpu")
    return by_value(counter ^ (_rank() * RANK_STREAM % 2**62), device)


def by_value(counter: Tensor, device: torch.device) -> Draws:
    """The draws that a new counter holds: in numbers where that waits for no GPU and breaks no graph."""
    if counter.device.type == "cpu" and not torch.compiler.is_compiling():
        return Draws(*counter.tolist())
    return Draws(counter=counter.to(device))


def _rank() -> int:
    """This process's number in a distributed training. A loader's workers know it by torchrun's variable alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0"))


@torch.library.custom_op("deblurgan::next_draws", mutates_args=("counter",))
def next_draws(counter: Tensor, n: int) -> Tensor:
    """The seed and the number of the next picture, int64 [2]; counts n pictures on in `counter`.

    In a worker process of a DataLoader the worker's own seed is added. An operator, so that torch.compile does not take
    the one process's for another's.
    """
    now = counter.clone()
    counter[1] += n
    worker = torch.utils.data.get_worker_info()
    if worker is not None:
        now[0] = (now[0] + worker.seed) % 2**62
    return now


@next_draws.register_fake
def _(counter: Tensor, n: int) -> Tensor:
    return torch.empty_like(counter)
