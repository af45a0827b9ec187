"""Statistics of tiles and what they merge to, in our kernels, against fp64."""

from __future__ import annotations

import math

import pytest
import torch

from conftest import KERNEL_DEVICE
from deblurgan import reference
from deblurgan.kernels.config import (
    TileStats,
)
from kernel_cases import (
    Launches,
    assert_stats,
    assert_tiles,
    bordered,
    each_dtype,
    merge,
    normal,
    poison,
    tiles_of,
)

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels import tile_stats as tile_stats_module
from deblurgan.kernels.merge_stats import BLOCK_TILES, merge_moments
from deblurgan.kernels.tile_stats import TILE, tile_stats

pytestmark = [pytest.mark.usefixtures("seeded"), pytest.mark.any_cpu]


@pytest.mark.parametrize("ratio", [0.0, 1000.0])
@pytest.mark.parametrize(
    "counts",
    [[7], [1], [16, 16, 16, 5], [0, 9], [4] * 300 + [1], [3] * (4 * BLOCK_TILES + 5) + [2]],
    ids=["one tile", "one pixel", "uneven last tile", "an empty tile", "several blocks", "groups"],
)
def test_merge_stats(counts: list[int], ratio: float) -> None:
    y = normal(2, sum(counts), 12) + ratio
    partials, sizes = tiles_of(y, counts)
    assert_stats(merge(partials, sizes), y[:, None])


@pytest.mark.parametrize("counts", [[7, 9], [0, 9], [4] * 300 + [1], [3] * (4 * BLOCK_TILES + 5) + [2]])
def test_merge_moments(counts: list[int]) -> None:
    """All tiles become one, whose mean and sum of squares are those of its pixels."""
    y = normal(2, sum(counts), 12) + 10
    merged = merge_moments(TileStats(*tiles_of(y, counts)))
    assert_tiles(y[:, None], *merged, [torch.arange(sum(counts), device=KERNEL_DEVICE)])


@pytest.mark.filterwarnings("ignore:invalid")
def test_merge_stats_of_a_group_without_pixels() -> None:
    """The flat convolution's last tile may lie on the border alone, and be alone in its group."""
    counts = [2] * (4 * BLOCK_TILES) + [0]
    y = normal(1, sum(counts), 8)
    partials, sizes = tiles_of(y, counts)
    assert_stats(merge(partials, sizes), y[:, None])


def test_merge_stats_is_deterministic() -> None:
    partials, counts = tiles_of(normal(1, 3 * 1500, 8), [3] * 1500)
    assert torch.equal(merge(partials, counts), merge(partials, counts))


@pytest.mark.parametrize("tiles", [3, 4 * BLOCK_TILES + 2])
def test_merge_stats_of_constants(tiles: int) -> None:
    value = torch.tensor([1 / 3, -1e4, 0.1], device=KERNEL_DEVICE)
    partials = poison(1, tiles, 2, 3)
    partials[:, :, 0], partials[:, :, 1] = value, 0
    stats = merge(partials, torch.full((tiles,), 37.0, device=KERNEL_DEVICE))
    assert torch.equal(stats[0, 0], value)
    assert ((stats[0, 1] * math.sqrt(reference.EPS) - 1).abs() <= 1e-6).all()


@each_dtype
@pytest.mark.parametrize(
    ("n", "h", "w", "c"), [(1, 1, 3, 24), (3, 17, 19, 16), (1, 16, 16, 96), (2, 3, 200, 32)], ids=str
)
def test_tile_stats(n: int, h: int, w: int, c: int, dtype: torch.dtype) -> None:
    _, _, y = bordered(n, h, w, c, 1, dtype)
    y.copy_(normal(*y.shape) + 1)
    tiles = math.ceil(h * w / TILE)
    assert tile_stats_module.tile_count(h, w) == tiles
    partials, counts = poison(n, tiles, 2, c), poison(tiles)
    tile_stats(y, TileStats(partials, counts))
    assert_tiles(y, partials, counts, list(torch.arange(h * w, device=y.device).split(TILE)))


@each_dtype
@pytest.mark.parametrize("kind", ["large mean", "constant"])
def test_tile_stats_keep_digits(kind: str, dtype: torch.dtype) -> None:
    mean = 1000.0 if dtype == torch.float32 else 90.0
    y = (normal(1, 13, 21, 16) + mean).to(dtype)
    if kind == "constant":
        y = y[:, :1, :1].expand(-1, 13, 21, -1).contiguous()
    tiles = tile_stats_module.tile_count(13, 21)
    partials, counts = poison(1, tiles, 2, 16), poison(tiles)
    tile_stats(y, TileStats(partials, counts))
    assert_tiles(y, partials, counts, list(torch.arange(13 * 21, device=y.device).split(TILE)))
    assert_stats(merge(partials, counts), y)
    if kind == "constant":
        assert not partials[:, :, 1].any()


def test_tile_stats_launches_for_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA allows 65535 programs along any axis but the first."""
    launches = Launches()
    monkeypatch.setattr(tile_stats_module, "tile_stats_kernel", launches)
    h, w = 4320, 7680
    tiles = tile_stats_module.tile_count(h, w)
    y = torch.empty(1, h, w, 64, device="meta")
    partials, counts = torch.empty(1, tiles, 2, 64, device="meta"), torch.empty(tiles, device="meta")
    tile_stats(y, TileStats(partials, counts))
    assert all(side <= 65535 for side in launches.grids[0][1:]), launches.grids[0]
