"""The generator with its trunk in int8: the engine against the same arithmetic in plain torch, and what it costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import deblurgan
from conftest import KERNEL_DEVICE, KERNEL_DTYPES, relative_error, texture
from deblurgan import convolution, images, metrics, reference
from deblurgan.blur import MotionBlur
from deblurgan.checkpoint import DEFAULT_WEIGHTS, load_generator
from deblurgan.engine import Engine, normalised_step, stream_step
from deblurgan.nn import ConvNormReLU, Generator

DEMO = Path(deblurgan.__file__).parent / "assets" / "demo.png"


def in_steps(x: Tensor, step: float) -> Tensor:
    return (x / step + 0.5).floor().clamp(-127, 127) * step


def eight_bit_conv(conv: ConvNormReLU, x: Tensor, step: float, **options) -> Tensor:  # type: ignore[no-untyped-def]
    """conv_norm_relu of x and a weight that are both rounded to 127 steps."""
    packed, scales = convolution.eight_bit(conv.weight, step)
    weight = packed.double() * (scales.double() / step)[:, None]
    weight = weight.view(conv.weight.shape[0], 3, 3, -1).permute(0, 3, 1, 2).to(x.dtype)
    return reference.conv_norm_relu(in_steps(x, step), weight, None, border=conv.border, **options)


@torch.no_grad()
def emulated(net: Generator, x: Tensor) -> Tensor:
    """The generator with an 8-bit trunk, as its definition in plain torch."""
    y = net.stem(x)
    for down in net.down:
        y = down(y)
    for i, block in enumerate(net.blocks):
        assert isinstance(block.conv1, ConvNormReLU)
        if block.conv2 is None:
            y = eight_bit_conv(block.conv1, y, stream_step(i), residual=y)
        else:
            z = eight_bit_conv(block.conv1, y, stream_step(i))
            y = eight_bit_conv(block.conv2, z, normalised_step(), act="none", residual=y)
    for up in net.up:
        y = up(y)
    return reference.output_tail(y, x, net.head.weight, net.head.bias, border=net.spec.border)


def signed(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def picture(h: int, w: int) -> Tensor:
    return signed(torch.from_numpy(texture(h, w)).permute(2, 0, 1)[None])


@pytest.mark.parametrize("preset", ["paper", "article"])
def test_engine_is_the_emulation(preset: str) -> None:
    pytest.importorskip("triton")
    from deblurgan.kernels.conv_stats import ConvConfig

    def choose(kind: str, pixels: int, dtype: torch.dtype) -> ConvConfig | None:
        if dtype == torch.int8:
            return ConvConfig(64, 32, 32, form="tma")
        return ConvConfig(32, 16, 16) if kind == "head" else None

    torch.manual_seed(0)
    net = Generator(preset, width=16, blocks=2).eval()
    x = picture(16, 24)
    wanted = emulated(net.double(), x.double()) - x.double()
    exact = net(x.double()).detach() - x.double()
    net = net.float().to(KERNEL_DEVICE)
    for dtype in KERNEL_DTYPES:
        engine = Engine(net.spec, net.state_dict(), dtype=dtype, choose=choose, trunk="int8")
        space = engine.workspace(1, 16, 24)
        for bordered in (space.stem, space.half, space.head):
            bordered.whole.fill_(float("nan"))
        for bordered in space.eighth:
            bordered.whole.fill_(99)
        got = engine(x.to(KERNEL_DEVICE)).cpu().double() - x.double()
        # in half types a value may fall on the other side of a step, which costs as much as rounding itself does
        limit = 1e-5 if dtype == torch.float32 else relative_error(wanted, exact)
        assert relative_error(got, wanted) <= limit


def test_weights_keep_a_scale_a_channel() -> None:
    weight = torch.randn(8, 4, 3, 3) * torch.logspace(-3, 3, 8)[:, None, None, None]
    packed, scales = convolution.eight_bit(weight, step=0.5)
    assert packed.dtype == torch.int8 and (packed.abs().amax(1) == 127).all()
    back = (packed.float() * scales[:, None] / 0.5).view(8, 3, 3, 4).permute(0, 3, 1, 2)
    assert ((back - weight).abs().amax((1, 2, 3)) <= 0.51 * weight.abs().amax((1, 2, 3)) / 127).all()
    silent, scales = convolution.eight_bit(torch.zeros(2, 4, 3, 3), step=0.5)
    assert (silent == 0).all() and scales.isfinite().all()


def test_gate_at_the_papers_size() -> None:
    """Relative error of the residual at most 0.07 with weights drawn from N(0, 0.02)."""
    torch.manual_seed(1)
    net = Generator("paper").eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0, 0.02)
            nn.init.zeros_(module.bias)
    x = picture(64, 64)
    assert relative_error(emulated(net, x) - x, net(x) - x) <= 0.07


def test_gate_with_the_shipped_weights() -> None:
    """The PSNR against the sharp picture falls by at most 0.05 dB."""
    net = load_generator(DEFAULT_WEIGHTS).eval().requires_grad_(False)
    sharp = torch.from_numpy(images.read(DEMO).pixels).permute(2, 0, 1)[None]
    h, w = (side // 4 * 4 for side in sharp.shape[2:])
    sharp = sharp[..., : min(h, 320), : min(w, 320)]
    for i in range(2):
        x = signed(MotionBlur(exposure=1.0)(sharp, seed=1, index=i))
        loss = metrics.psnr(net(x), signed(sharp), 2.0) - metrics.psnr(emulated(net, x), signed(sharp), 2.0)
        assert float(loss) <= 0.05
