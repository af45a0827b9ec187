"""Rows of a picture, as the network sees them and as they come back."""

from __future__ import annotations

import torch
from torch import Tensor

from deblurgan.reference import border_index


def white(dtype: torch.dtype) -> float:
    """The brightest value of a picture of that type."""
    return {torch.uint8: 255.0, torch.uint16: 65535.0}.get(dtype, 1.0)


def to_unit(values: Tensor) -> Tensor:
    """A picture's values as fp32 in [0, 1]."""
    if values.is_floating_point():
        return values.float().clamp(0, 1)
    return values.float() / white(values.dtype)


def from_unit(values: Tensor, dtype: torch.dtype) -> Tensor:
    """fp32 in [0, 1] as a picture's values of that type, still fp32."""
    return values if dtype.is_floating_point else (values * white(dtype)).round()


class PictureRows:
    """A picture [c, h, w], mirrored at the bottom and right to `padded`, by rows."""

    def __init__(self, picture: Tensor, padded: tuple[int, int], device: torch.device) -> None:
        self.picture, self.device = picture, device
        h, w = picture.shape[1:]
        self.rows = border_index(h, 0, padded[0] - h, "reflect", picture.device)
        self.columns = border_index(w, 0, padded[1] - w, "reflect", picture.device)

    def read(self, start: int, stop: int) -> Tensor:
        """fp32 [stop - start, w, 3] in [-1, 1], on the device."""
        _, h, w = self.picture.shape
        rows = self.picture[:, start:stop] if stop <= h else self.picture[:, self.rows[start:stop]]
        if len(self.columns) > w:
            rows = rows[..., self.columns]
        signed = to_unit(rows.to(self.device)).mul_(2).sub_(1)
        return signed.permute(1, 2, 0).expand(-1, -1, 3).contiguous()


class ResultRows:
    """What a restored picture is written into: [c, h, w]. `not_finite` tells whether a value was not."""

    def __init__(self, result: Tensor, device: torch.device) -> None:
        self.result = result
        self.not_finite = torch.zeros((), dtype=torch.bool, device=device)

    def write(self, start: int, rows: Tensor) -> None:
        """fp32 [rows, w, 3] in [-1, 1]; what lies beyond the picture is dropped."""
        self.not_finite |= ~rows.isfinite().all()
        c, h, w = self.result.shape
        restored = rows[: max(0, h - start), :w].permute(2, 0, 1).add(1).div_(2)
        if c == 1:
            restored = restored.mean(0, keepdim=True)
        self.result[:, start : start + restored.shape[1]].copy_(from_unit(restored, self.result.dtype))
