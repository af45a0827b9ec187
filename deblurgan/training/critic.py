"""The critic's losses with their gradients: in one pass of our own, or by autograd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from deblurgan import losses, ops
from deblurgan.config import Gan, TrainConfig
from deblurgan.device import compile_options
from deblurgan.nn import Critic
from deblurgan.ops import critic_gradients
from deblurgan.training.numerics import HALF, autocast
from deblurgan.training.optimizers import Optimizers


class CriticGradients:
    """The critic's losses on sharp and restored pictures, and the gradients of their sum.

    WGAN-GP's come in one fused pass, without double backward, wherever `uses_fused_pass` says so.
    """

    def __init__(self, config: TrainConfig, critic: Critic, optimizers: Optimizers, precision: str) -> None:
        self.config, self.critic, self.optimizers, self.precision = config, critic, optimizers, precision
        self.device = next(critic.parameters()).device
        # On CUDA our kernels do what torch.compile would fuse
        compiled = config.compile and self.device.type != "cuda"
        fused = critic_gradients.critic_gradients
        self.fused = torch.compile(fused, options=compile_options(self.device)) if compiled else fused

    @contextmanager
    def trained(self) -> Iterator[None]:
        """Within it the critic's trained parameters require gradients; afterwards none does."""
        parameters = self.optimizers.parameters("critic")
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)

    def __call__(self, sharp: Tensor, restored: Tensor, counter: Tensor) -> dict[str, Tensor]:
        """The losses by name; the gradients of their sum are added to those of the critic's parameters.

        Pictures are fp32 [n, 3, h, w] in [-1, 1]. `counter`, int64 [2], is the seed and the first index of the
        penalty's random numbers.
        """
        if self.config.gan != "wgan-gp":
            return self._by_autograd(sharp, restored, None)
        n = sharp.shape[0] if self.config.gp_norm == "sample" else 1
        alpha = ops.uniforms(n, counter=counter)[:, :1, None, None]
        if self.uses_fused_pass():
            return self._in_one_pass(sharp, restored, alpha)
        return self._by_autograd(sharp, restored, alpha)

    def uses_fused_pass(self) -> bool:
        """Whether WGAN-GP's gradients come in one pass.

        That pass has no loss scale, which fp16 needs, and knows nothing of hooks or of a critic that was changed.
        """
        parameters = self.critic.parameters()
        hooked = any(p._backward_hooks or p._post_accumulate_grad_hooks for p in parameters)
        possible = self.config.backend == "auto" and self.optimizers.scale is None
        return possible and losses.is_plain(self.critic) and not hooked

    def _in_one_pass(self, sharp: Tensor, restored: Tensor, alpha: Tensor) -> dict[str, Tensor]:
        convs, config = losses.convolutions(self.critic), self.config
        weights, bias = [conv.weight for conv in convs], cast(Tensor, convs[0].bias)
        loss, penalty, of_weights, of_bias = self.fused(
            weights,
            bias,
            sharp,
            restored,
            alpha * sharp + (1 - alpha) * restored,
            padding=cast(int, convs[0].padding[0]),
            norm=config.gp_norm,
            weight=config.gp_weight,
            dtype=HALF.get(self.precision),
        )
        for parameter, gradient in zip((*weights, bias), (*of_weights, of_bias), strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return {"critic": loss, "penalty": penalty}

    def _by_autograd(self, sharp: Tensor, restored: Tensor, alpha: Tensor | None) -> dict[str, Tensor]:
        with autocast(self.device, self.precision):
            scores = self.critic(torch.cat([sharp, restored])).float().chunk(2)
        terms = {"critic": losses.critic_loss(*scores, gan=cast(Gan, self.config.gan))}
        if alpha is not None:
            terms["penalty"] = self.penalty(sharp, restored, alpha)
        self.optimizers.backward(terms.values())
        return terms

    def penalty(self, sharp: Tensor, restored: Tensor, alpha: Tensor) -> Tensor:
        """The gradient penalty at alpha * sharp + (1 - alpha) * restored, alpha [n, 1, 1, 1].

        With backend "reference" it is computed in fp32, by double backward.
        """
        options: dict[str, Any] = {"weight": self.config.gp_weight, "norm": self.config.gp_norm, "alpha": alpha}
        if self.config.backend == "reference":
            return losses.gradient_penalty(self.critic, sharp, restored, form="double", **options)
        with autocast(self.device, self.precision):
            return losses.gradient_penalty(self.critic, sharp, restored, **options)
