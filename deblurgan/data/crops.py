"""Crops: where they lie in a picture, and how they are blurred, cut and mirrored, on the CPU or on a GPU.

The host plans a crop: which part of which picture, and which blur kernel. The planned parts are packed into one tensor,
which travels to the device where the crops are finished. Random draws and sharp crops are the same bytes on every
device; a GPU adds in another order, so that a blurred pixel halfway between two levels may be rounded the other way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deblurgan import images
from deblurgan.blur import MotionBlur
from deblurgan.data.cache import Pixels


class Pair(NamedTuple):
    """A blurred picture and its sharp original, uint8 [3, h, w] each, or [n, 3, h, w] in a batch."""

    blurred: Tensor
    sharp: Tensor


class BelowCrop(images.ImageError):
    """A picture that is smaller than the crop: nothing is wrong with it, but it cannot be used."""


@dataclass(frozen=True)
class Crops:
    """How crops are drawn."""

    size: int = 256
    """Side in px."""
    flip: bool = True
    """Mirror half of them left to right."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the factor by which a picture's sides are reduced before it is cropped, in (0, 1]."""
    texture: int = 1
    """Positions to draw for a crop, of which the one with the most detail is taken."""


class CropPosition(NamedTuple):
    """A crop's upper left corner in a picture reduced to height x width, and whether the crop is mirrored."""

    height: int
    width: int
    top: int
    left: int
    flip: bool


class Plan(NamedTuple):
    """A crop before it is blurred, cut to `size` and mirrored.

    `regions` are parts of decoded pictures, uint8 [h, w, 3]: the sharp one with a margin for its blur or, where `blur`
    is None, the blurred and the sharp one.
    """

    regions: tuple[Pixels, ...]
    window: tuple[int, int, int]
    """The crop in each region: top, left, mirrored (0 or 1)."""
    size: int
    blur: MotionBlur | None = None
    kernel: int = 0
    """The index by which `blur` draws its kernel."""


def draw_position(crops: Crops, random: np.random.Generator, sharp: Pixels, path: Path) -> CropPosition:
    """A random crop of the picture: of `crops.texture` positions the one with the most detail.

    Raises BelowCrop, which names `path`, where the picture is smaller than the crop.
    """
    size = crops.size
    if min(sharp.shape[:2]) < size:
        raise BelowCrop(path, f"{sharp.shape[1]}x{sharp.shape[0]} is below the crop of {size}")
    scale = max(size / min(sharp.shape[:2]), random.uniform(*crops.scale))
    height, width = (max(size, math.floor(side * scale)) for side in sharp.shape[:2])
    corners = [
        (int(random.integers(height - size + 1)), int(random.integers(width - size + 1))) for _ in range(crops.texture)
    ]
    top, left = corners[0] if len(corners) == 1 else _most_detailed(corners, sharp, scale, size)
    return CropPosition(height, width, top, left, flip=crops.flip and random.random() < 0.5)


def _most_detailed(corners: list[tuple[int, int]], sharp: Pixels, scale: float, size: int) -> tuple[int, int]:
    """The corner, in the reduced picture, of the square with the most detail in the picture itself."""
    side = int(size / scale)
    return max(corners, key=lambda corner: _detail(sharp, int(corner[0] / scale), int(corner[1] / scale), side))


def _detail(picture: Pixels, top: int, left: int, side: int) -> float:
    """Mean absolute difference of neighbours in a square of the green channel, in levels."""
    green = np.ascontiguousarray(picture[top : top + side, left : left + side, 1])
    return _difference(green[1:], green[:-1]) + _difference(green[:, 1:], green[:, :-1])


def _difference(a: Pixels, b: Pixels) -> float:
    """Mean |a - b|, in levels."""
    return float((np.maximum(a, b) - np.minimum(a, b)).mean())


def reduced_region(photo: Pixels, region: tuple[int, int, int, int], height: int, width: int) -> Pixels:
    """`region` (left, top, right, bottom) of the photo reduced to height x width by Lanczos' filter.

    Only the part of the photo that the region needs is filtered.
    """
    left, top, right, bottom = region
    if (height, width) == photo.shape[:2]:
        return photo[top:bottom, left:right]
    x, y = photo.shape[1] / width, photo.shape[0] / height
    reach_x, reach_y = math.ceil(3 * x) + 1, math.ceil(3 * y) + 1  # the filter's radius
    first, above = max(0, math.floor(left * x) - reach_x), max(0, math.floor(top * y) - reach_y)
    part = photo[above : math.ceil(bottom * y) + reach_y, first : math.ceil(right * x) + reach_x]
    box = (left * x - first, top * y - above, right * x - first, bottom * y - above)
    picture = Image.fromarray(part)  # copies its pixels, so it is given the part and not the whole photo
    return np.asarray(picture.resize((right - left, bottom - top), Image.Resampling.LANCZOS, box=box))


def reduced_whole(photo: Pixels, crops: Crops) -> Pixels:
    """The whole photo, reduced as its crops are where `crops.scale` leaves no choice."""
    low, high = crops.scale
    scale = min(1.0, max(crops.size / min(photo.shape[:2]), low)) if low == high else 1.0
    height, width = (math.floor(side * scale) for side in photo.shape[:2])
    return reduced_region(photo, (0, 0, width, height), height, width)


_WINDOW_BYTES = 3 * 8


def pack_plans(plans: Sequence[Plan], *, pinned: bool = False) -> Tensor:
    """All that the plans' crops are finished from in one tensor, uint8 [bytes] on the CPU.

    First the plans' windows, int64 [n, 3], then region after region. `pinned` memory is page-locked, so that the host
    need not wait for its transfer.
    """
    size = sum(_WINDOW_BYTES + sum(region.size for region in plan.regions) for plan in plans)
    packed = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=pinned)
    buffer, at = packed.numpy(), _WINDOW_BYTES * len(plans)
    buffer[:at].view(np.int64).reshape(-1, 3)[:] = [plan.window for plan in plans]
    for region in (region for plan in plans for region in plan.regions):
        buffer[at : at + region.size].reshape(region.shape)[:] = region
        at += region.size
    return packed


@torch.no_grad()
def finish_crops(plans: Sequence[Plan], packed: Tensor) -> Pair:
    """The crops of the plans, uint8 [n, 3, size, size] each, from what `pack_plans` made of them.

    They are finished on the device of `packed`, which is that of the plans' blurs. On CUDA the host waits for nothing
    but a blur's JPEG. A crop has its JPEG once it is cut, from its own corner on, as a photo has.
    """
    at, pairs = _WINDOW_BYTES * len(plans), []
    windows = packed[:at].view(torch.int64).view(-1, 1, 3)
    for plan, window in zip(plans, windows, strict=True):
        regions = []
        for region in plan.regions:
            part = packed[at : at + region.size].view(region.shape)
            regions.append(part.permute(2, 0, 1).contiguous())
            at += region.size
        pairs.append(_finished(plan, regions, window))
    return Pair(*(torch.stack(part) for part in zip(*pairs, strict=True)))


def _finished(plan: Plan, regions: list[Tensor], window: Tensor) -> Pair:
    """The pair of a plan from its regions [3, h, w] and its window [1, 3], all on the blur's device."""
    (top, left, flip), size = plan.window, plan.size
    crops = [region[:, top : top + size, left : left + size] for region in regions]
    crops = [crop.flip(-1) if flip else crop for crop in crops]
    if plan.blur is None:
        return Pair(*crops)
    return Pair(plan.blur(regions[0], index=plan.kernel, windows=window, size=(size, size)), crops[0])


def make_crops(plans: Sequence[Plan], device: torch.device) -> Pair:
    """The crops of the plans, uint8 [n, 3, size, size] each, on `device`, where the plans' blurs are."""
    packed = pack_plans(plans, pinned=device.type == "cuda")
    return finish_crops(plans, packed.to(device, non_blocking=True))


def to_tensor(pixels: Pixels) -> Tensor:
    """uint8 [h, w, 3] -> contiguous uint8 [3, h, w] on the CPU."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
