"""Operators: they check their arguments, allocate the output and choose the path. torch.ops.deblurgan.* are the same.

The blur's run in csrc/ (`native` says where). The networks' and their gradients run in our Triton kernels on CUDA
(`device.kernels_available`), in `reference` elsewhere. A gradient is recomputed from an op's inputs. A second
op does it, such as `norm_act_grad`, which is not differentiable, and deterministic if cuDNN is; with create_graph=True
`reference` does it.
"""

from deblurgan.ops.apply import apply_psf
from deblurgan.ops.common import check_counter, check_seed
from deblurgan.ops.conv_blocks import (
    conv_norm_relu,
    conv_norm_relu_grad,
    up_conv_norm_relu,
    up_conv_norm_relu_grad,
)
from deblurgan.ops.draws import random_windows, uniforms
from deblurgan.ops.dropout import dropout_mask
from deblurgan.ops.native import is_native
from deblurgan.ops.norm import norm_act, norm_act_grad
from deblurgan.ops.penalty import gradient_penalty
from deblurgan.ops.psf import psf_taps, rasterize_psf
from deblurgan.ops.tail import output_tail, output_tail_grad
from deblurgan.ops.trajectories import random_trajectories

__all__ = [
    "apply_psf",
    "check_counter",
    "check_seed",
    "conv_norm_relu",
    "conv_norm_relu_grad",
    "dropout_mask",
    "gradient_penalty",
    "is_native",
    "norm_act",
    "norm_act_grad",
    "output_tail",
    "output_tail_grad",
    "psf_taps",
    "random_trajectories",
    "random_windows",
    "rasterize_psf",
    "uniforms",
    "up_conv_norm_relu",
    "up_conv_norm_relu_grad",
]
