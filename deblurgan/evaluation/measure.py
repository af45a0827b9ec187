"""Measuring a Deblurrer on a data set."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from deblurgan import images
from deblurgan.blur import apply_psf, random_trajectories, rasterize_psf
from deblurgan.config import EvaluateConfig, converted
from deblurgan.data import Pair, PairDataset, SharpFolder, open_dataset
from deblurgan.evaluation.report import Report, Row
from deblurgan.inference import Deblurrer
from deblurgan.metrics import capped_psnr, ssim

METRICS = {"psnr": capped_psnr, "ssim": ssim}


def evaluate(
    deblurrer: Deblurrer,
    data: PairDataset | Path | str,
    metrics: str | Sequence[str] = ("psnr", "ssim"),
    *,
    layout: str = "auto",
    gamma: bool = False,
    kernels: int = 4,
    exposure: float | Sequence[float] = (0.5, 1.0),
    seed: int = 0,
    log: Callable[[str], None] | None = None,
) -> Report:
    """Measures a Deblurrer on blurred and sharp pairs, or on sharp pictures.

    Sharp pictures are blurred by the first `kernels` kernels of `seed` at each exposure (centred, the same for every
    picture). They are also restored without blur, which should leave them as they are.

    Args:
        data: a dataset, or a folder in any layout of `deblurgan.data`; of train/ and test/ folders only test/.
        metrics: one or several of "psnr" (dB) and "ssim".
        layout, gamma: how a folder is laid out, and whether to take GoPro's blur_gamma pictures; see
            `data.open_dataset`.
        kernels, exposure, seed: of the blur, for sharp pictures only.
        log: takes a line a picture, and one where pictures of the folder are left out.

    A bad file is listed in the report and left out. Raises ValueError for options out of range, and where no picture
    can be measured.
    """
    metrics = (metrics,) if isinstance(metrics, str) else metrics
    exposures = tuple(exposure) if isinstance(exposure, Iterable) else (exposure,)
    numbers = converted(EvaluateConfig, {"kernels": kernels, "exposure": exposures, "seed": seed})
    kernels, exposures, seed = numbers["kernels"], numbers["exposure"], numbers["seed"]
    _check_options(metrics, kernels, exposures)
    tell = log or warnings.warn
    dataset = (
        data
        if isinstance(data, PairDataset)
        else open_dataset(data, layout=layout, gamma=gamma, split="test", log=tell)
    )
    report = Report()
    psfs = _kernels(kernels, exposures, seed) if isinstance(dataset, SharpFolder) else []
    for index in range(len(dataset)):
        name = dataset.name(index)
        try:
            _add_picture(report, deblurrer, name, dataset.whole(index), psfs, metrics)
        except images.FAILURES as error:
            report.failed.append((name, images.failure_reason(error)))
        if log is not None:
            log(images.printable(f"[{index + 1}/{len(dataset)}] {name}"))
    if not report.rows:
        raise ValueError(f"data must hold a readable picture, got {report.failed[0][0]}: {report.failed[0][1]}")
    return report


def _check_options(metrics: Sequence[str], kernels: int, exposure: Sequence[float]) -> None:
    unknown = sorted(set(metrics) - set(METRICS))
    if unknown or not metrics:
        raise ValueError(f"metrics must be of {', '.join(METRICS)}, got {', '.join(unknown) or 'none'}")
    if kernels < 1:
        raise ValueError(f"kernels must be at least 1, got {kernels}")
    if not exposure:
        raise ValueError("exposure must name at least one share of the path, got none")


class Kernel(NamedTuple):
    """A PSF that blurs every sharp picture."""

    exposure: float
    number: int
    psf: Tensor  # [k, k]


def _kernels(count: int, exposures: Sequence[float], seed: int) -> list[Kernel]:
    paths = random_trajectories(count, seed=seed)
    psfs = {share: rasterize_psf(paths, exposure=share) for share in exposures}
    return [Kernel(share, k, psfs[share][k]) for share in exposures for k in range(count)]


def _add_picture(
    report: Report, deblurrer: Deblurrer, name: str, pair: Pair, psfs: Sequence[Kernel], metrics: Sequence[str]
) -> None:
    """Measures one picture of the data. Where that fails the report gets none of its rows."""
    if not psfs:
        report.rows.append(_row(deblurrer, name, pair.blurred, pair.sharp, metrics))
        return
    rows = [_row(deblurrer, name, apply_psf(pair.sharp, kernel.psf), pair.sharp, metrics, kernel) for kernel in psfs]
    report.sharp[name] = _measure(deblurrer(pair.sharp), pair.sharp, ["psnr"])["psnr"]
    report.rows += rows


def _row(
    deblurrer: Deblurrer,
    name: str,
    blurred: Tensor,
    sharp: Tensor,
    metrics: Sequence[str],
    kernel: Kernel | None = None,
) -> Row:
    before, after = _measure(blurred, sharp, metrics), _measure(deblurrer(blurred), sharp, metrics)
    return Row(name, kernel and kernel.exposure, kernel and kernel.number, before, after)


def _measure(picture: Tensor, sharp: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Metrics of a uint8 picture [3, h, w]."""
    return {name: float(METRICS[name](picture, sharp, 255.0)) for name in names}
