"""The time of one problem by tiling, and what became of it: a row of the table, a line, figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deblurgan.generator.graphs import captured
from deblurgan.kernels.candidates import label
from deblurgan.kernels.config import ConvConfig, Gpu
from deblurgan.kernels.rows import Row
from deblurgan.tuning.problems import Problem, Work

# Relative error of a result. sm_90 adds products of fp8 in fewer bits than fp32 has
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.int8: 2e-3, torch.float8_e4m3fn: 1e-2}


@dataclass
class Result:
    """Seconds of a piece of work by tiling, and why others have none. None is cuDNN."""

    work: Work
    library: float = float("inf")
    ours: dict[ConvConfig, float] = field(default_factory=dict)
    failed: dict[ConvConfig | None, str] = field(default_factory=dict)

    @property
    def best(self) -> ConvConfig | None:
        """The fastest of ours."""
        return min(self.ours, key=self.ours.__getitem__, default=None)


def measure(work: Work, problem: Problem, configs: Sequence[ConvConfig]) -> Result:
    """Times cuDNN and every tiling that gives the same."""
    result = Result(work)
    wanted = problem.wanted()
    for config in (None, *configs):
        with _noted(result, config):
            _check(problem, config, wanted)
    del wanted  # as large as the result in fp32
    for config in [config for config in (None, *configs) if config not in result.failed]:
        with _noted(result, config):
            took = seconds(partial(problem.run, config))
            if config is None:
                result.library = took
            else:
                result.ours[config] = took
    return result


def _check(problem: Problem, config: ConvConfig | None, wanted: Tensor) -> None:
    """Raises ArithmeticError for a result of the tiling that is not what is wanted."""
    error = float((problem.finish(problem.run(config)) - wanted).norm() / wanted.norm())
    if not error <= TOLERANCE[problem.dtype]:
        raise ArithmeticError(f"relative error {error:.3g}")


@contextmanager
def _noted(result: Result, config: ConvConfig | None) -> Iterator[None]:
    """An error within is noted for the tiling, and says nothing of the next one."""
    try:
        yield
    except Exception as error:
        result.failed[config] = f"{type(error).__name__}: {error}"


def seconds(call: Callable[[], Any], calls: int = 10, rounds: int = 30) -> float:
    """The median time of a call in a CUDA graph of several, as the engine launches it."""
    for _ in range(3):
        call()
    with captured(torch.device("cuda", torch.cuda.current_device())) as graph:
        for _ in range(calls):
            call()
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / calls)
    return statistics.median(times[3:])


def row_of(result: Result, gpu: Gpu, software: str) -> Row | None:
    """The table's row: the fastest of ours, or cuDNN where that is faster, which the head and 8 bits do not have. None
    where nothing was timed."""
    best = result.best
    ours_alone = result.work.shape.kind == "head" or result.work.dtype.itemsize == 1
    wins = best is not None and (ours_alone or result.ours[best] < result.library)
    if not wins and (ours_alone or None in result.failed):
        return None
    return Row(gpu, result.work.shape, best if wins else None, software)


HEADINGS = ["layer", "picture", "type", "ours", "us", "TFLOP/s", "cuDNN us", "cuDNN / ours", "s left"]


def line(result: Result, left: float) -> str:
    """The fastest of ours beside cuDNN, as a row of a Markdown table; `left` seconds of the budget."""
    (n, h, w), best = result.work.size, result.best
    cells = [str(result.work), f"{h}x{w}x{n}", str(result.work.dtype).removeprefix("torch.")]
    library = f"{1e6 * result.library:.1f}"
    if best is None:
        cells += ["none", "", "", library, ""]
    else:
        took = result.ours[best]
        cells += [label(best), f"{1e6 * took:.1f}", f"{result.work.flops / took / 1e12:.0f}", library]
        cells.append(f"{result.library / took:.2f}")
    return f"| {' | '.join([*cells, f'{max(0.0, left):.0f}'])} |"


def facts(result: Result) -> dict[str, Any]:
    """All that was measured, in JSON's terms."""
    shape = result.work.shape
    return {
        **shape._asdict(),
        "dtype": str(shape.dtype).removeprefix("torch."),
        "layer": str(result.work),
        "size": result.work.size,
        "flops": result.work.flops,
        "cudnn_s": None if None in result.failed else result.library,
        "ours_s": {label(config): took for config, took in result.ours.items()},
        "failed": {label(config) if config else "cuDNN": why for config, why in result.failed.items()},
    }
