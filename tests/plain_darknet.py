"""What Darknet does, a value at a time: the truth for the tests of the detector."""

from __future__ import annotations

import math
import struct

import numpy as np

Box = tuple[float, float, float, float]
Found = tuple[float, int, Box]  # score, label, left, top, right, bottom

CFG = """
# a small network with every kind of section
[net]
width=32
height=24
channels=3
momentum=0.9

[convolutional]
batch_normalize=1
filters=4
size=3
stride=1
pad=1
activation=leaky

[maxpool]
size=2
stride=2

[maxpool]
size=2
stride=1

[convolutional]
filters=16
size=1
stride=1
pad=1
activation=linear

[yolo]
mask=1,2
anchors=4,6, 8,5, 12,14
classes=3
num=3
jitter=.3
ignore_thresh = .7

[route]
layers=-3

[upsample]
stride=2

[route]
layers=-1, 0

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[yolo]
mask=0
anchors=4,6, 8,5, 12,14
classes=3
num=3
"""


def iou(a: Box, b: Box) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def without_doubles(found: list[Found], threshold: float) -> list[Found]:
    kept: list[Found] = []
    for one in sorted(found, key=lambda one: -one[0]):
        if all(one[1] != other[1] or iou(one[2], other[2]) <= threshold for other in kept):
            kept.append(one)
    return kept


def parameters(seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Of the three convolutions of CFG."""
    draw = np.random.default_rng(seed)
    made = []
    for filters, channels, size, normalised in ((4, 3, 3, True), (16, 4, 1, False), (8, 8, 3, True)):
        values = {"bias": draw.normal(size=filters)}
        if normalised:
            values |= {"gain": draw.normal(size=filters), "mean": draw.normal(size=filters)}
            values["variance"] = draw.uniform(0, 2, filters)
        values["weight"] = draw.normal(size=(filters, channels, size, size)) / 4
        made.append({name: value.astype("<f4") for name, value in values.items()})
    return made


def weights_file(made: list[dict[str, np.ndarray]], version: tuple[int, int, int] = (0, 2, 0)) -> bytes:
    seen = struct.pack("<q" if version[1] == 2 else "<i", 7)
    values = b"".join(value.tobytes() for layer in made for value in layer.values())
    return struct.pack("<3i", *version) + seen + values


def convolution(x: np.ndarray, layer: dict[str, np.ndarray], stride: int, leaky: bool) -> np.ndarray:
    weight = layer["weight"].astype(float)
    pad = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    h, w = ((side + 2 * pad - weight.shape[2]) // stride + 1 for side in x.shape[1:])
    y = np.zeros((len(weight), h, w))
    for i in range(h):
        for j in range(w):
            window = padded[:, i * stride : i * stride + weight.shape[2], j * stride : j * stride + weight.shape[3]]
            y[:, i, j] = (weight * window).sum((1, 2, 3))
    if "mean" in layer:
        mean, deviation = layer["mean"].astype(float), np.sqrt(layer["variance"].astype(float)) + 1e-6
        y = (y - mean[:, None, None]) / deviation[:, None, None] * layer["gain"].astype(float)[:, None, None]
    y += layer["bias"].astype(float)[:, None, None]
    return np.where(y > 0, y, 0.1 * y) if leaky else y


def maxpool(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    padding = size - 1
    h, w = ((side + padding - size) // stride + 1 for side in x.shape[1:])
    y = np.full((len(x), h, w), -np.inf)
    for i in range(h):
        for j in range(w):
            for di in range(size):
                for dj in range(size):
                    row, column = i * stride + di - padding // 2, j * stride + dj - padding // 2
                    if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                        y[:, i, j] = np.maximum(y[:, i, j], x[:, row, column])
    return y


def forward(x: np.ndarray, made: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    """What both heads of CFG read, of a picture [3, 24, 32]."""
    first = convolution(x, made[0], 1, True)
    second = maxpool(maxpool(first, 2, 2), 2, 1)
    third = convolution(second, made[1], 1, False)
    joined = np.concatenate([second.repeat(2, 1).repeat(2, 2), first])
    return [third, convolution(joined, made[2], 2, True)]


def letterboxed(picture: np.ndarray, h: int, w: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """A uint8 picture [h, w, 3] in a grey one [3, h, w] of [0, 1], and where it lies: left, top, height, width."""
    old_h, old_w = picture.shape[:2]
    if w / old_w < h / old_h:
        new_w, new_h = w, old_h * w // old_w
    else:
        new_h, new_w = h, old_w * h // old_h
    left, top = (w - new_w) // 2, (h - new_h) // 2
    boxed = np.full((3, h, w), 0.5)
    for i in range(new_h):
        for j in range(new_w):
            y, x = i * (old_h - 1) / (new_h - 1), j * (old_w - 1) / (new_w - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, old_h - 1), min(x0 + 1, old_w - 1)
            above = (1 - x + x0) * picture[y0, x0] / 255 + (x - x0) * picture[y0, x1] / 255
            below = (1 - x + x0) * picture[y1, x0] / 255 + (x - x0) * picture[y1, x1] / 255
            boxed[:, top + i, left + j] = (1 - y + y0) * above + (y - y0) * below
    return boxed, (left, top, new_h, new_w)


def decoded(raw: np.ndarray, anchors: list[tuple[int, int]], classes: int, h: int, w: int, floor: float) -> list[Found]:
    """Boxes in px of the network's picture of h x w."""
    found = []
    for a, (anchor_w, anchor_h) in enumerate(anchors):
        for i in range(raw.shape[1]):
            for j in range(raw.shape[2]):
                tx, ty, tw, th, t_object, *t_classes = raw[a * (5 + classes) : (a + 1) * (5 + classes), i, j]
                x, y = (j + logistic(tx)) / raw.shape[2] * w, (i + logistic(ty)) / raw.shape[1] * h
                half_w, half_h = math.exp(tw) * anchor_w / 2, math.exp(th) * anchor_h / 2
                box = (x - half_w, y - half_h, x + half_w, y + half_h)
                for label, t in enumerate(t_classes):
                    score = logistic(t_object) * logistic(t)
                    if score > floor:
                        found.append((score, label, box))
    return found


def logistic(t: float) -> float:
    return 1 / (1 + math.exp(-t))
