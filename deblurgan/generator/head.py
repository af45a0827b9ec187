"""The network's last convolution on a CPU, which has few results for each pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PIXELS = 4  # that are computed as one


def head_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.conv2d(x, weight, bias) for the few channels of a picture: x [n, k, h, w], weight [c, k, s, s].

    A CPU computes 16 output channels at once, most of them for nothing where a picture has 3. There one output pixel of
    PIXELS c channels stands for PIXELS pixels of a row: the same sums, with zeros added.
    """
    width = x.shape[3] - weight.shape[3] + 1
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16) or width % PIXELS:
        return F.conv2d(x, weight, bias)
    shifted = torch.cat([F.pad(weight, (pixel, PIXELS - 1 - pixel)) for pixel in range(PIXELS)])
    kernel = shifted.contiguous(memory_format=torch.channels_last)  # else torch copies an x of one picture twice
    y = F.conv2d(x, kernel, bias.repeat(PIXELS), stride=(1, PIXELS)).permute(0, 2, 3, 1)
    return y.reshape(*y.shape[:2], width, -1).permute(0, 3, 1, 2)
