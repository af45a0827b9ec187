"""Tilings by default: pure functions of the layer and the GPU."""

from __future__ import annotations

import itertools

import pytest
import torch

from deblurgan.kernels.config import ConvConfig, ConvShape
from deblurgan.kernels.heuristics import FAMILIES, busy_share, default_config, programs
from deblurgan.kernels.limits import why_not
from deblurgan.spec import PRESETS, GeneratorSpec

GPUS = {(8, 0): 108, (8, 6): 82, (8, 9): 128, (9, 0): 132, (10, 0): 148, (10, 3): 160, (12, 0): 170}
GPUS |= {(8, 7): 16, (11, 0): 20, (12, 1): 48}  # in boards of few SMs
PIXELS = [0, 8 * 8, 256 * 256, 720 * 1280, 4000 * 6000]
SPECS = dict(PRESETS) | {f"width {width}": GeneratorSpec(width=width, blocks=1) for width in (1, 5, 40, 100, 192, 256)}


def layers(spec: GeneratorSpec) -> set[tuple[str, int, int, int]]:
    """Kind, channels and the scale of the output of each convolution and gradient."""
    found = set()
    for stage in spec.stages:
        for kind in (stage.kind, f"{stage.kind}.dgrad", f"{stage.kind}.wgrad"):
            found.add((kind, stage.channels_in, stage.channels_out, stage.scale_out))
    return found


CASES = [
    (kind, c_in, c_out, pixels // scale**2, gpu)
    for spec in SPECS.values()
    for kind, c_in, c_out, scale in sorted(layers(spec))
    for pixels, gpu in itertools.product(PIXELS, GPUS)
]


def default(
    kind: str, c_in: int, c_out: int, pixels: int, gpu: tuple[int, int] | None, dtype: torch.dtype = torch.float16
) -> ConvConfig | None:
    return default_config(
        kind, c_in=c_in, c_out=c_out, pixels=pixels, dtype=dtype, capability=gpu, sms=GPUS[gpu] if gpu else 1
    )


def test_every_default_can_be_launched() -> None:
    for kind, c_in, c_out, pixels, gpu in CASES:
        for dtype in (torch.float16, torch.float32):
            config = default(kind, c_in, c_out, pixels, gpu, dtype)
            shape = ConvShape(kind, c_in, c_out, pixels, dtype)
            assert config is None or why_not(config, shape, gpu) is None, (shape, gpu, config)


def test_no_block_is_twice_as_wide_as_what_it_makes() -> None:
    for kind, c_in, c_out, pixels, gpu in CASES:
        config = default(kind, c_in, c_out, pixels, gpu)
        if config is None or kind.startswith(("head", "stem")):
            continue
        columns = c_in if kind.endswith(".dgrad") or kind in ("trunk.wgrad", "down.wgrad") else c_out
        assert config.block_n < max(2 * columns, 17), (kind, c_in, c_out, config)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("preset", SPECS)
@pytest.mark.parametrize("gpu", [gpu for gpu in GPUS if gpu[0] not in (10, 11)], ids=str)
def test_residual_blocks_run_in_our_kernels(gpu: tuple[int, int], preset: str, dtype: torch.dtype) -> None:
    stage = next(stage for stage in SPECS[preset].stages if stage.kind == "trunk")
    for kind, pixels in itertools.product(("trunk", "trunk.dgrad", "trunk.wgrad"), PIXELS):
        assert default(kind, stage.channels_in, stage.channels_out, pixels // 16, gpu, dtype), (kind, pixels)


@pytest.mark.parametrize("gpu", [*GPUS, None, (7, 5), (19, 0)], ids=str)
def test_the_head_alone_has_a_tiling_everywhere(gpu: tuple[int, int] | None) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for width in (3, 24, 64):
            config = default_config("head", c_in=width, c_out=3, pixels=64, dtype=dtype, capability=gpu, sms=1)
            assert config, (dtype, width)
            assert (config.form, config.accumulate) == ("pointer", "fp32")
            assert config.block_n >= 8 * 3, "columns for the taps of a row, of three results"
    if gpu not in FAMILIES:
        assert default_config("trunk", c_in=64, c_out=64, pixels=64, dtype=torch.half, capability=gpu, sms=1) is None


def test_fp32_is_cudnn_s_but_for_the_head() -> None:
    for kind, c_in, c_out, pixels, gpu in CASES:
        assert (default(kind, c_in, c_out, pixels, gpu, torch.float32) is not None) == (kind == "head")


@pytest.mark.parametrize(
    ("gpu", "pixels", "block"),
    [
        ((8, 0), 4096, (64, 64)),  # 128 programs of 64 x 128 would leave 108 SMs idle for 40 % of the time
        ((8, 0), 57600, (128, 128)),
        ((8, 6), 1024, (64, 128)),
        ((8, 9), 4096, (64, 128)),
        ((12, 0), 57600, (128, 128)),
        ((9, 0), 4096, (64, 128)),
        ((9, 0), 9600, (64, 128)),
        ((9, 0), 57600, (128, 128)),  # 450 programs of 128 x 256 are 3.4 rounds of 132
        ((9, 0), 460800, (128, 256)),
    ],
    ids=str,
)
def test_large_tiles_where_they_keep_the_gpu_busy(gpu: tuple[int, int], pixels: int, block: tuple[int, int]) -> None:
    config = default("trunk", 256, 256, pixels, gpu)
    assert config
    assert (config.block_m, config.block_n) == block


def test_geforce_gpus_sum_fp16_in_fp16() -> None:
    """The forward pass, not its gradients; bf16 cannot, and other GPUs gain nothing."""

    def sums(kind: str, dtype: torch.dtype, geforce: bool) -> str:
        config = default_config(
            kind, c_in=256, c_out=256, pixels=57600, dtype=dtype, capability=(8, 9), sms=128, geforce=geforce
        )
        assert config
        return config.accumulate

    for kind in ("stem", "down", "trunk", "up", "head"):
        assert [sums(kind, torch.float16, geforce) for geforce in (True, False)] == ["fp16", "fp32"], kind
        assert sums(kind, torch.bfloat16, True) == "fp32", kind
    for kind in ("trunk.dgrad", "trunk.wgrad", "up.dgrad"):
        assert sums(kind, torch.float16, True) == "fp32", kind


@pytest.mark.parametrize("channels", [32, 64, 96, 256])
def test_residual_blocks_in_8_bits_have_a_tiling_everywhere(channels: int) -> None:
    for gpu, dtype, pixels in itertools.product([*GPUS, None], (torch.int8, torch.float8_e4m3fn), PIXELS):
        config = default("trunk", channels, channels, pixels, gpu, dtype)
        assert config
        assert channels % config.block_n == channels % config.block_k == 0
        assert config.form == ("pointer" if gpu and gpu[0] in (8, 12) else "tma")
        assert config.block_k >= 32
    with pytest.raises(ValueError, match="a multiple of 32, got 48 channels"):
        default("trunk", 48, 48, 64, (9, 0), torch.int8)


def test_busy_share_counts_whole_rounds() -> None:
    assert [busy_share(count, 4) for count in (1, 4, 5, 8, 9)] == [0.25, 1, 0.625, 1, 0.75]
    assert programs(ConvConfig(64, 32), 129, 33) == 6


def test_a_gradient_by_the_input_runs_as_the_convolution_that_it_is() -> None:
    for gpu, pixels in itertools.product(((8, 0), (8, 6), (9, 0)), (4096, 57600)):
        assert default("trunk.dgrad", 256, 128, pixels, gpu) == default("trunk", 128, 256, pixels, gpu)
        assert default("down.dgrad", 64, 128, pixels, gpu) == default("up", 128, 64, 4 * pixels, gpu)
        assert default("up.dgrad", 128, 64, 4 * pixels, gpu) == default("down", 64, 128, pixels, gpu)
        assert default("head.dgrad", 64, 3, pixels, gpu) == default("stem", 3, 64, pixels, gpu)
        assert default("stem.dgrad", 3, 64, pixels, gpu) is None
