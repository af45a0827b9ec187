"""Muon: momentum whose matrix is made orthogonal, for weights whose length has no effect.

A convolution before an InstanceNorm gives the same for c W as for W, so only the direction of an update and its size
beside the weight matter. Muon's updates have singular values near 1 whatever the gradient's are.

Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; torch.optim.Muon, which takes matrices alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the odd quintic that takes singular values in (0, 1] near 1
ITERATIONS = 5
TINY = 1e-7  # length below which a matrix counts as nothing


class Muon(torch.optim.Optimizer):
    """W <- W - lr sqrt(max(1, rows / columns)) orthogonal(N), with B <- 0.95 B + 0.05 G and N = 0.05 G + 0.95 B.

    A weight [a, b, k, k] counts as the matrix [a, b k k]: of a convolution [out, in, k, k] the map from a patch to a
    pixel, of a transposed one [in, out, k, k] the (transposed) map from a pixel to a patch.

    `lr` is a tensor on the weights' device, and nothing here looks at a value there. Like fused Adam it reads two
    attributes: where `found_inf` is 1 the update is left out, and gradients are divided by `grad_scale`. Products are
    computed in `dtype`, sums of gradients in that of the weights.
    """

    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    def __init__(self, weights: Iterable[nn.Parameter], lr: Tensor, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(weights, {"lr": lr})
        self.dtype = dtype
        for weight in self.param_groups[0]["params"]:
            if weight.dim() < 2:
                raise ValueError(f"weights must have two dimensions or more, got {tuple(weight.shape)}")

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of all weights that have a gradient, those of one shape at a time."""
        weights = [weight for weight in self.param_groups[0]["params"] if weight.grad is not None]
        for _, alike in groupby(sorted(weights, key=_shape), key=_shape):
            self._update(list(alike))

    def _update(self, weights: list[nn.Parameter]) -> None:
        lr: Tensor = self.param_groups[0]["lr"]
        taken = 1 - self.found_inf if self.found_inf is not None else torch.ones_like(lr)
        gradient = torch.stack([weight.grad.flatten(1) for weight in weights if weight.grad is not None])
        if self.grad_scale is not None:
            gradient = gradient / self.grad_scale
        gradient = gradient.masked_fill(taken == 0, 0)
        momenta = [self._momentum(weight) for weight in weights]
        momentum = torch.stack([part.flatten(1) for part in momenta])
        momentum.lerp_(gradient, (1 - MOMENTUM) * taken)
        update = orthogonal(gradient.lerp(momentum, MOMENTUM), self.dtype)
        rows, columns = update.shape[1:]
        update = update * (lr * taken * math.sqrt(max(1, rows / columns)))
        for weight, buffer, new, change in zip(weights, momenta, momentum, update, strict=True):
            buffer.copy_(new.view(weight.shape))
            weight.sub_(change.view(weight.shape))

    def _momentum(self, weight: nn.Parameter) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]


def orthogonal(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[n, rows, columns] -> the same with singular values near 1 (0.7 to 1.2), in fp32; zeros stay zeros.

    Five Newton-Schulz steps X <- a X + (b A + c A A) X with A = X X', from X of length 1, computed in `dtype`.
    """
    a, b, c = COEFFICIENTS
    x = (matrices / torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True).clamp(min=TINY)).to(dtype)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


def _shape(weight: Tensor) -> tuple[int, ...]:
    return tuple(weight.shape)
