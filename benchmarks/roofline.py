"""python -m benchmarks.roofline: the floor of every kernel of the generator, and the time expected of ours.

A kernel's floor is the longer of its arithmetic and its bytes, each tensor read and written once, at the rates of a
GPU. `estimate` is the time expected of one of our convolutions in a configuration on any GPU, what its programs read
from L2 included, and `library_estimate` that of cuDNN with what it needs beside it; --gpu NAME prints both. Nothing
here runs on a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from deblurgan.kernels.config import ConvConfig
from deblurgan.kernels.heuristics import default_config
from deblurgan.spec import PRESETS, GeneratorSpec, Stage

Kind = Literal["stem", "down", "trunk", "trunk8", "up", "head", "norm"]


@dataclass(frozen=True)
class Rates:
    """What a GPU reaches, a second."""

    flops: dict[int, float]  # by bytes of an operand
    bytes: float  # read and written


@dataclass(frozen=True)
class GpuRates(Rates):
    """A GPU as `estimate` sees it; `flops` as large matrix products of cuBLAS reach them, sums in fp32."""

    capability: tuple[int, int]
    sms: int
    fp16_flops: float  # of fp16 with sums in fp16
    l2_bytes: float  # read a second
    l2_size: int
    shared: int  # bytes of an SM that programs share

    @property
    def family(self) -> str:
        """How products are made: mma.sync, wgmma or tcgen05."""
        return {9: "wgmma", 10: "tcgen05"}.get(self.capability[0], "mma")


MB = 1 << 20
KB = 1 << 10
# m: measured, d: documented by NVIDIA (dense rates at boost clock; all SMs and sizes), e: estimated. L2 and DRAM m
# without a source are those of RRZE-HPC/gpu-benches, gpu-l2-cache, which finds less than the documented size of L2
# where a datum may lie in both of its halves
GPUS = {
    # Half 273 m of 312 d (triton #743), 8 bits at the same share e; L2 m; DRAM m reading
    "A100": GpuRates({4: 19.5e12, 2: 270e12, 1: 540e12}, 1.75e12, (8, 0), 108, 270e12, 5.4e12, 40 * MB, 164 * KB),
    # Half 71 d (65 ... 75 m, triton #319), fp16 sums 142 d, 110 of them m in a convolution (there); L2 e: 48 slices of
    # 32 bytes at 1.7 GHz; DRAM 0.94 d
    "RTX 3090": GpuRates({4: 35.6e12, 2: 71e12, 1: 284e12}, 0.85e12, (8, 6), 82, 142e12, 2.6e12, 6 * MB, 100 * KB),
    # Half 165 d (159 ... 167 m, mli/transformers-benchmarks #4), fp16 sums and 8 bits d; L2 m for cp.async
    # (smallscientist1/cuda_microbenchmark); DRAM 1.01 d
    "RTX 4090": GpuRates({4: 82.6e12, 2: 165e12, 1: 660e12}, 0.92e12, (8, 9), 128, 330e12, 4.9e12, 72 * MB, 100 * KB),
    # 362 and 733 d, with sums in fp32 too, but 350 W: three quarters e; L2 and DRAM m on an L40
    "L40S": GpuRates({4: 91.6e12, 2: 270e12, 1: 550e12}, 0.80e12, (8, 9), 142, 270e12, 5.2e12, 96 * MB, 100 * KB),
    # Half 756 d, but 350 W: two thirds e; L2 m; DRAM m reading
    "H100 PCIe": GpuRates({4: 51e12, 2: 500e12, 1: 1000e12}, 1.9e12, (9, 0), 114, 500e12, 6.9e12, 50 * MB, 228 * KB),
    # Half 721 m (triton #2339), 8 bits 1278 m (triton #5461); L2 as H200's e; DRAM 3.35 d, nine tenths e
    "H100": GpuRates({4: 67e12, 2: 720e12, 1: 1280e12}, 3.0e12, (9, 0), 132, 720e12, 9.7e12, 50 * MB, 228 * KB),
    # Half and DRAM, copying, m by this project; fp32 d; 8 bits twice half e; L2 m
    "H200": GpuRates({4: 67e12, 2: 790e12, 1: 1580e12}, 4.3e12, (9, 0), 132, 790e12, 9.7e12, 60 * MB, 228 * KB),
    # 2250 d; 1110 m at 750 W (facebookexperimental/triton #854), up to 1445 m on a GPU of the family (pytorch #176935):
    # between them e; L2 e: Hopper's for each SM; DRAM 7.7 d (pytorch/ao #4002), less e
    "B200": GpuRates({4: 75e12, 2: 1300e12, 1: 2600e12}, 6.5e12, (10, 0), 148, 1300e12, 10.9e12, 126 * MB, 228 * KB),
    # 1730 m on a GB300 (facebookexperimental/triton #740), fp8 twice e; L2 and DRAM as B200's e
    "B300": GpuRates({4: 75e12, 2: 1730e12, 1: 3460e12}, 6.5e12, (10, 3), 148, 1730e12, 10.9e12, 126 * MB, 228 * KB),
    # 209, fp16 sums 419, 8 bits 838 d; L2 8.7 m on 188 SMs of the same chip (chips and cheese), by SMs; DRAM 1.79 d
    "RTX 5090": GpuRates({4: 105e12, 2: 209e12, 1: 838e12}, 1.6e12, (12, 0), 170, 419e12, 7.9e12, 96 * MB, 100 * KB),
}
H200 = GPUS["H200"]


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
    channels: tuple[int, int] = (0, 0)  # of a convolution: in and out
    pixels: int = 0  # of its output, in all pictures

    @property
    def label(self) -> str:
        return f"{self.name}, 8 bits" if self.kind == "trunk8" else self.name

    @property
    def convolution(self) -> tuple[str, int, int, int]:
        """As `estimate` takes it: kind, channels and pixels."""
        return ("trunk" if self.kind == "trunk8" else self.kind, *self.channels, self.pixels)

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
            channels=(stage.channels_in, stage.channels_out),
            pixels=pixels_out,
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

    def extra_bytes(counts: dict[str, int]) -> float:
        return total(kernels, lambda kernel: counts.get(kernel.name, counts.get(kernel.kind, 0)) * kernel.y_bytes)

    roof = net_floors(kernels, rates)["roof"]
    return {peer: roof + extra_bytes(counts) / rates.bytes for peer, counts in PEER_PASSES.items()}


class Span(NamedTuple):
    """Seconds."""

    fast: float
    slow: float


LAUNCH = Span(2e-6, 3e-6)  # what a dependent launch in a CUDA graph waits, fills and drains
PASS_SHARE = Span(0.92, 0.85)  # of the rate of a copy, by a pass over a tensor


def add(spans: Iterable[Span]) -> Span:
    """One after another."""
    return Span(*map(sum, zip(*spans, strict=True)))


def pass_s(size: float, gpu: GpuRates) -> float:
    """Seconds to read or write so many bytes, which half of L2 may hold since the kernel before."""
    return size / (gpu.l2_bytes if size <= gpu.l2_size / 2 else gpu.bytes)


def passes(size: float, gpu: GpuRates, launches: int = 1) -> Span:
    """The time expected of so many launches that read and write so many bytes together."""
    fast, slow = (pass_s(size, gpu) / share for share in PASS_SHARE)
    return Span(fast + launches * LAUNCH.fast, slow + launches * LAUNCH.slow)


class Programs(NamedTuple):
    """What a kernel launches; FLOPs and bytes loaded are those of one program, what it pads included."""

    count: int
    flops: float
    loads: float  # from L2: loads of 16 bytes and TMA pass by L1
    memory: float  # bytes of all tensors, each read and written once


RUN = 32  # channels that the stem's taps have: 8 pixels of 4
RUN_OVERLAP = 0.14  # of its loads reach L2: those of 8 bytes pass through L1, and 128 pixels have 34 sectors for 256
SPLIT_WARPS = 8  # for each SM, as kernels/conv_wgrad.py launches them


def conv_programs(
    kind: str, c_in: int, c_out: int, pixels: int, config: ConvConfig, operand: int = 2, sms: int = 132
) -> Programs:
    """Of a layer's convolution or gradient; see `estimate`.

    A program multiplies block_m pixels by block_n channels over all taps, so it loads (block_m + block_n) K operands:
    of neighbouring pixels it reads the same for each tap anew.
    """
    layer, _, gradient = kind.partition(".")
    if gradient == "wgrad":
        return _weight_programs(layer, c_in, c_out, pixels, config, sms)
    if gradient == "dgrad":  # the adjoint's convolution, which also reads the activations
        adjoint, outputs = {"down": ("up", 4 * pixels), "up": ("down", pixels // 4), "head": ("stem", pixels)}.get(
            layer, (layer, pixels)
        )
        made = conv_programs(adjoint, c_out, c_in, outputs, config, operand)
        return made._replace(memory=made.memory + 2 * outputs * c_in)
    m, n, k = config.block_m, config.block_n, config.block_k
    rows, columns, taps, channels, overlap = pixels, c_out, 9.0, c_in, 1.0
    read = {"down": 4.0, "up": 0.25}.get(layer, 1.0) * pixels * c_in
    if layer == "stem":
        taps, channels, overlap, read = 7, RUN, RUN_OVERLAP, 4 * pixels
    elif layer == "up":
        taps = 9 / 4  # the mean of its phases
    elif layer == "head":  # `lines` rows of results are columns of one product, the last 6 pixels neighbours only
        lines = n // 8 // c_out
        rows, columns, taps = math.ceil(pixels / lines * m / (m - 6)), n, 6 + lines
    depth = taps * math.ceil(channels / k) * k
    weights = (9 if layer == "up" else taps) * channels * columns
    work = Programs(
        math.ceil(rows / m) * math.ceil(columns / n),
        2 * m * n * depth,
        (overlap * m + n) * depth * operand,
        operand * (read + weights) + max(operand, 2) * pixels * c_out,
    )
    if config.form != "pairs":
        return work
    # Two phases of a row in a program: 3 of their 4.5 taps' pixels, in the mean, and each tap's weights
    loads = (3 * m + 4.5 * n) * math.ceil(channels / k) * k * operand
    return work._replace(count=math.ceil(work.count / 2), flops=2 * work.flops, loads=loads)


def _weight_programs(layer: str, c_in: int, c_out: int, pixels: int, config: ConvConfig, sms: int) -> Programs:
    """Of the gradient by a layer's weight: split over the pixels, partial results in fp32."""
    m, n = config.block_m, config.block_n
    rows, columns, taps, overlap = c_out, c_in, 9, 1.0
    if layer == "up":
        rows, columns, pixels = c_in, c_out, pixels // 4
    elif layer in ("stem", "head"):
        rows, columns, taps, overlap = c_in if layer == "head" else c_out, RUN, 7, RUN_OVERLAP
    tiles = math.ceil(rows / m) * taps * math.ceil(columns / n)
    splits = max(1, SPLIT_WARPS * sms // (config.warps * tiles))
    depth = math.ceil(pixels / splits / config.block_k) * config.block_k
    read = {"down": 4.0, "up": 4.0}.get(layer, 1.0) * columns + rows if overlap == 1 else 8.0 + rows
    return Programs(
        tiles * splits,
        2 * m * n * depth,
        2 * (m + overlap * n) * depth,
        2 * pixels * read + 8 * splits * rows * columns * taps,
    )


def shared_bytes(config: ConvConfig, gpu: GpuRates, operand: int = 2) -> int:
    """Of a program's operands. mma.sync reads registers, so the stage that it multiplies is not among them."""
    stages = config.stages - (gpu.family == "mma")
    rows = 2 * config.block_m + 3 * config.block_n if config.form == "pairs" else config.block_m + config.block_n
    return stages * rows * config.block_k * operand


def programs_per_sm(config: ConvConfig, gpu: GpuRates, operand: int = 2) -> int:
    """How many fit an SM, by shared memory and by registers: the sums and about 96 a thread."""
    threads = 32 * config.warps
    sums = config.block_m * config.block_n * (2 if config.form == "pairs" else 1)
    registers = min(255, 96 + sums // threads)
    return max(1, min(gpu.shared // (shared_bytes(config, gpu, operand) + KB), 65536 // (threads * registers)))


# The share of cuBLAS's rate that Triton's loop reaches, at best and at worst. mma: 0.89 ... 1.0 for large products on
# an A100 (triton #743, #6523), more than cuBLAS on a 3090 (#319), 96 % of the tensor cores' rate on a 4060 and 1.72 of
# 2 with fp16 sums (#10851); less for a convolution's address arithmetic. wgmma: 83 % of cuBLAS with TMA (NVIDIA/tilus
# #154), 13 % more than with pointers (triton #5461). tcgen05: 77 ... 82 % for a loop that TMA feeds without warp
# specialisation (facebookexperimental/triton #854), of larger tiles than ours; by pointers a guess
SHARES: dict[tuple[str, str], Span] = {
    ("mma", "pointer"): Span(0.93, 0.82),
    ("mma", "tma"): Span(0.93, 0.80),
    ("wgmma", "tma"): Span(0.90, 0.80),
    ("wgmma", "pointer"): Span(0.80, 0.70),
    ("tcgen05", "tma"): Span(0.80, 0.65),
    ("tcgen05", "pointer"): Span(0.70, 0.45),
}
FP16_SUMS = 0.86  # of that share: 1.72 of twice the rate
L2_SHARE = Span(1.0, 0.85)  # of the rate that reading alone reaches
# What four warps reach that share their SM with no other program; guesses. wgmma and tcgen05 multiply while the warps
# prepare more; where sums in fp32 halve the rate, a warp for each of four tensor cores nearly keeps it busy
ALONE = {"mma": 0.75, "wgmma": 0.85, "tcgen05": 0.85}
ALONE_AT_HALF_RATE = 0.9
# To fill a program's pipeline, to take statistics and to store, where no other program runs meanwhile. On tcgen05 a
# thread has a row of the tile, so that each column's statistics cross all 32 of a warp by shuffles
EXPOSED = {"mma": Span(1e-6, 2e-6), "wgmma": Span(1e-6, 2e-6), "tcgen05": Span(3e-6, 5e-6)}


def estimate(
    kind: str,
    c_in: int,
    c_out: int,
    pixels: int,
    config: ConvConfig,
    gpu: GpuRates,
    *,
    operand: int = 2,
) -> Span:
    """The time expected of our kernel with its statistics; kind, channels and output pixels as in config.ConvShape.

    The longest of arithmetic on the SM that has most programs, reads from L2 and bytes of DRAM; a launch; and what no
    other program of its SM hides.
    """
    work = conv_programs(kind, c_in, c_out, pixels, config, operand, gpu.sms)
    share = SHARES[gpu.family, "tma" if config.form == "tma" else "pointer"]
    flops = gpu.flops[operand]
    if config.accumulate == "fp16":
        flops = gpu.fp16_flops
        share = Span(share.fast * FP16_SUMS, share.slow * FP16_SUMS)
    launches = 2 if kind.endswith(".wgrad") else 1  # and the sum of its parts
    return _time(work, config, gpu, flops, share, launches, operand)


def _time(
    work: Programs,
    config: ConvConfig,
    gpu: GpuRates,
    flops: float,
    share: Span,
    launches: int,
    operand: int = 2,
    exposes: bool = True,
) -> Span:
    fit = programs_per_sm(config, gpu, operand)
    busiest = math.ceil(work.count / gpu.sms)
    alone = ALONE_AT_HALF_RATE if flops < gpu.fp16_flops else ALONE[gpu.family]
    crowd = 1.0 if min(fit, busiest) * config.warps >= 8 else alone
    arithmetic = busiest * work.flops * gpu.sms / flops / crowd
    loading = work.count * work.loads / gpu.l2_bytes
    exposed = exposes * (busiest if fit == 1 else 1)

    def seconds(share: float, l2_share: float, each: float, launch: float) -> float:
        return (
            max(arithmetic / share, loading / l2_share, pass_s(work.memory, gpu)) + exposed * each + launches * launch
        )

    return Span(*map(seconds, share, L2_SHARE, EXPOSED[gpu.family], LAUNCH))


# cuDNN's tiles, and the share of cuBLAS's rate that it reaches: assumed, since nobody publishes it for such layers.
# On Hopper and Blackwell it has what programs expose within it, and those of large tiles share an operand in pairs.
# Kernels for strided gradients, which a transposed convolution is to cuDNN, lose to phases as ours by 1.57 on an A100
# (FlagGems #3389)
LIBRARY_TILES = ((256, 128, 8), (128, 256, 8), (128, 128, 4), (256, 64, 4), (128, 64, 4), (64, 64, 4), (128, 32, 4))
LIBRARY_SHARES = {"mma": Span(0.95, 0.82), "wgmma": Span(0.90, 0.78), "tcgen05": Span(0.85, 0.65)}
LIBRARY_KINDS = {"up": 0.7, "down.dgrad": 0.7, "stem": 0.75, "head.dgrad": 0.75}  # of that share
SHARED_LOADS = 0.75  # of the loads of two programs that share an operand


def library_conv(kind: str, c_in: int, c_out: int, pixels: int, gpu: GpuRates, *, operand: int = 2) -> Span:
    """The time expected of cuDNN's convolution or gradient, by the best of its tiles."""
    gradient = kind.endswith(".wgrad")
    part = LIBRARY_KINDS.get(kind, 0.9 if gradient else 1.0)
    share = Span(*(part * whole for whole in LIBRARY_SHARES[gpu.family]))
    specialised = gpu.family != "mma"
    times = []
    for m, n, warps in LIBRARY_TILES:
        config = ConvConfig(m, n, 32, 8 if specialised else warps, 4)
        work = _library_programs(kind, c_in, c_out, pixels, config, operand)
        if specialised and min(m, n) >= 128:
            work = work._replace(loads=SHARED_LOADS * work.loads)
        times.append(_time(work, config, gpu, gpu.flops[operand], share, 1 + gradient, operand, not specialised))
    return min(times)


def _library_programs(kind: str, c_in: int, c_out: int, pixels: int, config: ConvConfig, operand: int) -> Programs:
    """As `conv_programs`; the last convolution has 49 taps, of which those of a row are taken to come from L1."""
    if kind != "head":
        return conv_programs(kind, c_in, c_out, pixels, config, operand)
    work = conv_programs("trunk", c_in, c_out, pixels, config, operand)
    return work._replace(flops=work.flops * 49 / 9, loads=work.loads * 7 / 9)


def library_estimate(kind: str, c_in: int, c_out: int, pixels: int, gpu: GpuRates, *, operand: int = 2) -> Span:
    """`library_conv` and the passes that it needs beside ours.

    Statistics read the output once more; sums for the norm read the gradient by activations and them, which the trunk
    needs in one of two layers; the input of a transposed convolution is copied without its border.
    """
    layer, _, gradient = kind.partition(".")
    elements: list[float] = []  # of each pass
    if not gradient and layer != "head":
        elements.append(pixels * c_out)
    elif gradient == "dgrad":
        inputs = {"down": 4.0, "up": 0.25, "trunk": 0.5}.get(layer, 1.0) * pixels * c_in
        elements.append(2 * inputs)
    if kind in ("up", "up.wgrad"):
        elements.append(2 * pixels / 4 * c_in)
    conv = library_conv(kind, c_in, c_out, pixels, gpu, operand=operand)
    return add([conv, *(passes(operand * count, gpu) for count in elements)])


def l2_s(kernel: Kernel, config: ConvConfig, gpu: GpuRates) -> float:
    """Seconds that the reads of a convolution's programs take from L2."""
    work = conv_programs(*kernel.convolution, config, kernel.operand)
    return work.count * work.loads / gpu.l2_bytes


def tiling(kernel: Kernel, gpu: GpuRates) -> ConvConfig | None:
    """Of a convolution, where nobody has measured one; None is cuDNN."""
    kind, c_in, c_out, pixels = kernel.convolution
    return default_config(
        kind,
        c_in=c_in,
        c_out=c_out,
        pixels=pixels,
        dtype={4: torch.float32, 2: torch.float16, 1: torch.int8}[kernel.operand],
        capability=gpu.capability,
        sms=gpu.sms,
        geforce=gpu.fp16_flops > gpu.flops[2],
    )


def predict(kernel: Kernel, gpu: GpuRates = H200) -> Span:
    """The time expected of a kernel: of a pass over tensors, of our convolution by default, else of cuDNN's."""
    if kernel.kind == "norm":
        return passes(kernel.bytes, gpu, kernel.launches)
    config = tiling(kernel, gpu)
    if config is None:
        return library_estimate(*kernel.convolution, gpu, operand=kernel.operand)
    return estimate(*kernel.convolution, config, gpu, operand=kernel.operand)


def predict_net(kernels: list[Kernel], gpu: GpuRates = H200) -> Span:
    """The time expected of the whole pass in a CUDA graph.

    To `kernels` comes one `pack_image`, for the time of a launch.
    """
    return add([LAUNCH, *(predict(kernel, gpu) for kernel in kernels for _ in range(kernel.count))])


def predict_peers(kernels: list[Kernel], gpu: GpuRates = H200) -> dict[str, Span]:
    """The time expected of torch's own ways in a CUDA graph: cuDNN's convolutions and `PEER_PASSES`, two a launch."""

    def parts(kernel: Kernel, counts: dict[str, int]) -> Iterator[Span]:
        if kernel.macs:
            yield library_conv(*kernel.convolution, gpu, operand=kernel.operand)
        count = counts.get(kernel.name, counts.get(kernel.kind, 0))
        yield passes(count * kernel.y_bytes, gpu, math.ceil(count / 2))

    return {
        peer: add(part for kernel in kernels for _ in range(kernel.count) for part in parts(kernel, counts))
        for peer, counts in PEER_PASSES.items()
    }


def cell(span: Span, unit: float = 1e6, digits: int = 1) -> str:
    return f"{unit * span.fast:.{digits}f} ... {unit * span.slow:.{digits}f}"


def kernel_row(kernel: Kernel) -> str:
    math, memory, floor = (1e6 * t for t in (kernel.math_s(), kernel.memory_s(), kernel.floor_s()))
    return (
        f"| {kernel.label} | {kernel.shape} | {kernel.count} | {kernel.flops / 1e9:.2f} | {kernel.bytes / 1e6:.1f} "
        f"| {kernel.flops / kernel.bytes:.0f} | {math:.1f} | {memory:.1f} | {floor:.1f} | {cell(predict(kernel))} |"
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
    cells = [cell(span, 1e3, 2) for span in expected]
    return "\n".join([*lines, f"| expected | {' | '.join(cells)} |"])


def comparison(gpu: GpuRates) -> str:
    """Every convolution of two presets at three sizes, as it runs by default and by cuDNN; then the whole pass."""
    lines = ["| preset | picture | layer | tiling | ours us | cuDNN us | cuDNN / ours |", "|---" * 7 + "|"]
    for preset in ("paper", "tiny"):
        for h, w in ((256, 256), (720, 1280), (4000, 6000)):
            kernels = generator_kernels(PRESETS[preset], h, w)
            for kernel in kernels:
                if kernel.macs:
                    ours, library = predict(kernel, gpu), library_estimate(*kernel.convolution, gpu)
                    name = config_name(tiling(kernel, gpu))
                    cells = [preset, f"{h}x{w}", kernel.name, name, cell(ours), cell(library)]
                    lines.append(f"| {' | '.join(cells)} | {sum(library) / sum(ours):.2f} |")
            ours, compiled = predict_net(kernels, gpu), predict_peers(kernels, gpu)["compile"]
            cells = [preset, f"{h}x{w}", "whole pass, torch.compile", "", cell(ours), cell(compiled)]
            lines.append(f"| {' | '.join(cells)} | {sum(compiled) / sum(ours):.2f} |")
    return "\n".join(lines)


def config_name(config: ConvConfig | None) -> str:
    if config is None:
        return "cuDNN"
    return f"{config.form} {config.block_m}x{config.block_n}x{config.block_k}/{config.warps}/{config.stages}"


def notes() -> list[str]:
    """The tables of NOTES.md up to their last column, which has what was measured: rows of all, then of each."""
    rows = []
    for n, h, w in ((1, 720, 1280), (8, 720, 1280), (1, 256, 256), (16, 256, 256)):
        for trunk in ("half", "8 bits"):
            kernels = generator_kernels(PRESETS["paper"], h, w, n, quantize=trunk == "8 bits")
            floors = net_floors(kernels) | (peer_floors(kernels) if trunk == "half" else {})
            shown = ("math", "separate", *PEER_PASSES)
            cells = [f"{1e3 * floors[name]:.3f}" if name in floors else "" for name in shown]
            rows.append(f"| {n} of {h}x{w} | {trunk} | {' | '.join(cells)} | {cell(predict_net(kernels), 1e3, 2)} |")
    half, eight_bit = (generator_kernels(PRESETS["paper"], 720, 1280, quantize=flag) for flag in (False, True))
    for kernel in [*half, *(kernel for kernel in eight_bit if kernel.kind == "trunk8")]:
        tiled = ["", ""]
        if kernel.macs:
            config = tiling(kernel, H200)
            tiled = [config_name(config), f"{1e6 * l2_s(kernel, config, H200):.1f}" if config else ""]
        cells = [kernel.label, str(kernel.count), tiled[0], f"{1e6 * kernel.floor_s():.1f}", tiled[1]]
        rows.append(f"| {' | '.join(cells)} | {cell(predict(kernel))} |")
    for name, gpu in GPUS.items():
        cells = [name]
        for h, w in ((256, 256), (720, 1280)):
            kernels = generator_kernels(PRESETS["paper"], h, w)
            peers = predict_peers(kernels, gpu)
            cells += [cell(span, 1e3, 2) for span in (predict_net(kernels, gpu), *peers.values())]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


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
    parser.add_argument("--gpu", choices=GPUS, help="print our convolutions beside cuDNN's on it instead")
    parser.add_argument("--notes", action="store_true", help="print the rows of NOTES.md instead")
    args = parser.parse_args()
    if args.gpu or args.notes:
        print("\n".join(notes()) if args.notes else comparison(GPUS[args.gpu]))
        return

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
