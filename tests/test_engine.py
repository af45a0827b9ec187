"""The engine and the generator that runs it, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import contextlib
import itertools
import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import KERNEL_DEVICE, KERNEL_DTYPES, NET_TOLERANCE, lively, relative_error, textures
from deblurgan import device, reference
from deblurgan.device import assume_kernels
from deblurgan.generator import engine
from deblurgan.generator.engine import Engine, Workspace
from deblurgan.inference import Deblurrer
from deblurgan.nn import Generator
from deblurgan.ops import convolution
from deblurgan.spec import PRESETS

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels import merge_stats, norm_act, output_tail, table
from deblurgan.kernels.conv_stats import ConvConfig

HEAD = ConvConfig(64, 64, 64)
each_dtype = pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each program costs the interpreter the same, however much it does."""
    if KERNEL_DEVICE.type == "cpu":
        monkeypatch.setattr(merge_stats, "BLOCK_C", 64)
        monkeypatch.setattr(merge_stats, "BLOCK_TILES", 32)


def ours(kind: str, pixels: int, dtype: torch.dtype) -> ConvConfig:
    return HEAD if kind == "head" else ConvConfig(128, 64, 32)


def flat_trunk(kind: str, pixels: int, dtype: torch.dtype) -> ConvConfig:
    return ConvConfig(16, 32, 32, form="tma") if kind == "trunk" else ours(kind, pixels, dtype)


def library(kind: str, pixels: int, dtype: torch.dtype) -> ConvConfig | None:
    return HEAD if kind == "head" else None


def net(preset: str = "paper", *, width: int = 16, blocks: int = 1) -> Generator:
    torch.manual_seed(0)
    return lively(Generator(preset, width=width, blocks=blocks)).eval().requires_grad_(False)


def signed(levels: Tensor) -> Tensor:
    return levels.float() / 127.5 - 1


def engine_of(generator: Generator, dtype: torch.dtype = torch.float32, choose: table.Choose = library) -> Engine:
    return Engine(generator.spec, generator.state_dict(), dtype=dtype, choose=choose)


def truth(generator: Generator, x: Tensor) -> Tensor:
    with torch.no_grad():
        return deepcopy(generator).double()(x.double())


def residual_error(got: Tensor, wanted: Tensor, x: Tensor) -> float:
    """Relative error of what the network adds to the picture."""
    return relative_error(got.double() - x.double(), wanted - x.double())


def assert_like_torch(got: Tensor, generator: Generator, x: Tensor, dtype: torch.dtype) -> None:
    """fp32 within the tolerance of a network; half types at most twice as far from the truth as torch's own."""
    wanted = truth(generator, x)
    allowed = NET_TOLERANCE[torch.float32]
    if dtype != torch.float32:
        plain = deepcopy(generator).to(dtype)
        plain.backend = "reference"
        with torch.no_grad():
            allowed = 2 * residual_error(plain(x.to(dtype)), wanted, x.to(dtype))
    error = residual_error(got, wanted, x)
    assert error <= allowed, f"relative error {error:.3g} above {allowed:.3g}"


class Case(NamedTuple):
    preset: str
    width: int
    blocks: int
    choose: table.Choose
    size: tuple[int, int]


CASES = {
    "paper, ours": Case("paper", 16, 1, ours, (8, 24)),
    "paper, tma": Case("paper", 16, 2, flat_trunk, (8, 8)),
    "paper, library": Case("paper", 16, 1, library, (16, 24)),
    "article, ours": Case("article", 16, 2, ours, (8, 8)),
    "article, tma": Case("article", 16, 1, flat_trunk, (8, 40)),
    "tiny, ours": Case("tiny", 24, 1, ours, (8, 8)),
    "tiny, library": Case("tiny", 24, 1, library, (8, 8)),
    "no blocks": Case("paper", 16, 0, ours, (8, 8)),
}


@each_dtype
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_engine_is_the_generator(case: Case, dtype: torch.dtype, poisoned: None) -> None:
    if case.choose is flat_trunk and KERNEL_DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("tma needs compute capability 9.0")
    generator = net(case.preset, width=case.width, blocks=case.blocks)
    x = signed(textures(2, *case.size))
    got = engine_of(generator, dtype, case.choose)(x)
    assert got.dtype == x.dtype
    assert_like_torch(got, generator, x, dtype)


def test_engine_restores_8_bit_pictures(poisoned: None) -> None:
    generator, levels = net(), textures(1, 8, 12)
    got = engine_of(generator)(levels)
    assert got.dtype == torch.uint8
    exact = (truth(generator, levels.double() / 127.5 - 1) + 1) * 127.5
    assert (got.double() - exact).abs().max() <= 0.51, "not the nearest level"


def test_engine_takes_shapes_in_turn(poisoned: None) -> None:
    generator = net()
    run = engine_of(generator, choose=ours)
    small, wide = signed(textures(1, 8, 8)), signed(textures(1, 8, 16))
    first = run(small)
    kept = first.clone()
    assert_like_torch(run(wide), generator, wide, torch.float32)
    assert torch.equal(run(small), first), "same picture, other bits"
    assert torch.equal(first, kept), "a later call wrote over an earlier result"


@pytest.mark.parametrize("choose", [ours, library])
def test_merging_apart_changes_nothing(choose: table.Choose, poisoned: None, monkeypatch: pytest.MonkeyPatch) -> None:
    run, x = engine_of(net(), choose=choose), signed(textures(2, 8, 12))
    together = run(x)
    monkeypatch.setattr(norm_act, "MOST_TILES", 0)
    assert residual_error(run(x), together.double(), x) <= 1e-5


def test_engine_takes_any_strides(poisoned: None) -> None:
    run = engine_of(net(blocks=0))
    x = signed(textures(1, 8, 16))[..., ::2]
    wanted = run(x.contiguous())
    assert torch.equal(run(x), wanted)
    assert torch.equal(run(x.contiguous(memory_format=torch.channels_last)), wanted)


@pytest.mark.parametrize("choose", [ours, library])
def test_flat_pictures_leave_clean(choose: table.Choose, poisoned: None) -> None:
    """They normalise to exact zeros, so only the last bias is left of the network."""
    generator = net()
    x = torch.full((2, 3, 8, 8), -1.0, device=KERNEL_DEVICE)
    x[1] = 0.3
    wanted = (x + torch.tanh(generator.head.bias).view(1, 3, 1, 1)).clamp(-1, 1)
    assert (engine_of(generator, choose=choose)(x) - wanted).abs().max() <= 1e-6


def test_workspace_fits_the_paper_s_network() -> None:
    space = Workspace(PRESETS["paper"], 1, 720, 1280, torch.float16, torch.device("meta"))
    assert space.bytes <= 250 * 720 * 1280
    assert space.packed.shape == (1, 726, 1287, 8)
    assert space.head.inside.shape == space.stem.inside.shape == (1, 720, 1280, 64)
    assert space.half.inside.shape == (1, 360, 640, 128)
    assert [part.inside.shape for part in space.trunk] == [(1, 180, 320, 256)] * 3


def test_workspace_is_kept_for_its_shape() -> None:
    run = engine_of(net())
    space = run.workspace(1, 8, 8)
    assert run.workspace(1, 8, 8) is space
    assert run.workspace(2, 8, 8) is not space


def test_paths_tell_what_runs() -> None:
    asked: list[tuple[str, int]] = []

    def choose(kind: str, pixels: int, dtype: torch.dtype) -> ConvConfig | None:
        assert dtype == torch.float32
        asked.append((kind, pixels))
        return HEAD if kind in ("head", "down") else None

    run = engine_of(net("article"), choose=choose)
    run(signed(textures(2, 8, 12)))
    ran, asked[:] = list(asked), []
    paths = run.paths(2, 8, 12)
    assert asked == ran
    assert list(paths) == ["stem", "down.0", "down.1", "blocks.0.conv1", "up.0", "up.1", "head"]
    assert [name for name, path in paths.items() if "cuDNN" in path] == ["stem", "blocks.0.conv1", "up.0", "up.1"]
    assert all(str(HEAD) in paths[name] for name in ("down.0", "down.1", "head"))


def row(**changes: Any) -> dict[str, Any]:
    config = {"block_m": 64, "block_n": 64, "block_k": 32, "warps": 4, "stages": 3, "form": "pointer"}
    return {"gpu": "A", "kind": "trunk", "pixels": 1000, "dtype": "float16", "config": config, **changes}


def test_table_gives_the_nearest_row() -> None:
    def config(block_m: int) -> dict[str, int]:
        return {"block_m": block_m}

    rows = [
        row(config=config(16)),
        row(config=config(32), pixels=1500),
        row(config=config(64), dtype="float32"),
        row(config=config(128), gpu="B"),
        row(config=config(256), kind="head"),
    ]
    choose = table.from_table("A", rows)
    half = torch.float16
    found = {pixels: choose("trunk", pixels, half) for pixels in (499, 500, 1200, 1230, 3000, 3001)}
    assert found[499] is found[3001] is None, "more than a factor of 2 away"
    assert [found[pixels].block_m for pixels in (500, 1200, 1230, 3000)] == [16, 16, 32, 32]
    assert choose("trunk", 1000, torch.float32).block_m == 64
    assert choose("trunk", 1000, torch.bfloat16) is None
    assert choose("stem", 1000, half) is None
    assert table.from_table("B", rows)("trunk", 1000, half).block_m == 128
    assert table.from_table("C", rows)("trunk", 1000, half) is None
    assert choose("head", 1000, half).block_m == 256
    assert isinstance(choose("head", 9000, half), ConvConfig)


def test_empty_batches_come_back() -> None:
    rows = [row(kind=kind, dtype="float32") for kind in ("stem", "down", "trunk", "up", "head")]
    run = engine_of(net(), choose=table.from_table("A", rows))
    assert run(torch.empty(0, 3, 8, 8, device=KERNEL_DEVICE)).shape == (0, 3, 8, 8)


def test_table_s_rows_are_whole() -> None:
    rows = table._table_rows()
    keys = [(row["gpu"], row["kind"], row["pixels"], row["dtype"]) for row in rows]
    assert len(set(keys)) == len(keys)
    for row in rows:
        assert row["kind"] in ("stem", "down", "trunk", "up", "head")
        assert getattr(torch, row["dtype"]) in (torch.float16, torch.bfloat16, torch.float32)
        config = ConvConfig(**row["config"])
        assert config.form == "pointer" or (config.form == "tma" and row["kind"] == "trunk"), row


def close(got: Tensor, wanted: Tensor) -> bool:
    return relative_error(got, wanted) <= 1e-12


def product(x: Tensor, weight: Tensor, taps: tuple[int, int], h: int, w: int) -> Tensor:
    """What the kernel makes of x [n, h', w', c] and a packed weight: [n, h, w, cout], all in fp64."""
    runs = weight.unflatten(1, (taps[0] * taps[1], -1))
    read = runs.shape[2]
    flat = x.flatten(2)
    c = x.shape[3]
    out = torch.zeros(x.shape[0], h, w, weight.shape[0], dtype=x.dtype)
    for tap, (i, j) in enumerate(itertools.product(range(taps[0]), range(taps[1]))):
        lines = flat[:, i : i + h, j * c :].unfold(2, read, c)[:, :, :w]
        out += lines @ runs[:, tap].T
    return out


def test_packed_weights_are_torch_s_layers() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    bordered = F.pad(x, (1,) * 4).permute(0, 2, 3, 1)

    weight = torch.randn(7, 5, 3, 3, dtype=torch.float64)
    layer = convolution.plain("trunk", weight, torch.float64)
    wanted = F.conv2d(x, weight, padding=1)
    assert close(product(bordered, layer.packed, layer.taps[0], 4, 6).permute(0, 3, 1, 2), wanted)
    assert torch.equal(layer.library, weight)
    assert convolution.plain("down", weight, torch.float64, stride=2).stride == 2

    weight = torch.randn(5, 7, 3, 3, dtype=torch.float64)
    layer = convolution.up(weight, torch.float64)
    wanted = F.conv_transpose2d(x, weight, stride=2, padding=1, output_padding=1)
    assert layer.taps == ((1, 1), (1, 2), (2, 1), (2, 2))
    rows = layer.packed.split([5 * i * j for i, j in layer.taps], 1)
    for phase, (u, v) in enumerate(itertools.product((0, 1), (0, 1))):
        got = product(bordered[:, 1:, 1:], rows[phase], layer.taps[phase], 4, 6)
        assert close(got.permute(0, 3, 1, 2), wanted[..., u::2, v::2]), (u, v)


def test_packed_stem_is_torch_s_layer() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 5, 6, dtype=torch.float64)
    weight = torch.randn(7, 3, 7, 7, dtype=torch.float64)
    wanted = F.conv2d(reference.pad(x, 3, "reflect"), weight)
    eight = torch.randn(1, 11, 13, 8, dtype=torch.float64)  # spare channels and the last column must weigh nothing
    eight[:, :, :-1, :3] = reference.pad(x, 3, "reflect").permute(0, 2, 3, 1)
    layer = convolution.stem(weight, torch.float64)
    assert layer.taps == ((7, 1),)
    assert close(product(eight, layer.packed, layer.taps[0], 5, 6).permute(0, 3, 1, 2), wanted)
    assert close(F.conv2d(eight.permute(0, 3, 1, 2), layer.library)[..., :6], wanted)


@pytest.mark.parametrize(
    ("k", "size", "block_n", "lines"), [(3, 7, 128, 5), (3, 7, 32, 1), (2, 5, 64, 4), (8, 8, 64, 1)]
)
def test_folded_weights_are_torch_s_layer(k: int, size: int, block_n: int, lines: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, size + lines - 1, 6 + size - 1, dtype=torch.float64)
    weight = torch.randn(k, 4, size, size, dtype=torch.float64)
    rows = output_tail.folded(weight, block_n, torch.float64)
    assert rows.shape == (block_n, (size - 1 + lines) * 4)
    columns = x[0].permute(2, 1, 0).flatten(1)  # pixels of a row, each with those below it
    products = (columns @ rows.T).view(-1, 8, block_n // 8)
    found = sum(products[j : j + 6, j, : lines * k] for j in range(size))
    assert close(found.view(6, lines, k).permute(2, 1, 0)[None], F.conv2d(x, weight))
    assert output_tail.lines(block_n, k) == lines
    assert not products[:, size:].any()
    assert not products[:, :, lines * k :].any()


@pytest.fixture
def fast(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators take the engine on the CPU too."""
    monkeypatch.setattr(engine, "from_table", lambda gpu: library)


def test_generator_takes_the_engine(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = net()
    calls = []
    run = Engine.__call__
    monkeypatch.setattr(Engine, "__call__", lambda self, *args: calls.append(args) or run(self, *args))
    x = signed(textures(1, 8, 8))
    got = generator(x)
    assert len(calls) == 1
    assert_like_torch(got, generator, x, torch.float32)
    generator.backend = "reference"
    plain = generator(x)
    assert len(calls) == 1
    assert relative_error(got, plain) <= NET_TOLERANCE[torch.float32]
    with pytest.raises(ValueError, match="multiples of 4"):
        generator(x[..., :-1])


@each_dtype
@pytest.mark.parametrize("trunk", ["same", "int8"])
def test_dropout_is_the_reference_s(trunk: engine.Trunk, dtype: torch.dtype, poisoned: None) -> None:
    """The same masks by either way; in 8 bits the residual is as far from plain torch's as without dropout."""
    generator = net(blocks=2)
    x, counter = signed(textures(2, 8, 8)), torch.tensor([5, 2**33], device=KERNEL_DEVICE)
    kept = x[1:], counter + torch.tensor([0, 1], device=KERNEL_DEVICE)
    choose = flat_trunk if trunk == "int8" else ours
    if trunk == "int8" and KERNEL_DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("tma needs compute capability 9.0")
    run = Engine(generator.spec, generator.state_dict(), dtype=dtype, choose=choose, trunk=trunk)
    got, off = run(x, counter), run(x)
    plain = deepcopy(generator).double()
    wanted, wanted_off = plain(x.double(), counter=counter), plain(x.double())
    assert residual_error(wanted_off, wanted, x) > 0.1, "dropout changes little"
    if trunk == "int8":
        assert residual_error(got, wanted, x) <= 2 * residual_error(off, wanted_off, x)
    else:
        tolerance = NET_TOLERANCE[torch.float32] if dtype == torch.float32 else 2 * NET_TOLERANCE[dtype]
        assert residual_error(got, wanted, x) <= tolerance
    assert torch.equal(run(*kept), got[1:]), "the masks depend on the batch"


def test_generator_takes_dropout_to_the_engine(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor | None] = []
    monkeypatch.setattr(Generator, "_fast", lambda self: lambda x, counter: seen.append(counter) or x)
    x = torch.zeros(1, 3, 8, 8)
    paper, tiny = Generator("paper", width=4, blocks=1), Generator("tiny", width=4, blocks=1)
    with torch.no_grad():
        tiny.train()(x)
        tiny(x, seed=1)
        paper.eval()(x)
        assert seen == [None] * 3
        paper(x, seed=7)
        paper(x, counter=torch.tensor([7, 3]))
        for _ in range(2):
            paper.train()(x)
    *given, drawn, again = (counter.tolist() for counter in seen[3:])  # type: ignore[union-attr]
    assert given == [[7, 0], [7, 3]]
    assert drawn[1] == again[1] == 0
    assert drawn[0] != again[0]


def test_why_reference_names_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 3, 8, 8)
    generator = Generator("tiny", width=4, blocks=1)
    assert generator.why_reference(x) == "it needs a CUDA device"
    assert generator.why_reference(x[:0]) == "a gradient of no pictures is wanted"
    generator.requires_grad_(False)
    assert generator.why_reference(x[:0]) == "it needs a CUDA device"
    assert generator.why_reference(x.to("meta")) == "the weights are on another device"
    assert generator.double().why_reference(x) == "it does not compute in torch.float64"
    generator.float().backend = "reference"
    assert generator.why_reference(x) == "the backend is 'reference'"
    generator.backend = "auto"
    with assume_kernels():
        assert generator.why_reference(x) is None
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert generator.why_reference(x) == "torch.compile sees plain torch"


def test_compiled_generator_is_plain_torch(fast: None) -> None:
    generator, x = net(width=4), signed(textures(1, 8, 8))
    with torch.no_grad():
        got = torch.compile(generator, backend="eager", fullgraph=True)(x)
    assert generator._engine is None
    generator.backend = "reference"
    assert torch.equal(got, generator(x))


def test_deblurrer_takes_an_8_bit_trunk_where_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator("tiny", width=4, blocks=1)
    with pytest.raises(ValueError, match="trunk must be one of same, int8, fp8, got 'int4'"):
        Deblurrer(generator, device="cpu", trunk="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='without the GPU kernels, got "int8": it needs a CUDA device'):
        Deblurrer(generator, device="cpu", trunk="int8")
    with assume_kernels():
        assert Deblurrer(generator, device="cpu", trunk="fp8").generator.trunk == "fp8"
    with pytest.raises(ValueError, match=r"torch\.compile takes the kernels' place"):
        Deblurrer(generator, device="cpu", trunk="fp8", compile=True)


def test_why_no_kernels_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert device.why_no_kernels(cuda) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert device.why_no_kernels(cuda) == "it needs a GPU of compute capability 8.0 or newer"
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None)
    assert device.why_no_kernels(cuda) == "triton is not installed"
    assert device.why_no_kernels(torch.device("cpu")) == "it needs a CUDA device"


def test_engine_is_no_part_of_what_is_saved(fast: None, tmp_path: Path) -> None:
    generator = net()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    packed = generator._fast()
    generator.backend = "reference"
    generator.backend = "auto"
    assert list(generator.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())

    torch.save(generator, tmp_path / "whole.pt")
    loaded = torch.load(tmp_path / "whole.pt", weights_only=False)
    copies = deepcopy(generator), pickle.loads(pickle.dumps(generator)), loaded
    for copy in copies:
        assert copy.spec == generator.spec
        assert copy.backend == "auto"
        assert copy._engine is None
        assert torch.equal(copy.head.weight, generator.head.weight)
        copy.head.weight.zero_()
        assert not copy._fast().head_weight.any()
    assert generator._fast() is packed
    assert packed.head_weight.any()


def adam_step(generator: Generator) -> None:
    """As a training does: eval() before a validation, train() after."""
    generator.train().requires_grad_(True)
    adam = torch.optim.Adam(generator.parameters(), lr=0.1, fused=True)
    for parameter in generator.parameters():
        parameter.grad = torch.ones_like(parameter)
    adam.step()
    generator.eval().requires_grad_(False)


CHANGES: dict[str, Callable[[Generator], Any]] = {
    "load_state_dict": lambda net: net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()}),
    "in place": lambda net: net.head.weight.add_(1),
    "average": lambda net: torch._foreach_lerp_([net.head.weight], [torch.ones_like(net.head.weight)], 0.1),
    "new parameter": lambda net: setattr(net.head, "weight", torch.nn.Parameter(net.head.weight + 1, False)),
    "half": lambda net: net.half(),
    "fused Adam": adam_step,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changed_weights_are_packed_again(change: Callable[[Generator], Any], fast: None) -> None:
    generator = net()
    packed = generator._fast()
    assert generator._fast() is packed
    change(generator)
    again = generator._fast()
    assert again is not packed
    assert again.head_weight.dtype == generator.head.weight.dtype
    assert torch.equal(again.head_weight, generator.head.weight)


def test_generator_made_in_inference_mode_runs(fast: None) -> None:
    with torch.inference_mode():
        generator = Generator("tiny", width=4, blocks=1).to(KERNEL_DEVICE)
        assert generator._fast() is generator._fast()


def test_graph_of_inference_mode_serves_outside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Captured:
        def replay(self) -> None:
            pass

    monkeypatch.setattr(engine, "captured", lambda device: contextlib.nullcontext(Captured()))
    x = torch.zeros(1, 3, 8, 8)
    with torch.inference_mode():
        graph = engine.Graph(lambda image, counter: image.clone(), x)
        graph(x)
    with torch.no_grad():
        assert torch.equal(graph(x), x)


def gpu(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")(test))


def on_gpu(dtype: torch.dtype = torch.float16, **options: Any) -> Generator:
    return net(**options).cuda().to(dtype)


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_gpu_matches_the_reference(preset: str, dtype: torch.dtype) -> None:
    generator = net(preset, width=64 if preset == "paper" else 24, blocks=3)
    x = signed(textures(2, 64, 100))
    fast = deepcopy(generator).to(dtype)
    assert fast.why_reference(x) is None
    with torch.no_grad():
        for _ in range(3):
            assert_like_torch(fast(x), generator, x, dtype)


@gpu
def test_gpu_replays_a_graph() -> None:
    generator = on_gpu()
    x, y = (signed(part[None]).half() for part in textures(2, 32, 48))
    first = [generator(x), generator(y)]
    kept = [result.clone() for result in first]
    graphs = generator._fast()._graphs
    assert all(graph is not None for graph in graphs.values())
    again = [generator(x), generator(y), generator(x)]
    for got, wanted in zip(again, (*first, first[0]), strict=True):
        assert torch.equal(got, wanted), "a replay gives other bits"
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True)), "a later call wrote over a result"
    part = x.flip(-1)[..., :-4]  # its copy in a graph lies otherwise
    other = generator(part)
    assert len(generator._fast()._graphs) == 1
    assert all(torch.equal(generator(part), other) for _ in range(2))
    assert torch.equal(generator(x), first[0])


@gpu
def test_gpu_replays_a_graph_with_dropout() -> None:
    generator, x = on_gpu(), signed(textures(1, 32, 48)).half()
    with torch.no_grad():
        seeds = {seed: [generator(x, seed=seed) for _ in range(3)] for seed in (1, 2)}
        plain = generator(x)
    for results in seeds.values():
        assert all(torch.equal(result, results[0]) for result in results)
    assert not torch.equal(seeds[1][0], seeds[2][0])
    assert not torch.equal(seeds[1][0], plain)


@gpu
def test_gpu_takes_changed_weights_after_a_capture() -> None:
    generator, x = on_gpu(), signed(textures(1, 16, 24))
    for _ in range(3):
        before = generator(x)
    generator.head.weight.mul_(-1)
    after = generator(x)
    assert not torch.equal(after, before)
    fresh = deepcopy(generator)
    assert torch.equal(after, fresh(x))
    adam_step(generator)
    assert not torch.equal(generator(x), after)


@gpu
def test_gpu_in_inference_mode_and_out() -> None:
    generator, x = on_gpu(), signed(textures(1, 16, 24))
    with torch.inference_mode():
        inside = [generator(x) for _ in range(3)]
    outside = [generator(x) for _ in range(3)]
    for got in inside + outside:
        assert torch.equal(got, inside[0])


@gpu
def test_gpu_inside_a_capture() -> None:
    generator, x = on_gpu(), signed(textures(1, 16, 24))
    wanted = generator(x)
    still = torch.zeros_like(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = generator(still)
    still.copy_(x)
    graph.replay()
    assert torch.equal(captured, wanted)
    generator(signed(textures(2, 64, 64)))  # another shape takes other memory, the captured graph keeps its own
    spoiled = [torch.full((2**k,), float("nan"), device="cuda") for k in range(8, 20) for _ in range(20)]
    graph.replay()
    assert torch.equal(captured, wanted)
    assert all(part.isnan().all() for part in spoiled), "the graph wrote into memory that is no longer its own"


@gpu
def test_gpu_on_another_stream() -> None:
    generator, x = on_gpu(), signed(textures(1, 16, 24))
    wanted = generator(x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results = [generator(x) for _ in range(3)]
    stream.synchronize()
    assert all(torch.equal(result, wanted) for result in results)
    assert torch.equal(generator(x), wanted)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees no second CUDA device")
def test_gpu_that_is_not_the_current_one() -> None:
    generator, x = on_gpu(), signed(textures(1, 16, 24))
    wanted = generator(x)
    generator.to("cuda:1")
    for _ in range(3):
        assert torch.equal(generator(x.to("cuda:1")).cpu(), wanted.cpu())
