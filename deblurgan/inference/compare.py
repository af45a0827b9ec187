"""What a restoration changed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HARDLY = 1.0  # levels of 255


class Change(NamedTuple):
    """The mean absolute change in levels of 255."""

    mean: float

    @property
    def hardly(self) -> bool:
        """Whether it is as small as that of a sharp picture."""
        return self.mean < HARDLY

    def __str__(self) -> str:
        text = f"changed by {self.mean:.2f} levels of 255 on average"
        return f"{text}: it was sharp already, or its blur is not one the network knows" if self.hardly else text


def change(before: NDArray[Any], after: NDArray[Any]) -> Change:
    """The change of pixels [h, w, 3], uint8 or uint16."""
    difference = np.abs(after.astype(np.float32) - before)
    return Change(float(difference.mean()) * 255 / np.iinfo(before.dtype).max)


def compare_sheet(before: NDArray[Any], after: NDArray[Any]) -> Image.Image:
    """Both pictures side by side."""
    return Image.fromarray(np.concatenate([before, after], 1))
