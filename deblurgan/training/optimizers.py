"""Updates: Adam and Muon, their learning rates, fp16's loss scale, and the state that a resumed run needs.

Nothing here looks at a value on the device: an update whose gradients are not finite is left out by the optimisers
themselves, which read a flag there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from deblurgan.config import TrainConfig
from deblurgan.nn import Critic, Generator
from deblurgan.training.muon import Muon
from deblurgan.training.networks import Networks, parameters_that_matter
from deblurgan.training.numerics import HALF, require_repeatable_cublas
from deblurgan.training.own_optimizer import OptimizerFactory, OwnOptimizer

FIRST_SCALE, SCALE_GROWTH_EVERY = 2.0**16, 2000


class LossScale:
    """The factor of fp16's losses: halved when gradients overflow, doubled after SCALE_GROWTH_EVERY good updates."""

    def __init__(self, device: torch.device) -> None:
        self.value = torch.tensor(FIRST_SCALE, dtype=torch.float32, device=device)
        self.age = torch.zeros((), dtype=torch.int32, device=device)  # good updates since it changed

    def update(self, overflow: Tensor) -> None:
        """Adapts it after an update; `overflow` is 1 where its gradients were not finite, else 0."""
        torch._amp_update_scale_(self.value, self.age, overflow, 2.0, 0.5, SCALE_GROWTH_EVERY)

    def state_dict(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {"scale.value": self.value, "scale.age": self.age}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """What `state_dict` gave."""
        self.value.copy_(state["scale.value"])
        self.age.copy_(state["scale.age"])


class Optimizers:
    """The optimisers of a training, by the names under which their state is saved: "adam.generator", ...

    Adam trains every parameter that matters but those that config.optimizer "muon" leaves to Muon: the weights of the
    generator's convolutions between stem and head. Parameters that do not matter get no gradient. With `factory` the
    optimiser that it makes trains the generator instead.
    """

    def __init__(
        self, config: TrainConfig, networks: Networks, precision: str, factory: OptimizerFactory | None = None
    ) -> None:
        self.config, device = config, networks.device
        self.rate, self.muon_rate = (
            torch.tensor(rate, dtype=torch.float32, device=device) for rate in (config.lr, config.muon_lr)
        )
        self.scale = LossScale(device) if precision == "fp16" else None
        self.by_name: dict[str, torch.optim.Optimizer] = {}
        inner = networks.generator.inner_weights() if config.optimizer == "muon" else []
        self.own: OwnOptimizer | None = None
        if factory is None:
            self.by_name["adam.generator"] = self._new_adam(networks.generator, inner)
        else:
            self.own = OwnOptimizer(factory, self._trained(networks.generator))
        if networks.critic is not None:
            self.by_name["adam.critic"] = self._new_adam(networks.critic, [])
        if inner:
            self.by_name["muon.generator"] = self._new_muon(inner, precision)

    def _trained(self, net: Generator | Critic) -> list[nn.Parameter]:
        trained = parameters_that_matter(net, self.config)
        net.requires_grad_(False)  # the other parameters' gradients would be rounding
        for parameter in trained:
            parameter.requires_grad_()
        return trained

    def _new_adam(self, net: Generator | Critic, left_out: list[nn.Parameter]) -> torch.optim.Adam:
        own = [p for p in self._trained(net) if not any(p is other for other in left_out)]
        capturable = self.rate.is_cuda
        return torch.optim.Adam(own, lr=self.rate, betas=self.config.betas, fused=True, capturable=capturable)

    def _new_muon(self, weights: list[nn.Parameter], precision: str) -> Muon:
        if self.config.deterministic and self.rate.is_cuda:
            require_repeatable_cublas()
        return Muon(weights, self.muon_rate, dtype=HALF.get(precision, torch.float32))

    def of(self, network: str) -> list[torch.optim.Optimizer | OwnOptimizer]:
        """The optimisers of "generator" or "critic"."""
        ours = [optimizer for name, optimizer in self.by_name.items() if name.endswith(f".{network}")]
        return [*ours, self.own] if self.own is not None and network == "generator" else [*ours]

    def parameters(self, network: str) -> list[nn.Parameter]:
        """All parameters that are trained of "generator" or "critic"."""
        return [p for optimizer in self.of(network) for p in optimizer.param_groups[0]["params"]]

    def set_rate(self, rate: float) -> None:
        """Adam's learning rate; Muon's keeps its ratio to it."""
        self.rate.fill_(rate)
        self.muon_rate.fill_(rate * self.config.muon_lr / self.config.lr)
        if self.own is not None:
            self.own.set_share(rate / self.config.lr)

    def zero_grad(self, network: str) -> None:
        """Drops the gradients of "generator" or "critic"."""
        for optimizer in self.of(network):
            optimizer.zero_grad()

    def gradients(self, network: str) -> list[Tensor]:
        """Those that the parameters of "generator" or "critic" have."""
        return [p.grad for p in self.parameters(network) if p.grad is not None]

    def backward(self, terms: Iterable[Tensor]) -> None:
        """Adds the gradients of the terms' sum, times the loss scale, to those of the parameters that it comes from."""
        loss = sum(terms, start=self.rate.new_zeros(()))
        (loss if self.scale is None else loss * self.scale.value).backward()

    def update(self, network: str, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Updates the network, unless `skip` is 1 or a gradient is not finite.

        Returns 1 in those cases, else 0; and the L2 norm of all gradients.
        """
        norm = torch.nn.utils.get_total_norm(self.gradients(network))
        if self.scale is not None:
            norm = norm / self.scale.value
        overflow = (~norm.isfinite()).to(torch.float32)
        skip = torch.maximum(skip, overflow)
        for optimizer in cast(list[Any], self.of(network)):
            optimizer.found_inf = skip  # read on the device by fused Adam and by Muon
            optimizer.grad_scale = None if self.scale is None else self.scale.value
            optimizer.step()
        if self.scale is not None:
            self.scale.update(overflow)
        return skip, norm

    def state_dict(self) -> dict[str, Tensor]:
        """The optimisers' moments and fp16's loss scale, as tensors by name."""
        state = {
            f"{name}.{i}.{kind}": value
            for name, optimizer in self.by_name.items()
            for i, parameter in enumerate(optimizer.param_groups[0]["params"])
            for kind, value in optimizer.state[parameter].items()
        }
        state |= {} if self.own is None else self.own.state_dict()
        return state | ({} if self.scale is None else self.scale.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """What `state_dict` gave. Raises ValueError for the state of another network."""
        for name, optimizer in self.by_name.items():
            rate = optimizer.param_groups[0]["lr"]
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": _moments(name, optimizer, state), "param_groups": groups})
            optimizer.param_groups[0]["lr"] = rate  # torch has replaced the tensor by a copy
        if self.own is not None:
            self.own.load_state_dict(state)
        if self.scale is not None:
            self.scale.load_state_dict(state)


def _moments(name: str, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The part of a state that is this optimiser's, by parameter and kind."""
    parameters, moments = optimizer.param_groups[0]["params"], dict[int, dict[str, Tensor]]()
    for key, value in part_of(state, f"{name}.").items():
        i, kind = key.split(".")
        if int(i) >= len(parameters):
            raise ValueError(f"state must be of as many {name} parameters, got one more: {key}")
        like = parameters[int(i)]
        if value.shape == like.shape:  # fused Adam wants moments in the memory layout of the weights
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        moments.setdefault(int(i), {})[kind] = value
    return moments


def part_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, under the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
