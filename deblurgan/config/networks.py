"""Options of the commands that take a network or this machine: info, export, tune."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from deblurgan.config.fields import Positional, Preset, option
from deblurgan.config.values import Options, parsed_size


@dataclass(frozen=True)
class InfoConfig(Options):
    """Say which path each part takes on this machine, and why."""


@dataclass(frozen=True)
class ExportConfig(Options):
    """Write the network for other runtimes, as ONNX or a torch.export program."""

    out: Positional[Path]
    """The file, which ends in .onnx or .pt2."""
    weights: Annotated[Path | None, option("-m")] = None
    """A weights file, a run folder, a saved model's folder or a Hugging Face repository, OWNER/NAME; the weights that
    ship with the package if not given."""
    unit_range: bool = False
    """Take and give pictures in [0, 1], in place of [-1, 1]."""
    overwrite: bool = False
    """Replace a file that exists."""


@dataclass(frozen=True)
class TuneConfig(Options):
    """Measure which tilings of the convolutions' kernels are the fastest on this GPU."""

    budget: float = 90.0
    """Seconds after which no further layer is measured, above 0. Those already in the table come last, so that another
    run goes on."""
    preset: tuple[Preset, ...] = ("paper", "tiny")
    """Networks whose layers are measured."""
    dtype: Literal["fp16", "bf16", "int8", "fp8"] | None = None
    """Of the operands; if not given, fp16 in layers and bf16 in gradients. int8 and fp8 are for the residual blocks'
    convolutions alone."""
    forward_only: bool = False
    """Leave out the gradients."""
    gradients_only: bool = False
    """Leave out the layers themselves."""
    sizes: tuple[str, ...] = ("256x256", "720x1280")
    """Pictures to restore, HEIGHTxWIDTH or HEIGHTxWIDTHxNUMBER, sides multiples of 4 and at least 8."""
    crops: tuple[str, ...] = ("256x256",)
    """Pictures to train on, which the gradients are measured with."""
    table: Annotated[Path | None, option("-o")] = None
    """File of the rows. If not given, the one that is looked up: $DEBLURGAN_TABLE, or one in the cache folder."""
    any_software: bool = False
    """Write rows that count whatever torch, Triton, cuDNN and kernels are used, as those that ship with the package."""
    json: Path | None = None
    """A file for every time that was measured."""
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget <= 0:
            raise ValueError(f"budget must be positive, got {self.budget}")
        if self.forward_only and self.gradients_only:
            raise ValueError("forward_only=True and gradients_only=True contradict each other")
        if self.gradients_only and self.dtype in ("int8", "fp8"):
            raise ValueError(f"dtype must be fp16 or bf16 with gradients_only=True, got {self.dtype}")
        for name in ("preset", "sizes", "crops"):
            if not getattr(self, name):
                raise ValueError(f"{name} must hold at least one, got none")
        for name in ("sizes", "crops"):
            for text in getattr(self, name):
                parsed_size(name, text)
