"""Residual blocks in 8 bits: the engine against the same arithmetic in plain torch; what they and fp16 sums cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deblurgan
from conftest import KERNEL_DEVICE, KERNEL_DTYPES, NET_TOLERANCE, relative_error, texture
from deblurgan import images, metrics, reference
from deblurgan.blur import MotionBlur
from deblurgan.checkpoint import DEFAULT_WEIGHTS, load_generator
from deblurgan.generator.engine import Engine
from deblurgan.generator.quantization import QUANT_RANGES
from deblurgan.kernels.config import ConvConfig
from deblurgan.nn import ConvNormReLU, Generator
from deblurgan.ops.layers import Quantize, quantize_weight

DEMO = Path(deblurgan.__file__).parent / "assets" / "demo.png"


def round_to_levels(x: Tensor, step: float, quantize: Quantize, zero: int = 0) -> Tensor:
    if quantize == "fp8":
        return (x / step).clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype) * step
    return ((x / step + 0.5).floor() + zero).clamp(-127, 127).sub(zero) * step


def quantized_conv(  # type: ignore[no-untyped-def]
    conv: ConvNormReLU, x: Tensor, step: float, quantize: Quantize, zero: int = 0, **options
) -> Tensor:
    """conv_norm_relu of x and a weight that are both rounded to 8 bits."""
    rows, _, _, scales, offsets = quantize_weight(conv.weight, quantize, step, zero=zero)
    assert scales is not None and (offsets is None) == (quantize == "fp8")
    weight = rows.double() * (scales.double() / step)[:, None]
    weight = weight.view(conv.weight.shape[0], 3, 3, -1).permute(0, 3, 1, 2).to(x.dtype)
    return reference.conv_norm_relu(
        round_to_levels(x, step, quantize, zero), weight, None, border=conv.border, **options
    )


@torch.no_grad()
def emulated(net: Generator, x: Tensor, quantize: Quantize = "int8") -> Tensor:
    """The generator with 8-bit residual blocks, as its definition in plain torch."""
    limits = QUANT_RANGES[quantize]
    y = net.stem(x)
    for down in net.down:
        y = down(y)
    for i, block in enumerate(net.blocks):
        step = limits.residual_step(i)
        if "conv2" not in block:
            y = quantized_conv(block.conv1, y, step, quantize, residual=y)
        else:
            z, step2 = quantized_conv(block.conv1, y, step, quantize), limits.normalized_step()
            y = quantized_conv(block.conv2, z, step2, quantize, limits.zero, act="none", residual=y)
    for up in net.up:
        y = up(y)
    return reference.output_tail(y, x, net.head.weight, net.head.bias, border=net.spec.border)


def signed(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def picture(h: int, w: int) -> Tensor:
    return signed(torch.from_numpy(texture(h, w)).permute(2, 0, 1)[None])


@pytest.fixture
def rounding_to_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter loses the carry where a mantissa of fp8 rounds up to the next power of two."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    convert = interpreter._convert_float

    def converted(values: Any, source: Any, target: Any, rounding: Any) -> Any:
        if str(target) != "fp8e4nv" or str(source) != "fp32":
            return convert(values, source, target, rounding)
        return torch.from_numpy(values.copy()).to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", converted)


FLAT, POINTER = ConvConfig(64, 32, 32, form="tma"), ConvConfig(64, 64, 32)
WIDER = ConvConfig(64, 128, 128)  # than the 64 channels


@pytest.mark.parametrize(
    ("preset", "quantize", "border", "config"),
    [
        ("paper", "int8", "reflect", FLAT),
        ("paper", "int8", "zero", POINTER),
        ("article", "int8", "zero", WIDER),
        ("paper", "fp8", "zero", FLAT),
        ("article", "fp8", "reflect", POINTER),
    ],
)
def test_engine_is_the_emulation(
    preset: str, quantize: Quantize, border: reference.Border, config: ConvConfig, rounding_to_fp8: None
) -> None:
    pytest.importorskip("triton")
    from deblurgan.kernels.config import ConvShape

    def pick_config(shape: ConvShape) -> ConvConfig | None:
        if shape.dtype.itemsize == 1:
            return config
        return ConvConfig(32, 64, 16) if shape.kind == "head" else None

    torch.manual_seed(0)
    net = Generator(preset, width=16, blocks=2, border=border).eval()
    x = picture(16, 24)
    wanted = emulated(net.double(), x.double(), quantize) - x.double()
    exact = net(x.double()).detach() - x.double()
    net = net.float().to(KERNEL_DEVICE)
    for dtype in KERNEL_DTYPES:
        engine = Engine(net.spec, net.state_dict(), dtype=dtype, pick_config=pick_config, quantize=quantize)
        space = engine.workspace(1, 16, 24)
        for bordered in (space.outputs[0], space.outputs[1], space.outputs[-1]):
            bordered.whole.fill_(float("nan"))
        for bordered in (space.residual8, space.inner8):
            bordered.whole.fill_(99)
        got = engine(x.to(KERNEL_DEVICE)).cpu().double() - x.double()
        # in half types a value may fall on the other side of a step, which costs as much as rounding itself does;
        # a Hopper GPU sums products of fp8 in about 14 bits, whatever the type of what they make
        rough = dtype != torch.float32 or (quantize == "fp8" and KERNEL_DEVICE.type == "cuda")
        limit = relative_error(wanted, exact) if rough else 1e-5
        assert relative_error(got, wanted) <= limit


def test_weights_keep_a_scale_a_channel() -> None:
    weight = torch.randn(8, 4, 3, 3) * torch.logspace(-3, 3, 8)[:, None, None, None]
    packed, _, _, scales, _ = quantize_weight(weight, "int8", 0.5)
    assert scales is not None
    assert packed.dtype == torch.int8 and (packed.abs().amax(1) == 127).all()
    back = (packed.float() * scales[:, None] / 0.5).view(8, 3, 3, 4).permute(0, 3, 1, 2)
    assert ((back - weight).abs().amax((1, 2, 3)) <= 0.51 * weight.abs().amax((1, 2, 3)) / 127).all()
    silent, _, _, scales, _ = quantize_weight(torch.zeros(2, 4, 3, 3), "int8", 0.5)
    assert scales is not None
    assert (silent == 0).all() and scales.isfinite().all()


def test_int8_weights_know_where_the_input_has_its_zero() -> None:
    weight = torch.randn(4, 8, 3, 3, dtype=torch.float64)
    x = torch.rand(1, 8, 5, 6, dtype=torch.float64) * 3
    step, zero = 3 / 254, -127
    packed, _, _, scales, offsets = quantize_weight(weight, "int8", step, zero=zero)
    assert scales is not None and offsets is not None and offsets.dtype == torch.int32
    levels = (x / step).round() + zero
    rounded = packed.double().view(4, 3, 3, 8).permute(0, 3, 1, 2)
    got = (F.conv2d(levels, rounded) + offsets.view(1, 4, 1, 1)) * scales.double().view(1, 4, 1, 1)
    assert relative_error(got, F.conv2d(x, weight)) <= 0.01


def test_fp8_weights_keep_a_scale_a_channel() -> None:
    weight = torch.randn(8, 4, 3, 3) * torch.logspace(-3, 3, 8)[:, None, None, None]
    packed, _, _, scales, _ = quantize_weight(weight, "fp8", 0.5)
    assert scales is not None
    assert (packed.float().abs().amax(1) == 448).all()
    back = (packed.float() * scales[:, None] / 0.5).view(8, 3, 3, 4).permute(0, 3, 1, 2)
    lost = (back - weight).abs()
    assert (lost <= weight.abs() / 15 + weight.abs().amax((1, 2, 3), keepdim=True) * 1e-5).all()


@pytest.mark.parametrize(("quantize", "older", "least"), [("int8", (7, 5), "8.0"), ("fp8", (8, 6), "8.9")])
def test_older_gpus_are_refused(
    quantize: Quantize, older: tuple[int, int], least: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Weight:
        device = torch.device("cuda")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: older)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    with pytest.raises(ValueError, match=f'below compute capability {least}, got "{quantize}" on a GPU'):
        Engine(Generator("tiny").spec, {"head.weight": Weight()}, dtype=torch.float16, quantize=quantize)  # type: ignore[dict-item]


def test_a_row_that_does_not_fit_gives_way() -> None:
    """The table's rows are of the paper's 256 channels; a narrow network has the default."""
    pytest.importorskip("triton")
    from deblurgan.kernels.config import ConvShape, Gpu
    from deblurgan.kernels.rows import Row
    from deblurgan.kernels.table import Table

    gpu = Gpu("A", (9, 0), 132)

    def rows(*blocks: int) -> tuple[Row, ...]:
        config = ConvConfig(32, *blocks, form="tma")
        return (Row(gpu, ConvShape("trunk", 32, 32, 4, torch.int8), config),)

    torch.manual_seed(0)
    net = Generator("tiny", width=8, blocks=1).eval().requires_grad_(False).to(KERNEL_DEVICE)
    x = picture(8, 8).to(KERNEL_DEVICE)
    results = []
    for found, used in (
        ((), ConvConfig(128, 32, 32, 8, 4, "tma")),
        (rows(128, 128), ConvConfig(128, 32, 32, 8, 4, "tma")),
        (rows(32, 32), ConvConfig(32, 32, 32, form="tma")),
    ):
        pick_config = Table(gpu, (), found)
        engine = Engine(net.spec, net.state_dict(), dtype=torch.float32, pick_config=pick_config, quantize="int8")
        paths = engine.paths(1, 8, 8)
        assert paths["blocks.0.conv1"] == paths["blocks.0.conv2"]
        assert paths["blocks.0.conv1"].startswith(f"Triton {used}: ")
        results.append(engine(x))
    assert torch.equal(results[0], results[1])
    assert relative_error(results[2] - x, results[0] - x) <= 1e-5


@pytest.mark.parametrize("quantize", ["int8", "fp8"])
def test_channels_that_8_bits_cannot_sum_are_refused(quantize: Quantize) -> None:
    pytest.importorskip("triton")
    net = Generator("tiny", width=12, blocks=1)
    with pytest.raises(ValueError, match=r"quantize must be None unless .* a multiple of 32, got 48 channels"):
        Engine(net.spec, net.state_dict(), dtype=torch.float32, pick_config=lambda *_: None, quantize=quantize)


@pytest.mark.parametrize(("quantize", "most"), [("int8", 0.07), ("fp8", 0.18)])
def test_gate_at_the_papers_size(quantize: Quantize, most: float) -> None:
    """Relative error of the residual with weights drawn from N(0, 0.02): fp8 is above int8's gate."""
    torch.manual_seed(1)
    net = Generator("paper").eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0, 0.02)
            nn.init.zeros_(module.bias)
    x = picture(64, 64)
    assert relative_error(emulated(net, x, quantize) - x, net(x) - x) <= most


@pytest.mark.parametrize("quantize", ["int8", "fp8"])
def test_gate_with_the_shipped_weights(quantize: Quantize) -> None:
    """The PSNR against the sharp picture falls by at most 0.05 dB."""
    net = load_generator(DEFAULT_WEIGHTS).eval().requires_grad_(False)
    sharp = torch.from_numpy(images.read(DEMO).pixels).permute(2, 0, 1)[None]
    h, w = (side // 4 * 4 for side in sharp.shape[2:])
    sharp = sharp[..., : min(h, 320), : min(w, 320)]
    for i in range(2):
        x = signed(MotionBlur(exposure=1.0)(sharp, seed=1, index=i))
        loss = metrics.psnr(net(x), signed(sharp), 2.0) - metrics.psnr(emulated(net, x, quantize), signed(sharp), 2.0)
        assert float(loss) <= 0.05


def conv2d_in_fp16_sums(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """F.conv2d as tensor cores make it with `accumulate="fp16"`: sums rounded after 16 products, widened after 64."""
    k, c, *taps = weight.shape
    h, w = ((side - tap) // stride + 1 for side, tap in zip(x.shape[2:], taps, strict=True))
    columns = F.unfold(x.half().float(), taps, stride=stride).unflatten(1, (c, -1)).transpose(1, 2)  # [n, taps, c, h w]
    rows = weight.half().float().flatten(2).permute(2, 0, 1)  # [taps, k, c]
    total = torch.zeros(x.shape[0], k, h * w)
    for few, some in zip(columns.split(64, 2), rows.split(64, 2), strict=True):
        sums = torch.zeros(())
        for a, b in zip(few.split(16, 2), some.split(16, 2), strict=True):
            sums = (sums + b @ a).half().float()
        total += sums.sum(1)
    y = total.unflatten(2, (h, w))
    return y if bias is None else y + bias[:, None, None]


def test_gate_of_fp16_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """The PSNR of the shipped weights with all but the transposed convolutions so falls by at most 0.05 dB.

    Where there is texture: on flat planes InstanceNorm makes much of any rounding."""
    net = load_generator(DEFAULT_WEIGHTS).eval().requires_grad_(False)
    sharp = torch.from_numpy(images.read(DEMO).pixels).permute(2, 0, 1)[None, :, 100:164, 100:164]
    x = signed(MotionBlur(exposure=1.0)(sharp, seed=1))
    wanted = net(x)
    monkeypatch.setattr(F, "conv2d", conv2d_in_fp16_sums)
    got = net(x)
    assert 0 < relative_error(got - x, wanted - x) <= NET_TOLERANCE[torch.float16]
    loss = metrics.psnr(wanted, signed(sharp), 2.0) - metrics.psnr(got, signed(sharp), 2.0)
    assert float(loss) <= 0.05
