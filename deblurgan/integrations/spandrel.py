"""DeblurGAN for spandrel, the loader of chaiNNer and others: `register()`, and its ModelLoader opens our weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from deblurgan.checkpoint.layouts import filled, generator_of, unfilled
from deblurgan.checkpoint.state_dicts import StateDict, find_generator
from deblurgan.nn import Generator

try:
    from spandrel import (
        MAIN_REGISTRY,
        Architecture,
        ArchRegistry,
        ArchSupport,
        ImageModelDescriptor,
        ModelTiling,
        SizeRequirements,
    )
except ImportError as error:
    raise ImportError(f"{__name__} needs spandrel and torchvision: pip install 'deblurgan[spandrel]'") from error

_STEM = re.compile(r"(?:.*\.)?(?:stem|model\.1)\.weight")
_BLOCK = re.compile(r"(?:.*\.)?(?:model\.\d+\.conv_block\.1|blocks\.\d+\.conv1)\.weight")


class DeblurGANArch(Architecture[Generator]):
    """A `deblurgan.Generator` in spandrel's terms: pictures [1, 3, h, w] in [0, 1], any size, scale 1, no tiles.

    Weights of ours and in the released layouts are recognised by their names. Spandrel passes no header on, so of ours
    the borders are those of the presets: reflect with a bias on every convolution ("paper", "tiny"), else zero
    ("article").
    """

    def __init__(self) -> None:
        super().__init__(id="DeblurGAN", detect=_is_deblurgan)

    def load(self, state_dict: Mapping[str, Any]) -> ImageModelDescriptor[Generator]:
        """The descriptor of a state dict. Raises CheckpointError for another network's, and names what stands out."""
        state = find_generator(Path("state dict"), dict(state_dict))
        generator = _ours(state) if state.is_ours() else generator_of(state)
        spec = generator.spec
        return ImageModelDescriptor(
            generator,
            generator.state_dict(),
            architecture=self,
            purpose="Restoration",
            tags=[f"{spec.width}nf", f"{spec.blocks}nb", f"{spec.convs}conv"],
            supports_half=True,
            supports_bfloat16=True,
            scale=1,
            input_channels=3,
            output_channels=3,
            size_requirements=SizeRequirements(minimum=Generator.MIN_SIZE, multiple_of=spec.size_multiple),
            tiling=ModelTiling.DISCOURAGED,  # each tile would be normalised by its own statistics
            call_fn=_restore,
        )


def register(registry: ArchRegistry = MAIN_REGISTRY) -> None:
    """Has spandrel's loader know DeblurGAN; once is enough, and twice does no harm."""
    registry.add(ArchSupport.from_architecture(DeblurGANArch()), ignore_duplicates=True)


def _is_deblurgan(state_dict: Mapping[str, Any]) -> bool:
    stems = [value for name, value in state_dict.items() if _STEM.fullmatch(name)]
    return any(tuple(stem.shape[1:]) == (3, 7, 7) for stem in stems) and any(map(_BLOCK.fullmatch, state_dict))


def _ours(state: StateDict) -> Generator:
    """The generator of a Generator's state dict, whose options show in names and shapes, but for borders."""
    names = state.tensors

    def count(pattern: str) -> int:
        return len({found[0] for name in names if (found := re.match(pattern, name))})

    bias = "down.0.bias" in names
    stem = names.get("stem.weight")
    if stem is None:
        raise state.error(f"lacks {state.prefix}stem.weight [width, 3, 7, 7], the first convolution")
    generator = unfilled(
        state,
        width=stem.shape[0],
        blocks=count(r"blocks\.\d+\."),
        convs=2 if count(r"blocks\.\d+\.conv2\.") else 1,
        border="reflect" if bias else "zero",
        bias=bias,
        dropout=0.0,
        downsamplings=count(r"down\.\d+\."),
    )
    return filled(generator, {name: name for name in generator.state_dict()}, state)


def _restore(generator: Generator, picture: Tensor) -> Tensor:
    return (generator(picture * 2 - 1) + 1) / 2
