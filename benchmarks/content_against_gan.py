"""python -m benchmarks.content_against_gan PHOTOS VALIDATION WORK: what each loss makes of the same weights.

The shipped `tiny` weights are trained on in the combined regime, two photos of PHOTOS that are blurred on the fly for
each pair of a small folder in GoPro's layout, which is made in WORK of every second photo. Three runs differ in their
losses alone: squared error; the content loss; the content loss and a critic. Each is then judged on the photos of
VALIDATION, blurred by fixed kernels: PSNR, SSIM, and detail, which is the mean size of the gradient as a share of the
sharp photo's. Writes WORK/results.json and docs/losses.jpg. A run that was stopped goes on.

The released code's norm of the penalty (`gp_norm="pixel"`) and a content weight of 0.5 give the critic a say: with one
norm a picture and the content weight of 100 its share of the generator's gradient is below 1/100,000.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import deblurgan
from benchmarks.harness import machine
from deblurgan import Deblurrer, MotionBlur, images, metrics
from deblurgan.data import SharpFolder

ROOT = Path(__file__).parents[1]

COMMON: dict[str, Any] = {"preset": "tiny", "init": ROOT / "deblurgan" / "assets" / "tiny.safetensors"}
COMMON |= {"crop": 128, "batch_size": 1, "lr": 1e-4, "betas": (0.5, 0.999), "ema": 0.99, "val_pictures": 16}
CONTENT: dict[str, Any] = {"pixel": "none", "content": "vgg16"}
RUNS: dict[str, dict[str, Any]] = {
    "pixel": {},
    "content": CONTENT,
    "content and GAN": {**CONTENT, "gan": "wgan-gp", "gp_norm": "pixel", "content_weight": 0.5},
}
PAIRS, LONGEST = 24, 720  # photos of the pairs, and their longer side in px
TOP, LEFT, HIGH, WIDE, ZOOM = 60, 140, 280, 320, 2  # the part of the picture that is shown, and its size enlarged
GAP, LABEL = 6, 30


def write_gopro(photos: list[Path], root: Path) -> None:
    """Two pairs of each photo in GoPro's layout, six photos a sequence, blurred in light with noise."""
    blur = MotionBlur(length=40.0, exposure=(0.25, 0.5, 1.0), gamma=2.2, noise=(0.0, 0.01), seed=77)
    for i, path in enumerate(photos):
        picture = images.read(path)
        smaller = Image.fromarray(picture.pixels)
        smaller.thumbnail((LONGEST, LONGEST))
        sharp = as_tensor(smaller)
        for k in range(2):
            for kind, pixels in (("blur", blur(sharp, index=2 * i + k)), ("sharp", sharp)):
                target = root / "train" / f"SEQ{i // 6:02d}" / kind / f"{i:03d}{k}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                images.write(images.Picture(pixels.permute(1, 2, 0).numpy()), target)


def as_tensor(picture: Image.Image) -> Tensor:
    """uint8 [3, h, w]."""
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.view(picture.height, picture.width, 3).permute(2, 0, 1).contiguous()


def detail(picture: Tensor) -> float:
    """Mean size of the differences between neighbouring pixels."""
    x = picture.double()
    return float((x[:, 1:] - x[:, :-1]).abs().mean() + (x[:, :, 1:] - x[:, :, :-1]).abs().mean())


def judged(deblur: Deblurrer | None, validation: SharpFolder) -> dict[str, float]:
    """The means over the validation pictures, of the blurred ones themselves where there is no network."""
    rows = []
    for i in range(len(validation)):
        blurred, sharp = validation.whole(i)
        restored = blurred if deblur is None else deblur(blurred)
        scores = (metrics.psnr(restored, sharp, 255.0), metrics.ssim(restored, sharp, 255.0))
        rows.append([*map(float, scores), detail(restored) / detail(sharp)])
    means = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    return dict(zip(("psnr", "ssim", "detail"), means, strict=True))


def draw(networks: dict[str, Deblurrer]) -> None:
    """docs/losses.jpg: a part of scikit-image's picture of a cat, blurred and restored by each network."""
    from skimage.data import chelsea

    sharp = torch.from_numpy(chelsea()).permute(2, 0, 1).contiguous()
    blurred = MotionBlur(exposure=0.5)(sharp, seed=0, index=0)
    shown = {"blurred": blurred, **{name: deblur(blurred) for name, deblur in networks.items()}, "sharp": sharp}
    sheet = Image.new("RGB", (len(shown) * (WIDE + GAP) - GAP, HIGH + LABEL), "white")
    font = ImageFont.load_default(16)
    for i, (name, picture) in enumerate(shown.items()):
        part = picture[:, TOP : TOP + HIGH // ZOOM, LEFT : LEFT + WIDE // ZOOM].permute(1, 2, 0).contiguous()
        enlarged = Image.fromarray(part.numpy()).resize((WIDE, HIGH), Image.Resampling.BICUBIC)
        sheet.paste(enlarged, (i * (WIDE + GAP), LABEL))
        score = "" if picture is sharp else f", {float(metrics.psnr(picture, sharp, 255.0)):.2f} dB"
        ImageDraw.Draw(sheet).text((i * (WIDE + GAP) + 4, 5), name + score, "black", font)
    sheet.save(ROOT / "docs" / "losses.jpg", quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("photos", "validation", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    given = parser.parse_args()
    pairs = given.work / "gopro"
    if not pairs.exists():
        write_gopro(sorted(images.find(given.photos))[::2][:PAIRS], pairs)
    validation = SharpFolder(given.validation, blur=MotionBlur(exposure=(0.5, 1.0), seed=0), seed=0)
    networks: dict[str, Deblurrer] = {}
    for name, losses in RUNS.items():
        options = {**COMMON, **losses, "steps": given.steps, "val_every": max(1, given.steps // 6)}
        out = given.work / name.replace(" ", "-")
        deblurgan.train(given.photos, val=given.validation, mix=pairs, out=out, **options)
        networks[name] = Deblurrer.from_pretrained(out / "last.safetensors", device="cpu", dtype="fp32", scale=1.0)
    start = Deblurrer.from_pretrained(COMMON["init"], device="cpu", dtype="fp32", scale=1.0)
    judges: dict[str, Deblurrer | None] = {"blurred": None, "the shipped weights": start, **networks}
    rows = {name: judged(deblur, validation) for name, deblur in judges.items()}
    for name, row in rows.items():
        print(f"{name:20} {row['psnr']:.2f} dB  SSIM {row['ssim']:.4f}  detail {row['detail']:.3f}")
    facts = {"machine": machine(), "steps": given.steps, "pictures": len(validation), "rows": rows}
    (given.work / "results.json").write_text(json.dumps(facts, indent=1))
    draw(networks)


if __name__ == "__main__":
    main()
