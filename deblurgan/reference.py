"""Every op in plain torch: the definition, the fallback and the oracle of the tests.

Networks see pictures in [-1, 1]. Statistics and blur sums are at least fp32; fp64 in gives fp64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Border = Literal["reflect", "zero"]
Padding = Literal["reflect", "replicate", "zero"]
Act = Literal["relu", "none", "leaky_relu"]

EPS = 1e-5
SLOPE = 0.2  # of leaky_relu below 0


def pad(x: Tensor, amount: int, border: Border) -> Tensor:
    """x [n, c, h, w] with `amount` pixels on every side: mirrored about the edge pixel, or zero."""
    return F.pad(x, (amount,) * 4, mode="reflect" if border == "reflect" else "constant")


def instance_norm(x: Tensor) -> Tensor:
    """(x - mean) / sqrt(var + 1e-5) of each plane of x [n, c, h, w], biased variance, no affine part.

    Statistics are taken about a pivot, a pixel of the plane, so that a constant plane gives exactly 0 and a large mean
    costs no digits. Half types compute in fp32.
    """
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    centred = wide - wide[..., :1, :1].detach()  # the result does not depend on the pivot, so no gradient flows to it
    if x.device.type == "cpu" and not centred.requires_grad:
        # F.group_norm adds up a plane in channels_last number by number (torch 2.13): at 720x1280 a result is off by
        # 1e-3. In training, of small crops, it is the faster one
        centred -= centred.mean((2, 3), keepdim=True)
        return centred.mul_((centred.square().mean((2, 3), keepdim=True) + EPS).rsqrt()).to(x.dtype)
    # F.instance_norm's gradient is wrong for one picture where that of its result is channels_last (torch 2.13, CPU)
    return F.group_norm(centred, x.shape[1], eps=EPS).to(x.dtype)


def norm_act(x: Tensor, *, act: Act = "relu", residual: Tensor | None = None) -> Tensor:
    """residual + act(instance_norm(x)), all [n, c, h, w]."""
    y = instance_norm(x)
    if act == "relu":
        y = F.relu(y)
    elif act == "leaky_relu":
        y = F.leaky_relu(y, SLOPE)
    return y if residual is None else residual + y


def conv_norm_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    border: Border = "zero",
    act: Act = "relu",
    residual: Tensor | None = None,
) -> Tensor:
    """residual + act(instance_norm(conv(x))): x [n, c, h, w], weight [k, c, s, s] -> [n, k, h', w'].

    x is padded by s // 2; stride 2 gives h' = ceil(h / 2), w' = ceil(w / 2).
    """
    y = F.conv2d(pad(x, weight.shape[-1] // 2, border), weight, bias, stride=stride)
    return norm_act(y, act=act, residual=residual)


def up_conv_norm_relu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """relu(instance_norm(conv_transpose(x))), 3x3, stride 2: x [n, c, h, w], weight [c, k, 3, 3] -> [n, k, 2h, 2w]."""
    return norm_act(F.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1))


def output_tail(x: Tensor, image: Tensor, weight: Tensor, bias: Tensor | None, *, border: Border) -> Tensor:
    """clamp(image + tanh(conv(x)), -1, 1): x [n, k, h, w], image [n, c, h, w], weight [c, k, s, s] -> [n, c, h, w]."""
    residual = torch.tanh(F.conv2d(pad(x, weight.shape[-1] // 2, border), weight, bias))
    return (image + residual.to(image.dtype)).clamp(-1, 1)


def philox(seed: int, index: Tensor, draw: Tensor, rng_stream: int) -> Tensor:
    """Philox4x32-10 (Salmon et al. 2011): the four words of each counter, int64 [..., 4] holding 32 bits each.

    `index` (64 bits) and `draw` (32 bits) are int64 tensors that broadcast against each other.
    """
    low = 0xFFFFFFFF
    index, draw = torch.broadcast_tensors(index, draw)
    c = [index & low, (index >> 32) & low, draw & low, torch.full_like(index, rng_stream)]
    k0, k1 = seed & low, (seed >> 32) & low
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57  # wraps at 64 bits, of which both halves are wanted
        c = [((p1 >> 32) & low) ^ c[1] ^ k0, p1 & low, ((p0 >> 32) & low) ^ c[3] ^ k1, p0 & low]
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return torch.stack(c, -1)


def keep_threshold(p: float) -> int:
    """The least word of 32 bits that keeps an element where dropout has the probability p in [0, 1)."""
    return min(round(p * 2**32), 2**32 - 1)


def dropout_mask(shape: Sequence[int], p: float, *, seed: int, first: int = 0, rng_stream: int = 0) -> Tensor:
    """Whether dropout keeps each element of [n, c, h, w]: bool, False with probability p.

    Element e = (y w + x) c + channel of picture i takes word e mod 4 of the Philox counter (first + i, e // 4,
    16 + rng_stream) under the key `seed`, and is kept where that word is at least p 2^32.
    """
    n, c, h, w = shape
    draws = torch.arange((c * h * w + 3) // 4)
    words = philox(seed, first + torch.arange(n)[:, None], draws, 16 + rng_stream).flatten(1)  # [n, 4 draws]
    keep = words[:, : c * h * w] >= keep_threshold(p)
    return keep.view(n, h, w, c).permute(0, 3, 1, 2)


def random_trajectories(
    anxiety: Tensor, *, seed: int, first: int = 0, steps: int = 2000, length: float = 60.0
) -> Tensor:
    """The camera-shake paths of indices first ... first + n - 1, fp64 [n, steps, 2], (x, y) in px from the start.

    anxiety [n]. The recurrence is the released one (motion_blur/generate_trajectory.py) with a Philox counter per
    (seed, index, step) in place of NumPy's global stream:

        v <- v + impulse + anxiety (gauss (n1 + i n2) - spring x) step,   |v| <- step,   x <- x + v

    An impulse, 2 v e^(i(pi +- 0.5)), comes with probability shake * anxiety. spring ~ U(0, 0.7), shake ~ U(0, 0.2),
    gauss ~ U(0, 10) and the first direction are drawn once a path. The first velocity has modulus `anxiety`.
    """
    anxiety = anxiety.double().cpu()
    index = first + torch.arange(anxiety.shape[0])
    setup = (philox(seed, index, torch.tensor(0), 1) >> 8) * 2.0**-24
    spring, shake, gauss = 0.7 * setup[:, 0].double(), 0.2 * setup[:, 1].double(), 10.0 * setup[:, 2].double()
    draws = philox(seed, index[:, None], torch.arange(max(steps - 1, 0)), 0) >> 8  # [n, steps - 1, 4]
    uniform = draws.double() * 2.0**-24
    radius = torch.sqrt(-2 * torch.log((draws[..., 2] + 1).double() * 2.0**-24))
    normal = torch.polar(radius, 2 * math.pi * uniform[..., 3])
    back = torch.polar(torch.full_like(radius, 2.0), math.pi + uniform[..., 1] - 0.5)
    impulse = uniform[..., 0] < (shake * anxiety)[:, None]

    step = length / (steps - 1) if steps > 1 else 0.0
    speed = torch.where(anxiety > 0, anxiety, step)
    v = torch.polar(speed, 2 * math.pi * setup[:, 3].double())
    x = torch.zeros_like(v)
    path = [x]
    for t in range(steps - 1):
        thrown = torch.where(impulse[:, t], v * back[:, t], 0)
        v = v + thrown + anxiety * (gauss * normal[:, t] - spring * x) * step
        v = step * v / v.abs()
        x = x + v
        path.append(x)
    return torch.view_as_real(torch.stack(path, 1))


def exposure_weights(steps: int, exposure: Tensor) -> Tensor:
    """How much of each sample is exposed, fp64 [n, steps]; sample 0 is never used, as released."""
    t = torch.arange(steps, dtype=torch.float64, device=exposure.device)
    weights = (exposure.double()[:, None] * steps - (t - 1)).clamp(0, 1)
    weights[:, 0] = 0
    return weights


def rasterize_psf(
    trajectories: Tensor, exposure: Tensor, size: int, mode: Literal["centered", "released"] = "centered"
) -> Tensor:
    """Bilinear PSFs of the first `exposure` [n] (in (0, 1]) of paths [n, steps, 2]: fp64 [n, size, size].

    centered: unit sum, centroid on the origin cell size // 2. released: motion_blur/generate_PSF.py, that is its
    placing of the path, and a sum equal to the exposure (less the unused first sample).
    Raises ValueError where a path leaves the canvas.
    """
    path = trajectories.double()
    n, steps, _ = path.shape
    weights = exposure_weights(steps, exposure)
    if mode == "centered":
        centroid = (weights[..., None] * path).sum(1, keepdim=True) / weights.sum(1)[:, None, None]
        path = path - centroid + size // 2
    else:
        lowest = path.amin(1, keepdim=True)
        start = path[:, :1] - lowest
        path = path - lowest - (start - start.floor()) + 1
        path = path + ((size - path.amax(1, keepdim=True)) / 2).ceil()

    used = weights > 0
    if bool(((path < 0) | (path >= size - 1)).any(-1)[used].any()):
        raise ValueError(f"size must hold the whole path, got {size}")
    cell = torch.where(used[..., None], path, 0).floor()
    right, down = (path - cell).unbind(-1)
    column, row = cell.long().unbind(-1)
    psf = torch.zeros(n, size * size, dtype=torch.float64, device=path.device)
    for dy, dx, part in (
        (0, 0, (1 - right) * (1 - down)),
        (0, 1, right * (1 - down)),
        (1, 0, (1 - right) * down),
        (1, 1, right * down),
    ):
        psf.scatter_add_(1, (row + dy) * size + column + dx, torch.where(used, weights * part, 0))
    total = psf.sum(1, keepdim=True) if mode == "centered" else float(steps)
    return (psf / total).view(n, size, size)


def border_index(length: int, before: int, after: int, padding: Padding, device: torch.device) -> Tensor:
    """Which pixel of a line of `length` stands at positions -before ... length + after - 1."""
    i = torch.arange(-before, length + after, device=device)
    if padding == "reflect" and length > 1:
        i = i.abs() % (2 * (length - 1))
        return torch.minimum(i, 2 * (length - 1) - i)
    return i.clamp(0, length - 1)


def psf_taps(psf: Tensor) -> list[Tensor]:
    """The non-zero cells of each PSF [n, k, k] by rows, fp64 [taps, 3]: dy, dx, weight.

    A tap reads the pixel (dy, dx) away from the output's: cell (p, q) has dy = k // 2 - p and dx = k // 2 - q.
    """
    origin = psf.shape[-1] // 2
    return [torch.cat([origin - cells.nonzero(), cells[cells != 0][:, None]], 1).double() for cells in psf]


def random_windows(
    n: int, *, picture: tuple[int, int], size: tuple[int, int], seed: int, first: int = 0, flip: bool = True
) -> Tensor:
    """Where windows of `size` (h, w) are cut from pictures of `picture`: int64 [n, 3], top, left, mirrored (0 or 1)."""
    words = philox(seed, first + torch.arange(n), torch.tensor(0), 4)
    rows, columns = (full - part + 1 for full, part in zip(picture, size, strict=True))
    return torch.stack([(words[:, 0] * rows) >> 32, (words[:, 1] * columns) >> 32, (words[:, 2] >> 31) * flip], 1)


def cut(x: Tensor, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """The windows [n, 3] (top, left, mirrored) of `size` (h, w) of x [n, c, ., .]."""
    n, c = x.shape[:2]
    i, j = (torch.arange(side, device=x.device) for side in size)
    columns = torch.where(windows[:, 2:] > 0, size[1] - 1 - j, j) + windows[:, 1:2]  # [n, w]
    rows = i + windows[:, :1]  # [n, h]
    of_n, of_c = torch.arange(n, device=x.device), torch.arange(c, device=x.device)
    return x[of_n[:, None, None, None], of_c[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def pixel_noise(shape: tuple[int, int, int, int], *, seed: int, first: int = 0, rng_stream: int = 3) -> Tensor:
    """Standard normal numbers [n, c, h, w], fp64: two from each Philox counter (seed, picture, pair, stream)."""
    n, elements = shape[0], shape[1] * shape[2] * shape[3]
    of_n, pairs = (torch.arange(count, device="cpu") for count in (n, (elements + 1) // 2))
    words = philox(seed, first + of_n[:, None], pairs, rng_stream) >> 8  # [n, pairs, 4]
    radius = torch.sqrt(-2 * torch.log((words[..., 0] + 1).double() * 2.0**-24))
    normal = torch.view_as_real(torch.polar(radius, 2 * math.pi * 2.0**-24 * words[..., 1].double()))
    return normal.reshape(n, -1)[:, :elements].reshape(shape)


def sensed(light: Tensor, sensor: Tensor, normal: Tensor) -> Tensor:
    """Light [n, c, h, w], 1 at white, with a sensor's noise: shot and read [n, 2], see `apply_psf`."""
    shot, read = sensor.to(light)[:, :, None, None, None].unbind(1)
    variance = shot * light.clamp(0, 1) + read.square()
    noisy = variance > 0  # the root has no slope at 0
    return light + torch.where(noisy, variance.where(noisy, 1.0).sqrt(), 0.0) * normal


def apply_psf(
    x: Tensor,
    psf: Tensor,
    padding: Padding = "reflect",
    *,
    gamma: float = 1.0,
    windows: Tensor | None = None,
    size: tuple[int, int] | None = None,
    noise: Tensor | None = None,
    seed: int = 0,
    first: int = 0,
    signed: torch.dtype | None = None,
    highlights: Tensor | None = None,
    sensor: Tensor | None = None,
) -> Tensor:
    """True convolution of each picture x [n, c, h, w] with its psf [n, k, k]; the origin is cell k // 2.

    out[i, j] = sum over p, q of psf[p, q] x[i - (p - k // 2), j - (q - k // 2)], so a picture of one bright pixel
    becomes the PSF. Past its border the picture is mirrored about the edge pixel (as often as needed), repeated, or
    zero. In this order: values^gamma are averaged and brought back, the `windows` [n, 3] of `size` are cut out, noise
    [n] (a standard deviation as a share of white) is added, and values are brought to [-1, 1] of type `signed`.
    uint8 is rounded to the nearest value, halves up.

    As a camera averages light, (value / white)^gamma: `highlights` [n] are added to that of values at white or above,
    whose true light was lost. `sensor` [n, 2] (shot, read) adds normal noise of variance shot light + read^2 to the
    average, light counting up to white. With either, the sum is clipped to [0, 1] before it is brought back.
    """
    n, c, h, w = x.shape
    k = psf.shape[-1]
    if x.numel() == 0:
        out_h, out_w = size or (h, w)
        return x.new_empty((n, c, out_h, out_w), dtype=signed or x.dtype)
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    white = 255.0 if x.dtype == torch.uint8 else 1.0
    after, before = k // 2, k - 1 - k // 2  # convolution reads k // 2 cells past the far edge
    camera = highlights is not None or sensor is not None
    wide = x.to(dtype)
    if gamma != 1:
        wide = (wide / white).clamp(min=0) ** gamma
    elif camera:
        wide = wide / white
    if highlights is not None:
        wide = wide + highlights.to(wide)[:, None, None, None] * (x >= white)
    if padding == "zero":
        wide = F.pad(wide, (before, after, before, after))
    else:
        rows, columns = (border_index(side, before, after, padding, x.device) for side in (h, w))
        wide = wide[..., rows, :][..., columns]
    weight = psf.to(dtype).flip(-1, -2).repeat_interleave(c, 0).unsqueeze(1)
    y = F.conv2d(wide.reshape(1, n * c, *wide.shape[-2:]), weight, groups=n * c).view(n, c, h, w)
    if windows is not None:
        y = cut(y, windows, size or (h, w))
    if sensor is not None:
        y = sensed(y, sensor, pixel_noise(tuple(y.shape), seed=seed, first=first, rng_stream=5).to(y))  # type: ignore[arg-type]
    if camera:
        y = y.clamp(0, 1)
    if gamma != 1:
        light = y > torch.finfo(dtype).tiny  # the root has no slope at 0
        y = torch.where(light, y.where(light, 1.0) ** (1 / gamma) * white, 0.0 * y)
    elif camera:
        y = y * white
    if noise is not None:
        normal = pixel_noise(tuple(y.shape), seed=seed, first=first).to(y)  # type: ignore[arg-type]
        y = y + (noise * white).to(y)[:, None, None, None] * normal
    if signed is not None:
        return (y * (2 / white) - 1).clamp(-1, 1).to(signed)
    return (y + 0.5).clamp(0, 255).to(torch.uint8) if x.dtype == torch.uint8 else y.to(x.dtype)
