"""The network is described once: other specs run by every way, with nothing but the spec changed."""

from __future__ import annotations

import inspect
from copy import deepcopy
from dataclasses import fields, replace
from functools import cached_property
from itertools import pairwise

import pytest
import torch

from conftest import KERNEL_DEVICE, NET_TOLERANCE, lively, relative_error, textures
from deblurgan.generator import tape
from deblurgan.generator.engine import Engine
from deblurgan.nn import Generator
from deblurgan.spec import GeneratorSpec, Stage, stages

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels.config import ConvConfig, ConvShape

SPECS = {
    "one more down and up": GeneratorSpec(width=4, blocks=1, downsamplings=3, dropout=0.0),
    "one fewer": GeneratorSpec(width=8, blocks=1, downsamplings=1, dropout=0.0),
    "one more, one convolution a block": GeneratorSpec(width=4, blocks=2, convs=1, downsamplings=3, dropout=0.0),
    "one more, dropout": GeneratorSpec(width=4, blocks=2, downsamplings=3, dropout=0.5),
}


class LeakySpec(GeneratorSpec):
    """With LeakyReLU in the stem, the downsamplings and the residual blocks."""

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        leaky = {stage: replace(stage, act="leaky_relu") for stage in stages(self) if stage.kind != "up"}
        return tuple(leaky[stage] if stage in leaky and stage.act == "relu" else stage for stage in stages(self))


SPECS["LeakyReLU"] = LeakySpec(width=4, blocks=1, dropout=0.5)
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def ours(shape: ConvShape) -> ConvConfig:
    """Every layer and gradient in our kernels."""
    return ConvConfig(64, 32, 16) if shape.kind == "head" else ConvConfig(128, 64, 64)


def network(spec: GeneratorSpec) -> Generator:
    torch.manual_seed(0)
    options = {"width": spec.width, "blocks": spec.blocks, "convs": spec.convs, "downsamplings": spec.downsamplings}
    generator = lively(Generator("paper", dropout=spec.dropout, **options))
    generator.spec = spec
    return generator


@each_spec
def test_stages_follow_one_another(spec: GeneratorSpec) -> None:
    found = stages(spec)
    assert found[0].channels_in == found[-1].channels_out == 3
    for before, stage in pairwise(found):
        assert (before.channels_out, before.scale_out) == (stage.channels_in, stage.scale_in)
    assert max(stage.scale_out for stage in found) == spec.size_multiple
    assert len({stage.name for stage in found}) == len(found)


@each_spec
def test_engine_and_tape_are_the_reference(spec: GeneratorSpec, few_programs: None, poisoned: None) -> None:
    generator = network(spec).eval()
    x = textures(2, 16, 24).float() / 127.5 - 1
    counter = torch.tensor([3, 0], device=KERNEL_DEVICE) if spec.dropout else None
    exact = deepcopy(generator).double()
    exact.backend = "reference"
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)

    wanted = exact(x.double(), counter=counter)
    names = [name for name, _ in exact.named_parameters() if name not in exact.dead_biases()]
    truth = torch.autograd.grad(wanted, [exact.get_parameter(name) for name in names], grad.double())

    run = Engine(spec, generator.state_dict(), dtype=torch.float32, pick_config=ours)
    assert relative_error(run(x, counter) - x, wanted - x) <= NET_TOLERANCE[torch.float32]

    parameters = dict(generator.named_parameters())
    out = tape.restore(spec, parameters, x, dtype=torch.float32, counter=counter, pick_config=ours)
    assert relative_error(out - x, wanted - x) <= NET_TOLERANCE[torch.float32]
    found = torch.autograd.grad(out, [parameters[name] for name in names], grad)
    for name, gradient, true in zip(names, found, truth, strict=True):
        assert relative_error(gradient, true) <= NET_TOLERANCE[torch.float32], name


def test_sides_are_multiples_of_the_downsamplings() -> None:
    generator = network(SPECS["one more down and up"])
    with pytest.raises(ValueError, match="multiples of 8"):
        generator(torch.zeros(1, 3, 12, 16, device=KERNEL_DEVICE))
    with pytest.raises(ValueError, match="downsamplings must be at least 1, got 0"):
        GeneratorSpec(downsamplings=0)


def test_blocks_without_relu_stay_out_of_8_bits() -> None:
    generator = network(SPECS["LeakyReLU"])
    with pytest.raises(ValueError, match=r"unless blocks have ReLU, got leaky_relu in blocks\.0\.conv1"):
        Engine(generator.spec, generator.state_dict(), dtype=torch.float32, quantize="int8")


def test_generators_take_every_field_of_a_spec() -> None:
    options = set(inspect.signature(Generator).parameters) - {"preset"}
    assert options == {field.name for field in fields(GeneratorSpec)}
