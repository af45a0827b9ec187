"""InstanceNorm, activation and mirrored border of training on a CPU, with their gradients, by csrc/.

Pictures [n, c, h, w] are fp32 or bf16; results are in channels_last and in the type of what they are made of.
Statistics are fp32. The number of threads does not change a bit.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from deblurgan.ops.native import _C, address
from deblurgan.ops.norm import SLOPES
from deblurgan.ops.strips import TYPES
from deblurgan.reference import SLOPE, Act

# More would wait for a core: torch's own threads spin for some milliseconds after each convolution
THREADS = 1


def takes(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether csrc/ takes pictures of this type there; torch.compile sees plain torch."""
    return device.type == "cpu" and dtype in TYPES and not torch.compiler.is_compiling()


def norm_act(x: Tensor, act: Act, residual: Tensor | None = None) -> Tensor:
    """`reference.norm_act`, differentiable once, by x and the residual."""
    return cast(Tensor, _NormAct.apply(x, residual, SLOPES[act]))


def reflect_pad(x: Tensor, border: int) -> Tensor:
    """`reference.pad` with the border "reflect", narrower than the sides of x; differentiable once."""
    return cast(Tensor, _ReflectPad.apply(x, border))


class NativeNormAct(NamedTuple):
    """`critic_gradients.NormAct` in csrc/."""

    y: Tensor  # what was normalised, contiguous [n, h, w, k]
    stats: Tensor  # fp32 [n, 2, k]: mean, 1 / deviation
    slope: float = SLOPE

    @staticmethod
    def make(z: Tensor, slope: float = SLOPE, residual: Tensor | None = None) -> tuple[Tensor, NativeNormAct]:
        """residual + leaky_relu(instance_norm(z)), and this of z."""
        norm = NativeNormAct(_rows(z), z.new_empty(z.shape[0], 2, z.shape[1], dtype=torch.float32), slope)
        out = torch.empty_like(norm.y)
        added = None if residual is None else _rows(residual)
        _C.norm_act(
            address(norm.y), address(added), address(out), address(norm.stats), *norm._type_and_sizes(), slope, THREADS
        )
        return _planes(out), norm

    def signal(self, v: Tensor) -> tuple[Tensor, Tensor]:
        return self._gradient(v, self.slope, 1.0)

    def tangent(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._gradient(t, 1.0, self.slope)

    def adjoint(self, v: Tensor, signal: Tensor, signal_sums: Tensor, tangent: Tensor, tangent_sums: Tensor) -> Tensor:
        out = torch.empty_like(self.y)
        v, signal, tangent = _rows(v), _rows(signal), _rows(tangent)
        _C.norm_act_second(
            address(v),
            address(self.y),
            address(signal),
            address(tangent),
            address(self.stats),
            address(signal_sums),
            address(tangent_sums),
            address(out),
            *self._type_and_sizes(),
            self.slope,
            THREADS,
        )
        return _planes(out)

    def first(self, n: int) -> NativeNormAct:
        return NativeNormAct(self.y[:n], self.stats[:n], self.slope)

    def _gradient(self, v: Tensor, slope_in: float, slope_out: float) -> tuple[Tensor, Tensor]:
        v, out, sums = _rows(v), torch.empty_like(self.y), torch.empty_like(self.stats)
        _C.norm_act_grad(
            address(v),
            address(self.y),
            address(self.stats),
            address(out),
            address(sums),
            *self._type_and_sizes(),
            slope_in,
            slope_out,
            THREADS,
        )
        return _planes(out), sums

    def _type_and_sizes(self) -> tuple[int, tuple[int, int, int]]:
        n, h, w, k = self.y.shape
        return TYPES[self.y.dtype], (n, h * w, k)


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, residual: Tensor | None, slope: float) -> Tensor:  # type: ignore[no-untyped-def]
        y, norm = NativeNormAct.make(x, slope, residual)
        ctx.save_for_backward(norm.y, norm.stats)
        ctx.slope = slope
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        y, stats = ctx.saved_tensors
        norm = NativeNormAct(y, stats, ctx.slope)
        by_x = norm.signal(grad)[0] if ctx.needs_input_grad[0] else None
        return by_x, grad if ctx.needs_input_grad[1] else None, None


class _ReflectPad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, border: int) -> Tensor:  # type: ignore[no-untyped-def]
        rows = _rows(x)
        n, h, w, c = ctx.shape = rows.shape
        ctx.border = border
        out = rows.new_empty(n, h + 2 * border, w + 2 * border, c)
        _C.reflect_pad(address(rows), address(out), TYPES[x.dtype], n, h, w, c, border, False, THREADS)
        return _planes(out)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        rows, (n, h, w, c) = _rows(grad), ctx.shape
        out = rows.new_empty(n, h, w, c)
        _C.reflect_pad(address(rows), address(out), TYPES[grad.dtype], n, h, w, c, ctx.border, True, THREADS)
        return _planes(out), None


def _rows(x: Tensor) -> Tensor:
    """[n, k, h, w] -> [n, h, w, k], contiguous; without a copy where x is in channels_last."""
    return x.permute(0, 2, 3, 1).contiguous()


def _planes(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)
