"""Weights in and out: our safetensors, whole or absent and with a digest, and the released .pth in its many layouts.

Nothing read here can run code: safetensors hold tensors only, and a .pth is read with weights_only=True.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
from itertools import zip_longest
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from deblurgan.images import replace_file
from deblurgan.nn import Generator

DEFAULT_WEIGHTS = Path(__file__).parent / "assets" / "tiny.safetensors"

_RUNNING = ("running_mean", "running_var", "num_batches_tracked")
_WRAPPERS = ("model", "state_dict", "params", "params_ema", "generator")


class CheckpointError(ValueError):
    """A weights file that is damaged or of another network. The message is "PATH: reason"."""


def save_tensors(tensors: dict[str, Tensor], path: Path | str, *, metadata: dict[str, str]) -> None:
    """Writes safetensors with `metadata` and a SHA-256 of both. An older file is replaced whole or, after an error, not
    at all."""
    metadata = {"format": "deblurgan", **metadata}
    host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(host, metadata={**metadata, "sha256": _digest(host, metadata)})
    replace_file(Path(path), data)


def load_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of a file by `save_tensors`.

    Safetensors from elsewhere are read too, without the check of a digest. Raises CheckpointError for a file that was
    changed or cut short, OSError for one that cannot be read.
    """
    path = Path(path)
    with path.open("rb"):  # the plain error for a file that is missing or not allowed
        pass
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged safetensors file ({error})") from error
    digest = metadata.pop("sha256", None)
    ours = metadata.get("format") == "deblurgan"  # then a digest must be there, also where its name was damaged
    if (ours or digest is not None) and digest != _digest(tensors, metadata):
        raise CheckpointError(f"{path}: damaged, its contents do not match its SHA-256")
    return tensors, metadata


def save_generator(
    generator: Generator, path: Path | str, *, half: bool = False, card: dict[str, Any] | None = None
) -> None:
    """Writes weights and spec as safetensors. `half` stores fp16; `card` goes into the header as JSON."""
    tensors = generator.state_dict()
    if half:
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
    metadata = {"generator": json.dumps(generator.config(), sort_keys=True)}
    if card is not None:
        metadata["card"] = json.dumps(card, sort_keys=True)
    save_tensors(tensors, path, metadata=metadata)


def load_generator(path: Path | str) -> Generator:
    """The generator in a weights file, fp32 on the CPU, in evaluation mode.

    Reads our safetensors, and a released .pth of any width and number of blocks:

    - with two convolutions a block (conv_block.1 and .6, or .5 without dropout), or one (conv_block.1: the released
      code after 2019-03, read as a block that ends in a ReLU);
    - with or without a `module.` prefix, a {"model": ...} wrapper, running statistics (never used);
    - written by torch before or after 1.6.

    A file with other names is read as the article's network if its convolutions, in file order, have the shapes of that
    network. Raises CheckpointError for a damaged file, an unknown network, and for missing or extra tensors, which it
    names; OSError where the file cannot be read.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        tensors, metadata = load_tensors(path)
        if "generator" in metadata:
            return _ours(path, tensors, metadata["generator"])
    else:
        tensors = _load_pth(path)
    return _foreign(path, tensors)


def save_released(generator: Generator, path: Path | str) -> None:
    """Writes a .pth in the released layout, which the released code loads. Raises ValueError for a network that it
    cannot hold: the released code pads with reflection and has a bias on every convolution."""
    spec = generator.spec
    if spec.border != "reflect" or not spec.bias:
        raise ValueError("generator must have reflect borders and biases to be written in the released layout")
    names = _released_names(spec.blocks, spec.convs, second=6 if spec.dropout > 0 else 5)
    tensors = {released: generator.state_dict()[ours].cpu() for released, ours in names.items()}
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    replace_file(Path(path), buffer.getvalue())


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _ours(path: Path, tensors: dict[str, Tensor], config: str) -> Generator:
    stem = tensors.get("stem.weight", torch.empty(0))
    try:
        spec = json.loads(config)
        if spec["width"] != len(stem) or spec["blocks"] > len(tensors):  # before tensors of that size are allocated
            raise ValueError(f"width {spec['width']} and {spec['blocks']} blocks, but other tensors")
        generator = Generator(**spec)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: describes no generator this version knows ({error})") from error
    return _filled(path, generator, {name: name for name in generator.state_dict()}, tensors)


def _load_pth(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth, without a wrapper, under their names in the file."""
    data = path.read_bytes()
    if not data:
        raise CheckpointError(f"{path}: empty file")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {_why_not_plain(error)}") from None  # torch's own text advises to run its code
    except Exception as error:  # of any kind, AssertionError and struct.error among them; the file itself was read
        raise CheckpointError(f"{path}: damaged weights file ({_first_line(error)})") from error
    for name in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
            break
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: holds no state dict of tensors")
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        raise CheckpointError(f"{path}: holds no state dict of tensors")
    return content


def _why_not_plain(error: pickle.UnpicklingError) -> str:
    """What the pickle holds beside tensors, without torch's advice to load it with weights_only switched off."""
    found = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
    if found:
        return (
            f"not a file of plain weights: it holds {found[1]}; only tensors are read, since other objects can run code"
        )
    return "not a file of plain weights, or damaged; only tensors are read, since other objects can run code"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _foreign(path: Path, tensors: dict[str, Tensor]) -> Generator:
    """A generator in the released or the article's layout."""
    in_file = {name.removeprefix("module."): name for name in tensors if name.rsplit(".", 1)[-1] not in _RUNNING}
    blocks = {int(found[1]) for name in in_file if (found := re.match(r"model\.(\d+)\.conv_block\.", name))}
    if not blocks:
        return _article(path, tensors, list(in_file.values()))
    if blocks != set(range(10, 10 + len(blocks))):
        raise CheckpointError(f"{path}: residual blocks must be numbered from 10 without a gap, got {sorted(blocks)}")
    second = {found[1] for name in in_file if (found := re.match(r"model\.\d+\.conv_block\.([2-9])\.", name))}
    if len(second) > 1 or not second <= {"5", "6"}:
        odd = " and .".join(sorted(second - {"5", "6"} or second))
        raise CheckpointError(f"{path}: an unknown residual block, with conv_block.{odd}")
    convs, dropout = (2 if second else 1), (0.5 if second == {"6"} else 0.0)
    names = _released_names(len(blocks), convs, second=int(second.pop()) if second else 5)
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    stem = tensors.get(in_file.get("model.1.weight", ""))
    if stem is None or stem.numel() == 0 or tuple(stem.shape[1:]) != (3, 7, 7):
        raise CheckpointError(f"{path}: lacks {prefix}model.1.weight [width, 3, 7, 7], the first convolution")
    generator = Generator(width=stem.shape[0], blocks=len(blocks), convs=convs, dropout=dropout)
    return _filled(path, generator, {ours: in_file.get(name, prefix + name) for name, ours in names.items()}, tensors)


def _released_names(blocks: int, convs: int, *, second: int) -> dict[str, str]:
    """Released layer name -> ours, weights and biases. `second` is the index of a block's second convolution."""
    layers = {"model.1": "stem", "model.4": "down.0", "model.7": "down.1"}
    for i in range(blocks):
        layers[f"model.{10 + i}.conv_block.1"] = f"blocks.{i}.conv1"
        if convs == 2:
            layers[f"model.{10 + i}.conv_block.{second}"] = f"blocks.{i}.conv2"
    layers |= {f"model.{10 + blocks}": "up.0", f"model.{13 + blocks}": "up.1", f"model.{17 + blocks}": "head"}
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in layers.items() for kind in ("weight", "bias")}


def _article(path: Path, tensors: dict[str, Tensor], names: list[str]) -> Generator:
    """The article's network, recognised by the order and shapes of its convolutions, since their names differ between
    copies of its code."""
    first = tensors[names[0]] if names else torch.empty(0)
    if first.numel() == 0 or tuple(first.shape[1:]) != (3, 7, 7):
        raise CheckpointError(f"{path}: an unknown network, its first tensor is {names[0] if names else 'missing'}")
    square = (4 * first.shape[0], 4 * first.shape[0], 3, 3)
    blocks = sum(tuple(tensors[name].shape) == square for name in names)
    generator = Generator("article", width=first.shape[0], blocks=blocks)
    wanted = {name: tuple(tensor.shape) for name, tensor in generator.state_dict().items()}
    given = {name: tuple(tensors[name].shape) for name in names}
    if list(wanted.values()) != list(given.values()):
        pairs = zip_longest(given, wanted.values())
        odd = next((name for name, shape in pairs if name is not None and given[name] != shape), None)
        detail = f"{odd} {list(given[odd])} stands out" if odd else f"{len(given)} tensors instead of {len(wanted)}"
        raise CheckpointError(f"{path}: neither the released nor the article's network: {detail}")
    return _filled(path, generator, dict(zip(wanted, given, strict=True)), tensors)


def _filled(path: Path, generator: Generator, names: dict[str, str], tensors: dict[str, Tensor]) -> Generator:
    """The generator with the file's tensors; `names` maps each of its own names to one in the file.

    Raises CheckpointError for missing and extra tensors, and for another shape, layout or values that are not finite.
    """
    missing = sorted(set(names.values()) - set(tensors))
    if missing:
        raise CheckpointError(f"{path}: lacks {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}")
    extra = sorted(name for name in set(tensors) - set(names.values()) if name.rsplit(".", 1)[-1] not in _RUNNING)
    if extra:
        raise CheckpointError(f"{path}: holds {', '.join(extra[:3])} beyond the network's own keys")
    state = generator.state_dict()
    for ours, name in names.items():
        tensor = tensors[name]
        if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
            raise CheckpointError(f"{path}: {name} must be a plain floating-point tensor, got {tensor.dtype}")
        if tensor.shape != state[ours].shape:
            wanted, got = list(state[ours].shape), list(tensor.shape)
            raise CheckpointError(f"{path}: {name} must be {wanted}, got {got}")
        state[ours] = tensor.float()
        if not bool(state[ours].isfinite().all()):
            raise CheckpointError(f"{path}: {name} holds values that are not finite in fp32")
    generator.load_state_dict(state)
    return generator.eval()
