"""Planes in pinned memory, on a host without a GPU: streams that note what is ordered, in place of CUDA's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from deblurgan.generator.pinned_plane import PinnedPlane
from deblurgan.generator.strips import Shape, Strips
from deblurgan.generator.torch_strips import TorchOps
from deblurgan.nn import Generator

CPU = torch.device("cpu")


class Stream:
    """Its work runs at once. `known` counts, by stream, the work that has ended before what is launched next."""

    def __init__(self, device: torch.device) -> None:
        self.known: dict[Stream, int] = {self: 0}

    def wait_stream(self, other: Stream) -> None:
        for stream, count in other.known.items():
            self.known[stream] = max(count, self.known.get(stream, 0))


class Access(NamedTuple):
    stream: Stream
    count: int  # of the stream's work
    known: dict[Stream, int]
    start: int  # bytes of memory
    stop: int
    writes: bool

    def conflicts(self, later: Access) -> bool:
        """Whether both touch the same memory, one writes there, and nothing orders them."""
        together = self.start < later.stop and later.start < self.stop and (self.writes or later.writes)
        return together and later.known.get(self.stream, 0) < self.count


class Streams(TorchDispatchMode):
    """Stands for torch.cuda. `races` are the unordered pairs of accesses to memory in `watched`."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # whose import takes seconds
        return False

    def __init__(self) -> None:
        super().__init__()
        self.current = Stream(CPU)
        self.watched: list[Tensor] = []
        self.accesses: list[Access] = []
        self.races: list[tuple[Access, Access]] = []

    def current_stream(self, device: torch.device) -> Stream:
        return self.current

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and any(self.is_watched(x) for x in args):
            self.current.known[self.current] += 1
            for i, x in enumerate(args):
                if self.is_watched(x):
                    self.note(x, writes=i == 0 and func._schema.is_mutable)
        return func(*args, **(kwargs or {}))

    def is_watched(self, x: Any) -> bool:
        memories = {memory.untyped_storage().data_ptr() for memory in self.watched}
        return isinstance(x, Tensor) and x.untyped_storage().data_ptr() in memories and x.numel() > 0

    def note(self, x: Tensor, *, writes: bool) -> None:
        stream, start = self.current, x.data_ptr()
        now = Access(stream, stream.known[stream], dict(stream.known), start, start + x.nbytes, writes)
        self.races += [(before, now) for before in self.accesses if before.conflicts(now)]
        self.accesses.append(now)


class HostPlane:
    def __init__(self, h: int, w: int, c: int) -> None:
        self.memory = torch.full((h, w, c), torch.nan)

    def read(self, start: int, stop: int) -> Tensor:
        return self.memory[start:stop].clone()

    def write(self, start: int, rows: Tensor) -> None:
        self.memory[start : start + len(rows)] = rows


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[Streams]:
    streams = Streams()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", streams.current_stream)
    monkeypatch.setattr(torch.cuda, "stream", streams.stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda room, stream: streams.watched.append(room))
    made = PinnedPlane.__init__

    def watch(plane: PinnedPlane, *args: Any) -> None:
        made(plane, *args)
        streams.watched.append(plane.memory)

    monkeypatch.setattr(PinnedPlane, "__init__", watch)
    with torch.no_grad():
        yield streams


def restored(generator: Generator, picture: Tensor, rows: int, allocate: Any) -> Tensor:
    """picture [h, w, 3] by strips."""
    found = torch.full_like(picture, torch.nan)

    def put(start: int, part: Tensor) -> None:
        found[start : start + len(part)] = part

    Strips(
        Shape(generator.spec, *picture.shape[:2], rows, keep=2),
        TorchOps(generator.state_dict()),
        pixels=lambda start, stop: picture[start:stop],
        put=put,
        allocate=allocate,
        done=lambda share: None,
    ).run()
    return found


@pytest.mark.parametrize("rows", [4, 12, 32], ids="strips of {} rows".format)
def test_pinned_planes_are_planes(rows: int, streams: Streams, seeded: None) -> None:
    generator, picture = Generator("paper", width=2, blocks=2), torch.rand(32, 8, 3) * 2 - 1
    planes: list[PinnedPlane] = []

    def allocate(h: int, w: int, c: int) -> PinnedPlane:
        planes.append(PinnedPlane((h, w, c), torch.float32, CPU))
        return planes[-1]

    wanted = restored(generator, picture, rows, HostPlane)
    with streams:
        got = restored(generator, picture, rows, allocate)
    assert torch.equal(got, wanted)
    assert len(planes) == 4
    assert len({access.stream for access in streams.accesses}) == 1 + 2 * len(planes)
    assert not streams.races


def test_rows_come_while_others_are_computed_on(streams: Streams) -> None:
    """Strip 1 comes and strip 0 leaves without a wait for the work between them."""
    plane = PinnedPlane((6, 1, 1), torch.float32, CPU)
    compute = streams.current
    with streams:
        plane.write(0, torch.arange(2.0).view(2, 1, 1))
        plane.write(2, torch.arange(2.0, 6).view(4, 1, 1)[:2])
        plane.write(4, torch.arange(4.0, 6).view(2, 1, 1))
        first = plane.read(0, 2)
        before = dict(plane.coming.known)
        compute.known[compute] += 100  # the network, on strip 0
        plane.write(0, first + 1)
        assert plane.coming.known == before
        second = plane.read(2, 4)
        assert plane.leaving.known[compute] > 100 > before[compute]
        assert plane.coming.known[compute] > 100  # and strip 2 comes when that has ended,
        assert plane.coming.known[plane.leaving] == before[plane.leaving]  # whether or not strip 0 has left
    assert second.flatten().tolist() == [2.0, 3.0]
    assert plane.memory.flatten().tolist() == [1.0, 2.0, 2.0, 3.0, 4.0, 5.0]
    assert not streams.races
