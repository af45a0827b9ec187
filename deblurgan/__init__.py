"""DeblurGAN (Kupyn et al. 2018): blind motion deblurring, with its own kernels. See README.md."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deblurgan import blur, data, export, images, inference, losses, metrics, nn, ops, reference
    from deblurgan.blur import MotionBlur
    from deblurgan.checkpoint import load_generator, save_generator, save_released
    from deblurgan.config import TrainConfig, TuneConfig
    from deblurgan.diagnosis import info
    from deblurgan.evaluation import Report, evaluate
    from deblurgan.images import ImageError
    from deblurgan.inference import Deblurrer
    from deblurgan.nn import Critic, Generator, PerceptualFeatures
    from deblurgan.training import Trainer, TrainResult, train
    from deblurgan.tuning import tune

__version__ = "0.1.0"

# Loaded when first used: the command line's --help must not wait for torch.
_MODULES = ("blur", "data", "export", "images", "inference", "losses", "metrics", "nn", "ops", "reference")
_NAMES = {
    "Critic": "nn",
    "Deblurrer": "inference",
    "Generator": "nn",
    "ImageError": "images",
    "MotionBlur": "blur",
    "PerceptualFeatures": "nn",
    "Report": "evaluation",
    "TrainConfig": "config",
    "TrainResult": "training",
    "Trainer": "training",
    "TuneConfig": "config",
    "evaluate": "evaluation",
    "info": "diagnosis",
    "load_generator": "checkpoint",
    "save_generator": "checkpoint",
    "save_released": "checkpoint",
    "train": "training",
    "tune": "tuning",
}

__all__ = [
    "Critic",
    "Deblurrer",
    "Generator",
    "ImageError",
    "MotionBlur",
    "PerceptualFeatures",
    "Report",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "TuneConfig",
    "blur",
    "data",
    "evaluate",
    "export",
    "get_include",
    "images",
    "inference",
    "info",
    "load_generator",
    "losses",
    "metrics",
    "nn",
    "ops",
    "reference",
    "save_generator",
    "save_released",
    "train",
    "tune",
]


def get_include() -> str:
    """The folder of the C++ and CUDA headers, for a compiler's -I."""
    return os.path.join(os.path.dirname(__file__), "include")


if not TYPE_CHECKING:  # a checker is to flag names that are not there

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return import_module(f"deblurgan.{name}")
        if name in _NAMES:
            return getattr(import_module(f"deblurgan.{_NAMES[name]}"), name)
        raise AttributeError(f"module 'deblurgan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
