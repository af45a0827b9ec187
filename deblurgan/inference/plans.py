"""How a picture goes through the network within limits of memory: whole or in strips, and where its planes lie."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from deblurgan.generator.strip_memory import strip_bytes
from deblurgan.generator.strips import Shape
from deblurgan.inference.planes import Place, spill_folder
from deblurgan.spec import GeneratorSpec

# Bytes, about, of a strip of the first layer's output: on a CPU a convolution packs its weights anew for each strip,
# and a GPU is to be kept busy
STRIP_BYTES = {"cpu": 2**25}
GPU_STRIP_BYTES = 2**27
# What the heap takes for the largest strips, which come and go in many sizes, over their sum
HEAP_FACTOR = 1.5
# What oneDNN keeps of code for the sizes of a picture
CODE_BYTES = 10 * 2**20

WORDS: dict[Place, str] = {
    "device": "in memory",
    "host": "in host memory",
    "disk": "in a temporary file",
}

DEVICE: tuple[Place, ...] = ("device",)
EVERYWHERE: tuple[Place, ...] = ("device", "host", "disk")


@dataclass(frozen=True)
class Limits:
    """What a picture may take, in bytes.

    device: of the device that computes, in all; `source` says in words how much that is.
    planes: of it for planes alone.
    host:   of host memory, where that is another one.
    rows:   of a strip, px.
    """

    device: float
    source: str
    planes: float = float("inf")
    host: float = 0
    rows: float = float("inf")


@dataclass(frozen=True)
class StripPlan:
    """How a picture is cut into strips, and where each of shape.planes lies."""

    shape: Shape
    dtype: torch.dtype
    places: tuple[Place, ...]

    def bytes_of(self, number: int) -> int:
        h, w, c = self.shape.planes[number].size
        return h * w * c * self.dtype.itemsize

    def held(self, place: Place, in_pass: int) -> int:
        """Bytes of the planes in a place during a pass."""
        uses = enumerate(zip(self.shape.planes, self.places, strict=False))
        return sum(self.bytes_of(i) for i, (use, at) in uses if at == place and use.first <= in_pass <= use.last)

    def most(self, place: Place) -> int:
        """The most bytes of planes in a place."""
        return max(self.held(place, i) for i in range(len(self.shape.passes)))

    def require_disk(self) -> None:
        """Raises MemoryError where temporary files have no room."""
        if "disk" in self.places:
            spill_folder(self.most("disk"))

    @property
    def peak_bytes(self) -> int:
        """On the device, planes and strips."""
        away = [i for i, place in enumerate(self.places) if place != "device"]
        return self.most("device") + heap_bytes(self.shape, self.dtype, away)


@dataclass(frozen=True)
class StreamPlan:
    """How a picture is restored. str() says it in lines.

    h, w:       its sides, px.
    why:        why it goes this way.
    peak_bytes: what is allocated at the most on the device that computes, beyond the picture and the result.
    strips:     how it is cut; None where the network takes it whole.
    scale:      at which the network sees it.
    """

    h: int
    w: int
    why: str
    peak_bytes: int
    strips: StripPlan | None = None
    scale: float | str = 1.0

    @property
    def host_bytes(self) -> int:
        """Of host memory, where that is not the device's."""
        return self.strips.most("host") if self.strips else 0

    @property
    def disk_bytes(self) -> int:
        """Of temporary files."""
        return self.strips.most("disk") if self.strips else 0

    @property
    def bytes_per_pixel(self) -> float:
        return self.peak_bytes / (self.h * self.w)

    def __str__(self) -> str:
        scale = "1, or less where its blur is wide" if self.scale == "auto" else self.scale
        lines = [f"picture  {self.w}x{self.h}, {self.h * self.w / 1e6:.1f} megapixels, at scale {scale}"]
        if self.strips is None:
            lines.append(f"way      whole: {self.why}")
        else:
            shape = self.strips.shape
            lines.append(f"way      in strips of {shape.rows} rows, {len(shape.passes)} passes: {self.why}")
            for i, (plane, place) in enumerate(zip(shape.planes, self.strips.places, strict=True)):
                lines.append(f"plane    {plane.name}: {megabytes(self.strips.bytes_of(i))} {WORDS[place]}")
        memory = [f"{megabytes(self.peak_bytes)} at the most, {self.bytes_per_pixel:.0f} bytes a pixel"]
        memory += [f"{megabytes(self.host_bytes)} of host memory"] if self.host_bytes else []
        memory += [f"{megabytes(self.disk_bytes)} of disk"] if self.disk_bytes else []
        return "\n".join([*lines, f"memory   {', '.join(memory)}"])


def megabytes(count: float) -> str:
    return f"{count / 2**20:.0f} MiB"


def plan_strips(
    spec: GeneratorSpec, padded: tuple[int, int], dtype: torch.dtype, device: torch.device, limits: Limits
) -> StripPlan:
    """The fastest way through the network, in `dtype`, for a picture of `padded` (h, w).

    Where memory holds them, all outputs are stored; then those of full resolution are computed again, for a third more
    time, and what is still too much leaves the device; then the same with half resolution. Smaller strips come before
    each of these.

    Raises MemoryError where there is none.
    """
    heights = _heights(spec, padded, dtype, device, limits)
    lacking: MemoryError | None = None
    for halvings in range(spec.downsamplings + 1):
        shapes = [Shape(spec, *padded, rows, 2**halvings) for rows in heights]
        for places in (DEVICE, EVERYWHERE) if halvings else (DEVICE,):
            plan = next(filter(None, (_placed(shape, dtype, limits, places) for shape in shapes)), None)
            if plan is not None:
                try:
                    plan.require_disk()
                    return plan
                except MemoryError as error:
                    lacking = error
    least = megabytes(heap_bytes(Shape(spec, *padded, heights[-1], spec.size_multiple), dtype))
    raise lacking or MemoryError(f"it needs {least} in the smallest strips, {limits.source}")


def heap_bytes(shape: Shape, dtype: torch.dtype, away: Collection[int] = ()) -> int:
    """What all takes but for the planes, see `strip_bytes`."""
    return CODE_BYTES + int(HEAP_FACTOR * max(strip_bytes(shape, i, dtype, away) for i in range(len(shape.passes))))


def _heights(
    spec: GeneratorSpec, padded: tuple[int, int], dtype: torch.dtype, device: torch.device, limits: Limits
) -> list[int]:
    """Of strips, from the fastest to the smallest, in rows of the picture."""
    (h, w), multiple = padded, spec.size_multiple
    wanted = STRIP_BYTES.get(device.type, GPU_STRIP_BYTES) // (w * spec.width * dtype.itemsize)
    heights = [_multiple_below(min(wanted, limits.rows, h), multiple)]
    while heights[-1] > multiple:
        heights.append(_multiple_below(heights[-1] / 2, multiple))
    return heights


def _multiple_below(rows: float, multiple: int) -> int:
    """The largest multiple up to `rows`, but at least one."""
    return max(1, int(rows) // multiple) * multiple


def _placed(shape: Shape, dtype: torch.dtype, limits: Limits, places: tuple[Place, ...]) -> StripPlan | None:
    """Each plane in the first place that has room for it; None where one finds none, or the strips themselves."""
    room = {
        "device": min(limits.planes, limits.device - heap_bytes(shape, dtype)),
        "host": limits.host,
        "disk": float("inf"),
    }
    plan = StripPlan(shape, dtype, ())
    for number, use in enumerate(shape.planes):
        size, needed_in = plan.bytes_of(number), range(use.first, use.last + 1)
        place = next((at for at in places if max(plan.held(at, i) for i in needed_in) + size <= room[at]), None)
        if place is None:
            return None
        plan = StripPlan(shape, dtype, (*plan.places, place))
    return plan if plan.peak_bytes <= limits.device else None
