"""The generator with gradients, in kernels: forward records, backward walks back.

Kept between the two: the picture, each convolution's raw result with its statistics, the residual stream before each
block and before the first transposed convolution, and the last tanh. All other activations are made again from these
when they are needed. Parameters may be of any type; the arithmetic is in half types or fp32, statistics and the sums of
gradients in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deblurgan import reference
from deblurgan.device import gpu_name
from deblurgan.generator import engine
from deblurgan.kernels.table import Choose, choice
from deblurgan.ops import convolution
from deblurgan.ops.convolution import HEAD, AmidZeros

ADVICE = "the fused generator is differentiable once: set generator.backend = 'reference' for more"


class Stage(NamedTuple):
    """A convolution with its norm and what follows."""

    name: str  # of its module
    kind: str  # of convolution.Layer
    border: reference.Border  # of the picture it reads
    relu: bool = True
    drop: int | None = None  # number of the block, where dropout follows
    residual: bool = False  # the stream before the block is added
    stream: bool = False  # the result is the residual stream


def stages(spec: engine.Spec) -> list[Stage]:
    """All but the last convolution, in order."""
    found = [Stage("stem", "stem", spec.border), Stage("down.0", "down", "zero")]
    found.append(Stage("down.1", "down", "zero", stream=True))
    for i in range(spec.blocks):
        name = f"blocks.{i}.conv"
        if spec.convs == 1:
            found.append(Stage(f"{name}1", "trunk", spec.border, residual=True, stream=True))
        else:
            found.append(Stage(f"{name}1", "trunk", spec.border, drop=i))
            found.append(Stage(f"{name}2", "trunk", spec.border, relu=False, residual=True, stream=True))
    return [*found, Stage("up.0", "up", "zero"), Stage("up.1", "up", "zero")]


class Kept(NamedTuple):
    """What a stage leaves for its gradient."""

    y: Tensor  # [n, h, w, c], the convolution's raw result
    stats: Tensor  # fp32 [n, 2, c]: mean, 1 / std
    weight: Tensor  # as cuDNN takes it, in the type of the products
    x: Tensor | None  # [n, h + 2, w + 2, c], the result, where it is the residual stream


class Gradient(NamedTuple):
    """The gradient [n, h, w, c] of a stage's result, the inside of a picture whose border received some too."""

    inside: Tensor
    width: int  # of that border, whose pixels mirror the inside's
    sums: Tensor | None = None  # fp32 [n, 2, c], of norm_act_reduce, where the convolution has taken them


class Tape:
    """The network of `spec` in `dtype` arithmetic. `choose` says how each layer and gradient runs, see kernels.table.

    Kinds of gradients are those of the layers with ".dgrad" or ".wgrad" behind, sizes are those of the layers.
    """

    def __init__(self, spec: engine.Spec, dtype: torch.dtype, choose: Choose, *, tf32: bool = False) -> None:
        self.spec, self.dtype, self.choose, self.tf32 = spec, dtype, choose, tf32
        self.stages = stages(spec)
        self.names = [f"{stage.name}.weight" for stage in self.stages] + ["head.weight", "head.bias"]

    def forward(
        self, image: Tensor, weights: Mapping[str, Tensor], counter: Tensor | None
    ) -> tuple[Tensor, list[Kept], Tensor]:
        """The restored picture, what each stage keeps, and the last tanh, fp32 [n, 3, h, w]."""
        from deblurgan.kernels.output_tail import folded, output_tail

        x = self._packed(image)
        before: Tensor | None = None  # the residual stream
        kept = []
        trunk = iter(convolution.trunk_layers(self._trunk(weights), self.dtype))
        for i, stage in enumerate(self.stages):
            layer = next(trunk) if stage.kind == "trunk" else self._layer(stage, weights)
            n, h, w, c = self._shape(stage, x, layer)
            config = convolution.fitting(layer, self.choose(stage.kind, n * h * w, self.dtype))
            room = 1 if config and config.form == "tma" else 0  # which writes as far apart as it reads
            out = self._empty(n, h + 2 * room, w + 2 * room, c, image)[:, :h, :w]
            y, stats = convolution.conv_stats(layer, x, out, config=config, tf32=self.tf32)
            x = self._activation(i, y, stats, counter, before if stage.residual else None)
            kept.append(Kept(y, stats, layer.library, x if stage.stream else None))
            if stage.stream:
                before = x[:, 1:-1, 1:-1]
        n, _, h, w = image.shape
        out = torch.empty_like(image)
        tanh = torch.empty(image.shape, device=image.device)
        config = self.choose("head", n * h * w, self.dtype)
        weight = folded(weights["head.weight"], config.block_n, self.dtype)
        bias = weights["head.bias"].float()
        output_tail(x, weight, bias, image, out, config=config, tf32=self.tf32, saved=tanh)
        return out, kept, tanh

    def backward(
        self,
        grad: Tensor,
        image: Tensor,
        weights: Mapping[str, Tensor],
        counter: Tensor | None,
        kept: list[Kept],
        tanh: Tensor,
        wanted: set[str],
    ) -> dict[str, Tensor]:
        """The gradients of the parameters in `wanted`, and of "image", from that of the result."""
        found: dict[str, Tensor] = {}
        x = self._input(len(self.stages), image, kept, counter)
        g = self._head(grad, image, x, weights, counter, tanh, wanted, found)
        adjoints = self._trunk_adjoints(weights, kept)
        carry: Tensor | None = None  # of the stream after a block, which is one of the stream before it too
        for i in reversed(range(len(self.stages))):
            stage, (y, stats, half, _) = self.stages[i], kept[i]
            weight = weights[f"{stage.name}.weight"]
            dgrad, wgrad = convolution.gradient_configs(self.choose, stage.kind, weight, y)
            dy = convolution.zeros_for(stage.kind, stage.border, dgrad=dgrad, wgrad=wgrad, shape=y.shape, like=y)
            carry = self._back_through_norm(stage, g, carry, y, stats, counter, dy)
            x = self._input(i, image, kept, counter)
            if f"{stage.name}.weight" in wanted:
                made = convolution.weight_gradient(stage.kind, weight, x, dy, config=wgrad, tf32=self.tf32)
                found[f"{stage.name}.weight"] = made
            if i > 0:
                layer = adjoints.pop() if stage.kind == "trunk" and dgrad else None
                known = weight if dgrad else half
                g = self._result_gradient(i - 1, counter, stage.kind, known, x, dy, stage.border, dgrad, layer)
            elif "image" in wanted:
                found["image"] += _unpacked(weight, dy.inside, self.spec.border).to(image.dtype)
        return {**found, **_like({name: found[name] for name in weights if name in found}, weights)}

    def _head(
        self,
        grad: Tensor,
        image: Tensor,
        x: Tensor,
        weights: Mapping[str, Tensor],
        counter: Tensor | None,
        tanh: Tensor,
        wanted: set[str],
        found: dict[str, Tensor],
    ) -> Gradient:
        """Back through the last convolution and all that follows it."""
        from deblurgan.kernels.output_tail_grad import output_tail_grad

        (n, _, h, w), border, weight = image.shape, self.spec.border, weights["head.weight"]
        dz = convolution.head_zeros(n, h, w, border=border, like=x)
        bias = output_tail_grad(grad, image, tanh, dz.whole, width=dz.top)
        dgrad, wgrad = convolution.gradient_configs(self.choose, "head", weight, dz.inside)
        if "head.bias" in wanted:
            found["head.bias"] = bias
        if "head.weight" in wanted:
            made = convolution.weight_gradient("head", weight, x, dz, config=wgrad, tf32=self.tf32)
            found["head.weight"] = made
        if "image" in wanted:
            found["image"] = torch.where((image + tanh).abs() <= 1, grad, 0)
        return self._result_gradient(len(self.stages) - 1, counter, "head", weight, x, dz, border, dgrad, None)

    def _result_gradient(
        self,
        i: int,
        counter: Tensor | None,
        kind: str,
        weight: Tensor,
        x: Tensor,
        dy: AmidZeros,
        border: reference.Border,
        config: Any | None,
        layer: convolution.Layer | None,
    ) -> Gradient:
        """The gradient of x, stage i's result, from dy of the layer of `kind` and `weight` that read it.

        Our kernel takes the sums for the norm before x on the way, where x has no gradient but this one.
        """
        options: dict[str, Any] = {"border": border, "config": config, "tf32": self.tf32, "layer": layer}
        sums: Tensor | None = None
        if config is None or self.stages[i].stream:
            made = convolution.data_gradient(kind, weight, x, dy, **options)
        else:
            kept = 1 / (1 - self._dropout(self.stages[i], counter).get("drop", 0.0))
            made, sums = convolution.activation_gradient(kind, weight, x, dy, kept=kept, **options)
        if not convolution.has_reflected(kind, border):
            return Gradient(made, 0, sums)
        width = HEAD if kind == "head" else 1
        return Gradient(made[:, width:-width, width:-width], width, sums)

    def _back_through_norm(
        self,
        stage: Stage,
        g: Gradient,
        carry: Tensor | None,
        y: Tensor,
        stats: Tensor,
        counter: Tensor | None,
        dy: AmidZeros,
    ) -> Tensor | None:
        """Fills dy with the gradient of y. The result is what the stream carries past the convolutions before."""
        from deblurgan.kernels.norm_act_grad import norm_act_grad, norm_act_reduce

        options: dict[str, Any] = {"relu": stage.relu, **self._dropout(stage, counter)}
        extra = carry if stage.stream else None
        total = extra
        if stage.residual and extra is None and g.width > 0:
            total = torch.empty(y.shape, dtype=y.dtype, device=y.device)
        sums = g.sums
        if sums is None:
            sums = norm_act_reduce(g.inside, y, stats, width=g.width, extra=extra, total=total, **options)
        if total is not None:
            g = Gradient(total, 0)
        place = {"rows": dy.rows, "top": dy.top, "left": dy.left}
        norm_act_grad(g.inside, y, stats, sums, dy.memory, width=g.width, **place, **options)
        if stage.residual:
            return g.inside
        return None if stage.stream else carry

    def _input(self, i: int, image: Tensor, kept: list[Kept], counter: Tensor | None) -> Tensor:
        """The whole bordered picture that stage i read."""
        if i == 0:
            return self._packed(image)
        y, stats, _, x = kept[i - 1]
        return self._activation(i - 1, y, stats, counter, None) if x is None else x

    def _activation(self, i: int, y: Tensor, stats: Tensor, counter: Tensor | None, residual: Tensor | None) -> Tensor:
        """The result of stage i within the border that the next layer reads."""
        from deblurgan.kernels.norm_act import norm_act

        stage, last = self.stages[i], i == len(self.stages) - 1
        border, width = (self.spec.border, HEAD) if last else (self.stages[i + 1].border, 1)
        n, h, w, c = y.shape
        whole = self._empty(n, h + 2 * width, w + 2 * width, c, y)
        norm_act(
            y,
            stats,
            whole[:, width:-width, width:-width],
            relu=stage.relu,
            residual=residual,
            border=border,
            width=width,
            **self._dropout(stage, counter),
        )
        return whole

    def _dropout(self, stage: Stage, counter: Tensor | None) -> dict[str, Any]:
        if stage.drop is None or counter is None:
            return {}
        return {"drop": self.spec.dropout, "counter": counter, "stream": stage.drop}

    def _trunk(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        return [weights[f"{stage.name}.weight"] for stage in self.stages if stage.kind == "trunk"]

    def _trunk_adjoints(self, weights: Mapping[str, Tensor], kept: list[Kept]) -> list[convolution.Layer]:
        """Of the trunk's layers in order, where our kernel makes their gradients; else none."""
        trunk = self._trunk(weights)
        places = [y for stage, (y, *_) in zip(self.stages, kept, strict=True) if stage.kind == "trunk"]
        if not trunk or convolution.gradient_configs(self.choose, "trunk", trunk[0], places[0])[0] is None:
            return []
        return convolution.trunk_adjoints(trunk, self.dtype)

    def _layer(self, stage: Stage, weights: Mapping[str, Tensor]) -> convolution.Layer:
        weight = weights[f"{stage.name}.weight"]
        if stage.kind == "stem":
            return convolution.stem(weight, self.dtype)
        if stage.kind == "up":
            return convolution.up(weight, self.dtype)
        return convolution.plain(stage.kind, weight, self.dtype, stride=2 if stage.kind == "down" else 1)

    def _shape(self, stage: Stage, x: Tensor, layer: convolution.Layer) -> tuple[int, int, int, int]:
        """Of what the stage's convolution makes of x, whole with its border."""
        n, h, w = x.shape[:3]
        if stage.kind == "stem":
            h, w = h - 6, w - 7
        else:
            h, w = (int((side - 2) * {"down": 0.5, "trunk": 1, "up": 2}[stage.kind]) for side in (h, w))
        return n, h, w, layer.packed.shape[0]

    def _packed(self, image: Tensor) -> Tensor:
        from deblurgan.kernels.pack_image import pack_image

        n, _, h, w = image.shape
        packed = self._empty(n, h + 6, w + 7, 8, image)
        pack_image(image, packed, border=self.spec.border, width=3)
        return packed

    def _empty(self, n: int, h: int, w: int, c: int, like: Tensor) -> Tensor:
        return torch.empty(n, h, w, c, dtype=self.dtype, device=like.device)


def _like(found: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients as the weights are, in type and in memory: those of a type in one launch, where they lie alike."""
    wanted = {name: torch.empty_like(weights[name]) for name in found}
    for dtype in {gradient.dtype for gradient in found.values()}:
        names = [name for name in found if found[name].dtype == dtype]
        torch._foreach_copy_([wanted[name] for name in names], [found[name] for name in names])
    return wanted


def _unpacked(weight: Tensor, dy: Tensor, border: reference.Border) -> Tensor:
    """The gradient of the picture [n, 3, h, w] that the first convolution read, fp32, from that of its result."""
    whole = torch.nn.functional.conv_transpose2d(dy.permute(0, 3, 1, 2), weight.to(dy.dtype)).float()
    b = weight.shape[2] // 2
    return convolution.folded(whole, b) if border == "reflect" else whole[:, :, b:-b, b:-b]


class _Restore(torch.autograd.Function):
    """The whole network as one operation."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, counter: Tensor | None, image: Tensor, *parameters: Tensor) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            out, kept, tanh = tape.forward(image, dict(zip(tape.names, parameters, strict=True)), counter)
        ctx.tape = tape
        ctx.save_for_backward(counter, image, tanh, *parameters, *(tensor for stage in kept for tensor in stage))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tape: Tape = ctx.tape
        counter, image, tanh, *rest = ctx.saved_tensors
        parameters, rest = rest[: len(tape.names)], rest[len(tape.names) :]
        fields = len(Kept._fields)
        kept = [Kept(*rest[i : i + fields]) for i in range(0, len(rest), fields)]
        names = ["image", *tape.names]
        wanted = {name for name, needed in zip(names, ctx.needs_input_grad[2:], strict=True) if needed}
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            found = tape.backward(
                grads[0], image, dict(zip(tape.names, parameters, strict=True)), counter, kept, tanh, wanted
            )
        results = [found.get(name) for name in names]
        if torch.is_grad_enabled():  # somebody may differentiate these again
            inputs = [tensor for tensor in (image, *parameters) if tensor.requires_grad]
            made = iter(_Once.apply(len(inputs), *inputs, *(result for result in results if result is not None)))
            results = [None if result is None else next(made) for result in results]
        return None, None, *results


class _Once(torch.autograd.Function):
    """Gradients that depend on `inputs` in a way that is not known: asking for it raises."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors[count:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(ADVICE)


def restore(
    spec: engine.Spec,
    parameters: Mapping[str, Tensor],
    image: Tensor,
    *,
    dtype: torch.dtype,
    counter: Tensor | None = None,
    choose: Choose | None = None,
    tf32: bool = False,
) -> Tensor:
    """The generator of `spec` and `parameters` on image [n, 3, h, w] in [-1, 1], n at least 1, with its gradient.

    `counter`, int64 [2], switches dropout on and names its masks: see ops.dropout_mask. Biases before a norm have no
    effect and get no gradient. The gradient has no gradient: RuntimeError.
    """
    with torch.cuda.device_of(image):
        tape = Tape(spec, dtype, choose or choice(gpu_name(image.device)), tf32=tf32)
        found: Tensor = _Restore.apply(tape, counter, image, *(parameters[name] for name in tape.names))
        return found
