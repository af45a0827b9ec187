"""python -m benchmarks.conventions PHOTOS... [-o JSON]: the same pictures under the usual definitions of PSNR and SSIM.

Each photo is blurred by the same kernels, and the blurred picture is measured against the photo. Needs scikit-image.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torch import Tensor

from deblurgan import images, metrics
from deblurgan.blur import apply_psf, random_trajectories, rasterize_psf

Definition = Callable[[Tensor, Tensor], float]  # of the blurred picture, not rounded, and the photo: fp32 in 0 ... 255


def rounded(x: Tensor) -> Tensor:
    return x.round().byte()


def matlab_luminance(x: Tensor) -> Tensor:
    return (16 + metrics.luminance(rounded(x)) * 219 / 255).round()


def wrapped_psnr(blurred: Tensor, sharp: Tensor) -> float:
    """uint8 differences and squares modulo 256: the error in the figures of the article's first version."""
    error = rounded(blurred).numpy() - rounded(sharp).numpy()
    return float(10 * np.log10(255**2 / np.mean(error * error, dtype=np.float64)))


def scikit_image_default(blurred: Tensor, sharp: Tensor) -> float:
    a, b = (rounded(x).numpy() for x in (blurred, sharp))
    return float(structural_similarity(a, b, channel_axis=0))


def volume_ssim(blurred: Tensor, sharp: Tensor) -> float:
    """MATLAB's ssim of RGB: one volume, whose window reaches over the channels; borders repeated and counted."""
    a, b = (rounded(x).double().numpy() for x in (blurred, sharp))

    def mean(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, mode="nearest", radius=5)

    mean_a, mean_b = mean(a), mean(b)
    squares, product = mean(a * a) + mean(b * b) - mean_a**2 - mean_b**2, mean(a * b) - mean_a * mean_b
    c1, c2 = 2.55**2, 7.65**2
    ratio = (2 * mean_a * mean_b + c1) * (2 * product + c2) / ((mean_a**2 + mean_b**2 + c1) * (squares + c2))
    return float(ratio.mean())


def ours(name: str) -> Definition:
    return lambda blurred, sharp: float(metrics.METRICS[name](rounded(blurred), rounded(sharp)))


DEFINITIONS: dict[str, Definition] = {
    "PSNR, RGB, rounded to 8 bits (ours)": ours("psnr"),
    "PSNR, RGB, truncated to 8 bits": lambda a, b: float(metrics.psnr(a.floor(), b, 255.0)),
    "PSNR, RGB, not rounded": lambda a, b: float(metrics.psnr(a, b, 255.0)),
    "PSNR, Y of 0 to 255 (ours: psnr-y)": ours("psnr-y"),
    "PSNR, MATLAB's Y of 16 to 235, rounded": lambda a, b: float(
        metrics.psnr(matlab_luminance(a), matlab_luminance(b), 255.0)
    ),
    "PSNR, uint8 wrapped around": wrapped_psnr,
    "SSIM, Gaussian window, RGB (ours)": ours("ssim"),
    "SSIM, Gaussian window, Y (ours: ssim-y)": ours("ssim-y"),
    "SSIM, scikit-image's default, 7x7 uniform": scikit_image_default,
    "SSIM, MATLAB's of RGB as a volume": volume_ssim,
    "MS-SSIM, RGB (ours: ms-ssim)": ours("ms-ssim"),
}
POOLED = "PSNR, RGB, of the error of all pictures"


def measured(photos: list[Path], kernels: int, seed: int) -> dict[str, float]:
    """The mean of each definition over all photos and kernels, and the PSNR of their mean error."""
    psfs = rasterize_psf(random_trajectories(kernels, seed=seed))
    values: dict[str, list[float]] = {name: [] for name in DEFINITIONS}
    for photo in photos:
        sharp = torch.from_numpy(images.read(photo).pixels).permute(2, 0, 1).float()
        for psf in psfs:
            blurred = (255 * apply_psf(sharp / 255, psf)).clamp(0, 255)
            for name, definition in DEFINITIONS.items():
                values[name].append(definition(blurred, sharp))
    errors = [10 ** (-value / 10) for value in values["PSNR, RGB, rounded to 8 bits (ours)"]]
    means = {name: float(np.mean(of)) for name, of in values.items()}
    return {POOLED: float(-10 * np.log10(np.mean(errors))), **means}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--kernels", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    figures = measured(sorted(options.photos), options.kernels, options.seed)
    for name in sorted(figures, key=lambda name: not name.startswith("PSNR")):
        print(f"{name:44}{figures[name]:10.{2 if name.startswith('PSNR') else 4}f}")
    if options.out is not None:
        report = {"photos": len(options.photos), "kernels": options.kernels, "seed": options.seed, "figures": figures}
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
