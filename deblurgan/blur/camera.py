"""What a camera does to a picture beside blurring it: the options of `MotionBlur(realism="camera")`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from deblurgan.arguments import require_number
from deblurgan.blur.distributions import spread, spread_whole
from deblurgan.ops.apply import LARGEST

Realism = Literal["none", "camera"]
Range = tuple[float, float]


class Effects(NamedTuple):
    """What is drawn for n pictures; None is off. The first two are those of `apply_psf`."""

    highlights: Tensor | None = None  # fp32 [n]
    sensor: Tensor | None = None  # fp32 [n, 2]
    quality: Tensor | None = None  # int64 [n], of JPEG


class Camera(NamedTuple):
    """The options, as `MotionBlur` documents them. Of a (low, high) range each picture draws one."""

    gamma: float
    highlights: Range
    shot: Range
    read: Range
    jpeg: tuple[int, int]

    @property
    def draws(self) -> bool:
        """Whether anything is drawn."""
        return any(high > 0 for _, high in self[1:])

    def effects(self, uniform: Tensor) -> Effects:
        """The effects from uniform numbers [n, 4], one for each option but gamma, in their order."""
        highlights, shot, read, quality = uniform.unbind(1)
        noisy = self.shot[1] > 0 or self.read[1] > 0
        return Effects(
            spread(self.highlights, highlights) if self.highlights[1] > 0 else None,
            torch.stack([spread(self.shot, shot), spread(self.read, read)], 1) if noisy else None,
            spread_whole(self.jpeg, quality) if self.jpeg[1] > 0 else None,
        )


OFF = Camera(gamma=1.0, highlights=(0.0, 0.0), shot=(0.0, 0.0), read=(0.0, 0.0), jpeg=(0, 0))
# RSBlur's: its saturation synthesis, and half to one and a half times the noise that was measured on its camera. It
# has no JPEG: cameras write about 95, and 75 is what encoders take when nothing is said.
CAMERA = Camera(gamma=2.2, highlights=(0.25, 1.75), shot=(0.5e-4, 1.5e-4), read=(4.6e-4, 13.7e-4), jpeg=(75, 95))


def camera_options(realism: Realism, **given: Any) -> Camera:
    """The preset's options, but for those that are `given` and not None.

    Raises ValueError for one out of range, TypeError for one that is no number.
    """
    if realism not in get_args(Realism):
        raise ValueError(f"realism must be one of {', '.join(get_args(Realism))}, got {realism!r}")
    preset = CAMERA if realism == "camera" else OFF
    options = preset._replace(**{name: value for name, value in given.items() if value is not None})
    require_number("gamma", options.gamma)
    if not 0.1 <= options.gamma <= 10:
        raise ValueError(f"gamma must be in [0.1, 10], got {options.gamma}")
    return options._replace(
        highlights=as_range("highlights", options.highlights),
        shot=as_range("shot", options.shot),
        read=as_range("read", options.read),
        jpeg=_qualities(options.jpeg),
    )


def as_range(name: str, given: float | Range) -> Range:
    """A number, or both ends of a range, as a range. Raises TypeError or ValueError for another value."""
    ends = tuple(given) if isinstance(given, Iterable) else (given, given)
    for end in ends:
        require_number(name, end)
    if len(ends) != 2 or not 0 <= ends[0] <= ends[1] <= LARGEST:
        raise ValueError(f"{name} must be >= 0, or a (low, high) pair of such, got {given}")
    return ends


def _qualities(given: float | Range) -> tuple[int, int]:
    low, high = as_range("jpeg", given)
    whole = int(low) == low and int(high) == high
    if not (whole and high <= 100 and (low >= 1 or high == 0)):
        raise ValueError(f"jpeg must be a quality in 1 ... 100, a (low, high) pair of such, or 0 for none, got {given}")
    return int(low), int(high)
