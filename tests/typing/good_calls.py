"""A user's script in which a type checker finds nothing."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import deblurgan

deblurrer = deblurgan.Deblurrer.from_pretrained(device="cpu", dtype="fp32", max_memory=2**30, seed=1, quantize=None)
image: Image.Image = deblurrer(Path("blurred.png"))
array: np.ndarray = deblurrer(np.zeros((8, 8, 3), np.uint8))
tensor: torch.Tensor = deblurrer(torch.zeros(3, 8, 8))
report: deblurgan.Report = deblurgan.evaluate(deblurrer, "photos", ("psnr",))
psnr: torch.Tensor = deblurgan.metrics.psnr(tensor, tensor)
psf: torch.Tensor = deblurgan.blur.rasterize_psf(deblurgan.blur.random_trajectories(1, seed=0))
headers: str = deblurgan.get_include()
