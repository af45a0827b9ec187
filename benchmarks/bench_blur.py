"""Camera shake on pictures: the whole blur, its kernels alone, its application alone, and how they scale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace

import pytest
import torch
from harness import Work, measure
from peers import APPLICATIONS, PLAIN_PYTHON, Camera, rounded, torch_fft
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from deblurgan import _C, reference
from deblurgan.blur import MotionBlur, apply_psf, rasterize_psf

DTYPES = {"uint8": torch.uint8, "fp32": torch.float32}
TOLERANCE = {torch.uint8: 1e-3, torch.float32: 1e-5}  # uint8: a tie may be rounded either way
BLUR = MotionBlur(exposure=1.0, anxiety=0.005)
OURS = {"ours": _C.instruction_set(), **{f"ours, {name}": name for name in _C.instruction_sets()}}  # by path
CPU_ONLY = {*OURS, *PLAIN_PYTHON, "scipy fftconvolve"} - {"ours"}


@dataclass(frozen=True)
class Pictures:
    n: int
    height: int
    width: int
    dtype: str
    device: str = "cpu"

    def __str__(self) -> str:
        count = f"{self.n} of " if self.n > 1 else ""
        return f"{count}{self.height}x{self.width} {self.dtype}{' cuda' if self.device == 'cuda' else ''}"

    def draw(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(self.n, 3, self.height, self.width, generator=generator)
        return (rounded(255 * x, torch.uint8) if self.dtype == "uint8" else x).to(self.device)


ON_CPU = [Pictures(1, *size, dtype) for size in ((256, 256), (720, 1280)) for dtype in DTYPES]
CUDA_PICTURES = [Pictures(256, 256, 256, "uint8", "cuda"), *(Pictures(1, 720, 1280, d, "cuda") for d in DTYPES)]
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
ON_CUDA = [pytest.param(pictures, marks=NO_CUDA) for pictures in CUDA_PICTURES]

FRAME = Pictures(1, 720, 1280, "fp32")
CORES = torch.get_num_threads()
THREADS = sorted({*(2**i for i in range(CORES.bit_length())), CORES})


def truth(x: Tensor, psf: Tensor) -> Tensor:
    """x blurred by psf in fp64."""
    return rounded(torch_fft(x.double(), psf.double()), x.dtype)


def facts(x: Tensor, psf: Tensor) -> dict[str, object]:
    """What blurring x by psf takes."""
    n, c, h, w = x.shape
    taps = int(torch.count_nonzero(psf))
    work = Work(multiply_adds=h * w * c * taps, bytes=2 * x.nbytes)
    return {"pictures": n, "megapixels": n * h * w / 1e6, "taps": taps / n, "work": work}


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Within it the blur's inner loop on the CPU is the one for `name`."""
    before = _C.instruction_set()
    _C.use_instruction_set(name)
    try:
        yield
    finally:
        _C.use_instruction_set(before)


def measure_blur(benchmark: BenchmarkFixture, pictures: Pictures, group: str, path: str) -> None:
    x = pictures.draw()
    blur = deepcopy(BLUR).to(x.device)
    psf = BLUR.psf(pictures.n, seed=0).to(x.device)
    measure(
        benchmark,
        lambda: blur(x, seed=0, index=0),
        truth(x, psf),
        group=group,
        path=path,
        tolerance=TOLERANCE[x.dtype],
        **facts(x, psf),
    )


def measure_application(benchmark: BenchmarkFixture, x: Tensor, psf: Tensor, group: str, path: str) -> None:
    if x.is_cuda and path in CPU_ONLY:
        pytest.skip(f"{path} works on the CPU")
    apply = apply_psf if path in OURS else APPLICATIONS[path]
    with instruction_set(OURS.get(path, OURS["ours"])):
        measure(
            benchmark,
            lambda: apply(x, psf),
            truth(x, psf),
            group=group,
            path=path,
            tolerance=TOLERANCE[x.dtype],
            **facts(x, psf),
        )


def measure_plain_python(benchmark: BenchmarkFixture, pictures: Pictures, group: str, path: str) -> None:
    x, peer = pictures.draw(), PLAIN_PYTHON[path]
    psf = rasterize_psf(peer.paths(pictures.n), mode=peer.mode)
    measure(
        benchmark,
        lambda: peer.blur(x),
        apply_psf(x, psf),
        group=group,
        path=path,
        tolerance=TOLERANCE[x.dtype],
        **facts(x, psf),
    )


@pytest.mark.parametrize("path", [*OURS, *PLAIN_PYTHON])
@pytest.mark.parametrize("pictures", ON_CPU + ON_CUDA, ids=str)
def bench_blur(benchmark: BenchmarkFixture, pictures: Pictures, path: str) -> None:
    if pictures.device != "cpu" and path in CPU_ONLY:
        pytest.skip(f"{path} works on the CPU")
    measure_as = measure_blur if path in OURS else measure_plain_python
    with instruction_set(OURS.get(path, OURS["ours"])):
        measure_as(benchmark, pictures, f"blur {pictures}", path)


@pytest.mark.parametrize("path", ["ours", *PLAIN_PYTHON])
@pytest.mark.parametrize("n", [1, 16])
def bench_kernels(benchmark: BenchmarkFixture, n: int, path: str) -> None:
    if path == "ours":
        paths = reference.random_trajectories(torch.full((n,), 0.005), seed=0)
        wanted = reference.rasterize_psf(paths, torch.ones(n), BLUR.size)
        tolerance = 1e-2  # 2000 steps of fp32 drift from those of fp64
        measure(benchmark, lambda: BLUR.psf(n, seed=0), wanted, group=f"kernels n={n}", path=path, tolerance=tolerance)
    else:
        peer = PLAIN_PYTHON[path]
        wanted = rasterize_psf(peer.paths(n), mode=peer.mode)
        measure(benchmark, lambda: peer.kernels(n), wanted, group=f"kernels n={n}", path=path, tolerance=1e-5)


@pytest.mark.parametrize("path", [*OURS, *APPLICATIONS])
@pytest.mark.parametrize("pictures", ON_CPU + ON_CUDA, ids=str)
def bench_application(benchmark: BenchmarkFixture, pictures: Pictures, path: str) -> None:
    x = pictures.draw()
    psf = BLUR.psf(pictures.n, seed=0).to(x.device)
    measure_application(benchmark, x, psf, f"application {pictures}", path)


@pytest.mark.parametrize("path", [*OURS, "grouped conv2d", "torch FFT", "scipy fftconvolve"])
@pytest.mark.parametrize("pictures", ON_CPU + ON_CUDA, ids=str)
def bench_camera(benchmark: BenchmarkFixture, pictures: Pictures, path: str) -> None:
    """A camera's blur; compared without a sensor's noise, which the peers draw otherwise."""
    x = pictures.draw()
    if x.is_cuda and path in CPU_ONLY:
        pytest.skip(f"{path} works on the CPU")
    x[:, :, ::8, ::8] = 255 if x.dtype == torch.uint8 else 1
    psf = BLUR.psf(pictures.n, seed=0).to(x.device)

    def blurred(camera: Camera) -> Tensor:
        if path in OURS:
            return apply_psf(x, psf, **asdict(camera))
        if path == "scipy fftconvolve":
            return camera.in_numpy(x, psf)
        return camera.in_torch(APPLICATIONS[path], x, psf)

    camera, quiet = Camera(), replace(Camera(), sensor=(0.0, 0.0))
    white = 255 if x.dtype == torch.uint8 else 1
    exact = white * quiet.in_torch(torch_fft, x.double() / white, psf.double())
    with instruction_set(OURS.get(path, OURS["ours"])):
        measure(
            benchmark,
            lambda: blurred(camera),
            rounded(exact, x.dtype),
            group=f"camera {pictures}",
            path=path,
            tolerance=TOLERANCE[x.dtype],
            compared=lambda _: blurred(quiet),
            **facts(x, psf),
        )


@pytest.mark.parametrize("path", ["ours", "torch FFT", "grouped conv2d"])
@pytest.mark.parametrize("kernel", [0.1, 0.5, 1.0, "dense 31x31"], ids=str)
def bench_scaling_over_support(benchmark: BenchmarkFixture, kernel: float | str, path: str) -> None:
    if isinstance(kernel, str):
        psf = torch.rand(1, 31, 31, generator=torch.Generator().manual_seed(0))
        psf, name = psf / psf.sum(), f"a {kernel} PSF"
    else:
        psf, name = MotionBlur(exposure=kernel, anxiety=0.005).psf(1, seed=0), f"exposure {kernel}"
    measure_application(benchmark, FRAME.draw(), psf, f"scaling over support: {name}, {FRAME}", path)


@pytest.mark.parametrize("threads", THREADS, indirect=True)
@pytest.mark.parametrize("pictures", [FRAME, Pictures(16, 256, 256, "uint8")], ids=str)
def bench_scaling_over_threads(benchmark: BenchmarkFixture, pictures: Pictures, threads: int) -> None:
    path = f"{threads} thread{'s' if threads > 1 else ''}"
    measure_blur(benchmark, pictures, f"scaling over threads: {pictures}", path)
