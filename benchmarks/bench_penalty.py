"""The critic's gradient penalty with its weights' gradients: the identity, double backward, and torch.func.

By itself: a training step makes it in the same passes as the critic's scores, which bench_training.py times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import pytest
import torch
import torch.nn.functional as F
from harness import Work, measure
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from deblurgan import losses, reference
from deblurgan.nn import Critic
from deblurgan.ops import critic_gradients

FP32, BF16 = torch.float32, torch.bfloat16
NAMES = {FP32: "fp32", BF16: "bf16"}
TOLERANCE = {FP32: 5e-3, BF16: 2e-1}  # one rounding across LeakyReLU's kink moves the gradient by 1e-3
Call = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Case:
    n: int
    side: int
    dtype: torch.dtype
    device: str = "cpu"

    def __str__(self) -> str:
        count = f"{self.n} of " if self.n > 1 else ""
        return f"{count}{self.side}x{self.side} {NAMES[self.dtype]}{' cuda' if self.device == 'cuda' else ''}"


def parameters(critic: Critic) -> list[Tensor]:
    """Those that the penalty has a gradient by."""
    return [*(conv.weight for conv in critic.convs), critic.convs[0].bias]


def graphed(x: Tensor) -> str | None:
    """The mode of torch.compile that captures a CUDA graph."""
    return "reduce-overhead" if x.is_cuda else None


def by_identity(critic: Critic, x: Tensor, dtype: torch.dtype, *, compiled: bool = False) -> Call:
    *weights, bias = (p.detach() for p in parameters(critic))
    run = critic_gradients.penalty_gradients
    if compiled:
        torch.compiler.reset()  # torch keeps few compiled forms of one function
        run = torch.compile(run, fullgraph=True, mode=graphed(x))

    def call() -> list[Tensor]:
        _, of_weights, of_bias = run(weights, bias, x, padding=2, dtype=dtype)
        return [*of_weights, of_bias]

    return call


def by_loss(critic: Critic, x: Tensor, dtype: torch.dtype, *, form: losses.Form) -> Call:
    one = x.new_ones(1)

    def call() -> list[Tensor]:
        with torch.autocast(x.device.type, BF16, enabled=dtype == BF16):
            value = losses.gradient_penalty(critic, x, x, alpha=one, form=form)
        return list(torch.autograd.grad(value, parameters(critic)))

    return call


def plain_score(weights: list[Tensor], bias: Tensor, x: Tensor) -> Tensor:
    """The sum of the critic's scores. InstanceNorm in plain operations: torch's own, differentiated backward over
    forward, takes its statistics for constants."""
    last = len(weights) - 1
    for i, weight in enumerate(weights):
        x = F.conv2d(x, weight, bias if i == 0 else None, stride=2 if i < last - 1 else 1, padding=2).float()
        if 0 < i < last:
            x = x - x.mean((2, 3), keepdim=True)
            x = x * (x.square().mean((2, 3), keepdim=True) + reference.EPS).rsqrt()
        if i < last:
            x = F.leaky_relu(x, 0.2)
    return x.sum()


def by_torch_func(critic: Critic, x: Tensor, dtype: torch.dtype) -> Call:
    """torch.func.jvp along the fixed direction, differentiated by the weights: eight forward passes of work."""

    def score(weights: list[Tensor], bias: Tensor, picture: Tensor) -> Tensor:
        with torch.autocast(x.device.type, BF16, enabled=dtype == BF16):
            return plain_score(weights, bias, picture)

    def gradients(weights: list[Tensor], bias: Tensor) -> list[Tensor]:
        gradient = torch.func.grad(score, argnums=2)(weights, bias, x)
        length = gradient.square().sum((1, 2, 3), keepdim=True).sqrt()
        direction = 2 * 10 / length.numel() * (1 - 1 / length) * gradient

        def derivative(weights: list[Tensor], bias: Tensor) -> Tensor:
            return torch.func.jvp(partial(score, weights, bias), (x,), (direction,))[1]

        of_weights, of_bias = torch.func.grad(derivative, argnums=(0, 1))(weights, bias)
        return [*of_weights, of_bias]

    torch.compiler.reset()
    *weights, bias = (p.detach() for p in parameters(critic))
    return partial(torch.compile(gradients, mode=graphed(x)), weights, bias)


PATHS: dict[str, Callable[[Critic, Tensor, torch.dtype], Call]] = {
    "ours": by_identity,
    "ours, torch.compile": partial(by_identity, compiled=True),
    "ours, losses.gradient_penalty": partial(by_loss, form="auto"),
    "double backward": partial(by_loss, form="double"),
    "torch.func.jvp, torch.compile": by_torch_func,
}
CASES = [Case(1, 256, dtype) for dtype in (FP32, BF16)]
CASES += [Case(n, 256, dtype, "cuda") for dtype in (FP32, BF16) for n in (1, 16)]


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


@lru_cache(maxsize=1)
def problem(n: int, side: int, device: str) -> tuple[Critic, Tensor, Tensor]:
    """A critic as training begins, smooth pictures, and the gradients in fp64."""
    torch.manual_seed(0)
    critic = Critic().double().to(device)
    coarse = torch.rand(n, 3, side // 4, side // 4, dtype=torch.float64, device=device) * 2 - 1
    x = F.interpolate(coarse, (side, side), mode="bilinear")
    wanted = flat(by_loss(critic, x, torch.float64, form="double")())
    return critic.float(), x.float(), wanted


def work(critic: Critic, x: Tensor, dtype: torch.dtype) -> Work:
    """Six times a forward pass; the pictures and weights read, the gradients written."""
    multiply_adds, y = 0, x.to("meta")
    for conv in critic.convs:
        y = F.conv2d(y, conv.weight.to("meta"), stride=conv.stride, padding=conv.padding)
        multiply_adds += y.numel() * conv.weight[0].numel()
    return Work(6 * multiply_adds, x.nbytes + 2 * sum(p.nbytes for p in parameters(critic)), dtype)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", CASES, ids=str)
def bench_penalty(benchmark: BenchmarkFixture, case: Case, path: str) -> None:
    if case.device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    critic, x, wanted = problem(case.n, case.side, case.device)
    measure(
        benchmark,
        PATHS[path](critic, x, case.dtype),
        wanted,
        group=f"penalty {case}",
        path=path,
        tolerance=TOLERANCE[case.dtype],
        compared=flat,
        work=work(critic, x, case.dtype),
        pictures=case.n,
    )
