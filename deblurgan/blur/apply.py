"""Pictures blurred by PSFs, and the windows that crops are cut from."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from deblurgan import ops, reference
from deblurgan.arguments import require_number, require_tensor
from deblurgan.ops.apply import LARGEST


def random_windows(
    n: int,
    *,
    picture: tuple[int, int],
    size: tuple[int, int],
    flip: bool = True,
    seed: int,
    first: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Where random crops lie: int64 [n, 3], top and left in px, and whether the crop is mirrored (0 or 1).

    Args:
        n: how many, >= 0.
        picture: (h, w) of the pictures, each in [1, 2^31) px.
        size: (h, w) of the crops, within `picture`.
        flip: mirror half of the crops, by chance, left to right.
        seed: in [0, 2^63).
        first: in [0, 2^63); crop i is that of (seed, first + i).
        device: of the result; None is the CPU.

    Raises ValueError for a size that does not fit.
    """
    return ops.random_windows(n, picture=picture, size=size, flip=flip, seed=seed, first=first, device=device)


def apply_psf(
    x: Tensor,
    psf: Tensor,
    *,
    padding: reference.Padding = "reflect",
    gamma: float = 1.0,
    highlights: float | Tensor | None = None,
    windows: Tensor | None = None,
    size: tuple[int, int] | None = None,
    sensor: tuple[float, float] | Tensor | None = None,
    noise: float | Tensor = 0.0,
    seed: int = 0,
    first: int = 0,
    signed: torch.dtype | None = None,
) -> Tensor:
    """Pictures x, [n, c, h, w] or [c, h, w], uint8 or float, convolved with psf, floating point [n, k, k] or [k, k].

    Same shape, dtype and memory layout as x; uint8 is rounded to nearest. A true convolution about the origin cell
    k // 2: a picture of one bright pixel becomes the PSF. One psf serves a whole batch. Differentiable in x. The
    options are applied in this order, all in one pass over the picture:

    Args:
        padding: what lies past the border: "reflect" mirrors the picture, "replicate" repeats its edge, "zero" is
            black.
        gamma: averages value^gamma, which is light, rather than values; in [0.1, 10], a camera's is 2.2.
        highlights: the light beyond white that saturated values have lost, in units of white's, >= 0; a number, or one
            for each picture, [n]. It is added to the light of values at white or above, so that lamps draw streaks.
        windows: the part of each picture to compute, int64 [n, 3] (see `random_windows`), of `size` (h, w) px. The blur
            reads the pixels around it too.
        sensor: (shot, read), or one pair for each picture, [n, 2], >= 0: adds normal noise of variance
            shot light + read^2 to the average, white's light being 1.
        noise: standard deviation of normal noise as a share of white, >= 0; a number, or one for each picture, [n].
        seed: in [0, 2^63), of both noises.
        first: in [0, 2^63); picture i gets the noise of (seed, first + i).
        signed: a float type: the result is in [-1, 1] and has that type, as networks take it.

    With `highlights` or `sensor` the averaged light is clipped to [0, 1] before gamma is undone, as a camera does: what
    stays beyond white shows no noise. They are those of RSBlur (Rim et al., ECCV 2022), which draws highlights from
    [0.25, 1.75] and, for its camera, shot and read from 0.5 to 1.5 times (1e-4, 9.15e-4).

    The psf [[1]] leaves the picture sharp, so it cuts the sharp twin of a crop. Raises TypeError for what is no Tensor,
    ValueError for other shapes, dtypes, devices and options; on the CPU also for a psf that is not finite and a window
    outside the picture.
    """
    pictures, kernels = as_batches(x, psf)
    require_number("gamma", gamma)
    y = ops.apply_psf(
        pictures,
        kernels,
        padding,
        gamma,
        windows,
        None if size is None else list(size),
        None if isinstance(noise, Real) and noise == 0 else _for_each("noise", noise, pictures),
        seed,
        first,
        signed=signed,
        highlights=None if highlights is None else _for_each("highlights", highlights, pictures),
        sensor=None if sensor is None else _pairs(sensor, pictures),
    )
    return y if x.dim() == 4 else y[0]


def _for_each(name: str, given: float | Tensor, pictures: Tensor) -> Tensor:
    """A number as one for each picture, fp32 [n]; a Tensor as it is."""
    if isinstance(given, Tensor):
        return given
    require_number(name, given)
    if not 0 <= given <= LARGEST:
        raise ValueError(f"{name} must be finite and >= 0, got {given}")
    return torch.full((pictures.shape[0],), float(given), dtype=torch.float32, device=pictures.device)


def _pairs(sensor: tuple[float, float] | Tensor, pictures: Tensor) -> Tensor:
    """(shot, read) for each picture, fp32 [n, 2]; a Tensor as it is."""
    if isinstance(sensor, Tensor):
        return sensor
    if not isinstance(sensor, (tuple, list)) or len(sensor) != 2:
        raise ValueError(f"sensor must be (shot, read), got {sensor}")
    return torch.stack([_for_each("sensor", part, pictures) for part in sensor], 1)


def check_picture(x: Tensor) -> None:
    """Raises TypeError unless x is a Tensor, ValueError unless it is a picture or a batch of them."""
    require_tensor("image", x)
    if x.dim() not in (3, 4):
        raise ValueError(f"image must be [n, c, h, w] or [c, h, w], got {tuple(x.shape)}")


def as_batches(x: Tensor, psf: Tensor) -> tuple[Tensor, Tensor]:
    """x as [n, c, h, w] and psf as [n, k, k]: a missing first axis is added, and one psf repeated for all pictures."""
    check_picture(x)
    require_tensor("psf", psf, "[n, k, k] or [k, k]")
    if psf.dim() not in (2, 3):
        raise ValueError(f"psf must be [n, k, k] or [k, k], got {tuple(psf.shape)}")
    pictures = x if x.dim() == 4 else x[None]
    kernels = psf if psf.dim() == 3 else psf[None]
    return pictures, kernels.expand(pictures.shape[0], -1, -1) if kernels.shape[0] == 1 else kernels
