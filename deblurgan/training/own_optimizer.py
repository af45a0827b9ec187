"""An optimiser of one's own for the generator, behind what fused Adam offers a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
PREFIX = "own.generator."  # of its state's names
KINDS = {bool: torch.bool, int: torch.int64, float: torch.float64}  # of numbers, as tensors


class OwnOptimizer:
    """The optimiser that `factory` makes of `parameters`. Its learning rates are the highest: `set_share` scales them.

    Before a step `found_inf`, 1 where the update is to be left out, is looked at, which waits for the device; and
    gradients are divided by `grad_scale`, unless it is None.

    Raises ValueError where the factory gives no optimiser of exactly these parameters.
    """

    def __init__(self, factory: OptimizerFactory, parameters: list[nn.Parameter]) -> None:
        made = factory(list(parameters))
        if not isinstance(made, torch.optim.Optimizer):
            raise ValueError(f"optimizer must make a torch.optim.Optimizer, got {type(made).__name__}")
        taken = [p for group in made.param_groups for p in group["params"]]
        if {id(p) for p in taken} != {id(p) for p in parameters}:
            raise ValueError(f"optimizer must take all {len(parameters)} parameters it is given, took {len(taken)}")
        self.optimizer = made
        self.param_groups = [{"params": taken}]
        self.highest = [float(group["lr"]) for group in made.param_groups]
        self.found_inf: Tensor | None = None
        self.grad_scale: Tensor | None = None

    def set_share(self, share: float) -> None:
        """The learning rates as a share of their highest."""
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(highest * share)
            else:
                group["lr"] = highest * share

    def zero_grad(self) -> None:
        """Drops all gradients."""
        self.optimizer.zero_grad()

    def step(self) -> None:
        """Updates the parameters."""
        if self.found_inf is not None and bool(self.found_inf):
            return
        if self.grad_scale is not None:
            for p in self.param_groups[0]["params"]:
                if p.grad is not None:
                    p.grad.div_(self.grad_scale)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors and numbers that the optimiser holds, as tensors by name.

        Raises TypeError where it holds something else for a parameter.
        """
        found, state = self.optimizer.state_dict(), dict[str, Tensor]()
        for i, values in found["state"].items():
            for kind, value in values.items():
                if value is not None:
                    name = f"{PREFIX}{_form(kind, value)}.{i}.{kind}"
                    state[name] = _as_tensor(value)
        return state | self._group_state(found["param_groups"])

    def _group_state(self, groups: list[dict[str, Any]]) -> dict[str, Tensor]:
        """What may change of the groups in a training: their numbers but the learning rate, which is the schedule's."""
        return {
            f"{PREFIX}group.{i}.{kind}": _as_tensor(value)
            for i, group in enumerate(groups)
            for kind, value in group.items()
            if kind != "lr" and isinstance(value, Tensor | int | float) and not isinstance(value, bool)
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """What `state_dict` gave, among other names. Raises ValueError for that of another optimiser."""
        loaded, parameters = self.optimizer.state_dict(), self.param_groups[0]["params"]
        wanted = {name for name in state if name.startswith(f"{PREFIX}group.")}
        if wanted != self._group_state(loaded["param_groups"]).keys():
            raise ValueError(f"state must be of the same optimizer, got one with {', '.join(sorted(wanted)) or 'none'}")
        loaded["state"] = {}
        for name in (name for name in state if name.startswith(PREFIX)):
            form, index, kind = name.removeprefix(PREFIX).split(".", 2)
            i, value = int(index), state[name]
            if form == "group":
                group = loaded["param_groups"][i]
                group[kind] = value if isinstance(group[kind], Tensor) else value.item()
            elif i >= len(parameters):
                raise ValueError(f"state must be of {len(parameters)} parameters, got one more: {name}")
            else:
                held = value.item() if form == "number" else _laid_out(value, parameters[i])
                loaded["state"].setdefault(i, {})[kind] = held
        self.optimizer.load_state_dict(loaded)


def _form(kind: Any, value: Any) -> str:
    if not isinstance(kind, str) or not isinstance(value, Tensor | bool | int | float):
        raise TypeError(f"optimizer must hold tensors and numbers to be saved, got {kind!r}: {type(value).__name__}")
    return "tensor" if isinstance(value, Tensor) else "number"


def _as_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=KINDS[type(value)], device="cpu")


def _laid_out(value: Tensor, like: nn.Parameter) -> Tensor:
    """The value in the memory layout of its parameter, where it is of its shape."""
    if value.shape != like.shape:
        return value
    return torch.empty_like(like, dtype=value.dtype).copy_(value)
