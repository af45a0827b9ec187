"""python -m benchmarks.scaling: what a training step on many GPUs is expected to cost, on paper. Nothing runs on a GPU.

A step's arithmetic at the rate of large matrix products, what its all-reduces move at the rates of NVLink and of
InfiniBand, and the share of the time that is left for arithmetic where neither runs beside the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.roofline import H200, Span, add, cell, generator_kernels
from deblurgan.config import train_config
from deblurgan.nn import Critic, Generator, PerceptualFeatures
from deblurgan.spec import PRESETS
from deblurgan.training.networks import parameters_that_matter
from deblurgan.training.objective import LOSSES

GPUS_A_NODE = 8
# NCCL's rings reach 370 GB/s of NVLink 4's 450 in each direction (NVIDIA/nccl-tests #212) and 46 to 48 GB/s of a 400
# Gbit/s adapter, one a GPU (#290). Those are large messages; the slow end has half of it
NVLINK, INFINIBAND = 370e9, 47e9
# Of an all-reduce of no size: 47 us on two nodes (NVIDIA/nccl #1244), of which half is taken for one; the slow end has
# twice that
NODE_LATENCY, CLUSTER_LATENCY = 24e-6, 47e-6
PASSES = 6  # over a gradient in memory: it is copied to the flat buffer, divided there and copied back
# Of a step, at 1 and 16 crops a GPU: benchmarks/NOTES.md
EXPECTED = {1: Span(2.9e-3, 4.0e-3), 16: Span(24e-3, 31e-3)}


class Step(NamedTuple):
    """A training step of one GPU."""

    flops: float
    reduced: tuple[int, ...]
    """Bytes of each all-reduce: the critic's, one an update, then the generator's."""


def paper_step(crops: int, side: int = 256, *, critic_steps: int = 5) -> Step:
    """The step of the preset "paper" on so many crops."""
    config = train_config("unused", critic_steps=critic_steps)
    with torch.device("meta"):
        critic, generator = Critic(), Generator("paper")
    forward = sum(kernel.flops * kernel.count for kernel in generator_kernels(PRESETS["paper"], side, side))
    of_critic, of_features = (forward_flops(net, side) for net in (critic, PerceptualFeatures()))
    flops = 3 * forward  # with the gradients by inputs and weights
    flops += 12 * critic_steps * of_critic  # 3 forward, 3 backward, 2 along u, 4 weight gradients
    flops += 2 * of_critic + 3 * of_features  # in the generator's losses; of the sharp picture no gradient
    of_critic_bytes, of_generator = (
        4 * sum(p.numel() for p in parameters_that_matter(net, config)) for net in (critic, generator)
    )
    return Step(crops * flops, (of_critic_bytes,) * critic_steps + (of_generator + 4 * len(LOSSES),))


def forward_flops(net: nn.Module, side: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.device("meta"), torch.no_grad():
        net.to("meta")(torch.empty(1, 3, side, side))
    return counter.get_total_flops()


def all_reduce_s(size: int, gpus: int) -> Span:
    """The time of an average of so many bytes: a ring in each node and, for each of its GPUs, one across nodes."""
    if gpus == 1:
        return Span(0, 0)
    local = min(gpus, GPUS_A_NODE)
    nodes = -(-gpus // GPUS_A_NODE)
    moved = 2 * (local - 1) / local * size / NVLINK + 2 * (nodes - 1) / nodes * size / local / INFINIBAND
    latency = NODE_LATENCY if nodes == 1 else CLUSTER_LATENCY
    copied = PASSES * size / H200.bytes
    return Span(latency + moved + copied, 2 * (latency + moved) + copied)


def efficiency(step: Span, reduces: Span) -> str:
    """The share of the time that is not spent in all-reduces, worst and best."""
    worst, best = step.fast / (step.fast + reduces.slow), step.slow / (step.slow + reduces.fast)
    return f"{worst:.0%} ... {best:.0%}"


def row(gpus: int, crops: int) -> list[str]:
    """GPUs, crops a GPU and of a step, then ms: arithmetic, step, all-reduces, the generator's of them; efficiencies
    of the step expected and of one that takes no longer than its arithmetic; crops a second."""
    step, expected = paper_step(crops), EXPECTED[crops]
    spans = [all_reduce_s(size, gpus) for size in step.reduced]
    reduces, floor = add(spans), step.flops / H200.flops[2]
    rates = [gpus * crops / (alone + reduced) for alone, reduced in zip(expected, reduces, strict=True)]
    times = [cell(Span(floor, floor), 1e3, 2).split()[0], cell(expected, 1e3)]
    times += [cell(reduces, 1e3, 2), cell(spans[-1], 1e3, 2)]
    shares = [efficiency(expected, reduces), efficiency(Span(floor, floor), reduces)]
    return [str(gpus), str(crops), str(gpus * crops), *times, *shares, f"{rates[1]:.0f} ... {rates[0]:.0f}"]


HEADINGS = ["GPUs", "crops each", "batch_size", "arithmetic", "step expected", "all-reduces", "of which overlap"]
HEADINGS += ["efficiency", "beside arithmetic alone", "crops/s"]


def table(gpus: Sequence[int] = (1, 8, 64), crops: Sequence[int] = (1, 16)) -> str:
    """What the page on many GPUs shows; times in ms."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *(row(count, each) for each in crops for count in gpus)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


if __name__ == "__main__":
    print(table())
