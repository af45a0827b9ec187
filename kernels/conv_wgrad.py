"""The gradient of a convolution's weight: products of its input with the gradient of its output.

The sum runs over all pixels of all pictures. It is split, so that every SM has a share (split-K): each program writes
its part of one tile of the gradient, and the caller adds the parts in order. No atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from deblurgan.kernels.config import ConvConfig

ELSEWHERE = 132  # SMs, where there is no GPU


@triton.jit
def store_part(
    acc,  # fp32 [BLOCK_M, BLOCK_N]
    partials,  # fp32 [splits, COUT, TAPS * C]
    k,  # [BLOCK_M]
    tap,
    c,  # [BLOCK_N]
    C: tl.constexpr,
    COUT: tl.constexpr,
    TAPS: tl.constexpr,
):
    to = partials + tl.program_id(1).to(tl.int64) * (COUT * TAPS * C) + tap * C
    tl.store(to + (k[:, None] * (TAPS * C) + c[None, :]), acc, mask=(k < COUT)[:, None] & (c < C)[None, :])


@triton.jit(do_not_specialize=["h", "w", "total", "steps", "x_image", "x_row"])
def conv_wgrad_kernel(
    x,  # the pixel that tap (0, 0) of output pixel (0, 0) reads
    dy,  # pixel (0, 0)
    partials,
    h,
    w,  # of dy
    total,  # steps of BLOCK_K pixels of one row, through all pictures
    steps,  # of them, for each program
    x_image,  # in pixels
    x_row,
    y_image,
    y_row,
    y_pixel,
    X_PIXEL: tl.constexpr,
    C: tl.constexpr,
    COUT: tl.constexpr,
    TAPS_Y: tl.constexpr,
    TAPS_X: tl.constexpr,
    STRIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dw[k, i, j, c] = sum over y, x of dy[y, x, k] x[y STRIDE + i, x STRIDE + j, c], any kernel and stride."""
    ACROSS: tl.constexpr = (C + BLOCK_N - 1) // BLOCK_N
    TAPS: tl.constexpr = TAPS_Y * TAPS_X
    c = (tl.program_id(0) % ACROSS) * BLOCK_N + tl.arange(0, BLOCK_N)
    tap = (tl.program_id(0) // ACROSS) % TAPS
    k = (tl.program_id(0) // (ACROSS * TAPS)) * BLOCK_M + tl.arange(0, BLOCK_M)
    x += ((tap // TAPS_X) * x_row + tap % TAPS_X) * X_PIXEL
    across = (w + BLOCK_K - 1) // BLOCK_K
    p = tl.arange(0, BLOCK_K)
    a_ahead = p[:, None] * y_pixel + k[None, :]  # [BLOCK_K, BLOCK_M]
    b_ahead = p[:, None] * (STRIDE * X_PIXEL) + c[None, :]  # [BLOCK_K, BLOCK_N]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(steps):
        s = tl.program_id(1) * steps + step
        line, ox = s // across, (s % across).to(tl.int64) * BLOCK_K
        image, oy = (line // h).to(tl.int64), (line % h).to(tl.int64)
        inside = ((ox + p < w) & (s < total))[:, None]
        a_at = dy + (image * y_image + oy * y_row + ox * y_pixel) + a_ahead
        b_at = x + (image * x_image + oy * STRIDE * x_row + ox * STRIDE) * X_PIXEL + b_ahead
        a = tl.load(a_at, mask=inside & (k < COUT)[None, :], other=0.0)
        b = tl.load(b_at, mask=inside & (c < C)[None, :], other=0.0)
        acc = tl.dot(tl.trans(a), b, acc, input_precision=PRECISION)
    store_part(acc, partials, k, tap, c, C, COUT, TAPS)


@triton.jit(do_not_specialize=["pitch", "steps"])
def flat_conv_wgrad_kernel(
    x,  # descriptor of all its pixels, borders included, [., C], box [BLOCK_K, BLOCK_N]
    dy,  # descriptor of all from pixel (0, 0) to the last one, zeros between rows and pictures, box [BLOCK_K, BLOCK_M]
    partials,
    pitch,  # pixels from row to row
    steps,  # of BLOCK_K pixels, for each program
    C: tl.constexpr,
    COUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """3x3, stride 1, where x and dy lie alike: dw[k, i, j, c] = sum over m of dy[m, k] x[m + i pitch + j, c].

    Zeros take out of the sum what lies between the rows, and past the end descriptors give them too.
    """
    ACROSS: tl.constexpr = C // BLOCK_N
    c = (tl.program_id(0) % ACROSS) * BLOCK_N
    tap = (tl.program_id(0) // ACROSS) % 9
    k = (tl.program_id(0) // (ACROSS * 9)) * BLOCK_M
    ahead = (tap // 3) * pitch + tap % 3
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(steps):
        m = (tl.program_id(1) * steps + step) * BLOCK_K
        a = dy.load([m, k])
        b = x.load([m + ahead, c])
        acc = tl.dot(a.T, b, acc, input_precision=PRECISION)
    store_part(acc, partials, k + tl.arange(0, BLOCK_M), tap, c + tl.arange(0, BLOCK_N), C, COUT, 9)


def tiles(c: int, cout: int, taps: tuple[int, int], config: ConvConfig) -> int:
    """Of the weight's gradient: block_m of its outputs by block_n of its inputs at one tap."""
    return triton.cdiv(cout, config.block_m) * taps[0] * taps[1] * triton.cdiv(c, config.block_n)


def flat_pixels(dy: Tensor) -> int:
    """From the first to the last pixel of dy [n, h, w, cout], those between its rows and pictures included."""
    n, h, w, cout = dy.shape
    return ((n - 1) * dy.stride(0) + (h - 1) * dy.stride(1)) // cout + w


def step_count(dy: Tensor, config: ConvConfig) -> int:
    """Of block_k pixels each: the sum over dy [n, h, w, cout]."""
    n, h, w, _ = dy.shape
    if config.form == "tma":
        return triton.cdiv(flat_pixels(dy), config.block_k)
    return n * h * triton.cdiv(w, config.block_k)


def launched_warps(device: torch.device) -> int:
    """How many programs' warps to launch where there are pixels enough: eight for each SM."""
    on_gpu = device.type == "cuda"
    return 8 * (torch.cuda.get_device_properties(device).multi_processor_count if on_gpu else ELSEWHERE)


def split_count(dy: Tensor, c: int, taps: tuple[int, int], config: ConvConfig) -> int:
    """Into how many parts the sum over the pixels of dy [n, h, w, cout] is split."""
    steps = step_count(dy, config)
    wanted = max(1, launched_warps(dy.device) // (config.warps * tiles(c, dy.shape[3], taps, config)))
    return triton.cdiv(steps, triton.cdiv(steps, min(wanted, steps)))


def conv_wgrad(
    x: Tensor,
    dy: Tensor,
    partials: Tensor,
    *,
    taps: tuple[int, int],
    stride: int = 1,
    config: ConvConfig,
    tf32: bool = False,
) -> None:
    """Fills partials, fp32 [splits, cout, taps_y * taps_x * c], with the parts of the weight's gradient.

    x [n, ., ., c] begins at the pixel that tap (0, 0) of the first pixel of dy [n, h, w, cout] read. In the "tma" form
    both are views of pictures that lie alike, the pixels of each following one another, and dy stands amid zeros.
    """
    h, w, cout = dy.shape[1:]
    c = partials.shape[2] // (taps[0] * taps[1])
    total, pixels = step_count(dy, config), flat_pixels(dy)
    steps = triton.cdiv(total, partials.shape[0])
    grid = (tiles(c, cout, taps, config), partials.shape[0])
    if pixels + 2 * config.block_k * steps >= 2**31:
        raise ValueError(f"dy must have below 2^31 pixels, got {tuple(dy.shape)}")
    if config.form != "tma":
        conv_wgrad_kernel[grid](
            x,
            dy,
            partials,
            h,
            w,
            total,
            steps,
            x.stride(0) // x.stride(2),
            x.stride(1) // x.stride(2),
            *dy.stride()[:3],
            X_PIXEL=x.stride(2),
            C=c,
            COUT=cout,
            TAPS_Y=taps[0],
            TAPS_X=taps[1],
            STRIDE=stride,
            **config.launch_options(x.dtype, tf32),
        )
        return
    from triton.tools.tensor_descriptor import TensorDescriptor

    if taps != (3, 3) or stride != 1 or c % config.block_n or cout % config.block_m:
        raise ValueError(f"tma needs 3x3 taps, stride 1, channels in whole blocks, got {taps}, {stride}, {c}, {cout}")
    if [step // c for step in x.stride()[:3]] != [step // cout for step in dy.stride()[:3]]:
        raise ValueError(f"tma needs x and dy to lie alike, got strides {x.stride()} and {dy.stride()}")
    read = x.as_strided((pixels + 2 * (x.stride(1) // c) + 2, c), (c, 1))
    made = dy.as_strided((pixels, cout), (cout, 1))
    flat_conv_wgrad_kernel[grid](
        TensorDescriptor.from_tensor(read, [config.block_k, config.block_n]),
        TensorDescriptor.from_tensor(made, [config.block_k, config.block_m]),
        partials,
        x.stride(1) // c,
        steps,
        C=c,
        COUT=cout,
        **config.launch_options(x.dtype, tf32),
    )
