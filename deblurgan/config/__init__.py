"""The options of every command: plain dataclasses that feed the API, the command line and YAML alike. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, TypeVar, get_args

from deblurgan.config.values import (
    Options,
    Untyped,
    as_path,
    converted,
    from_mapping,
    parsed_bytes,
    parsed_size,
    to_mapping,
)

__all__ = [
    "NEEDS",
    "TRAIN_PRESETS",
    "BlurConfig",
    "DeblurConfig",
    "DemoConfig",
    "EvaluateConfig",
    "ExportConfig",
    "Gan",
    "InfoConfig",
    "Layout",
    "Norm",
    "Options",
    "Pixel",
    "Precision",
    "Preset",
    "TrainConfig",
    "TrainOptions",
    "TuneConfig",
    "Untyped",
    "WebConfig",
    "as_path",
    "converted",
    "from_mapping",
    "over_preset",
    "parsed_bytes",
    "parsed_size",
    "to_mapping",
    "train_config",
]

T = TypeVar("T")
if TYPE_CHECKING:
    from typing_extensions import Unpack

    Positional = Annotated[T, "positional"]

    def option(short: str) -> Any: ...
else:
    try:  # what marks options for the command line; the API and YAML need no tyro
        from tyro.conf import Positional, arg

        def option(short: str) -> Any:
            return arg(aliases=[short])
    except ImportError:
        Positional = Annotated[T, "positional"]

        def option(short: str) -> str:
            return short


Preset = Literal["paper", "article", "tiny"]
Layout = Literal["auto", "sharp", "paired", "gopro", "side-by-side", "tar"]
Gan = Literal["wgan-gp", "lsgan", "lsgan-l1", "vanilla"]
Norm = Literal["sample", "pixel"]
Pixel = Literal["l1", "l2"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainConfig(Options):
    """Train a generator. The defaults are the paper's."""

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
    layout: Layout = "auto"
    """How data is laid out; auto goes by the folders' names."""
    gamma: bool = False
    """Of GoPro, train on the blur_gamma pictures (a camera's tone curve) rather than on blur (linear averages)."""
    mix: Path | None = None
    """A folder of real pairs to mix with the photos of data, which are blurred on the fly: the paper's Comb regime."""
    mix_ratio: float = 2.0
    """Photos of data for each pair of mix; above 0."""

    width: int | None = None
    """Channels after the first convolution, at least 1; the preset's if not given (64 in paper)."""
    blocks: int | None = None
    """Residual blocks, at least 0; the preset's if not given (9 in paper)."""
    dropout: float | None = None
    """Share of the values in the blocks that are dropped in training, in [0, 1); the preset's if not given (0.5 in
    paper)."""
    init: Path | None = None
    """A file of weights or a run folder to start from, in place of random ones: fine-tuning. The network is then
    theirs."""
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
    blur_gamma: float = 1.0
    """Average light, value^gamma, rather than values: 2.2 is a camera's; 1 averages the values, as released."""
    blur_noise: tuple[float, float] = (0.0, 0.0)
    """Lowest and highest standard deviation of sensor noise on blurred pictures, as a share of white."""
    blur_p: float = 1.0
    """Share of the sharp photos' crops that are blurred, in [0, 1]; the rest stay sharp."""
    blur_realism: Literal["none", "camera"] = "none"
    """camera: blur sharp photos as a camera would, with averaged light, highlights beyond white, sensor noise and
    JPEG."""
    flip: bool = True
    """Mirror half of the crops left to right."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the factor by which a picture is reduced before it is cropped, in (0, 1]: 0.5 halves its sides."""
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
        require(0 < self.scale[0] <= self.scale[1] <= 1, "scale", "0 < low <= high <= 1")
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
        if self.chosen("mix_ratio") and self.mix is None:
            raise ValueError("mix_ratio goes with mix, got none")
        if self.chosen("identity_start") and self.init is not None:
            raise ValueError(f"identity_start goes without init, got init {self.init}")
        if self.gan == self.content == self.pixel == "none" and not self.losses:
            raise ValueError("gan, content and pixel are all 'none': nothing would be trained")

    def chosen(self, name: str) -> bool:
        """Whether the option differs from its default and from the preset's."""
        default = getattr(TrainConfig, name)
        return getattr(self, name) not in (default, TRAIN_PRESETS[self.preset].get(name, default))


class TrainOptions(TypedDict, total=False):
    """The keywords of `deblurgan.train`, for type checkers: TrainConfig's fields but those for which it takes more than
    a plain value. Paths may be strings."""

    out: Path | str
    preset: Preset
    layout: Layout
    gamma: bool
    mix: Path | str | None
    mix_ratio: float
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
    blur_gamma: float
    blur_noise: tuple[float, float]
    blur_p: float
    blur_realism: Literal["none", "camera"]
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


def train_config(data: Path | str, **options: Unpack[TrainOptions]) -> TrainConfig:
    """The preset's TrainConfig with `options` over it. Raises ValueError for unknown names and values out of range."""
    return from_mapping(TrainConfig, over_preset({**options, "data": data}))


def over_preset(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` of TrainConfig over the defaults of the preset that they name."""
    preset = converted(TrainConfig, {"preset": options.get("preset", "paper")})["preset"]
    return {**TRAIN_PRESETS[preset], **options}


@dataclass(frozen=True)
class DeblurConfig(Options):
    """Restore pictures: files, whole folders, videos."""

    inputs: Positional[tuple[Path, ...]] = ()
    """Pictures, folders of pictures, videos, and quoted patterns such as 'trip/**/*.jpg', where ** is any folders.
    A picture on standard input is -."""
    out: Annotated[Path | None, option("-o")] = None
    """A folder, which mirrors the folders of the inputs; for a single picture it may be a file, or - for standard
    output. If not given: NAME-deblurred.EXT beside a picture, NAME-deblurred/ beside a folder."""
    weights: Annotated[Path | None, option("-m")] = None
    """A .safetensors file, a released .pth, a run folder or a Hugging Face repository, OWNER/NAME; if not given, the
    weights that ship with the package."""
    files_from: Path | None = None
    """A file that lists more pictures, one a line or separated by NUL (find -print0); - is standard input."""
    overwrite: bool = False
    """Replace files that exist, the inputs themselves included."""
    skip_existing: bool = False
    """Leave out pictures whose output exists: this goes on with what was interrupted."""
    dry_run: bool = False
    """Say what would be written, and how, and write nothing."""
    suffix: str = ""
    """Added to each name, before its extension; without out, in place of -deblurred."""
    format: Literal["keep", "png", "jpg", "webp", "tiff", "avif"] = "keep"
    """Of the outputs; keep is that of each input, but JPEG for HEIC and PNG for GIF."""
    quality: int | None = None
    """Of JPEG, WebP and AVIF, 1 to 100. If not given, as each input was, and 95 where it does not say."""
    compare: bool = False
    """Also write NAME-compare.jpg beside each picture's output: before and after, where the change is largest."""
    strip_metadata: bool = False
    """Leave out EXIF (with the place and time), XMP, comments and the like. Not of videos."""
    scale: Literal["auto"] | float = "auto"
    """Share of the picture's size that the network works at, up to 1; wide blurs need a small one. auto looks at it."""
    max_memory: str = "auto"
    """What a picture may take beside itself, such as 1.5GB or 800MiB; auto is what is free."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""
    dtype: Precision = "auto"
    """To compute in; auto is 16 bits where the machine is faster with them."""
    quantize: Literal["int8", "fp8"] | None = None
    """Compute the residual blocks in 8 bits, on a GPU of compute capability 8.0 (int8) or 8.9 (fp8) or newer."""
    stochastic: bool = False
    """Dropout at inference, as in the paper."""
    seed: int = 0
    """Of the dropout of stochastic."""
    compile: bool = False
    """Run the network through torch.compile, which is faster on a CPU after half a minute of compiling."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be 1 to 100, got {self.quality}")
        if self.scale != "auto" and not 0 < self.scale <= 1:
            raise ValueError(f"scale must be auto or above 0 and up to 1, got {self.scale}")
        parsed_bytes("max_memory", self.max_memory)
        if self.overwrite and self.skip_existing:
            raise ValueError("overwrite=True and skip_existing=True contradict each other")
        if self.seed != DeblurConfig.seed and not self.stochastic:
            raise ValueError(f"seed goes with stochastic, got seed {self.seed} without it")


@dataclass(frozen=True)
class BlurConfig(Options):
    """Blur sharp pictures with random camera shake, to look at or as a training set."""

    inputs: Positional[tuple[Path, ...]]
    """Pictures and folders of pictures."""
    out: Annotated[Path, option("-o")]
    """Folder to write to; without pairs, a single picture may name its file."""
    n: int = 1
    """Blurred versions of each picture."""
    seed: int = 0
    pairs: bool = False
    """Write a training set of PNGs: blur/, sharp/ and psf.npz."""
    show_psf: bool = False
    """Also write psf.png, a contact sheet of the kernels (the first 64), to the folder; if out is a file, beside it."""
    length: float = 60.0
    """Path length in px."""
    exposure: tuple[float, ...] = (0.1, 0.5, 1.0)
    """Shares of the path that are exposed; each picture gets one of them at random."""
    anxiety: float | None = None
    """How shaky: 0 is a straight path. Drawn from the released code's list, 0.003 to 0.01, if not given."""
    padding: Literal["reflect", "replicate", "zero"] = "reflect"
    gamma: float = 1.0
    """Average light, value^gamma: 2.2 is a camera's; 1 averages the values."""
    noise: tuple[float, float] = (0.0, 0.0)
    """Lowest and highest standard deviation of sensor noise, as a share of white."""
    overwrite: bool = False
    """Replace files that exist, the inputs themselves included."""
    skip_existing: bool = False
    """Leave out versions that exist. With pairs this goes without saying: an interrupted set is gone on with."""
    quality: int | None = None
    """Of JPEG, WebP and AVIF, 1 to 100; as each source was if not given, 95 where it says nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be 1 to 100, got {self.quality}")
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")
        if self.overwrite and self.skip_existing:
            raise ValueError("overwrite=True and skip_existing=True contradict each other")


@dataclass(frozen=True)
class EvaluateConfig(Options):
    """Measure restored pictures against their sharp originals."""

    data: Positional[Path]
    """Pairs in any layout train takes, or sharp pictures, which are blurred by fixed kernels."""
    weights: Annotated[Path | None, option("-m")] = None
    """A .safetensors file, a released .pth, a run folder or a Hugging Face repository, OWNER/NAME; if not given, the
    weights that ship with the package."""
    layout: Layout = "auto"
    """How data is laid out."""
    gamma: bool = False
    """Take GoPro's blur_gamma pictures rather than its blur."""
    metrics: tuple[Literal["psnr", "ssim"], ...] = ("psnr", "ssim")
    kernels: int = 4
    """Kernels for each sharp picture and exposure."""
    exposure: tuple[float, ...] = (0.5, 1.0)
    """Shares of the path that are exposed; each sharp picture is blurred at every one of them."""
    seed: int = 0
    """Of the kernels."""
    csv: Path | None = None
    """A file for the figures of every picture."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""
    dtype: Precision = "auto"
    """To compute in; auto is 16 bits where the machine is faster with them."""


@dataclass(frozen=True)
class DemoConfig(Options):
    """Blur the bundled picture, restore it, and write blurred | restored | sharp."""

    out: Annotated[Path, option("-o")] = Path("deblurgan-demo.png")
    weights: Annotated[Path | None, option("-m")] = None
    """As for deblur."""
    seed: int = 0
    """Of the kernel."""
    overwrite: bool = True
    """Replace out if it exists."""


@dataclass(frozen=True)
class InfoConfig(Options):
    """Say which path each part takes on this machine, and why."""


@dataclass(frozen=True)
class ExportConfig(Options):
    """Write the network for other runtimes, as ONNX or a torch.export program."""

    out: Positional[Path]
    """The file, which ends in .onnx or .pt2."""
    weights: Annotated[Path | None, option("-m")] = None
    """A weights file, a run folder, a saved model's folder or a Hugging Face repository, OWNER/NAME; the weights that
    ship with the package if not given."""
    unit_range: bool = False
    """Take and give pictures in [0, 1], in place of [-1, 1]."""
    overwrite: bool = False
    """Replace a file that exists."""


@dataclass(frozen=True)
class TuneConfig(Options):
    """Measure which tilings of the convolutions' kernels are the fastest on this GPU."""

    budget: float = 90.0
    """Seconds after which no further layer is measured, above 0. Those already in the table come last, so that another
    run goes on."""
    preset: tuple[Preset, ...] = ("paper", "tiny")
    """Networks whose layers are measured."""
    dtype: Literal["fp16", "bf16", "int8", "fp8"] | None = None
    """Of the operands; if not given, fp16 in layers and bf16 in gradients. int8 and fp8 are for the residual blocks'
    convolutions alone."""
    forward_only: bool = False
    """Leave out the gradients."""
    gradients_only: bool = False
    """Leave out the layers themselves."""
    sizes: tuple[str, ...] = ("256x256", "720x1280")
    """Pictures to restore, HEIGHTxWIDTH or HEIGHTxWIDTHxNUMBER, sides multiples of 4 and at least 8."""
    crops: tuple[str, ...] = ("256x256",)
    """Pictures to train on, which the gradients are measured with."""
    table: Annotated[Path | None, option("-o")] = None
    """File of the rows. If not given, the one that is looked up: $DEBLURGAN_TABLE, or one in the cache folder."""
    any_software: bool = False
    """Write rows that count whatever torch, Triton, cuDNN and kernels are used, as those that ship with the package."""
    json: Path | None = None
    """A file for every time that was measured."""
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget <= 0:
            raise ValueError(f"budget must be positive, got {self.budget}")
        if self.forward_only and self.gradients_only:
            raise ValueError("forward_only=True and gradients_only=True contradict each other")
        if self.gradients_only and self.dtype in ("int8", "fp8"):
            raise ValueError(f"dtype must be fp16 or bf16 with gradients_only=True, got {self.dtype}")
        for name in ("preset", "sizes", "crops"):
            if not getattr(self, name):
                raise ValueError(f"{name} must hold at least one, got none")
        for name in ("sizes", "crops"):
            for text in getattr(self, name):
                parsed_size(name, text)


@dataclass(frozen=True)
class WebConfig(Options):
    """Open a page for the browser: drop a photo, compare before and after, play with camera shake."""

    weights: Annotated[Path | None, option("-m")] = None
    """A .safetensors file, a released .pth, a run folder or a Hugging Face repository, OWNER/NAME; if not given, the
    weights that ship with the package."""
    port: int = 7860
    """Of the page's address, 1 to 65535."""
    host: str = "127.0.0.1"
    """Address to listen at, by default for this machine alone. There is no password."""
    max_file_size: int = 200
    """Of a photo, MB."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""
    dtype: Precision = "auto"
    """To compute in; auto is 16 bits where the machine is faster with them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port must be 1 to 65535, got {self.port}")
        if self.max_file_size < 1:
            raise ValueError(f"max_file_size must be at least 1 MB, got {self.max_file_size}")
