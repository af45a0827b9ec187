"""python docs/figures/before_after.py: makes docs/before-after.jpg, what the shipped weights do to the demo picture.

Of several camera shakes the one of median gain is shown.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from deblurgan import Deblurrer, MotionBlur, images, metrics

ROOT = Path(__file__).parents[2]
SEEDS, EXPOSURE = range(15), 0.5
LEFT, TOP, SIDE, ZOOM = 290, 150, 170, 2  # the part of the picture that is shown
GAP, LABEL = 6, 30


def panel(picture: Tensor, words: str) -> Image.Image:
    """The enlarged part of a uint8 picture [3, h, w] under its label."""
    part = picture[:, TOP : TOP + SIDE, LEFT : LEFT + SIDE].permute(1, 2, 0).contiguous().numpy()
    side = SIDE * ZOOM
    found = Image.new("RGB", (side, side + LABEL), "white")
    found.paste(Image.fromarray(part).resize((side, side), Image.Resampling.BICUBIC), (0, LABEL))
    ImageDraw.Draw(found).text((4, 5), words, "black", ImageFont.load_default(16))
    return found


def main() -> None:
    pixels = images.read(ROOT / "deblurgan" / "assets" / "demo.png").pixels
    sharp = torch.from_numpy(pixels).permute(2, 0, 1)
    deblurrer = Deblurrer.from_pretrained(device="cpu", dtype="fp32")
    found = []
    for seed in SEEDS:
        blurred = MotionBlur(exposure=EXPOSURE)(sharp, seed=seed, index=0)
        restored = deblurrer(blurred)
        before, after = (float(metrics.psnr(picture, sharp, 255.0)) for picture in (blurred, restored))
        found.append((after - before, before, after, blurred, restored))
    gain, before, after, blurred, restored = sorted(found, key=lambda one: one[0])[len(found) // 2]
    panels = [
        panel(blurred, f"blurred, {before:.2f} dB"),
        panel(restored, f"restored, {after:.2f} dB ({gain:+.2f})"),
        panel(sharp, "sharp original"),
    ]
    width, height = panels[0].size
    whole = Image.new("RGB", (3 * width + 2 * GAP, height), "white")
    for i, shown in enumerate(panels):
        whole.paste(shown, (i * (width + GAP), 0))
    whole.save(ROOT / "docs" / "before-after.jpg", quality=92)
    print(f"{before:.2f} dB blurred, {after:.2f} dB restored")


if __name__ == "__main__":
    main()
