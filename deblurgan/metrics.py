"""Picture quality, one value a picture. Pictures [n, c, h, w] or [c, h, w] in [0, data_range]; no gradients.

All but LPIPS are computed on the CPU and give the same bits on any number of threads and with any instruction set:
they are made of single sums, products and quotients in fp64, added in a fixed order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deblurgan.arguments import require_number, require_pair

Array = npt.NDArray[Any]

IDENTICAL = 100.0  # dB
SIGMA, RADIUS = 1.5, 5  # px, of SSIM's window
_GAUSSIAN = [math.exp(-((offset / SIGMA) ** 2) / 2) for offset in range(RADIUS + 1)]
WINDOW = [weight / math.fsum(_GAUSSIAN + _GAUSSIAN[1:]) for weight in _GAUSSIAN]  # its weights, from the centre on
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of MS-SSIM, finest first
SSIM_SIDE = 2 * RADIUS + 1  # px, least
MS_SSIM_SIDE = 2 * RADIUS * 2 ** (len(SCALES) - 1) + 1  # px, from which on the coarsest scale holds the window
BLOCK = 2**15  # values: a block's buffers stay in a core's cache


def psnr(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """10 log10(data_range^2 / mse), mse over all pixels and channels of a picture: fp64 [n], dB.

    Equal pictures give inf. Deblurring papers report the mean of these values over a data set, not the PSNR of the mean
    error. Raises TypeError for what is no Tensor, ValueError where shapes, devices or kinds of type differ, and for
    values that are not finite or lie outside [0, data_range] by more than half of it.
    """
    a, b = _pair(a, b, data_range)
    return _each(lambda p, q: decibels(_mean_square(p, q), data_range), a, b)


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
    a, b = _pair(a, b, data_range)
    _require_side(a, SSIM_SIDE, "SSIM")
    return _each(_over_channels(lambda p, q: _similarity(p, q, data_range)[0]), a, b)


def ms_ssim(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """Multi-scale structural similarity (Wang et al. 2003): `ssim`'s contrast and structure at five scales and its
    luminance at the coarsest, each mean to the power of its scale's weight: fp64 [n].

    A scale is the one before averaged over 2x2 px, with an odd last row or column repeated, as the authors' code does;
    a mean below 0 counts as 0. Channels are averaged last. Raises what `psnr` does, and ValueError where a side is
    below 161.
    """
    a, b = _pair(a, b, data_range)
    _require_side(a, MS_SSIM_SIDE, "MS-SSIM")
    return _each(_over_channels(lambda p, q: _multi_scale(p, q, data_range)), a, b)


def luminance(x: Tensor) -> Tensor:
    """0.299 R + 0.587 G + 0.114 B, not rounded: RGB [n, 3, h, w] or [3, h, w] -> fp64 [n, 1, h, w] or [1, h, w].

    It is the Y of JPEG, from 0 to the data range. MATLAB's rgb2ycbcr gives 16 + 219/255 Y instead, whose PSNR with peak
    255 is higher by 20 log10(255/219) = 1.32 dB where neither is rounded; its SSIM differs by no fixed amount.
    """
    if x.dim() not in (3, 4) or x.shape[-3] != 3:
        raise ValueError(f"pictures must be RGB [n, 3, h, w] or [3, h, w] for their luminance, got {tuple(x.shape)}")
    r, g, b = x.split(1, -3)
    return r.double().mul(299).add_(g.double().mul(587)).add_(b.double().mul(114)).div_(1000)


def psnr_y(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """`psnr` of the `luminance`: fp64 [n], dB."""
    a, b = _pair(a, b, data_range)
    return psnr(luminance(a), luminance(b), data_range)


def ssim_y(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """`ssim` of the `luminance`: fp64 [n]."""
    a, b = _pair(a, b, data_range)
    return ssim(luminance(a), luminance(b), data_range)


@torch.no_grad()
def lpips(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """Learned perceptual distance (Zhang et al. 2018, version 0.1 on AlexNet) of RGB pictures: fp64 [n], 0 for equal
    ones and more the more they differ.

    Computed in fp32 on the pictures' device by `lpips_network`, whose errors it raises, and those of `psnr`; ValueError
    where a side is below 31. Its last digits depend on the machine and its threads.
    """
    a, b = _pair(a, b, data_range)
    if a.shape[1] != 3:
        raise ValueError(f"pictures must be RGB [n, 3, h, w] or [3, h, w] for LPIPS, got {tuple(a.shape)}")
    _require_side(a, 31, "LPIPS")
    network = lpips_network(a.device)
    one, other = (x.float().mul(2 / data_range).sub_(1) for x in (a, b))
    pairs = zip(one.split(1), other.split(1), strict=True)
    return torch.tensor([float(network(p, q)) for p, q in pairs], dtype=torch.float64, device=a.device)


@functools.cache
def lpips_network(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """What `lpips` measures with: the package of that name, which the extra brings, on fp32 pictures in [-1, 1].

    Called first, it lets torchvision download AlexNet (233 MB) to torch's folder of models unless it lies there.
    Raises ImportError without the package, RuntimeError where the download fails.
    """
    try:
        import lpips as package
    except ImportError as error:
        raise ImportError("lpips needs the package lpips: pip install 'deblurgan[lpips]'") from error
    try:
        network = package.LPIPS(net="alex", version="0.1", verbose=False)
    except OSError as error:
        raise RuntimeError(f"lpips needs AlexNet's weights, which torchvision could not download: {error}") from error
    return network.eval().requires_grad_(False).to(device)


def _of_bytes(metric: Callable[[Tensor, Tensor, float], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def measured(a: Tensor, b: Tensor) -> Tensor:
        require_pair("b", b, "a", a)
        if not a.dtype == b.dtype == torch.uint8:
            raise ValueError(f"pictures must be uint8, got {a.dtype} and {b.dtype}")
        return metric(a, b, 255.0)

    return measured


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "psnr": _of_bytes(capped_psnr),
    "ssim": _of_bytes(ssim),
    "psnr-y": _of_bytes(lambda a, b, data_range: psnr_y(a, b, data_range).clamp(max=IDENTICAL)),
    "ssim-y": _of_bytes(ssim_y),
    "ms-ssim": _of_bytes(ms_ssim),
    "lpips": _of_bytes(lpips),
}
"""Of uint8 pictures, by the names that `evaluate` takes."""

LOWER_IS_BETTER = frozenset({"lpips"})
"""Names of METRICS whose small values are good."""

_WINDOW = "11x11 Gaussian window of sigma 1.5, K1 0.01, K2 0.03, biased covariances, outer 5 px left out"
_Y = "Y = 0.299 R + 0.587 G + 0.114 B, from 0 to 255 and not rounded"
CONVENTIONS: dict[str, str] = {
    "psnr": "in dB, of RGB in 8 bits, peak 255, the squared error averaged over all pixels and channels of a picture; "
    "at most 100",
    "ssim": f"of RGB in 8 bits, data range 255, {_WINDOW}; mean of the three channels",
    "psnr-y": f"in dB, of {_Y}, of RGB in 8 bits, peak 255; at most 100. 1.32 lower than of MATLAB's Y of 16 to 235",
    "ssim-y": f"of {_Y}, of RGB in 8 bits, data range 255, {_WINDOW}",
    "ms-ssim": f"of RGB in 8 bits, data range 255, five scales, each halved by means of 2x2 px, at each an {_WINDOW}; "
    f"exponents {', '.join(map(str, SCALES))} from the finest; mean of the three channels",
    "lpips": "version 0.1 on AlexNet, of RGB in 8 bits scaled to [-1, 1]; lower is better",
}
"""What a name of METRICS stands for, in a sentence."""


def _pair(a: Tensor, b: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    require_pair("b", b, "a", a)
    if a.dim() not in (3, 4):
        raise ValueError(f"pictures must be [n, c, h, w] or [c, h, w], got {tuple(a.shape)}")
    if 0 in a.shape[-3:]:
        raise ValueError(f"pictures must have channels and pixels, got {tuple(a.shape)}")
    if a.is_floating_point() != b.is_floating_point() or a.is_complex() or b.is_complex():
        raise ValueError(f"pictures must both be floating point or both be integers, got {a.dtype} and {b.dtype}")
    require_number("data_range", data_range)
    if not data_range > 0:
        raise ValueError(f"data_range must be positive, got {data_range}")
    if a.dtype == torch.uint8 and b.dtype == torch.uint8 and data_range == 1.0:
        raise ValueError("data_range must be 255 for uint8 pictures")
    a, b = a.detach(), b.detach()
    for name, picture in (("a", a), ("b", b)) if a.numel() else ():
        low, high = (float(end) for end in picture.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{name} must be finite, got values from {low} to {high}")
        if low < -0.5 * data_range or high > 1.5 * data_range:
            raise ValueError(
                f"data_range must be that of the pictures, got {data_range:g} for {low:.4g} ... {high:.4g}"
            )
    return (a, b) if a.dim() == 4 else (a[None], b[None])


def _require_side(x: Tensor, least: int, metric: str) -> None:
    if min(x.shape[2:]) < least:
        raise ValueError(f"picture sides must be at least {least} for {metric}, got {tuple(x.shape)}")


def _each(value: Callable[[Array, Array], float], a: Tensor, b: Tensor) -> Tensor:
    """The value of each picture [c, h, w]: fp64 [n].

    NumPy computes it: torch's threads would meet after each of many short steps, and wait long on a busy machine.
    """
    one, other = (x.cpu().float() if x.dtype == torch.bfloat16 else x.cpu() for x in (a, b))
    values = [value(p.numpy(), q.numpy()) for p, q in zip(one, other, strict=True)]
    return torch.tensor(values, dtype=torch.float64, device=a.device)


def _over_channels(value: Callable[[Array, Array], float]) -> Callable[[Array, Array], float]:
    """The mean over a picture's channels of what `value` gives of planes [h, w]."""
    return lambda a, b: math.fsum(value(p, q) for p, q in zip(a, b, strict=True)) / len(a)


def _mean_square(a: Array, b: Array) -> float:
    a, b = a.reshape(-1), b.reshape(-1)
    sums = list[float]()
    for start in range(0, a.size, BLOCK):
        error = np.subtract(a[start : start + BLOCK], b[start : start + BLOCK], dtype=np.float64)
        error *= error
        sums.append(_total(error))
    return math.fsum(sums) / a.size


def decibels(mean_square: float, data_range: float) -> float:
    """PSNR of a mean squared error; inf of none."""
    return 10 * math.log10(data_range**2 / mean_square) if mean_square else math.inf


def _multi_scale(a: Array, b: Array, data_range: float) -> float:
    value = 1.0
    for scale, weight in enumerate(SCALES):
        if scale:
            a, b = _halved(a), _halved(b)
        similarity, contrast = _similarity(a, b, data_range)
        value *= max(0.0, contrast if scale < len(SCALES) - 1 else similarity) ** weight
    return value


def _similarity(a: Array, b: Array, data_range: float) -> tuple[float, float]:
    """Means of SSIM and of its factor for contrast and structure, of planes [h, w].

    Of the rows that fit into a BLOCK at a time.
    """
    height, width = a.shape
    rows = max(1, BLOCK // width)
    similarities, contrasts = list[float](), list[float]()
    for top in range(0, height - 2 * RADIUS, rows):
        taken = slice(top, top + rows + 2 * RADIUS)
        light, contrast = similarity_maps(a[taken], b[taken], data_range)
        light *= contrast
        similarities.append(_total(light))
        contrasts.append(_total(contrast))
    count = (height - 2 * RADIUS) * (width - 2 * RADIUS)
    return math.fsum(similarities) / count, math.fsum(contrasts) / count


def similarity_maps(a: Array, b: Array, data_range: float) -> tuple[Array, Array]:
    """SSIM's factors for luminance and for contrast and structure at each pixel of planes [h, w]: fp64, 5 px smaller
    on each side.

    With s = a + b and d = a - b they are (E[s]^2 - E[d]^2 + 2 C1) / (E[s]^2 + E[d]^2 + 2 C1) and the same of the
    variances of s and d: four filtered maps rather than five, and exactly 1 for equal pictures.
    """
    c1, c2 = 2 * (0.01 * data_range) ** 2, 2 * (0.03 * data_range) ** 2
    a, b = a.astype(np.float64), b.astype(np.float64)
    s, d = a + b, a - b
    means_s, means_d, squares_s, squares_d = _windowed(np.stack([s, d, s * s, d * d]))
    means_s *= means_s
    means_d *= means_d
    squares_s -= means_s
    squares_d -= means_d
    return _ratio(means_s, means_d, c1), _ratio(squares_s, squares_d, c2)


def _ratio(s: Array, d: Array, c: float) -> Array:
    ratio = s - d
    ratio += c
    ratio /= s + d + c
    return ratio


def _windowed(x: Array) -> Array:
    """Means of planes [n, h, w] under SSIM's window wherever it lies within."""
    centre, *others = WINDOW
    for axis in (1, 2):
        x = np.moveaxis(x, axis, 0)
        size = len(x) - 2 * RADIUS
        out = x[RADIUS : RADIUS + size] * centre
        pair = np.empty_like(out)
        for offset, weight in enumerate(others, 1):
            np.add(x[RADIUS - offset :][:size], x[RADIUS + offset :][:size], out=pair)
            pair *= weight
            out += pair
        x = np.moveaxis(out, 0, axis)
    return x


def _halved(plane: Array) -> Array:
    plane = np.pad(plane, [(0, side % 2) for side in plane.shape], mode="edge").astype(np.float64)
    return (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]) / 4


def _total(values: Array) -> float:
    """The sum, by adding the second half to the first until one is left: libraries' own order depends on the machine.

    Overwrites the values.
    """
    values = values.reshape(-1)
    while (count := len(values)) > 1:
        values[: count // 2] += values[(count + 1) // 2 :]
        values = values[: (count + 1) // 2]
    return float(values[0])
