"""python -m benchmarks.roofline: the floor of every kernel of the generator, and the time expected of ours.

A kernel's floor is the longer of its arithmetic and its bytes, each tensor read and written once, at the rates of a
GPU. `predict` adds what our kernels are expected to fall short of it. Nothing here runs on a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from deblurgan.spec import PRESETS, GeneratorSpec

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
    y_bytes: int  # of the raw output of the convolution, which `norm` normalises
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
    spec: GeneratorSpec, h: int, w: int, n: int = 1, *, element: int = 2, trunk: int | None = None
) -> list[Kernel]:
    """The kernels of one forward pass of n pictures h x w, in order.

    Each convolution takes its statistics on the way and one pass, `norm_act`, normalises its output, adds the residual
    and writes the next convolution's input with its border. `element`: bytes of an element. `trunk`: those of the
    residual blocks' operands, where they differ; y and the residual stream stay as they are. Raises ValueError where
    h or w is no multiple of 4.
    """
    if h % 4 or w % 4:
        raise ValueError(f"h and w must be multiples of 4, got {h} and {w}")
    operand = element if trunk is None else trunk
    eight_bit = operand < element

    def conv(name: str, kind: Kind, size: int, c: int, k: int, scale_in: int, scale_out: int) -> Kernel:
        pixels_in, pixels_out = n * h * w // scale_in**2, n * h * w // scale_out**2
        weights = size**2 * c * k
        bytes_in = operand if kind in ("trunk", "trunk8") else element
        y = pixels_out * k * element
        return Kernel(
            name=name,
            kind=kind,
            shape=f"{size}x{size} {c}->{k}",
            count=spec.blocks * spec.convs if name == "trunk" else 1,
            macs=weights * min(pixels_in, pixels_out),  # a transposed convolution has its taps at each input pixel
            weight_bytes=weights * bytes_in,
            read_bytes=pixels_in * c * bytes_in + (y if kind == "head" else 0),  # the head adds the picture
            written_bytes=y,
            y_bytes=y,
            operand=bytes_in,
        )

    def norm(
        name: str, c: int, scale: int, *, count: int = 1, border: int = 1, write: int = element, residual: bool = False
    ) -> Kernel:
        rows, columns = h // scale, w // scale
        y = n * rows * columns * c * element
        return Kernel(
            name=f"norm {name}",
            kind="norm",
            shape=f"{rows}x{columns}x{c}",
            count=count,
            macs=0,
            weight_bytes=0,
            read_bytes=2 * y if residual else y,
            written_bytes=n * (rows + 2 * border) * (columns + 2 * border) * c * write,
            y_bytes=y,
            operand=element,
            launches=1 + merge_launches(rows * columns),
        )

    c = spec.width
    kernels = [
        conv("stem", "stem", 7, 3, c, 1, 1),
        norm("stem", c, 1),
        conv("down1", "down", 3, c, 2 * c, 1, 2),
        norm("down1", 2 * c, 2),
        conv("down2", "down", 3, 2 * c, 4 * c, 2, 4),
        norm("down2", 4 * c, 4),
        conv("trunk", "trunk8" if eight_bit else "trunk", 3, 4 * c, 4 * c, 4, 4),
        norm("inner", 4 * c, 4, count=spec.blocks * (spec.convs - 1), write=operand),
        # With 8 bits the stream is written twice, as itself and as the next operand. The last block needs no operand,
        # but the first one's, by `norm down2`, is counted here in its place
        norm("residual", 4 * c, 4, count=spec.blocks, write=element + operand * eight_bit, residual=True),
        conv("up1", "up", 3, 4 * c, 2 * c, 4, 2),
        norm("up1", 2 * c, 2),
        conv("up2", "up", 3, 2 * c, c, 2, 1),
        norm("up2", c, 1, border=3),
        conv("head", "head", 7, c, 3, 1, 1),
    ]
    return [kernel for kernel in kernels if kernel.count]


def total(kernels: list[Kernel], cost: Callable[[Kernel], float]) -> float:
    return sum(kernel.count * cost(kernel) for kernel in kernels)


def net_floors(kernels: list[Kernel], rates: Rates = H200) -> dict[str, float]:
    """Seconds of the whole pass, by what is left besides the convolutions' arithmetic.

    math: nothing. roof: the convolutions' own bytes. pragmatic: `norm_act` in and before the trunk, nine passes over
    a tensor in a block of two convolutions. separate: `norm_act` everywhere, so all of `kernels`.
    """
    convs = [kernel for kernel in kernels if kernel.macs]
    near_trunk = [kernel for kernel in kernels if kernel.name in ("norm down2", "norm inner", "norm residual")]
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
    half, eight_bit = generator_kernels(*case), generator_kernels(*case, trunk=1)
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
