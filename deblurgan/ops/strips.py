"""What follows the convolution of a strip of rows on a CPU, by csrc/: its moments, and the norm by its plane's."""

from __future__ import annotations

import torch
from torch import Tensor

from deblurgan.kernels.config import Border
from deblurgan.ops.common import require
from deblurgan.ops.native import _C, address
from deblurgan.reference import Act

TYPES = {torch.bfloat16: 2, torch.float32: 3}  # as DType of csrc/ numbers them


def takes_rows(y: Tensor) -> bool:
    """Whether csrc/ takes rows y [rows, w, c]: fp32 or bf16 on a CPU, pixels of a row side by side."""
    return y.device.type == "cpu" and y.dtype in TYPES and y.stride()[1:] == (y.shape[2], 1)


def strip_moments(y: Tensor) -> Tensor:
    """Mean of y [rows, w, c], and the sum of squares about it: fp32 [2, c]. A constant plane has exactly its value,
    and 0."""
    y = y.contiguous()
    found = torch.empty(2, y.shape[2])
    pixels = y.shape[0] * y.shape[1]
    _C.strip_moments(address(y), TYPES[y.dtype], address(found), pixels, y.shape[2], torch.get_num_threads())
    return found


def strip_norm_act(y: Tensor, stats: Tensor, act: Act, residual: Tensor | None, out: Tensor, border: Border) -> None:
    """residual + act((y - mean) / std) into out [rows, w + 2b, c], with the border at its sides.

    y and the residual are [rows, w, c], all in one type; stats fp32 [2, c]: mean and 1 / std; act "relu" or "none".
    Raises ValueError for other arguments.
    """
    rows, w, c = y.shape
    for name, given, columns in (("y", y, w), ("residual", residual, w), ("out", out, w + 2 * border.width)):
        if given is not None:
            require(
                takes_rows(given) and given.dtype == y.dtype and given.shape == (rows, columns, c),
                f"{name} must be rows [{rows}, {columns}, {c}] of {y.dtype} on the CPU, got {tuple(given.shape)} of "
                f"{given.dtype} on {given.device}",
            )
    require(stats.shape == (2, c) and stats.dtype == torch.float32, f"stats must be fp32 [2, {c}], got {stats.dtype}")
    require(border.mode == "zero" or border.width < w, f"border must be narrower than the {w} pixels of a row")
    inside = out[:, border.width : out.shape[1] - border.width]
    _C.strip_activate(
        address(y),
        address(residual),
        address(inside),
        TYPES[y.dtype],
        address(stats.contiguous()),
        y.stride(0),
        0 if residual is None else residual.stride(0),
        out.stride(0),
        rows,
        w,
        c,
        border.width,
        border.mode == "reflect",
        act == "relu",
        torch.get_num_threads(),
    )
