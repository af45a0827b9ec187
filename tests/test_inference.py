"""Deblurrer: any size and kind of picture comes back as it came, restored; files and folders too."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import deblurgan
from conftest import NET_TOLERANCE, relative_error, texture
from deblurgan import Deblurrer, Generator, ImageError, diagnosis, images, metrics, save_generator
from deblurgan.blur import MotionBlur
from deblurgan.checkpoint import DEFAULT_WEIGHTS, load_generator
from deblurgan.device import assume_kernels, auto_dtype, pick_device
from deblurgan.inference import FilesReport
from deblurgan.kernels.config import ConvShape, Gpu
from deblurgan.kernels.rows import Row, merge, software
from deblurgan.kernels.table import config_picker

DEMO = DEFAULT_WEIGHTS.parent / "demo.png"
ORIENTATION, MAKER = 0x0112, 0x010F


@pytest.fixture
def deblurrer(small_generator: Generator) -> Deblurrer:
    return Deblurrer(small_generator, device="cpu")


@pytest.fixture
def exact(small_generator: Generator) -> Deblurrer:
    """In the arithmetic of the generator itself."""
    return Deblurrer(small_generator, device="cpu", dtype="fp32")


def tensor(h: int, w: int, *, seed: int = 0) -> Tensor:
    """uint8 [3, h, w]."""
    return torch.from_numpy(texture(h, w, seed=seed)).permute(2, 0, 1).contiguous()


def unit(h: int, w: int, *, seed: int = 0) -> Tensor:
    """fp32 [3, h, w] in [0, 1]."""
    return tensor(h, w, seed=seed).float() / 255


def by_hand(generator: Generator, x: Tensor) -> Tensor:
    """x [3, h, w] mirrored out to multiples of 4 and at least 8 by NumPy, through the generator, and cropped.

    In the Deblurrer's layout: InstanceNorm of planes of 2x2 would show another order of the sums.
    """
    h, w = x.shape[1:]
    up, right = (max(8, -(-side // 4) * 4) - side for side in (h, w))
    padded = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, up), (0, right)), mode="reflect"))
    with torch.no_grad():
        x = (padded[None] * 2 - 1).contiguous(memory_format=torch.channels_last)
        return ((generator(x) + 1) / 2)[0, :, :h, :w]


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# Sizes


def test_every_small_size_is_the_network_on_a_mirrored_picture(exact: Deblurrer, small_generator: Generator) -> None:
    for h in range(1, 21):
        for w in range(1, 21):
            x = unit(h, w, seed=20 * h + w)
            torch.testing.assert_close(exact(x), by_hand(small_generator, x), atol=1e-6, rtol=0, msg=f"{h}x{w}")


@pytest.mark.parametrize("h, w", [(37, 50), (64, 101), (1, 90), (90, 2), (63, 64)])
def test_larger_sizes_are_the_network_on_a_mirrored_picture(
    exact: Deblurrer, small_generator: Generator, h: int, w: int
) -> None:
    x = unit(h, w)
    torch.testing.assert_close(exact(x), by_hand(small_generator, x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("h, w", [(8, 8), (8, 20), (64, 48)])
def test_a_size_the_network_takes_is_the_network_itself(
    exact: Deblurrer, small_generator: Generator, h: int, w: int
) -> None:
    x = unit(h, w)
    with torch.no_grad():
        wanted = (small_generator((x[None] * 2 - 1).contiguous(memory_format=torch.channels_last))[0] + 1) / 2
    torch.testing.assert_close(exact(x), wanted, atol=1e-6, rtol=0)
    assert float((wanted - x).abs().mean()) > 0.02


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_pictures_of_any_size_give_finite_results(deblurrer: Deblurrer, value: int) -> None:
    for h, w in ((1, 1), (2, 3), (16, 16)):
        result = deblurrer(torch.full((3, h, w), value / 255))
        assert result.shape == (3, h, w)
        assert result.isfinite().all()


# Kinds


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 13, 18), (1, 13, 18), (2, 3, 13, 18), (2, 1, 13, 18), (0, 3, 13, 18)])
def test_tensors_keep_shape_and_dtype_and_are_not_touched(
    deblurrer: Deblurrer, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = x if dtype == torch.uint8 else (x / 255).to(dtype)
    before = x.clone()
    y = deblurrer(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(13, 18, 3), (13, 18, 1), (13, 18)])
def test_arrays_keep_shape_and_dtype_and_are_not_touched(
    deblurrer: Deblurrer, dtype: type[np.generic], shape: tuple[int, ...]
) -> None:
    x = texture(13, 18)[..., 0].reshape(13, 18, 1).repeat(3, 2)[..., : shape[-1] if len(shape) == 3 else 1]
    x = x.reshape(shape) if dtype == np.uint8 else (x.reshape(shape) / 255).astype(dtype)
    before = x.copy()
    y = deblurrer(x)
    assert isinstance(y, np.ndarray)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert np.array_equal(x, before)
    y[:] = 0  # the result is the caller's own


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pil_images_keep_mode_size_and_alpha_and_are_not_touched(deblurrer: Deblurrer, mode: str) -> None:
    image = Image.fromarray(texture(21, 30)).convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(texture(21, 30, seed=9)[..., 0]))
    before = image.tobytes()
    restored = deblurrer(image)
    assert (restored.mode, restored.size) == (image.mode, image.size)
    assert image.tobytes() == before
    assert restored.tobytes() != before
    if mode.endswith("A"):
        assert restored.getchannel("A").tobytes() == image.getchannel("A").tobytes()


def test_a_palette_comes_back_as_rgb(deblurrer: Deblurrer) -> None:
    image = Image.fromarray(texture(21, 30)).quantize(16)
    assert image.mode == "P"
    assert deblurrer(image).tobytes() == deblurrer(image.convert("RGB")).tobytes()


def test_all_kinds_give_the_same_picture(deblurrer: Deblurrer, tmp_path: Path) -> None:
    pixels = texture(22, 35)
    images.write(images.Picture(pixels), tmp_path / "a.png")
    wanted = by_hand(deblurrer.generator, torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    wanted = (wanted * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    kinds: dict[str, Any] = {
        "array": deblurrer(pixels),
        "float array": np.round(deblurrer(pixels / 255) * 255),
        "tensor": deblurrer(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0),
        "batch": deblurrer(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].permute(1, 2, 0),
        "pil": deblurrer(Image.fromarray(pixels)),
        "path": deblurrer(tmp_path / "a.png"),
        "str": deblurrer(str(tmp_path / "a.png")),
    }
    for kind, result in kinds.items():
        assert np.abs(np.asarray(result, dtype=int) - wanted).max() <= 1, kind  # 1: a value halfway may round both ways
    assert isinstance(kinds["path"], Image.Image)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_an_identity_gives_every_8_bit_level_back(small_generator: Generator, dtype: str) -> None:
    torch.nn.init.zeros_(small_generator.head.weight)
    torch.nn.init.zeros_(small_generator.head.bias)
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    identity = Deblurrer(small_generator, device="cpu", dtype=dtype)
    assert np.array_equal(identity(levels), levels)
    assert np.array_equal(identity(np.stack([levels, levels.T, levels[::-1]], 2))[..., 2], levels[::-1])


def test_grey_is_the_mean_of_its_restored_colours(deblurrer: Deblurrer) -> None:
    grey = unit(21, 30)[:1]
    wanted = deblurrer(grey.expand(3, -1, -1)).mean(0, keepdim=True)
    torch.testing.assert_close(deblurrer(grey), wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(deblurrer(grey[0].numpy()), wanted[0].numpy(), atol=1e-6, rtol=0)


def test_each_picture_of_a_batch_is_restored_as_if_alone(deblurrer: Deblurrer) -> None:
    batch = torch.stack([unit(21, 30, seed=i) for i in range(3)])
    for x, y in zip(batch, deblurrer(batch), strict=True):
        torch.testing.assert_close(y, deblurrer(x), atol=1e-6, rtol=0)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "permuted": lambda x: x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "transposed": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "strided": lambda x: x.repeat_interleave(2, 1).repeat_interleave(3, 2)[:, ::2, ::3],
    "channels last batch": lambda x: x[None].contiguous(memory_format=torch.channels_last)[0],
    "expanded": lambda x: x[:1].expand(3, -1, -1),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_any_strides_give_the_same_result(deblurrer: Deblurrer, view: str, dtype: torch.dtype) -> None:
    x = VIEWS[view](tensor(22, 35) if dtype == torch.uint8 else unit(22, 35))
    assert torch.equal(deblurrer(x), deblurrer(x.contiguous()))


def read_only(picture: np.ndarray) -> np.ndarray:
    picture.flags.writeable = False
    return picture


ARRAY_VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows reversed": lambda x: x[::-1].copy()[::-1],
    "columns reversed": lambda x: x[:, ::-1].copy()[:, ::-1],
    "read-only": read_only,
    "strided": lambda x: x.repeat(2, 0).repeat(3, 1)[::2, ::3],
    "Fortran order": np.asfortranarray,
}


@pytest.mark.parametrize("view", ARRAY_VIEWS)
@pytest.mark.parametrize("shape", [(22, 35, 3), (1, 35, 3), (22, 35), (1, 35), (22, 1)])
@pytest.mark.filterwarnings("error")
def test_any_array_layout_gives_the_same_result(deblurrer: Deblurrer, view: str, shape: tuple[int, ...]) -> None:
    x = texture(*shape[:2])
    x = x if len(shape) == 3 else x[..., 0].copy()
    assert np.array_equal(deblurrer(ARRAY_VIEWS[view](x.copy())), deblurrer(x))


def test_the_result_can_be_changed_and_trained_on(deblurrer: Deblurrer) -> None:
    result = deblurrer(unit(16, 16).requires_grad_())
    result *= 0.5
    weight = torch.ones((), requires_grad=True)
    (weight * result).sum().backward()
    assert weight.grad is not None
    assert deblurrer.generator.head.weight.grad is None


# Refusals


@pytest.mark.parametrize(
    "picture, words",
    [
        (torch.zeros(4, 8, 8), r"Tensor \[3, h, w\] or \[n, 3, h, w\], got \(4, 8, 8\)"),
        (torch.zeros(2, 2, 8, 8), r"Tensor \[3, h, w\].*got \(2, 2, 8, 8\)"),
        (torch.zeros(8, 8), r"Tensor \[3, h, w\].*got \(8, 8\)"),
        (torch.zeros(8), r"Tensor \[3, h, w\].*got \(8,\)"),
        (torch.zeros(1, 1, 3, 8, 8), r"Tensor \[3, h, w\].*got \(1, 1, 3, 8, 8\)"),
        (torch.zeros(3, 0, 8), r"Tensor \[3, h, w\].*got \(3, 0, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int32), r"uint8, uint16 or float in \[0, 1\], got torch.int32"),
        (torch.zeros(3, 8, 8, dtype=torch.bool), r"uint8, uint16 or float in \[0, 1\], got torch.bool"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.int64), r"uint8, uint16 or float in \[0, 1\], got torch.int64"),
        (torch.full((3, 8, 8), float("nan")), "finite, got NaN or infinite"),
        (torch.full((3, 8, 8), float("-inf")), "finite, got NaN or infinite"),
        (torch.tensor([0.5] * 191 + [float("nan")]).view(3, 8, 8), "finite, got NaN or infinite"),
        (torch.full((3, 8, 8), 200.0), r"in \[0, 1\], got 200 \.\.\. 200"),
        (torch.linspace(-1, 1, 192).view(3, 8, 8), r"in \[0, 1\], got -1 \.\.\. 1"),
        (np.zeros((8, 8, 4), np.uint8), r"ndarray \[h, w, 3\] or \[h, w\], got \(8, 8, 4\)"),
        (np.zeros((3, 8, 8), np.uint8), r"ndarray \[h, w, 3\] or \[h, w\], got \(3, 8, 8\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"ndarray \[h, w, 3\] or \[h, w\], got \(1, 8, 8, 3\)"),
        (np.zeros(8, np.uint8), r"ndarray \[h, w, 3\] or \[h, w\], got \(8,\)"),
        (np.zeros((0, 8, 3), np.uint8), r"ndarray \[h, w, 3\] or \[h, w\], got \(0, 8, 3\)"),
        (np.zeros((8, 8, 3), np.int32), r"uint8, uint16 or float in \[0, 1\], got int32"),
        (np.zeros((8, 8), bool), r"uint8, uint16 or float in \[0, 1\], got bool"),
        (np.full((8, 8, 3), np.nan), "finite, got NaN or infinite"),
        (np.full((8, 8, 3), 255.0), r"in \[0, 1\], got 255 \.\.\. 255"),
        (torch.zeros(3, 8, 8, device="meta"), "a dense Tensor, got torch.strided on meta"),
        (torch.zeros(3, 8, 8).to_sparse(), "a dense Tensor, got torch.sparse_coo"),
        (torch.zeros(3, 8, 8).to(torch.float8_e4m3fn), r"uint8, uint16 or float in \[0, 1\], got torch.float8_e4m3fn"),
        (Image.new("I", (8, 8)), "32 bits a channel are not supported"),
        (Image.new("CMYK", (8, 8)), "CMYK without a colour profile"),
    ],
)
def test_a_wrong_picture_is_refused_with_what_was_wanted_and_what_came(
    deblurrer: Deblurrer, picture: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        deblurrer(picture)


def test_values_just_outside_of_the_range_are_taken_as_its_ends(deblurrer: Deblurrer) -> None:
    x = unit(16, 16)
    x[0, 0, 0], x[0, 0, 1] = -0.0005, 1.0005
    assert torch.equal(deblurrer(x), deblurrer(x.clamp(0, 1)))


@pytest.mark.parametrize("picture", [None, 3, [[0.5]], b"bytes"])
def test_no_picture_at_all_is_a_type_error(deblurrer: Deblurrer, picture: Any) -> None:
    with pytest.raises(TypeError, match="must be a path, PIL image, ndarray or Tensor, got"):
        deblurrer(picture)


@pytest.mark.parametrize("option", [{"dtype": "fp8"}, {"max_memory": 0}, {"max_memory": -5}, {"max_memory": "all"}])
def test_wrong_options_are_refused(small_generator: Generator, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        Deblurrer(small_generator, **option)


# Precision, memory, dropout, threads


def test_the_given_generator_stays_as_it_is(small_generator: Generator) -> None:
    small_generator.train()
    deblurrer = Deblurrer(small_generator, device="cpu", dtype="bf16")
    assert small_generator.training
    assert small_generator.head.weight.dtype == torch.float32
    assert small_generator.head.weight.requires_grad
    before = deblurrer(unit(16, 16))
    torch.nn.init.zeros_(small_generator.head.weight)
    assert torch.equal(deblurrer(unit(16, 16)), before)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_each_precision_is_close_to_fp64(small_generator: Generator, dtype: str) -> None:
    x = unit(40, 56)
    got = Deblurrer(small_generator, device="cpu", dtype=dtype)(x)
    wanted = by_hand(small_generator.double(), x.double())
    assert got.dtype == torch.float32
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert relative_error(got, wanted) <= NET_TOLERANCE[kind]


CPUS = {"AMX": {"amx_bf16": True}, "AVX512-BF16": {"avx512_bf16": True}, "none": {"avx512_f": True}}


@pytest.mark.parametrize("instructions", CPUS)
def test_auto_is_bf16_on_a_cpu_with_instructions_for_it(
    small_generator: Generator, instructions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: CPUS[instructions])
    wanted = torch.float32 if instructions == "none" else torch.bfloat16
    assert Deblurrer(small_generator, device="cpu").dtype == wanted


def test_auto_is_fp32_where_nobody_tells(small_generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert Deblurrer(small_generator, device="cpu").dtype == torch.float32


def test_auto_is_fp32_without_onednn(small_generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: CPUS["AMX"])
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert Deblurrer(small_generator, device="cpu").dtype == torch.float32


def test_auto_is_fp16_on_cuda_and_fp32_on_the_unknown() -> None:
    assert auto_dtype(torch.device("cuda"))[0] == "fp16"
    assert auto_dtype(torch.device("meta"))[0] == "fp32"


def test_freed_memory_is_kept_where_there_is_plenty(
    small_generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    @contextmanager
    def kept() -> Iterator[None]:
        used.append(True)
        yield

    monkeypatch.setattr("deblurgan.memory.retain_freed", kept)
    x = unit(40, 56)
    need = 40 * 56 * Deblurrer(small_generator, device="cpu").restorer.bytes_per_pixel
    wanted = Deblurrer(small_generator, device="cpu", max_memory=need)(x)
    assert not used
    got = Deblurrer(small_generator, device="cpu", max_memory=2 * need)(x)
    assert used and torch.equal(got, wanted)


def residual_error(got: Tensor, wanted: Tensor, x: Tensor) -> float:
    """Relative error of what the network adds to the picture."""
    return relative_error(got.double() - x, wanted.double() - x)


@pytest.mark.parametrize("h, w", [(64, 96), (37, 50)])
def test_the_shipped_network_in_bf16_is_close_to_fp32_and_fp64(h: int, w: int) -> None:
    x = unit(h, w)
    half, single = (Deblurrer.from_pretrained(device="cpu", dtype=dtype)(x) for dtype in ("bf16", "fp32"))
    truth = by_hand(load_generator(DEFAULT_WEIGHTS).double(), x.double())
    assert residual_error(half, truth, x) <= NET_TOLERANCE[torch.bfloat16]
    assert residual_error(half, single, x) <= NET_TOLERANCE[torch.bfloat16]
    assert residual_error(single, truth, x) <= NET_TOLERANCE[torch.float32]


def test_bf16_costs_no_quality(photos: Path) -> None:
    half, single = (Deblurrer.from_pretrained(device="cpu", dtype=dtype) for dtype in ("bf16", "fp32"))
    for i, path in enumerate([DEMO, *sorted(photos.iterdir())]):
        sharp = torch.from_numpy(images.read(path).pixels).permute(2, 0, 1)
        blurred = MotionBlur(exposure=1.0)(sharp, seed=0, index=i)
        in_half, in_single = (metrics.psnr(deblurrer(blurred), sharp, 255.0) for deblurrer in (half, single))
        assert in_half >= in_single - 0.02, path.name


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_sharp_picture_comes_back_at_40_db(dtype: str) -> None:
    sharp = torch.from_numpy(images.read(DEMO).pixels).permute(2, 0, 1)
    assert metrics.psnr(Deblurrer.from_pretrained(device="cpu", dtype=dtype)(sharp), sharp, 255.0) >= 40


@pytest.fixture
def nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.any_cpu
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile finds no C++ compiler")
def test_a_compiled_network_restores_any_size(
    exact: Deblurrer, small_generator: Generator, nothing_compiled: None
) -> None:
    compiled = Deblurrer(small_generator, device="cpu", dtype="fp32", compile=True)
    for h, w in ((39, 50), (64, 101)):
        x = unit(h, w)
        assert relative_error(compiled(x), exact(x)) <= NET_TOLERANCE[torch.float32]


def test_compile_cannot_be_stochastic() -> None:
    generator = Generator("tiny", width=4, blocks=1, dropout=0.5)
    with pytest.raises(ValueError, match="compile must be off where stochastic is on"):
        Deblurrer(generator, compile=True, stochastic=True)


@pytest.mark.filterwarnings("ignore:the network gave values that are not finite")
def test_a_network_that_overflows_is_an_error_and_no_picture(small_generator: Generator) -> None:
    torch.nn.init.constant_(small_generator.head.weight, 1e30)
    torch.nn.init.constant_(small_generator.head.bias, float("nan"))
    with pytest.raises(FloatingPointError, match=r"not finite in torch\.float32"):
        Deblurrer(small_generator, device="cpu")(unit(16, 16))


@pytest.mark.parametrize("n", [1, 5])
def test_more_memory_than_allowed_is_refused_before_any_work(
    small_generator: Generator, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = 40 * 56 * Deblurrer(small_generator, device="cpu").restorer.bytes_per_pixel
    x = unit(39, 55).expand(n, -1, -1, -1)
    assert Deblurrer(small_generator, device="cpu", max_memory=need)(x).shape == x.shape
    strict = Deblurrer(small_generator, device="cpu", max_memory=need - 1)
    monkeypatch.setattr(Generator, "forward", None)
    with pytest.raises(
        MemoryError, match=r"picture of 55x39: it needs .* MiB in the smallest strips, max_memory is .* MiB"
    ):
        strict(x)


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most that torch's CPU allocator held during the call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    held = most = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN unfolds every convolution")
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("width, n", [(1, 1), (4, 6), (24, 1)])
def test_memory_stays_below_the_estimate(dtype: str, width: int, n: int) -> None:
    if dtype == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU unfolds bf16 convolutions")
    deblurrer = Deblurrer(Generator("tiny", width=width, blocks=1), device="cpu", dtype=dtype)
    x = tensor(48, 64).expand(n, -1, -1, -1)
    used = peak_bytes(lambda: deblurrer(x)) - x.numel()  # the result is not counted
    assert used > 48 * 64 * 4 * width
    assert used <= 48 * 64 * deblurrer.restorer.bytes_per_pixel


def test_stochastic_is_dropout_repeatable_by_seed(small_generator: Generator) -> None:
    generator = Generator("tiny", width=4, blocks=1, dropout=0.5)
    generator.load_state_dict(small_generator.state_dict())
    x = unit(32, 32)
    plain = Deblurrer(generator, device="cpu")(x)
    assert torch.equal(plain, Deblurrer(small_generator, device="cpu")(x))
    first, again, other = (Deblurrer(generator, device="cpu", stochastic=True, seed=s) for s in (1, 1, 2))
    torch.rand(3)  # torch's own generator has no say
    assert torch.equal(first(x), again(x))
    assert torch.equal(first(x), first(x))
    assert not torch.equal(first(x), other(x))
    assert not torch.equal(first(x), plain)


def test_one_deblurrer_serves_many_threads(deblurrer: Deblurrer) -> None:
    pictures = [tensor(20 + 4 * i, 31, seed=i) for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(deblurrer, pictures))
    for picture, result in zip(pictures, results, strict=True):
        assert torch.equal(result, deblurrer(picture))


# Files


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("format, suffix", [("JPEG", ".jpg"), ("PNG", ".png"), ("TIFF", ".tif"), ("WEBP", ".webp")])
def test_file_keeps_exif_but_for_the_orientation_and_the_profile(
    deblurrer: Deblurrer, format: str, suffix: str, tmp_path: Path
) -> None:
    exif, profile = Image.Exif(), srgb()  # which holds the time
    exif[MAKER], exif[ORIENTATION] = "Maker", 6
    source, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    source.write_bytes(encoded(Image.fromarray(texture(21, 30)), format, exif=exif, icc_profile=profile, dpi=(72, 72)))
    deblurrer.file(source, target)
    with Image.open(target) as image:
        assert image.format == format
        assert image.size == (21, 30)  # upright
        assert image.getexif()[MAKER] == "Maker"
        assert image.getexif().get(ORIENTATION, 1) == 1
        assert image.info["icc_profile"] == profile
    if format in ("PNG", "TIFF"):
        assert images.read(target).to_pil().tobytes() == deblurrer(source).tobytes()


def test_file_keeps_alpha(deblurrer: Deblurrer, tmp_path: Path) -> None:
    alpha = texture(21, 30, seed=5)[..., 0]
    images.write(images.Picture(texture(21, 30), alpha=alpha), tmp_path / "a.png")
    deblurrer.file(tmp_path / "a.png", tmp_path / "b.png")
    assert np.array_equal(images.read(tmp_path / "b.png").alpha, alpha)
    with pytest.raises(ImageError, match="cannot hold the alpha"):
        deblurrer.file(tmp_path / "a.png", tmp_path / "b.jpg")


def test_file_never_replaces_a_picture_unasked(deblurrer: Deblurrer, photos: Path) -> None:
    before = (photos / "0.png").read_bytes()
    for target in (photos / "0.png", photos / "1.png"):
        with pytest.raises(FileExistsError, match=r"png exists: overwrite=True replaces it"):
            deblurrer.file(photos / "0.png", target)
    assert (photos / "0.png").read_bytes() == before
    deblurrer.file(photos / "0.png", photos / "0.png", overwrite=True)
    assert (photos / "0.png").read_bytes() != before


def test_files_mirrors_folders(deblurrer: Deblurrer, photos: Path, tmp_path: Path) -> None:
    (photos / "deep" / "er").mkdir(parents=True)
    (photos / "3.png").rename(photos / "deep" / "er" / "3.png")
    lines: list[str] = []
    report = deblurrer.files([photos], tmp_path / "out", log=lines.append)
    assert names(tmp_path / "out") == ["0.png", "1.png", "2.png", "deep/er/3.png"]
    assert report == FilesReport(done=[tmp_path / "out" / name for name in names(tmp_path / "out")])
    assert images.read(tmp_path / "out" / "0.png").to_pil().tobytes() == deblurrer(photos / "0.png").tobytes()
    assert len(lines) == 4
    assert lines[0].startswith("[1/4] ")


def test_files_takes_single_pictures_a_named_target_suffix_and_format(
    deblurrer: Deblurrer, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    deblurrer.files([photos / "0.png"], tmp_path / "new" / "one.webp")
    assert names(tmp_path / "new") == ["one.webp"]
    deblurrer.files([photos / "0.png", photos / "1.png"], out, suffix="_sharp", format="jpg")
    assert names(out) == ["0_sharp.jpg", "1_sharp.jpg"]
    with Image.open(out / "0_sharp.jpg") as image:
        assert image.format == "JPEG"


def add_bad_files(folder: Path) -> dict[str, str]:
    """Writes four bad pictures; gives a word of what should be said of each."""
    jpeg = encoded(Image.fromarray(texture(64, 64)), "JPEG")
    (folder / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    (folder / "deep.tif").write_bytes(encoded(Image.new("I", (9, 9)), "TIFF"))
    return {"truncated.jpg": "truncated", "empty.png": "empty", "text.png": "not a JPEG", "deep.tif": "32 bits"}


def test_bad_files_are_listed_and_the_rest_is_written(deblurrer: Deblurrer, photos: Path, tmp_path: Path) -> None:
    bad = add_bad_files(photos)
    report = deblurrer.files([photos], tmp_path / "out")
    assert names(tmp_path / "out") == ["0.png", "1.png", "2.png", "3.png"]
    assert {source.name for source, _ in report.failed} == set(bad)
    for source, reason in report.failed:
        assert bad[source.name] in reason


def test_two_inputs_with_one_output_are_not_both_written(deblurrer: Deblurrer, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a.jpg", "a.png"):
        images.write(images.Picture(texture(16, 16)), source / name)
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"a\.png would be the output of both .*a\.jpg and .*in/a\.png"):
            deblurrer.files([source], tmp_path / "out", format="png", overwrite=overwrite)
        assert not (tmp_path / "out").exists()


def test_existing_outputs_are_kept_left_out_or_replaced(deblurrer: Deblurrer, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    deblurrer.files([photos / "0.png"], out)
    (out / "0.png").write_bytes(b"mine")
    report = deblurrer.files([photos], out)
    assert [source.name for source, _ in report.failed] == ["0.png"]
    assert (out / "0.png").read_bytes() == b"mine"
    report = deblurrer.files([photos], out, skip_existing=True)
    assert (len(report.skipped), report.done, report.failed) == (4, [], [])
    assert (out / "0.png").read_bytes() == b"mine"
    report = deblurrer.files([photos], out, overwrite=True)
    assert len(report.done) == 4
    assert (out / "0.png").read_bytes() != b"mine"


def test_an_output_folder_inside_the_input_is_not_read_again(deblurrer: Deblurrer, photos: Path) -> None:
    for _ in range(2):
        report = deblurrer.files([photos], photos / "out", overwrite=True)
        assert len(report.done) == 4
    assert names(photos / "out") == ["0.png", "1.png", "2.png", "3.png"]


def test_an_input_folder_inside_the_output_is_read(deblurrer: Deblurrer, photos: Path) -> None:
    report = deblurrer.files([photos], photos.parent)
    assert len(report.done) == 4


def test_pictures_are_not_replaced_in_place_unasked(deblurrer: Deblurrer, photos: Path) -> None:
    before = {name: (photos / name).read_bytes() for name in names(photos)}
    report = deblurrer.files([photos], photos)
    assert len(report.failed) == 4
    assert {name: (photos / name).read_bytes() for name in names(photos)} == before


def test_an_output_that_cannot_be_written_is_listed(deblurrer: Deblurrer, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    report = deblurrer.files([photos], tmp_path / "file" / "below")
    assert len(report.failed) == 4
    assert all(reason for _, reason in report.failed)
    assert (tmp_path / "file").read_text() == "mine"


def test_missing_and_empty_inputs_are_errors(deblurrer: Deblurrer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"inputs must exist, got .*nowhere"):
        deblurrer.files([tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"inputs must hold pictures .* found none in .*empty"):
        deblurrer.files([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(ValueError, match="got none"):
        deblurrer.files([], tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        deblurrer.file(tmp_path / "nowhere.png", tmp_path / "out.png")


# Weights, and what runs where


def test_from_pretrained_takes_a_file_a_run_folder_or_nothing(small_generator: Generator, tmp_path: Path) -> None:
    save_generator(small_generator, tmp_path / "best.safetensors")
    wanted = Deblurrer(small_generator, device="cpu")(unit(16, 16))
    for path in (tmp_path / "best.safetensors", str(tmp_path / "best.safetensors"), tmp_path):
        assert torch.equal(Deblurrer.from_pretrained(path, device="cpu")(unit(16, 16)), wanted)
    default = Deblurrer.from_pretrained()
    assert default(tensor(9, 9)).shape == (3, 9, 9)
    assert Deblurrer.from_pretrained(dtype="bf16").dtype == torch.bfloat16
    with pytest.raises(FileNotFoundError):
        Deblurrer.from_pretrained(tmp_path / "nowhere.safetensors")


def test_info_names_each_part() -> None:
    lines = dict(line.split(":", 1) for line in deblurgan.info().splitlines())
    machine, paths = (
        ["deblurgan", "python", "torch", "device", "memory", "deblurgan._C"],
        ["generator", "training", "blur"],
    )
    assert list(lines) == [*machine, "dtype", *paths, "default weights", "extras"]
    assert lines["deblurgan"].strip() == deblurgan.__version__
    assert torch.__version__ in lines["torch"]
    assert "parameters" in lines["default weights"]
    dtype, why = auto_dtype(pick_device("auto"))
    assert lines["dtype"].strip() == f"auto is {dtype}: {why}"


def test_info_says_which_way_the_generator_takes() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    generator, cpu = Generator("tiny", width=4, blocks=1), torch.device("cpu")
    way = diagnosis.generator_path(generator, cpu, torch.float32)
    assert way == "plain torch, not the engine: it needs a CUDA device"
    with assume_kernels():
        way = diagnosis.generator_path(generator, cpu, torch.float32)
    names = "stem cuDNN, down.0 cuDNN, down.1 cuDNN, blocks cuDNN, up.0 cuDNN, up.1 cuDNN, head Triton"
    assert way == f"engine: {names} (no GPU to choose for)"
    stages = [stage for stage in generator.spec.stages if stage.kind in ("up", "trunk", "head")]
    mixed = {"blocks.0.conv1": "Triton ConvConfig(): a", "blocks.0.conv2": "cuDNN: a", "head": "Triton ConvConfig(): a"}
    mixed |= {"up.0": "cuDNN: b", "up.1": "Triton ConvConfig(): b"}
    assert (
        diagnosis.stages_line(stages, mixed)
        == "engine: blocks Triton/cuDNN, head Triton (a); up.0 cuDNN, up.1 Triton (b)"
    )


def test_info_tells_of_the_user_s_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBLURGAN_TABLE", str(tmp_path / "table.json"))
    gpu, shape = Gpu("NVIDIA H200", (9, 0), 132), ConvShape("trunk", 256, 256, 4096, torch.float16)
    rows = [Row(gpu, shape, None, "torch 1"), Row(gpu._replace(sms=7), shape, None, software())]
    hint = "`deblurgan tune` measures which are the fastest on this GPU"
    lines = []
    for more in ([], [Row(gpu, shape, None, software())]):
        merge(tmp_path / "table.json", [*rows, *more])
        config_picker.cache_clear()
        lines.append(diagnosis.tilings_line(gpu))
    config_picker.cache_clear()
    path = tmp_path / "table.json"
    assert lines[0] == f"{path}: 0 rows for this GPU, 1 stale; {hint}"
    assert lines[1] == f"{path}: 1 rows for this GPU, 1 stale"
    monkeypatch.delenv("DEBLURGAN_TABLE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    assert diagnosis.tilings_line(gpu._replace(name="NVIDIA A100")) == hint
