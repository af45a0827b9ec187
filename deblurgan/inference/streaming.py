"""A picture restored in strips by its plan, and what is done when memory runs out all the same."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from deblurgan.generator.kernel_strips import KernelOps
from deblurgan.generator.strips import Plane, StripOps, Strips
from deblurgan.generator.torch_strips import TorchOps
from deblurgan.inference.planes import PLANES, PlaneMemoryError
from deblurgan.inference.plans import Limits, StripPlan
from deblurgan.nn import Generator

# In the messages of torch and of the libraries that it uses, where memory runs out
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc", "could not create a ")


@contextmanager
def strip_ops(generator: Generator) -> Iterator[StripOps]:
    """The arithmetic for a generator's pictures in strips; that of our kernels is a turn of the engine."""
    if generator.why_reference(next(generator.parameters())) is not None:
        yield TorchOps(generator.state_dict())
        return
    engine = generator.packed_engine()
    with engine.turn():
        yield KernelOps(engine)


def restore_in_strips(
    plan: StripPlan,
    again: Callable[[Limits], StripPlan],
    limits: Limits,
    run: Callable[[StripPlan], None],
) -> None:
    """Restores a picture by `run`. Where memory runs out it starts again, by the plan `again` of narrower limits:
    planes are overwritten in place, so that no strip can be repeated.

    Raises MemoryError where there is no narrower plan, FloatingPointError where values are not finite.
    """
    warned = False
    while True:
        try:
            return run(plan)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            limits = narrower(limits, plan, error)
        if not warned:
            warnings.warn("memory ran out: a picture starts again, in smaller parts", stacklevel=2)
            warned = True
        plan = again(limits)


def run(
    plan: StripPlan,
    *,
    ops: StripOps,
    pixels: Callable[[int, int], Tensor],
    put: Callable[[int, Tensor], None],
    done: Callable[[float], object],
) -> None:
    """Restores a picture, see `Strips`."""
    places = enumerate(plan.places)

    def allocate(h: int, w: int, c: int) -> Plane:
        number, place = next(places)
        try:
            return PLANES[place]((h, w, c), ops.dtype, ops.device)
        except Exception as error:
            if is_out_of_memory(error):
                raise PlaneMemoryError(number) from error
            raise

    Strips(plan.shape, ops, pixels=pixels, put=put, allocate=allocate, done=done).run()


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, which each library says in its own way."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def narrower(limits: Limits, plan: StripPlan, error: Exception) -> Limits:
    """The limits for the next try, after memory ran out in this one. Raises MemoryError where there are none."""
    if isinstance(error, PlaneMemoryError):
        place, first = plan.places[error.number], plan.shape.planes[error.number].first
        cap = plan.held(place, first) - 1
        return replace(limits, host=cap) if place == "host" else replace(limits, planes=cap)
    if plan.shape.rows > plan.shape.spec.size_multiple:
        return replace(limits, rows=plan.shape.rows // 2)
    if plan.most("device"):
        return replace(limits, planes=plan.most("device") - 1)
    raise MemoryError(f"memory ran out in the smallest strips, of {plan.shape.rows} rows") from error
