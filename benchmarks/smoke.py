"""python -m benchmarks.smoke [WORD ...]: whether it all works on this GPU, in about a minute.

Each check, or each whose name holds one of the words, prints a line of JSON as it ends: name, ok (null where it was
skipped), seconds (the compilation of its kernels among them), figure (a relative error), error. None stops at another's
failure. Exit code 1 says that one failed.

With DEBLURGAN_REHEARSAL=1 no GPU is needed: networks and pictures are small, and kernels run in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from deblurgan import Deblurrer
from deblurgan.blur import MotionBlur
from deblurgan.config import train_config
from deblurgan.device import assume_kernels
from deblurgan.generator import tape
from deblurgan.generator.engine import Engine
from deblurgan.kernels.config import ConvConfig, ConvShape
from deblurgan.kernels.heuristics import DEFAULTS, default_config
from deblurgan.nn import Critic, Generator, PerceptualFeatures
from deblurgan.ops.layers import QUANTIZED_CAPABILITY, Quantize
from deblurgan.training import MEASURES, Networks, Step

torch.backends.cudnn.allow_tf32 = False  # fp32 is to mean fp32
torch.backends.cudnn.deterministic = True

REHEARSAL = os.environ.get("DEBLURGAN_REHEARSAL") == "1"
DEVICE = torch.device("cpu" if REHEARSAL else "cuda")
SIDES = (8, 16) if REHEARSAL else (64, 256)
SMALL: dict[str, Any] = {"width": 8, "blocks": 1} if REHEARSAL else {}
NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 8e-2, torch.float32: 1e-4}  # of what a network adds to the picture
EIGHT_BITS: dict[Quantize, float] = {"int8": 0.1, "fp8": 0.3}  # the same of nets whose blocks are in 8 bits
CALLS = 2 if REHEARSAL else 5  # of the same shape, so that the last are replays
LONGEST = 90 * (5 if REHEARSAL else 1)  # seconds of a check before its process is ended


class Found(NamedTuple):
    """The largest relative error seen, and what is allowed."""

    figure: float
    limit: float


class Skipped(Exception):
    """A check that cannot run here, and why."""


def network(preset: str, **options: Any) -> Generator:
    """One whose weights and biases all matter."""
    torch.manual_seed(0)
    net = Generator(preset, **{**SMALL, **options}).requires_grad_(False)
    for parameter in net.parameters():
        parameter.normal_(0, 0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5)
    net.head.weight.mul_(0.3)
    return net.eval().to(DEVICE)


def picture(side: int, seed: int = 0) -> Tensor:
    """[1, 3, side, side] in [-1, 1]."""
    return (torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1).to(DEVICE)


def truth(net: Generator, x: Tensor) -> Tensor:
    """By plain torch in fp64."""
    exact = deepcopy(net).double()
    exact.backend = "reference"
    return exact(x.double())


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """NaN where something is not finite."""
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def worst(errors: Iterable[float]) -> float:
    return float(torch.tensor(list(errors)).max())  # which keeps NaN


@torch.no_grad()
def default_engine(preset: str, side: int, dtype: torch.dtype) -> Found:
    """As users have it."""
    if REHEARSAL and dtype == torch.bfloat16:
        raise Skipped("no GPU, and Triton's interpreter has no bfloat16")
    net, x = network(preset), picture(side)
    wanted = truth(net, x)
    net.to(dtype)
    why = net.why_reference(x)
    if why is not None:
        raise AssertionError(f"plain torch runs in place of the engine: {why}")
    return Found(worst(relative_error(net(x) - x, wanted - x) for _ in range(CALLS)), TOLERANCE[dtype])


@torch.no_grad()
def eight_bits(quantize: Quantize) -> Found:
    """Residual blocks in 8 bits, which cost more than rounding."""
    if not REHEARSAL and torch.cuda.get_device_capability() < QUANTIZED_CAPABILITY[quantize]:
        raise Skipped(f"this GPU is older than {quantize} needs")
    net, x = network("paper"), picture(SIDES[0])
    wanted = truth(net, x)
    net.half().quantize = quantize
    return Found(worst(relative_error(net(x) - x, wanted - x) for _ in range(CALLS)), EIGHT_BITS[quantize])


def forced(kind: str) -> Callable[[ConvShape], ConvConfig | None]:
    """Picks the largest tiling of one kind, and cuDNN for all others."""
    capability = (9, 0) if REHEARSAL else torch.cuda.get_device_capability()

    def pick(shape: ConvShape) -> ConvConfig | None:
        if shape.kind != kind:
            return None
        found = (default_config(**shape._asdict(), capability=c, sms=1) for c in (capability, (8, 0)))
        return next(config for config in found if config)

    return pick


@torch.no_grad()
def forced_forward(kind: str) -> Found:
    """One kind in our kernel against fp64."""
    net, x = network("paper", blocks=1), picture(SIDES[0])
    run = Engine(net.spec, dict(net.named_parameters()), dtype=torch.float16, pick_config=forced(kind))
    paths = run.paths(1, *x.shape[2:])
    missed = [stage.name for stage in net.spec.stages if stage.kind == kind and "Triton" not in paths[stage.name]]
    if missed:
        raise AssertionError(f"{', '.join(missed)} would run in cuDNN")
    return Found(relative_error(run(x) - x, truth(net, x) - x), TOLERANCE[torch.float16])


def forced_gradient(kind: str) -> Found:
    """One kind of gradient in our kernel against cuDNN's, after the same forward pass."""
    net, x = network("paper", blocks=1, dropout=0.0).requires_grad_(), picture(SIDES[0])
    parameters = {name: p for name, p in net.named_parameters() if name not in net.dead_biases()}
    toward = picture(SIDES[0], seed=1)

    def gradients(kind: str) -> tuple[Tensor, ...]:
        out = tape.restore(net.spec, dict(net.named_parameters()), x, dtype=torch.float16, pick_config=forced(kind))
        return torch.autograd.grad((out * toward).sum(), list(parameters.values()))

    figure = worst(map(relative_error, gradients(kind), gradients("none")))
    if figure == 0:
        raise AssertionError("cuDNN made both")
    return Found(figure, TOLERANCE[torch.float16])


@torch.no_grad()
def graph_replay() -> Found:
    """Pictures in turn, the later ones by replaying a CUDA graph."""
    if REHEARSAL:
        raise Skipped("no GPU")
    net = network("paper")
    pictures = [picture(SIDES[0], seed) for seed in (0, 1)] * CALLS
    wanted = [truth(net, x) - x for x in pictures[:2]] * CALLS
    net.half()
    replay, count = torch.cuda.CUDAGraph.replay, 0

    def counted(graph: torch.cuda.CUDAGraph) -> None:
        nonlocal count
        count += 1
        replay(graph)

    with mock.patch.object(torch.cuda.CUDAGraph, "replay", counted):
        errors = [relative_error(net(x) - x, exact) for x, exact in zip(pictures, wanted, strict=True)]
    if count < CALLS:
        raise AssertionError(f"{len(pictures)} calls of one shape replayed a graph {count} times")
    return Found(worst(errors), TOLERANCE[torch.float16])


def training_step() -> Found:
    """The losses of some steps on one picture, the later ones by replaying a graph, beside plain torch in fp32."""
    side = SIDES[0] if REHEARSAL else SIDES[-1]
    batch = [(picture(side, seed) * 127.5 + 127.5).to(torch.uint8) for seed in (0, 1)]
    compared = [MEASURES.index(name) for name in ("penalty", "content")]  # the others are differences of like numbers

    def losses(**options: Any) -> Tensor:
        torch.manual_seed(0)
        generator = Generator("paper", dropout=0.0, **SMALL).train()
        critic = Critic(width=4, layers=1) if REHEARSAL else Critic()
        features = PerceptualFeatures().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        networks = Networks(generator.to(DEVICE), critic.to(DEVICE), None, features.to(DEVICE))
        step = Step(train_config("unused", batch_size=1, critic_steps=1, device=DEVICE.type, **options), networks)
        return torch.stack([step(*batch, number=i, rate=1e-4)[compared] for i in range(CALLS)])

    with assume_kernels(False):
        plain = losses(precision="fp32", backend="reference", graphs=False)
    ours = losses(precision="fp32" if REHEARSAL else "bf16")
    return Found(float(((ours - plain) / plain).abs().max()), 0.1)


def two_threads() -> Found:
    """Two that share a Deblurrer, each on a stream of its own, have what one alone has."""
    with assume_kernels(False) if REHEARSAL else nullcontext():  # one interpreter cannot be shared
        run = Deblurrer(network("tiny"), device=DEVICE, dtype="fp32" if REHEARSAL else "fp16")
        pictures = [(picture(SIDES[-1], seed) + 1) / 2 for seed in range(4)]
        wanted = [run(x) for x in pictures]

        def work(number: int) -> list[float]:
            stream = nullcontext() if REHEARSAL else torch.cuda.stream(torch.cuda.Stream())
            with stream:
                mine = list(zip(pictures, wanted, strict=True))[number::2] * 10
                return [relative_error(run(x), expected) for x, expected in mine]

        if not REHEARSAL:
            torch.cuda.synchronize()
        with ThreadPoolExecutor(2) as pool:
            return Found(worst(error for errors in pool.map(work, range(2)) for error in errors), 1e-3)


def blur() -> Found:
    """Kernels drawn on the GPU have the CPU's bytes; pictures that they blur, as a camera too, differ in rounding."""
    if REHEARSAL:
        raise Skipped("no GPU")
    x, plain = ((picture(SIDES[-1]).cpu() + 1) / 1.5).clamp(max=1), MotionBlur(seed=3)  # a quarter is white
    if not torch.equal(plain.psf(64, seed=9, index=5), plain.psf(64, seed=9, index=5, device="cuda").cpu()):
        raise AssertionError("the GPU draws other kernels than the CPU")
    blurs = plain, MotionBlur(seed=3, realism="camera", jpeg=0)
    return Found(worst(relative_error(run(x.cuda(), index=0).cpu(), run(x, index=0)) for run in blurs), 1e-5)


FORWARD = [kind for kind in DEFAULTS if "." not in kind]
GRADIENTS = ["down.dgrad", "trunk.dgrad", "up.dgrad", "head.dgrad", *(kind for kind in DEFAULTS if "." in kind)]
HALF_AT_EACH = [(preset, side, torch.float16) for preset in ("paper", "tiny") for side in SIDES]
CHECKS: dict[str, Callable[[], Found]] = {
    f"engine {preset} {side}x{side} {NAMES[dtype]}": partial(default_engine, preset, side, dtype)
    for preset, side, dtype in [*HALF_AT_EACH, *(("paper", SIDES[0], dtype) for dtype in list(NAMES)[1:])]
}
CHECKS |= {f"engine in {quantize}": partial(eight_bits, quantize) for quantize in EIGHT_BITS}
CHECKS |= {"graph replay": graph_replay, "training step": training_step, "two threads": two_threads, "blur": blur}
CHECKS |= {f"forced {kind}": partial(forced_forward, kind) for kind in FORWARD}
CHECKS |= {f"forced {kind}": partial(forced_gradient, kind) for kind in GRADIENTS}


def line(name: str, ok: bool | None, seconds: float = 0.0, figure: float | None = None, error: str = "") -> str:
    figure = figure if figure is not None and math.isfinite(figure) else None
    return json.dumps({"name": name, "ok": ok, "seconds": round(seconds, 3), "figure": figure, "error": error})


def run(name: str) -> bool:
    """Runs a check and prints its line; False where it failed."""
    start, ok, figure, error = time.perf_counter(), None, None, ""
    signal.alarm(LONGEST)
    try:
        figure, limit = CHECKS[name]()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()  # what was launched may fail yet
        ok = figure <= limit
        error = "" if ok else f"relative error {figure:.3g} above {limit:.3g}"
    except Skipped as reason:
        error = f"skipped: {reason}"
    except Exception as failure:
        ok, error = False, f"{type(failure).__name__}: {str(failure)[:500]}"
    signal.alarm(0)
    print(line(name, ok, time.perf_counter() - start, figure, error), flush=True)
    return ok is not False


def run_until_failure(names: list[str]) -> int:
    with assume_kernels() if REHEARSAL else nullcontext():
        return 0 if all(map(run, names)) else 1


def run_in_processes(names: list[str]) -> int:
    """After a failure the rest run in a new process: an error of CUDA stays in the one it came up in, and one of the
    compiler may end it."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"} if REHEARSAL else None
    failed = False
    while names:
        command = [sys.executable, "-m", "benchmarks.smoke", "--until-failure", *names]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            ended = 0
            for text in process.stdout:
                print(text, end="", flush=True)
                ended += 1
        if process.returncode == 0:
            break
        failed = True
        if ended < len(names) and (ended == 0 or process.returncode != 1):
            print(line(names[ended], False, error=f"its process ended with {process.returncode}"), flush=True)
            ended += 1
        names = names[ended:]
    return int(failed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smoke", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--until-failure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not REHEARSAL and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device (DEBLURGAN_REHEARSAL=1 rehearses without one)")
    if args.until_failure:
        return run_until_failure(args.words)
    names = [name for name in CHECKS if not args.words or any(word in name for word in args.words)]
    if not names:
        parser.error(f"no check's name holds {' or '.join(args.words)}: {', '.join(CHECKS)}")
    return run_in_processes(names)


if __name__ == "__main__":
    sys.exit(main())
