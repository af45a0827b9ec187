"""A training step, whole and in its parts, beside plain torch: the released way in fp32, and compiled in half types.

Where steps are replayed as CUDA graphs, each part is one of its own, so that launches weigh in it as they do in a step.
Parts named "of which" are inside others; the rest, as often as they come in a step, are the step but for small change:
pictures to floats, the penalty's draws.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from typing import Any, cast

import pytest
import torch
from harness import Work, measure
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from deblurgan import losses, memory
from deblurgan.config import train_config
from deblurgan.device import pick_precision
from deblurgan.generator.graphs import captured
from deblurgan.nn import Critic, Generator, PerceptualFeatures, trained_parameters
from deblurgan.training import MEASURES, Networks, Step
from deblurgan.training.networks import to_network
from deblurgan.training.objective import generator_losses

SIDE = 256
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PRECISION = pick_precision("auto", DEVICE)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 1e-2}
BATCHES = (1, 16) if DEVICE.type == "cuda" else (1,)
CRITIC_STEPS = 5
COMPARED = [MEASURES.index(name) for name in ("critic", "penalty", "content")]  # the first step's, before they part


def networks() -> Networks:
    """Of the paper's sizes, the same weights each time."""
    torch.manual_seed(0)
    generator, critic = Generator("paper", dropout=0.0).train(), Critic()
    features = PerceptualFeatures().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Networks(generator.to(DEVICE), critic.to(DEVICE), None, features.to(DEVICE))


def pictures(n: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 3, SIDE // 8, SIDE // 8, generator=random)
    sharp = torch.nn.functional.interpolate(coarse, scale_factor=8.0, mode="bicubic")
    sharp = (sharp + 0.1 * torch.rand(sharp.shape, generator=random)).clamp(0, 1)
    blurred = torch.nn.functional.avg_pool2d(sharp, 9, 1, 4)
    return tuple((part * 255).to(DEVICE, torch.uint8) for part in (blurred, sharp))  # type: ignore[return-value]


def step(n: int, *, critic_steps: int = CRITIC_STEPS, **options: Any) -> Callable[[], Tensor]:
    """Ours: its losses."""
    run = Step(train_config("unused", batch_size=n, critic_steps=critic_steps, **options), networks())
    batch = pictures(n)
    return lambda: run(*batch, number=0, rate=1e-4)


def released_step(
    n: int, *, critic_steps: int = CRITIC_STEPS, dtype: torch.dtype | None = None, compiled: bool = False
) -> Callable[[], Tensor]:
    """Plain torch, written as the released training is: the penalty by double backward, in fp32 as autocast leaves it.

    The penalty sees the critic itself in any case: torch.compile cannot be differentiated twice.
    """
    generator, critic, _, features = networks()
    assert critic is not None and features is not None
    generator.backend = "reference"
    restore, score, see = (torch.compile(net) if compiled else net for net in (generator, critic, features))
    adams = [
        torch.optim.Adam(trained_parameters(net), lr=1e-4, betas=(0.5, 0.999), fused=compiled)
        for net in (generator, critic)
    ]
    blurred, sharp = (to_network(part) for part in pictures(n))

    def half() -> Any:
        return nullcontext() if dtype is None else torch.autocast(DEVICE.type, dtype)

    def update(adam: torch.optim.Optimizer, loss: Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        adam.step()

    def penalised(x: Tensor) -> Tensor:  # not a Critic, so the penalty is differentiated twice
        return critic(x)

    def run() -> Tensor:
        with half():
            restored = restore(blurred).float()
        for _ in range(critic_steps):
            with half():
                scores = score(sharp).float(), score(restored.detach()).float()
            values = [losses.critic_loss(*scores)]
            alpha = torch.full((n, 1, 1, 1), 0.5, device=DEVICE)
            values.append(losses.gradient_penalty(penalised, sharp, restored, alpha=alpha))
            update(adams[1], sum(values, start=sharp.new_zeros(())))
        with half():
            fooled = losses.generator_loss(score(restored).float())
            with torch.no_grad():
                wanted = see(sharp).float()
            content = 100 * losses.content(see(restored).float(), wanted)
        update(adams[0], fooled + content)
        return torch.stack([*values, fooled, content]).detach()

    return run


OURS: dict[str, dict[str, Any]] = {"ours": {}, "ours, fp32": {"precision": "fp32"}}
if DEVICE.type == "cuda":
    OURS["ours, without the graph"] = {"graphs": False}
else:
    OURS["ours, compile=True"] = {"compile": True}
PEERS: dict[str, dict[str, Any]] = {
    "eager fp32, as released": {},
    "torch.compile, penalty eager": {"dtype": None if PRECISION == "fp32" else DTYPES[PRECISION], "compiled": True},
}


def flops(net: torch.nn.Module, *, backward: int = 0) -> int:
    """Multiply-adds of a picture's forward pass, counted; `backward` more of the same."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        deepcopy(net).to("meta")(torch.empty(1, 3, SIDE, SIDE, device="meta"))
    return counter.get_total_flops() // 2 * (1 + backward)


def step_work(n: int, precision: str) -> Work:
    """Multiply-adds of a step: the generator three times its forward, the critic 12 a critic update (6 of them the
    penalty's) and 2 in the generator's, VGG three. Bytes of the pictures alone: a lower bound."""
    generator, critic, _, features = networks()
    assert critic is not None and features is not None
    once = 3 * flops(generator) + (12 * CRITIC_STEPS + 2) * flops(critic) + 3 * flops(features)
    return Work(n * once, 2 * n * 3 * SIDE * SIDE, DTYPES[precision])


def first_losses(n: int) -> Tensor:
    """Of one update with the fp32 reference: critic, penalty, content."""
    values = step(n, critic_steps=1, precision="fp32", backend="reference", graphs=False)()
    return values[COMPARED]


@pytest.mark.parametrize("n", BATCHES)
@pytest.mark.parametrize("path", OURS)
def bench_training_step(benchmark: BenchmarkFixture, path: str, n: int) -> None:
    options = OURS[path]
    precision = options.get("precision", PRECISION)
    first = step(n, critic_steps=1, **options)()[COMPARED]
    with memory.retain_freed():  # as training does
        measure(
            benchmark,
            step(n, **options),
            first_losses(n),
            compared=lambda _: first,
            group=f"training step of {n}, paper {SIDE}x{SIDE}",
            path=path,
            tolerance=TOLERANCE[precision],
            work=step_work(n, precision),
            pictures=n,
        )


@pytest.mark.parametrize("n", BATCHES)
@pytest.mark.parametrize("path", PEERS)
def bench_training_peer(benchmark: BenchmarkFixture, path: str, n: int) -> None:
    options = PEERS[path]
    precision = "fp32" if options.get("dtype") is None else PRECISION
    wanted = released_step(n, critic_steps=1)()[[0, 1, 3]]
    first = released_step(n, critic_steps=1, **options)()[[0, 1, 3]]
    measure(
        benchmark,
        released_step(n, **options),
        wanted,
        compared=lambda _: first,
        group=f"training step of {n}, paper {SIDE}x{SIDE}",
        path=path,
        tolerance=TOLERANCE[precision],
        work=step_work(n, precision),
        pictures=n,
    )


class Parts:
    """The pieces of a step, each a call that gives what it made: gradients, a picture, weights."""

    def __init__(self, n: int, precision: str, backend: str = "auto") -> None:
        self.step = Step(train_config("unused", precision=precision, batch_size=n, backend=backend), networks())
        self.blurred, self.sharp = (to_network(part) for part in pictures(n))
        self.restored = self.blurred  # the same for every precision
        assert self.step.critic_gradients is not None
        self.critic = self.step.critic_gradients
        self.weights = [conv.weight for conv in losses.convolutions(self.critic.critic)]

    def call(self, part: Part) -> Callable[[], list[Tensor]]:
        """The part, as a CUDA graph where the step is one."""
        if self.step.why_eager() is not None:
            return lambda: part(self)
        for _ in range(3):
            part(self)
        with captured(DEVICE) as graph:
            made = part(self)

        def replay() -> list[Tensor]:
            graph.replay()
            return made

        return replay

    def generator(self) -> list[Tensor]:
        restored = self.step.restore(self.blurred)
        return list(torch.autograd.grad(restored, trained_parameters(self.step.networks.generator), self.sharp))

    def generator_forward(self) -> list[Tensor]:
        return [self.step.restore(self.blurred).detach()]

    def critic_gradients(self) -> list[Tensor]:
        self.critic(self.sharp, self.restored, self.step.alpha_counter)
        return [cast(Tensor, weight.grad) for weight in self.weights]

    def penalty(self) -> list[Tensor]:
        alpha = torch.full((self.sharp.shape[0], 1, 1, 1), 0.5, device=DEVICE)
        value = self.critic.penalty(self.sharp, self.restored, alpha)
        return list(torch.autograd.grad(value, self.weights))

    def generator_losses(self) -> list[Tensor]:
        leaf = self.restored.detach().requires_grad_()
        step = self.step
        terms = generator_losses(step.config, step.networks, leaf, self.sharp, precision=step.precision)
        return list(torch.autograd.grad(sum(terms.values(), start=leaf.new_zeros(())), leaf))

    def critic_update(self) -> list[Tensor]:
        return self._update("critic")

    def generator_update(self) -> list[Tensor]:
        return self._update("generator")

    def _update(self, name: str) -> list[Tensor]:
        """Of gradients that are zero, which leave the weights as they are."""
        parameters = self.step.optimizers.parameters(name)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        self.step.optimizers.update(name, self.sharp.new_zeros(()))
        return [parameter.detach() for parameter in parameters]


Part = Callable[[Parts], list[Tensor]]

# What is called, how often in a step, and its multiply-adds
PARTS: dict[str, tuple[Part, int, Callable[[Networks], int]]] = {
    "generator, forward and backward": (Parts.generator, 1, lambda nets: 3 * flops(nets.generator)),
    "critic's losses with their gradients, penalty included": (
        Parts.critic_gradients,
        CRITIC_STEPS,
        lambda nets: 12 * flops(nets.critic),  # type: ignore[arg-type]
    ),
    "critic's optimiser": (Parts.critic_update, CRITIC_STEPS, lambda nets: 0),
    "critic and VGG in the generator's losses": (
        Parts.generator_losses,
        1,
        lambda nets: 2 * flops(nets.critic) + 3 * flops(nets.features),  # type: ignore[arg-type]
    ),
    "generator's optimiser": (Parts.generator_update, 1, lambda nets: 0),
    "of which the generator's forward by itself would be": (
        Parts.generator_forward,
        1,
        lambda nets: flops(nets.generator),
    ),
    "of which the penalty by itself would be": (
        Parts.penalty,
        CRITIC_STEPS,
        lambda nets: 6 * flops(nets.critic),  # type: ignore[arg-type]
    ),
}
# Gradients at random weights, relative to the reference in fp32, where a rounding moves values over LeakyReLU's kink
PART_TOLERANCE = {"fp32": 1e-2, "bf16": 3e-1, "fp16": 5e-2}


def flat(made: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in made])


@pytest.mark.parametrize("part", PARTS)
def bench_training_parts(benchmark: BenchmarkFixture, part: str) -> None:
    call, times, count = PARTS[part]
    wanted = flat(call(Parts(1, "fp32", backend="reference")))
    parts = Parts(1, PRECISION)
    with memory.retain_freed():
        measure(
            benchmark,
            parts.call(call),
            wanted,
            compared=flat,
            group=f"anatomy {part}, {times} a step",
            path="ours",
            tolerance=PART_TOLERANCE[PRECISION],
            work=Work(count(networks()), 2 * 3 * SIDE * SIDE, DTYPES[PRECISION]),
            pictures=1,
        )
