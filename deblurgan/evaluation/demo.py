"""The bundled picture, blurred and restored: the work of `deblurgan demo`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from deblurgan import images
from deblurgan.blur import MotionBlur
from deblurgan.config import DemoConfig
from deblurgan.inference import Deblurrer
from deblurgan.metrics import psnr, ssim

DEMO_PICTURE = Path(__file__).parents[1] / "assets" / "demo.png"


def run_demo(options: DemoConfig, *, log: Callable[[str], None]) -> None:
    """Writes blurred | restored | sharp side by side; `log` takes PSNR and SSIM of both and the path.

    Raises FileExistsError where the output exists, unless `overwrite`.
    """
    images.require_absent(options.out, overwrite=options.overwrite)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sharp = torch.from_numpy(images.read(DEMO_PICTURE).pixels).permute(2, 0, 1)
    blurred = MotionBlur(exposure=1.0)(sharp, seed=options.seed, index=0)
    restored = Deblurrer.from_pretrained(options.weights)(blurred)
    grid = torch.cat([blurred, restored, sharp], 2).permute(1, 2, 0).numpy()
    images.write(images.Picture(grid), options.out)
    for name, picture in (("blurred", blurred), ("restored", restored)):
        figures = float(psnr(picture, sharp, 255.0)), float(ssim(picture, sharp, 255.0))
        log(f"{name:9} PSNR {figures[0]:.2f} dB  SSIM {figures[1]:.4f}")
    log(f"{options.out}: blurred | restored | sharp")
