"""CUDA graphs on a host without a GPU: a replay makes the call again in the memory that it was captured with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import lively
from deblurgan.generator import engine as engines
from deblurgan.generator import graphs
from deblurgan.generator.engine import Engine
from deblurgan.generator.graphs import CapturedCall
from deblurgan.kernels.config import ConvConfig, ConvShape
from deblurgan.nn import Generator


class CalledAgain(CapturedCall):
    def __init__(self, run: Callable[..., tuple[Tensor, ...]], image: Tensor, *args: Any, **options: Any) -> None:
        super().__init__(run, image, *args, **options)

        @torch.inference_mode()  # it writes into tensors of any mode, as a graph does
        def replay() -> None:
            torch._foreach_copy_(self.out, run(image, counter=self.counter))

        self.graph.replay = replay


def capture_on_the_host(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Engines capture such graphs from now on. The list that it returns gets the one that each lies beside."""
    found: list[Any] = []

    def captured(device: torch.device, beside: Any = None) -> nullcontext[Any]:
        found.append(beside)
        return nullcontext(SimpleNamespace())

    monkeypatch.setattr(graphs, "captured", captured)
    monkeypatch.setattr(engines, "CapturedCall", CalledAgain)
    return found


def replaying_engine(**options: int) -> Engine:
    torch.manual_seed(0)
    generator = lively(Generator("tiny", width=4, blocks=0, **options)).eval().requires_grad_(False)
    engine = Engine(generator.spec, generator.state_dict(), dtype=torch.float32, pick_config=head_alone)
    engine.replays = True
    return engine


def head_alone(shape: ConvShape) -> ConvConfig | None:
    return ConvConfig(64, 64, 64) if shape.kind == "head" else None


def picture(h: int, w: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    levels = torch.randint(0, 256, (1, 3, h, w), generator=torch.Generator().manual_seed(seed))
    return levels.to(dtype) if dtype == torch.uint8 else levels.to(dtype) / 127.5 - 1
