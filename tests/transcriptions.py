"""Other people's networks and blur, typed in from their descriptions: independent sources for the parity tests."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """x + conv_block(x), under the released code's name."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class ReleasedGenerator(nn.Module):
    """resnet_9blocks of the released models/networks.py (before 2019-03) with --learn_residual."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(x + self.model(x), min=-1, max=1)


def released_generator(*, width: int = 64, blocks: int = 9, dropout: bool = True, convs: int = 2) -> ReleasedGenerator:
    """convs=1 is the one-convolution block of the released code after 2019-03 (with dropout)."""
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.InstanceNorm2d(width), nn.ReLU(True)]
    for c in (width, 2 * width):
        layers += [nn.Conv2d(c, 2 * c, 3, stride=2, padding=1), nn.InstanceNorm2d(2 * c), nn.ReLU(True)]
    c = 4 * width
    for _ in range(blocks):
        block: list[nn.Module] = [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c), nn.ReLU(True)]
        if dropout:
            block.append(nn.Dropout(0.5))
        if convs == 2:
            block += [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c)]
        layers.append(Residual(*block))
    for c in (4 * width, 2 * width):
        up = nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1)
        layers += [up, nn.InstanceNorm2d(c // 2), nn.ReLU(True)]
    return ReleasedGenerator(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())


class ArticleBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.norm = nn.InstanceNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


class ArticleGenerator(nn.Module):
    """The article's generator: one convolution a block, zero padding, biases on the first and last convolution only."""

    def __init__(self, width: int = 64, blocks: int = 9) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, width, 7, padding=3), nn.InstanceNorm2d(width), nn.ReLU())
        down: list[nn.Module] = []
        for c in (width, 2 * width):
            down += [nn.Conv2d(c, 2 * c, 3, stride=2, padding=1, bias=False), nn.InstanceNorm2d(2 * c), nn.ReLU()]
        self.downsampling = nn.Sequential(*down)
        self.resnet = nn.Sequential(*(ArticleBlock(4 * width) for _ in range(blocks)))
        up: list[nn.Module] = []
        for c in (4 * width, 2 * width):
            up += [
                nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1, bias=False),
                nn.InstanceNorm2d(c // 2),
                nn.ReLU(),
            ]
        self.upsampling = nn.Sequential(*up)
        self.tail = nn.Sequential(nn.Conv2d(width, 3, 7, padding=3), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        y = self.tail(self.upsampling(self.resnet(self.downsampling(self.head(x)))))
        return torch.clamp(x + y, min=-1, max=1)


def article_generator(*, width: int = 64, blocks: int = 9) -> ArticleGenerator:
    return ArticleGenerator(width, blocks)


def released_critic(*, width: int = 64, padding: int = 2) -> nn.Sequential:
    """NLayerDiscriminator of the released code: three strided layers, no sigmoid."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=padding), nn.LeakyReLU(0.2, True)]
    for c, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
        layers += [
            nn.Conv2d(c, 2 * c, 4, stride=stride, padding=padding),
            nn.InstanceNorm2d(2 * c),
            nn.LeakyReLU(0.2, True),
        ]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, padding=padding))


def released_paths(
    n: int, anxiety: float, random: np.random.RandomState, *, steps: int = 2000, length: float = 60.0
) -> np.ndarray:
    """Trajectory.fit of the released generate_trajectory.py before its centring: complex [n, steps], px from the start.

    It draws in the released order, but each draw is made for all paths at once.
    """
    step = length / (steps - 1)
    centripetal, big_shake = 0.7 * random.uniform(size=n), 0.2 * random.uniform(size=n)
    gaussian, angle = 10 * random.uniform(size=n), 2 * np.pi * random.uniform(size=n)
    v = (anxiety if anxiety > 0 else step) * np.exp(1j * angle)
    x = np.zeros((n, steps), complex)
    for t in range(steps - 1):
        shaken = np.flatnonzero(random.uniform(size=n) < big_shake * anxiety)
        impulse = np.zeros(n, complex)
        impulse[shaken] = 2 * v[shaken] * np.exp(1j * (np.pi + random.uniform(size=len(shaken)) - 0.5))
        noise = random.randn(n) + 1j * random.randn(n)
        v = v + impulse + anxiety * (gaussian * noise - centripetal * x[:, t]) * step
        v = v * step / np.abs(v)
        x[:, t + 1] = x[:, t] + v
    return x


def pixel_normals(shape: tuple[int, ...], *, rng_stream: int, seed: int, index: int) -> np.ndarray:
    """A picture's standard normal numbers: Box and Muller's, of two words of Philox4x32-10 a pair."""
    mask, pairs = np.uint64(0xFFFFFFFF), np.arange((math.prod(shape) + 1) // 2, dtype=np.uint64)
    c = [np.full_like(pairs, index) & mask, np.full_like(pairs, index >> 32), pairs, np.full_like(pairs, rng_stream)]
    key = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)
    for turn in range(10):
        k0, k1 = key[0] + np.uint64(turn * 0x9E3779B9) & mask, key[1] + np.uint64(turn * 0xBB67AE85) & mask
        first, second = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [second >> np.uint64(32) ^ c[1] ^ k0, second & mask, first >> np.uint64(32) ^ c[3] ^ k1, first & mask]
    radius = np.sqrt(-2 * np.log(((c[0] >> np.uint64(8)) + np.uint64(1)) / 2**24))
    angle = 2 * np.pi * (c[1] >> np.uint64(8)) / 2**24
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return normals.reshape(-1)[: math.prod(shape)].reshape(shape)
