"""Which calls of an engine are captured, replayed and forgotten."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import KERNEL_DEVICE, textures
from deblurgan.generator import engine as engines
from deblurgan.generator.engine import Engine
from deblurgan.generator.workspace import Workspace, workspace_bytes
from deblurgan.inference import Deblurrer
from deblurgan.inference import restorer as restorers
from deblurgan.nn import Generator
from deblurgan.spec import PRESETS
from host_graphs import capture_on_the_host, head_alone, picture, replaying_engine

pytest.importorskip("triton", reason="triton is not installed")

pytestmark = [
    pytest.mark.usefixtures("few_programs"),
    pytest.mark.skipif(KERNEL_DEVICE.type == "cuda", reason="graphs are stood for on the CPU"),
]


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graph that each captured one lies beside."""
    return capture_on_the_host(monkeypatch)


def negative(
    self: Engine, image: Tensor, space: Workspace, counter: Tensor | None = None, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """In place of the stages: the picture negated, by way of the workspace."""
    inside = space.packed.flatten()[: image.numel()].view(image.shape)
    inside.copy_(image)
    out = torch.empty_like(image) if out is None else out
    return out.copy_(-inside if counter is None else -inside * counter[0]), torch.zeros(1, dtype=torch.int32)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "run", negative)


def test_the_third_call_of_a_kind_is_captured(cheap: None, captures: list[Any]) -> None:
    engine, taken = replaying_engine(), []
    for i in range(5):
        x = picture(8, 8, seed=i)
        assert torch.equal(engine(x), -x)
        taken.append(len(captures))
    assert taken == [0, 0, 1, 1, 1]


def test_no_cpu_captures(cheap: None, captures: list[Any]) -> None:
    generator = Generator("tiny", width=4, blocks=0)
    engine = Engine(generator.spec, generator.state_dict(), dtype=torch.float32, pick_config=head_alone)
    for _ in range(4):
        engine(picture(8, 8))
    assert captures == []


def test_sizes_in_turn_are_captured_once_each(cheap: None, captures: list[Any]) -> None:
    engine, kept = replaying_engine(), []
    for i in range(6):
        for h, w in ((8, 12), (16, 16), (12, 8)):
            x = picture(h, w, seed=i)
            kept.append((x, engine(x)))
    assert len(captures) == 3
    live = [kind.graph.graph for kind in engine._kinds.values() if kind.graph]
    assert captures[0] is None and all(beside in live for beside in captures[1:]), "not in one pool"
    assert all(torch.equal(got, -x) for x, got in kept), "a later call wrote over an earlier result"


def test_kinds_differ_in_type_strides_and_dropout(cheap: None, captures: list[Any]) -> None:
    engine, counter = replaying_engine(), torch.tensor([3, 0])
    x = picture(8, 8)
    for _ in range(3):
        assert torch.equal(engine(x), -x)
        assert torch.equal(engine(x.half()), -x.half())
        last = engine(x.contiguous(memory_format=torch.channels_last))
        assert torch.equal(last, -x) and last.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(engine(x, counter), -3 * x)
    assert len(captures) == 4
    assert torch.equal(engine(x, counter + 2), -5 * x), "a replay takes the counter of its capture"


def test_a_larger_shape_drops_the_graphs_of_the_old_memory(cheap: None, captures: list[Any]) -> None:
    engine, small, large = replaying_engine(), picture(8, 8), picture(16, 16)
    for _ in range(3):
        engine(small)
    (kind,) = engine._kinds.values()
    graph, memory = weakref.ref(kind.graph), weakref.ref(kind.space.packed._base)
    del kind
    assert graph() is not None and memory() is not None
    assert torch.equal(engine(large), -large)
    gc.collect()
    assert graph() is None and memory() is None, "the old memory is still held"
    for _ in range(3):
        assert torch.equal(engine(small), -small)
    assert len(captures) == 2


def test_a_smaller_shape_drops_nothing(cheap: None, captures: list[Any]) -> None:
    engine = replaying_engine()
    for h, w in ((16, 16), (8, 8), (8, 16)):
        for _ in range(3):
            engine(picture(h, w))
    assert len(captures) == 3
    assert all(kind.graph is not None for kind in engine._kinds.values())


def test_larger_pictures_drop_the_graphs_of_smaller_ones(cheap: None, captures: list[Any]) -> None:
    engine, levels, x = replaying_engine(), picture(8, 8, dtype=torch.uint8), picture(8, 8)
    for _ in range(3):
        engine(levels)
    for _ in range(3):
        assert torch.equal(engine(x), -x)
        assert torch.equal(engine(levels), 256 - levels)
    assert len(captures) == 3, "floats need more room than 8 bits, which are counted anew"
    assert torch.equal(engine(levels), 256 - levels)


def test_more_kinds_than_are_kept_capture_nothing(cheap: None, captures: list[Any]) -> None:
    engine = replaying_engine()
    engine(picture(64, 64))
    sizes = [(8, 8 + 4 * i) for i in range(engines.KINDS + 1)]
    for _ in range(5):
        for h, w in sizes:
            engine(picture(h, w))
    assert captures == [] and len(engine._kinds) == engines.KINDS


def test_the_kind_not_called_for_longest_is_forgotten(cheap: None, captures: list[Any]) -> None:
    engine = replaying_engine()
    engine(picture(64, 64))
    sizes = [(8, 8 + 4 * i) for i in range(engines.KINDS)]
    for h, w in sizes:
        for _ in range(3):
            engine(picture(h, w))
    assert len(captures) == engines.KINDS
    engine(picture(*sizes[0]))
    engine(picture(12, 12))  # takes the place of sizes[1]
    for h, w in (sizes[0], *sizes[2:]):
        engine(picture(h, w))
    assert len(captures) == engines.KINDS
    assert (1, *sizes[1]) not in [key[0] for key in engine._kinds]


def test_graph_of_inference_mode_serves_outside_it(cheap: None, captures: list[Any]) -> None:
    engine, x = replaying_engine(), picture(8, 8)
    with torch.inference_mode():
        for _ in range(4):
            engine(x)
    assert len(captures) == 1
    assert torch.equal(engine(x + 1), -x - 1)
    engine(picture(16, 16))
    assert torch.equal(engine(x), -x)


def test_a_replay_is_what_an_eager_call_is(
    captures: list[Any], poisoned: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the kernels themselves: a graph's picture and result lie where no stage writes."""
    engine, x = replaying_engine(downsamplings=1), textures(1, 8, 8)
    eager = engine(x)
    monkeypatch.setattr(engines, "CAPTURED", 1)
    assert torch.equal(engine(x), eager)
    assert len(captures) == 1


def test_kept_memory_is_not_needed_again(cheap: None, kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that fitted once fits again, though what it left is not free."""
    monkeypatch.setattr(restorers, "free_memory", lambda device: None)
    deblurrer, needs = Deblurrer(Generator("tiny", width=4, blocks=0), device="cpu", dtype="fp32"), list[int]()
    for side in (16, 16, 8):
        needs.append(deblurrer.plan(side, side).peak_bytes)
        deblurrer(torch.zeros(3, side, side, dtype=torch.uint8))
    kept = [deblurrer.generator.kept_bytes(1, side, side) for side in (16, 8, 32)]
    first, again, smaller = needs
    larger = deblurrer.plan(32, 32).peak_bytes
    assert first - again == kept[0] == kept[2] > kept[1] > 0
    pixels = deblurrer.restorer.bytes_per_pixel * 8 * 8
    assert first - smaller == 3 * pixels + kept[1]
    assert larger - first == 12 * pixels - kept[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_kept_is_within_the_estimate(preset: Any, dtype: torch.dtype) -> None:
    """The activations, and the pictures and results of the graphs as floats, of what a Deblurrer says a call needs."""
    deblurrer = Deblurrer(Generator(preset, blocks=1), device="cpu", dtype="fp32")
    deblurrer.restorer.device, deblurrer.restorer.dtype = torch.device("cuda"), dtype
    for h, w in ((8, 8), (8, 64), (720, 1280)):
        activations = workspace_bytes(deblurrer.generator.spec, 1, h, w, dtype)
        pictures = 2 * 3 * 4 * h * w
        assert activations + pictures <= deblurrer.restorer.bytes_per_pixel * h * w
