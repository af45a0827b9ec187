"""The engine and the generator that runs it, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from conftest import KERNEL_DEVICE, KERNEL_DTYPES, NET_TOLERANCE, lively, relative_error, textures
from deblurgan.device import assume_kernels
from deblurgan.generator import engine
from deblurgan.generator.engine import Engine, Workspace
from deblurgan.inference import Deblurrer
from deblurgan.nn import Generator
from deblurgan.ops.layers import Quantize
from deblurgan.spec import PRESETS

pytest.importorskip("triton", reason="triton is not installed")

from deblurgan.kernels import norm_act
from deblurgan.kernels.config import ConvConfig, ConvShape
from deblurgan.kernels.table import PickConfig

HEAD = ConvConfig(64, 64, 64)
each_dtype = pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)


pytestmark = pytest.mark.usefixtures("few_programs")


def ours(shape: ConvShape) -> ConvConfig:
    return HEAD if shape.kind == "head" else ConvConfig(128, 64, 32)


def flat_trunk(shape: ConvShape) -> ConvConfig:
    return ConvConfig(16, 32, 32, form="tma") if shape.kind == "trunk" else ours(shape)


def library(shape: ConvShape) -> ConvConfig | None:
    return HEAD if shape.kind == "head" else None


def net(preset: str = "paper", *, width: int = 16, blocks: int = 1) -> Generator:
    torch.manual_seed(0)
    return lively(Generator(preset, width=width, blocks=blocks)).eval().requires_grad_(False)


def signed(levels: Tensor) -> Tensor:
    return levels.float() / 127.5 - 1


def engine_of(generator: Generator, dtype: torch.dtype = torch.float32, pick_config: PickConfig = library) -> Engine:
    return Engine(generator.spec, generator.state_dict(), dtype=dtype, pick_config=pick_config)


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
    pick_config: PickConfig
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
    if case.pick_config is flat_trunk and KERNEL_DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("tma needs compute capability 9.0")
    generator = net(case.preset, width=case.width, blocks=case.blocks)
    x = signed(textures(2, *case.size))
    got = engine_of(generator, dtype, case.pick_config)(x)
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
    run = engine_of(generator, pick_config=ours)
    small, wide = signed(textures(1, 8, 8)), signed(textures(1, 8, 16))
    first = run(small)
    copy = first.clone()
    assert_like_torch(run(wide), generator, wide, torch.float32)
    assert torch.equal(run(small), first), "same picture, other bits"
    assert torch.equal(first, copy), "a later call wrote over an earlier result"


@pytest.mark.parametrize("pick_config", [ours, library])
def test_merging_apart_changes_nothing(
    pick_config: PickConfig, poisoned: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, x = engine_of(net(), pick_config=pick_config), signed(textures(2, 8, 12))
    together = run(x)
    monkeypatch.setattr(norm_act, "MOST_TILES", 0)
    assert residual_error(run(x), together.double(), x) <= 1e-5


def test_engine_takes_any_strides(poisoned: None) -> None:
    run = engine_of(net(blocks=0))
    x = signed(textures(1, 8, 16))[..., ::2]
    wanted = run(x.contiguous())
    assert torch.equal(run(x), wanted)
    assert torch.equal(run(x.contiguous(memory_format=torch.channels_last)), wanted)


@pytest.mark.any_cpu
@pytest.mark.parametrize("pick_config", [ours, library])
def test_flat_pictures_leave_clean(pick_config: PickConfig, poisoned: None) -> None:
    """They normalise to exact zeros, so only the last bias is left of the network."""
    generator = net()
    stem = generator.stem.weight
    stem.mul_(256).round_().div_(256)  # so that its sums over these pictures are exact in any order
    x = torch.full((2, 3, 8, 8), -1.0, device=KERNEL_DEVICE)
    x[1] = 0.25
    wanted = (x + torch.tanh(generator.head.bias).view(1, 3, 1, 1)).clamp(-1, 1)
    assert (engine_of(generator, pick_config=pick_config)(x) - wanted).abs().max() <= 1e-6


def some_memory(size: int, device: str = "meta") -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device=device)


def test_workspace_fits_the_paper_s_network() -> None:
    space = Workspace(PRESETS["paper"], 1, 720, 1280, torch.float16, some_memory)
    assert space.bytes <= 250 * 720 * 1280
    assert space.packed.shape == (1, 726, 1287, 4)
    shapes = [out.inside.shape for out in space.outputs]
    assert shapes[0] == shapes[-1] == (1, 720, 1280, 64)
    assert shapes[1] == shapes[-2] == (1, 360, 640, 128)
    assert shapes[2:-2] == [(1, 180, 320, 256)] * 19
    addresses = [out.whole.storage_offset() for out in space.outputs[2:-2]]
    assert len(set(addresses)) == 3 and addresses[3:] == addresses[:-3], "a block reads two pictures and writes a third"


def test_no_stage_writes_where_it_reads() -> None:
    """A stage's output shares no memory with its input, nor with the residual that is added later."""
    for preset in PRESETS:
        spec = PRESETS[preset]
        space = Workspace(spec, 1, 16, 24, torch.float32, partial(some_memory, device="cpu"))
        pictures = [space.packed, *(out.whole for out in space.outputs)]
        residual = None
        for stage, source, out in zip(spec.stages, pictures, pictures[1:], strict=False):
            assert not overlap(source, out), stage.name
            assert residual is None or stage.kind != "trunk" or not overlap(residual, out), stage.name
            residual = out if stage.is_residual else residual


def overlap(a: Tensor, b: Tensor) -> bool:
    (start_a, end_a), (start_b, end_b) = ((x.data_ptr(), x.data_ptr() + x.nbytes) for x in (a, b))
    return max(start_a, start_b) < min(end_a, end_b)


def test_workspace_is_kept_for_its_shape() -> None:
    run = engine_of(net())
    space = run.workspace(1, 8, 8)
    assert run.workspace(1, 8, 8) is space
    assert run.workspace(2, 8, 8) is not space


def test_paths_tell_what_runs() -> None:
    asked: list[ConvShape] = []

    def pick_config(shape: ConvShape) -> ConvConfig | None:
        assert shape.dtype == torch.float32
        asked.append(shape)
        return HEAD if shape.kind in ("head", "down") else None

    run = engine_of(net("article"), pick_config=pick_config)
    run(signed(textures(2, 8, 12)))
    ran, asked[:] = list(asked), []
    paths = run.paths(2, 8, 12)
    assert asked == ran
    assert list(paths) == ["stem", "down.0", "down.1", "blocks.0.conv1", "up.0", "up.1", "head"]
    assert [name for name, path in paths.items() if "cuDNN" in path] == ["stem", "blocks.0.conv1", "up.0", "up.1"]
    assert all(str(HEAD) in paths[name] for name in ("down.0", "down.1", "head"))


def test_empty_batches_come_back() -> None:
    assert engine_of(net(), pick_config=ours)(torch.empty(0, 3, 8, 8, device=KERNEL_DEVICE)).shape == (0, 3, 8, 8)


@pytest.fixture
def fast(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators take the engine on the CPU too."""
    monkeypatch.setattr(engine, "config_picker", lambda gpu: library)


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
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_dropout_is_the_reference_s(quantize: Quantize | None, dtype: torch.dtype, poisoned: None) -> None:
    """The same masks by either way; in 8 bits the residual is as far from plain torch's as without dropout."""
    generator = net(blocks=2)
    x, counter = signed(textures(2, 8, 8)), torch.tensor([5, 2**33], device=KERNEL_DEVICE)
    second = x[1:], counter + torch.tensor([0, 1], device=KERNEL_DEVICE)
    pick_config = flat_trunk if quantize else ours
    if quantize and KERNEL_DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("tma needs compute capability 9.0")
    run = Engine(generator.spec, generator.state_dict(), dtype=dtype, pick_config=pick_config, quantize=quantize)
    got, off = run(x, counter), run(x)
    plain = deepcopy(generator).double()
    wanted, wanted_off = plain(x.double(), counter=counter), plain(x.double())
    assert residual_error(wanted_off, wanted, x) > 0.1, "dropout changes little"
    if quantize:
        assert residual_error(got, wanted, x) <= 2 * residual_error(off, wanted_off, x)
    else:
        tolerance = NET_TOLERANCE[torch.float32] if dtype == torch.float32 else 2 * NET_TOLERANCE[dtype]
        assert residual_error(got, wanted, x) <= tolerance
    assert torch.equal(run(*second), got[1:]), "the masks depend on the batch"


def test_generator_takes_dropout_to_the_engine(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor | None] = []
    monkeypatch.setattr(Generator, "packed_engine", lambda self: lambda x, counter: seen.append(counter) or x)
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


def test_deblurrer_quantizes_where_kernels_run() -> None:
    generator = Generator("tiny", width=4, blocks=1)
    with pytest.raises(ValueError, match="quantize must be None or one of int8, fp8, got 'int4'"):
        Deblurrer(generator, device="cpu", quantize="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='without the GPU kernels, got "int8": it needs a CUDA device'):
        Deblurrer(generator, device="cpu", quantize="int8")
    with assume_kernels():
        assert Deblurrer(generator, device="cpu", quantize="fp8").generator.quantize == "fp8"
    with pytest.raises(ValueError, match=r"torch\.compile takes the kernels' place"):
        Deblurrer(generator, device="cpu", quantize="fp8", compile=True)


def test_engine_is_no_part_of_what_is_saved(fast: None, tmp_path: Path) -> None:
    generator = net()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    packed = generator.packed_engine()
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
        assert not copy.packed_engine().head_weight.any()
    assert generator.packed_engine() is packed
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
    packed = generator.packed_engine()
    assert generator.packed_engine() is packed
    change(generator)
    again = generator.packed_engine()
    assert again is not packed
    assert again.head_weight.dtype == generator.head.weight.dtype
    assert torch.equal(again.head_weight, generator.head.weight)


def test_generator_made_in_inference_mode_runs(fast: None) -> None:
    with torch.inference_mode():
        generator = Generator("tiny", width=4, blocks=1).to(KERNEL_DEVICE)
        assert generator.packed_engine() is generator.packed_engine()


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
        for _ in range(4):
            assert_like_torch(fast(x), generator, x, dtype)


@gpu
def test_gpu_replays_a_graph() -> None:
    generator = on_gpu()
    x, y = (signed(part[None]).half() for part in textures(2, 32, 48))
    first = [generator(x), generator(y), generator(x)][:2]
    copies = [result.clone() for result in first]
    kinds = generator.packed_engine()._kinds
    assert all(kind.graph is not None for kind in kinds.values())
    again = [generator(x), generator(y), generator(x)]
    for got, wanted in zip(again, (*first, first[0]), strict=True):
        assert torch.equal(got, wanted), "a replay gives other bits"
    assert all(torch.equal(a, b) for a, b in zip(first, copies, strict=True)), "a later call wrote over a result"
    part = x.flip(-1)[..., :-4]  # its copy in a graph has other strides
    other = generator(part)
    assert all(torch.equal(generator(part), other) for _ in range(3))
    assert torch.equal(generator(x), first[0])
    assert len(kinds) == 2 and all(kind.graph is not None for kind in kinds.values())


@gpu
def test_gpu_replays_a_graph_with_dropout() -> None:
    generator, x = on_gpu(), signed(textures(1, 32, 48)).half()
    with torch.no_grad():
        seeds = {seed: [generator(x, seed=seed) for _ in range(4)] for seed in (1, 2)}
        plain = generator(x)
    for results in seeds.values():
        assert all(torch.equal(result, results[0]) for result in results)
    assert not torch.equal(seeds[1][0], seeds[2][0])
    assert not torch.equal(seeds[1][0], plain)


@gpu
def test_gpu_takes_changed_weights_after_a_capture() -> None:
    generator, x = on_gpu(), signed(textures(1, 16, 24))
    for _ in range(4):
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
        inside = [generator(x) for _ in range(4)]
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
        results = [generator(x) for _ in range(4)]
    stream.synchronize()
    assert all(torch.equal(result, wanted) for result in results)
    assert torch.equal(generator(x), wanted)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees no second CUDA device")
def test_gpu_that_is_not_the_current_one() -> None:
    generator, x = on_gpu(), signed(textures(1, 16, 24))
    wanted = generator(x)
    generator.to("cuda:1")
    for _ in range(4):
        assert torch.equal(generator(x.to("cuda:1")).cpu(), wanted.cpu())
