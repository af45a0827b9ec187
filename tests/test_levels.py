"""8-bit pictures go straight to the engine where it runs, and come back as plain torch's would."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import KERNEL_DEVICE, lively, texture
from deblurgan import Deblurrer, Generator
from deblurgan.device import assume_kernels
from deblurgan.generator.engine import Engine

pytest.importorskip("triton", reason="triton is not installed")

pytestmark = pytest.mark.usefixtures("few_programs", "kernels")


@pytest.fixture
def generator(seeded: None) -> Generator:
    return lively(Generator("tiny", width=4, blocks=0, downsamplings=1)).eval()


@pytest.fixture
def deblurrer(generator: Generator) -> Deblurrer:
    return Deblurrer(generator, device=KERNEL_DEVICE, dtype="fp32")


@pytest.fixture
def plain(generator: Generator) -> Callable[[Any], Any]:
    """In plain torch, by way of floats."""
    deblurrer = Deblurrer(generator, device=KERNEL_DEVICE, dtype="fp32")

    def restore(picture: Any) -> Any:
        with assume_kernels(False):
            return deblurrer(picture)

    return restore


def tensor(h: int, w: int) -> Tensor:
    return torch.from_numpy(texture(h, w)).permute(2, 0, 1)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What engines are given."""
    found: list[Tensor] = []
    restore = Engine.restore

    def noted(self: Engine, image: Tensor, counter: Tensor | None = None) -> tuple[Tensor, Tensor]:
        found.append(image)
        return restore(self, image, counter)

    monkeypatch.setattr(Engine, "restore", noted)
    return found


def assert_alike(got: Any, wanted: Any, source: Any) -> None:
    """Within one level, which a value halfway between two may cost, and rarely that."""
    got, wanted, source = (np.asarray(x, dtype=int) for x in (got, wanted, source))
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 1 and (got != wanted).mean() <= 1e-2
    assert np.abs(got - source).mean() > 2, "the network changes little"


@pytest.mark.parametrize("h, w", [(12, 16), (9, 13), (1, 2)])
def test_levels_are_plain_torch_s(
    deblurrer: Deblurrer, plain: Callable[[Any], Any], seen: list[Tensor], h: int, w: int
) -> None:
    x = texture(h, w)
    assert_alike(deblurrer(x), plain(x), x)
    (given,) = seen
    assert given.dtype == torch.uint8 and given.shape == (1, 3, max(8, h + h % 2), max(8, w + w % 2))
    assert given.is_contiguous(memory_format=torch.channels_last), "an array is transposed"


def test_levels_are_the_nearest(deblurrer: Deblurrer, generator: Generator) -> None:
    x = tensor(8, 10)
    exact = deepcopy(generator).double()
    exact.backend = "reference"
    with torch.no_grad():
        wanted = (exact((x[None].double() / 127.5 - 1).to(KERNEL_DEVICE))[0].cpu() + 1) * 127.5
    assert (deblurrer(x).double() - wanted).abs().max() <= 0.501


def test_a_batch_is_restored_one_by_one(deblurrer: Deblurrer, seen: list[Tensor]) -> None:
    batch = torch.stack([tensor(8, 9), tensor(8, 9).flip(2)])
    before = batch.clone()
    restored = deblurrer(batch)
    assert [tuple(x.shape) for x in seen] == [(1, 3, 8, 10)] * 2
    assert restored.dtype == torch.uint8 and restored.is_contiguous() and torch.equal(batch, before)
    assert torch.equal(restored[1], deblurrer(batch[1]))
    assert deblurrer(batch[:0]).shape == (0, 3, 8, 9)


def test_alpha_is_not_touched(deblurrer: Deblurrer, plain: Callable[[Any], Any]) -> None:
    picture = Image.fromarray(np.dstack([texture(9, 12), texture(9, 12, seed=3)[..., 0]]), "RGBA")
    restored = deblurrer(picture)
    assert_alike(restored.convert("RGB"), plain(picture).convert("RGB"), picture.convert("RGB"))
    assert restored.getchannel("A").tobytes() == picture.getchannel("A").tobytes()


def test_grey_goes_by_floats(deblurrer: Deblurrer, plain: Callable[[Any], Any], seen: list[Tensor]) -> None:
    """The mean of three results is rounded once."""
    x = texture(9, 12)[..., 0]
    assert_alike(deblurrer(x), plain(x), x)
    assert [given.dtype for given in seen] == [torch.float32]


@pytest.mark.filterwarnings("ignore:invalid", "ignore:overflow")
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_what_is_not_finite_is_an_error(generator: Generator, kind: type[np.generic]) -> None:
    with torch.no_grad():
        generator.head.bias[1] = math.nan
    broken = Deblurrer(generator, device=KERNEL_DEVICE, dtype="fp32")
    x = texture(8, 8)
    with pytest.raises(FloatingPointError, match=r"not finite in torch\.float32"):
        broken(x if kind == np.uint8 else x.astype(np.float32) / 255)


def test_other_ways_than_the_engine_take_floats(deblurrer: Deblurrer, seen: list[Tensor]) -> None:
    x = texture(8, 8)
    deblurrer.generator.backend = "reference"
    assert not np.array_equal(deblurrer(x), x)
    deblurrer.generator.backend = "auto"
    deblurrer.restorer._network = lambda signed, seed: signed  # as where torch.compile made it
    assert np.array_equal(deblurrer(x), x)
    assert seen == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_gpu_takes_levels_from_the_host_and_from_its_own_memory(seeded: None) -> None:
    deblurrer = Deblurrer(lively(Generator("paper", width=16, blocks=1)), device="cuda")
    with assume_kernels(False):
        wanted = deblurrer(tensor(37, 50))
    for source in (tensor(37, 50), tensor(37, 50).cuda()):
        results = [deblurrer(source) for _ in range(4)]  # the last by a graph
        assert all(result.device == source.device and not result.is_pinned() for result in results)
        assert all(torch.equal(result, results[0]) for result in results)
        assert_alike(results[0].cpu(), wanted, tensor(37, 50))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_gpu_serves_threads_on_streams_of_their_own(seeded: None) -> None:
    deblurrer = Deblurrer(lively(Generator("paper", width=16, blocks=1)), device="cuda")
    pictures = [tensor(32 + 4 * (i % 2), 48).roll(i, 2) for i in range(8)]
    wanted = [deblurrer(x) for x in pictures]

    def often(x: Tensor) -> list[Tensor]:
        with torch.cuda.stream(torch.cuda.Stream()):
            return [deblurrer(x) for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        for results, expected in zip(pool.map(often, pictures), wanted, strict=True):
            assert all(torch.equal(result, expected) for result in results)
