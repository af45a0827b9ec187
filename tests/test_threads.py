"""Threads and CUDA streams that share an engine or a Deblurrer never see each other's pictures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from deblurgan.generator import graphs
from deblurgan.generator.engine import Engine
from deblurgan.generator.graphs import Turns
from deblurgan.inference import Deblurrer
from deblurgan.inference import deblurrer as deblurrers
from deblurgan.inference.restorer import Restorer
from deblurgan.nn import Generator
from host_graphs import capture_on_the_host, picture, replaying_engine

pytest.importorskip("triton", reason="triton is not installed")

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="graphs and streams are stood for on the CPU")


class Meeting:
    """Holds the first that comes until there is a second, or for a while where none can come."""

    def __init__(self) -> None:
        self._first = threading.Lock()
        self._second = threading.Event()

    def __call__(self) -> None:
        if self._first.acquire(blocking=False):
            self._second.wait(0.3)
        else:
            self._second.set()


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> list[Meeting]:
    """In place of the stages: the picture negated, by way of the workspace, where the threads meet."""
    meetings: list[Meeting] = []

    def negative(
        self: Engine, image: Tensor, space: Any, counter: Tensor | None = None, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        inside = space.packed.view(torch.uint8).flatten()[: image.nbytes].view(image.dtype).view(image.shape)
        inside.copy_(image)
        for place in meetings:
            place()
        out = torch.empty_like(image) if out is None else out
        return out.copy_(255 - inside), torch.zeros(1, dtype=torch.int32)

    monkeypatch.setattr(Engine, "run", negative)
    return meetings


def assert_apart(call: Any, meetings: list[Meeting]) -> None:
    """Two threads that call at once have the negative of their own picture each."""
    pictures = [picture(8, 12, seed=seed, dtype=torch.uint8) for seed in (1, 2)]
    meetings.append(Meeting())
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(call, pictures))
    for x, result in zip(pictures, results, strict=True):
        assert torch.equal(result, 255 - x), "another thread's picture"


def test_eager_calls_take_turns(meeting: list[Meeting]) -> None:
    assert_apart(replaying_engine(), meeting)


def test_replays_take_turns(meeting: list[Meeting], monkeypatch: pytest.MonkeyPatch) -> None:
    captures, engine = capture_on_the_host(monkeypatch), replaying_engine()
    for _ in range(3):
        engine(picture(8, 12, dtype=torch.uint8))
    assert len(captures) == 1
    assert_apart(engine, meeting)


def test_threads_share_a_deblurrer(meeting: list[Meeting], kernels: None) -> None:
    assert_apart(Deblurrer(Generator("tiny", width=4, blocks=1), device="cpu"), meeting)


def test_threads_share_an_engine(meeting: list[Meeting], kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Engine] = []
    init, together = Engine.__init__, Meeting()

    def slow(self: Engine, *args: Any, **options: Any) -> None:
        made.append(self)
        together()
        init(self, *args, **options)

    monkeypatch.setattr(Engine, "__init__", slow)
    assert_apart(Deblurrer(Generator("tiny", width=4, blocks=1), device="cpu"), meeting)
    assert len(made) == 1


def test_a_replay_waits_for_the_end_of_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of another engine: both use the device's generator of random numbers."""
    for name in ("CUDAGraph", "current_stream", "device", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: nullcontext())
    monkeypatch.setattr(graphs, "_capture_stream", lambda device: None)
    told: list[str] = []
    other: Any = SimpleNamespace(replay=lambda: told.append("replay"))
    with ThreadPoolExecutor(1) as pool:
        with graphs.captured(torch.device("cuda", 0)):
            replayed = pool.submit(graphs.replay, other)
            wait([replayed], timeout=0.1)
            told.append("end")
        replayed.result(60)
    assert told == ["end", "replay"]


def test_a_deblurrer_stays_on_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "cuda" is another GPU in a thread whose current one is another."""
    weight = SimpleNamespace(device=torch.device("cuda", 1))
    monkeypatch.setattr(deblurrers, "pick_device", torch.device)
    monkeypatch.setattr(Restorer, "_copy", lambda *_: SimpleNamespace(parameters=lambda: iter([weight])))
    assert Deblurrer(Generator("tiny", width=4, blocks=0), device="cuda").device == torch.device("cuda", 1)


class Stream:
    """Notes what it is told, in place of a CUDA stream."""

    def __init__(self, captured: bool = False) -> None:
        self.captured, self.told = captured, list[str]()

    def wait_event(self, event: Event) -> None:
        assert event.stream is not None
        self.told.append("wait")


class Event:
    stream: Stream | None = None

    def record(self, stream: Stream) -> None:
        self.stream = stream
        stream.told.append("record")


@contextmanager
def on(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "current_stream", lambda device: stream)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: stream.captured)
        yield


def test_another_stream_waits_for_the_last_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    turns, a, b = Turns(), Stream(), Stream()
    for stream in (a, a, b, b, a):
        with on(stream, monkeypatch), turns.turn(torch.device("cuda", 0)):
            stream.told.append("work")
    assert a.told == ["work", "record", "work", "record", "wait", "work", "record"]
    assert b.told == ["wait", "work", "record", "work", "record"]


def test_a_captured_stream_marks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    turns, captured, other = Turns(), Stream(captured=True), Stream()
    for stream in (captured, other, captured):
        with on(stream, monkeypatch), turns.turn(torch.device("cuda", 0)):
            pass
    assert captured.told == [] and other.told == ["record"]


def test_a_turn_that_fails_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    turns, a, b = Turns(), Stream(), Stream()
    for device in (torch.device("cuda", 0), torch.device("cpu")):
        with pytest.raises(ValueError, match="inside"), on(a, monkeypatch), turns.turn(device):
            raise ValueError("inside")
        with on(b, monkeypatch), turns.turn(device):
            pass
    assert b.told == ["wait", "record"], "what had been launched before it failed is waited for"
