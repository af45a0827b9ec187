"""Picture quality, one value a picture. Pictures [n, c, h, w] or [c, h, w], float in [0, data_range]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deblurgan.arguments import require_number, require_pair

IDENTICAL = 100.0  # dB


def psnr(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """10 log10(data_range^2 / mse), mse over all pixels and channels of a picture: fp64 [n], dB.

    Equal pictures give inf. Deblurring papers report the mean of these values over a data set, not the PSNR of the mean
    error. Raises TypeError for what is no Tensor, ValueError where shapes, devices or kinds of type differ, and for
    values that lie outside [0, data_range] by more than half of it.
    """
    a, b = _pair(a, b, data_range)
    mse = (a - b).square().flatten(1).mean(1)
    return 10 * torch.log10(data_range**2 / mse)


def capped_psnr(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """`psnr`, but at most 100 dB, as in the released code, so that a mean over equal pictures stays finite too."""
    return psnr(a, b, data_range).clamp(max=IDENTICAL)


def ssim(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity (Wang et al. 2004) with an 11x11 Gaussian window of sigma 1.5, averaged over channels:
    fp64 [n].

    Covariances are biased and the outer 5 px left out, as in scikit-image with gaussian_weights=True and
    use_sample_covariance=False. (The paper's SSIM column is the complex-wavelet variant and not comparable.)
    Raises what `psnr` does, and ValueError where a side is below 11.
    """
    from pytorch_msssim import ssim as gaussian_ssim

    a, b = _pair(a, b, data_range)
    if min(a.shape[2:]) < 11:
        raise ValueError(f"picture sides must be at least 11 for SSIM, got {tuple(a.shape[2:])}")
    return gaussian_ssim(a, b, data_range=data_range, size_average=False)


def _of_bytes(metric: Callable[[Tensor, Tensor, float], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: metric(a, b, 255.0)


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": _of_bytes(capped_psnr), "ssim": _of_bytes(ssim)}
"""Of uint8 pictures, by the names that `evaluate` takes."""


def _pair(a: Tensor, b: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    require_pair("b", b, "a", a)
    if a.dim() not in (3, 4):
        raise ValueError(f"pictures must be [n, c, h, w] or [c, h, w], got {tuple(a.shape)}")
    if a.is_floating_point() != b.is_floating_point() or a.is_complex() or b.is_complex():
        raise ValueError(f"pictures must both be floating point or both be integers, got {a.dtype} and {b.dtype}")
    require_number("data_range", data_range)
    if not data_range > 0:
        raise ValueError(f"data_range must be positive, got {data_range}")
    if a.dtype == torch.uint8 and b.dtype == torch.uint8 and data_range == 1.0:
        raise ValueError("data_range must be 255 for uint8 pictures")
    a, b = a.double(), b.double()
    for picture in (a, b) if a.numel() else ():
        low, high = (float(end) for end in picture.detach().aminmax())
        if low < -0.5 * data_range or high > 1.5 * data_range:
            raise ValueError(
                f"data_range must be that of the pictures, got {data_range:g} for {low:.4g} ... {high:.4g}"
            )
    return (a, b) if a.dim() == 4 else (a[None], b[None])
