"""Generators out of weights files and into them."""

from __future__ import annotations

import io
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from deblurgan.arguments import require_kind
from deblurgan.checkpoint.files import CheckpointError, load_objects, save_tensors
from deblurgan.checkpoint.layouts import filled, generator_of, released_names, unfilled
from deblurgan.checkpoint.state_dicts import StateDict, find_generator
from deblurgan.device import torch_defaults
from deblurgan.images import replace_file
from deblurgan.nn import Generator

DEFAULT_WEIGHTS = Path(__file__).parents[1] / "assets" / "tiny.safetensors"


def weights_file(path: Path | str) -> Path:
    """The weights file of a path: the file itself or, of a run folder, its best.safetensors.

    A run that was stopped before its first validation has last.safetensors alone, which is then taken, with a warning.
    Raises IsADirectoryError for a folder without either.
    """
    require_kind("path", path, (str, os.PathLike))
    path = Path(path).expanduser()
    if not path.is_dir():
        return path
    best, last = path / "best.safetensors", path / "last.safetensors"
    if best.exists():
        return best
    if last.exists():
        warnings.warn(f"{path} holds no best.safetensors: last.safetensors is taken", stacklevel=2)
        return last
    raise IsADirectoryError(f"{path} is a folder without best.safetensors or last.safetensors, so none of a training")


def save_generator(
    generator: Generator, path: Path | str, *, half: bool = False, card: dict[str, Any] | None = None
) -> None:
    """Writes weights and spec as safetensors. `half` stores fp16; `card` goes into the header as JSON.

    Raises ValueError for weights that fp16 cannot hold.
    """
    require_kind("generator", generator, Generator)
    tensors = generator.state_dict()
    if half:
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                raise ValueError(f"half must be False for these weights: fp16 cannot hold {name}")
    metadata = {"generator": json.dumps(generator.config(), sort_keys=True)}
    if card is not None:
        metadata["card"] = json.dumps(card, sort_keys=True)
    save_tensors(tensors, path, metadata=metadata)


@torch_defaults()
def load_generator(path: Path | str) -> Generator:
    """The generator in a weights file or run folder (see `weights_file`), fp32 on the CPU, in evaluation mode.

    Reads our safetensors, and a released .pth of any width and number of blocks:

    - with two convolutions a block (conv_block.1 and .6, or .5 without dropout), or one (conv_block.1: the released
      code after 2019-03, read as a block that ends in a ReLU);
    - in a dict of whatever name and depth, beside other networks and optimisers, with whatever its names begin with
      (module., _orig_mod., generator., ...). Of several generators the moving average is taken (params_ema, ...), which
      a warning says;
    - with running statistics, which are never used, or without;
    - written by torch before or after 1.6, or as safetensors.

    A file with other names is read as the article's network if its convolutions, in file order, have the shapes of that
    network. Raises CheckpointError for a damaged file, an unknown network, and for missing or extra tensors, which it
    names; OSError where the file cannot be read.
    """
    path = weights_file(path)
    content, metadata = load_objects(path)
    if "generator" in metadata:
        return _ours(StateDict(path, "", "", content), metadata["generator"])
    if metadata.get("format") == "deblurgan":
        raise CheckpointError(f"{path}: no weights file; the state of a training has best.safetensors beside it")
    return generator_of(find_generator(path, content))


def save_released(generator: Generator, path: Path | str) -> None:
    """Writes a .pth in the released layout, which the released code loads. Raises ValueError for a network that it
    cannot hold: the released code pads with reflection and has a bias on every convolution."""
    require_kind("generator", generator, Generator)
    spec = generator.spec
    if spec.border != "reflect" or not spec.bias:
        raise ValueError("generator must have reflect borders and biases to be written in the released layout")
    names = released_names(spec.blocks, spec.convs, second=6 if spec.dropout > 0 else 5)
    tensors = {released: generator.state_dict()[ours].cpu() for released, ours in names.items()}
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    replace_file(Path(path), buffer.getvalue())


def _ours(state: StateDict, config: str) -> Generator:
    try:
        spec = json.loads(config)
        if spec["blocks"] + spec.get("downsamplings", 0) > len(state.tensors):  # before as many layers are made
            raise ValueError(f"as many layers, but {len(state.tensors)} tensors: {config}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise state.error(f"describes no generator this version knows ({error})") from error
    generator = unfilled(state, **spec)
    return filled(generator, {name: name for name in generator.state_dict()}, state)
