"""Gradients of the operators: by our kernels, or by the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor

from deblurgan.ops.common import runs_kernels


def differentiable(
    name: str,
    definition: Callable[..., Tensor],
    by_kernels: Callable[..., list[Tensor | None]],
    tensors: int,
    *,
    residual: int | None = None,
    runs: Callable[..., bool] = lambda x, *_: runs_kernels(x),
) -> None:
    """Gives the operator of this name its gradient by its first `tensors` arguments, recomputed from its inputs.

    Where the kernels run, which `runs` tells from those arguments, `by_kernels(wanted, grad, *arguments)` makes it;
    `wanted` has a flag for each tensor, grad is the gradient of the output. Elsewhere, and where the gradient is
    differentiated again, it is that of `definition`. Argument number `residual` is added to the output, so it is not
    saved: both functions get None for it.
    """

    def setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*(None if i == residual else t for i, t in enumerate(inputs[:tensors])))
        ctx.rest = inputs[tensors:]

    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        create_graph, saved = torch.is_grad_enabled(), ctx.saved_tensors
        needed = [*ctx.needs_input_grad, *[False] * tensors][:tensors]  # arguments left out are not in it
        wanted = [need and i != residual for i, need in enumerate(needed)]
        found: list[Tensor | None] = [None] * tensors
        if any(wanted) and not create_graph and runs(*saved):
            found = by_kernels(wanted, grad, *saved, *ctx.rest)
        elif any(wanted):
            inputs = [t if t is None or create_graph else t.detach().requires_grad_() for t in saved]
            with torch.enable_grad():
                y = definition(*inputs, *ctx.rest)
            sources = [cast(Tensor, t) for t, want in zip(inputs, wanted, strict=True) if want]
            found = spread(wanted, torch.autograd.grad(y, sources, grad, create_graph=create_graph))
        if residual is not None and needed[residual]:
            found[residual] = grad
        return *found, *[None] * len(ctx.rest)

    torch.library.register_autograd(f"deblurgan::{name}", backward, setup_context=setup)


def spread(wanted: Sequence[bool], found: Iterable[Tensor]) -> list[Tensor | None]:
    """Each of `found` where it was wanted, None elsewhere."""
    given = iter(found)
    return [next(given) if want else None for want in wanted]


def empty_gradients(wanted: Sequence[bool], x: Tensor, *others: Tensor) -> list[Tensor]:
    """Memory for the gradients that are wanted: x's in channels_last, the others' laid out as those are."""
    by_x = [torch.empty_like(x, memory_format=torch.channels_last)] if wanted[0] else []
    return by_x + [torch.empty_like(other) for other, want in zip(others, wanted[1:], strict=True) if want]
