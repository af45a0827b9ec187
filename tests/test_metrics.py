"""PSNR and SSIM against scikit-image, MS-SSIM against its authors' program, and what all of them promise."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import Tensor

from conftest import texture
from deblurgan import metrics
from deblurgan.config.evaluate import Metric

pytestmark = pytest.mark.any_cpu

LUMINANCE = np.array([0.299, 0.587, 0.114])
KINDS = ("noise", "flat", "equal", "unrelated", "flat and noise")


def both(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two uint8 pictures [h, w, 3] of the kind that the seed's last digit stands for, of 11 to 50 px."""
    random = np.random.default_rng(seed)
    h, w = (int(side) for side in random.integers(11, 51, 2))
    kind = KINDS[seed % len(KINDS)]
    a = texture(h, w, seed=seed)
    if kind.startswith("flat"):
        a[:] = random.integers(0, 256, 3, dtype=np.uint8)
    if kind == "equal":
        return a, a.copy()
    if kind == "unrelated":
        return a, random.integers(0, 256, a.shape, dtype=np.uint8)
    if kind == "flat":
        return a, np.full_like(a, random.integers(0, 256))
    return a, np.clip(a + random.normal(0, random.uniform(0.3, 60), a.shape), 0, 255).astype(np.uint8)


def chw(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def drawn(h: int, w: int) -> tuple[Tensor, Tensor]:
    """A picture and one that is off by up to 20 levels, the same bytes on any machine."""
    random = np.random.default_rng(0)
    coarse = np.kron(random.integers(20, 230, (h // 8 + 1, w // 8 + 1, 3)), np.ones((8, 8, 1), int))[:h, :w]
    a = coarse + random.integers(-20, 21, coarse.shape)
    b = a + random.integers(-20, 21, a.shape)
    return chw(np.clip(a, 0, 255).astype(np.uint8)), chw(np.clip(b, 0, 255).astype(np.uint8))


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # scikit-image's, of equal pictures
@pytest.mark.parametrize("first", range(0, 100, 10))
def test_metrics_are_scikit_image_s(first: int) -> None:
    skimage = pytest.importorskip("skimage.metrics", reason="the extra baselines")
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    for seed in range(first, first + 10):
        a, b = both(seed)
        ya, yb = a @ LUMINANCE, b @ LUMINANCE
        wanted = {
            "psnr": skimage.peak_signal_noise_ratio(a, b),
            "ssim": skimage.structural_similarity(a, b, channel_axis=2, **window),
            "psnr-y": skimage.peak_signal_noise_ratio(ya, yb, data_range=255),
            "ssim-y": skimage.structural_similarity(ya, yb, **window),
        }
        got = {name: float(metrics.METRICS[name](chw(a), chw(b))) for name in wanted}
        assert got == pytest.approx({name: min(value, 100.0) for name, value in wanted.items()}, rel=0, abs=1e-9)
        floats = chw(a).double() / 255, chw(b).double() / 255
        assert float(metrics.psnr(*floats)) == pytest.approx(wanted["psnr"], abs=1e-6)
        assert float(metrics.ssim(*floats)) == pytest.approx(wanted["ssim"], abs=1e-9)


def authors_ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Of planes [h, w] in 0 ... 255, step by step as in the MATLAB program of Wang et al."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def filtered(x: np.ndarray) -> np.ndarray:
        return convolve2d(x, window, mode="valid")

    value, weights = 1.0, (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    for level, weight in enumerate(weights):
        mean_a, mean_b = filtered(a), filtered(b)
        var_a, var_b = filtered(a * a) - mean_a**2, filtered(b * b) - mean_b**2
        contrast = (2 * (filtered(a * b) - mean_a * mean_b) + c2) / (var_a + var_b + c2)
        luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        value *= np.mean(contrast if level < len(weights) - 1 else contrast * luminance) ** weight
        padded = (np.pad(x, ((0, 1), (0, 1)), mode="symmetric") for x in (a, b))
        a, b = (((p[:-1, :-1] + p[1:, :-1] + p[:-1, 1:] + p[1:, 1:]) / 4)[::2, ::2] for p in padded)
    return float(value)


@pytest.mark.parametrize("size", [(161, 163), (176, 192)], ids=str)
def test_ms_ssim_is_its_authors_(size: tuple[int, int]) -> None:
    a, b = drawn(*size)
    planes = zip(a.double().numpy(), b.double().numpy(), strict=True)
    wanted = np.mean([authors_ms_ssim(p, q) for p, q in planes])
    assert float(metrics.METRICS["ms-ssim"](a, b)) == pytest.approx(wanted, abs=1e-10)
    assert float(metrics.ms_ssim(a[:1].double() / 255, b[:1].double() / 255)) == pytest.approx(
        authors_ms_ssim(a[0].double().numpy(), b[0].double().numpy()), abs=1e-10
    )


def test_a_negative_contrast_is_none() -> None:
    a, _ = drawn(161, 161)
    assert float(metrics.ms_ssim(a, 255 - a, 255)) == 0


NAMES = ["psnr", "ssim", "psnr-y", "ssim-y", "ms-ssim"]


def test_the_same_bits_everywhere() -> None:
    """With any number of threads, and those that another machine gave but for the C library's log10 and pow."""
    a, b = drawn(170, 301)
    got, before = list[list[float]](), torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            got.append([float(metrics.METRICS[name](a, b)) for name in NAMES])
    finally:
        torch.set_num_threads(before)
    assert got[0] == got[1] == got[2]
    figures = dict(zip(NAMES, got[0], strict=True))
    assert figures["ssim"].hex() == "0x1.cf8c0002339e8p-1"
    assert figures["ssim-y"].hex() == "0x1.d3377423be618p-1"
    wanted = {"psnr": "0x1.ab39675e931aap+4", "psnr-y": "0x1.e31d02a26d3a8p+4", "ms-ssim": "0x1.fbc4fc26164b3p-1"}
    for name, bits in wanted.items():
        assert figures[name] == pytest.approx(float.fromhex(bits), rel=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_one_value_a_picture(name: str) -> None:
    a, b = drawn(161, 170)
    pairs = torch.stack([a, b, a]), torch.stack([b, b, a.flip(-1)])
    values = metrics.METRICS[name](*pairs)
    assert values.shape == (3,) and values.dtype == torch.float64
    singles = [metrics.METRICS[name](p, q) for p, q in zip(*pairs, strict=True)]
    assert torch.equal(values, torch.cat(singles))
    laid_out = [x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for x in pairs]
    assert torch.equal(values, metrics.METRICS[name](*laid_out))
    assert metrics.METRICS[name](*(x[:0] for x in pairs)).shape == (0,)
    assert values[1] == (100 if name.startswith("psnr") else 1)


def test_psnr_is_never_pooled() -> None:
    """Of errors of 1 and 100 levels the mean is 28.13 dB; the PSNR of their mean square is 11.14."""
    a = torch.zeros(2, 3, 11, 11, dtype=torch.uint8)
    b = torch.tensor([1, 100], dtype=torch.uint8).view(2, 1, 1, 1).expand_as(a)
    values = metrics.METRICS["psnr"](a, b)
    assert values.tolist() == pytest.approx([20 * np.log10(255), 20 * np.log10(2.55)])


def test_equal_pictures() -> None:
    x = torch.rand(1, 3, 161, 161)
    assert metrics.psnr(x, x).item() == metrics.psnr_y(x, x).item() == float("inf")
    assert metrics.capped_psnr(x, x).item() == 100
    assert metrics.ssim(x, x).item() == metrics.ssim_y(x, x).item() == metrics.ms_ssim(x, x).item() == 1


def test_matlab_s_luminance_is_brighter_by_a_constant() -> None:
    """MATLAB: 16 + 65.481 R + 128.553 G + 24.966 B of R, G, B in 0 ... 1."""
    skimage = pytest.importorskip("skimage.metrics", reason="the extra baselines")
    pair = [both(0)[i] for i in (0, 1)]
    matlab = [16 + pixels / 255 @ np.array([65.481, 128.553, 24.966]) for pixels in pair]
    ours = [metrics.luminance(chw(pixels)) for pixels in pair]
    assert [float(y.max()) for y in ours] == pytest.approx([(y.max() - 16) * 255 / 219 for y in matlab])
    higher = skimage.peak_signal_noise_ratio(*matlab, data_range=255) - float(metrics.psnr_y(*map(chw, pair), 255.0))
    assert higher == pytest.approx(20 * np.log10(255 / 219))


def test_every_metric_has_a_convention() -> None:
    assert tuple(metrics.METRICS) == tuple(metrics.CONVENTIONS) == get_args(Metric)
    assert metrics.LOWER_IS_BETTER.issubset(metrics.METRICS)


class Recorder(torch.nn.Module):
    """In LPIPS' place: keeps what it is given, and answers with the mean difference."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.options, self.given = options, list[tuple[Tensor, Tensor, bool, bool]]()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        self.given.append((a, b, self.training, torch.is_grad_enabled()))
        return (a - b).abs().mean().view(1, 1, 1, 1)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=Recorder))
    metrics.lpips_network.cache_clear()
    yield metrics.lpips_network(torch.device("cpu"))  # type: ignore[misc]
    metrics.lpips_network.cache_clear()


def test_lpips_is_given_what_it_was_trained_on(network: Recorder) -> None:
    a, b = (x.expand(2, 3, 33, 40) for x in (torch.tensor([[[[0]], [[51]], [[255]]]]).byte(), torch.zeros(1).byte()))
    values = metrics.METRICS["lpips"](a, b)
    assert network.options == {"net": "alex", "version": "0.1", "verbose": False}
    assert len(network.given) == 2
    for one, other, training, gradients in network.given:
        assert one.shape == (1, 3, 33, 40) and one.dtype == torch.float32
        assert one[0, :, 0, 0].tolist() == pytest.approx([-1, -0.6, 1])
        assert (other == -1).all()
        assert not training and not gradients
    assert values.dtype == torch.float64
    assert values.tolist() == pytest.approx([0.8, 0.8])
    assert torch.equal(metrics.lpips(a.float() / 255, b.float() / 255), values)


@pytest.mark.usefixtures("network")
def test_lpips_takes_pictures_of_its_kind() -> None:
    x = torch.rand(1, 3, 31, 31)
    with pytest.raises(ValueError, match="sides must be at least 31 for LPIPS"):
        metrics.lpips(x[..., :30], x[..., :30])
    with pytest.raises(ValueError, match=r"RGB \[n, 3, h, w\] or \[3, h, w\] for LPIPS, got \(1, 1, 31, 31\)"):
        metrics.lpips(x[:, :1], x[:, :1])


@pytest.mark.usefixtures("network")
def test_lpips_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**options: object) -> None:
        raise OSError("no route to host")

    metrics.lpips_network.cache_clear()
    monkeypatch.setattr(sys.modules["lpips"], "LPIPS", offline)
    with pytest.raises(RuntimeError, match="AlexNet's weights, which torchvision could not download: no route to host"):
        metrics.lpips(torch.rand(3, 31, 31), torch.rand(3, 31, 31))
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match=r"pip install 'deblurgan\[lpips\]'"):
        metrics.lpips(torch.rand(3, 31, 31), torch.rand(3, 31, 31))


X = torch.linspace(0, 1, 768).view(1, 3, 16, 16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.psnr(X, X[..., 1:]), r"b must have the shape of a \(1, 3, 16, 16\), got \(1, 3, 16, 15\)"),
        (lambda: metrics.psnr(X, X.to("meta")), "b must be on a's device cpu, got meta"),
        (lambda: metrics.psnr(X[0, 0], X[0, 0]), r"pictures must be \[n, c, h, w\] or \[c, h, w\], got \(16, 16\)"),
        (lambda: metrics.psnr(X[:, :, :0], X[:, :, :0]), r"must have channels and pixels, got \(1, 3, 0, 16\)"),
        (lambda: metrics.psnr(X, X.byte()), "both be floating point or both be integers, got torch.float32 and"),
        (lambda: metrics.psnr(255 * X, X), r"data_range must be that of the pictures, got 1 for 0 \.\.\. 255"),
        (lambda: metrics.psnr(X, 255 * X), r"data_range must be that of the pictures, got 1 for 0 \.\.\. 255"),
        (lambda: metrics.ssim(2 * X - 1, 2 * X - 1), r"data_range must be that of .*, got 1 for -1 \.\.\. 1"),
        (lambda: metrics.psnr(X, X, 0.0), "data_range must be positive, got 0.0"),
        (lambda: metrics.psnr(X.byte(), X.byte()), "data_range must be 255 for uint8 pictures"),
        (lambda: metrics.psnr(X, X.where(X < 1, np.nan)), "b must be finite, got values from nan to nan"),
        (lambda: metrics.ssim(X.where(X > 0, -np.inf), X), "a must be finite, got values from -inf to 1.0"),
        (lambda: metrics.ssim(X[..., :10], X[..., :10]), "picture sides must be at least 11 for SSIM"),
        (lambda: metrics.ms_ssim(X, X), "picture sides must be at least 161 for MS-SSIM"),
        (lambda: metrics.ssim_y(X[:, :2], X[:, :2]), r"must be RGB .* for their luminance, got \(1, 2, 16, 16\)"),
        (lambda: metrics.METRICS["psnr"](X, X), "pictures must be uint8, got torch.float32 and torch.float32"),
        (lambda: metrics.METRICS["ssim"](X.byte(), X.int()), "pictures must be uint8, got torch.uint8 and torch.int32"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_noise_beyond_the_range_is_measured() -> None:
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    wanted = 10 * np.log10(1 / 0.3**2)
    assert float(metrics.psnr(x + 0.3, x)) == pytest.approx(wanted, abs=1e-4)
    assert float(metrics.psnr(x - 0.3, x)) == pytest.approx(wanted, abs=1e-4)


def test_inputs_are_left_alone_and_need_no_gradients() -> None:
    a, b = torch.rand(2, 3, 161, 161, dtype=torch.float64, requires_grad=True).unbind()
    copies = a.clone(), b.clone()
    for metric in (metrics.psnr, metrics.ssim, metrics.psnr_y, metrics.ssim_y, metrics.ms_ssim):
        assert not metric(a, b).requires_grad
    assert torch.equal(a, copies[0]) and torch.equal(b, copies[1])
