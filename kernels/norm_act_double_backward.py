"""What the gradient penalty needs of norm_act besides its gradient: its derivative along a tangent, and the derivative
of its gradient by its input. See `ops.critic_gradients`.

norm_act here is act(xhat) with xhat = (y - mean) / std and act(v) = max(v, leak v), leak in (0, 1); s is 1 where
xhat > 0, else leak. J v = (v - mean(v) - xhat mean(xhat v)) / std is the norm's Jacobian, which is symmetric.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from deblurgan.kernels.config import NormActInputs, Reduced
from deblurgan.kernels.norm_act_grad import TILES


@triton.jit
def normalize(
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
    xhat, scale = normalize(y, stats + image * 2 * C, at, here, c, C)
    value = tl.load(t + at, mask=here, other=0.0).to(tl.float32)
    with_one = tl.load(sums + image * 2 * C + c, mask=c < C, other=0.0) / pixels
    with_xhat = tl.load(sums + image * 2 * C + C + c, mask=c < C, other=0.0) / pixels
    value = (value - with_one[None, :] - xhat * with_xhat[None, :]) * scale[None, :]
    value = tl.where(xhat > 0, value, value * LEAK)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=["pixels", "steps"])
def norm_act_double_backward_reduce_kernel(
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
    with_one = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    with_xhat = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    both = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for step in range(steps):
        p = (tl.program_id(0) * steps + step) * BLOCK_P + tl.arange(0, BLOCK_P)
        here = (p < pixels)[:, None] & (c < C)[None, :]
        at = (image * pixels + p)[:, None] * C + c[None, :]
        xhat, _ = normalize(y, stats + image * 2 * C, at, here, c, C)
        value = tl.load(v + at, mask=here, other=0.0).to(tl.float32)
        value = tl.where(xhat > 0, value, value * LEAK)
        with_one += value
        with_xhat += value * xhat
        other = tl.load(tangent + at, mask=here, other=0.0).to(tl.float32)
        other = tl.where(xhat > 0, other, other * (1 / LEAK))
        both += tl.load(signal + at, mask=here, other=0.0).to(tl.float32) * other
    to = partials + (image * tl.num_programs(0) + tl.program_id(0)) * 3 * C + c
    tl.store(to, tl.sum(with_one, 0), mask=c < C)
    tl.store(to + C, tl.sum(with_xhat, 0), mask=c < C)
    tl.store(to + 2 * C, tl.sum(both, 0), mask=c < C)


@triton.jit(do_not_specialize=["pixels"])
def norm_act_double_backward_kernel(
    v,  # [n, pixels, C], as all pictures here
    y,
    signal,
    tangent,
    stats,  # fp32 [n, 2, C]: mean, 1 / std
    signal_sums,  # fp32 [n, 2, C]
    tangent_sums,  # fp32 [n, 2, C]
    sums,  # fp32 [n, 3, C], of norm_act_double_backward_reduce_kernel
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
    xhat, scale = normalize(y, stats + image * 2 * C, at, here, c, C)
    a = tl.load(signal_sums + image * 2 * C + C + c, mask=c < C, other=0.0) / pixels
    m = tl.load(tangent_sums + image * 2 * C + C + c, mask=c < C, other=0.0) / pixels
    with_one = tl.load(sums + image * 3 * C + c, mask=c < C, other=0.0) / pixels
    with_xhat = tl.load(sums + image * 3 * C + C + c, mask=c < C, other=0.0) / pixels
    both = tl.load(sums + image * 3 * C + 2 * C + c, mask=c < C, other=0.0) / pixels
    k = both / tl.where(c < C, scale, 1.0) + a * m * eps * scale * scale * scale
    value = tl.load(v + at, mask=here, other=0.0).to(tl.float32)
    value = tl.where(xhat > 0, value, value * LEAK)
    value -= with_one[None, :] + xhat * (with_xhat + k)[None, :]
    value -= m[None, :] * tl.load(signal + at, mask=here, other=0.0).to(tl.float32)
    other = tl.load(tangent + at, mask=here, other=0.0).to(tl.float32)
    value -= a[None, :] * tl.where(xhat > 0, other, other * (1 / LEAK))
    tl.store(out + at, (value * scale[None, :]).to(out.dtype.element_ty), mask=here)


def launch_shape(inputs: NormActInputs) -> tuple[int, dict[str, Any]]:
    """Pixels of a program, and the constants of all three kernels."""
    _, h, w, c = inputs.y.shape
    block_c = triton.next_power_of_2(c)
    block_p = max(1, min(1024 // block_c, triton.next_power_of_2(h * w)))  # more would spill on sm_100
    return block_p, {"C": c, "LEAK": inputs.slope, "BLOCK_P": block_p, "BLOCK_C": block_c}


def norm_act_tangent(tangent: Tensor, inputs: NormActInputs, sums: Tensor, out: Tensor) -> None:
    """Fills out with the derivative of norm_act along `tangent`; both are contiguous [n, h, w, c], as inputs.y is.

    sums [n, 2, c] are those of tangent and tangent xhat, which `norm_act_reduce` takes with slope 1.
    """
    n, h, w, _ = inputs.y.shape
    block_p, shape = launch_shape(inputs)
    grid = triton.cdiv(h * w, block_p), n
    norm_act_tangent_kernel[grid](tangent, inputs.y, inputs.stats, sums, out, h * w, **shape, num_warps=4)


def norm_act_double_backward(
    v: Tensor, inputs: NormActInputs, *, signal: Reduced, tangent: Reduced, out: Tensor, eps: float
) -> None:
    """Fills out with the gradient by y of <v, norm_act(y)> + <e, D t>, D t the derivative of norm_act(y) along t.

    v is a gradient of norm_act's output; e, t and the kinks of D are held fixed. signal: the gradient by y of
    <e, norm_act(y)>, with the sums that `norm_act_reduce` took for it; tangent: D t, of `norm_act_tangent`, with the
    sums that it was given. All pictures are contiguous [n, h, w, c], eps is that of the statistics. `out` may be v.
    """
    n, h, w, c = inputs.y.shape
    block_p, shape = launch_shape(inputs)
    across = triton.cdiv(h * w, block_p)
    steps = triton.cdiv(across, TILES)
    tiles = triton.cdiv(across, steps)
    partials = torch.empty(n, tiles, 3, c, dtype=torch.float32, device=v.device)
    pictures = v, inputs.y, signal.picture, tangent.picture
    norm_act_double_backward_reduce_kernel[tiles, n](
        *pictures, inputs.stats, partials, h * w, steps, **shape, num_warps=4
    )
    sums = signal.sums, tangent.sums, partials.sum(1)
    norm_act_double_backward_kernel[across, n](*pictures, inputs.stats, *sums, out, h * w, eps, **shape, num_warps=4)
