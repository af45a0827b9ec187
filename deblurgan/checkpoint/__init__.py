"""Weights in and out: our safetensors, whole or absent and with a digest, and .pth files in their many layouts.

Nothing read here can run code: safetensors hold tensors only, and a .pth is read with weights_only=True.

files reads and writes tensors; state_dicts finds a generator's among all that a file holds; layouts names them as ours;
sources finds the file, on the Hugging Face hub too; generators does all of it; saved_models writes what the hub takes.
"""

from deblurgan.checkpoint.files import CheckpointError, load_tensors, save_tensors
from deblurgan.checkpoint.generators import load_generator, load_pretrained, save_generator, save_released
from deblurgan.checkpoint.saved_models import push_to_hub, save_pretrained
from deblurgan.checkpoint.sources import DEFAULT_WEIGHTS

__all__ = [
    "DEFAULT_WEIGHTS",
    "CheckpointError",
    "load_generator",
    "load_pretrained",
    "load_tensors",
    "push_to_hub",
    "save_generator",
    "save_pretrained",
    "save_released",
    "save_tensors",
]
