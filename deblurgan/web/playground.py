"""The camera-shake playground: a kernel by its numbers, a sharp picture blurred by it and restored."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from deblurgan import images
from deblurgan.blur import MotionBlur
from deblurgan.blur.contact_sheet import psf_sheet
from deblurgan.inference import Deblurrer
from deblurgan.limits import require_memory
from deblurgan.metrics import capped_psnr
from deblurgan.web.work import save_pair

DEMO_PICTURE = Path(__file__).parents[1] / "assets" / "demo.png"
LONGEST = 960  # side of the pictures that are blurred, px
SHOWN = 512  # least side of the drawn kernel, px


class Shake(NamedTuple):
    """One camera shake: which one, how much of it is exposed, how long (px) and how shaky its path is."""

    seed: int = 0
    exposure: float = 1.0
    length: float = 60.0
    anxiety: float = 0.005

    def blur(self) -> MotionBlur:
        """Raises ValueError for a number out of range."""
        return MotionBlur(seed=self.seed, exposure=self.exposure, length=self.length, anxiety=self.anxiety)

    def drawn(self) -> NDArray[np.uint8]:
        """The kernel, white on black and enlarged: uint8 [h, w]."""
        sheet = psf_sheet(self.blur().psf(1).numpy())
        return np.kron(sheet, np.ones((-(-SHOWN // len(sheet)),) * 2, np.uint8))


class Shaken(NamedTuple):
    """Files of the blurred and the restored picture, and their distances from the sharp one, in words."""

    pair: tuple[Path, Path]
    summary: str


def shake_and_restore(deblurrer: Deblurrer, shake: Shake, source: Path, folder: Path) -> Shaken:
    """Blurs a sharp picture, reduced where it is large, and restores it. Writes both to an empty folder.

    Raises ValueError for a number of the shake out of range, and what `images.read` and the Deblurrer do.
    """
    blur = shake.blur()
    sharp = sharp_picture(source)
    blurred = blur(sharp, seed=shake.seed, index=0)
    restored = deblurrer(blurred)
    before, after = (float(capped_psnr(picture, sharp, 255.0)) for picture in (blurred, restored))
    blurred_image, restored_image = (Image.fromarray(x.permute(1, 2, 0).numpy()) for x in (blurred, restored))
    return Shaken(
        pair=save_pair(blurred_image, restored_image, folder, "shaken"),
        summary=f"PSNR {before:.2f} dB blurred, {after:.2f} dB restored: {after - before:+.2f} dB",
    )


def sharp_picture(source: Path) -> torch.Tensor:
    """The picture as a Tensor, uint8 [3, h, w], without alpha, neither side above LONGEST."""
    image = images.read(source, check_size=_require_memory).in_8_bits().to_pil().convert("RGB")
    image.thumbnail((LONGEST, LONGEST))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _require_memory(w: int, h: int) -> None:
    require_memory(w, h, 16 * w * h)  # bytes: the decoded picture, and the copies in its own mode and in RGB
