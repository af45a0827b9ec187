"""The generator's forward pass, whole: ours and the other ways to run it, on the CPU and on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import pytest
import runners
import torch
from harness import Work, measure
from pytest_benchmark.fixture import BenchmarkFixture
from roofline import H200, generator_kernels, net_floors, predict_net, total
from torch import Tensor

from deblurgan import Deblurrer
from deblurgan.nn import Generator
from deblurgan.spec import PRESETS

FP32, BF16 = torch.float32, torch.bfloat16
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}
AUTO = Deblurrer(Generator("tiny", width=1, blocks=0), device="cpu").dtype
RATES = {"NVIDIA H200": H200}

# What each computes in, and how
ON_CPU = {
    "ours": (AUTO, runners.deblurrer),
    "ours, compile=True": (AUTO, partial(runners.deblurrer, compile=True)),
    "eager fp32 NCHW": (FP32, partial(runners.eager, dtype=FP32)),
    "eager fp32 channels_last": (FP32, partial(runners.eager, dtype=FP32, channels_last=True)),
    "eager bf16 NCHW": (BF16, partial(runners.eager, dtype=BF16)),
    "eager bf16 channels_last": (BF16, partial(runners.eager, dtype=BF16, channels_last=True)),
    "torch.compile fp32": (FP32, partial(runners.compiled, dtype=FP32)),
    "torch.compile bf16": (BF16, partial(runners.compiled, dtype=BF16)),
    "torch.compile bf16, frozen": (BF16, partial(runners.compiled, dtype=BF16, freezing=True)),
    "ONNX Runtime fp32": (FP32, runners.onnx_runtime),
    "OpenVINO bf16": (BF16, partial(runners.openvino, dtype=BF16)),
}
COMPILED = [path for path in ON_CPU if not path.startswith("eager") and path != "ours"]
ON_CUDA = {
    "ours": runners.engine,
    "eager fp32 NCHW": runners.eager,
    "eager channels_last": partial(runners.eager, channels_last=True),
    "eager channels_last + graph": runners.graphed,
    "torch.compile reduce-overhead": partial(runners.compiled, channels_last=True, mode="reduce-overhead"),
    "torch.compile max-autotune": partial(runners.compiled, channels_last=True, mode="max-autotune"),
}


@dataclass(frozen=True)
class Case:
    preset: str
    n: int
    height: int
    width: int
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def __str__(self) -> str:
        count = f"{self.n} of " if self.n > 1 else ""
        where = f" {NAMES[self.dtype]} cuda" if self.device == "cuda" else ""
        return f"{self.preset} {count}{self.height}x{self.width}{where}"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.n, 3, self.height, self.width


SIZES = [(1, 256, 256), (16, 256, 256), (1, 720, 1280), (8, 720, 1280)]
CPU_CASES = [*(Case(preset, 1, 256, 256) for preset in PRESETS), Case("tiny", 1, 720, 1280)]
CUDA_CASES = [Case("paper", *size, dtype, "cuda") for dtype in (torch.float16, BF16) for size in SIZES]
CUDA_CASES += [Case(preset, *size, torch.float16, "cuda") for preset in ("article", "tiny") for size in SIZES]


@lru_cache(maxsize=1)  # a batch in fp64 is large
def problem(preset: str, shape: tuple[int, int, int, int], device: str) -> tuple[Generator, Tensor, Tensor]:
    """A network with random weights, pictures, and what it makes of them in fp64."""
    torch.manual_seed(0)
    net = Generator(preset).eval().requires_grad_(False).to(device)
    x = (torch.rand(shape) * 2 - 1).to(device)
    net.double().backend = "reference"
    wanted = torch.cat([net(picture.double()) for picture in x.split(1)])
    net.float().backend = "auto"
    return net, x, wanted


def facts(case: Case) -> dict[str, Any]:
    return {"pictures": case.n, "megapixels": case.n * case.height * case.width / 1e6}


def forward_work(net: Generator, x: Tensor, dtype: torch.dtype) -> Work:
    """The convolutions' multiply-adds; the picture read, the weights read and the picture written."""
    n, _, h, w = x.shape
    kernels = generator_kernels(net.spec, h, w, n)
    weights = sum(parameter.numel() for parameter in net.parameters())
    return Work(int(total(kernels, lambda kernel: kernel.macs)), 2 * x.nbytes + weights * dtype.itemsize, dtype)


@pytest.mark.parametrize("path", ON_CPU)
@pytest.mark.parametrize("case", CPU_CASES, ids=str)
@torch.no_grad()
def bench_generator_on_cpu(benchmark: BenchmarkFixture, case: Case, path: str) -> None:
    if case.preset != "paper" and path in COMPILED:
        pytest.skip("compiling takes a minute a network: paper alone")
    net, x, wanted = problem(case.preset, case.shape, "cpu")
    dtype, build = ON_CPU[path]
    measure(
        benchmark,
        build(net, x),
        wanted,
        group=f"generator {case}",
        path=path,
        tolerance=TOLERANCE[dtype],
        work=forward_work(net, x, dtype),
        **facts(case),
    )


def predicted(case: Case, dtype: torch.dtype) -> dict[str, Any]:
    """The floors and the time expected of ours, where the GPU's rates are known."""
    rates = RATES.get(torch.cuda.get_device_name())
    if rates is None:
        return {}
    kernels = generator_kernels(PRESETS[case.preset], case.height, case.width, case.n, element=dtype.itemsize)
    floors = net_floors(kernels, rates)
    return {
        "floor_s": floors["pragmatic"],
        "math_floor_s": floors["math"],
        "expected_s": predict_net(kernels, rates)._asdict(),
    }


def allocated(call: runners.Call) -> int:
    """The bytes that the first calls allocate at most, those that make graphs among them."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        call()
    return torch.cuda.max_memory_allocated() - before


def relative_error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("path", ON_CUDA)
@pytest.mark.parametrize("case", CUDA_CASES, ids=str)
@torch.no_grad()
def bench_generator_on_cuda(benchmark: BenchmarkFixture, case: Case, path: str) -> None:
    if path.startswith("torch.compile") and case.preset != "paper":
        pytest.skip("compiling takes up to minutes a shape: paper alone")
    net, x, wanted = problem(case.preset, case.shape, "cuda")
    dtype = FP32 if path == "eager fp32 NCHW" else case.dtype
    call = ON_CUDA[path](net, x, dtype=dtype)
    if path.startswith("torch.compile"):
        error = relative_error(call(), runners.eager(net, x, dtype=dtype, channels_last=True)())
        assert error <= TOLERANCE[dtype], f"torch.compile is {error:.3g} from eager"
    pixels = case.n * case.height * case.width
    memory = {"bytes_per_pixel": allocated(call) / pixels}
    if path == "ours":
        memory["workspace_bytes_per_pixel"] = call.func.workspace(case.n, case.height, case.width).bytes / pixels
    measure(
        benchmark,
        call,
        wanted,
        group=f"generator {case}",
        path=path,
        tolerance=TOLERANCE[dtype],
        **predicted(case, dtype),
        **memory,
        **facts(case),
    )
