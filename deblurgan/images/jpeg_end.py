"""JPEG files without their end marker: whether their pixels are all there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

END = b"\xff\xd9"
START_OF_SCAN = b"\xff\xda"
_SCAN = re.compile(rb"\xff\xda..([\x01-\x04])", re.DOTALL)
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_LONGEST_BLOCK = 2048  # bytes, more than the pixels between two points of a scan at which it can break off


def scans_are_complete(data: bytes, at: int, components: int) -> bool:
    """Whether the headers of the scans, the first of which is at an offset, promise each bit of each coefficient."""
    bits_left = np.full((256, 64), -1)
    for scan in _SCAN.finditer(data, at):
        named = 2 * scan[1][0]
        header = data[scan.end() : scan.end() + named + 3]
        if len(header) == named + 3:
            first, last, approximation = header[named:]
            bits_left[list(header[:named:2]), first : last + 1] = approximation & 15
    return int((bits_left == 0).all(1).sum()) == components


def continuations(data: bytes, pixels_at: int) -> Iterator[bytes]:
    """The file with several endings. Pixels that it lacks come out of each in another way."""
    restarts = _RESTART.findall(data, pixels_at)
    due = restarts[-1][0] + 1 if restarts else 0
    for seed in range(8):
        noise = np.random.default_rng(seed).integers(0, 255, (8, _LONGEST_BLOCK), np.uint8)  # 255 starts a marker
        parts = [row.tobytes() + bytes([255, 0xD0 + (due + i) % 8]) for i, row in enumerate(noise)]
        yield data + b"".join(parts) + END
