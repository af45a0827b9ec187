"""Options of the commands that take pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from deblurgan.config.fields import Positional, Precision, option
from deblurgan.config.values import Options, parsed_bytes


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
    realism: Literal["none", "camera"] = "none"
    """camera: blur as a camera does, which averages light, counts highlights beyond white, and adds sensor noise and
    JPEG."""
    gamma: float | None = None
    """Average light, value^gamma: 2.2 is a camera's; 1 averages the values. If not given 1, or the camera's."""
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
