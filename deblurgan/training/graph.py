"""A step captured as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from deblurgan.generator.graphs import captured, replay


class CapturedStep:
    """The launches of `run(blurred, sharp)`, recorded once, and repeated on other pictures of the same shape."""

    def __init__(self, run: Callable[[Tensor, Tensor], Tensor], blurred: Tensor, sharp: Tensor) -> None:
        self.blurred, self.sharp = blurred.clone(), sharp.clone()
        with captured(blurred.device) as self.graph:
            self.values = run(self.blurred, self.sharp)

    def __call__(self, blurred: Tensor, sharp: Tensor) -> Tensor:
        """What `run` would return."""
        self.blurred.copy_(blurred)
        self.sharp.copy_(sharp)
        replay(self.graph)
        return self.values.clone()
