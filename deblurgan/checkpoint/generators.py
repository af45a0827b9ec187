"""Generators out of weights files and into them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from deblurgan.arguments import require_kind
from deblurgan.checkpoint.files import CheckpointError, load_objects, save_tensors
from deblurgan.checkpoint.layouts import filled, generator_of, released_names, unfilled
from deblurgan.checkpoint.sources import SAVED_CONFIG, SAVED_MODEL, Source, find_weights, local_weights
from deblurgan.checkpoint.state_dicts import StateDict, find_generator
from deblurgan.config import as_path
from deblurgan.device import torch_defaults
from deblurgan.images import replace_file
from deblurgan.nn import Generator


def save_generator(
    generator: Generator, path: Path | str, *, half: bool = False, card: dict[str, Any] | None = None
) -> None:
    """Writes weights and spec as safetensors, in a folder that is made where there is none. `half` stores fp16; `card`
    goes into the header as JSON.

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
    as_path("path", path).parent.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, path, metadata=metadata)


def load_generator(path: Path | str) -> Generator:
    """The generator in a weights file, run folder or saved model's folder, fp32 on the CPU, in evaluation mode.

    Of a run folder best.safetensors is taken (last.safetensors, with a warning, of a run that was stopped before its
    first validation), of a saved model's model.safetensors; `Generator.source` says which.

    Reads our safetensors, those of huggingface_hub's mixin with a config.json beside them, and a released .pth of any
    width and number of blocks:

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
    return _loaded(local_weights(path))


def load_pretrained(path_or_id: Path | str | None = None, **options: Any) -> Generator:
    """`load_generator` of a path, a Hugging Face id or None, with the options and errors of `find_weights`."""
    return _loaded(find_weights(path_or_id, **options))


@torch_defaults()
def _loaded(source: Source) -> Generator:
    content, metadata = load_objects(source.path)
    if "generator" in metadata:
        generator = _ours(StateDict(source.path, "", "", content), metadata["generator"])
    elif metadata.get("format") == "deblurgan":
        raise CheckpointError(f"{source.path}: no weights file; the state of a training has best.safetensors beside it")
    else:
        generator = _theirs(find_generator(source.path, content))
    generator.card = _card(source.path, metadata)
    step = (generator.card or {}).get("step")
    generator.source = source.found if step is None else f"{source.found}, step {step}"
    return generator


def _card(path: Path, metadata: dict[str, str]) -> dict[str, Any] | None:
    try:
        card = json.loads(metadata["card"]) if "generator" in metadata and "card" in metadata else None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its card is not JSON ({error})") from error
    return card if isinstance(card, dict) else None


def _theirs(state: StateDict) -> Generator:
    config = state.path.with_name(SAVED_CONFIG)
    if state.is_ours() and state.path.name == SAVED_MODEL and config.is_file():
        return _ours(state, config.read_text(encoding="utf-8"))
    return generator_of(state)


def save_released(generator: Generator, path: Path | str) -> None:
    """Writes a .pth in the released layout, which the released code loads, in a folder that is made where there is
    none.

    Raises ValueError for a network that it cannot hold: the released code pads with reflection and has a bias on every
    convolution.
    """
    require_kind("generator", generator, Generator)
    spec = generator.spec
    if spec.border != "reflect" or not spec.bias:
        raise ValueError("generator must have reflect borders and biases to be written in the released layout")
    names = released_names(spec.blocks, spec.convs, second=6 if spec.dropout > 0 else 5)
    tensors = {released: generator.state_dict()[ours].cpu() for released, ours in names.items()}
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    as_path("path", path).parent.mkdir(parents=True, exist_ok=True)
    replace_file(Path(path), buffer.getvalue())


def _ours(state: StateDict, config: str) -> Generator:
    try:
        options = {name: value for name, value in json.loads(config).items() if value is not None}
        layers = options.get("blocks", 0) + options.get("downsamplings", 0)
        if layers > len(state.tensors):  # before as many layers are made
            raise ValueError(f"as many layers, but {len(state.tensors)} tensors: {config}")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise state.error(f"describes no generator this version knows ({error})") from error
    generator = unfilled(state, **options)
    return filled(generator, {name: name for name in generator.state_dict()}, state)
