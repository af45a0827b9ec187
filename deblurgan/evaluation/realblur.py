"""RealBlur: its blurred and sharp pictures come from two cameras and never agree to the pixel, so that pictures are
aligned before they are compared, as the authors' evaluation aligns them. That needs OpenCV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from deblurgan.data import PairDataset, PairedFolder, open_dataset
from deblurgan.data.layouts import Lone
from deblurgan.evaluation.alignment import ITERATIONS, Array, matching_gain, opencv, warped_onto
from deblurgan.evaluation.scenes import Pairs, Parts, Scene
from deblurgan.metrics import IDENTICAL, RADIUS, SSIM_SIDE, decibels, similarity_maps

LISTS = "RealBlur_*_test_list.txt"


class RealBlur(Pairs):
    """Aligned pairs. Where all lie in folders named after their scenes, a scene is one sample."""

    name = "realblur"
    AVAILABLE = ("psnr", "ssim")

    def __init__(
        self,
        dataset: PairDataset,
        metrics: Sequence[str] = AVAILABLE,
        *,
        scale: float = 1.0,
        lone: Sequence[tuple[Path, str]] = (),
    ) -> None:
        super().__init__(dataset, metrics, scale=scale, lone=lone)
        opencv()  # what is missing shows before the work
        has_scenes = all(_scene(dataset.path(index)) for index in range(len(dataset)))
        self.samples_by = "scene" if has_scenes else "picture"

    def parts(self, index: int) -> Parts:
        return {"scene": _scene(self.dataset.path(index))} if self.samples_by == "scene" else {}

    def measure(self, picture: Tensor, scene: Scene) -> dict[str, float]:
        if picture.shape != scene.sharp.shape or min(picture.shape[1:]) < SSIM_SIDE:
            wanted = f"{tuple(scene.sharp.shape)} with sides of at least {SSIM_SIDE}"
            raise ValueError(f"picture must be {wanted}, got {tuple(picture.shape)}")
        restored, sharp = (part.permute(1, 2, 0).numpy() / 255.0 for part in (picture, scene.sharp))
        scaled = restored * matching_gain(restored, sharp)
        moved, mask = warped_onto(scaled.astype(np.float32), sharp.astype(np.float32))
        if not mask.any():
            raise ValueError("ECC moves the picture off the sharp one")
        within = mask[..., None].astype(np.float64)
        moved, sharp = moved * within, sharp * within
        figures = {"psnr": _psnr, "ssim": _ssim}
        return {name: figures[name](moved, sharp, within) for name in self.metrics}

    def conventions(self) -> dict[str, str]:
        return super().conventions() | {
            "alignment": "a picture z, the blurred one as well, is scaled by sum(xz) / sum(zz) to the sharp x and "
            f"warped onto it by a homography from ECC ({ITERATIONS} iterations on grey pictures, OpenCV "
            f"{opencv().__version__}), with cubic interpolation and unrounded",
            "psnr": f"of RGB over the pixels that the warped picture covers, peak 1; at most {IDENTICAL:g} dB",
            "ssim": "of RGB, 11x11 Gaussian of sigma 1.5, biased covariances, outer 5 px left out, mean over the "
            "covered pixels and then over channels",
        }


def open_realblur(data: Path, *, layout: str, log: Callable[[str], object], lone: Lone) -> PairDataset:
    """The test pairs of RealBlur-J or RealBlur-R.

    They are those of the authors' list, where `data` is RealBlur_J_test_list.txt or _R_, or one lies in the folder or
    in the one above it; otherwise those of a folder of pairs. `lone` takes what the list names and the folder lacks.
    Raises ValueError where both lists are for pictures in the folder.
    """
    is_list = data.suffix == ".txt" and data.is_file()
    root = data.parent if is_list else data
    lists = [data] if is_list else [file for above in (root, root.parent) for file in sorted(above.glob(LISTS))]
    listed = {file: pairs for file in lists if (pairs := _listed(file, root))}
    if len(listed) > 1:
        names = " and ".join(file.name for file in listed)
        raise ValueError(f"data must be RealBlur-J or RealBlur-R, got {names} in {root}: give one of these files")
    if not listed:
        return open_dataset(root, layout=layout, split="test", log=log, lone=lone)
    (pairs,) = listed.values()
    found = []
    for blurred, sharp in pairs:
        if blurred.is_file() and sharp.is_file():
            found.append((blurred, sharp))
        else:
            lone(blurred, "has no sharp picture" if blurred.is_file() else "is missing")
    return PairedFolder(root, pairs=found)


def _listed(file: Path, root: Path) -> list[tuple[Path, Path]]:
    """The pairs (blurred, sharp) of a list that lie below `root`: a line holds the sharp path, then the blurred one."""
    pairs = []
    for line in file.read_text(errors="replace").splitlines():
        if names := line.split():
            if len(names) != 2 or "blur" not in Path(names[1]).name:
                raise ValueError(f"{file} must hold lines of gt/gt_1.png blur/blur_1.png, got {line!r}")
            pairs.append((file.parent / names[1], file.parent / names[0]))
    return [pair for pair in pairs if root in pair[0].parents]


def _scene(path: Path) -> str:
    """The scene's folder, scene001, in a path; "" where there is none."""
    return next((part for part in path.parts if part.startswith("scene")), "")


def _psnr(picture: Array, truth: Array, within: Array) -> float:
    return min(IDENTICAL, decibels(float(((picture - truth) ** 2).sum() / (3 * within.sum())), 1.0))


def _ssim(picture: Array, truth: Array, within: Array) -> float:
    weights = within[RADIUS:-RADIUS, RADIUS:-RADIUS, 0]
    maps = [np.multiply(*similarity_maps(picture[..., c], truth[..., c], 1.0)) for c in range(3)]
    return float(np.mean([(similarity * weights).sum() / weights.sum() for similarity in maps]))
