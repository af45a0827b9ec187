"""Darknet's networks: the text that describes one, .cfg, and the file of its values, .weights, as layers in torch.

What is not known is an error, never left out: a network that ran without it would find other objects.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deblurgan.checkpoint import CheckpointError

LEAK = 0.1
EPSILON = 1e-6  # Darknet adds it to the standard deviation, not to the variance

# What each section may say, and what of it only training reads; [net] says much more, all of it for training
KNOWN = {
    "convolutional": {"batch_normalize", "filters", "size", "stride", "pad", "activation"},
    "maxpool": {"size", "stride"},
    "route": {"layers"},
    "upsample": {"stride"},
    "yolo": {"mask", "anchors", "classes", "num"},
}
OF_TRAINING = {"yolo": {"jitter", "ignore_thresh", "truth_thresh", "random"}}


class Section(NamedTuple):
    """One [kind] of a .cfg, with the text of its options."""

    kind: str
    options: dict[str, str]

    def number(self, name: str, default: int | None = None) -> int:
        """Raises ValueError where the option is no whole number, or lacks and has no default."""
        (number,) = self.numbers(name) if name in self.options or default is None else (default,)
        return number

    def numbers(self, name: str) -> list[int]:
        text = self.options.get(name)
        try:
            return [int(word) for word in (text or "").split(",")]
        except ValueError:
            raise ValueError(f"[{self.kind}] must give whole numbers for {name}, got {text}") from None


class Layer(NamedTuple):
    """sources: whose outputs it takes, joined along the channels; -1 is the picture. channels: of its output."""

    sources: list[int]
    run: Callable[[Tensor], Tensor]
    channels: int


class Head(NamedTuple):
    """What finds boxes of some sizes.

    layer:   whose output it reads: for each anchor x, y, width, height, objectness and the classes.
    anchors: width and height of the boxes that it departs from, fp64 [a, 2], px.
    """

    layer: int
    anchors: Tensor
    classes: int


class Network(NamedTuple):
    """size: height and width of the pictures that it takes."""

    size: tuple[int, int]
    layers: list[Layer]
    heads: list[Head]

    def __call__(self, pictures: Tensor) -> list[Tensor]:
        """What each head reads, fp32 [n, a * (5 + classes), h, w], of pictures fp32 [n, 3, *size] in [0, 1]."""
        outputs: list[Tensor] = []
        for layer in self.layers:
            taken = [pictures if source < 0 else outputs[source] for source in layer.sources]
            outputs.append(layer.run(taken[0] if len(taken) == 1 else torch.cat(taken, 1)))
        return [outputs[head.layer] for head in self.heads]


def read_network(cfg: str, weights: Path) -> Network:
    """The network that the text of a .cfg describes, batch norms folded into their convolutions.

    Raises ValueError for a .cfg with anything that is not known here, CheckpointError for weights that are not exactly
    what it needs, OSError for a file that cannot be read.
    """
    net, *sections = parse(cfg)
    values = Values(weights)
    layers: list[Layer] = []
    heads: list[Head] = []
    for index, section in enumerate(sections):
        sources = _sources(section, index)
        channels = sum(net.number("channels") if source < 0 else layers[source].channels for source in sources)
        if section.kind == "yolo":
            heads.append(_head(section, index - 1, channels))
        layers.append(_layer(section, sources, channels, values))
    values.require_end()
    return Network((net.number("height"), net.number("width")), layers, heads)


def parse(cfg: str) -> list[Section]:
    """The sections of a .cfg, [net] first. Raises ValueError for what is not known here."""
    sections: list[Section] = []
    for line in cfg.splitlines():
        words = line.strip()
        if not words or words[0] in "#;":
            continue
        name, equals, value = (word.strip() for word in words.partition("="))
        if words.startswith("[") and words.endswith("]"):
            sections.append(Section(words[1:-1], {}))
        elif equals and sections:
            sections[-1].options[name] = value
        else:
            raise ValueError(f"cfg must hold [sections] of lines like filters=16, got {words!r}")
    kinds = [section.kind for section in sections]
    if kinds[:1] != ["net"] or kinds.count("net") > 1:
        raise ValueError(f"cfg must begin with its only [net], got {kinds[:1]}")
    for kind, options in sections[1:]:
        if kind not in KNOWN:
            raise ValueError(f"cfg must have sections of {', '.join(KNOWN)}, got {kind}")
        unknown = set(options) - KNOWN[kind] - OF_TRAINING.get(kind, set())
        if unknown:
            raise ValueError(f"[{kind}] must have options of {', '.join(sorted(KNOWN[kind]))}, got {sorted(unknown)}")
    return sections


class Values:
    """The values of a .weights file, taken in its order. Errors are CheckpointErrors."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        version = struct.unpack_from("<3i", data) if len(data) >= 12 else None
        if version is None or version[:2] not in ((0, 1), (0, 2)):
            found = f"of {len(data)} bytes" if version is None else "that says " + ".".join(map(str, version))
            raise CheckpointError(f"{path}: a file {found}, not Darknet weights of version 0.1 or 0.2")
        start = 12 + (8 if version[1] == 2 else 4)  # the number of pictures it was trained on
        if len(data) < start or (len(data) - start) % 4:
            raise CheckpointError(f"{path}: cut short, {len(data)} bytes are no whole number of values")
        self.path, self.taken = path, 0
        self.all = np.frombuffer(data, "<f4", offset=start)
        if not np.isfinite(self.all).all():
            raise CheckpointError(f"{path}: holds values that are not finite")

    def take(self, *shape: int) -> Tensor:
        """The next values, fp64."""
        start, self.taken = self.taken, self.taken + int(np.prod(shape))
        if self.taken > len(self.all):
            raise CheckpointError(f"{self.path}: {len(self.all)} values, fewer than the network has")
        return torch.from_numpy(self.all[start : self.taken].astype(np.float64)).reshape(shape)

    def require_end(self) -> None:
        if self.taken != len(self.all):
            raise CheckpointError(f"{self.path}: {len(self.all)} values, the network has {self.taken}")


def _sources(section: Section, index: int) -> list[int]:
    if section.kind != "route":
        return [index - 1]
    sources = [index + layer if layer < 0 else layer for layer in section.numbers("layers")]
    if not all(0 <= source < index for source in sources):
        raise ValueError(f"[route] must name layers before it, {index}, got {section.options['layers']}")
    return sources


def _layer(section: Section, sources: list[int], channels: int, values: Values) -> Layer:
    if section.kind == "convolutional":
        filters = section.number("filters")
        return Layer(sources, _convolution(section, channels, values), filters)
    if section.kind == "maxpool":
        stride = section.number("stride")
        return Layer(sources, partial(_maxpool, size=section.number("size", stride), stride=stride), channels)
    if section.kind == "upsample":
        return Layer(sources, partial(F.interpolate, scale_factor=float(section.number("stride"))), channels)
    return Layer(sources, _as_it_is, channels)  # a route, or a head, which its network's user decodes


def _convolution(section: Section, channels: int, values: Values) -> Callable[[Tensor], Tensor]:
    filters, size = section.number("filters"), section.number("size")
    activation = section.options.get("activation")
    if activation not in ("leaky", "linear"):
        raise ValueError(f"[convolutional] must have an activation leaky or linear, got {activation}")
    bias, scale = values.take(filters), torch.ones(filters, dtype=torch.float64)
    if section.number("batch_normalize", 0):
        gain, mean, variance = values.take(3, filters)
        if variance.min() < 0:
            raise CheckpointError(f"{values.path}: damaged, a variance is below 0")
        scale = gain / (variance.sqrt() + EPSILON)
        bias = bias - mean * scale
    weight = values.take(filters, channels, size, size) * scale[:, None, None, None]
    # oneDNN sums up 1x1 convolutions in an order that depends on the number of threads, which fp64 hides
    dtype = torch.float64 if size == 1 else torch.float32
    return partial(
        _convolve,
        weight=weight.to(dtype),
        bias=bias.to(dtype),
        stride=section.number("stride", 1),
        padding=size // 2 if section.number("pad", 0) else 0,
        leaky=activation == "leaky",
    )


def _convolve(x: Tensor, *, weight: Tensor, bias: Tensor, stride: int, padding: int, leaky: bool) -> Tensor:
    x = F.conv2d(x.to(weight.dtype), weight, bias, stride, padding).float()
    return F.leaky_relu(x, LEAK) if leaky else x


def _maxpool(x: Tensor, *, size: int, stride: int) -> Tensor:
    """Windows reach `size` - 1 px over the borders in all, the odd one on the right and below."""
    before = (size - 1) // 2
    after = size - 1 - before
    return F.max_pool2d(F.pad(x, (before, after, before, after), value=-torch.inf), size, stride)


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _head(section: Section, layer: int, channels: int) -> Head:
    classes, mask, sides = section.number("classes"), section.numbers("mask"), section.numbers("anchors")
    if len(sides) != 2 * section.number("num") or not all(0 <= i < len(sides) // 2 for i in mask):
        raise ValueError(f"[yolo] must have num pairs of anchors and a mask of them, got {section.options}")
    if channels != len(mask) * (5 + classes):
        raise ValueError(f"[yolo] must read {len(mask) * (5 + classes)} channels, got {channels}")
    return Head(layer, torch.tensor(sides, dtype=torch.float64).reshape(-1, 2)[mask], classes)
