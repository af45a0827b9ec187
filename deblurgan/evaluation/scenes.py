"""What is judged: blurred pictures with what is known of them, and the rules by which a protocol judges them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deblurgan import images
from deblurgan.data import PairDataset
from deblurgan.metrics import METRICS

Parts = Mapping[str, str | float]  # what tells a scene from others of its picture or protocol, by name


@dataclass(frozen=True)
class Scene:
    """A blurred picture and its truth, uint8 [3, h, w] on the CPU.

    parts:  such as {"exposure": 0.5, "kernel": 3}.
    psf:    the kernel that blurred it, fp32 [k, k], where that is known.
    frames: gives all sharp frames of the exposure, of which `sharp` is one; where a protocol compares with each.
    """

    blurred: Tensor
    sharp: Tensor
    parts: Parts = field(default_factory=dict)
    psf: Tensor | None = None
    frames: Callable[[], Iterable[Tensor]] | None = None


class Protocol(ABC):
    """Pictures in a fixed order, each with one or several scenes, and how a restored scene is measured.

    name:       as `evaluate` takes it.
    metrics:    the figures of each scene; pictures are ordered by the first.
    lines_by:   the part whose values have lines of their own in the table; None for none.
    samples_by: what the confidence interval takes for one independent sample: "picture" or a part.
    knows_psf:  whether all scenes have their kernel.
    """

    name: str
    metrics: tuple[str, ...]
    lines_by: str | None = None
    samples_by = "picture"
    knows_psf = False

    @abstractmethod
    def pictures(self) -> Sequence[str]:
        """The names of all pictures, none twice."""

    @abstractmethod
    def scenes(self, index: int) -> Iterable[Scene]:
        """Those of one picture, in a fixed order. Raises ImageError for a bad file, here or when it is iterated."""

    def files(self, index: int) -> Sequence[Path]:
        """What one picture is made of, by which a picture that has changed is told."""
        return ()

    @abstractmethod
    def conventions(self) -> dict[str, str]:
        """How was measured, in words, by subject; every report says it."""

    def sharp(self, index: int) -> Tensor | None:
        """The picture without blur, which the network should leave as it is; None where that is not asked."""
        return None

    def measure(self, picture: Tensor, scene: Scene) -> dict[str, float]:
        """The metrics of a picture, uint8 [3, h, w], against the scene's truth."""
        return {name: float(METRICS[name](picture, scene.sharp)) for name in self.metrics}


class Pairs(Protocol):
    """The pairs of a data set, blurred as they are.

    scale: share of their sides to which blurred and sharp pictures are reduced before anything else, in (0, 1].
    lone:  pictures without partner, each with what it lacks, which fail.
    """

    name = "pairs"

    def __init__(
        self,
        dataset: PairDataset,
        metrics: Sequence[str],
        *,
        scale: float = 1.0,
        lone: Sequence[tuple[Path, str]] = (),
    ) -> None:
        self.dataset, self.metrics, self.scale, self.lone = dataset, tuple(metrics), scale, lone
        self.names = [*dataset.names(), *(dataset.below_root(path) for path, _ in lone)]

    def pictures(self) -> Sequence[str]:
        return self.names

    def scenes(self, index: int) -> list[Scene]:
        if index >= (pairs := len(self.names) - len(self.lone)):
            raise images.ImageError(*self.lone[index - pairs])
        try:
            pair = self.dataset.whole(index)
        except images.ImageError as error:
            raise naming_file(error, self.dataset.path(index), self.dataset.root) from error
        blurred, sharp = (reduced(part, self.scale) for part in pair)
        return [Scene(blurred, sharp, self.parts(index))]

    def files(self, index: int) -> Sequence[Path]:
        return self.dataset.files(index) if index < len(self.dataset) else [self.lone[index - len(self.dataset)][0]]

    def parts(self, index: int) -> Parts:
        return {}

    def conventions(self) -> dict[str, str]:
        how = f"blurred and sharp pictures reduced to {self.scale:g} of their sides first, by Pillow's bicubic filter"
        return {"data": self.dataset.layout(), "scale": "that of the files" if self.scale == 1 else how}


def reduced(picture: Tensor, scale: float) -> Tensor:
    """A picture, uint8 [3, h, w], at `scale` of its sides, by the filter with which the released code reduces."""
    if scale == 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in (picture.shape[2], picture.shape[1]))
    pixels = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous()


def naming_file(error: images.ImageError, picture: Path, root: Path) -> images.ImageError:
    """The error as one of `picture`, which says the bad file's path below `root` where that is another file."""
    bad = Path(error.path)
    if bad == picture:
        return error
    name = bad.relative_to(root) if bad.is_relative_to(root) else bad
    return images.ImageError(picture, f"{name.as_posix()}: {error.reason}")
