"""The arithmetic of strips in our kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from deblurgan.generator.engine import Engine
from deblurgan.generator.strips import Moments
from deblurgan.generator.torch_strips import with_sides
from deblurgan.kernels.config import PACKED_CHANNELS, Border, NormActInputs
from deblurgan.ops.conv import conv_memory, conv_tiles
from deblurgan.ops.norm import SLOPES
from deblurgan.spec import Stage


class KernelOps:
    """`strips.StripOps` with the packed weights and the tilings of an engine, whose own memory it leaves alone.

    To be used within `engine.turn()`. Raises ValueError for an engine that computes in 8 bits.
    """

    def __init__(self, engine: Engine) -> None:
        if engine.quantize is not None:
            raise ValueError(f'quantize must be None for a picture in strips, got "{engine.quantize}"')
        self.engine, self.dtype, self.device = engine, engine.dtype, engine.head_weight.device

    def window(self, stage: Stage, rows: int, w: int) -> Tensor:
        columns, channels = w + 2 * stage.halo, stage.channels_in
        if stage.kind == "stem":
            columns, channels = columns + 1, PACKED_CHANNELS
        return torch.empty(rows, columns, channels, dtype=self.dtype, device=self.device)

    def pack(self, pixels: Tensor, out: Tensor, border: Border) -> None:
        """As kernels.pack_image does, but for the rows of the border."""
        with_sides(pixels, out[:, :-1, : pixels.shape[2]], border)
        out[:, :-1, pixels.shape[2] :] = 0
        out[:, -1] = 0

    def conv(self, stage: Stage, x: Tensor) -> tuple[Tensor, Moments]:
        from deblurgan.kernels.merge_stats import merge_moments

        layer, last = self.engine.layers[stage.name], 1 if stage.kind == "stem" else 0
        read = x.shape[0] - 2 * stage.halo, x.shape[1] - 2 * stage.halo - last
        h, w = (-(-side * stage.scale_in // stage.scale_out) for side in read)
        config = self.engine.config(stage, h * w * stage.scale_out**2)
        like = x if config else x.to("meta")  # cuDNN's output has memory of its own
        out = conv_memory(layer, 1, h, w, config=config, like=like)
        y, tiles = conv_tiles(layer, x[None], out, config=config, tf32=self.engine.tf32)
        mean, m2 = merge_moments(tiles).partials[0, 0]
        return y[0], Moments(h * w, mean, m2)

    def activate(
        self, stage: Stage, y: Tensor, stats: Tensor, residual: Tensor | None, out: Tensor, border: Border
    ) -> None:
        from deblurgan.kernels.norm_act import norm_act

        norm_act(
            NormActInputs(y[None], stats[None], SLOPES[stage.act]),
            out[None, :, border.width : -border.width],
            residual=None if residual is None else residual[None],
            border=border,
            sides_alone=True,
        )

    def head(self, x: Tensor, pixels: Tensor) -> Tensor:
        restored = torch.empty_like(pixels)
        image, out = (rows.permute(2, 0, 1)[None] for rows in (pixels, restored))
        self.engine.run_head(x[None], image, out)
        return restored
