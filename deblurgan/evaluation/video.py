"""Frames of a video file averaged in light, as a longer exposure would: the blur of the article's detection data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deblurgan import ops
from deblurgan.config import as_path
from deblurgan.evaluation.scenes import Protocol, Scene
from deblurgan.inference.video import require_pyav
from deblurgan.inference.video_reading import Frame, Pixels, Source, VideoError

GAMMA = 2.2
VERSION = 1  # of how windows are drawn; another one where the same seed gives others


class Window(NamedTuple):
    """Frames of one exposure."""

    first: int  # from 1
    length: int  # odd

    @property
    def middle(self) -> int:
        return self.first + self.length // 2

    @property
    def end(self) -> int:
        return self.first + self.length


class Video(Protocol):
    """Windows of consecutive frames, one after the other: the mean of each window's light is the blurred picture, and
    its middle frame the truth.

    Args:
        path: a video file.
        metrics: of each scene.
        frames: the least and the most in a window; only odd numbers are drawn, so that there is a middle.
        seed: decides the lengths of the windows.

    The file is read once to see what it holds; then in order, too, with one window's sum and middle in memory. A
    picture before the last one that was asked for has the file read from its start. Pictures end before the first
    damage: after it nothing tells which frames are missing. What is lost so is the last picture, which fails.

    Raises ValueError for frames out of range and a video that is too short for one window, VideoError for one that
    cannot be read, ImportError without PyAV.
    """

    name = "video"

    def __init__(
        self, path: Path | str, metrics: Sequence[str], *, frames: tuple[int, int] = (5, 25), seed: int = 0
    ) -> None:
        require_pyav()
        low, high = frames
        if not 1 <= low <= high or odd_from(low) > high:
            raise ValueError(f"frames must be from 1 up, low to high, with an odd number between, got {low} {high}")
        self.path, self.metrics, self.frames, self.seed = as_path("data", path), tuple(metrics), frames, seed
        with Source(self.path) as source:
            self.count = sum(1 for _ in _whole_frames(source))
            self.damage = source.damage_after("")
            self.rate = float(source.stream.average_rate or 0)
        self.windows = draw_windows(self.count, frames, seed)
        if not self.windows:
            before = f" before the first damage ({self.damage})" if self.damage else ""
            raise VideoError(self.path, f"a window takes at least {odd_from(low)} frames, found {self.count}{before}")
        self._coming: Iterator[Frame] = iter(())
        self._next = self.count + 1  # the number of the frame that comes next

    def pictures(self) -> list[str]:
        names = [self._name(window.middle) for window in self.windows]
        return [*names, self._name(self.windows[-1].end)] if self.damage else names

    def files(self, index: int) -> list[Path]:
        return [self.path]

    def scenes(self, index: int) -> list[Scene]:
        """Not to be called by two threads at a time."""
        if index == len(self.windows):
            raise VideoError(self.path, f"damaged after frame {self.count}, what follows is left out: {self.damage}")
        window = self.windows[index]
        blurred, sharp = averaged(self._frames(window), window.length)
        return [Scene(_tensor(blurred), _tensor(sharp), {"frame": window.middle, "frames": window.length})]

    def conventions(self) -> dict[str, str]:
        return {
            "data": f"{self.path.name}: {len(self.windows)} windows of its {self.count} frames at {self.rate:g} a "
            "second; the fewer a second, the coarser is their mean, with ghosts in place of smears (the article's "
            "videos have 240)",
            "blur": f"the mean of {self.frames[0]} to {self.frames[1]} consecutive frames, an odd number of them drawn "
            f"by seed {self.seed} (version {VERSION}), in linear light (values^{GAMMA:g}), rounded to 8 bits; windows "
            "do not overlap, the truth is the middle frame, and cuts between shots are not looked for",
        }

    def _name(self, frame: int) -> str:
        return f"{self.path.name}#{frame:06d}"

    def _frames(self, window: Window) -> Iterator[Pixels]:
        if window.first < self._next:
            self._coming, self._next = self._reopened(), 1
        for frame in self._coming:
            self._next = frame.number + 1
            if frame.number >= window.first:
                yield frame.pixels
            if self._next == window.end:
                return
        raise VideoError(self.path, f"ends before frame {window.end - 1}, which was there: the file has changed")

    def _reopened(self) -> Iterator[Frame]:
        with Source(self.path) as source:
            for frame in _whole_frames(source):
                yield frame._replace(pixels=upright(frame.pixels, source.display_matrix, self.path))


def odd_from(number: int) -> int:
    """The number, or the next one where it is even."""
    return number + 1 - number % 2


def draw_windows(count: int, frames: tuple[int, int], seed: int) -> list[Window]:
    """Windows of odd lengths within `frames`, one after the other, in `count` frames; the last as long as fits."""
    shortest = odd_from(frames[0])
    choices = (frames[1] - shortest) // 2 + 1
    windows, left = [], count
    for uniform in ops.uniforms(count // shortest, seed=seed)[:, 0].tolist():
        if left < shortest:
            break
        length = min(shortest + 2 * int(uniform * choices), left - (left + 1) % 2)
        windows.append(Window(count - left + 1, length))
        left -= length
    return windows


def averaged(frames: Iterable[Pixels], length: int) -> tuple[Pixels, Pixels]:
    """The mean of the light of `length` frames, uint8 [h, w, 3] each, and the middle one."""
    light = (np.arange(256) / 255) ** GAMMA
    total: NDArray[np.float64] | float = 0.0
    for i, frame in enumerate(frames):
        total += light[frame]
        if i == length // 2:
            middle = frame
    return np.rint(255 * (total / length) ** (1 / GAMMA)).astype(np.uint8), middle


def _whole_frames(source: Source) -> Iterator[Frame]:
    for step in source.steps():
        if source.damage:
            return
        if step.frame is not None:
            yield step.frame


def upright(pixels: Pixels, matrix: Sequence[int] | None, path: Path) -> Pixels:
    """A frame as players show it, turned and mirrored by the video's display matrix (9 numbers, by rows)."""
    if matrix is None:
        return pixels
    (a, b), (c, d) = matrix[0:2], matrix[3:5]
    if b == c == 0:
        return pixels[:: _sign(d), :: _sign(a)]
    if a == d == 0:
        return pixels.transpose(1, 0, 2)[:: _sign(b), :: _sign(c)]
    raise VideoError(path, "is turned by no multiple of 90 degrees")


def _sign(number: int) -> int:
    return -1 if number < 0 else 1


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
