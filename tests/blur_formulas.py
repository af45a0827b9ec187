"""apply_psf's formulas in NumPy, and calls with all its options at random that must follow them.

A value of the light is off by a few roundings, which the root at black makes large: so each result must lie between
those that the bounds of its light give. The blur of a camera is RSBlur's synthesis (Rim et al. 2022) by one PSF in
place of averaged frames; its white balance, colour matrices, mosaic and demosaicking are left out, and a power is the
camera's response.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deblurgan.blur import apply_psf
from transcriptions import pixel_normals

PADDINGS = {"reflect": "reflect", "replicate": "edge", "zero": "constant"}
DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
ROUNDING = 4e-6  # of a sum, a power and a normal number in fp32, relative to the terms

TINY = 2.0**-126  # light below it may count as none, or as this


def drawn_case(draw: random.Random) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """A picture [n, c, h, w], a psf [n, k, k] and the options of a call."""
    n, c, h, w = draw.randint(1, 3), draw.randint(1, 5), draw.randint(1, 40), draw.randint(1, 40)
    k = draw.choice([1, 2, 3, 4, 5, 7, 12, 45])
    generator = torch.Generator().manual_seed(draw.getrandbits(60))
    x = torch.rand(n, c, h, w, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(n, c, h, w, generator=generator) < draw.choice([0, 0.3, 1]), draw.choice([0.0, 1.0]), x)
    dtype = draw.choice(DTYPES)
    if dtype == torch.uint8:
        x = (255 * x).round()
    elif draw.random() < 0.2:
        x = 3 * x - 1
    x = x.to(dtype)
    if draw.random() < 0.5:
        x = x.contiguous(memory_format=torch.channels_last)
    psf = torch.rand(n, k, k, generator=generator)
    psf = torch.where(psf < draw.choice([0.0, 0.5, 0.9]), 0, psf)
    psf = psf / psf.sum((1, 2), keepdim=True).clamp(min=0.1)
    options: dict[str, Any] = {
        "padding": draw.choice(list(PADDINGS)),
        "gamma": draw.choice([1.0, 1.0, 2.2, 0.1, 10.0, draw.uniform(0.3, 4)]),
        "seed": draw.getrandbits(draw.choice([3, 63])),
        "first": draw.getrandbits(draw.choice([3, 62])),
        "signed": draw.choice([None, None, *DTYPES[1:]]),
    }
    for name, shape in (("highlights", (n,)), ("sensor", (n, 2)), ("noise", (n,))):
        if draw.random() < 0.5:
            values = torch.rand(shape, generator=generator) * draw.choice([0, 1e-3, 0.1, 2, 100])
            options[name] = values * (torch.rand(shape, generator=generator) < 0.8)
    if draw.random() < 0.6:
        size = draw.randint(1, h), draw.randint(1, w)
        corners = [(draw.randint(0, h - size[0]), draw.randint(0, w - size[1]), draw.getrandbits(1)) for _ in range(n)]
        options |= {"windows": torch.tensor(corners), "size": size}
    return x, psf, options


def averaged(light: np.ndarray, psf: np.ndarray, padding: str) -> np.ndarray:
    """Light [c, h, w] convolved with psf [k, k], whose origin is cell k // 2."""
    _, h, w = light.shape
    k = len(psf)
    border = (k - 1 - k // 2, k // 2)
    bordered = np.pad(light, [(0, 0), border, border], mode=PADDINGS[padding])
    average = np.zeros_like(light)
    for p, q in zip(*psf.nonzero(), strict=True):
        average += psf[p, q] * bordered[:, k - 1 - p : k - 1 - p + h, k - 1 - q : k - 1 - q + w]
    return average


def bounds(x: np.ndarray, psf: np.ndarray, i: int, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value, 1 at white, of the result for x [c, h, w], picture i of a call."""
    gamma, padding = options["gamma"], options["padding"]
    light = x if gamma == 1 else np.maximum(x, 0) ** gamma
    if "highlights" in options:
        light = light + float(options["highlights"][i]) * (x >= 1)
    average, terms = averaged(light, psf, padding), averaged(np.abs(light), psf, padding)
    if "windows" in options:
        top, left, flip = options["windows"][i].tolist()
        h, w = options["size"]
        average, terms = (part[:, top : top + h, left : left + w] for part in (average, terms))
        if flip:
            average, terms = average[..., ::-1], terms[..., ::-1]
    ends = [average - ROUNDING * terms, average + ROUNDING * terms]
    named = {"seed": options["seed"], "index": options["first"] + i}
    if "sensor" in options:
        shot, read = options["sensor"][i].double().tolist()
        normals = pixel_normals(average.shape, rng_stream=5, **named)
        noises = np.stack([np.sqrt(shot * np.clip(end, 0, 1) + read**2) * normals for end in ends])
        slack = ROUNDING * np.abs(noises).max(0)
        ends = [ends[0] + noises.min(0) - slack, ends[1] + noises.max(0) + slack]
    if "sensor" in options or "highlights" in options:
        ends = [np.clip(end, 0, 1) for end in ends]
    if gamma != 1:
        ends = [np.where(ends[0] < TINY, 0, ends[0]), np.where(ends[1] > 0, np.maximum(ends[1], TINY), 0)]
        ends = [np.maximum(end, 0) ** (1 / gamma) for end in ends]
    if "noise" in options:
        deviation = float(options["noise"][i])
        ends = [end + deviation * pixel_normals(end.shape, rng_stream=3, **named) for end in ends]
        ends = [ends[0] - ROUNDING * deviation, ends[1] + ROUNDING * deviation]
    if options["signed"] is not None:
        ends = [np.clip(2 * end - 1, -1, 1) for end in ends]
    return ends[0], ends[1]


def assert_follows(x: Tensor, psf: Tensor, options: dict[str, Any], device: torch.device) -> None:
    """That apply_psf on the device follows the formulas in every value."""
    there = {name: given.to(device) if isinstance(given, Tensor) else given for name, given in options.items()}
    got = apply_psf(x.to(device), psf.to(device), **there).cpu()
    size = options.get("size", x.shape[2:])
    assert got.shape == (*x.shape[:2], *size) and got.dtype == (options["signed"] or x.dtype)
    last = torch.channels_last
    if not x.is_contiguous() and x.is_contiguous(memory_format=last):
        assert got.is_contiguous(memory_format=last)
    white = 255 if x.dtype == torch.uint8 else 1
    unit = 255 if got.dtype == torch.uint8 else 1
    for i, (one, kernel) in enumerate(zip(x.double().numpy() / white, psf.double().numpy(), strict=True)):
        low, high = (np.clip(unit * end, 0, 255) if unit == 255 else end for end in bounds(one, kernel, i, options))
        scale = np.maximum(np.abs(low), np.abs(high))
        if unit == 255:
            slack: Any = 0.5 + 1e-3
        else:
            slack = (torch.finfo(got.dtype).eps + ROUNDING) * (scale + 1e-3)
        off = np.maximum(low - slack - got[i].double().numpy(), got[i].double().numpy() - high - slack)
        assert off.max() <= 0, (i, float(off.max()), float(scale.flatten()[off.argmax()]))
