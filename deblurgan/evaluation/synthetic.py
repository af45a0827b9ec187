"""Sharp photos under fixed kernels: the same for everyone, by seed and version.

The kernels have the same bits on every CPU. Pictures that they blur have the same bytes on all CPUs with fused
multiply-add; without it (sse2) 4 values in a million are one of 255 levels away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from deblurgan.blur import apply_psf, random_trajectories, rasterize_psf
from deblurgan.data import SharpFolder
from deblurgan.evaluation.scenes import Protocol, Scene

VERSION = 1  # of the kernels; another one where the same seed gives others


class Synthetic(Protocol):
    """Every photo is blurred by the first `kernels` kernels of `seed` at each exposure, centred, borders reflected.

    The photos are restored without blur too, which should leave them as they are.
    """

    name = "synthetic"
    lines_by = "exposure"
    knows_psf = True

    def __init__(
        self, photos: SharpFolder, metrics: Sequence[str], *, kernels: int, exposures: Sequence[float], seed: int
    ) -> None:
        self.photos, self.metrics, self.seed, self.kernels = photos, tuple(metrics), seed, kernels
        self.names = photos.names()
        paths = random_trajectories(kernels, seed=seed)
        self.psfs = {share: rasterize_psf(paths, exposure=share) for share in exposures}

    def pictures(self) -> Sequence[str]:
        return self.names

    def files(self, index: int) -> list[Path]:
        return self.photos.files(index)

    def scenes(self, index: int) -> Iterator[Scene]:
        sharp = self.sharp(index)
        for share, psfs in self.psfs.items():
            for k, psf in enumerate(psfs):
                yield Scene(apply_psf(sharp, psf), sharp, {"exposure": share, "kernel": k}, psf)

    def sharp(self, index: int) -> Tensor:
        return self.photos.whole(index).sharp

    def conventions(self) -> dict[str, str]:
        shares = ", ".join(f"{share:g}" for share in self.psfs)
        kernels = "kernel 0" if self.kernels == 1 else f"kernels 0 ... {self.kernels - 1}"
        return {
            "data": f"{len(self.photos)} sharp photos",
            "blur": f"{kernels} of seed {self.seed} (version {VERSION}) at exposures {shares}, "
            "centred, values averaged as they are, borders reflected",
        }
