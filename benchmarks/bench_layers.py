"""The kernels of the generator's forward pass one by one on a GPU, each `CALLS` times in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from harness import measure
from pytest_benchmark.fixture import BenchmarkFixture
from roofline import H200, generator_kernels
from torch import Tensor

from deblurgan import reference
from deblurgan.kernels.candidates import candidates, label
from deblurgan.kernels.table import current_gpu
from deblurgan.spec import PRESETS
from deblurgan.tuning.problems import Size, Work, make_problem

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda")
pytestmark = pytest.mark.skipif(not CUDA, reason="torch sees no CUDA device")

CALLS = 20
RATES = {"NVIDIA H200": H200}
DTYPE = torch.float16
TOLERANCE = 2e-3  # of one layer in fp16
SIZE = (1, 720, 1280)
N, H, W = SIZE


def rates() -> Any:
    return RATES.get(torch.cuda.get_device_name())


def repeated(run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """Calls of `run` in a CUDA graph, and the result of the last, which each replay writes again."""
    for _ in range(3):
        run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            result = run()
    return graph.replay, result


def measure_kernel(
    benchmark: BenchmarkFixture,
    run: Callable[[], Any],
    wanted: Tensor,
    compared: Callable[[Any], Tensor] = lambda result: result,
    **facts: Any,
) -> None:
    replay, result = repeated(run)
    measure(benchmark, replay, wanted, compared=lambda _: compared(result), calls=CALLS, tolerance=TOLERANCE, **facts)


def configs(kind: str) -> list[Any]:
    """cuDNN, as None, and the configurations that our kernel may take for a layer of `paper` on this GPU."""
    if not CUDA:
        return [None]
    gpu = current_gpu(DEVICE)
    assert gpu
    return [None, *candidates(work("blocks.0.conv1" if kind == "trunk" else kind).shape, gpu)]


def work(layer: str) -> Work:
    return Work("paper", layer, "", Size(*SIZE), DTYPE)


def name(config: Any) -> str:
    return "cuDNN" if config is None else f"ours {label(config)}"


def measure_layer(benchmark: BenchmarkFixture, layer: str, config: Any) -> None:
    torch.manual_seed(0)
    problem = make_problem(work("blocks.0.conv1" if layer == "trunk" else layer), DEVICE)
    kernel = next(kernel for kernel in generator_kernels(PRESETS["paper"], H, W, N) if kernel.name == layer)
    measure_kernel(
        benchmark,
        lambda: problem.run(config),
        problem.wanted(),
        problem.finish,
        group=f"layer {layer} {kernel.shape}, {N} of {H}x{W} fp16",
        path=name(config),
        floor_s=kernel.floor_s(rates()) if rates() else None,
        flops=kernel.flops,
    )


@pytest.mark.parametrize("config", configs("trunk"), ids=name)
def bench_trunk_convolution(benchmark: BenchmarkFixture, config: Any) -> None:
    """With its statistics, as cuDNN's with `tile_stats`."""
    measure_layer(benchmark, "trunk", config)


@pytest.mark.parametrize("config", configs("head"), ids=name)
def bench_output_tail(benchmark: BenchmarkFixture, config: Any) -> None:
    measure_layer(benchmark, "head", config)


def measure_moving(
    benchmark: BenchmarkFixture, run: Callable[[], Any], wanted: Tensor, moved: int, **facts: Any
) -> None:
    """`moved`: the bytes read and written."""
    floor_s = moved / rates().bytes if rates() else None
    measure_kernel(benchmark, run, wanted, floor_s=floor_s, moved_bytes=moved, **facts)


# Height, width and channels, and the border that the next layer reads: within a block, after it, before the head
NORMS = {"inner": (180, 320, 256, 1), "residual": (180, 320, 256, 1), "up.1": (720, 1280, 64, 3)}


@pytest.mark.parametrize("path", ["ours", "copy"])
@pytest.mark.parametrize("stage", NORMS)
def bench_norm_act(benchmark: BenchmarkFixture, stage: str, path: str) -> None:
    """Beside a copy of y. The smaller two pictures stay in an H200's second-level cache, of the copy too."""
    from deblurgan.kernels.config import Border, NormActInputs
    from deblurgan.kernels.norm_act import norm_act

    h, w, c, border = NORMS[stage]
    torch.manual_seed(0)
    y, before = (torch.randn(N, h, w, c, device=DEVICE).to(DTYPE) for _ in range(2))
    job = {"group": f"layer norm {stage}, {h}x{w}x{c} fp16", "path": path}
    if path == "copy":
        out = torch.empty_like(y)
        measure_moving(benchmark, lambda: out.copy_(y), y, 2 * y.nbytes, **job)
        return
    act: reference.Act = "none" if stage == "residual" else "relu"
    residual = before if stage == "residual" else None
    stats = torch.stack([y.float().mean((1, 2)), (y.float().var((1, 2), correction=0) + reference.EPS).rsqrt()], 1)
    inputs = NormActInputs(y, stats, 0.0 if act == "relu" else 1.0)
    whole = torch.empty(N, h + 2 * border, w + 2 * border, c, dtype=DTYPE, device=DEVICE)
    inside = whole[:, border:-border, border:-border]

    def run() -> Tensor:
        norm_act(inputs, inside, residual=residual, border=Border("reflect", border))
        return whole

    exact = [None if part is None else part.double().permute(0, 3, 1, 2) for part in (y, residual)]
    wanted = reference.pad(reference.norm_act(exact[0], act=act, residual=exact[1]), border, "reflect")
    moved = y.nbytes + whole.nbytes + (0 if residual is None else residual.nbytes)
    measure_moving(benchmark, run, wanted.permute(0, 2, 3, 1), moved, **job)


@pytest.mark.parametrize("tiles, c", [(7200, 64), (450, 256)], ids=["stem", "trunk"])
def bench_merge_stats(benchmark: BenchmarkFixture, tiles: int, c: int) -> None:
    """With tiles of 128 pixels at full and at a quarter resolution."""
    from deblurgan.kernels.config import TileStats
    from deblurgan.kernels.merge_stats import merge_stats

    torch.manual_seed(0)
    means, m2 = torch.randn(2, N, tiles, c, device=DEVICE)
    partials, counts = torch.stack([means, 128 * m2**2], 2), torch.full((tiles,), 128.0, device=DEVICE)
    stats = torch.empty(N, 2, c, device=DEVICE)

    def run() -> Tensor:
        merge_stats(TileStats(partials, counts), stats, eps=reference.EPS)
        return stats

    mean = means.double().mean(1)
    variance = (m2.double() ** 2).mean(1) + means.double().var(1, correction=0)
    wanted = torch.stack([mean, (variance + reference.EPS).rsqrt()], 1)
    group = f"layer merge_stats of {tiles} tiles, {c} channels"
    measure_moving(benchmark, run, wanted, partials.nbytes + counts.nbytes + stats.nbytes, group=group, path="ours")
