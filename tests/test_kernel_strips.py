"""A picture in strips by our kernels: against the generator in fp64 and the engine on the whole picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from test_engine import assert_like_torch, flat_trunk, library, net, ours, residual_error, signed
from torch import Tensor

from conftest import KERNEL_DEVICE, NET_TOLERANCE, textures
from deblurgan.generator.engine import Engine
from deblurgan.generator.kernel_strips import KernelOps
from deblurgan.generator.pinned_plane import PinnedPlane
from deblurgan.generator.strips import Plane, Shape, Strips
from deblurgan.kernels.config import ConvConfig, ConvShape
from deblurgan.kernels.table import PickConfig
from kernel_cases import poison, supported

pytest.importorskip("triton", reason="triton is not installed")

pytestmark = pytest.mark.usefixtures("few_programs")

FLAT = ConvConfig(16, 32, 32, form="tma")


def flat_and_pairs(shape: ConvShape) -> ConvConfig:
    return ConvConfig(128, 32, 32, form="pairs") if shape.kind == "up" else flat_trunk(shape)


class OnDevice:
    """A plane where the kernels are."""

    def __init__(self, h: int, w: int, c: int, dtype: torch.dtype) -> None:
        self.memory = poison(h, w, c, dtype=dtype)

    def read(self, start: int, stop: int) -> Tensor:
        return self.memory[start:stop]

    def write(self, start: int, rows: Tensor) -> None:
        self.memory[start : start + len(rows)] = rows


def by_strips(
    engine: Engine, x: Tensor, rows: int, keep: int, allocate: Callable[[int, int, int], Plane] | None = None
) -> Tensor:
    """x [1, 3, h, w], of which a strip covers `rows` rows; planes lie on the device, or where `allocate` says."""
    picture, restored = (part[0].permute(1, 2, 0) for part in (x, torch.full_like(x, torch.nan)))

    def put(start: int, part: Tensor) -> None:
        restored[start : start + len(part)] = part

    with torch.no_grad(), engine.turn():
        Strips(
            Shape(engine.spec, *picture.shape[:2], rows, keep),
            KernelOps(engine),
            pixels=lambda start, stop: picture[start:stop],
            put=put,
            allocate=allocate or (lambda h, w, c: OnDevice(h, w, c, engine.dtype)),
            done=lambda share: None,
        ).run()
    return restored.permute(2, 0, 1)[None]


class Case(NamedTuple):
    preset: str
    pick_config: PickConfig
    dtype: torch.dtype
    size: tuple[int, int]
    rows: int
    keep: int
    width: int = 16


CASES = {
    "paper, tma and pairs": Case("paper", flat_and_pairs, torch.float16, (8, 12), 4, 2, 32),
    "article, ours, three strips": Case("article", ours, torch.float32, (12, 8), 4, 2),
    "article, library, one strip": Case("article", library, torch.float16, (8, 12), 12, 4),
    "tiny, library, uneven strips": Case("tiny", library, torch.float32, (12, 8), 8, 4, 24),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_strips_are_the_generator(case: Case, poisoned: None) -> None:
    supported(FLAT if case.pick_config is flat_and_pairs else None)
    generator = net(case.preset, width=case.width)
    x = signed(textures(1, *case.size))
    engine = Engine(generator.spec, generator.state_dict(), dtype=case.dtype, pick_config=case.pick_config)
    got = by_strips(engine, x, case.rows, case.keep)
    assert_like_torch(got, generator, x, case.dtype)
    assert residual_error(got, engine(x).double(), x) <= NET_TOLERANCE[case.dtype]


def test_strips_show_what_overflows() -> None:
    generator = net("article")
    ops = KernelOps(Engine(generator.spec, generator.state_dict(), dtype=torch.float16, pick_config=library))
    window = ops.window(generator.spec.stages[-1], 8, 4).zero_()
    window[3, 4, 5] = torch.nan
    with ops.engine.turn():
        got = ops.head(window, torch.zeros(2, 4, 3, device=KERNEL_DEVICE))
    assert got.isnan().all()
    assert not ops.head(window.nan_to_num(), torch.zeros(2, 4, 3, device=KERNEL_DEVICE)).isnan().any()


def test_strips_refuse_8_bits() -> None:
    generator = net()
    engine = Engine(generator.spec, generator.state_dict(), dtype=torch.float16, pick_config=library, quantize="int8")
    with pytest.raises(ValueError, match='None for a picture in strips, got "int8"'):
        KernelOps(engine)


@pytest.mark.skipif(KERNEL_DEVICE.type == "cpu", reason="torch sees no CUDA device")
@pytest.mark.parametrize("rows", [4, 36, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_gpu_strips_by_pinned_memory(dtype: torch.dtype, rows: int) -> None:
    generator = net(width=64, blocks=3)
    x = signed(textures(1, 128, 100))
    engine = Engine(generator.spec, generator.state_dict(), dtype=dtype)

    def allocate(h: int, w: int, c: int) -> PinnedPlane:
        return PinnedPlane((h, w, c), dtype, KERNEL_DEVICE)

    got = by_strips(engine, x, rows, 2, allocate)
    assert_like_torch(got, generator, x, dtype)
    assert residual_error(got, engine(x).double(), x) <= NET_TOLERANCE[dtype]
    assert torch.equal(got, by_strips(engine, x, rows, 2)), "copies came too late or too early"
