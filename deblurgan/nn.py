"""The networks: Generator, Critic and the frozen VGG features of the content loss. All see pictures in [-1, 1]."""

from __future__ import annotations

import io
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deblurgan import ops, reference
from deblurgan.arguments import require_tensor
from deblurgan.config import Preset
from deblurgan.device import kernels_available, why_no_kernels
from deblurgan.generator import engine, native, tape
from deblurgan.ops.layers import Quantize
from deblurgan.ops.native_norm import takes
from deblurgan.spec import PRESETS, Stage

Backend = Literal["auto", "reference"]

_packing = threading.Lock()  # so that threads which share a generator share its engine, too


class ConvNormReLU(nn.Conv2d):
    """`reference.conv_norm_relu` with weights of its own."""

    def __init__(
        self, c: int, k: int, size: int, *, stride: int = 1, border: reference.Border = "zero", bias: bool = True
    ) -> None:
        super().__init__(c, k, size, stride=stride, bias=bias)
        self.border = border

    def forward(self, x: Tensor, *, act: reference.Act = "relu", residual: Tensor | None = None) -> Tensor:
        return reference.conv_norm_relu(
            x, self.weight, self.bias, stride=self.stride[0], border=self.border, act=act, residual=residual
        )


class UpConvNormReLU(nn.ConvTranspose2d):
    """`reference.up_conv_norm_relu` with weights of its own."""

    def __init__(self, c: int, k: int, *, bias: bool = True) -> None:
        super().__init__(c, k, 3, stride=2, bias=bias)

    def forward(  # type: ignore[override]
        self, x: Tensor, *, act: reference.Act = "relu", residual: Tensor | None = None
    ) -> Tensor:
        if act != "relu" or residual is not None:
            raise ValueError(f"act must be 'relu', without a residual, got {act!r}")
        return reference.up_conv_norm_relu(x, self.weight, self.bias)


def _layer(stage: Stage) -> nn.Module:
    """The layer of a stage of the network."""
    c, k = stage.channels_in, stage.channels_out
    if stage.kind == "head":
        return nn.Conv2d(c, k, stage.size)
    if stage.kind == "up":
        return UpConvNormReLU(c, k, bias=stage.bias)
    return ConvNormReLU(c, k, stage.size, stride=stage.stride, border=stage.border, bias=stage.bias)


class Generator(nn.Module):
    """The DeblurGAN generator: blurred picture in, restored picture out, [n, 3, h, w] in [-1, 1].

    clamp(x + tanh(...)), with h and w multiples of `spec.size_multiple`, 4 in all presets, and at least 8 (`Deblurrer`
    takes any size). The layers are those of `spec.stages`. InstanceNorm always uses the picture's own statistics.
    Dropout is active in training mode; with `seed` or `counter` it is active in any mode, with masks that follow from
    them (the paper's stochastic inference).

    On CUDA our kernels take over: the engine (generator/engine.py) in inference, the tape (generator/tape.py) where a
    gradient is needed. On a CPU, where a gradient is needed, csrc/ does what is between convolutions
    (generator/native.py), unless a layer has hooks. These gradients cannot be differentiated again, and on CUDA no
    layer's hooks are called. They compute in autocast's type where that is active. `generator.backend = "reference"`
    switches back to plain torch, and `why_reference(x)` tells why our kernels are not used. `generator.quantize =
    "int8"` or "fp8" runs the engine's residual blocks in 8 bits, on compute capability 8.0 or 8.9 and newer. `source`
    says in words where loaded weights come from, and `card` is what their file tells of their training, until they are
    trained on; both are None for weights that were drawn.

    Args:
        preset: "paper", the network of the published numbers and the released weights (two convolutions a block,
            reflect padding; 11,378,179 parameters); "article", one convolution a block, zero padding, biases at the
            ends only (6,064,579); "tiny", a small "paper" for CPUs and tests.
        width, blocks, convs, border, bias, dropout, downsamplings: override the preset's; see `spec.GeneratorSpec`.

    Source: paper section 3.2; released models/networks.py up to 2018-10 for "paper".
    """

    MIN_SIZE = 8

    def __init__(
        self,
        preset: Preset = "paper",
        *,
        width: int | None = None,
        blocks: int | None = None,
        convs: int | None = None,
        border: reference.Border | None = None,
        bias: bool | None = None,
        dropout: float | None = None,
        downsamplings: int | None = None,
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        overrides = {
            "width": width,
            "blocks": blocks,
            "convs": convs,
            "border": border,
            "bias": bias,
            "dropout": dropout,
            "downsamplings": downsamplings,
        }
        given = {name: value for name, value in overrides.items() if value is not None}
        self.spec = replace(PRESETS[preset], **given)  # type: ignore[arg-type]
        for stage in self.spec.stages:
            self._add_layer(stage)
        self.backend: Backend = "auto"
        self.quantize: Quantize | None = None
        self.source: str | None = None
        self.card: dict[str, Any] | None = None
        self._engine: tuple[Any, engine.Engine] | None = None
        self.apply(_init_weights)

    def _add_layer(self, stage: Stage) -> None:
        """Puts the stage's layer where its name says: "blocks.0.conv1" is blocks[0]["conv1"]."""
        *path, last = stage.name.split(".")
        parent: nn.Module = self
        for part, below in zip(path, [*path[1:], last], strict=False):
            if part not in parent._modules:
                parent.add_module(part, nn.ModuleList() if below.isdigit() else nn.ModuleDict())
            parent = parent.get_submodule(part)
        parent.add_module(last, _layer(stage))

    def forward(self, x: Tensor, *, seed: int | None = None, counter: Tensor | None = None) -> Tensor:
        """x [n, 3, h, w] in [-1, 1] -> the same, in x's dtype; the layers compute in that of the weights.

        `counter`, int64 [2] on x's device, holds the seed of dropout's masks and the index of the first picture; `seed`
        alone stands for (seed, 0). Raises ValueError for other shapes.
        """
        _check_picture(x)
        self._check_sides(x)
        counter = self._counter(x, seed, counter)
        kernels, trains_natively = self.why_reference(x) is None, self._trains_natively(x)
        if not (kernels or trains_natively):
            return self._reference(x, counter)
        if self._wants_gradient(x):
            restore, parameters = tape.restore if kernels else native.restore, dict(self.named_parameters())
            return restore(self.spec, parameters, x, dtype=self._compute_type(), counter=counter)
        return self.packed_engine()(x, counter)

    if TYPE_CHECKING:
        # A call has forward's types; to assign it would leave pyright with those of nn.Module
        def __call__(self, x: Tensor, *, seed: int | None = None, counter: Tensor | None = None) -> Tensor: ...

    def restore(self, x: Tensor, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """The engine's result for x, which may be uint8 (v stands for 2 v / 255 - 1), without gradients; and int32 [1],
        1 where one of its values was not finite before the clamp, else 0. For x with `why_reference(x)` None.
        """
        self._check_sides(x)
        return self.packed_engine().restore(x, self._counter(x, seed, None))

    def kept_bytes(self, n: int, h: int, w: int) -> int:
        """What the engine keeps of earlier calls and a call on pictures [n, 3, h, w] will use again, in bytes."""
        packed = self._engine
        return 0 if packed is None else packed[1].kept_bytes(n, h, w)

    def _check_sides(self, x: Tensor) -> None:
        multiple = self.spec.size_multiple
        if min(x.shape[2:]) < self.MIN_SIZE or x.shape[2] % multiple or x.shape[3] % multiple:
            raise ValueError(
                f"picture sides must be multiples of {multiple} and at least {self.MIN_SIZE}, got "
                f"{tuple(x.shape[2:])}: Deblurrer takes any size"
            )

    def _reference(self, x: Tensor, counter: Tensor | None) -> Tensor:
        """In plain torch."""
        y, residual = x.to(self._first_weight().dtype), None
        for stage in self.spec.stages[:-1]:
            layer = self.get_submodule(stage.name)
            y = layer(y, act=stage.act, residual=residual if stage.adds_residual else None)
            if stage.dropout is not None and counter is not None:
                mask = ops.dropout_mask(list(y.shape), self.spec.dropout, counter, stage.dropout)
                y = y * mask / (1 - self.spec.dropout)
            if stage.is_residual:
                residual = y
        head = self.get_submodule("head")
        return reference.output_tail(y, x, head.weight, head.bias, border=self.spec.border)  # type: ignore[arg-type]

    def _first_weight(self) -> Tensor:
        return next(self.parameters())

    def _counter(self, x: Tensor, seed: int | None, counter: Tensor | None) -> Tensor | None:
        """The counter that names dropout's masks, None where dropout is off. Nothing waits for a GPU."""
        if seed is not None and counter is not None:
            raise ValueError("counter holds the seed: give one of the two, got both")
        if not self.spec.dropout or not (self.training or seed is not None or counter is not None):
            return None
        if counter is None:
            if seed is None:
                drawn = torch.randint(2**63 - 1, (1,), device=x.device)
            else:
                ops.check_seed(seed, 0)
                drawn = torch.full((1,), seed, device=x.device)
            counter = F.pad(drawn, (0, 1))
        ops.check_counter(counter, x.device)
        return counter

    def why_reference(self, x: Tensor) -> str | None:
        """Why x would go through torch's convolutions; None where our kernels take it."""
        if self.backend == "reference":
            return "the backend is 'reference'"
        if torch.compiler.is_compiling():
            return "torch.compile sees plain torch"
        if self._first_weight().device != x.device:
            return "the weights are on another device"
        if self._compute_type() not in (torch.float16, torch.bfloat16, torch.float32):
            return f"it does not compute in {self._compute_type()}"
        if x.shape[0] == 0 and self._wants_gradient(x):
            return "a gradient of no pictures is wanted"
        return why_no_kernels(x.device)

    def _wants_gradient(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters()))

    def _compute_type(self) -> torch.dtype:
        """That of autocast where it is active, else that of the weights."""
        weight = self._first_weight()
        kind = weight.device.type
        active = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        return torch.get_autocast_dtype(kind) if active else weight.dtype

    def _trains_natively(self, x: Tensor) -> bool:
        """Whether a gradient is wanted that csrc/ helps to compute."""
        here = self._first_weight().device == x.device and takes(x.device, self._compute_type())
        hooked = any(layer._forward_hooks or layer._forward_pre_hooks for layer in self.modules() if layer is not self)
        return here and self.backend == "auto" and x.shape[0] > 0 and self._wants_gradient(x) and not hooked

    def train(self, mode: bool = True) -> Generator:
        self._engine = None  # fused optimisers change weights without a trace
        if mode:
            self.card = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None}  # graphs cannot be copied, and the copy packs its own weights

    def packed_engine(self) -> engine.Engine:
        """The engine with these weights; they are packed again when they have changed."""
        dtype = self._compute_type()
        key = [
            self.quantize,
            dtype,
            *((p.data_ptr(), 0 if p.is_inference() else p._version) for p in self.parameters()),
        ]
        with _packing:
            if self._engine is None or self._engine[0] != key:
                state = dict(self.named_parameters())
                self._engine = key, engine.Engine(self.spec, state, dtype=dtype, quantize=self.quantize)
            return self._engine[1]

    def config(self) -> dict[str, Any]:
        """The spec as plain values: `Generator(**config)` builds the same network."""
        return asdict(self.spec)

    @staticmethod
    def from_pretrained(
        path_or_id: str | Path | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> Generator:
        """The generator of a weights file, a training's run folder (its best), a folder by `save_pretrained`, a Hugging
        Face repository, or, by default, the one that ships; fp32 on the CPU, in evaluation mode. `source` says which.

        A repository is given as "OWNER/NAME" or "hub:OWNER/NAME", with "@REVISION" or not; a path that exists is the
        path. Its model.safetensors is fetched, and config.json where that file does not describe itself, nothing else;
        without a network the copy in the cache is taken. The keywords are those of huggingface_hub's hf_hub_download.

        Raises CheckpointError for a damaged file or an unknown network; FileNotFoundError for what is neither a path
        nor a repository with such a file; ConnectionError where there is neither network nor copy; PermissionError for
        a gated repository; ImportError where huggingface_hub is missing.
        """
        from deblurgan.checkpoint import load_pretrained

        return load_pretrained(
            path_or_id,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )

    def save_pretrained(self, folder: str | Path, *, card: dict[str, Any] | None = None) -> None:
        """Writes model.safetensors, config.json and, unless the folder has one, a README.md that is the model card.

        `card` is what is known of the weights, such as {"licence": "cc-by-4.0", "psnr": 28.1}; if not given, it is what
        their own file told. The options of a training that name files and folders are left out of it.
        """
        from deblurgan.checkpoint import save_pretrained

        save_pretrained(self, folder, card=card)

    def push_to_hub(
        self,
        repository: str,
        *,
        card: dict[str, Any] | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str = "Upload a generator of deblurgan",
    ) -> str:
        """Uploads what `save_pretrained` writes to the Hugging Face repository "OWNER/NAME", which is made where there
        is none, and returns the commit's address. A README.md that it has is kept.

        Raises ImportError without huggingface_hub; what goes wrong with the upload is told by its own errors.
        """
        from deblurgan.checkpoint import push_to_hub

        return push_to_hub(
            self,
            repository,
            card=card,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
        )

    def dead_biases(self) -> set[str]:
        """Names of the biases that feed an InstanceNorm, which subtracts them again: they have no effect."""
        return {name for name, _ in self.named_parameters() if name.endswith("bias")} - {"head.bias"}

    def inner_weights(self) -> list[nn.Parameter]:
        """Weights of the convolutions between stem and head: each feeds an InstanceNorm, which undoes its length."""
        inner = [stage for stage in self.spec.stages if stage.kind not in ("stem", "head")]
        return [self.get_parameter(f"{stage.name}.weight") for stage in inner]


class Critic(nn.Module):
    """The PatchGAN critic: pictures [n, 3, h, w] in [-1, 1] -> a map of scores [n, 1, h', w'], no sigmoid.

    4x4 convolutions, `layers` of stride 2 then two of stride 1, LeakyReLU 0.2, InstanceNorm on all but the first and
    last. 2,764,737 parameters as published; padding 2 gives 35x35 scores of a 256x256 picture (released code under
    Python 3), padding 1 gives 30x30. Unconditional: it never sees the blurred picture.

    Source: paper section 3.2; released models/networks.py, NLayerDiscriminator.
    """

    def __init__(self, width: int = 64, layers: int = 3, padding: int = 2) -> None:
        super().__init__()
        if width < 1 or layers < 1 or padding not in (1, 2):
            raise ValueError(f"width, layers must be >= 1 and padding 1 or 2, got {width}, {layers}, {padding}")
        channels = [3, *(width * min(2**i, 8) for i in range(layers + 1)), 1]
        strides = [2] * layers + [1, 1]
        self.convs = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], 4, stride=stride, padding=padding)
            for i, stride in enumerate(strides)
        )
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """x [n, 3, h, w] -> scores [n, 1, h', w']. Raises ValueError for other shapes.

        On CUDA `ops.norm_act` normalises, in channels_last, but torch.compile sees plain torch.
        """
        _check_picture(x)
        kernels = not torch.compiler.is_compiling() and kernels_available(x.device)
        if kernels:
            x = x.contiguous(memory_format=torch.channels_last)
        last = len(self.convs) - 1
        for i, conv in enumerate(self.convs):
            x = conv(x)
            if i == 0:
                x = F.leaky_relu(x, reference.SLOPE)
            elif i < last:
                x = ops.norm_act(x, None, "leaky_relu") if kernels else reference.norm_act(x, act="leaky_relu")
        return x

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...

    def dead_biases(self) -> set[str]:
        """Names of the biases that feed an InstanceNorm, which subtracts them again: they have no effect."""
        used = {"convs.0.bias", f"convs.{len(self.convs) - 1}.bias"}
        return {name for name, _ in self.named_parameters() if name.endswith("bias")} - used


class PerceptualFeatures(nn.Module):
    """Frozen VGG up to conv3_3: pictures [n, 3, h, w] in [-1, 1] -> features [n, 256, h / 4, w / 4].

    preset "vgg16": the net that ships with the package, trained on BGR in 0 ... 255 less a mean; its features are
    divided by 127.5, as such a net, fed [-1, 1], would give (ReLU nets are homogeneous up to biases). "vgg19": the
    paper's; `weights` is a file with torchvision's names (safetensors or .pth), or "hub" to fetch timm/vgg19.tv_in1k;
    it sees the [-1, 1] picture itself, as released (not the ImageNet normalisation). `relu` appends the activation
    (paper text); the released code and the default stop before it.
    """

    _CHANNELS = ((3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256))
    _INDICES = (0, 2, 5, 7, 10, 12, 14)  # in torchvision's `features`, the same for VGG16 and VGG19 up to here
    _POOLED = (5, 10)  # convolutions that a 2x2 maximum pool precedes

    def __init__(self, preset: str = "vgg16", *, weights: str | Path | None = None, relu: bool = False) -> None:
        super().__init__()
        if preset not in ("vgg16", "vgg19"):
            raise ValueError(f"preset must be 'vgg16' or 'vgg19', got {preset!r}")
        self.preset = preset
        self.relu = relu
        self.features = nn.ModuleDict(
            {str(i): nn.Conv2d(*io, 3, padding=1) for i, io in zip(self._INDICES, self._CHANNELS, strict=True)}
        )
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1), persistent=False)
        self.load_state_dict(_vgg_weights(preset, weights, set(self.state_dict())))
        self.requires_grad_(False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, 256, h // 4, w // 4], conv3_3."""
        _check_picture(x)
        y = (x.flip(1) + 1) * 127.5 - self.mean if self.preset == "vgg16" else x
        for i, conv in zip(self._INDICES, self.features.values(), strict=True):
            if i in self._POOLED:
                y = F.max_pool2d(y, 2)
            y = conv(y)
            if i != self._INDICES[-1] or self.relu:
                y = F.relu(y)
        return y / 127.5 if self.preset == "vgg16" else y

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...


def trained_parameters(net: Generator | Critic) -> list[nn.Parameter]:
    """All parameters but the dead biases, whose gradient is rounding alone."""
    dead = net.dead_biases()
    return [parameter for name, parameter in net.named_parameters() if name not in dead]


def _init_weights(module: nn.Module) -> None:
    """N(0, 0.02) weights and zero biases, as released. Not on the meta device, which has no values: its normal_ would
    import torch's compiler, a second's work."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and not module.weight.is_meta:
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_picture(x: Tensor) -> None:
    require_tensor("picture", x, "[n, 3, h, w]")
    if x.dim() != 4 or x.shape[1] != 3:
        raise ValueError(f"picture must be [n, 3, h, w], got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"picture must be floating point in [-1, 1], got {x.dtype}")


def _fetched_vgg19() -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ImportError("weights \"hub\" needs huggingface_hub: pip install 'deblurgan[hub]'") from error
    return Path(hf_hub_download("timm/vgg19.tv_in1k", "model.safetensors"))


def _vgg_weights(preset: str, weights: str | Path | None, wanted: set[str]) -> dict[str, Tensor]:
    """The tensors named `wanted` of a VGG file; every other key of the file belongs to deeper layers."""
    if weights is None and preset == "vgg19":
        raise ValueError('weights must name a VGG19 file, or be "hub" to fetch it; the bundled net is preset "vgg16"')
    if weights is not None and preset == "vgg16":
        raise ValueError(f'weights go with preset "vgg19", the VGG16 is the bundled one, got {weights}')
    if weights is None:
        path = Path(__file__).parent / "assets" / "vgg16_conv3_3.safetensors"
    else:
        path = _fetched_vgg19() if weights == "hub" else Path(weights)
    data = path.read_bytes()
    try:
        if path.suffix == ".safetensors":
            tensors = safetensors.torch.load(data)
        else:
            tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and zip each have their own
        raise ValueError(f"weights must be a file of plain tensors, {path} is not: {error}") from error
    missing = sorted(wanted - set(tensors))
    if missing:
        raise ValueError(f"weights must hold VGG's convolutions under torchvision's names; {path} lacks {missing[0]}")
    return {name: tensors[name].float() for name in wanted}
