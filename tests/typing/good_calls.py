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
plan: deblurgan.inference.StreamPlan = deblurrer.plan(3000, 4000)
peak: int = plan.peak_bytes
half: Image.Image = deblurgan.Deblurrer.from_pretrained(scale=0.5)(image, progress=print)
lacking: tuple[str, ...] = deblurrer.file("blurred.jpg", Path("sharp.jpg"), quality=90, progress=print)
files: deblurgan.inference.FilesReport = deblurrer.files(["photos/*.jpg"], skip_existing=True, log=print)
mean: float = files.changes[files.done[0]].mean
try:
    frames: int = deblurrer.video("blurred.mp4", "sharp.mp4").frames
except deblurgan.inference.VideoError as error:
    partial: deblurgan.inference.VideoReport | None = error.report
generator = deblurgan.Generator.from_pretrained("hub:OWNER/NAME", revision="main")
restored: torch.Tensor = generator(tensor[None], seed=1)
scores: torch.Tensor = deblurgan.Critic()(restored)
sheet: Image.Image = deblurgan.images.compare.compare_sheet(array, array)
generator.save_pretrained("saved", card={"licence": "cc-by-4.0"})
address: str = generator.push_to_hub("OWNER/NAME", private=True)
difference: float = deblurgan.export.export_generator(generator, "net.onnx", unit_range=True)
source: str | None = deblurrer.source
report: deblurgan.Report = deblurgan.evaluate(deblurrer, "photos", ("psnr",))
psnr: torch.Tensor = deblurgan.metrics.psnr(tensor, tensor)
psf: torch.Tensor = deblurgan.blur.rasterize_psf(deblurgan.blur.random_trajectories(1, seed=0))
headers: str = deblurgan.get_include()
