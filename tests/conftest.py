"""Shared fixtures, and the one table of tolerances."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# The interpreter's products of tiles are too small for threads, which take 100 times the CPU time
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# The processes of `pytest -n` share the cores: a thread that spins while it waits would keep one from another process.
# Two threads at least, or no test would find what goes wrong between threads.
if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(2, (os.cpu_count() or 1) // processes)))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
import torch
from torch import Tensor

from deblurgan import images
from deblurgan.device import assume_kernels
from deblurgan.nn import Generator

# Without a GPU the Triton kernels run in its interpreter, which must be chosen before anything imports triton. It
# multiplies the bits of bfloat16 as if they were numbers, so those are left to GPUs.
KERNEL_DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KERNEL_DTYPES = [torch.float32, torch.float16]
if KERNEL_DEVICE.type == "cuda":
    KERNEL_DTYPES.append(torch.bfloat16)
else:
    os.environ["TRITON_INTERPRET"] = "1"


def quicken_interpreter() -> None:
    """A quarter of its time goes into looking through Triton's language for what to replace, at each launch and in each
    function that a kernel calls, and into a table of NumPy's types for each value. Both are remembered here."""
    from triton.language.core import is_builtin
    from triton.runtime import interpreter

    @functools.cache
    def builtins(of: Any) -> list[str]:
        return [name for name, member in inspect.getmembers(of) if is_builtin(member)]

    def patch_builtins(of: Any, builder: Any, scope: Any) -> None:
        for name in builtins(of):
            member = getattr(of, name)
            if is_builtin(member):  # not replaced already
                interpreter._patch_attr(of, name, member, builder, scope)

    def numpy_type(of: Any) -> np.dtype:
        name = of.scalar.name
        if name not in numpy_types:
            numpy_types[name] = look_up(of)
        return numpy_types[name]

    numpy_types: dict[str, np.dtype] = {}
    look_up = interpreter._get_np_dtype
    interpreter._get_np_dtype = numpy_type
    interpreter._patch_builtin = patch_builtins


if KERNEL_DEVICE.type == "cpu" and importlib.util.find_spec("triton"):
    quicken_interpreter()

# What is compared in fp32 is to be fp32, and what is asked for twice the same bits.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.deterministic = True

# Relative error |a - b| / |b| allowed against fp64, by what computed a. One layer or op, and a whole network.
OP_TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}
NET_TOLERANCE = {
    torch.float64: 1e-11,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 8e-2,
}


def uses_kernels(module: ModuleType) -> bool:
    """Whether a module's tests work on the kernels' device, by what it imports."""
    imported = vars(module)
    here = {"KERNEL_DEVICE", "KERNEL_DTYPES", "lively", "textures"}
    return not here.isdisjoint(imported) or any(
        getattr(value, "__module__", None) == "kernel_cases" for value in imported.values()
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m gpu` selects whatever runs kernels: on a GPU they are compiled, elsewhere interpreted."""
    for item in items:
        if isinstance(item, pytest.Function) and (
            uses_kernels(item.module) or {"kernels", "few_programs"} & set(item.fixturenames)
        ):
            item.add_marker("gpu")


@pytest.fixture(autouse=True)
def launches_are_selected(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that launches kernels fails where `-m gpu` would leave it out."""

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("kernels are launched, but -m gpu does not select this test: import KERNEL_DEVICE")

    interpreter = sys.modules.get("triton.runtime.interpreter")
    if interpreter is not None and request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr(interpreter.GridExecutor, "__call__", refuse)


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """|got - wanted| / |wanted| in fp64; 0 where both vanish."""
    got, wanted = got.detach().double().cpu(), wanted.detach().double().cpu()
    assert got.shape == wanted.shape, f"shape {tuple(got.shape)} instead of {tuple(wanted.shape)}"
    assert got.isfinite().all(), "not finite"
    scale = wanted.norm()
    error = (got - wanted).norm()
    return float(error / scale) if scale > 0 else float(error)


def assert_matches(got: Tensor, wanted: Tensor, *, name: str = "result", table: dict = OP_TOLERANCE) -> None:
    """`got` is within its dtype's tolerance of the fp64 truth `wanted`."""
    error = relative_error(got, wanted)
    assert error <= table[got.dtype], f"{name}: relative error {error:.3g} above {table[got.dtype]:.3g} for {got.dtype}"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    return torch.device(request.param)


@pytest.fixture
def poisoned() -> Iterator[None]:
    """torch.empty gives NaN (or the largest integer), so an element that nobody writes shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def kernels() -> Iterator[None]:
    """Ops and networks run in our kernels on the CPU too, in Triton's interpreter."""
    pytest.importorskip("triton")
    with assume_kernels():
        yield


@pytest.fixture
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def threads_of_torch() -> Iterator[None]:
    """Results of processes that tests start are compared with those of this one, which has as many threads."""
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture
def few_programs(seeded: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each program costs the interpreter the same, however much it does: kernels launch few, large ones. What
    torch does between them is too small for threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if KERNEL_DEVICE.type == "cpu":
        from deblurgan.kernels import conv_wgrad, merge_stats, norm_act_grad

        monkeypatch.setattr(merge_stats, "BLOCK_C", 64)
        monkeypatch.setattr(merge_stats, "BLOCK_TILES", 32)
        monkeypatch.setattr(norm_act_grad, "TILES", 4)
        monkeypatch.setattr(conv_wgrad, "launched_warps", lambda device: 4)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_generator() -> Generator:
    """A "paper" network small enough for any test, with weights that change a picture visibly."""
    torch.manual_seed(0)
    return Generator("tiny", width=4, blocks=1).eval()


def texture(h: int, w: int, *, seed: int = 0) -> np.ndarray:
    """A uint8 picture [h, w, 3] with edges and fine detail, never flat."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    waves = np.stack([np.sin(x / (3 + k) + k) * np.cos(y / (4 + k)) for k in range(3)], -1)
    return np.clip(128 + 70 * waves + random.normal(0, 20, (h, w, 3)), 0, 255).astype(np.uint8)


def textures(n: int, h: int, w: int) -> Tensor:
    """uint8 [n, 3, h, w] with texture, on the kernels' device."""
    made = [torch.from_numpy(texture(h, w, seed=seed)).permute(2, 0, 1) for seed in range(n)]
    return torch.stack(made).to(KERNEL_DEVICE)


@torch.no_grad()
def lively(generator: Generator) -> Generator:
    """The generator with weights and biases that all matter, on the kernels' device."""
    for parameter in generator.parameters():
        parameter.normal_(0, 0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5)
    generator.head.weight.mul_(0.3)
    return generator.to(KERNEL_DEVICE)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of four sharp pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        images.write(images.Picture(texture(72, 96, seed=i)), folder / f"{i}.png")
    return folder
