"""What is compared: the network, simple methods, and other programs' outputs."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from deblurgan.evaluation.scenes import Scene
from deblurgan.inference import Deblurrer

BLURRED, RESTORED, SHARP = "blurred", "restored", "sharp"  # names of the input, the network's output and the truth


class System(Protocol):
    """A way to restore a scene."""

    def __call__(self, picture: str, scene: Scene) -> Tensor:
        """uint8 [3, h, w], of the scene's size. `picture` names the scene's picture.

        Raises one of images.FAILURES where it has no answer.
        """


def network(deblurrer: Deblurrer) -> System:
    return lambda picture, scene: deblurrer(scene.blurred)
