"""The definitions against independent sources: torch.nn layers, SciPy and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import OP_TOLERANCE, assert_matches
from deblurgan import reference

pytestmark = pytest.mark.any_cpu

SIZES = [(8, 8), (5, 7), (33, 17), (2, 2)]


@pytest.mark.parametrize("dtype", list(OP_TOLERANCE), ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_instance_norm_is_torch_s(dtype: torch.dtype, size: tuple[int, int], device: torch.device) -> None:
    x = torch.randn(3, 5, *size, device=device).to(dtype)
    assert_matches(reference.instance_norm(x), nn.InstanceNorm2d(5, eps=1e-5)(x.double()))


@pytest.mark.parametrize("dtype", list(OP_TOLERANCE), ids=str)
@pytest.mark.parametrize("value", [0.0, 1 / 3, -77.7, 1000.0])
def test_constant_plane_normalises_to_exactly_zero(dtype: torch.dtype, value: float) -> None:
    x = torch.full((2, 3, 9, 11), value, dtype=dtype)
    assert torch.equal(reference.instance_norm(x), torch.zeros_like(x))


def test_large_mean_costs_no_digits() -> None:
    x = torch.randn(2, 4, 16, 16, dtype=torch.float64)
    shifted = (x.float() + 4096).double() - 4096  # what fp32 keeps of x at that mean
    assert_matches(reference.instance_norm(shifted.float() + 4096), nn.InstanceNorm2d(4)(shifted))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_neither_a_large_plane_nor_one_odd_pixel_costs_digits(layout: torch.memory_format) -> None:
    """Where no gradient is wanted."""
    x = torch.randn(1, 4, 300, 400).contiguous(memory_format=layout)
    for corner in (0.0, 50.0):
        x[..., 0, 0] = corner
        wanted = nn.InstanceNorm2d(4)(x.double())
        assert float((reference.instance_norm(x) - wanted).abs().max()) <= 2e-5  # beside values up to 50


def test_instance_norm_differentiates_twice() -> None:
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(reference.instance_norm, (x,))
    assert torch.autograd.gradgradcheck(reference.instance_norm, (x,))


def test_no_gradient_is_lost_to_the_pivot() -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    g = torch.randn_like(x)
    (ours,) = torch.autograd.grad(reference.instance_norm(x), x, g)
    (torchs,) = torch.autograd.grad(F.instance_norm(x, eps=1e-5), x, g)
    assert_matches(ours, torchs, name="gradient")


@pytest.mark.parametrize("border", ["reflect", "zero"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 7])
def test_conv_norm_relu_is_torch_s_layers(border: reference.Border, stride: int, size: int) -> None:
    x = torch.randn(2, 3, 12, 9, dtype=torch.float64)
    weight, bias = torch.randn(4, 3, size, size, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    pad = nn.ReflectionPad2d(size // 2) if border == "reflect" else nn.ZeroPad2d(size // 2)
    wanted = nn.InstanceNorm2d(4)(F.conv2d(pad(x), weight, bias, stride=stride))
    residual = torch.randn_like(wanted)
    plain = reference.conv_norm_relu(x, weight, bias, stride=stride, border=border)
    added = reference.conv_norm_relu(x, weight, bias, stride=stride, border=border, act="none", residual=residual)
    assert_matches(plain, wanted.relu(), name="relu")
    assert_matches(added, residual + wanted, name="residual")


@pytest.mark.parametrize("size", [(2, 2), (5, 3), (8, 8)], ids=str)
def test_up_conv_norm_relu_is_torch_s_layers(size: tuple[int, int]) -> None:
    layer = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    wanted = nn.InstanceNorm2d(4)(layer(x)).relu()
    assert_matches(reference.up_conv_norm_relu(x, layer.weight, layer.bias), wanted)


@pytest.mark.parametrize("border", ["reflect", "zero"])
def test_output_tail(border: reference.Border) -> None:
    x, image = torch.randn(2, 4, 9, 8, dtype=torch.float64), torch.rand(2, 3, 9, 8, dtype=torch.float64) * 2 - 1
    weight, bias = torch.randn(3, 4, 7, 7, dtype=torch.float64) * 0.1, torch.randn(3, dtype=torch.float64)
    pad = nn.ReflectionPad2d(3) if border == "reflect" else nn.ZeroPad2d(3)
    wanted = torch.clamp(image + torch.tanh(F.conv2d(pad(x), weight, bias)), -1, 1)
    got = reference.output_tail(x, image, weight, bias, border=border)
    assert_matches(got, wanted)
    assert got.min() >= -1 and got.max() <= 1


def test_output_tail_keeps_the_picture_s_precision() -> None:
    image = torch.rand(1, 3, 8, 8)
    zeros = torch.zeros(3, 4, 7, 7, dtype=torch.bfloat16)
    got = reference.output_tail(torch.zeros(1, 4, 8, 8, dtype=torch.bfloat16), image, zeros, None, border="reflect")
    assert torch.equal(got, image)


def test_philox_matches_the_published_vectors() -> None:
    """Known answers of Random123's kat_vectors for philox4x32-10: all zeros, and the digits of pi."""
    zero = reference.philox(0, torch.tensor(0), torch.tensor(0), 0)
    assert [f"{int(word):08x}" for word in zero] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    index = torch.tensor(0x85A308D3243F6A88 - 2**64)
    pi = reference.philox(0x299F31D0A4093822, index, torch.tensor(0x13198A2E), 0x03707344)
    assert [f"{int(word):08x}" for word in pi] == ["d16cfe09", "94fdcceb", "5001e420", "24126ea1"]


@pytest.mark.parametrize("padding", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (4, 3), (12, 7)], ids=str)
@pytest.mark.parametrize("k", [1, 4, 5, 9], ids=lambda k: f"k{k}")
def test_apply_psf_is_scipy_s_convolution(padding: reference.Padding, size: tuple[int, int], k: int) -> None:
    from scipy.signal import convolve2d

    random = np.random.default_rng(k)
    x, psf = random.random(size), random.random((k, k))
    mode = {"reflect": "reflect", "replicate": "edge", "zero": "constant"}[padding]
    padded = np.pad(x, k, mode=mode)
    full = convolve2d(padded, psf, mode="full")
    wanted = full[k + k // 2 :, k + k // 2 :][: size[0], : size[1]]
    got = reference.apply_psf(torch.from_numpy(x)[None, None], torch.from_numpy(psf)[None], padding)
    assert_matches(got[0, 0], torch.from_numpy(wanted))


def test_apply_psf_turns_a_bright_pixel_into_the_psf() -> None:
    psf = torch.rand(1, 7, 7, dtype=torch.float64)
    x = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    x[..., 7, 7] = 1
    got = reference.apply_psf(x, psf, "zero")[0, 0, 4:11, 4:11]
    assert torch.equal(got, psf[0])


@pytest.mark.parametrize("gamma", [1.0, 2.2])
def test_apply_psf_options_in_their_order(gamma: float) -> None:
    """Light, then the window, then noise, then [-1, 1], with SciPy and NumPy."""
    from scipy.signal import convolve2d

    random = np.random.default_rng(1)
    x, psf = random.random((9, 12)), random.random((5, 5))
    psf /= psf.sum()
    light = convolve2d(np.pad(x**gamma, 2, mode="reflect"), psf, mode="valid") ** (1 / gamma)
    noise = reference.pixel_noise((1, 1, 4, 6), seed=3, first=8)[0, 0].numpy()
    part = light[2:6, 3:9][:, ::-1] + 0.4 * noise
    given = torch.from_numpy(x)[None, None], torch.from_numpy(psf)[None]
    options = {"gamma": gamma, "windows": torch.tensor([[2, 3, 1]]), "size": (4, 6)}
    options |= {"noise": torch.tensor([0.4], dtype=torch.float64), "seed": 3, "first": 8}
    got = reference.apply_psf(*given, **options)  # type: ignore[arg-type]
    assert_matches(got[0, 0], torch.from_numpy(part))
    signed = reference.apply_psf(*given, signed=torch.float64, **options)  # type: ignore[arg-type]
    assert_matches(signed[0, 0], torch.from_numpy(np.clip(2 * part - 1, -1, 1)))
    levels = (255 * given[0]).round().to(torch.uint8)
    rounded = reference.apply_psf(levels, given[1].float(), **options)[0, 0]  # type: ignore[arg-type]
    exact = 255 * reference.apply_psf(levels.double() / 255, given[1], **options)[0, 0]  # type: ignore[arg-type]
    assert (rounded.double() - exact.clamp(0, 255)).abs().max() <= 0.5 + 1e-3


def test_psf_taps_are_the_offsets_of_a_convolution() -> None:
    from scipy.signal import convolve2d

    random = np.random.default_rng(2)
    for k in (1, 4, 5):
        psf = random.random((k, k)) * (random.random((k, k)) < 0.7)
        x = random.random((11, 13))
        padded = np.pad(x, k)
        (taps,) = reference.psf_taps(torch.from_numpy(psf)[None])
        rows, columns = np.mgrid[k : k + 11, k : k + 13]
        got = sum(w * padded[rows + int(dy), columns + int(dx)] for dy, dx, w in taps.tolist())
        wanted = convolve2d(padded, psf, mode="full")[k + k // 2 :, k + k // 2 :][:11, :13]
        assert len(taps) == np.count_nonzero(psf)
        assert np.allclose(got, wanted, rtol=1e-12)


def test_pixel_noise_is_standard_normal() -> None:
    from scipy.stats import kstest

    noise = reference.pixel_noise((8, 3, 31, 33), seed=5)
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 0.001
    assert noise.flatten().unique().numel() > 0.99 * noise.numel()
    assert torch.equal(reference.pixel_noise((3, 3, 31, 33), seed=5, first=4), noise[4:7])


def test_random_windows_stay_in_the_picture_and_reach_its_ends() -> None:
    windows = reference.random_windows(4000, picture=(20, 31), size=(18, 25), seed=1)
    assert windows.amin(0).tolist() == [0, 0, 0]
    assert windows.amax(0).tolist() == [2, 6, 1]
    whole = reference.random_windows(50, picture=(20, 31), size=(20, 31), seed=1, flip=False)
    assert not whole.any()


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_instance_norm_gradient_in_any_layout(n: int, layout: torch.memory_format) -> None:
    """Against the formula, dx = (g - mean(g) - y mean(g y)) / std."""
    torch.manual_seed(0)
    x, g = torch.randn(2, n, 6, 5, 7, dtype=torch.float64)
    x.requires_grad_()
    y = reference.instance_norm(x)
    (got,) = torch.autograd.grad(y, x, g.contiguous(memory_format=layout))
    variance = x.detach().var((2, 3), correction=0, keepdim=True)
    wanted = g - g.mean((2, 3), keepdim=True) - y.detach() * (g * y.detach()).mean((2, 3), keepdim=True)
    assert_matches(got, wanted / (variance + reference.EPS).sqrt())
