"""A fused op in a network of one's own: python examples/fused_op.py.

ops.conv_norm_relu is a convolution, InstanceNorm, activation and residual in one call: our Triton kernels on a GPU,
plain torch elsewhere, with gradients and torch.compile on both.
"""

import torch
from torch import Tensor, nn

from deblurgan import ops


class Block(nn.Module):
    """A residual block of two convolutions: x + norm(conv(leaky(norm(conv(x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(channels, channels, 3, 3) * 0.02)
        self.second = nn.Parameter(torch.randn(channels, channels, 3, 3) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        inner = ops.conv_norm_relu(x, self.first, border="reflect", act="leaky_relu")
        return ops.conv_norm_relu(inner, self.second, border="reflect", act="none", residual=x)


device = "cuda" if torch.cuda.is_available() else "cpu"
net = nn.Sequential(Block(16), Block(16)).to(device)
x = torch.randn(2, 16, 24, 32, device=device)
y = net(x)
y.square().mean().backward()
slope = next(net.parameters()).grad
print(f"{device}: {tuple(x.shape)} -> {tuple(y.shape)}, gradient of norm {slope.norm():.3g}")
