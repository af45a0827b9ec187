"""What a Deblurrer takes as a picture, and where it works: errors that say what was wanted and what came."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SLACK = 1e-3  # that values may lie outside of [0, 1]: resampling overshoots a little

_process_of_threads: int | None = None  # where a Deblurrer has had torch start its threads


def require_own_threads() -> None:
    """Raises RuntimeError in a process forked from one where a Deblurrer was made, unless torch has one thread in it.

    A fork has none of the threads that torch's parallel loops share out their work to, and these would wait for them.
    """
    global _process_of_threads
    if torch.get_num_threads() == 1:
        return
    if _process_of_threads not in (None, os.getpid()):
        raise RuntimeError(
            "a process forked after a Deblurrer was made must call torch.set_num_threads(1) first, "
            "or be started by multiprocessing's \"spawn\" instead: torch's threads do not survive a fork"
        )
    _process_of_threads = os.getpid()


def require_array(picture: NDArray[Any]) -> None:
    """Raises ValueError unless the array is [h, w, 3], [h, w, 1] or [h, w] with pixels, uint8, uint16 or float."""
    channels = picture.shape[2] if picture.ndim == 3 else 1
    if picture.ndim not in (2, 3) or channels not in (1, 3) or picture.size == 0:
        raise ValueError(f"picture must be an ndarray [h, w, 3] or [h, w], got {picture.shape}")
    if picture.dtype not in (np.uint8, np.uint16, np.float16, np.float32, np.float64):
        raise ValueError(f"picture must be uint8, uint16 or float in [0, 1], got {picture.dtype}")


def require_tensor(picture: Tensor) -> None:
    """Raises ValueError unless the tensor is [c, h, w] or [n, c, h, w], c 1 or 3, uint8, uint16 or float in [0, 1]."""
    if picture.dim() not in (3, 4) or picture.shape[-3] not in (1, 3) or 0 in picture.shape[-2:]:
        raise ValueError(f"picture must be a Tensor [3, h, w] or [n, 3, h, w], got {tuple(picture.shape)}")
    if picture.layout != torch.strided or picture.is_meta:
        raise ValueError(f"picture must be a dense Tensor, got {picture.layout} on {picture.device}")
    if picture.dtype in (torch.uint8, torch.uint16):
        return
    if picture.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"picture must be uint8, uint16 or float in [0, 1], got {picture.dtype}")
    if picture.numel() > 0:
        _require_unit_range(picture)


def _require_unit_range(picture: Tensor) -> None:
    low, high = (float(end) for end in picture.detach().aminmax())  # NaN, if there is one
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("picture must be finite, got NaN or infinite values")
    if low < -SLACK or high > 1 + SLACK:
        raise ValueError(f"float pictures must be in [0, 1], got {low:.4g} ... {high:.4g}")
