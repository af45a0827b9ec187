"""Köhler's benchmark: 48 pictures of 4 motifs under 12 recorded camera shakes, each compared with every sharp frame of
its trajectory, as the authors' MATLAB code compares them.

That code measures through MeTriX MuX, whose multi-scale SSIM is not Wang's: it halves pictures by a wavelet's low-pass,
and averages contrast and structure apart from each other. All is computed in fp64.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from deblurgan import images
from deblurgan.config import as_path
from deblurgan.data.cache import Pixels
from deblurgan.data.crops import to_tensor
from deblurgan.data.folders import find_pictures
from deblurgan.evaluation.alignment import Array, matching_gain, shifted, whole_pixel_shift
from deblurgan.evaluation.scenes import Protocol, Scene, naming_file
from deblurgan.metrics import IDENTICAL, MS_SSIM_SIDE, SCALES, WINDOW, decibels

Key = tuple[int, int]  # motif and trajectory

BLURRED = re.compile(r"blurry(\d+)_(\d+)", re.IGNORECASE)
FRAME = re.compile(r"groundtruth(\d+)_(\d+)_(\d+)", re.IGNORECASE)

KEYS = [(motif, trajectory) for motif in range(1, 5) for trajectory in range(1, 13)]
COUNTS = {(2, 11): 200, **dict.fromkeys([(1, 3), (1, 10), (1, 12), (2, 10), (3, 7), (3, 12), (4, 12)], 198)}
USUAL_COUNT = 199
LEFT_OUT = {(1, 3): (30, 199)}  # frames that the official code passes over

PEAK = 255.0
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
LUMINANCE = np.array([0.299, 0.587, 0.114])
GAUSSIAN = np.array([*reversed(WINDOW[1:]), *WINDOW])
# The analysis low-pass of the biorthogonal 9/7 wavelet
HALF_97 = [0.037828455507260, -0.023849465019560, -0.110624404418440, 0.377402855612830]
LOW_PASS = np.array([*HALF_97, 0.852698679008890, *reversed(HALF_97)])
LOW_PASS /= LOW_PASS.sum()


class Kohler(Protocol):
    """The benchmark in a folder with Blurry1_1.png ... Blurry4_12.png and GroundTruth1_1_1.png ..., at any depth: as
    the published archives unpack, or all in one folder.

    The frames of the picture that is measured stay in memory, 0.4 GB. Raises FileNotFoundError for a missing folder,
    ValueError where it holds no blurred picture or no frame, or one of them twice.
    """

    name = "kohler"
    lines_by = "motif"
    samples_by = "trajectory"  # a shake is as hard for all motifs, so that pictures under it are no independent samples
    AVAILABLE = ("psnr", "ms-ssim")

    def __init__(self, root: Path | str, metrics: Sequence[str] = AVAILABLE, *, log: Callable[[str], object]) -> None:
        self.root, self.metrics = as_path("data", root), tuple(metrics)
        self.blurred: dict[Key, Path] = {}
        self.frames: dict[Key, dict[int, Path]] = {}
        for path in find_pictures(self.root, log=log):
            if found := BLURRED.fullmatch(path.stem):
                motif, trajectory = map(int, found.groups())
                _take(self.blurred, (motif, trajectory), path)
            elif found := FRAME.fullmatch(path.stem):
                motif, trajectory, number = map(int, found.groups())
                if number not in LEFT_OUT.get((motif, trajectory), ()):
                    _take(self.frames.setdefault((motif, trajectory), {}), number, path)
        if not self.blurred or not self.frames:
            lacks = "GroundTruth1_1_1.png ..." if self.blurred else "Blurry1_1.png ... Blurry4_12.png"
            mat = "; .mat files cannot be read, take the PNG frames" if any(self.root.rglob("*.mat")) else ""
            raise ValueError(f"data must hold Köhler's pictures, found no {lacks} in {self.root}{mat}")

    def pictures(self) -> list[str]:
        return [self._name(key) for key in KEYS]

    def files(self, index: int) -> list[Path]:
        key = KEYS[index]
        return [path for path in (self.blurred.get(key), *self.frames.get(key, {}).values()) if path is not None]

    def scenes(self, index: int) -> list[Scene]:
        key = KEYS[index]
        numbers = sorted(self.frames.get(key, ()))
        if key not in self.blurred:
            raise images.ImageError(self._name(key), "is missing")
        if not numbers:
            raise images.ImageError(self._name(key), "has no sharp frames GroundTruth{}_{}_1.png ...".format(*key))
        blurred = to_tensor(images.read(self.blurred[key]).in_8_bits().pixels)

        @cache  # each system is compared with all frames
        def frame(number: int) -> Tensor:
            path = self.frames[key][number]
            try:
                sharp = to_tensor(images.read(path).in_8_bits().pixels)
                if sharp.shape != blurred.shape:
                    sizes = ("{2}x{1}".format(*part.shape) for part in (blurred, sharp))
                    raise images.ImageError(path, "{} blurred but {} sharp".format(*sizes))
            except images.ImageError as error:
                raise naming_file(error, self.blurred[key], self.root) from error
            return sharp

        parts = {"motif": key[0], "trajectory": key[1]}
        middle = numbers[(len(numbers) - 1) // 2]
        return [Scene(blurred, frame(middle), parts, frames=lambda: map(frame, numbers))]

    def measure(self, picture: Tensor, scene: Scene) -> dict[str, float]:
        """The largest value of each metric over the scene's frames, which threads share."""
        if scene.frames is None or picture.shape != scene.blurred.shape:
            raise ValueError(f"picture must be {tuple(scene.blurred.shape)}, got {tuple(picture.shape)}")
        if "ms-ssim" in self.metrics and min(sides := tuple(picture.shape[1:])) < MS_SSIM_SIDE:
            raise ValueError(f"picture sides must be at least {MS_SSIM_SIDE} for MS-SSIM, got {sides}")
        compare = _comparison(picture.numpy(), self.metrics)
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            found = list(threads.map(compare, (frame.numpy() for frame in scene.frames())))
        return {name: max(figures[name] for figures in found) for name in self.metrics}

    def conventions(self) -> dict[str, str]:
        found = sum(map(len, self.frames.values()))
        wanted = {key: {*range(1, COUNTS.get(key, USUAL_COUNT) + 1)}.difference(LEFT_OUT.get(key, ())) for key in KEYS}
        lacking = {key: sorted(wanted[key].difference(self.frames.get(key, ()))) for key in KEYS}
        missing = [f"{_ranges(numbers)} of {key[0]}_{key[1]}" for key, numbers in lacking.items() if numbers]
        return {
            "data": f"{len(self.blurred)} of {len(KEYS)} blurred pictures, {found} sharp frames of "
            f"{sum(map(len, wanted.values()))}; frames 30 and 199 of 1_3 are passed over, as in the official code",
            **({"missing frames": "; ".join(missing)} if missing else {}),
            "alignment": "to every frame x of the trajectory a picture z is scaled by sum(xz) / sum(zz) and shifted by "
            "whole pixels to the largest circular cross-correlation of the channels' means (dftregistration, "
            "upsampling factor 1); where nothing of it comes to lie both are 0",
            "figure of a picture": "the largest over the frames, for each metric by itself",
            "psnr": "of the luminance 0.299 R + 0.587 G + 0.114 B, not rounded, peak 255, over all pixels; at most "
            f"{IDENTICAL:g} dB",
            "ms-ssim": "MeTriX MuX's MSSIM of that luminance: 11x11 Gaussian of sigma 1.5 where it lies within the "
            "picture, K 0.01 and 0.03, 5 levels, each every other pixel of the one before under the 9/7 wavelet's "
            "low-pass with mirrored borders (Wang's code averages 2x2 pixels); at each level the mean of contrast "
            "times the mean of structure (Wang: the mean of the product), to Wang's exponents",
        }

    def _name(self, key: Key) -> str:
        path = self.blurred.get(key)
        return "Blurry{}_{}.png".format(*key) if path is None else path.relative_to(self.root).as_posix()


def _comparison(picture: Pixels, metrics: Sequence[str]) -> Callable[[Pixels], dict[str, float]]:
    """What gives the metrics of a restored picture against a sharp frame, both uint8 [3, h, w]."""
    restored = picture.astype(np.float64)
    grey, spectrum = _luminance(restored), np.fft.rfft2(restored.mean(0))

    @lru_cache(maxsize=4)  # the camera moves slowly: many frames have the shift of the one before
    def levels_at(shift: tuple[int, int]) -> list[_Level]:
        return list(_levels(shifted(grey, shift)))

    def compare(frame: Pixels) -> dict[str, float]:
        sharp = frame.astype(np.float64)
        gain, shift = matching_gain(restored, sharp), whole_pixel_shift(sharp.mean(0), spectrum)
        truth = _luminance(sharp) * shifted(np.ones_like(grey), shift)
        figures = {}
        if "psnr" in metrics:
            figures["psnr"] = _psnr(gain * shifted(grey, shift), truth)
        if "ms-ssim" in metrics:
            figures["ms-ssim"] = _ms_ssim(levels_at(shift), gain, list(_levels(truth)))
        return figures

    return compare


class _Level(NamedTuple):
    """A picture [h, w] at one scale, with the mean and the standard deviation around each pixel."""

    picture: Array
    mean: Array
    deviation: Array


def _levels(picture: Array) -> Iterator[_Level]:
    """From the finest on."""
    for level in range(len(SCALES)):
        if level:
            picture = _halved(picture)
        mean = _correlated(picture)
        variance = _correlated(picture * picture) - mean * mean
        yield _Level(picture, mean, np.sqrt(variance.clip(min=0)))


def _ms_ssim(estimate: Sequence[_Level], gain: float, truth: Sequence[_Level]) -> float:
    """MeTriX MuX's MSSIM of the estimate times `gain`."""
    value = 1.0
    for exponent, z, x in zip(SCALES, estimate, truth, strict=True):
        deviations = gain * z.deviation * x.deviation
        covariance = gain * (_correlated(z.picture * x.picture) - z.mean * x.mean)
        contrast = (2 * deviations + C2) / ((gain * z.deviation) ** 2 + x.deviation**2 + C2)
        structure = (covariance + C2 / 2) / (deviations + C2 / 2)
        # A negative base makes MATLAB's power complex, of which the official code takes the absolute value
        value *= (contrast.mean() * abs(structure.mean())) ** exponent
    z, x = estimate[-1], truth[-1]
    luminance = (2 * gain * z.mean * x.mean + C1) / ((gain * z.mean) ** 2 + x.mean**2 + C1)
    return float(value * luminance.mean() ** SCALES[-1])


def _psnr(picture: Array, truth: Array) -> float:
    return min(IDENTICAL, decibels(float(((picture - truth) ** 2).mean()), PEAK))


def _luminance(picture: Array) -> Array:
    return np.tensordot(LUMINANCE, picture, 1)


def _correlated(picture: Array, taps: Array = GAUSSIAN, *, step: int = 1) -> Array:
    """`picture` [h, w] under the taps along both sides, where they lie within it; every `step`-th pixel."""
    for _ in range(2):
        picture = (sliding_window_view(picture, len(taps), 0)[::step] @ taps).T
    return picture


def _halved(picture: Array) -> Array:
    """Every other pixel of the picture under the low-pass, borders mirrored with the pixel at the border."""
    return _correlated(np.pad(picture, len(LOW_PASS) // 2, mode="symmetric"), LOW_PASS, step=2)


def _ranges(numbers: Sequence[int]) -> str:
    """ "1-3, 7" of 1, 2, 3 and 7."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda item: item[1] - item[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _take(into: dict[Any, Path], key: Any, path: Path) -> None:
    if key in into:
        raise ValueError(f"data must hold one picture {path.stem}, got {into[key]} and {path}")
    into[key] = path
