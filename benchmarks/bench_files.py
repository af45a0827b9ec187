"""From a JPEG file to a JPEG file: decoding, the whole way, encoding, and how long a process takes to begin."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_generator import forward_work
from harness import measure
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from runners import eager
from torch import Tensor

from deblurgan import Deblurrer, images

HEIGHT, WIDTH = 800, 1200
QUALITY = 92
JOB = f"{HEIGHT}x{WIDTH} JPEG"


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG file with edges and some grain."""
    random, path = np.random.default_rng(0), tmp_path_factory.mktemp("files") / "photo.jpg"
    coarse = Image.fromarray(random.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
    grainy = np.clip(smooth + random.normal(0, 5, smooth.shape), 0, 255).astype(np.uint8)
    Image.fromarray(grainy).save(path, quality=QUALITY)
    return path


def decoded(path: Path) -> Tensor:
    """By Pillow alone."""
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB")))


def encoded(pixels: Tensor, path: Path) -> None:
    """By Pillow alone."""
    Image.fromarray(pixels.numpy()).save(path, quality=QUALITY)


def read(path: Path) -> Tensor:
    return torch.from_numpy(images.read(path).pixels)


def decoded_by_opencv(path: Path) -> Tensor:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    return torch.from_numpy(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))


@pytest.mark.parametrize("path, decode", [("ours", read), ("Pillow", decoded), ("OpenCV", decoded_by_opencv)])
def bench_decode(benchmark: BenchmarkFixture, photo: Path, path: str, decode: Callable[[Path], Tensor]) -> None:
    work = {"pictures": 1, "megapixels": HEIGHT * WIDTH / 1e6}
    wanted = decoded(photo)
    measure(benchmark, lambda: decode(photo), wanted, group=f"files decode {JOB}", path=path, tolerance=1e-2, **work)


@pytest.mark.parametrize("path", ["ours", "Pillow"])
def bench_encode(benchmark: BenchmarkFixture, photo: Path, tmp_path: Path, path: str) -> None:
    picture, out = images.read(photo), tmp_path / "out.jpg"
    pixels = decoded(photo)

    def encode() -> Path:
        if path == "ours":  # with the photo's tables, and on the disk before it returns
            images.write(picture, out)
        else:
            encoded(pixels, out)
        return out

    facts = {"pictures": 1, "megapixels": HEIGHT * WIDTH / 1e6}
    measure(
        benchmark, encode, pixels, group=f"files encode {JOB}", path=path, compared=decoded, tolerance=5e-2, **facts
    )


@pytest.mark.parametrize("path", ["ours", "ours, fp32", "eager fp32 NCHW"])
@torch.no_grad()
def bench_file_to_file(benchmark: BenchmarkFixture, photo: Path, tmp_path: Path, path: str) -> None:
    """With the weights that ship, at the picture's own scale."""
    out = tmp_path / "out.jpg"
    exact = Deblurrer.from_pretrained(device="cpu", dtype="fp32", scale=1)
    deblurrer = exact if path != "ours" else Deblurrer.from_pretrained(device="cpu", scale=1)

    def eager() -> Path:
        x = decoded(photo).permute(2, 0, 1)[None] / 127.5 - 1
        restored = (exact.generator(x)[0].permute(1, 2, 0) + 1) * 127.5
        encoded(restored.round().byte().contiguous(), out)
        return out

    def ours() -> Path:
        deblurrer.file(photo, out, overwrite=True)
        return out

    facts = {"pictures": 1, "megapixels": HEIGHT * WIDTH / 1e6}
    call = eager if path == "eager fp32 NCHW" else ours
    wanted = torch.from_numpy(exact(decoded(photo).numpy()))
    measure(benchmark, call, wanted, group=f"files deblur {JOB}", path=path, compared=decoded, tolerance=5e-2, **facts)


@pytest.mark.parametrize("path", ["ours", "eager fp32 NCHW", "eager fp32 channels_last"])
@torch.no_grad()
def bench_network(benchmark: BenchmarkFixture, photo: Path, path: str) -> None:
    """What is left of the way from file to file without decoding and encoding."""
    pixels, deblurrer = decoded(photo), Deblurrer.from_pretrained(device="cpu", scale=1)
    exact = Deblurrer.from_pretrained(device="cpu", dtype="fp32").generator
    x = pixels.permute(2, 0, 1)[None] / 127.5 - 1
    run = eager(exact, x, dtype=torch.float32, channels_last=path.endswith("channels_last"))

    def plainly() -> Tensor:
        return ((run() + 1) * 127.5)[0].permute(1, 2, 0)

    def ours() -> Tensor:
        return torch.from_numpy(deblurrer(pixels.numpy()))

    call, wanted = plainly if path.startswith("eager") else ours, plainly()
    work = forward_work(exact, x, torch.bfloat16 if path == "ours" else torch.float32)
    facts = {"pictures": 1, "megapixels": HEIGHT * WIDTH / 1e6}
    measure(benchmark, call, wanted, group=f"files network {JOB}", path=path, tolerance=5e-2, work=work, **facts)


@pytest.mark.parametrize("path", ["ours", "ours, one by one"])
def bench_folder(benchmark: BenchmarkFixture, photo: Path, tmp_path: Path, path: str) -> None:
    """Reading and writing beside the network, and one after another."""
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    names = [f"{i}.jpg" for i in range(4)]
    quarter = Image.open(photo).resize((WIDTH // 2, HEIGHT // 2))
    for name in names:
        quarter.save(folder / name, quality=QUALITY)
    deblurrer = Deblurrer.from_pretrained(device="cpu", scale=1)

    def restore() -> Path:
        if path == "ours":
            deblurrer.files([folder], out, overwrite=True)
        else:
            for name in names:
                deblurrer.file(folder / name, out / name, overwrite=True)
        return out

    def restored(out: Path) -> Tensor:
        return torch.cat([decoded(file) for file in sorted(out.rglob("*.jpg"))])

    exact = Deblurrer.from_pretrained(device="cpu", dtype="fp32", scale=1)
    wanted = torch.cat([torch.from_numpy(exact(decoded(folder / name).numpy())) for name in names])
    group = f"files folder of {len(names)} JPEG {HEIGHT // 2}x{WIDTH // 2}"
    facts = {"pictures": len(names), "megapixels": len(names) * HEIGHT * WIDTH / 4e6}
    measure(benchmark, restore, wanted, group=group, path=path, compared=restored, tolerance=5e-2, **facts)


PROCESSES = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import deblurgan": ["-c", "import deblurgan"],
    "import deblurgan, Deblurrer": ["-c", "from deblurgan import Deblurrer"],
    "deblurgan --help": ["-m", "deblurgan", "--help"],
}


@pytest.mark.parametrize("path", PROCESSES)
def bench_process(benchmark: BenchmarkFixture, path: str) -> None:
    def code() -> Tensor:
        done = subprocess.run([sys.executable, *PROCESSES[path]], capture_output=True, check=True)
        return torch.tensor([done.returncode + 1.0])

    measure(benchmark, code, torch.ones(1), group="files process", path=path, tolerance=0.0)
