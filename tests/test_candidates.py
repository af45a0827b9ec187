"""The tilings that `deblurgan tune` measures: pure functions of a layer and a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deblurgan.kernels.candidates import CANDIDATES, candidates, label, listed, spills
from deblurgan.kernels.config import ConvConfig, ConvShape, Gpu
from deblurgan.kernels.heuristics import fitted
from deblurgan.kernels.limits import why_not
from deblurgan.kernels.table import default_for
from deblurgan.spec import PRESETS, GeneratorSpec

CAPABILITIES = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
SPECS = {**PRESETS, "odd": GeneratorSpec(width=5, blocks=1), "wide": GeneratorSpec(width=40, blocks=1)}
SHAPES = sorted(
    {
        ConvShape(stage.kind + which, stage.channels_in, stage.channels_out, 65536 // stage.scale_out**2, dtype)
        for spec in SPECS.values()
        for stage in spec.stages
        for which, dtype in (("", torch.float16), (".dgrad", torch.bfloat16), (".wgrad", torch.bfloat16))
        if (stage.kind, which) != ("stem", ".dgrad")
    },
    key=str,
)
TRUNK = ConvShape("trunk", 256, 256, 4096, torch.float16)


def gpu(capability: tuple[int, int]) -> Gpu:
    return Gpu("any", capability, 108)


def columns(shape: ConvShape) -> int:
    """Of the product's second operand."""
    kind, c_in, c_out, _, _ = shape
    if kind in ("stem.wgrad", "head.wgrad"):
        return 64
    if kind == "head":
        return 128
    return c_in if kind.endswith(".dgrad") or kind in ("down.wgrad", "trunk.wgrad") else c_out


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_every_layer_of_any_width_has_candidates_that_can_be_launched(capability: tuple[int, int]) -> None:
    for shape in SHAPES:
        found = candidates(shape, gpu(capability))
        assert found, shape
        assert len(found) == len(set(found)), shape
        for config in found:
            case = shape, config
            assert why_not(config, shape, capability) is None, case
            assert config.block_n < max(2 * columns(shape), 17), case


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_the_default_is_the_first(capability: tuple[int, int]) -> None:
    for shape in SHAPES:
        assert default_for(shape, gpu(capability)) in (None, candidates(shape, gpu(capability))[0]), shape


def test_eight_bits_are_measured_where_a_gpu_multiplies_them() -> None:
    for dtype, least in ((torch.int8, (8, 0)), (torch.float8_e4m3fn, (8, 9))):
        narrow = TRUNK._replace(dtype=dtype)
        for capability in CAPABILITIES:
            found = candidates(narrow, gpu(capability))
            assert bool(found) == (capability >= least), capability
            assert found[:1] == ([default_for(narrow, gpu(capability))] if found else [])
            assert len(found) == 0 or len(found) > 2
        assert candidates(narrow._replace(c_in=96, c_out=96), gpu((9, 0)))
        assert candidates(narrow._replace(c_in=80, c_out=80), gpu((9, 0))) == []


def test_geforce_gpus_sum_fp16_in_fp16_in_all_candidates_or_none() -> None:
    geforce = gpu((8, 9))._replace(name="NVIDIA GeForce RTX 4090")
    sums = {config.accumulate for config in candidates(TRUNK, geforce)}
    assert sums == {"fp16"}
    assert {config.accumulate for config in candidates(TRUNK._replace(dtype=torch.bfloat16), geforce)} == {"fp32"}
    assert {config.accumulate for config in candidates(TRUNK, gpu((8, 9)))} == {"fp32"}
    assert label(candidates(TRUNK, geforce)[0]).endswith(" fp16")


def test_the_paper_s_layers_have_the_candidates_as_they_are_listed() -> None:
    assert listed(TRUNK, (9, 0)) == CANDIDATES["trunk"]
    up = TRUNK._replace(kind="up", c_in=128, c_out=64)
    assert listed(up, (9, 0)) == [ConvConfig(128, 64, 64, 4, 3), ConvConfig(64, 64, 64, 4, 2)]


def test_tma_needs_channels_that_divide() -> None:
    config = ConvConfig(128, 64, 64, 4, 4, "tma")
    assert fitted(config, "trunk", 256, 256) == config
    assert fitted(config, "trunk", 96, 192) is None, "the K loop would lose 32 channels"
    assert fitted(config, "trunk", 128, 96) is None
    assert fitted(replace(config, form="pointer"), "trunk", 96, 96) == ConvConfig(128, 64, 32, 4, 4)
    assert ConvConfig(128, 32, 32, 4, 4, "tma") in candidates(TRUNK._replace(c_in=96, c_out=96), gpu((9, 0)))


def test_shared_memory_is_the_architecture_s() -> None:
    config = ConvConfig(128, 256, 32, 8, 3)
    assert [config in listed(TRUNK, capability) for capability in ((8, 0), (12, 0))] == [True, True]
    config = ConvConfig(128, 256, 64, 8, 4, "tma")
    assert [config in listed(TRUNK, capability) for capability in ((8, 0), (9, 0), (12, 0))] == [False, True, False]


def test_large_tiles_are_left_out_where_they_spill() -> None:
    assert spills(ConvConfig(128, 128, 64, 4, 3), torch.float16, (10, 0))
    large = ConvConfig(256, 128, 128, 8, 3, "tma")
    found = [capability for capability in CAPABILITIES if not spills(large, torch.float8_e4m3fn, capability)]
    assert found == [capability for capability in CAPABILITIES if capability != (10, 0)]
