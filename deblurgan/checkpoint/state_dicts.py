"""The state dict of a generator, found among all that a file holds and freed from the names that wrappers add."""

from __future__ import annotations

import re
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from deblurgan.checkpoint.files import CheckpointError

# What torch.compile, FSDP and activation checkpointing put into names, anywhere; others put a prefix only
_WRAPPER = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_RELEASED = re.compile(r"(.*\.)?model\.\d+\.conv_block\.")
_OURS = re.compile(r"(.*\.)?(?:stem\.weight$|blocks\.\d+\.conv1\.)")
_AVERAGED = re.compile(r"(?<![a-z])(?:ema|swa)(?![a-z])|averag|avg|shadow", re.IGNORECASE)
_RUNNING = ("running_mean", "running_var", "num_batches_tracked")
_LEAST_ARTICLE = 8  # tensors: the article's network without blocks has as many


class StateDict(NamedTuple):
    """The tensors of one network in a file."""

    path: Path
    where: str
    """The dict of the file that holds them; "" is the file itself."""
    prefix: str
    """What all their names begin with there."""
    tensors: dict[str, Tensor]
    """By the rest of their names, in the file's order. Running statistics and counters are left out: no generator uses
    them."""

    def label(self) -> str:
        """Where they are in the file."""
        return ".".join(part for part in (self.where, self.prefix.rstrip(".")) if part) or "unnamed"

    def error(self, reason: str) -> CheckpointError:
        """An error of this file."""
        return CheckpointError(f"{self.path}: {reason}")

    def is_released(self) -> bool:
        """Whether they have names of the released network."""
        return any(_RELEASED.match(name) for name in self.tensors)

    def is_ours(self) -> bool:
        """Whether they have names of a deblurgan.Generator."""
        return any(_OURS.match(name) for name in self.tensors)

    def may_be_article(self) -> bool:
        """Whether they begin as the article's network does, whose names differ between copies of its code."""
        first = next(iter(self.tensors.values()))
        return len(self.tensors) >= _LEAST_ARTICLE and tuple(first.shape[1:]) == (3, 7, 7)


def find_generator(path: Path, content: Any) -> StateDict:
    """The state dict of the generator among the objects of a file, at whatever depth and under whatever prefix.

    Of several, it is the one that is named as a moving average (params_ema, ...), which a warning says. Raises
    CheckpointError where there are several all the same, or none.
    """
    found = [part for where, tensors in _dicts_of_tensors(content) for part in _networks(path, where, tensors)]
    if not found:
        raise CheckpointError(f"{path}: holds no state dict of tensors")
    generators = [one for one in found if one.is_released() or one.is_ours()]
    generators = generators or [one for one in found if one.may_be_article()]
    averaged = [one for one in generators if _AVERAGED.search(one.label())]
    chosen, *others = averaged or generators or [max(found, key=lambda one: len(one.tensors))]
    if others:
        labels = ", ".join(one.label() for one in (chosen, *others))
        raise CheckpointError(f"{path}: holds several generators, {labels}: the one that is meant needs its own file")
    if len(generators) > 1:
        warnings.warn(f"{path}: of {len(generators)} generators the average is taken, {chosen.label()}", stacklevel=5)
    return chosen


def _dicts_of_tensors(content: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """All dicts in the content, and in its lists, that hold tensors by name, each with where it is; the outer ones
    first."""
    pending, seen = deque([("", content)]), set[int]()
    while pending:
        where, found = pending.popleft()
        if not isinstance(found, dict | list | tuple) or id(found) in seen:
            continue
        seen.add(id(found))
        found = found if isinstance(found, dict) else dict(enumerate(found))
        tensors = {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)}
        if tensors:
            yield where, tensors
        pending.extend((f"{where}.{name}".lstrip("."), value) for name, value in found.items())


def _networks(path: Path, where: str, tensors: dict[str, Tensor]) -> Iterator[StateDict]:
    """The generators among the tensors, by the prefixes of their names; else all of them."""
    named = dict[str, Tensor]()
    for name, tensor in tensors.items():
        if name.rsplit(".", 1)[-1] in _RUNNING or (tensor.dim() == 0 and not tensor.is_floating_point()):
            continue
        if named.setdefault(_WRAPPER.sub("", name), tensor) is not tensor:
            raise CheckpointError(f"{path}: holds {name} beside the same name without its wrapper's")
    matches = [found for name in named if (found := _RELEASED.match(name) or _OURS.match(name))]
    for prefix in dict.fromkeys(found[1] or "" for found in matches) or {"": None}:
        rest = {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}
        if rest:
            yield StateDict(path, where, prefix, rest)
