"""`tune`: layer after layer until the budget is spent, each into the table as soon as it is measured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import wait
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path

import torch

from deblurgan.config import TuneConfig, parsed_size
from deblurgan.device import pick_device, torch_defaults, why_no_kernels
from deblurgan.kernels import rows
from deblurgan.kernels.candidates import candidates, label
from deblurgan.kernels.config import ConvConfig, ConvShape, Gpu
from deblurgan.kernels.rows import Row
from deblurgan.kernels.table import config_picker, current_gpu
from deblurgan.spec import PRESETS
from deblurgan.tuning.compiling import Compiler, processes_for
from deblurgan.tuning.measure import HEADINGS, Result, facts, line, measure, row_of
from deblurgan.tuning.problems import Size, Work, layers, make_problem

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8, "fp8": torch.float8_e4m3fn}


def tune(options: TuneConfig | None = None, *, log: Callable[[str], None] | None = None) -> list[Row]:
    """Measures which tilings of our kernels are the fastest for each layer on this GPU, and when cuDNN is.

    Each layer's row is in the table before the next is measured, so that a run that is stopped keeps its rows. They
    count for this GPU and these versions of torch, Triton, cuDNN and the kernels; networks made from now on go by them.
    A tiling counts only if its result is right to rounding. `log` takes a line a layer. Returns the rows.

    Raises ValueError where our kernels do not run on the device or not in the dtype; ValueError or OSError where the
    table is damaged or cannot be written: it stays as it is.
    """
    options, log = options or TuneConfig(), log or (lambda text: None)
    device = pick_device(options.device)
    why, gpu = why_no_kernels(device), current_gpu(device)
    if why is not None or gpu is None:
        raise ValueError(f"device must be a GPU that our kernels run on, got {device}: {why}")
    path, software = options.table or rows.user_table(), "" if options.any_software else rows.software()
    known = known_rows(path)
    if options.json:
        save_times(options.json, gpu, [])
    works = [work for work in planned(options) if candidates(work.shape, gpu)]
    if not works:
        raise ValueError(f"dtype must be one that our kernels multiply on {gpu.name}, got {options.dtype}")
    works = ordered(works, lambda work: (gpu, work.shape, software) in known)
    log(f"{gpu.name}, rows to {path}\n\n| {' | '.join(HEADINGS)} |\n{'|---' * len(HEADINGS)}|")
    found: list[Row] = []
    results: list[Result] = []
    try:
        with closing(measured(works, gpu, device, options.budget)) as measuring:
            for result, left in measuring:
                results.append(result)
                row = row_of(result, gpu, software)
                if row:
                    rows.merge(path, [row])
                    found.append(row)
                if options.json:
                    save_times(options.json, gpu, results)
                log(line(result, left))
                for config, reason in result.failed.items():
                    log(f"{label(config) if config else 'cuDNN'}: {reason}")
    finally:
        config_picker.cache_clear()
    if len(results) < len(works):
        log(f"\nThe budget is spent: {len(results)} of {len(works)} are measured, another run goes on with the rest.")
    return found


def known_rows(path: Path) -> set[tuple[Gpu, ConvShape, str]]:
    """The keys of a table's rows. What is in the way of writing to it shows here, before the work."""
    try:
        return {row.key for row in rows.merge(path, [])}
    except ValueError as error:
        raise ValueError(f"{path} is no table of tilings, move it away or name another: {error}") from error


def planned(options: TuneConfig) -> Iterator[Work]:
    """Everything that the options ask for, in the order of the networks."""
    narrow = options.dtype in ("int8", "fp8")
    kinds = [] if options.gradients_only else [("", options.sizes, options.dtype or "fp16")]
    if not options.forward_only and not narrow:
        kinds += [(gradient, options.crops, options.dtype or "bf16") for gradient in ("dgrad", "wgrad")]
    for preset in options.preset:
        for gradient, sizes, dtype in kinds:
            for size, stage in product(sizes, layers(PRESETS[preset])):
                if (stage.kind == "trunk" or not narrow) and (stage.kind, gradient) != ("stem", "dgrad"):
                    yield Work(preset, stage.name, gradient, Size(*parsed_size("sizes", size)), DTYPES[dtype])


def ordered(works: list[Work], is_known: Callable[[Work], bool]) -> list[Work]:
    """What has no row first, then the residual blocks, which take most of the time; of the same shape the first."""
    distinct = {work.shape: work for work in reversed(works)}
    return sorted(
        (work for work in works if distinct[work.shape] is work),
        key=lambda work: (is_known(work), work.stage.kind != "trunk", bool(work.gradient)),
    )


def measured(
    works: list[Work], gpu: Gpu, device: torch.device, budget: float
) -> Generator[tuple[Result, float], None, None]:
    """Each result, and the seconds then left. Kernels are compiled meanwhile, in the same order; when the budget is
    spent a layer is still measured with those that are ready."""
    deadline = time.monotonic() + budget
    configs: dict[Work, list[ConvConfig | None]] = {work: [None, *candidates(work.shape, gpu)] for work in works}
    processes = processes_for(sum(map(len, configs.values())))
    with as_deblurgan_runs(device), Compiler(gpu.capability, processes) as compiler:
        jobs = {work: {config: compiler.submit(work, config) for config in configs[work]} for work in works}
        for work in works:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            _, pending = wait(jobs[work].values(), timeout=left)
            compiled = {config: future.exception() for config, future in jobs[work].items() if future not in pending}
            ready = [config for config, error in compiled.items() if config and error is None]
            if pending and not ready:
                return
            try:
                result = measure(work, make_problem(work, device), ready)
            except torch.OutOfMemoryError as error:
                result = Result(work, failed={None: str(error)})
            result.failed |= {config: str(error) for config, error in compiled.items() if config and error}
            yield result, deadline - time.monotonic()


@contextmanager
def as_deblurgan_runs(device: torch.device) -> Iterator[None]:
    """cuDNN takes the algorithm that its heuristics find, fp32 is fp32, and the caller's random numbers stay his."""
    devices = [device] if device.type == "cuda" else []
    with (
        torch_defaults(),
        torch.no_grad(),
        torch.random.fork_rng(devices),
        torch.cuda.device_of(torch.empty(0, device=device)),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False),
    ):
        torch.manual_seed(0)
        yield


def save_times(path: Path, gpu: Gpu, results: list[Result]) -> None:
    """All times so far as a file in JSON."""
    content = {"gpu": gpu._asdict(), "software": rows.software(), "results": [facts(result) for result in results]}
    path.write_text(json.dumps(content, indent=1) + "\n")
