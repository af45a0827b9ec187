"""The gradient penalty of `nn.Critic` and its weight gradients without double backward, for six forward passes of work.

The critic D is a chain of convolutions z = W x + b, InstanceNorm (after all but the first and last) and LeakyReLU. With
g = grad D(x), of the sum of a picture's scores, and u = dP/dg held fixed, the gradient of

    P = weight * mean((|g| - 1)^2)

by the weights is the gradient of <u, g>, the derivative of D along u. Four passes compute it:

    1. forward: x at each convolution's input
    2. backward from the scores: the signal lambda at each convolution's output, and g
    3. forward from u: the tangent t of x. It meets the transposed Jacobians of pass 2, so its adjoint at a
       convolution's output is the signal lambda of pass 2
    4. backward: the adjoint mu of x, through InstanceNorm's second derivative

A weight's gradient is then one convolution gradient over both pairs, (lambda, t) and (mu, x). Pictures whose scores
are part of the critic's loss go through passes 1 and 2 in the same batch, with pairs (lambda, x).

Activations are kept in the dtype of the convolutions; statistics and norms are fp32, or fp64 for fp64 pictures.
InstanceNorm and LeakyReLU with all their derivatives are kernels on CUDA (`KernelNormAct`), csrc/ on a CPU
(`NativeNormAct`), elsewhere plain torch (`PlainNormAct`). Nothing waits for a GPU or branches on a value: CUDA graphs
take these functions whole, and so does torch.compile, which sees plain torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from deblurgan.config import Norm
from deblurgan.device import kernels_available
from deblurgan.kernels.config import NormActInputs, PaddedGradient, Reduced
from deblurgan.ops.native_norm import NativeNormAct, takes
from deblurgan.reference import EPS, SLOPE


class _Layer(NamedTuple):
    weight: Tensor  # [k, c, 4, 4], in the dtype of the convolutions
    stride: int
    padding: int


class NormAct(Protocol):
    """InstanceNorm and LeakyReLU of one layer at what they saw, z [n, k, h, w], and their derivatives there.

    With them come sums, a few numbers a plane that `adjoint` wants again. Pictures are [n, k, h, w] in z's dtype.
    """

    def signal(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient by z where v is that of the result, and its sums."""

    def tangent(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The tangent of the result where t is that of z, and its sums."""

    def adjoint(self, v: Tensor, signal: Tensor, signal_sums: Tensor, tangent: Tensor, tangent_sums: Tensor) -> Tensor:
        """The gradient by z where v is that of the result, and that of <e, tangent>, with what `signal` made of e."""

    def first(self, n: int) -> NormAct:
        """The same of the first n pictures."""


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
        inputs, norms = _forward(layers, bias, x)
        _, _, gradient = _backward(layers, inputs, norms)
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
        inputs, norms = _forward(layers, bias, x)
        value, gradients, of_bias = _penalty_passes(layers, inputs, norms, norm, weight)
        return value, _like(gradients, weights), _like([of_bias], [bias])[0]


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
    first bias: all of a WGAN-GP critic's update, with shared forward and backward passes.

    All pictures [n, 3, h, w]; the rest as for `penalty_gradients`. Here, too, no other bias has a gradient: the last
    one's cancel. The scores' share of the signals is as small as one over their number: too small for fp16.
    """
    with torch.autocast(x.device.type, enabled=False):
        layers = _layers(weights, padding, dtype or x.dtype)
        inputs, norms = _forward(layers, bias, torch.cat([x, restored, sharp]))
        _, of_restored, of_sharp = _wide(_convolved(layers[-1], inputs[-1])).chunk(3)
        share = 1 / of_sharp.numel()
        value, gradients, of_bias = _penalty_passes(layers, inputs, norms, norm, weight, (share, -share))
        return of_restored.mean() - of_sharp.mean(), value, _like(gradients, weights), _like([of_bias], [bias])[0]


def _layers(weights: Sequence[Tensor], padding: int, dtype: torch.dtype) -> list[_Layer]:
    strides = [2] * (len(weights) - 2) + [1, 1]
    packed = [torch.empty_like(w, dtype=dtype, memory_format=torch.channels_last) for w in weights]
    torch._foreach_copy_(packed, list(weights))
    return [_Layer(w, stride, padding) for w, stride in zip(packed, strides, strict=True)]


def _forward(layers: list[_Layer], bias: Tensor, x: Tensor) -> tuple[list[Tensor], dict[int, NormAct]]:
    """What each convolution sees, and the norms by the number of the layer that they follow."""
    dtype = layers[0].weight.dtype
    wanted = (torch.float16, torch.bfloat16, torch.float32)
    kernels = dtype in wanted and not torch.compiler.is_compiling() and kernels_available(x.device) and x.numel() > 0
    make = KernelNormAct.make if kernels else NativeNormAct.make if takes(x.device, dtype) else PlainNormAct.make
    inputs = [x.to(dtype, memory_format=torch.channels_last)]
    norms: dict[int, NormAct] = {}
    for i, layer in enumerate(layers[:-1]):
        z = _convolved(layer, inputs[i], bias.to(dtype) if i == 0 else None)
        if i == 0:
            inputs.append(F.leaky_relu(z, SLOPE))
        else:
            y, norms[i] = make(z)
            inputs.append(y)
    return inputs, norms


def _backward(
    layers: list[_Layer], inputs: list[Tensor], norms: dict[int, NormAct], score_weights: Sequence[float] = ()
) -> tuple[list[Tensor], dict[int, Tensor], Tensor]:
    """Signals at the convolutions' outputs, the norms' sums of them, and the gradient of the first pictures.

    Those are from the sum of the first pictures' scores; each of `score_weights` is the derivative of the loss by
    the scores of as many more pictures.
    """
    last, seen, n = layers[-1], inputs[-1], inputs[0].shape[0] // (1 + len(score_weights))
    ones = seen.new_ones(n, 1, *(side + 2 * last.padding - 3 for side in seen.shape[2:]))
    signals = [torch.cat([ones, *(ones * weight for weight in score_weights)])]
    sums: dict[int, Tensor] = {}
    for i in reversed(range(len(layers) - 1)):
        signal = _to_input(layers[i + 1], signals[0], inputs[i + 1])
        if i in norms:
            signal, sums[i] = norms[i].signal(signal)
        else:
            signal = _leak(signal, inputs[i + 1])
        signals.insert(0, signal)
    return signals, sums, _wide(_to_input(layers[0], signals[0][:n], inputs[0][:n]))


def _tangents(
    layers: list[_Layer], inputs: list[Tensor], norms: dict[int, NormAct], direction: Tensor
) -> tuple[list[Tensor], dict[int, Tensor]]:
    """The tangents of `inputs`, and the norms' sums of them."""
    tangents = [direction.to(inputs[0].dtype)]
    sums: dict[int, Tensor] = {}
    for i, layer in enumerate(layers[:-1]):
        t = _convolved(layer, tangents[i])
        if i in norms:
            t, sums[i] = norms[i].tangent(t)
        else:
            t = _leak(t, inputs[i + 1])
        tangents.append(t)
    return tangents, sums


def _penalty_passes(
    layers: list[_Layer],
    inputs: list[Tensor],
    norms: dict[int, NormAct],
    norm: Norm,
    weight: float,
    score_weights: Sequence[float] = (),
) -> tuple[Tensor, list[Tensor], Tensor]:
    """The penalty at the first pictures, and the gradients of it and of the other pictures' scores, see `_backward`, by
    the weights and by the first bias."""
    signals, signal_sums, gradient = _backward(layers, inputs, norms, score_weights)
    length = _length(gradient, norm)
    share = torch.where(length > 0, 1 - 1 / length, 0) * (2 * weight / length.numel())
    n = gradient.shape[0]
    seen = [x[:n] for x in inputs]
    norms = {i: each.first(n) for i, each in norms.items()}
    tangents, tangent_sums = _tangents(layers, seen, norms, share * gradient)

    seen_last = torch.cat([tangents[-1], inputs[-1][n:]])  # the scores are linear in it: x has no pair
    gradients = [_to_weight(layers[-1], signals[-1], seen_last)]
    adjoint = torch.zeros_like(seen[-1])
    for i in reversed(range(len(layers) - 1)):
        if i in norms:
            pairs = signals[i][:n], signal_sums[i][:n], tangents[i + 1], tangent_sums[i]
            adjoint = norms[i].adjoint(adjoint, *pairs)
        else:
            adjoint = _leak(adjoint, seen[i + 1])
        outputs, sources = [signals[i], adjoint], [tangents[i], inputs[i][n:], seen[i]]
        gradients.insert(0, _to_weight(layers[i], torch.cat(outputs), torch.cat(sources)))
        if i > 0:
            adjoint = _to_input(layers[i], adjoint, seen[i])
    of_bias = _wide(torch.cat([signals[0][n:], adjoint])).sum((0, 2, 3))
    return _value(length, weight), gradients, of_bias


def _length(gradient: Tensor, norm: Norm) -> Tensor:
    """|g| of a gradient [n, 3, h, w]: [n, 1, 1, 1] a picture, [n, 1, h, w] a pixel."""
    return gradient.square().sum((1, 2, 3) if norm == "sample" else 1, keepdim=True).sqrt()


def _value(length: Tensor, weight: float) -> Tensor:
    return weight * (length - 1).square().mean()


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _like(given: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[Tensor]:
    """In the types and the memory formats of the wanted; one launch where these are those given."""
    made = [torch.empty_like(w) for w in wanted]
    torch._foreach_copy_(made, list(given))
    return made


def _mean(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)


class PlainNormAct(NamedTuple):
    """`NormAct` in plain torch."""

    y: Tensor  # the result, [n, k, h, w]
    rstd: Tensor  # 1 / deviation, [n, k, 1, 1]

    @staticmethod
    def make(z: Tensor) -> tuple[Tensor, PlainNormAct]:
        plane, rstd = _normalize(_wide(z))
        y = F.leaky_relu(plane, SLOPE).to(z.dtype)
        return y, PlainNormAct(y, rstd)

    def signal(self, v: Tensor) -> tuple[Tensor, Tensor]:
        y = _wide(self.y)
        signal, product = _norm_jacobian(_leak(_wide(v), y), _unleak(y, y), self.rstd)
        return signal.to(v.dtype), product

    def tangent(self, t: Tensor) -> tuple[Tensor, Tensor]:
        y = _wide(self.y)
        tangent, moment = _norm_jacobian(_wide(t), _unleak(y, y), self.rstd)
        return _leak(tangent, y).to(t.dtype), moment

    def adjoint(self, v: Tensor, signal: Tensor, signal_sums: Tensor, tangent: Tensor, tangent_sums: Tensor) -> Tensor:
        y = _wide(self.y)
        plane = _unleak(y, y)
        before_leak = _unleak(_wide(tangent), y)
        second = _norm_double_backward(plane, self.rstd, _wide(signal), before_leak, signal_sums, tangent_sums)
        return (_norm_jacobian(_leak(_wide(v), y), plane, self.rstd)[0] - second).to(v.dtype)

    def first(self, n: int) -> PlainNormAct:
        return PlainNormAct(self.y[:n], self.rstd[:n])


class KernelNormAct(NamedTuple):
    """`NormAct` in our kernels."""

    inputs: NormActInputs  # y is z as contiguous [n, h, w, k]

    @staticmethod
    def make(z: Tensor) -> tuple[Tensor, KernelNormAct]:
        from deblurgan.kernels.norm_act import norm_act
        from deblurgan.kernels.tile_stats import plane_stats

        rows = _rows(z)
        out = torch.empty_like(rows)
        with torch.cuda.device_of(z):
            inputs = NormActInputs(rows, plane_stats(rows, eps=EPS), SLOPE)
            norm_act(inputs, out)
        return _planes(out), KernelNormAct(inputs)

    def signal(self, v: Tensor) -> tuple[Tensor, Tensor]:
        from deblurgan.kernels.norm_act_grad import norm_act_grad, norm_act_reduce

        grad = _rows(v)
        out = torch.empty_like(grad)
        with torch.cuda.device_of(v):
            sums = norm_act_reduce(grad, self.inputs)
            norm_act_grad(grad, self.inputs, sums, PaddedGradient.unpadded(out))
        return _planes(out), sums

    def tangent(self, t: Tensor) -> tuple[Tensor, Tensor]:
        from deblurgan.kernels.norm_act_double_backward import norm_act_tangent
        from deblurgan.kernels.norm_act_grad import norm_act_reduce

        rows = _rows(t)
        out = torch.empty_like(rows)
        with torch.cuda.device_of(t):
            sums = norm_act_reduce(rows, self.inputs._replace(slope=1.0))
            norm_act_tangent(rows, self.inputs, sums, out)
        return _planes(out), sums

    def adjoint(self, v: Tensor, signal: Tensor, signal_sums: Tensor, tangent: Tensor, tangent_sums: Tensor) -> Tensor:
        from deblurgan.kernels.norm_act_double_backward import norm_act_double_backward

        rows = _rows(v)
        out = torch.empty_like(rows)
        pairs = {"signal": Reduced(_rows(signal), signal_sums), "tangent": Reduced(_rows(tangent), tangent_sums)}
        with torch.cuda.device_of(v):
            norm_act_double_backward(rows, self.inputs, **pairs, out=out, eps=EPS)
        return _planes(out)

    def first(self, n: int) -> KernelNormAct:
        y, stats = self.inputs.y, cast(Tensor, self.inputs.stats)
        return KernelNormAct(NormActInputs(y[:n], stats[:n], self.inputs.slope))


def _rows(x: Tensor) -> Tensor:
    """[n, k, h, w] -> [n, h, w, k], contiguous; without a copy where x is in channels_last."""
    return x.permute(0, 2, 3, 1).contiguous()


def _planes(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _normalize(z: Tensor) -> tuple[Tensor, Tensor]:
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


def _norm_double_backward(plane: Tensor, rstd: Tensor, signal: Tensor, tangent: Tensor, a: Tensor, m: Tensor) -> Tensor:
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
    """The gradient by a convolution's input, that is shaped like x."""
    return _conv_backward(layer, signal, x, [True, False, False])[0]


def _to_weight(layer: _Layer, signal: Tensor, x: Tensor) -> Tensor:
    return _conv_backward(layer, signal, x, [False, True, False])[1]


def _conv_backward(layer: _Layer, signal: Tensor, x: Tensor, wanted: list[bool]) -> Sequence[Tensor]:
    """Gradients by input, weight and bias, those that are wanted."""
    geometry = [layer.stride] * 2, [layer.padding] * 2, [1, 1], False, [0, 0], 1  # no dilation, not transposed, 1 group
    return torch.ops.aten.convolution_backward(signal, x, layer.weight, None, *geometry, wanted)
