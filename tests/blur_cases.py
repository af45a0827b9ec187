"""What the tests of the blur share: pictures, PSFs, windows, and every op that draws, called one way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from deblurgan import ops
from deblurgan.blur import (
    Draws,
)

DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32]
SIGNED = [torch.float16, torch.bfloat16, torch.float32]
ONE = torch.ones(1, 1)
COUNTER = torch.tensor([3, 5])
X, K, W = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 3), torch.zeros(2, 3, dtype=torch.int64)


def picture(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Never quite black, where the light's root has no derivative."""
    x = 0.1 + 0.9 * torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (255 * x).to(dtype) if dtype == torch.uint8 else x.to(dtype)


def kernels(n: int, k: int) -> Tensor:
    """PSFs without any symmetry, a third of their cells empty."""
    psf = torch.rand(n, k, k, generator=torch.Generator().manual_seed(4))
    psf = torch.where(psf < 1 / 3, 0, psf)
    psf[:, 0, 0] = 1
    return psf / psf.sum((1, 2), keepdim=True)


def corners(n: int, picture: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Windows in the first and last corner by turns, every other one mirrored."""
    (h, w), (rows, columns) = picture, size
    return torch.tensor([[(h - rows) * (i % 2), (w - columns) * (i % 2), i % 2] for i in range(n)])


def same(a: Tensor, b: Tensor) -> bool:
    """Whether both hold the same bytes."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def drawn_uniforms(n: int, draws: Draws, device: str) -> Tensor:
    return ops.uniforms(n, **draws._asdict(), device=device)


def drawn_windows(n: int, draws: Draws, device: str) -> Tensor:
    return ops.random_windows(n, picture=(99, 70), size=(20, 30), **draws._asdict(), device=device)


def drawn_paths(n: int, draws: Draws, device: str, steps: int = 300, length: float = 8.0) -> Tensor:
    anxiety = torch.full((n,), 0.01, device=device)
    return ops.random_trajectories(anxiety, draws.seed, draws.first, steps, length, draws.counter)


def drawn_psfs(n: int, draws: Draws, device: str) -> Tensor:
    paths, share = drawn_paths(n, draws, device), torch.full((n,), 0.7, device=device)
    both = [ops.rasterize_psf(paths, share, 15, mode) for mode in ("centered", "released")]
    return torch.stack(both, 1)


def drawn_taps(n: int, draws: Draws, device: str) -> Tensor:
    """Offset and weight of each tap."""
    offset, weight, counts = ops.psf_taps(drawn_psfs(n, draws, device)[:, 0], 100)
    stored = torch.arange(100, device=device) < counts[:, None]
    return torch.where(stored[..., None], torch.cat([offset.float(), weight[..., None]], 2), 0)


def drawn_noise(n: int, draws: Draws, device: str) -> Tensor:
    x = picture(1, 3, 99, 70).expand(n, -1, -1, -1).to(device)
    noise, windows = torch.full((n,), 0.1, device=device), drawn_windows(n, draws, device)
    psf = drawn_psfs(n, draws, device)[:, 0]
    return ops.apply_psf(x, psf, "reflect", 2.2, windows, [20, 30], noise, *draws)


def drawn_camera(n: int, draws: Draws, device: str) -> Tensor:
    x = (1.3 * picture(1, 3, 40, 50)).clamp(max=1).expand(n, -1, -1, -1).to(device)
    each = torch.ones(n, 1, device=device)
    psf, light, sensor = drawn_psfs(n, draws, device)[:, 0], each[:, 0], torch.cat([1e-3 * each, 1e-2 * each], 1)
    return ops.apply_psf(x, psf, "reflect", 2.2, None, None, None, *draws, highlights=light, sensor=sensor)


# As many as are worth three threads.
DRAWN: dict[str, tuple[int, Callable[[int, Draws, str], Tensor]]] = {
    "uniforms": (40_000, drawn_uniforms),
    "random_windows": (40_000, drawn_windows),
    "random_trajectories": (32, drawn_paths),
    "rasterize_psf": (64, drawn_psfs),
    "psf_taps": (1200, drawn_taps),
}
BLURRED = {"noise": (8, drawn_noise), "camera": (8, drawn_camera)}
ALL_DRAWN = DRAWN | BLURRED
