"""Simple methods that the network is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from deblurgan.evaluation.scenes import Scene

RADIUS, PERCENT = 2.0, 150  # of the unsharp mask
ITERATIONS = 50  # of Richardson-Lucy; twice as many gain 1 dB more, in twice the time
NEEDS_PSF = frozenset({"richardson-lucy"})


def unsharp(picture: str, scene: Scene) -> Tensor:
    """Pillow's unsharp mask."""
    image = Image.fromarray(_pixels(scene.blurred))
    sharpened = image.filter(ImageFilter.UnsharpMask(RADIUS, PERCENT, threshold=0))
    return torch.from_numpy(np.array(sharpened)).permute(2, 0, 1).contiguous()


def richardson_lucy(picture: str, scene: Scene) -> Tensor:
    """scikit-image's Richardson-Lucy deconvolution of each channel by the true kernel.

    The border is mirrored by twice the kernel's width, and cut off afterwards: the method takes what lies beyond for
    black, which shows from there on inwards. Raises ImportError without scikit-image.
    """
    deconvolve = _deconvolution()
    if scene.psf is None:
        raise ValueError("the kernel of this scene is not known")
    psf, margin = scene.psf.numpy(), 2 * scene.psf.shape[-1]
    channels = []
    for channel in scene.blurred.numpy():
        mirrored = np.pad(channel / np.float32(255), margin, mode="reflect")
        channels.append(deconvolve(mirrored, psf, num_iter=ITERATIONS)[margin:-margin, margin:-margin])
    return torch.from_numpy(np.rint(255 * np.clip(channels, 0, 1)).astype(np.uint8))


BASELINES: dict[str, Callable[[str, Scene], Tensor]] = {"unsharp": unsharp, "richardson-lucy": richardson_lucy}
"""Systems, by the names that `evaluate` takes."""

CONVENTIONS = {
    "unsharp": f"Pillow's unsharp mask of radius {RADIUS:g} and {PERCENT} %, without a threshold",
    "richardson-lucy": f"scikit-image's, {ITERATIONS} iterations with the true kernel on each channel, the border "
    "mirrored by twice the kernel's width; an upper reference, as no kernel is known of a real picture",
}
"""What each one is, in words, for reports."""


def require_baseline(name: str, *, knows_psf: bool) -> None:
    """Raises ValueError for an unknown name, and for a method that needs kernels where these are not known, ImportError
    where its package is missing."""
    if name not in BASELINES:
        raise ValueError(f"baselines must be of {', '.join(BASELINES)}, got {name}")
    if name in NEEDS_PSF:
        if not knows_psf:
            raise ValueError(f"{name} needs the kernels, which are not known here: leave it out of baselines")
        _deconvolution()


def _deconvolution() -> Any:
    try:
        from skimage.restoration import richardson_lucy
    except ImportError as error:
        raise ImportError("richardson-lucy needs scikit-image: pip install 'deblurgan[baselines]'") from error
    return richardson_lucy


def _pixels(picture: Tensor) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
