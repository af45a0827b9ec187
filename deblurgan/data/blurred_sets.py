"""Blurred versions of pictures as files, to look at or as a training set: the work of `deblurgan blur`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from deblurgan import images
from deblurgan.blur import MotionBlur
from deblurgan.blur.contact_sheet import psf_sheet
from deblurgan.config import BlurConfig
from deblurgan.data import psf_archive
from deblurgan.data.psf_archive import Psfs
from deblurgan.limits import require_memory

SHEET_PSFS = 64  # the most that a contact sheet shows
BYTES_PER_PIXEL = 64  # the most that reading, blurring and writing a picture takes at once, about


class Outputs(NamedTuple):
    """Where everything goes."""

    root: Path
    """The folder of psf.npz and psf.png, and with `pairs` of blur/ and sharp/."""
    blurred: Path
    """The folder of the blurred pictures."""
    plan: images.Plan
    """Its targets are the blurred pictures."""
    number: dict[Path, int]
    """Of each target; with the seed it names the blur."""

    def name(self, target: Path) -> str:
        """What psf.npz calls a blurred picture."""
        return target.relative_to(self.blurred).as_posix()

    def pair(self, target: Path) -> list[Path]:
        """A blurred picture of a training set and its sharp partner."""
        return [target, self.root / "sharp" / self.name(target)]


def write_blurred(
    options: BlurConfig, *, log: Callable[[str], None] | None = None, warn: Callable[[str], None] | None = None
) -> images.FilesReport:
    """Writes `options.n` blurred versions of each picture; with `pairs` a training set: blur/, sharp/ and psf.npz.

    The set's pictures are PNGs, psf.npz holds the PSF of each by name, and `show_psf` adds psf.png, a contact sheet. A
    bad picture is listed in the report. `log` takes a line a picture and one for the sheet; `warn` takes those of
    failures in its place.

    A set that was interrupted is gone on with by the same inputs and options: it becomes, bit for bit, the set that one
    call makes. One that was interrupted with `overwrite` is not: that makes all of it anew.

    Raises ValueError for options out of range; FileExistsError where files of another set, or psf.png, are in the way,
    unless `overwrite`.
    """
    blur = motion_blur(options)
    outputs = _outputs(options)
    sheet, archive = outputs.root / "psf.png", outputs.root / "psf.npz"
    if options.show_psf:
        _require_free_sheet(sheet, outputs, options.overwrite)

    def psfs(targets: Iterable[Path]) -> Psfs:
        draw = partial(blur.psf, 1, seed=options.seed)
        return {outputs.name(target): draw(index=outputs.number[target])[0].numpy() for target in targets}

    if options.pairs:
        _begin_set(archive, options, outputs, psfs(outputs.number))
    report = images.run_plan(
        outputs.plan, _blur_one(options, blur, outputs), is_done=_is_done(options, outputs), log=log, warn=warn
    )
    made = sorted([*report.done, *report.skipped], key=outputs.number.__getitem__)
    if made and options.pairs:
        psf_archive.write(archive, psfs(made), options)
    elif options.pairs:
        archive.unlink(missing_ok=True)
    if made and options.show_psf:
        line = _write_sheet(sheet, psfs(made[:SHEET_PSFS]), len(made))
        if log is not None:
            log(images.printable(line))
    return report


def motion_blur(options: BlurConfig) -> MotionBlur:
    """The blur that the options describe. Raises ValueError for one out of range."""
    return MotionBlur(
        length=options.length,
        exposure=options.exposure,
        anxiety=options.anxiety,
        padding=options.padding,
        gamma=options.gamma,
        realism=options.realism,
        noise=options.noise,
        seed=options.seed,
    )


def _outputs(options: BlurConfig) -> Outputs:
    inputs, out, n = options.inputs, options.out, options.n
    root = out.parent if images.names_file(out) else out
    if not options.pairs:
        plan = images.plan_outputs(inputs, out, versions=n)
    elif root != out or any(path.resolve() == out.resolve() for path in inputs):
        raise ValueError(f"out must be a folder and no input with pairs=True, got {out}")
    else:
        plan = images.plan_outputs(inputs, out, format="png", subfolder="blur", versions=n)
    number = {target: i for i, (_, target) in enumerate(plan.pairs)}
    return Outputs(root, root / "blur" if options.pairs else root, plan, number)


def _require_free_sheet(sheet: Path, outputs: Outputs, overwrite: bool) -> None:
    for source, target in outputs.plan.pairs:
        if target == sheet:
            raise FileExistsError(f"{sheet} is the output of {source} already")
    images.require_absent(sheet, overwrite=overwrite)


def _begin_set(archive: Path, options: BlurConfig, outputs: Outputs, psfs: Psfs) -> None:
    """Writes psf.npz before the pictures, as the record of what an interrupted set is to become. Raises FileExistsError
    for files that are not of this set.

    With `overwrite` psf.npz comes last: what an interruption leaves of new and old pictures is no set.
    """
    if options.overwrite:
        archive.unlink(missing_ok=True)
        return
    present = {outputs.name(t): path for t in outputs.number for path in outputs.pair(t) if path.exists()}
    if archive.exists():
        psf_archive.require_same(archive, psfs, options, present)
    elif present:
        raise FileExistsError(f"{min(present.values())} exists: overwrite=True replaces it")
    psf_archive.write(archive, psfs, options)


def _is_done(options: BlurConfig, outputs: Outputs) -> Callable[[Path], bool] | None:
    """Which targets are there and need no work; None where all do."""
    if options.pairs and not options.overwrite:
        return lambda target: all(path.exists() for path in outputs.pair(target))
    return Path.exists if options.skip_existing else None


def _blur_one(options: BlurConfig, blur: MotionBlur, outputs: Outputs) -> Callable[[Path, Path], tuple[str, ...]]:
    """The work on one (source, target) of the plan."""

    def work(source: Path, target: Path) -> tuple[str, ...]:
        paths = outputs.pair(target) if options.pairs else [target]
        for path in paths:  # what is there of a set is its own: _begin_set has looked
            images.require_absent(path, overwrite=options.overwrite or options.pairs)
        sharp = images.read(source, check_size=lambda w, h: require_memory(w, h, w * h * BYTES_PER_PIXEL)).in_8_bits()
        pixels = torch.from_numpy(sharp.pixels).permute(2, 0, 1)
        pixels = blur(pixels, seed=options.seed, index=outputs.number[target])
        blurred = sharp.with_pixels(pixels.permute(1, 2, 0).numpy())
        for path, picture in zip(paths, (blurred, sharp), strict=False):
            path.parent.mkdir(parents=True, exist_ok=True)
            lacking = images.write(picture, path, quality=options.quality)
        return lacking

    return work


def _write_sheet(path: Path, psfs: Psfs, count: int) -> str:
    """Writes the contact sheet of the first PSFs of `count`; returns a line about it."""
    grey = psf_sheet(np.stack(list(psfs.values())))[..., None]
    images.write(images.Picture(grey.repeat(3, 2), grey=True), path)
    share = f"{count}" if count <= SHEET_PSFS else f"the first {SHEET_PSFS} of {count}"
    return f"{path}: {share} kernels"
