"""Files of tensors: safetensors, written and read, and the objects of a .pth."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from deblurgan.images import replace_file

# How files begin that are often taken for weights, and what they are
_OTHER_FILES = {
    b"version https://git-lfs": "a Git LFS pointer, which `git lfs pull` replaces by the weights",
    b"<": "a web page, which may link to them",
    b"\x89HDF": "an HDF5 file, as Keras writes it",
}


class CheckpointError(ValueError):
    """A weights file that is damaged or of another network. The message is "PATH: reason"."""


def save_tensors(tensors: dict[str, Tensor], path: Path | str, *, metadata: dict[str, str]) -> None:
    """Writes safetensors with `metadata` and a SHA-256 of both. An older file is replaced whole or, after an error, not
    at all."""
    if "sha256" in metadata:
        raise ValueError("metadata must leave sha256 to the digest")
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
    data = path.read_bytes()  # safetensors itself opens no file whose name is not UTF-8
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged safetensors file ({error})") from error
    metadata: dict[str, str] = header.get("__metadata__") or {}
    digest = metadata.pop("sha256", None)
    ours = metadata.get("format") == "deblurgan"  # then a digest must be there, also where its name was damaged
    if (ours or digest is not None) and digest != _digest(tensors, metadata):
        raise CheckpointError(f"{path}: damaged, its contents do not match its SHA-256")
    return tensors, metadata


def load_objects(path: Path) -> tuple[Any, dict[str, str]]:
    """The tensors and metadata of safetensors, or the objects of a .pth and no metadata.

    The file's first bytes tell which it is, not its suffix. Raises CheckpointError and OSError as `load_tensors` does.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{":  # after the length of the header, the header
        return load_tensors(path)
    return _load_pth(path, start), {}


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _load_pth(path: Path, start: bytes) -> Any:
    if not start:
        raise CheckpointError(f"{path}: empty file")
    for signature, kind in _OTHER_FILES.items():
        if start.lstrip().startswith(signature):
            raise CheckpointError(f"{path}: not weights but {kind}")
    data = path.read_bytes()
    if why := _why_not_read(data):
        raise CheckpointError(f"{path}: {why}")
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {_why_not_plain(error)}") from None  # torch's own text advises to run its code
    except Exception as error:  # of any kind, AssertionError and struct.error among them; the file itself was read
        if "TorchScript" in str(error):
            raise CheckpointError(f"{path}: a TorchScript archive, not the state dict of its module") from None
        raise CheckpointError(f"{path}: damaged weights file ({first_line(error)})") from error


def _why_not_read(data: bytes) -> str | None:
    """Why a file might take far more memory than its own size; None where it does not."""
    if b"bytearray" in data:  # which torch makes, of any length, though no tensor needs one
        return "not a file of plain weights: it holds bytearray"
    if not data.startswith(b"PK"):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = archive.infolist()
    except Exception as error:  # of any kind, as with torch's own reader
        return f"damaged weights file ({first_line(error)})"
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        return "its records are compressed, which torch's are not"
    return "damaged weights file (its records overlap)" if sum(r.file_size for r in records) > len(data) else None


def _why_not_plain(error: pickle.UnpicklingError) -> str:
    """What the pickle holds beside tensors, without torch's advice to load it with weights_only switched off."""
    found = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
    if found:
        return (
            f"not a file of plain weights: it holds {found[1]}; only tensors are read, since other objects can run code"
        )
    return "not a file of plain weights, or damaged; only tensors are read, since other objects can run code"


def first_line(error: BaseException) -> str:
    """What it says, in one short line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
