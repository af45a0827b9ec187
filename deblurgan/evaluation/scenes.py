"""What is judged: blurred pictures with what is known of them, and the rules by which a protocol judges them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

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
    """The pairs of a data set, blurred as they are."""

    name = "pairs"

    def __init__(self, dataset: PairDataset, metrics: Sequence[str]) -> None:
        self.dataset, self.metrics = dataset, tuple(metrics)

    def pictures(self) -> Sequence[str]:
        return self.dataset.names()

    def scenes(self, index: int) -> list[Scene]:
        return [Scene(*self.dataset.whole(index))]

    def conventions(self) -> dict[str, str]:
        return {"data": self.dataset.layout()}
