"""Networks of other code as ours: the released layouts, and the article's network under any names."""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from deblurgan.checkpoint.state_dicts import StateDict
from deblurgan.nn import Generator


def released_names(blocks: int, convs: int, *, second: int) -> dict[str, str]:
    """Released layer name -> ours, weights and biases. `second` is the index of a block's second convolution."""
    layers = {"model.1": "stem", "model.4": "down.0", "model.7": "down.1"}
    for i in range(blocks):
        layers[f"model.{10 + i}.conv_block.1"] = f"blocks.{i}.conv1"
        if convs == 2:
            layers[f"model.{10 + i}.conv_block.{second}"] = f"blocks.{i}.conv2"
    layers |= {f"model.{10 + blocks}": "up.0", f"model.{13 + blocks}": "up.1", f"model.{17 + blocks}": "head"}
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in layers.items() for kind in ("weight", "bias")}


def generator_of(state: StateDict) -> Generator:
    """The generator of a state dict. Raises CheckpointError for another network, and for a Generator's own state dict,
    which does not tell all of its options."""
    if state.is_released():
        return _released(state)
    if state.is_ours():
        raise state.error(
            "holds the state dict of a deblurgan.Generator, which does not tell its border and dropout: write it with "
            "save_generator, or load it into a Generator of the same options with load_state_dict"
        )
    return _article(state)


def unfilled(state: StateDict, /, **options: Any) -> Generator:
    """A generator on the meta device, where a file's word for its size costs no memory. Raises CheckpointError for
    options that are none."""
    try:
        with torch.device("meta"):
            return Generator(**options)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise state.error(f"describes no generator this version knows ({error})") from error


def filled(generator: Generator, names: dict[str, str], state: StateDict) -> Generator:
    """An `unfilled` generator with copies of the file's tensors, in evaluation mode; `names` maps each of its own names
    to one in `state`.

    Raises CheckpointError for missing and extra tensors, and for another shape, layout or values that are not finite.
    """
    missing = sorted(set(names.values()) - set(state.tensors))
    if missing:
        listed = ", ".join(state.prefix + name for name in missing[:3])
        raise state.error(f"lacks {listed}{' ...' if len(missing) > 3 else ''}")
    extra = sorted(set(state.tensors) - set(names.values()))
    if extra:
        listed = ", ".join(state.prefix + name for name in extra[:3])
        raise state.error(f"holds {listed} beyond the network's own keys")
    own = generator.state_dict()
    plain = {ours: _plain(state, name, own[ours].shape) for ours, name in names.items()}
    generator.load_state_dict(plain, assign=True)
    return generator.eval()


def _plain(state: StateDict, name: str, shape: torch.Size) -> Tensor:
    """A contiguous fp32 copy of the tensor of that name."""
    tensor, name = state.tensors[name], state.prefix + name
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
        raise state.error(f"{name} must be a plain floating-point tensor, got {tensor.dtype}")
    if tensor.shape != shape:
        raise state.error(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
    tensor = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not bool(tensor.isfinite().all()):
        raise state.error(f"{name} holds values that are not finite in fp32")
    return tensor


def _released(state: StateDict) -> Generator:
    blocks = {int(found[1]) for name in state.tensors if (found := re.match(r"model\.(\d+)\.conv_block\.", name))}
    if blocks != set(range(10, 10 + len(blocks))):
        raise state.error(f"residual blocks must be numbered from 10 without a gap, got {sorted(blocks)}")
    second = {found[1] for name in state.tensors if (found := re.match(r"model\.\d+\.conv_block\.([2-9])\.", name))}
    if len(second) > 1 or not second <= {"5", "6"}:
        odd = " and .".join(sorted(second - {"5", "6"} or second))
        raise state.error(f"an unknown residual block, with conv_block.{odd}")
    convs, dropout = (2 if second else 1), (0.5 if second == {"6"} else 0.0)
    names = released_names(len(blocks), convs, second=int(second.pop()) if second else 5)
    stem = state.tensors.get("model.1.weight")
    if stem is None or stem.numel() == 0 or tuple(stem.shape[1:]) != (3, 7, 7):
        raise state.error(f"lacks {state.prefix}model.1.weight [width, 3, 7, 7], the first convolution")
    generator = unfilled(state, width=stem.shape[0], blocks=len(blocks), convs=convs, dropout=dropout)
    return filled(generator, {ours: theirs for theirs, ours in names.items()}, state)


def _article(state: StateDict) -> Generator:
    """The article's network, recognised by the order and shapes of its convolutions, since their names differ between
    copies of its code."""
    given = {name: tuple(tensor.shape) for name, tensor in state.tensors.items()}
    name, first = next(iter(given.items()))
    if 0 in first or first[1:] != (3, 7, 7):
        raise state.error(f"an unknown network, its first tensor is {state.prefix}{name}")
    square = (4 * first[0], 4 * first[0], 3, 3)
    generator = unfilled(state, preset="article", width=first[0], blocks=list(given.values()).count(square))
    wanted = {name: tuple(tensor.shape) for name, tensor in generator.state_dict().items()}
    if list(wanted.values()) != list(given.values()):
        pairs = zip_longest(given, wanted.values())
        odd = next((name for name, shape in pairs if name is not None and given[name] != shape), None)
        detail = f"{odd} {list(given[odd])} stands out" if odd else f"{len(given)} tensors instead of {len(wanted)}"
        raise state.error(f"neither the released nor the article's network: {detail}")
    return filled(generator, dict(zip(wanted, given, strict=True)), state)
