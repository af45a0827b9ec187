"""Blurred versions of pictures as files, to look at or as a training set: the work of `deblurgan blur`."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deblurgan import images
from deblurgan.blur import MotionBlur
from deblurgan.blur.contact_sheet import psf_sheet
from deblurgan.config import BlurConfig
from deblurgan.limits import require_memory

SHEET_PSFS = 64  # the most that a contact sheet shows
BYTES_PER_PIXEL = 64  # the most that reading, blurring and writing a picture takes at once, about


class Outputs(NamedTuple):
    """Where everything goes."""

    root: Path
    """The folder of psf.npz and psf.png, and with `pairs` of blur/ and sharp/."""
    blurred: Path
    """The folder of the blurred pictures."""
    plan: list[tuple[Path, Path]]
    """(source, target) of each blurred picture."""


def write_blurred(options: BlurConfig, *, log: Callable[[str], None] | None = None) -> images.FilesReport:
    """Writes `options.n` blurred versions of each picture; with `pairs` a training set: blur/, sharp/ and psf.npz.

    The set's pictures are PNGs, psf.npz holds the PSF of each by name, and `show_psf` adds psf.png, a contact sheet. A
    bad picture is listed in the report. `log` takes a line a picture and one for the sheet. Raises ValueError for
    options out of range, FileExistsError where psf.npz or psf.png exists, unless `overwrite`.
    """
    blur = motion_blur(options)
    outputs = _outputs(options)
    sheet, archive = outputs.root / "psf.png", outputs.root / "psf.npz"
    if options.pairs:
        images.require_absent(archive, overwrite=options.overwrite)
    if options.show_psf:
        _require_free_sheet(sheet, outputs, options.overwrite)
    psfs: dict[str, NDArray[np.float32]] = {}
    report = images.run_plan(outputs.plan, _blur_one(options, blur, outputs, psfs), log=log)
    if psfs and options.pairs:
        images.replace_file(archive, _npz(psfs))
    if psfs and options.show_psf:
        line = _write_sheet(sheet, psfs, len(report.done))
        if log is not None:
            log(line)
    return report


def motion_blur(options: BlurConfig) -> MotionBlur:
    """The blur that the options describe. Raises ValueError for one out of range."""
    return MotionBlur(
        length=options.length,
        exposure=options.exposure,
        anxiety=options.anxiety,
        padding=options.padding,
        gamma=options.gamma,
        noise=options.noise,
    )


def _outputs(options: BlurConfig) -> Outputs:
    if options.pairs and options.out.suffix.lower() in images.SUFFIXES:
        raise ValueError(f"out must be a folder with pairs=True, got {options.out}")
    sources = images.plan_outputs(options.inputs, options.out, format="png" if options.pairs else "keep")
    root = options.out.parent if sources[0][1] == options.out else options.out
    blurred = root / "blur" if options.pairs else root
    plan = [
        (source, version)
        for source, target in sources
        for version in _versions(blurred / target.relative_to(root), options.n)
    ]
    return Outputs(root, blurred, plan)


def _versions(target: Path, n: int) -> list[Path]:
    """The paths of n versions of one target: itself, or numbered ones."""
    return [target.with_stem(f"{target.stem}_{k:03d}") for k in range(n)] if n > 1 else [target]


def _require_free_sheet(sheet: Path, outputs: Outputs, overwrite: bool) -> None:
    for source, target in outputs.plan:
        if target == sheet:
            raise FileExistsError(f"{sheet} is the output of {source} already")
    images.require_absent(sheet, overwrite=overwrite)


def _blur_one(
    options: BlurConfig, blur: MotionBlur, outputs: Outputs, psfs: dict[str, NDArray[np.float32]]
) -> Callable[[Path, Path], None]:
    """The work on one (source, target) of the plan. It adds the PSF to `psfs` where that will be written."""
    numbers = {target: i for i, (_, target) in enumerate(outputs.plan)}

    def work(source: Path, target: Path) -> None:
        name = target.relative_to(outputs.blurred)
        paths = [target, outputs.root / "sharp" / name] if options.pairs else [target]
        for path in paths:
            images.require_absent(path, overwrite=options.overwrite)
        sharp = images.read(source, check_size=lambda w, h: require_memory(w, h, w * h * BYTES_PER_PIXEL))
        pixels = torch.from_numpy(sharp.pixels).permute(2, 0, 1)
        pixels, psf = blur(pixels, seed=options.seed, index=numbers[target], return_psf=True)
        blurred = sharp.with_pixels(pixels.permute(1, 2, 0).numpy())
        for path, picture in zip(paths, (blurred, sharp), strict=False):
            path.parent.mkdir(parents=True, exist_ok=True)
            images.write(picture, path, quality=options.quality)
        if options.pairs or (options.show_psf and len(psfs) < SHEET_PSFS):
            psfs[name.as_posix()] = psf[0].numpy()

    return work


def _write_sheet(path: Path, psfs: dict[str, NDArray[np.float32]], count: int) -> str:
    """Writes the contact sheet of the first PSFs of `count`; returns a line about it."""
    shown = np.stack(list(psfs.values())[:SHEET_PSFS])
    grey = psf_sheet(shown)[..., None]
    images.write(images.Picture(grey.repeat(3, 2), grey=True), path)
    share = f"{len(shown)}" if count <= SHEET_PSFS else f"the first {SHEET_PSFS} of {count}"
    return f"{path}: {share} kernels"


def _npz(psfs: dict[str, NDArray[np.float32]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, names=np.array(list(psfs)), psf=np.stack(list(psfs.values())))
    return buffer.getvalue()
