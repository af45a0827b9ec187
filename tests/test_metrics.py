"""PSNR and SSIM against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from conftest import texture
from deblurgan import metrics

pytestmark = pytest.mark.any_cpu


def both(h: int, w: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    a = texture(h, w, seed=seed)
    noise = np.random.default_rng(seed).normal(0, 3 + 5 * seed, a.shape)
    return a, np.clip(a + noise, 0, 255).astype(np.uint8)


def chw(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [(11, 11), (13, 40), (64, 51)], ids=str)
def test_metrics_are_scikit_image_s(seed: int, size: tuple[int, int]) -> None:
    a, b = both(*size, seed)
    wanted = peak_signal_noise_ratio(a, b)
    assert abs(float(metrics.psnr(chw(a), chw(b), 255)) - wanted) < 1e-6
    assert abs(float(metrics.psnr(chw(a) / 255, chw(b) / 255)) - wanted) < 1e-4
    wanted = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2, data_range=255
    )
    assert abs(float(metrics.ssim(chw(a), chw(b), 255)) - wanted) < 1e-4


def test_one_value_a_picture() -> None:
    pairs = [both(20, 20, seed) for seed in range(3)]
    a, b = (torch.stack([chw(pair[i]) for pair in pairs]) for i in (0, 1))
    for metric in (metrics.psnr, metrics.ssim):
        values = metric(a, b, 255)
        assert values.shape == (3,)
        assert torch.equal(values, torch.cat([metric(p, q, 255) for p, q in zip(a, b, strict=True)]))


def test_equal_pictures() -> None:
    x = torch.rand(1, 3, 16, 16)
    assert metrics.psnr(x, x).item() == float("inf")
    assert abs(metrics.ssim(x, x).item() - 1) < 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: metrics.psnr(x, x[..., 1:]), r"b must have the shape of a \(1, 3, 16, 16\), got \(1, 3, 16, 15\)"),
        (lambda x: metrics.psnr(x, x.to("meta")), "b must be on a's device cpu, got meta"),
        (lambda x: metrics.psnr(x[0, 0], x[0, 0]), r"pictures must be \[n, c, h, w\] or \[c, h, w\], got \(16, 16\)"),
        (lambda x: metrics.psnr(x, x.byte()), "both be floating point or both be integers, got torch.float32 and"),
        (lambda x: metrics.psnr(255 * x, x), r"data_range must be that of the pictures, got 1 for 0 \.\.\. 255"),
        (lambda x: metrics.psnr(x, 255 * x), r"data_range must be that of the pictures, got 1 for 0 \.\.\. 255"),
        (
            lambda x: metrics.ssim(2 * x - 1, 2 * x - 1),
            r"data_range must be that of the pictures, got 1 for -1 \.\.\. 1",
        ),
        (lambda x: metrics.psnr(x, x, 0.0), "data_range must be positive, got 0.0"),
        (lambda x: metrics.psnr(x.byte(), x.byte()), "data_range must be 255 for uint8 pictures"),
        (lambda x: metrics.ssim(x[..., :10], x[..., :10]), "picture sides must be at least 11 for SSIM"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call(torch.linspace(0, 1, 768).view(1, 3, 16, 16))


def test_noise_beyond_the_range_is_measured() -> None:
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    wanted = 10 * np.log10(1 / 0.3**2)
    assert float(metrics.psnr(x + 0.3, x)) == pytest.approx(wanted, abs=1e-4)
    assert float(metrics.psnr(x - 0.3, x)) == pytest.approx(wanted, abs=1e-4)
