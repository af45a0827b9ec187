"""Whole networks, tiled as they are by default on GPUs that need not be there, against fp64."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch

from conftest import KERNEL_DEVICE, NET_TOLERANCE, lively, relative_error, textures

pytest.importorskip("triton")

from test_tape import errors, reference_gradients, tape_gradients

from deblurgan.generator.engine import Engine
from deblurgan.kernels.config import ConvConfig, ConvShape, Gpu
from deblurgan.kernels.table import Table
from deblurgan.nn import Generator

pytestmark = pytest.mark.usefixtures("few_programs")

GPUS = {
    "A100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108),
    "RTX 4090": Gpu("NVIDIA GeForce RTX 4090", (8, 9), 128),
    "H200": Gpu("NVIDIA H200", (9, 0), 132),
    "B200": Gpu("NVIDIA B200", (10, 0), 148),
}
NETS = {"paper": 64, "tiny": 24, "narrow": 5}  # widths
SIZE = 8, 12  # of the picture that is restored


class ByDefault:
    """What a GPU does for pictures of so many pixels, done to a small one; notes the tilings that it takes."""

    def __init__(self, gpu: str, pixels: int) -> None:
        self.table, self.times, self.taken = Table(GPUS[gpu]), pixels // (SIZE[0] * SIZE[1]), set[ConvConfig]()

    def __call__(self, shape: ConvShape) -> ConvConfig | None:
        """In fp32 too the tilings are those of half types, so that no rounding hides an error."""
        config = self.table(shape._replace(pixels=shape.pixels * self.times, dtype=torch.float16))
        if config:
            self.taken.add(config)
        return config


@pytest.fixture(autouse=True)
def capable() -> Iterator[None]:
    if KERNEL_DEVICE.type == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the tilings of other architectures may not fit on this GPU")
    yield


def network(width: int) -> Generator:
    torch.manual_seed(0)
    return lively(Generator("tiny", width=width, blocks=1)).train()


def pictures() -> torch.Tensor:
    return textures(1, *SIZE).float() / 127.5 - 1


@pytest.mark.parametrize("pixels", [256 * 256, 4000 * 6000], ids=["small", "large"])
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("gpu", GPUS)
def test_pictures_are_restored_as_by_fp64(gpu: str, net: str, pixels: int, poisoned: None) -> None:
    generator, x = network(NETS[net]), pictures()
    wanted = deepcopy(generator).double()(x.double()).detach() - x.double()
    dtype = torch.float32 if net == "tiny" else torch.float16
    pick = ByDefault(gpu, pixels)
    got = Engine(generator.spec, generator.state_dict(), dtype=dtype, pick_config=pick)(x)
    assert relative_error(got.double() - x.double(), wanted) <= NET_TOLERANCE[dtype]
    assert pick.taken


@pytest.mark.parametrize("net", ["paper", "tiny"])
@pytest.mark.parametrize("gpu", GPUS)
def test_gradients_are_those_of_fp64(gpu: str, net: str, poisoned: None) -> None:
    generator, x = network(NETS[net]), pictures()
    wanted = reference_gradients(generator, x, torch.float64)
    pick = ByDefault(gpu, 16 * 256 * 256)
    for name, error in errors(tape_gradients(generator, x, torch.float32, pick), wanted).items():
        assert error <= NET_TOLERANCE[torch.float32], f"{name}: relative error {error:.3g}"
    assert pick.taken
