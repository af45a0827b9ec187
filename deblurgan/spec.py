"""The network, described once: the forward pass, the engine, the tape and the reports all loop over `stages`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from deblurgan.reference import Act, Border

Kind = Literal["stem", "down", "trunk", "up", "head"]


@dataclass(frozen=True)
class GeneratorSpec:
    """What a Generator is, but for its weights. Raises ValueError for a network that cannot be."""

    width: int = 64
    """Channels after the first convolution; each downsampling doubles them."""
    blocks: int = 9
    """Residual blocks."""
    convs: int = 2
    """Convolutions in a residual block, 1 or 2."""
    border: Border = "reflect"
    """Of the residual blocks and of the first and last convolution; the others pad with zeros."""
    bias: bool = True
    """On every convolution; else on the first and last only."""
    dropout: float = 0.5
    """After the first ReLU of a block, in training."""
    downsamplings: int = 2
    """Stride-2 convolutions before the blocks, and transposed ones after them."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.blocks < 0:
            raise ValueError(f"width must be >= 1 and blocks >= 0, got {self.width} and {self.blocks}")
        if self.convs not in (1, 2):
            raise ValueError(f"convs must be 1 or 2, got {self.convs}")
        if self.border not in ("reflect", "zero"):
            raise ValueError(f"border must be 'reflect' or 'zero', got {self.border!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.dropout and self.convs == 1:
            raise ValueError(f"dropout must be 0 without a second convolution to stand before, got {self.dropout}")
        if self.downsamplings < 1:
            raise ValueError(f"downsamplings must be at least 1, got {self.downsamplings}")

    @property
    def size_multiple(self) -> int:
        """The sides of a picture are multiples of it, in px."""
        return 2**self.downsamplings

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        return stages(self)


PRESETS: dict[str, GeneratorSpec] = {
    "paper": GeneratorSpec(),
    "article": GeneratorSpec(convs=1, border="zero", bias=False, dropout=0.0),
    "tiny": GeneratorSpec(width=24, blocks=6, dropout=0.0),
}


@dataclass(frozen=True)
class Stage:
    """A convolution with what follows it: InstanceNorm, activation, dropout and residual; of the head tanh and sum."""

    name: str
    """Of its module, whose parameters are NAME.weight and NAME.bias."""
    kind: Kind
    size: int
    """Taps along a side."""
    channels_in: int
    channels_out: int
    scale_in: int
    """What the picture's sides are divided by where the stage reads."""
    scale_out: int
    border: Border = "zero"
    """How the picture that it reads is padded."""
    bias: bool = True
    act: Act = "relu"
    dropout: int | None = None
    """The number of the block, which names the mask, where dropout follows the activation; else None."""
    adds_residual: bool = False
    """Adds the output of the latest stage that `is_residual`."""
    is_residual: bool = False
    """The output is what the next block adds to its own."""

    @property
    def halo(self) -> int:
        """Border pixels that it reads on each side."""
        return self.size // 2

    @property
    def stride(self) -> int:
        """Of the convolution or, in kind "up", of the transposed one."""
        return 2 if self.kind in ("down", "up") else 1


def stages(spec: GeneratorSpec) -> tuple[Stage, ...]:
    """All convolutions in the order of the data.

    Source: paper section 3.2; released models/networks.py, ResnetGenerator.
    """
    width, last = spec.width, spec.downsamplings - 1
    found = [Stage("stem", "stem", 7, 3, width, 1, 1, spec.border)]
    for i in range(spec.downsamplings):
        shape = (width << i, width << (i + 1), 1 << i, 2 << i)  # channels, then scales
        found.append(Stage(f"down.{i}", "down", 3, *shape, bias=spec.bias, is_residual=i == last))
    deepest = (width << spec.downsamplings,) * 2 + (1 << spec.downsamplings,) * 2
    for i in range(spec.blocks):
        conv1, conv2 = f"blocks.{i}.conv1", f"blocks.{i}.conv2"
        whole = Stage(conv1, "trunk", 3, *deepest, spec.border, spec.bias, adds_residual=True, is_residual=True)
        if spec.convs == 1:
            found.append(whole)
        else:
            found.append(Stage(conv1, "trunk", 3, *deepest, spec.border, spec.bias, dropout=i))
            found.append(replace(whole, name=conv2, act="none"))
    for i in range(spec.downsamplings):
        up = last - i
        shape = (width << (up + 1), width << up, 2 << up, 1 << up)
        found.append(Stage(f"up.{i}", "up", 3, *shape, bias=spec.bias))
    return (*found, Stage("head", "head", 7, width, 3, 1, 1, spec.border, act="none"))
