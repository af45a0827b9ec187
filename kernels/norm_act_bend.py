"""What the gradient penalty needs of norm_act beside its gradient: its derivative along a tangent, and how its gradient
bends, that is how it changes with what norm_act read. See `deblurgan.ops.critic_gradients`.

norm_act here is act(xhat) with xhat = (y - mean) / std and act(v) = max(v, leak v), leak in (0, 1); s is 1 where
xhat > 0, else leak. J v = (v - mean(v) - xhat mean(xhat v)) / std is the norm's Jacobian, which is symmetric.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from deblurgan.kernels.norm_act_grad import TILES


@triton.jit
def normalised(
    y,  # this picture
    stats,  # fp32 [2, C]: mean, 1 / std
    at,  # [BLOCK_P, BLOCK_C], of pixels and channels
    here,
    c,
    C: tl.constexpr,
):
    """xhat at some pixels, and 1 / std of their channels."""
    mean = tl.load(stats + c, mask=c < C, other=0.0)
    scale = tl.load(stats + C + c, mask=c < C, other=0.0)
    raw = tl.load(y + at, mask=here, other=0.0).to(tl.float32)
    xhat = tl.where(here, (raw - mean[None, :]) * scale[None, :], 0.0)
    return xhat, scale


@triton.jit(do_not_specialize=["pixels"])
def norm_act_tangent_kernel(
    t,  # [n, pixels, C], as all pictures here
    y,
    stats,  # fp32 [n, 2, C]: mean, 1 / std
    sums,  # fp32 [n, 2, C]: of t and t xhat
    out,
    pixels,
    C: tl.constexpr,
    LEAK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out = s J t."""
    image = tl.program_id(1).to(tl.int64)
    p, c = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_C)
    here = (p < pixels)[:, None] & (c < C)[None, :]
    at = (image * pixels + p)[:, None] * C + c[None, :]
    xhat, scale = normalised(y, stats + image * 2 * C, at, here, c, C)
    value = tl.load(t + at, mask=here, other=0.0).to(tl.float32)
    plain = tl.load(sums + image * 2 * C + c, mask=c < C, other=0.0) / pixels
    along = tl.load(sums + image * 2 * C + C + c, mask=c < C, other=0.0) / pixels
    value = (value - plain[None, :] - xhat * along[None, :]) * scale[None, :]
    value = tl.where(xhat > 0, value, value * LEAK)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=["pixels", "steps"])
def norm_act_bend_reduce_kernel(
    v,  # [n, pixels, C], as all pictures here
    y,
    signal,
    tangent,
    stats,  # fp32 [n, 2, C]: mean, 1 / std
    partials,  # fp32 [n, tiles, 3, C]
    pixels,
    steps,  # blocks of pixels that a program walks over
    C: tl.constexpr,
    LEAK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """partials: sum s v, sum s v xhat and sum signal tangent / s of each tile."""
    image = tl.program_id(1).to(tl.int64)
    c = tl.arange(0, BLOCK_C)
    plain = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    along = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    both = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for step in range(steps):
        p = (tl.program_id(0) * steps + step) * BLOCK_P + tl.arange(0, BLOCK_P)
        here = (p < pixels)[:, None] & (c < C)[None, :]
        at = (image * pixels + p)[:, None] * C + c[None, :]
        xhat, _ = normalised(y, stats + image * 2 * C, at, here, c, C)
        value = tl.load(v + at, mask=here, other=0.0).to(tl.float32)
        value = tl.where(xhat > 0, value, value * LEAK)
        plain += value
        along += value * xhat
        other = tl.load(tangent + at, mask=here, other=0.0).to(tl.float32)
        other = tl.where(xhat > 0, other, other * (1 / LEAK))
        both += tl.load(signal + at, mask=here, other=0.0).to(tl.float32) * other
    to = partials + (image * tl.num_programs(0) + tl.program_id(0)) * 3 * C + c
    tl.store(to, tl.sum(plain, 0), mask=c < C)
    tl.store(to + C, tl.sum(along, 0), mask=c < C)
    tl.store(to + 2 * C, tl.sum(both, 0), mask=c < C)


@triton.jit(do_not_specialize=["pixels"])
def norm_act_bend_kernel(
    v,  # [n, pixels, C], as all pictures here
    y,
    signal,
    tangent,
    stats,  # fp32 [n, 2, C]: mean, 1 / std
    signal_sums,  # fp32 [n, 2, C]
    tangent_sums,  # fp32 [n, 2, C]
    sums,  # fp32 [n, 3, C], of norm_act_bend_reduce_kernel
    out,
    pixels,
    eps,
    C: tl.constexpr,
    LEAK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out = J s v - (m signal + a tangent / s + k xhat) / std,   k = mean(signal tangent / s) std + a m eps / std^3."""
    image = tl.program_id(1).to(tl.int64)
    p, c = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_C)
    here = (p < pixels)[:, None] & (c < C)[None, :]
    at = (image * pixels + p)[:, None] * C + c[None, :]
    xhat, scale = normalised(y, stats + image * 2 * C, at, here, c, C)
    a = tl.load(signal_sums + image * 2 * C + C + c, mask=c < C, other=0.0) / pixels
    m = tl.load(tangent_sums + image * 2 * C + C + c, mask=c < C, other=0.0) / pixels
    plain = tl.load(sums + image * 3 * C + c, mask=c < C, other=0.0) / pixels
    along = tl.load(sums + image * 3 * C + C + c, mask=c < C, other=0.0) / pixels
    both = tl.load(sums + image * 3 * C + 2 * C + c, mask=c < C, other=0.0) / pixels
    k = both / tl.where(c < C, scale, 1.0) + a * m * eps * scale * scale * scale
    value = tl.load(v + at, mask=here, other=0.0).to(tl.float32)
    value = tl.where(xhat > 0, value, value * LEAK)
    value -= plain[None, :] + xhat * (along + k)[None, :]
    value -= m[None, :] * tl.load(signal + at, mask=here, other=0.0).to(tl.float32)
    other = tl.load(tangent + at, mask=here, other=0.0).to(tl.float32)
    value -= a[None, :] * tl.where(xhat > 0, other, other * (1 / LEAK))
    tl.store(out + at, (value * scale[None, :]).to(out.dtype.element_ty), mask=here)


def blocks(pixels: int, c: int, leak: float) -> tuple[int, dict[str, Any]]:
    """Pixels of a program, and the constants of all three kernels."""
    block_c = triton.next_power_of_2(c)
    block_p = max(1, min(1024 // block_c, triton.next_power_of_2(pixels)))  # more would spill on sm_100
    return block_p, {"C": c, "LEAK": leak, "BLOCK_P": block_p, "BLOCK_C": block_c}


def norm_act_tangent(t: Tensor, y: Tensor, stats: Tensor, sums: Tensor, out: Tensor, *, leak: float) -> None:
    """Fills out with the derivative of norm_act(y) along t; all three contiguous [n, h, w, c].

    stats [n, 2, c] are norm_act's; sums [n, 2, c] those of t and t xhat, of `norm_act_reduce` with relu=False.
    """
    n, h, w, c = y.shape
    block_p, shape = blocks(h * w, c, leak)
    norm_act_tangent_kernel[triton.cdiv(h * w, block_p), n](t, y, stats, sums, out, h * w, **shape, num_warps=4)


def norm_act_bend(
    v: Tensor,
    y: Tensor,
    stats: Tensor,
    *,
    signal: Tensor,
    signal_sums: Tensor,
    tangent: Tensor,
    tangent_sums: Tensor,
    out: Tensor,
    leak: float,
    eps: float,
) -> None:
    """Fills out with the gradient by y of <v, norm_act(y)> + <e, D t>, D t the derivative of norm_act(y) along t.

    e, t and D's kinks are held fixed. v is a gradient of norm_act's result. signal: the gradient by y of
    <e, norm_act(y)>, with the sums that `norm_act_reduce` took for it; tangent: D t, of `norm_act_tangent`, with the
    sums that it was given. All pictures are contiguous [n, h, w, c], stats and eps those of norm_act. `out` may be v.
    """
    n, h, w, c = y.shape
    block_p, shape = blocks(h * w, c, leak)
    across = triton.cdiv(h * w, block_p)
    steps = triton.cdiv(across, TILES)
    tiles = triton.cdiv(across, steps)
    partials = torch.empty(n, tiles, 3, c, device=y.device)
    pictures = v, y, signal, tangent
    norm_act_bend_reduce_kernel[tiles, n](*pictures, stats, partials, h * w, steps, **shape, num_warps=4)
    sums = partials.sum(1)
    norm_act_bend_kernel[across, n](
        *pictures, stats, signal_sums, tangent_sums, sums, out, h * w, eps, **shape, num_warps=4
    )
