"""python -m benchmarks.launches: what a training step launches on a GPU, counted without one.

The step runs on small networks of the paper's depth, on the CPU, as it would on CUDA with an empty kernels' table:
torch's operations that compute are counted one each (cuDNN's convolutions may take more), our kernels by launch,
without running them.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deblurgan import nn
from deblurgan.config import train_config
from deblurgan.device import assume_kernels
from deblurgan.generator import tape
from deblurgan.training import Networks, Step

WIDTH, SIDE = 8, 32
# Operations that launch nothing: views, memory, and what belongs to the host
FREE = ("view", "permute", "slice", "select", "detach", "alias", "expand", "transpose", "as_strided", "unsqueeze")
FREE += ("empty", "new_empty", "split", "chunk", "unbind", "squeeze", "unflatten", "t.default", "lift_fresh")
FREE += ("_unsafe_view", "_reshape_alias", "is_", "profiler")


class Operations(TorchDispatchMode):
    """Counts torch's operations that compute."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        if not name.startswith((*FREE, "deblurgan")):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted_kernels() -> Iterator[Counter[str]]:
    """Our kernels are counted and not run; everything takes the way that it takes on CUDA."""
    from triton.runtime.interpreter import InterpretedFunction

    from deblurgan.kernels.table import Table

    counts: Counter[str] = Counter()

    def launch(self: Any, grid: Any) -> Any:
        return lambda *args, **options: counts.update([self.fn.__name__])

    with (
        mock.patch.object(InterpretedFunction, "__getitem__", launch),
        assume_kernels(),
        mock.patch.object(tape, "config_picker", lambda gpu: Table(gpu)),
    ):
        yield counts


def launches(**options: Any) -> Counter[str]:
    """What one step of `paper` with these options launches, by name."""
    config = train_config("unused", **{"crop": SIDE, "precision": "bf16", **options})
    torch.manual_seed(0)
    features = None if config.content == "none" else nn.PerceptualFeatures()
    nets = nn.Generator("paper", width=WIDTH).train(), nn.Critic(WIDTH), None, features
    for net in nets:
        if net is not None:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = Step(config, Networks(*nets))
    pictures = torch.zeros(config.batch_size, 3, SIDE, SIDE, dtype=torch.uint8)
    with counted_kernels() as kernels:
        step(pictures, pictures, number=0, rate=1e-4)
        kernels.clear()
        with Operations() as operations:
            step(pictures, pictures, number=1, rate=1e-4)
    return kernels + operations.counts


def main() -> int:
    found = launches()
    kernels = sum(count for name, count in found.items() if name.endswith("_kernel"))
    print(
        f"{found.total()} launches a step: {kernels} of our kernels, {found.total() - kernels} of torch's operations\n"
    )
    for name, count in found.most_common():
        print(f"{count:5} {name}")
    return 0


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"
    sys.exit(main())
