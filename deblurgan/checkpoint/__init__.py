"""Weights in and out: our safetensors, whole or absent and with a digest, and .pth files in their many layouts.

Nothing read here can run code: safetensors hold tensors only, and a .pth is read with weights_only=True.

files reads and writes tensors; state_dicts finds a generator's among all that a file holds; layouts names them as ours;
generators does all of it.
"""

from deblurgan.checkpoint.files import CheckpointError, load_tensors, save_tensors
from deblurgan.checkpoint.generators import (
    DEFAULT_WEIGHTS,
    load_generator,
    save_generator,
    save_released,
    weights_file,
)

__all__ = [
    "DEFAULT_WEIGHTS",
    "CheckpointError",
    "load_generator",
    "load_tensors",
    "save_generator",
    "save_released",
    "save_tensors",
    "weights_file",
]
