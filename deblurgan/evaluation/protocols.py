"""The protocols by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from deblurgan.config import EvaluateConfig, as_path, converted
from deblurgan.data import GoPro, PairDataset, SharpFolder, open_dataset
from deblurgan.evaluation.gopro import GoProPairs
from deblurgan.evaluation.kohler import FRAME, Kohler
from deblurgan.evaluation.realblur import RealBlur, open_realblur
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
    scale: float,
    kernels: int,
    exposure: Sequence[float],
    seed: int,
    frames: tuple[int, int],
    log: Callable[[str], object],
) -> Protocol:
    """The protocol over the data. `metrics` are its own where none are given. Errors are those of `evaluate`."""
    given = {"protocol": name, "scale": scale, "kernels": kernels, "exposure": exposure, "seed": seed, "frames": frames}
    name, scale, kernels, exposures, seed, frames = converted(EvaluateConfig, given).values()
    if not 0 < scale <= 1:
        raise ValueError(f"scale must be in (0, 1], got {scale:g}")
    if kernels < 1:
        raise ValueError(f"kernels must be at least 1, got {kernels}")
    if not exposures:
        raise ValueError("exposure must name at least one share of the path, got none")
    if name == "kohler":
        metrics = _chosen(metrics, Kohler.AVAILABLE, Kohler.AVAILABLE)
        _require_default(name, layout=(layout, "auto"), gamma=(gamma, False), scale=(scale, 1.0))
        return Kohler(_folder(name, data), metrics, log=log)
    if name == "video" or (name == "auto" and not isinstance(data, PairDataset) and is_video(as_path("data", data))):
        metrics = _chosen(metrics, DEFAULT_METRICS, tuple(METRICS))
        _require_default("video", layout=(layout, "auto"), gamma=(gamma, False), scale=(scale, 1.0))
        return Video(_folder("video", data), metrics, frames=frames, seed=seed)
    lone: list[tuple[Path, str]] = []

    def take(path: Path, lack: str) -> None:
        lone.append((path, lack))

    if name == "realblur":
        metrics = _chosen(metrics, RealBlur.AVAILABLE, RealBlur.AVAILABLE)
        _require_default(name, gamma=(gamma, False))
        pairs = open_realblur(_folder(name, data), layout=layout, log=log, lone=take)
        return RealBlur(_expected(name, pairs, pairs=True), metrics, scale=scale, lone=lone)
    metrics = _chosen(metrics, DEFAULT_METRICS, tuple(METRICS))
    if isinstance(data, PairDataset):
        dataset = data
    else:
        layout = "gopro" if name == "gopro" and layout == "auto" else layout
        dataset = open_dataset(data, layout=layout, gamma=gamma, split="test", log=log, lone=take)
    if name == "auto":
        if isinstance(dataset, SharpFolder) and any(FRAME.fullmatch(Path(picture).stem) for picture in dataset.names()):
            raise ValueError(f"data holds Köhler's frames ({dataset.root}): say that the protocol is kohler")
        kinds = ((SharpFolder, "synthetic"), (GoPro, "gopro"), (PairDataset, "pairs"))
        name = next(chosen for kind, chosen in kinds if isinstance(dataset, kind))
    dataset = _expected(name, dataset, pairs=name != "synthetic")
    if isinstance(dataset, SharpFolder):
        _require_default(name, gamma=(gamma, False), scale=(scale, 1.0))
        return Synthetic(dataset, metrics, kernels=kernels, exposures=exposures, seed=seed)
    if name == "gopro" and not isinstance(dataset, GoPro):
        raise ValueError(f"data must be GoPro's tree, test/SEQUENCE/blur and sharp, for gopro, got {dataset.layout()}")
    return (GoProPairs if name == "gopro" else Pairs)(dataset, metrics, scale=scale, lone=lone)


def _chosen(metrics: Sequence[str], default: tuple[str, ...], available: tuple[str, ...]) -> tuple[str, ...]:
    """The metrics that are given, each once, or the default ones. Raises ValueError for others than the available."""
    unknown = sorted(set(metrics).difference(available))
    if unknown:
        raise ValueError(f"metrics must be of {', '.join(available)}, got {', '.join(unknown)}")
    return tuple(dict.fromkeys(metrics)) or default


def _require_default(protocol: str, **options: tuple[object, object]) -> None:
    """Raises ValueError for an option, with its value and its default, that would have no effect."""
    for option, (value, default) in options.items():
        if value != default:
            raise ValueError(f"{option} must be {default} for {protocol}, got {value}")


def _folder(protocol: str, data: PairDataset | Path | str) -> Path:
    if isinstance(data, PairDataset):
        raise ValueError(f"data must be a folder for {protocol}, got {type(data).__name__}")
    return as_path("data", data)


def _expected(protocol: str, dataset: PairDataset, *, pairs: bool) -> PairDataset:
    """The dataset. Raises ValueError where it holds sharp photos and the protocol is for pairs, or the other way."""
    if isinstance(dataset, SharpFolder) == pairs:
        wanted = "pairs of blurred and sharp pictures" if pairs else "sharp photos"
        raise ValueError(f"data must hold {wanted} for {protocol}, got {dataset.layout()}")
    return dataset
