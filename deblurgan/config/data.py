"""Options of `deblurgan data`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deblurgan.config import Layout, Positional, Preset
from deblurgan.config.values import Options


@dataclass(frozen=True)
class DataConfig(Options):
    """Check pictures before they are trained on: bad files, small and soft ones, copies, and the time of an epoch."""

    action: Positional[Literal["check"]]
    data: Positional[Path]
    """Pictures in any layout train takes."""
    layout: Layout = "auto"
    """How data is laid out; auto goes by the folders' names."""
    gamma: bool = False
    """Take GoPro's blur_gamma pictures rather than its blur."""
    crop: int = 256
    """Side in px of the crops to train on; smaller pictures are named."""
    preset: Preset = "paper"
    """What is to be trained, for the length of an epoch."""
    batch_size: int | None = None
    """Crops in a step, at least 1; the preset's if not given."""
    time: bool = False
    """Measure how long an epoch takes here, by some steps of training."""
    device: str = "auto"
    """Where it is trained: cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""
    json: Path | None = None
    """A file for what was found of every picture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop < 8 or self.crop % 4:
            raise ValueError(f"crop must be a multiple of 4 and at least 8, got {self.crop}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
