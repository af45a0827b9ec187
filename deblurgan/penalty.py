"""The gradient penalty of `nn.Critic` with its weight gradients, without double backward: six forward passes of work.

The critic D is a chain of convolutions z = W x + b, InstanceNorm (after all but the first and last) and LeakyReLU. With
g = grad D(x), of the sum of a picture's scores, and u = dP/dg held fixed, the gradient of

    P = weight * mean((|g| - 1)^2)

by the weights is that of <u, g>, the derivative of D along u. A tangent t runs forward from u beside x. It meets the
Jacobians of the backward pass that made g, transposed, so that its adjoint at each convolution's output is the signal
lambda which that pass left there. The adjoint mu of x comes back through InstanceNorm's second derivative. A weight's
gradient is then one convolution gradient over both pairs, (lambda, t) and (mu, x). Pictures whose scores count too ride
along in the first two passes, with pairs (lambda, x).

Activations are kept in the dtype of the convolutions; statistics and norms are fp32, or fp64 for fp64 pictures. Nothing
waits for a GPU or branches on a value: torch.compile and CUDA graphs take these functions whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deblurgan.config import Norm
from deblurgan.reference import EPS

SLOPE = 0.2  # of LeakyReLU

# Something a plane, [n, k, 1, 1], by the number of its layer; those without InstanceNorm have none
Statistics = dict[int, Tensor]


class _Layer(NamedTuple):
    weight: Tensor  # [k, c, 4, 4], in the dtype of the convolutions
    stride: int
    padding: int


@torch.no_grad()
def penalty_value(
    weights: Sequence[Tensor],
    bias: Tensor,
    x: Tensor,
    *,
    padding: int,
    norm: Norm = "sample",
    weight: float = 10.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The value of `penalty_gradients` alone, for the same arguments."""
    with torch.autocast(x.device.type, enabled=False):
        layers = _layers(weights, padding, dtype or x.dtype)
        inputs, rstds = _forward(layers, bias, x)
        _, _, gradient = _backward(layers, inputs, rstds, (1.0,))
        return _value(_length(gradient, norm), weight)


@torch.no_grad()
def penalty_gradients(
    weights: Sequence[Tensor],
    bias: Tensor,
    x: Tensor,
    *,
    padding: int,
    norm: Norm = "sample",
    weight: float = 10.0,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """weight * mean((|grad D(x)| - 1)^2), its gradients by the weights, and that by the first bias.

    weights [k, c, 4, 4]: of the critic's convolutions; bias [k]: the first one's; x [n, 3, h, w]. The other biases have
    no gradient: InstanceNorm subtracts them again, and the last shifts all scores alike. `norm` as in
    `losses.gradient_penalty`. The convolutions run in `dtype`, by default that of x.

    bf16 is as safe as double backward under autocast, with the same errors: 1 to 10 % of a photo's gradient, 20 % where
    it is flat. fp16 errs a third of that, but nothing guards its range.
    """
    with torch.autocast(x.device.type, enabled=False):
        layers = _layers(weights, padding, dtype or x.dtype)
        inputs, rstds = _forward(layers, bias, x)
        value, gradients, of_bias = _sweep(layers, inputs, rstds, (1.0,), norm, weight)
        return value, [_like(g, w) for g, w in zip(gradients, weights, strict=True)], _like(of_bias, bias)


@torch.no_grad()
def critic_gradients(
    weights: Sequence[Tensor],
    bias: Tensor,
    sharp: Tensor,
    restored: Tensor,
    x: Tensor,
    *,
    padding: int,
    norm: Norm = "sample",
    weight: float = 10.0,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """mean(D(restored)) - mean(D(sharp)), the penalty at x, and the gradients of their sum by the weights and by the
    first bias: a critic's update of WGAN-GP in one sweep.

    All pictures [n, 3, h, w]; the rest as for `penalty_gradients`. Here, too, no other bias has a gradient.
    """
    with torch.autocast(x.device.type, enabled=False):
        layers = _layers(weights, padding, dtype or x.dtype)
        inputs, rstds = _forward(layers, bias, torch.cat([x, restored, sharp]))
        _, of_restored, of_sharp = _wide(_convolved(layers[-1], inputs[-1])).chunk(3)
        pulls = (1.0, 1 / of_restored.numel(), -1 / of_sharp.numel())
        value, gradients, of_bias = _sweep(layers, inputs, rstds, pulls, norm, weight)
        found = [_like(g, w) for g, w in zip(gradients, weights, strict=True)]
        return of_restored.mean() - of_sharp.mean(), value, found, _like(of_bias, bias)


def _layers(weights: Sequence[Tensor], padding: int, dtype: torch.dtype) -> list[_Layer]:
    strides = [2] * (len(weights) - 2) + [1, 1]
    packed = (w.to(dtype, memory_format=torch.channels_last) for w in weights)
    return [_Layer(w, stride, padding) for w, stride in zip(packed, strides, strict=True)]


def _forward(layers: list[_Layer], bias: Tensor, x: Tensor) -> tuple[list[Tensor], Statistics]:
    """What each convolution sees, and 1 / deviation of the planes that InstanceNorm sees."""
    dtype = layers[0].weight.dtype
    inputs = [x.to(dtype, memory_format=torch.channels_last)]
    rstds: Statistics = {}
    for i, layer in enumerate(layers[:-1]):
        y = _wide(_convolved(layer, inputs[i], bias.to(dtype) if i == 0 else None))
        if i > 0:
            y, rstds[i] = _normalised(y)
        inputs.append(F.leaky_relu(y, SLOPE).to(dtype))
    return inputs, rstds


def _backward(
    layers: list[_Layer], inputs: list[Tensor], rstds: Statistics, pulls: Sequence[float]
) -> tuple[list[Tensor], Statistics, Tensor]:
    """Signals at the convolutions' outputs, the mean of each normalised plane times what reached it, and the gradient
    of the first pictures.

    The pictures are as many groups as there are `pulls`, the derivatives of the whole by each of a group's scores.
    """
    last, seen, first = layers[-1], inputs[-1], inputs[0].shape[0] // len(pulls)
    sides = [side + 2 * last.padding - 3 for side in seen.shape[2:]]
    signals = [torch.cat([seen.new_full((first, 1, *sides), pull) for pull in pulls])]
    products: Statistics = {}
    for i in reversed(range(len(layers) - 1)):
        y = _wide(inputs[i + 1])
        signal = _leak(_to_input(layers[i + 1], signals[0], y), y)
        if i in rstds:
            signal, products[i] = _norm_jacobian(signal, _unleak(y, y), rstds[i])
        signals.insert(0, signal.to(seen.dtype))
    return signals, products, _to_input(layers[0], signals[0][:first], inputs[0][:first])


def _tangents(
    layers: list[_Layer], inputs: list[Tensor], rstds: Statistics, direction: Tensor
) -> tuple[list[Tensor], Statistics]:
    """The tangents of `inputs`, and the mean of each normalised plane times the tangent that InstanceNorm saw there."""
    tangents = [direction.to(inputs[0].dtype)]
    moments: Statistics = {}
    for i, layer in enumerate(layers[:-1]):
        y = _wide(inputs[i + 1])
        t = _wide(_convolved(layer, tangents[i]))
        if i in rstds:
            t, moments[i] = _norm_jacobian(t, _unleak(y, y), rstds[i])
        tangents.append(_leak(t, y).to(inputs[0].dtype))
    return tangents, moments


def _sweep(
    layers: list[_Layer],
    inputs: list[Tensor],
    rstds: Statistics,
    pulls: Sequence[float],
    norm: Norm,
    weight: float,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """The penalty at the first group of pictures, and the gradients of it and of the other groups' scores, see
    `_backward`, by the weights and by the first bias."""
    signals, products, gradient = _backward(layers, inputs, rstds, pulls)
    length = _length(gradient, norm)
    share = torch.where(length > 0, 1 - 1 / length, 0) * (2 * weight / length.numel())
    n = gradient.shape[0]
    seen = [x[:n] for x in inputs]
    rstds, products = ({i: s[:n] for i, s in each.items()} for each in (rstds, products))
    tangents, moments = _tangents(layers, seen, rstds, share * gradient)

    gradients: list[Tensor] = []
    adjoint = torch.zeros_like(signals[-1][:n])
    for i in reversed(range(len(layers))):
        if i + 1 < len(layers):
            y = _wide(seen[i + 1])
            adjoint = _leak(_to_input(layers[i + 1], adjoint, y), y)
            if i in rstds:
                plane, t, signal = _unleak(y, y), _unleak(_wide(tangents[i + 1]), y), _wide(signals[i][:n])
                bend = _norm_bend(plane, rstds[i], signal, t, products[i], moments[i])
                adjoint = _norm_jacobian(adjoint, plane, rstds[i])[0] - bend
            adjoint = adjoint.to(seen[0].dtype)
        pairs = torch.cat([signals[i], adjoint]), torch.cat([tangents[i], inputs[i][n:], seen[i]])
        gradients.insert(0, _to_weight(layers[i], *pairs))
    of_bias = _wide(torch.cat([signals[0][n:], adjoint])).sum((0, 2, 3))
    return _value(length, weight), gradients, of_bias


def _length(gradient: Tensor, norm: Norm) -> Tensor:
    """|g| of a gradient [n, 3, h, w]: [n, 1, 1, 1] a picture, [n, 1, h, w] a pixel."""
    return gradient.square().sum((1, 2, 3) if norm == "sample" else 1, keepdim=True).sqrt()


def _value(length: Tensor, weight: float) -> Tensor:
    return weight * (length - 1).square().mean()


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _like(x: Tensor, wanted: Tensor) -> Tensor:
    return torch.empty_like(wanted).copy_(x)


def _mean(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)


def _normalised(z: Tensor) -> tuple[Tensor, Tensor]:
    """`reference.instance_norm` of z [n, k, h, w], and 1 / deviation [n, k, 1, 1]."""
    centred = z - z[..., :1, :1]
    centred = centred - _mean(centred)
    rstd = (_mean(centred.square()) + EPS).rsqrt()
    return centred * rstd, rstd


def _norm_jacobian(v: Tensor, plane: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """J v = rstd (v - mean(v) - plane mean(plane v)), J the Jacobian of InstanceNorm, which is symmetric, where that
    gave `plane`; and mean(plane v)."""
    product = _mean(plane * v)
    return rstd * (v - _mean(v) - plane * product), product


def _norm_bend(plane: Tensor, rstd: Tensor, signal: Tensor, tangent: Tensor, a: Tensor, m: Tensor) -> Tensor:
    """Minus the derivative of <e, J t>, e and t held fixed, by what InstanceNorm saw:

        rstd (m J e + a J t + k plane),   k = mean((J e) (J t)) / rstd + a m eps rstd^3

    with signal = J e, tangent = J t, a = mean(plane e), m = mean(plane t).
    """
    k = _mean(signal * tangent) / rstd + a * m * EPS * rstd**3
    return rstd * (m * signal + a * tangent + k * plane)


def _leak(v: Tensor, y: Tensor) -> Tensor:
    """v times the slope of LeakyReLU where it gave y."""
    return torch.ops.aten.leaky_relu_backward(v, y, SLOPE, False)


def _unleak(v: Tensor, y: Tensor) -> Tensor:
    """v over the slope of LeakyReLU where it gave y."""
    return torch.ops.aten.leaky_relu_backward(v, y, 1 / SLOPE, False)


def _convolved(layer: _Layer, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(x, layer.weight, bias, stride=layer.stride, padding=layer.padding)


def _to_input(layer: _Layer, signal: Tensor, x: Tensor) -> Tensor:
    """The gradient, wide, by a convolution's input, that is shaped like x."""
    return _wide(_conv_backward(layer, signal, x.to(signal.dtype), [True, False, False])[0])


def _to_weight(layer: _Layer, signal: Tensor, x: Tensor) -> Tensor:
    return _conv_backward(layer, signal, x, [False, True, False])[1]


def _conv_backward(layer: _Layer, signal: Tensor, x: Tensor, wanted: list[bool]) -> Sequence[Tensor]:
    """Gradients by input, weight and bias, those that are wanted."""
    geometry = [layer.stride] * 2, [layer.padding] * 2, [1, 1], False, [0, 0], 1  # no dilation, not transposed, 1 group
    return torch.ops.aten.convolution_backward(signal, x, layer.weight, None, *geometry, wanted)
