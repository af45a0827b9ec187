"""What decides the figures beside the pictures and the protocol: the network, what it computes in, the programs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deblurgan import __version__
from deblurgan.device import DTYPES
from deblurgan.inference import Deblurrer
from deblurgan.nn import Generator
from deblurgan.spec import PRESETS


def settings_of(deblurrer: Deblurrer) -> dict[str, Any]:
    """Plain values for JSON. Of the weights' place there is no folder, which others do not have."""
    generator, restorer = deblurrer.generator, deblurrer.restorer
    names = (name for name, spec in PRESETS.items() if spec == generator.spec)
    return {
        "weights": None if deblurrer.source is None else _without_folders(deblurrer.source),
        "sha256": digest_of_weights(generator),
        "preset": next(names, None),
        "generator": generator.config(),
        "dtype": next(name for name, dtype in DTYPES.items() if dtype == deblurrer.dtype),
        "quantize": generator.quantize,
        "dropout_seed": restorer.seed,
        "network_scale": deblurrer.scale,
        "device": deblurrer.device.type,
        "deblurgan": __version__,
        "torch": torch.__version__,
    }


def in_words(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings as a report's conventions."""
    shape = settings["generator"]
    network = settings["preset"] or f"width {shape['width']}, blocks {shape['blocks']}, convs {shape['convs']}"
    seed, scale = settings["dropout_seed"], settings["network_scale"]
    how = [
        f"in {settings['quantize'] or settings['dtype']} on {settings['device']}",
        "without dropout" if seed is None else f"with dropout's masks of seed {seed}",
        "at a scale that is chosen for each picture" if scale == "auto" else f"pictures at scale {scale:g}",
    ]
    return {
        "network": f"{network}; {', '.join(how)}",
        "weights": f"{settings['weights'] or 'made in this program'}; sha256 of the tensors in {settings['dtype']} "
        f"{settings['sha256'][:16]}",
        "rounding": "pictures are uint8 before they are measured: outputs are rounded to the nearest of 0 ... 255",
        "mean": "of the single pictures' figures, never of pooled errors",
        "programs": f"deblurgan {settings['deblurgan']}, torch {settings['torch']}",
    }


def digest_of_weights(generator: Generator) -> str:
    """SHA-256 of all tensors by name, type, shape and bytes, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(generator.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _without_folders(source: str) -> str:
    """The words with each absolute path cut to its last part."""
    return " ".join(Path(word).name if Path(word).is_absolute() else word for word in source.split(" "))
