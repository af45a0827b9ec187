"""The protocols by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from deblurgan.config import EvaluateConfig, converted
from deblurgan.data import PairDataset, SharpFolder, open_dataset
from deblurgan.evaluation.scenes import Pairs, Protocol
from deblurgan.evaluation.synthetic import Synthetic
from deblurgan.evaluation.video import Video
from deblurgan.images.batch import is_video
from deblurgan.metrics import METRICS

DEFAULT_METRICS = ("psnr", "ssim")


def open_protocol(
    name: str,
    data: PairDataset | Path | str,
    metrics: Sequence[str],
    *,
    layout: str,
    gamma: bool,
    kernels: int,
    exposure: Sequence[float],
    seed: int,
    frames: tuple[int, int],
    log: Callable[[str], object],
) -> Protocol:
    """The protocol over the data. `metrics` are its own where none are given. Errors are those of `evaluate`."""
    given = {"kernels": kernels, "exposure": exposure, "seed": seed, "frames": frames}
    numbers = converted(EvaluateConfig, given)
    kernels, exposures, seed, frames = numbers["kernels"], numbers["exposure"], numbers["seed"], numbers["frames"]
    unknown = sorted(set(metrics) - set(METRICS))
    if unknown:
        raise ValueError(f"metrics must be of {', '.join(METRICS)}, got {', '.join(unknown)}")
    if kernels < 1:
        raise ValueError(f"kernels must be at least 1, got {kernels}")
    if not exposures:
        raise ValueError("exposure must name at least one share of the path, got none")
    if name == "video" or (name == "auto" and not isinstance(data, PairDataset) and is_video(Path(data))):
        if isinstance(data, PairDataset):
            raise TypeError(f"data must be a video file for protocol video, got {type(data).__name__}")
        return Video(data, metrics or DEFAULT_METRICS, frames=frames, seed=seed)
    dataset = (
        data if isinstance(data, PairDataset) else open_dataset(data, layout=layout, gamma=gamma, split="test", log=log)
    )
    if isinstance(dataset, SharpFolder):
        return Synthetic(dataset, metrics or DEFAULT_METRICS, kernels=kernels, exposures=exposures, seed=seed)
    return Pairs(dataset, metrics or DEFAULT_METRICS)
