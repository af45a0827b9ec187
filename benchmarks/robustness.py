"""python -m benchmarks.robustness PHOTOS [-m WEIGHTS] -o JSON: what weights do to pictures unlike those they know.

The middle of each sharp photo is blurred by the same camera shakes under one condition after the other, and restored in
fp32. Without a blur the network should leave the picture alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import machine
from benchmarks.report import commit
from deblurgan import Deblurrer, MotionBlur, images, metrics
from deblurgan.data.folders import find_pictures
from deblurgan.evaluation.means import mean_of

SIDE = 512
EXPOSURES = (0.5, 1.0)
Pictures = Callable[[Tensor, float, int], Tensor]  # of a sharp uint8 [3, h, w], an exposure and a picture's number


def shaken(**options: Any) -> Pictures:
    def blur(sharp: Tensor, exposure: float, number: int) -> Tensor:
        return MotionBlur(exposure=exposure, **options)(sharp, seed=2026, index=number)

    return blur


def defocused(radius: float) -> Pictures:
    """A disk, its edge softened over a pixel."""
    side = 2 * int(np.ceil(radius)) + 1
    y, x = torch.meshgrid(*[torch.arange(side) - side // 2] * 2, indexing="ij")
    disk = (radius + 0.5 - (x**2 + y**2).sqrt()).clamp(0, 1)

    def blur(sharp: Tensor, exposure: float, number: int) -> Tensor:
        return MotionBlur()(sharp, psf=disk / disk.sum(), seed=2026, index=number)

    return blur


CONDITIONS: dict[str, Pictures] = {
    "no blur": lambda sharp, exposure, number: sharp,
    "shake, averaged values": shaken(),
    "shake, averaged light": shaken(gamma=2.2),
    "as a camera": shaken(realism="camera"),
    "shake of 20 px": shaken(length=20.0),
    "shake of 120 px": shaken(length=120.0),
    "JPEG of quality 75": shaken(jpeg=75),
    "JPEG of quality 50": shaken(jpeg=50),
    "highlights": shaken(gamma=2.2, highlights=1.0),
    "sensor noise": shaken(gamma=2.2, shot=1e-4, read=9.15e-4),
    "noise of 2 %": shaken(noise=0.02),
    "defocus of 1 px": defocused(1.0),
    "defocus of 2 px": defocused(2.0),
}


def middle(path: Path) -> Tensor:
    """uint8 [3, h, w], at most SIDE a side."""
    pixels = images.read(path).pixels
    top, left = (max(0, (side - SIDE) // 2) for side in pixels.shape[:2])
    return torch.from_numpy(pixels[top : top + SIDE, left : left + SIDE]).permute(2, 0, 1).contiguous()


def measured(deblurrer: Deblurrer, sharp: list[Tensor], condition: Pictures) -> dict[str, Any]:
    """Mean PSNR in dB before and after, and the gains; of the sharp pictures themselves only that after."""
    before, after, photos = [], [], []
    for number, photo in enumerate(sharp):
        for exposure in EXPOSURES:
            blurred = condition(photo, exposure, number)
            before.append(float(metrics.psnr(blurred, photo, 255.0)))
            after.append(float(metrics.psnr(deblurrer(blurred), photo, 255.0)))
            photos.append(number)
    found = {"restored": mean_of(after, photos).to_mapping()}
    if np.isfinite(before).all():
        gains = [after_one - before_one for before_one, after_one in zip(before, after, strict=True)]
        found |= {"blurred": mean_of(before, photos).to_mapping(), "gain": mean_of(gains, photos).to_mapping()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness", description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("-m", dest="weights", help="those that ship, if not given")
    parser.add_argument("-o", dest="out", type=Path, required=True)
    given = parser.parse_args()
    deblurrer = Deblurrer.from_pretrained(given.weights, device="cpu", dtype="fp32", scale=1)
    sharp = [middle(path) for path in find_pictures(given.photos)]
    rows = {}
    for name, condition in CONDITIONS.items():
        rows[name] = measured(deblurrer, sharp, condition)
        print(f"{name:24}", *(f"{key} {value['mean']:.2f}" for key, value in rows[name].items()), flush=True)
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    facts = {"date": date, "machine": machine(), "commit": commit(), "weights": deblurrer.source}
    given.out.write_text(json.dumps({**facts, "pictures": len(sharp), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
