"""The generator strip by strip gives what it gives for the whole picture, in the memory that is foretold."""

from __future__ import annotations

import random
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from conftest import assert_matches, lively
from deblurgan import Generator
from deblurgan.generator.head import head_conv
from deblurgan.generator.strip_memory import strip_bytes
from deblurgan.generator.strips import Shape, Strips
from deblurgan.generator.torch_strips import TorchOps


class Rows:
    """A plane in memory, full of NaN at first."""

    def __init__(self, h: int, w: int, c: int) -> None:
        self.rows = torch.full((h, w, c), float("nan"))

    def read(self, start: int, stop: int) -> Tensor:
        return self.rows[start:stop]

    def write(self, start: int, rows: Tensor) -> None:
        self.rows[start : start + len(rows)] = rows


@torch.no_grad()
def in_strips(generator: Generator, x: Tensor, rows: int, keep: int, **options: Any) -> Tensor:
    """x [1, 3, h, w] through the generator."""
    pixels, result = x[0].permute(1, 2, 0), torch.full((*x.shape[2:], 3), float("nan"))

    def put(start: int, restored: Tensor) -> None:
        assert result[start : start + len(restored)].isnan().all(), "a strip is repeated"
        result[start : start + len(restored)] = restored

    options = {"allocate": Rows, "done": lambda share: None} | options
    shape = Shape(generator.spec, x.shape[2], x.shape[3], rows, keep)
    ops = TorchOps(generator.state_dict())
    Strips(shape, ops, pixels=lambda start, stop: pixels[start:stop], put=put, **options).run()
    return result.permute(2, 0, 1)[None]


NETWORKS: list[tuple[Any, dict[str, Any]]] = [
    ("paper", {"width": 4, "blocks": 2}),
    ("paper", {"width": 3, "blocks": 1, "border": "zero"}),
    ("article", {"width": 4, "blocks": 3}),
    ("tiny", {"width": 5, "blocks": 0}),
    ("tiny", {"width": 2, "blocks": 1, "downsamplings": 1}),
    ("tiny", {"width": 2, "blocks": 1, "downsamplings": 3}),
]


@pytest.mark.parametrize("preset, options", NETWORKS)
def test_strips_of_any_height_give_the_whole_picture(preset: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    generator = lively(Generator(preset, **options)).cpu().eval()
    multiple, numbers = generator.spec.size_multiple, random.Random(0)
    for h, w in ((4, 5), (5, 4), (9, 4)):
        x = torch.rand(1, 3, h * multiple, w * multiple) * 2 - 1
        with torch.no_grad():
            wanted = generator.double()(x.double())
        generator.float()
        for halvings in range(generator.spec.downsamplings + 1):
            rows = multiple * numbers.randrange(1, h + 1)
            got = in_strips(generator, x, rows, 2**halvings)
            assert float((got - wanted).abs().max()) <= 1e-4, (h, w, rows, halvings)


def test_a_flat_picture_stays_exactly_flat(small_generator: Generator) -> None:
    """The mean of a constant plane is its value, however it is cut, and rounding errors are not divided by 0."""
    x = torch.full((1, 3, 24, 16), 0.3)
    torch.nn.init.zeros_(small_generator.stem.bias)
    whole = in_strips(small_generator, x, 24, 1)
    for rows in (4, 8, 20):
        torch.testing.assert_close(in_strips(small_generator, x, rows, 4), whole, atol=1e-6, rtol=0)


def test_the_share_that_is_done_grows_to_1(small_generator: Generator) -> None:
    shares: list[float] = []
    in_strips(small_generator, torch.zeros(1, 3, 24, 16), 4, 4, done=shares.append)
    assert shares == sorted(shares)
    assert len(shares) == 6 * len(Shape(small_generator.spec, 24, 16, 4, 4).passes)
    assert shares[-1] == pytest.approx(1)


@pytest.mark.parametrize("options", [options for _, options in NETWORKS])
def test_planes_live_as_long_as_they_are_said_to(options: dict[str, Any]) -> None:
    generator = Generator("tiny", **(options | {"dropout": 0.0}))
    multiple = generator.spec.size_multiple
    for halvings in range(generator.spec.downsamplings + 1):
        shape = Shape(generator.spec, 2 * multiple, 2 * multiple, 2 * multiple, 2**halvings)
        planes: list[weakref.ref[Rows]] = []
        passed: list[set[int]] = []

        def allocate(h: int, w: int, c: int, planes: Any = planes, shape: Shape = shape) -> Rows:
            assert (h, w, c) == shape.planes[len(planes)].size
            planes.append(weakref.ref(plane := Rows(h, w, c)))
            return plane

        def done(share: float, planes: Any = planes, passed: Any = passed) -> None:
            passed.append({i for i, plane in enumerate(planes) if plane() is not None})

        in_strips(generator, torch.rand(1, 3, shape.h, shape.w), shape.rows, shape.keep, allocate=allocate, done=done)
        assert len(planes) == len(shape.planes)
        for number, alive in enumerate(passed):
            assert alive == {i for i, use in enumerate(shape.planes) if use.first <= number <= use.last}, number


def test_statistics_that_are_not_finite_end_it_at_once(small_generator: Generator) -> None:
    torch.nn.init.constant_(small_generator.down[0].weight, float("inf"))
    shares: list[float] = []
    with pytest.raises(FloatingPointError, match=r"not finite in torch\.float32"):
        in_strips(small_generator, torch.rand(1, 3, 16, 16), 4, 1, done=shares.append)
    assert len(shares) == 8


@pytest.mark.parametrize("rows, keep", [(8, 1), (24, 4), (48, 2)])
def test_strips_take_the_memory_that_is_foretold(rows: int, keep: int) -> None:
    """The most that torch's CPU allocator holds, beside planes and the result."""
    generator = Generator("tiny", width=24, blocks=1).eval().to(memory_format=torch.channels_last)
    shape, x = Shape(generator.spec, 48, 256, rows, keep), torch.rand(1, 3, 48, 256)
    planes = [Rows(*plane.size) for plane in shape.planes]
    unused = iter(planes)
    held = most = 0
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        in_strips(generator, x, rows, keep, allocate=lambda h, w, c: next(unused))
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    foretold = max(strip_bytes(shape, number, torch.float32) for number in range(len(shape.passes)))
    assert 0.9 * foretold <= most - x.nbytes <= 1.1 * foretold


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("w", [8, 12, 9])
def test_head_conv_is_torch_s(w: int, layout: torch.memory_format, dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 11, w + 6).to(dtype).contiguous(memory_format=layout)
    weight, bias = (torch.randn(3, 5, 7, 7) * 0.1).to(dtype), torch.randn(3).to(dtype)
    wanted = F.conv2d(x.double(), weight.double(), bias.double())
    assert_matches(head_conv(x, weight, bias), wanted)


def test_head_conv_has_gradients() -> None:
    x, weight, bias = (torch.randn(*size).requires_grad_() for size in ((2, 5, 9, 14), (3, 5, 7, 7), (3,)))
    wide = [one.detach().double().requires_grad_() for one in (x, weight, bias)]
    found = torch.autograd.grad(head_conv(x, weight, bias).square().sum(), (x, weight, bias))
    wanted = torch.autograd.grad(F.conv2d(*wide).square().sum(), wide)
    for got, true in zip(found, wanted, strict=True):
        assert_matches(got, true)
