"""Options of training: the config, its presets, and what goes with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, TypeVar, get_args

from deblurgan.config.fields import Layout, Positional, Precision, Preset, option
from deblurgan.config.values import Options, converted, from_mapping

if TYPE_CHECKING:
    from typing_extensions import Unpack

Gan = Literal["wgan-gp", "lsgan", "lsgan-l1", "vanilla"]
Norm = Literal["sample", "pixel"]
Pixel = Literal["l1", "l2"]
Regime = Literal["none", "gopro", "synthetic", "combined"]
T = TypeVar("T")


def _with_named_defaults(kind: type[T]) -> type[T]:
    """Has the dataclass take what is not given from the preset and the regime that are, before its own defaults."""
    plain = kind.__init__
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]

    @wraps(plain)
    def init(self: T, *values: Any, **options: Any) -> None:
        given = {**dict(zip(names, values, strict=False)), **options}
        others = {name: value for name, value in named_defaults(given).items() if name not in given}
        plain(self, *values, **options, **others)

    kind.__init__ = init  # type: ignore[assignment, method-assign]
    return kind


@_with_named_defaults
@dataclass(frozen=True)
class TrainConfig(Options):
    """Train a generator. The defaults are the paper's, but for those that preset and regime set."""

    data: Positional[Path]
    """Training pictures: a folder of sharp photos (blurred on the fly), blur/ + sharp/ folders, a GoPro root, or
    side-by-side A|B pictures. Those in test/ or val/ folders beside train/ are not trained on."""
    out: Annotated[Path, option("-o")] = Path("runs/deblurgan")
    """Run folder: config.yaml, history.csv, samples/, best.safetensors, last.safetensors, state.safetensors."""
    val: Path | None = None
    """Validation pictures, laid out as data is. Without them the val/ or test/ beside data's train/, or every twentieth
    picture of data."""
    preset: Preset = "paper"
    """Network (unless init gives one) and the defaults that go with it. tiny is for CPUs, with the pixel loss alone."""
    regime: Regime = "none"
    """Defaults of the paper's ways with pictures: gopro is its WILD, pairs at half their size; synthetic is Synth,
    sharp photos blurred on the fly; combined is Comb, photos of data and pairs of mix, 2 to 1."""
    layout: Layout = "auto"
    """How data is laid out; auto goes by the folders' names."""
    gamma: bool = False
    """Of GoPro, train on the blur_gamma pictures (a camera's tone curve) rather than on blur (linear averages)."""
    mix: Path | None = None
    """A folder of real pairs to mix with the photos of data, which are blurred on the fly: the paper's Comb regime."""
    mix_ratio: float = 2.0
    """Photos of data for each pair of mix; above 0."""
    mix_scale: tuple[float, float] | None = None
    """As scale, for the pairs of mix; that of data if not given."""

    width: int | None = None
    """Channels after the first convolution, at least 1; the preset's if not given (64 in paper)."""
    blocks: int | None = None
    """Residual blocks, at least 0; the preset's if not given (9 in paper)."""
    dropout: float | None = None
    """Share of the values in the blocks that are dropped in training, in [0, 1); the preset's if not given (0.5 in
    paper)."""
    init: Path | None = None
    """Weights to start from, in place of random ones: a file of any kind that deblur -m takes, a run folder (its best),
    a Hugging Face repository, OWNER/NAME, or tiny, those that ship with the package. The network is then theirs."""
    identity_start: bool = False
    """Start from a network that returns its picture unchanged (zeros in the last convolution). Not with init."""

    epochs: int = 300
    """How many times all pictures are used, at least 1."""
    steps: int | None = None
    """Length of the training in steps, at least 1, in place of epochs. A step is one update of the generator."""
    constant: float = 0.5
    """Share of the training at the full learning rate, before the linear fall to zero, in [0, 1]."""
    batch_size: int = 1
    """Crops in a step, at least 1."""
    accumulate: int = 1
    """Parts, at least 1, that each process computes its share of a step's crops in, one after another, which saves
    memory."""
    crop: int = 256
    """Side of the training crops in px, a multiple of 4 and at least 8. Smaller pictures are left out."""
    optimizer: Literal["adam", "muon", "own"] = "adam"
    """muon: orthogonalised momentum for the generator's convolutions between its first and last, whose weights' length
    InstanceNorm undoes; Adam for those two and the critic. own: what train(..., optimizer=) is given makes."""
    lr: float = 1e-4
    """Adam's learning rate at its highest, above 0."""
    muon_lr: float = 0.01
    """Muon's learning rate at its highest, above 0; it rises and falls as Adam's does."""
    schedule: Literal["constant-linear", "cosine"] = "constant-linear"
    """How the learning rate falls to zero: as constant says, or as half a cosine from the first step on."""
    warmup: int = 0
    """Steps over which the learning rate first rises from zero, fewer than the training has."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's memory of gradients and of their squares, each in [0, 1)."""

    gan: Gan | Literal["none"] = "wgan-gp"
    """Loss of the critic, a second network that learns to tell restored pictures from sharp ones; none trains without
    it. lsgan-l1 is that of the released code."""
    critic_steps: int = 5
    """Critic updates before each generator update, on the same pictures; at least 1."""
    gp_weight: float = 10.0
    """Weight of the gradient penalty in the critic's loss, with gan wgan-gp; at least 0."""
    gp_norm: Norm = "sample"
    """Gradient penalty's norm: over a whole picture (WGAN-GP) or over the channels of each pixel (released code)."""
    content: Literal["vgg16", "vgg19", "none"] = "vgg16"
    """Net of the content loss, which compares what pictures show: the bundled VGG16, or the paper's VGG19 from
    content_weights."""
    content_weights: Path | Literal["hub"] | None = None
    """A VGG19 file, or "hub" to fetch one."""
    content_relu: bool = False
    """Features after conv3_3's activation (paper text) rather than before it (released code)."""
    content_weight: float = 100.0
    """Weight of the content loss, at least 0."""
    pixel: Pixel | Literal["none"] = "none"
    """Compare the pictures themselves too: by the mean absolute (l1) or squared (l2) difference of their values."""
    pixel_weight: float = 1.0
    """Weight of the pixel loss, at least 0."""
    tv_weight: float = 0.0
    """Weight of a loss on the difference of neighbouring pixels, which smooths the restored picture; 0 is off."""
    losses: tuple[str, ...] = ()
    """Names of losses of your own, which only Python can give: train(..., losses={"name": function})."""

    blur_length: float = 60.0
    """Path length in px of the camera shake that blurs sharp photos."""
    blur_exposure: tuple[float, ...] = (0.1, 0.5, 1.0)
    """Shares of the path, in (0, 1], for which the shutter is open: each crop draws one; validation uses 0.5 and 1."""
    blur_gamma: float | None = None
    """Average light, value^gamma, rather than values: 2.2 is a camera's; 1 averages the values, as released. If not
    given 1, and the camera's where blur_realism is a camera's."""
    blur_noise: tuple[float, float] = (0.0, 0.0)
    """Lowest and highest standard deviation of sensor noise on blurred pictures, as a share of white."""
    blur_p: float = 1.0
    """Share of the sharp photos' crops that are blurred, in [0, 1]; the rest stay sharp."""
    blur_realism: Literal["none", "camera", "mixed"] = "none"
    """camera: blur sharp photos as a camera would, with averaged light, highlights beyond white, sensor noise and
    JPEG. mixed: half of them so, the others as none does."""
    flip: bool = True
    """Mirror half of the crops left to right."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the factor by which a picture is reduced before it is cropped, in (0, 1]: 0.5 halves its sides. A single
    factor, such as 0.5 0.5, also reduces the pictures of validations."""
    texture: int = 1
    """Positions to draw for each crop, of which the one with the most detail is used; at least 1."""
    max_bad_fraction: float = 0.1
    """Share of unreadable pictures above which training stops, in [0, 1]; unless it is 0, one always may be. Pictures
    below the crop do not count."""

    device: str = "auto"
    """Where to train: cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""
    precision: Precision = "auto"
    """Type that the networks compute in; weights, statistics and losses stay fp32. auto: bf16 where the device computes
    in it. fp16 scales its losses. fp32 on CUDA means TF32 where cuDNN convolves, unless torch is told otherwise."""
    backend: Literal["auto", "reference"] = "auto"
    """reference: plain torch throughout, the penalty by double backward, each launch by itself."""
    graphs: bool = True
    """On CUDA, replay the whole step as one CUDA graph."""
    deterministic: bool = False
    """On CUDA, the same bits in every run of the same seed, by algorithms of cuDNN and torch that give them. (This
    package's kernels, and all training on a CPU, give them anyway.)"""
    compile: bool = False
    """torch.compile the networks, for training on a CPU; it needs a C++ compiler, and a minute for the first step."""
    workers: int | None = None
    """Threads that load pictures ahead; 0 loads them when they are wanted. If not given, 2 on CUDA and 0 on a CPU."""
    cache: int = 2**30
    """Bytes of memory for decoded pictures. The rest of them go to a temporary file, in TMPDIR or else /var/tmp."""
    ema: float = 0.0
    """Decay of the moving average of the generator's weights, in [0, 1), which is then validated and saved; 0 for
    none."""
    seed: int = 0
    """Of everything random, in [0, 2^62): the same seed gives the same training."""
    resume: bool = True
    """Go on from the run folder's state where there is one. Otherwise begin anew: the run that the folder holds is
    replaced after the first step."""
    log_every: int = 50
    """Steps between the rows of history.csv, at least 1."""
    val_every: int | None = None
    """Steps between validations, samples and saved states, at least 1; a twentieth of the training if not given."""
    save_every: int | None = None
    """Steps between saved states, at least 1, beside those saved after validations."""
    keep: int = 2
    """How many of the newest states to keep, at least 1: where one is damaged, the one before it goes on."""
    max_bad_steps: int = 20
    """Steps in a row that are not finite after which training stops, at least 1."""
    tensorboard: bool = False
    """Also write figures and samples for TensorBoard, into the run folder."""
    val_pictures: int = 16
    """Pictures that a validation looks at, at least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()

        def require(condition: bool, name: str, wanted: str) -> None:
            if not condition:
                raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)}")

        for name in (
            "epochs",
            "batch_size",
            "critic_steps",
            "texture",
            "log_every",
            "val_pictures",
            "accumulate",
            "keep",
            "max_bad_steps",
        ):
            require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("steps", "val_every", "save_every", "width"):
            require(getattr(self, name) is None or getattr(self, name) >= 1, name, "at least 1")
        require(self.crop >= 8 and self.crop % 4 == 0, "crop", "a multiple of 4 and at least 8")
        for name in ("lr", "muon_lr"):
            require(getattr(self, name) > 0, name, "positive")
        require(self.warmup >= 0, "warmup", "at least 0")
        require(0 <= self.constant <= 1, "constant", "in [0, 1]")
        require(all(0 <= beta < 1 for beta in self.betas), "betas", "in [0, 1)")
        require(0 <= self.blur_p <= 1, "blur_p", "in [0, 1]")
        for name, scale in (("scale", self.scale), ("mix_scale", self.mix_scale or self.scale)):
            require(0 < scale[0] <= scale[1] <= 1, name, "0 < low <= high <= 1")
        require(0 <= self.ema < 1, "ema", "in [0, 1)")
        require(self.workers is None or self.workers >= 0, "workers", "at least 0")
        require(self.cache >= 0, "cache", "at least 0")
        require(self.mix_ratio > 0, "mix_ratio", "positive")
        require(0 <= self.max_bad_fraction <= 1, "max_bad_fraction", "in [0, 1]")
        require(0 <= self.seed < 2**62, "seed", "in [0, 2^62)")
        for name in ("gp_weight", "content_weight", "pixel_weight", "tv_weight"):
            require(getattr(self, name) >= 0, name, "at least 0")
        for name, (other, wanted) in NEEDS.items():
            given = getattr(self, other)
            if self.chosen(name) and given not in wanted:
                raise ValueError(f"{name} goes with {other} {' or '.join(wanted)}, got {other} {given}")
        for name in ("mix_ratio", "mix_scale"):
            if self.chosen(name) and self.mix is None:
                raise ValueError(f"{name} goes with mix, got none")
        if self.regime != "none" and (self.regime == "combined") != (self.mix is not None):
            goes = "goes with a folder of pairs as mix" if self.mix is None else "goes without mix"
            raise ValueError(f"regime {self.regime} {goes}, got {self.mix or 'none'}")
        if self.chosen("identity_start") and self.init is not None:
            raise ValueError(f"identity_start goes without init, got init {self.init}")
        weights = {"gan": 1.0, "content": self.content_weight, "pixel": self.pixel_weight}
        parts = (getattr(self, name) != "none" and weight > 0 for name, weight in weights.items())
        if not any(parts) and not self.losses:
            raise ValueError("gan, content and pixel are all 'none' or of weight 0: nothing would be trained")

    def chosen(self, name: str) -> bool:
        """Whether the option differs from its default and from those of the preset and the regime."""
        default = getattr(TrainConfig, name)
        named = (TRAIN_PRESETS[self.preset], REGIMES[self.regime])
        return getattr(self, name) not in (default, *(values.get(name, default) for values in named))


class TrainOptions(TypedDict, total=False):
    """The keywords of `deblurgan.train`, for type checkers: TrainConfig's fields but those for which it takes more than
    a plain value. Paths may be strings."""

    out: Path | str
    preset: Preset
    regime: Regime
    layout: Layout
    gamma: bool
    mix: Path | str | None
    mix_ratio: float
    mix_scale: tuple[float, float] | None
    width: int | None
    blocks: int | None
    dropout: float | None
    init: Path | str | None
    identity_start: bool
    epochs: int
    steps: int | None
    constant: float
    batch_size: int
    accumulate: int
    crop: int
    lr: float
    muon_lr: float
    schedule: Literal["constant-linear", "cosine"]
    warmup: int
    betas: tuple[float, float]
    gan: Gan | Literal["none"]
    critic_steps: int
    gp_weight: float
    gp_norm: Norm
    content: Literal["vgg16", "vgg19", "none"]
    content_weights: Path | str | Literal["hub"] | None
    content_relu: bool
    content_weight: float
    pixel: Pixel | Literal["none"]
    pixel_weight: float
    tv_weight: float
    blur_length: float
    blur_exposure: tuple[float, ...]
    blur_gamma: float | None
    blur_noise: tuple[float, float]
    blur_p: float
    blur_realism: Literal["none", "camera", "mixed"]
    flip: bool
    scale: tuple[float, float]
    texture: int
    max_bad_fraction: float
    device: str
    precision: Precision
    backend: Literal["auto", "reference"]
    graphs: bool
    deterministic: bool
    compile: bool
    workers: int | None
    cache: int
    ema: float
    seed: int
    resume: bool
    log_every: int
    val_every: int | None
    save_every: int | None
    keep: int
    max_bad_steps: int
    tensorboard: bool
    val_pictures: int


# Options of training that have an effect only with some values of another: option -> (the other, its values)
NEEDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "constant": ("schedule", ("constant-linear",)),
    "muon_lr": ("optimizer", ("muon",)),
    "critic_steps": ("gan", get_args(Gan)),
    "gp_weight": ("gan", ("wgan-gp",)),
    "gp_norm": ("gan", ("wgan-gp",)),
    "content_weights": ("content", ("vgg19",)),
    "content_relu": ("content", ("vgg16", "vgg19")),
    "content_weight": ("content", ("vgg16", "vgg19")),
    "pixel_weight": ("pixel", get_args(Pixel)),
}

TRAIN_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "article": {},
    "tiny": {
        "gan": "none",
        "content": "none",
        "pixel": "l2",
        "epochs": 1000,
        "batch_size": 2,
        "lr": 5e-4,
        "betas": (0.9, 0.999),
        "identity_start": True,
        "blur_exposure": (0.25, 0.5, 0.5, 1.0, 1.0),
        "blur_p": 0.9,
        "scale": (0.5, 1.0),
        "texture": 2,
        "ema": 0.999,
    },
}


# The three of the paper (Kupyn et al. 2018, section 5), whatever the preset does with its pictures
_PICTURES = {name: getattr(TrainConfig, name) for name in ("scale", "texture", "blur_exposure", "blur_p")}
REGIMES: dict[str, dict[str, Any]] = {
    "none": {},
    # WILD: random crops of GoPro's training pictures, reduced by two
    "gopro": {**_PICTURES, "scale": (0.5, 0.5)},
    # Synth: crops of sharp photos (there COCO's), blurred along random trajectories
    "synthetic": _PICTURES,
    # Comb: both, two of Synth for each of WILD
    "combined": {**_PICTURES, "mix_ratio": 2.0, "mix_scale": (0.5, 0.5)},
}


def named_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the preset and, over them, of the regime that `options` of TrainConfig name. Raises ValueError
    for an unknown one."""
    named = converted(TrainConfig, {name: options[name] for name in ("preset", "regime") if name in options})
    return {**TRAIN_PRESETS[named.get("preset", "paper")], **REGIMES[named.get("regime", "none")]}


def train_config(data: Path | str, **options: Unpack[TrainOptions]) -> TrainConfig:
    """TrainConfig, for type checkers: a path may be text. Raises ValueError for unknown names and values out of
    range."""
    return from_mapping(TrainConfig, {**options, "data": data})
