"""python -m benchmarks.roofline: the floor of every kernel of the generator, and the time expected of ours.

A kernel's floor is the longer of its arithmetic and its bytes, each tensor read and written once, at the rates of a
GPU. `predict` adds what our kernels are expected to fall short of it. Nothing here runs on a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from deblurgan.spec import PRESETS, GeneratorSpec, Stage

Kind = Literal["stem", "down", "trunk", "trunk8", "up", "head", "norm"]


@dataclass(frozen=True)
class Rates:
    """What a GPU reaches, a second."""

    flops: dict[int, float]  # by bytes of an operand
    bytes: float  # read and written


H200 = Rates({4: 67e12, 2: 790e12, 1: 1580e12}, 4.3e12)  # half and copy measured; fp32 documented; 8 bits twice half


@dataclass(frozen=True)
class Kernel:
    """A piece of the forward pass that occurs `count` times; work and bytes are those of one occurrence."""

    name: str
    kind: Kind
    shape: str
    count: int
    macs: int  # multiply-adds; none in `norm`, whose arithmetic never counts
    weight_bytes: int
    read_bytes: int
    written_bytes: int
    y_bytes: int  # of the convolution's pre-norm output
    operand: int  # bytes of an element that is multiplied
    launches: int = 1

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.read_bytes + self.written_bytes

    def math_s(self, rates: Rates = H200) -> float:
        return self.flops / rates.flops[self.operand]

    def memory_s(self, rates: Rates = H200) -> float:
        return self.bytes / rates.bytes

    def floor_s(self, rates: Rates = H200) -> float:
        return max(self.math_s(rates), self.memory_s(rates))


def merge_launches(pixels: int) -> int:
    """Launches of `merge_stats` before a `norm_act` of so many pixels a picture, which merges few tiles itself."""
    tiles = math.ceil(pixels / 128)
    return 0 if tiles <= 64 else 1 if tiles <= 1024 else 2


def generator_kernels(
    spec: GeneratorSpec, h: int, w: int, n: int = 1, *, element: int = 2, quantize: bool = False
) -> list[Kernel]:
    """The kernels of one forward pass of n pictures h x w, in order; those of the residual blocks once, with a count.

    Each convolution takes its statistics on the way and one pass, `norm_act`, normalises its output, adds the residual
    and writes the next convolution's input with its border. `element`: bytes of an element. `quantize`: the residual
    blocks' operands have 8 bits; y and the residual stay as they are. Raises ValueError where h or w is no multiple of
    spec.size_multiple.
    """
    if h % spec.size_multiple or w % spec.size_multiple:
        raise ValueError(f"h and w must be multiples of {spec.size_multiple}, got {h} and {w}")
    work = _Work(n * h * w, element, 1 if quantize else element)
    found: dict[str, Kernel] = {}
    for stage, following in zip(spec.stages, [*spec.stages[1:], None], strict=True):
        conv = work.conv(stage)
        found[conv.name] = replace(conv, count=found[conv.name].count + 1) if conv.name in found else conv
        if following is None:
            continue
        norm = work.norm(stage, following, h // stage.scale_out, w // stage.scale_out)
        same = found.get(norm.name)
        found[norm.name] = replace(same, count=same.count + 1) if same else norm
    return list(found.values())


class _Work(NamedTuple):
    """Work and bytes of kernels on so many pixels."""

    pixels: int  # of the pictures
    element: int  # bytes of an element
    operand: int  # of an element that the residual blocks multiply

    def conv(self, stage: Stage) -> Kernel:
        pixels_in, pixels_out = self.pixels // stage.scale_in**2, self.pixels // stage.scale_out**2
        weights = stage.size**2 * stage.channels_in * stage.channels_out
        operand = self.operand if stage.kind == "trunk" else self.element
        y = pixels_out * stage.channels_out * self.element
        return Kernel(
            name="trunk" if stage.kind == "trunk" else stage.name,
            kind="trunk8" if stage.kind == "trunk" and operand < self.element else stage.kind,
            shape=f"{stage.size}x{stage.size} {stage.channels_in}->{stage.channels_out}",
            count=1,
            macs=weights * min(pixels_in, pixels_out),  # a transposed convolution has its taps at each input pixel
            weight_bytes=weights * operand,
            read_bytes=pixels_in * stage.channels_in * operand + (y if stage.kind == "head" else 0),  # and the picture
            written_bytes=y,
            y_bytes=y,
            operand=operand,
        )

    def norm(self, stage: Stage, following: Stage, rows: int, columns: int) -> Kernel:
        c, halo = stage.channels_out, following.halo
        y = self.pixels // stage.scale_out**2 * c * self.element
        bordered = y // (rows * columns * self.element) * (rows + 2 * halo) * (columns + 2 * halo)
        write = self.element
        if stage.adds_residual and self.operand < self.element:
            # The residual is written as itself and as the next operand. The last block needs no operand, but the first
            # one's, which the last downsampling writes, is counted here in its place
            write = self.element + self.operand
        elif stage.kind == "trunk" and not stage.is_residual:
            write = self.operand
        name = "residual" if stage.adds_residual else "inner" if stage.kind == "trunk" else stage.name
        return Kernel(
            name=f"norm {name}",
            kind="norm",
            shape=f"{rows}x{columns}x{c}",
            count=1,
            macs=0,
            weight_bytes=0,
            read_bytes=2 * y if stage.adds_residual else y,
            written_bytes=bordered * write,
            y_bytes=y,
            operand=self.element,
            launches=1 + merge_launches(rows * columns),
        )


def total(kernels: list[Kernel], cost: Callable[[Kernel], float]) -> float:
    return sum(kernel.count * cost(kernel) for kernel in kernels)


def _last_down(kernels: list[Kernel]) -> str:
    """The name of the last downsampling."""
    return [kernel.name for kernel in kernels if kernel.kind == "down"][-1]


def net_floors(kernels: list[Kernel], rates: Rates = H200) -> dict[str, float]:
    """Seconds of the whole pass, by what is left besides the convolutions' arithmetic.

    math: nothing. roof: the convolutions' own bytes. pragmatic: `norm_act` in and before the trunk, nine passes over
    a tensor in a block of two convolutions. separate: `norm_act` everywhere, so all of `kernels`.
    """
    convs = [kernel for kernel in kernels if kernel.macs]
    near = (f"norm {_last_down(kernels)}", "norm inner", "norm residual")
    near_trunk = [kernel for kernel in kernels if kernel.name in near]
    return {
        "math": total(kernels, lambda kernel: kernel.math_s(rates)),
        "roof": total(convs, lambda kernel: kernel.floor_s(rates)),
        "pragmatic": total(convs + near_trunk, lambda kernel: kernel.floor_s(rates)),
        "separate": total(kernels, lambda kernel: kernel.floor_s(rates)),
    }


# Passes over y besides the convolution, where we have `norm_act` or the head's tail. torch.compile: statistics, then
# normalise to the padded input, with the residual read and written. Eager channels_last: bias, to NCHW and back,
# statistics, normalise, ReLU; a pad in the trunk; the residual; bias, tanh and sum at the head.
PEER_PASSES: dict[str, dict[str, int]] = {
    "compile": {"norm": 3, "norm residual": 5},
    "eager": {"norm": 11, "norm inner": 13, "norm residual": 14, "head": 6},
}


def peer_floors(kernels: list[Kernel], rates: Rates = H200) -> dict[str, float]:
    """Seconds of the whole pass as torch.compile and eager channels_last divide it, each convolution at its roof."""

    def extra_bytes(passes: dict[str, int]) -> float:
        return total(kernels, lambda kernel: passes.get(kernel.name, passes.get(kernel.kind, 0)) * kernel.y_bytes)

    roof = net_floors(kernels, rates)["roof"]
    return {peer: roof + extra_bytes(passes) / rates.bytes for peer, passes in PEER_PASSES.items()}


class Span(NamedTuple):
    """Seconds."""

    fast: float
    slow: float


# The share of its floor's rate that each of our kernels is expected to reach on an H200, at best and at worst
EXPECTED_SHARES: dict[Kind, tuple[float, float]] = {
    "stem": (0.38, 0.30),  # channels padded from 3 to 8 and taps from 7 to 8: three times the multiply-adds
    "down": (0.90, 0.75),
    "trunk": (0.90, 0.80),  # 632 ... 711 TFLOP/s, what Triton's matrix products reach beside cuBLAS
    "trunk8": (0.81, 0.70),
    "up": (0.90, 0.75),
    "head": (0.54, 0.42),  # five rows of 21 products in 128 columns: 36 GFLOP for 17, and what they read twice over
    "norm": (0.92, 0.85),
}
LAUNCH = Span(2e-6, 3e-6)  # what a dependent launch in a CUDA graph waits, fills and drains


def predict(kernel: Kernel, rates: Rates = H200) -> Span:
    """The time expected of our kernel; the shares are of an H200, half types and `paper`'s widths."""
    best, worst = EXPECTED_SHARES[kernel.kind]
    floor = kernel.floor_s(rates)
    return Span(floor / best + kernel.launches * LAUNCH.fast, floor / worst + kernel.launches * LAUNCH.slow)


def predict_net(kernels: list[Kernel], rates: Rates = H200) -> Span:
    """The time expected of the whole pass in a CUDA graph.

    To `kernels` comes one `pack_image`, for the time of a launch.
    """
    return Span(
        LAUNCH.fast + total(kernels, lambda kernel: predict(kernel, rates).fast),
        LAUNCH.slow + total(kernels, lambda kernel: predict(kernel, rates).slow),
    )


def kernel_row(kernel: Kernel) -> str:
    math, memory, floor = (1e6 * t for t in (kernel.math_s(), kernel.memory_s(), kernel.floor_s()))
    fast, slow = (1e6 * t for t in predict(kernel))
    name = f"{kernel.name}, 8 bits" if kernel.kind == "trunk8" else kernel.name
    return (
        f"| {name} | {kernel.shape} | {kernel.count} | {kernel.flops / 1e9:.2f} | {kernel.bytes / 1e6:.1f} "
        f"| {kernel.flops / kernel.bytes:.0f} | {math:.1f} | {memory:.1f} | {floor:.1f} | {fast:.1f} ... {slow:.1f} |"
    )


HEADINGS = ["kernel", "shape", "count", "GFLOP", "MB", "FLOP/byte", "math us", "memory us", "floor us", "expected us"]


def markdown(half: list[Kernel], eight_bit: list[Kernel]) -> str:
    """The kernels, the one that an 8-bit trunk changes, and the whole pass with either."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    lines += [kernel_row(kernel) for kernel in half]
    lines += [kernel_row(kernel) for kernel in eight_bit if kernel.kind == "trunk8"]
    lines += ["", "| whole pass, ms | half | 8-bit trunk |", "|---|---|---|"]
    floors8 = net_floors(eight_bit)
    lines += [f"| {name} | {1e3 * floor:.3f} | {1e3 * floors8[name]:.3f} |" for name, floor in net_floors(half).items()]
    lines += [f"| {peer} | {1e3 * floor:.3f} | |" for peer, floor in peer_floors(half).items()]
    expected = [predict_net(kernels) for kernels in (half, eight_bit)]
    cells = [f"{1e3 * span.fast:.2f} ... {1e3 * span.slow:.2f}" for span in expected]
    return "\n".join([*lines, f"| expected | {' | '.join(cells)} |"])


def facts(kernels: list[Kernel]) -> dict[str, Any]:
    """All figures in JSON's terms, times in seconds."""
    return {
        "kernels": [
            {**asdict(kernel), "floor_s": kernel.floor_s(), "expected_s": predict(kernel)._asdict()}
            for kernel in kernels
        ],
        "floors_s": net_floors(kernels),
        "expected_s": predict_net(kernels)._asdict(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()

    case = (PRESETS[args.preset], args.height, args.width, args.batch)
    half, eight_bit = generator_kernels(*case), generator_kernels(*case, quantize=True)
    print(markdown(half, eight_bit))
    if args.json:
        report = {
            "preset": args.preset,
            "picture": [args.batch, args.height, args.width],
            "rates": asdict(H200),
            "half": {**facts(half), "peer_floors_s": peer_floors(half)},
            "eight_bit_trunk": facts(eight_bit),
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
