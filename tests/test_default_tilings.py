"""Whole networks in every tiling that is a default of theirs on some GPU, against fp64."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import KERNEL_DEVICE, NET_TOLERANCE, lively, relative_error, textures

pytest.importorskip("triton")
sys.path.append(str(Path(__file__).parent.parent))

from test_tape import errors, reference_gradients, tape_gradients

from benchmarks.compile_report import default_jobs, representatives
from deblurgan.generator.engine import Engine
from deblurgan.kernels.config import ConvConfig, ConvShape, Gpu
from deblurgan.kernels.table import PickConfig, Table
from deblurgan.nn import Generator
from deblurgan.spec import PRESETS

pytestmark = pytest.mark.usefixtures("few_programs")

RTX_4090, H200 = Gpu("NVIDIA GeForce RTX 4090", (8, 9), 128), Gpu("NVIDIA H200", (9, 0), 132)
FORWARD = {"paper": 6, "tiny": 3}  # as many passes as the layer of the most tilings has of them

Layer = tuple[str, int, int]  # kind and channels, as in ConvShape


def defaults(preset: str) -> dict[Layer, list[ConvConfig]]:
    """The tilings of each layer and gradient that differ in what a program does, with sums in fp32."""
    stages = representatives(PRESETS[preset])
    found: dict[Layer, dict[tuple[object, ...], ConvConfig]] = {}
    for job in default_jobs():
        if job.preset == preset:
            stage, config = stages[job.layer.partition(".dgrad")[0].partition(".wgrad")[0]], ConvConfig(*job.config)
            tilings = found.setdefault((job.kind, stage.channels_in, stage.channels_out), {})
            key = config.form, config.block_m, config.block_n, config.block_k
            tilings.setdefault(key, replace(config, accumulate="fp32"))
    return {layer: list(tilings.values()) for layer, tilings in found.items()}


def layers_in(preset: str, which: int) -> PickConfig:
    """Gives each layer its tiling of that number, cuDNN where it has fewer and for gradients."""
    tilings = {layer: found for layer, found in defaults(preset).items() if "." not in layer[0]}
    return lambda shape: next(iter(tilings.get(shape[:3], [])[which:]), None)


def gradients_in(preset: str, end: int) -> PickConfig:
    """Gives each gradient its first tiling or its last, -1, and cuDNN to the layers."""
    tilings = {layer: found for layer, found in defaults(preset).items() if "." in layer[0]}
    return lambda shape: tilings[shape[:3]][end] if shape[:3] in tilings else None


def as_if(gpu: Gpu, dtype: torch.dtype) -> PickConfig:
    """What a GPU does for a picture of 4000x6000, done to a small one in a type."""
    table = Table(gpu)

    def pick(shape: ConvShape) -> ConvConfig | None:
        config = table(shape._replace(pixels=shape.pixels * 250_000, dtype=torch.float16))
        return config if config is None or dtype == torch.float16 else replace(config, accumulate="fp32")

    return pick


@pytest.fixture(autouse=True)
def capable() -> Iterator[None]:
    if KERNEL_DEVICE.type == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the tilings of other architectures may not fit on this GPU")
    yield


def network(preset: str, width: int) -> Generator:
    torch.manual_seed(0)
    return lively(Generator(preset, width=width, blocks=1, dropout=0)).train()


def pictures() -> torch.Tensor:
    return textures(1, 8, 12).float() / 127.5 - 1


def check_picture(generator: Generator, dtype: torch.dtype, pick: PickConfig) -> None:
    x = pictures()
    wanted = deepcopy(generator).double()(x.double()).detach() - x.double()
    got = Engine(generator.spec, generator.state_dict(), dtype=dtype, pick_config=pick)(x)
    assert relative_error(got.double() - x.double(), wanted) <= NET_TOLERANCE[dtype]


def check_gradients(generator: Generator, pick: PickConfig) -> None:
    wanted = reference_gradients(generator, pictures(), torch.float64)
    for name, error in errors(tape_gradients(generator, pictures(), torch.float32, pick), wanted).items():
        assert error <= NET_TOLERANCE[torch.float32], f"{name}: relative error {error:.3g}"


@pytest.mark.parametrize("preset", FORWARD)
def test_no_default_is_left_out(preset: str) -> None:
    """What a trunk's gradient has between its first tiling and its last, layers have too."""
    tilings = defaults(preset)
    assert max(len(found) for layer, found in tilings.items() if "." not in layer[0]) == FORWARD[preset]
    forward = {config for layer, found in tilings.items() if "." not in layer[0] for config in found}
    for layer, found in tilings.items():
        assert len(found) <= 2 or "." not in layer[0] or set(found[1:-1]) <= forward, layer


@pytest.mark.parametrize(("preset", "which"), [(name, i) for name, count in FORWARD.items() for i in range(count)])
def test_pictures_are_restored_as_by_fp64(preset: str, which: int, poisoned: None) -> None:
    """In fp32, so that no rounding hides an error."""
    check_picture(network(preset, PRESETS[preset].width), torch.float32, layers_in(preset, which))


@pytest.mark.parametrize("end", [0, -1])
@pytest.mark.parametrize("preset", FORWARD)
def test_gradients_are_those_of_fp64(preset: str, end: int, poisoned: None) -> None:
    check_gradients(network(preset, PRESETS[preset].width), gradients_in(preset, end))


def test_sums_in_fp16_are_near_enough(poisoned: None) -> None:
    check_picture(network("tiny", 24), torch.float16, as_if(RTX_4090, torch.float16))


@pytest.mark.parametrize("gpu", [RTX_4090, H200], ids=lambda gpu: gpu.name)
def test_a_few_channels_fit_in_blocks(gpu: Gpu, poisoned: None) -> None:
    check_gradients(network("tiny", 5), as_if(gpu, torch.float32))
