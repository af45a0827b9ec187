"""The generator with gradients, in our kernels: the forward pass records, the backward pass walks back.

Between the two are saved: the picture, each convolution's pre-norm output with its statistics, the residual before each
block and before the first transposed convolution, and the last tanh. All other activations are recomputed from these
when they are needed. Parameters may be of any type; the arithmetic is in half types or fp32, statistics and the sums of
gradients in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deblurgan.kernels.config import PACKED_CHANNELS, Border, Dropout, NormActInputs, PaddedGradient
from deblurgan.kernels.table import PickConfig, config_picker, current_gpu, head_config
from deblurgan.ops import conv_grad
from deblurgan.ops.conv import conv_memory, conv_stats
from deblurgan.ops.conv_grad import Convolution, GradientConfigs
from deblurgan.ops.layers import Layer, conv_shape, layer_of, trunk_layers
from deblurgan.ops.norm import SLOPES
from deblurgan.spec import GeneratorSpec, Stage

ADVICE = "the fused generator is differentiable once: set generator.backend = 'reference' for more"


class SavedStage(NamedTuple):
    """What a stage saves for its gradient."""

    y: Tensor  # [n, h, w, c], the convolution's pre-norm output
    stats: Tensor  # fp32 [n, 2, c]: mean, 1 / std
    weight: Tensor  # as cuDNN takes it, in the type of the products
    x: Tensor | None  # [n, h + 2b, w + 2b, c], the stage's output, where it is the residual


class Record(NamedTuple):
    """What a forward pass saves."""

    image: Tensor
    counter: Tensor | None  # of dropout
    tanh: Tensor  # fp32 [n, 3, h, w]
    stages: list[SavedStage]


class Gradient(NamedTuple):
    """The gradient [n, h, w, c] of a stage's output, the inside of a picture whose border received some too."""

    inside: Tensor
    width: int  # of that border, whose pixels mirror the inside's
    sums: Tensor | None = None  # fp32 [n, 2, c], of norm_act_reduce, where the convolution has taken them


class Tape:
    """The network of `spec` in `dtype` arithmetic.

    `pick_config` says how each layer and gradient runs, see kernels.table: kinds of gradients are those of the layers
    with ".dgrad" or ".wgrad" appended, sizes are those of the layers.
    """

    def __init__(self, spec: GeneratorSpec, dtype: torch.dtype, pick_config: PickConfig, *, tf32: bool = False) -> None:
        self.spec, self.dtype, self.pick_config, self.tf32 = spec, dtype, pick_config, tf32
        self.stages = spec.stages[:-1]
        self.head = spec.stages[-1]
        self.names = [f"{stage.name}.weight" for stage in spec.stages] + ["head.bias"]
        self.trunk_names = [f"{stage.name}.weight" for stage in self.stages if stage.kind == "trunk"]

    def forward(self, image: Tensor, weights: Mapping[str, Tensor], counter: Tensor | None) -> tuple[Tensor, Record]:
        """The restored picture, and what its gradient needs."""
        x, residual, saved = self.packed(image), None, []
        trunk = iter(trunk_layers([weights[name] for name in self.trunk_names], self.dtype))
        for i, stage in enumerate(self.stages):
            layer = next(trunk) if stage.kind == "trunk" else self._layer(stage, weights)
            y, stats = self._conv(stage, layer, x, image)
            x = self.activation(i, y, stats, counter, residual if stage.adds_residual else None)
            saved.append(SavedStage(y, stats, layer.library, x if stage.is_residual else None))
            if stage.is_residual:
                halo = self._following(i).halo
                residual = x[:, halo:-halo, halo:-halo]
        out, tanh = self._tail(x, image, weights)
        return out, Record(image, counter, tanh, saved)

    def _layer(self, stage: Stage, weights: Mapping[str, Tensor]) -> Layer:
        return layer_of(stage, weights[f"{stage.name}.weight"], self.dtype)

    def _conv(self, stage: Stage, layer: Layer, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        n, _, h, w = image.shape
        config = layer.fitting(self.pick_config(conv_shape(stage, n * h * w, self.dtype)))
        h, w = h // stage.scale_out, w // stage.scale_out
        out = conv_memory(layer, n, h, w, config=config, like=x)
        return conv_stats(layer, x, out, config=config, tf32=self.tf32)

    def _tail(self, x: Tensor, image: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The restored picture and the tanh before it, from the whole bordered x."""
        from deblurgan.kernels.output_tail import output_tail, pack_tail_weight

        n, _, h, w = image.shape
        out = torch.empty_like(image)
        tanh = torch.empty(image.shape, dtype=torch.float32, device=image.device)
        config = head_config(self.pick_config, conv_shape(self.head, n * h * w, self.dtype))
        weight = pack_tail_weight(weights["head.weight"], config.block_n, self.dtype)
        output_tail(x, weight, weights["head.bias"].float(), image, out, config=config, tf32=self.tf32, saved=tanh)
        return out, tanh

    def backward(
        self, grad: Tensor, record: Record, weights: Mapping[str, Tensor], wanted: set[str]
    ) -> dict[str, Tensor]:
        """The gradients by the parameters in `wanted`, and by "image", from that by the output."""
        found = BackwardPass(self, record, weights, wanted).run(grad)
        return {**found, **_laid_out({name: found[name] for name in weights if name in found}, weights)}

    def stage_input(self, i: int, record: Record) -> Tensor:
        """The whole bordered picture that stage i read, recomputed unless it is saved."""
        if i == 0:
            return self.packed(record.image)
        y, stats, _, x = record.stages[i - 1]
        return self.activation(i - 1, y, stats, record.counter, None) if x is None else x

    def activation(self, i: int, y: Tensor, stats: Tensor, counter: Tensor | None, residual: Tensor | None) -> Tensor:
        """The output of stage i within the border that the next stage reads."""
        from deblurgan.kernels.norm_act import norm_act

        following = self._following(i)
        halo = following.halo
        n, h, w, c = y.shape
        whole = self._empty(n, h + 2 * halo, w + 2 * halo, c, y)
        inputs = self.norm_act_inputs(i, y, stats, counter)
        border = Border(following.border, halo)
        norm_act(inputs, whole[:, halo:-halo, halo:-halo], residual=residual, border=border)
        return whole

    def norm_act_inputs(self, i: int, y: Tensor, stats: Tensor, counter: Tensor | None) -> NormActInputs:
        """What norm_act reads in stage i."""
        stage, dropout = self.stages[i], None
        if stage.dropout is not None and counter is not None:
            dropout = Dropout(self.spec.dropout, counter, stage.dropout)
        return NormActInputs(y, stats, SLOPES[stage.act], dropout)

    def packed(self, image: Tensor) -> Tensor:
        """The picture as the first convolution reads it."""
        from deblurgan.kernels.pack_image import pack_image

        (n, _, h, w), halo = image.shape, self.stages[0].halo
        packed = self._empty(n, h + 2 * halo, w + 2 * halo + 1, PACKED_CHANNELS, image)
        pack_image(image, packed, border=Border(self.spec.border, halo))
        return packed

    def _following(self, i: int) -> Stage:
        return self.spec.stages[i + 1]

    def _empty(self, n: int, h: int, w: int, c: int, like: Tensor) -> Tensor:
        return torch.empty(n, h, w, c, dtype=self.dtype, device=like.device)


class BackwardPass:
    """One walk back over a record. `found` collects the gradients that are wanted."""

    def __init__(self, tape: Tape, record: Record, weights: Mapping[str, Tensor], wanted: set[str]) -> None:
        self.tape, self.record, self.weights, self.wanted = tape, record, weights, wanted
        self.found: dict[str, Tensor] = {}
        self.residual_gradient: Tensor | None = None  # by the residual after a block, and so by the one before it
        self.adjoints = self._trunk_adjoints()

    def run(self, grad: Tensor) -> dict[str, Tensor]:
        """The gradients, from that by the restored picture."""
        g = self._head(grad)
        for i in reversed(range(len(self.tape.stages))):
            dy, conv, configs = self._through_norm(i, g)
            x = self.tape.stage_input(i, self.record)
            self._weight(self.tape.stages[i].name, conv, x, dy, configs)
            if i > 0:
                g = self._through_conv(i, conv, x, dy, configs)
            elif "image" in self.wanted:
                by_stem = _unpacked_gradient(self._conv_of(self.tape.stages[0]), dy.inside)
                self.found["image"] += by_stem.to(self.record.image.dtype)
        return self.found

    def _conv_of(self, stage: Stage) -> Convolution:
        return Convolution(stage.kind, self.weights[f"{stage.name}.weight"], stage.border)

    def _weight(self, name: str, conv: Convolution, x: Tensor, dy: PaddedGradient, configs: GradientConfigs) -> None:
        if f"{name}.weight" in self.wanted:
            gradient = conv_grad.weight_gradient(conv, x, dy, config=configs.wgrad, tf32=self.tape.tf32)
            self.found[f"{name}.weight"] = gradient

    def _head(self, grad: Tensor) -> Gradient:
        """Back through the last convolution and all that follows it."""
        from deblurgan.kernels.output_tail_grad import output_tail_grad

        image, tanh = self.record.image, self.record.tanh
        x = self.tape.stage_input(len(self.tape.stages), self.record)
        conv = self._conv_of(self.tape.head)
        n, _, h, w = image.shape
        dz = conv_grad.head_output_gradient(conv, n, h, w, like=x)
        by_bias = output_tail_grad(grad, image, tanh, dz)
        if "head.bias" in self.wanted:
            self.found["head.bias"] = by_bias
        configs = conv_grad.gradient_configs(self.tape.pick_config, conv, dz.inside)
        self._weight("head", conv, x, dz, configs)
        if "image" in self.wanted:
            self.found["image"] = torch.where((image + tanh).abs() <= 1, grad, 0)
        return self._through_conv(len(self.tape.stages), conv, x, dz, configs)

    def _through_conv(
        self, i: int, conv: Convolution, x: Tensor, dy: PaddedGradient, configs: GradientConfigs
    ) -> Gradient:
        """The gradient by x, which is the output of stage i - 1 and was read by `conv`, from dy of its output.

        Our kernel takes the sums for the norm before x on the way, where x is relu(xhat) and has no other gradient.
        """
        before, config, tf32 = self.tape.stages[i - 1], configs.dgrad, self.tape.tf32
        sums: Tensor | None = None
        if config is None:
            if i < len(self.record.stages):
                conv = conv._replace(weight=self.record.stages[i].weight)  # in the type of the products already
            gradient = conv_grad.input_gradient(conv, x, dy, config=None, tf32=tf32)
        else:
            adjoint = self.adjoints.pop() if conv.kind == "trunk" else None
            if before.is_residual or before.act != "relu":
                gradient = conv_grad.input_gradient(conv, x, dy, config=config, tf32=tf32, adjoint=adjoint)
            else:
                dropout = self._inputs(i - 1).dropout
                scale = dropout.scale if dropout else 1.0
                gradient, sums = conv_grad.activation_gradient(
                    conv, x, dy, config=config, tf32=tf32, dropout_scale=scale, adjoint=adjoint
                )
        if not conv.reads_reflected_border:
            return Gradient(gradient, 0, sums)
        halo = conv.halo
        return Gradient(gradient[:, halo:-halo, halo:-halo], halo, sums)

    def _through_norm(self, i: int, g: Gradient) -> tuple[PaddedGradient, Convolution, GradientConfigs]:
        """The gradient by stage i's pre-norm output from that by its output; its convolution, and how that is run."""
        from deblurgan.kernels.norm_act_grad import norm_act_grad, norm_act_reduce

        stage, y = self.tape.stages[i], self.record.stages[i].y
        conv = self._conv_of(stage)
        configs = conv_grad.gradient_configs(self.tape.pick_config, conv, y)
        dy = conv_grad.output_gradient(conv, configs, y.shape, like=y)
        inputs = self._inputs(i)
        extra = self.residual_gradient if stage.is_residual else None
        total = extra
        if stage.adds_residual and extra is None and g.width > 0:
            total = torch.empty(y.shape, dtype=y.dtype, device=y.device)
        sums = g.sums
        if sums is None:
            sums = norm_act_reduce(g.inside, inputs, width=g.width, extra=extra, total=total)
        if total is not None:
            g = Gradient(total, 0)
        norm_act_grad(g.inside, inputs, sums, dy, width=g.width)
        if stage.adds_residual:
            self.residual_gradient = g.inside
        elif stage.is_residual:
            self.residual_gradient = None
        return dy, conv, configs

    def _inputs(self, i: int) -> NormActInputs:
        saved = self.record.stages[i]
        return self.tape.norm_act_inputs(i, saved.y, saved.stats, self.record.counter)

    def _trunk_adjoints(self) -> list[Layer]:
        """Of the trunk's layers in order, where our kernel makes their gradients; else none."""
        tape = self.tape
        trunk = [i for i, stage in enumerate(tape.stages) if stage.kind == "trunk"]
        if not trunk:
            return []
        conv, y = self._conv_of(tape.stages[trunk[0]]), self.record.stages[trunk[0]].y
        if conv_grad.gradient_configs(tape.pick_config, conv, y).dgrad is None:
            return []
        return conv_grad.trunk_adjoints([self.weights[name] for name in tape.trunk_names], tape.dtype)


def _laid_out(found: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients in the type and memory format of the weights: those of one type in one launch, where formats agree."""
    wanted = {name: torch.empty_like(weights[name]) for name in found}
    for dtype in {gradient.dtype for gradient in found.values()}:
        names = [name for name in found if found[name].dtype == dtype]
        torch._foreach_copy_([wanted[name] for name in names], [found[name] for name in names])
    return wanted


def _unpacked_gradient(conv: Convolution, dy: Tensor) -> Tensor:
    """The gradient by the picture [n, 3, h, w] that the first convolution read, fp32, from that by its output."""
    weight, halo = conv.weight.to(dy.dtype), conv.halo
    whole = torch.nn.functional.conv_transpose2d(dy.permute(0, 3, 1, 2), weight).float()
    if conv.border == "reflect":
        return conv_grad.fold_reflected_border(whole, halo)
    return whole[:, :, halo:-halo, halo:-halo]


class _Restore(torch.autograd.Function):
    """The whole network as one operation."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, counter: Tensor | None, image: Tensor, *parameters: Tensor) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            out, record = tape.forward(image, dict(zip(tape.names, parameters, strict=True)), counter)
        ctx.tape = tape
        saved = (tensor for stage in record.stages for tensor in stage)
        ctx.save_for_backward(counter, image, record.tanh, *parameters, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tape: Tape = ctx.tape
        counter, image, tanh, *rest = ctx.saved_tensors
        parameters, rest = rest[: len(tape.names)], rest[len(tape.names) :]
        fields = len(SavedStage._fields)
        stages = [SavedStage(*rest[i : i + fields]) for i in range(0, len(rest), fields)]
        record = Record(image, counter, tanh, stages)
        names = ["image", *tape.names]
        wanted = {name for name, needed in zip(names, ctx.needs_input_grad[2:], strict=True) if needed}
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            found = tape.backward(grads[0], record, dict(zip(tape.names, parameters, strict=True)), wanted)
        gradients = [found.get(name) for name in names]
        if torch.is_grad_enabled():  # somebody may differentiate these again
            inputs = [tensor for tensor in (image, *parameters) if tensor.requires_grad]
            known = (gradient for gradient in gradients if gradient is not None)
            once = iter(_Once.apply(len(inputs), *inputs, *known))
            gradients = [None if gradient is None else next(once) for gradient in gradients]
        return None, None, *gradients


class _Once(torch.autograd.Function):
    """Gradients that depend on `inputs` in an unknown way: differentiating them raises."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors[count:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(ADVICE)


def restore(
    spec: GeneratorSpec,
    parameters: Mapping[str, Tensor],
    image: Tensor,
    *,
    dtype: torch.dtype,
    counter: Tensor | None = None,
    pick_config: PickConfig | None = None,
    tf32: bool = False,
) -> Tensor:
    """The generator of `spec` and `parameters` on image [n, 3, h, w] in [-1, 1], n at least 1, with its gradient.

    `counter`, int64 [2], switches dropout on and names its masks: see ops.dropout_mask. Biases before a norm have no
    effect and get no gradient. The gradient itself cannot be differentiated: RuntimeError.
    """
    with torch.cuda.device_of(image):
        tape = Tape(spec, dtype, pick_config or config_picker(current_gpu(image.device)), tf32=tf32)
        out: Tensor = _Restore.apply(tape, counter, image, *(parameters[name] for name in tape.names))
        return out
