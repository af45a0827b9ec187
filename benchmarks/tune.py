"""python -m benchmarks.tune: which of our convolutions beat cuDNN's, by GPU, layer, type and size.

Each layer runs on random data with every candidate, is compared with cuDNN in fp32, and is timed with its statistics,
as cuDNN's convolution is with `tile_stats`; `gradient_problems` says what gradients are timed with. cuDNN takes the
algorithm that its heuristics find, as in deblurgan, where nothing sets `cudnn.benchmark`. What beats cuDNN becomes a
row of kernels/table.json, as does the fastest where cuDNN is no choice: of the head, and of the trunk in 8 bits, which
is timed against cuDNN in fp16. Rows of other GPUs, and those of layers, types and sizes that were not measured, stay.
The table and the times are written after each layer. What raises an error is noted, and left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.roofline import H200, Kernel, generator_kernels
from deblurgan import reference
from deblurgan.device import why_no_kernels
from deblurgan.generator.engine import Engine
from deblurgan.generator.graphs import captured
from deblurgan.generator.quantization import QUANT_RANGES
from deblurgan.kernels.config import ConvConfig, NormActInputs, PackedWeight, PaddedGradient
from deblurgan.kernels.norm_act_grad import norm_act_reduce
from deblurgan.kernels.output_tail import output_tail, pack_tail_weight
from deblurgan.nn import Generator
from deblurgan.ops import conv_grad
from deblurgan.ops.conv import conv_stats
from deblurgan.ops.conv_grad import Convolution, GradientConfigs
from deblurgan.ops.layers import Layer, Quantize, conv_layer
from deblurgan.spec import PRESETS, GeneratorSpec, Stage

Row = dict[str, Any]
Size = tuple[int, int, int]  # pictures, height, width

TABLE = Path(__file__).parent.parent / "kernels" / "table.json"
QUANTIZE: dict[torch.dtype, Quantize] = {torch.int8: "int8", torch.float8_e4m3fn: "fp8"}  # by a type of 8 bits
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.int8: 2e-3}  # relative error of a result
TOLERANCE[torch.float8_e4m3fn] = 1e-2  # sm_90 adds products of fp8 in fewer bits than fp32 has
RATES = {"NVIDIA H200": H200}
ALWAYS_OURS = ("head", "trunk8")

CANDIDATES: dict[str, list[ConvConfig]] = {
    "stem": [ConvConfig(128, 64, 64, 4, 3), ConvConfig(256, 64, 64, 8, 3), ConvConfig(64, 64, 64, 4, 3)],
    "down": [ConvConfig(128, 128, 64, 8, 3), ConvConfig(128, 64, 64, 4, 3), ConvConfig(64, 128, 64, 8, 3)],
    "trunk": [
        ConvConfig(128, 128, 64, 4, 3, "tma"),  # two programs on an SM of sm_90
        ConvConfig(128, 256, 64, 8, 3, "tma"),
        ConvConfig(128, 256, 64, 8, 4, "tma"),
        ConvConfig(64, 256, 64, 4, 4, "tma"),
        ConvConfig(256, 128, 64, 8, 3, "tma"),
        ConvConfig(128, 128, 64, 8, 4, "tma"),
        ConvConfig(128, 128, 128, 4, 2, "tma"),
        ConvConfig(64, 128, 64, 4, 4, "tma"),  # this and the next for small pictures: many programs
        ConvConfig(128, 64, 64, 4, 4, "tma"),
        ConvConfig(128, 128, 32, 4, 4),
        ConvConfig(128, 256, 32, 8, 3),
        ConvConfig(128, 128, 64, 8, 3),
        ConvConfig(64, 128, 64, 4, 4),
    ],
    "trunk8": [  # in 8 bits
        ConvConfig(128, 128, 128, 8, 4, "tma"),
        ConvConfig(128, 256, 128, 8, 3, "tma"),
        ConvConfig(256, 128, 128, 8, 3, "tma"),
        ConvConfig(128, 128, 128, 4, 3, "tma"),
        ConvConfig(64, 128, 128, 4, 4, "tma"),
    ],
    "up": [ConvConfig(128, 128, 64, 8, 3), ConvConfig(128, 64, 64, 4, 3), ConvConfig(64, 64, 64, 4, 2)],
    "head": [  # five rows of results in 128 columns, two in 64
        ConvConfig(128, 128, 64, 8, 3),
        ConvConfig(256, 128, 64, 8, 3),
        ConvConfig(64, 128, 64, 4, 3),
        ConvConfig(128, 64, 64, 4, 3),
    ],
}
# Gradients of pictures are convolutions too, without statistics. Those of weights are block_m results of a layer by
# block_n of its inputs at one tap, summed over block_k pixels at a time
CANDIDATES |= {
    "down.dgrad": CANDIDATES["up"],
    "trunk.dgrad": CANDIDATES["trunk"],
    "up.dgrad": CANDIDATES["down"],
    "head.dgrad": CANDIDATES["stem"],
    "stem.wgrad": [ConvConfig(64, 64, 64, 4, 3), ConvConfig(64, 64, 128, 4, 2)],
    "down.wgrad": [ConvConfig(128, 64, 64, 4, 3), ConvConfig(128, 128, 64, 8, 3)],
    "trunk.wgrad": [
        ConvConfig(128, 128, 64, 4, 3, "tma"),
        ConvConfig(128, 256, 64, 8, 3, "tma"),
        ConvConfig(128, 256, 64, 8, 4, "tma"),
        ConvConfig(128, 128, 64, 8, 4, "tma"),
        ConvConfig(128, 128, 64, 8, 3),
        ConvConfig(128, 128, 32, 4, 4),
    ],
}
CANDIDATES |= {"up.wgrad": CANDIDATES["down.wgrad"], "head.wgrad": CANDIDATES["stem.wgrad"]}
SHARED_KB = {80: 163, 87: 163, 90: 227, 100: 227, 103: 227, 110: 227}  # of a program, by architecture; elsewhere 99


def fits(config: ConvConfig, arch: int, c: int, cout: int, element: int = 2) -> bool:
    """Whether a configuration suits an architecture and a layer: channels of input and product, bytes of an element."""
    asynchronous = 90 <= arch < 120  # the product reads shared memory while it runs, which takes one buffer more
    buffers = config.stages if asynchronous else config.stages - 1
    shared = element * buffers * (config.block_m + config.block_n) * config.block_k
    if shared + 1024 > 1024 * SHARED_KB.get(arch, 99) or config.block_n > cout:
        return False
    # On sm_100 a thread has a row of a half type's tile, whose statistics then take five shuffles a column: 128 columns
    # a thread are an epilogue of 7000 instructions, and it spills
    if 100 <= arch < 120 and element == 2 and config.block_m * config.block_n > 64 * 32 * config.warps:
        return False
    if 100 <= arch < 120 and element == 1 and config.block_m > 128:  # spills in fp8
        return False
    return config.form == "pointer" or (arch >= 90 and c % config.block_k == 0 and cout % config.block_n == 0)


def candidates(kind: str, arch: int, c: int, cout: int) -> list[ConvConfig]:
    return [config for config in CANDIDATES[kind] if fits(config, arch, c, cout, 1 if kind == "trunk8" else 2)]


# Makes gradients with a configuration, from a layer's whole bordered input and the gradient of its output
MakeGradients = Callable[[ConvConfig | None, Tensor, PaddedGradient], list[Tensor]]


class Case(NamedTuple):
    """One layer at one size."""

    kernel: Kernel  # of the roofline
    kind: str  # of CANDIDATES
    dtype: torch.dtype
    size: Size
    pixels: int  # of the result, in all pictures

    @property
    def key(self) -> Row:
        """What the table knows it by, beside the GPU."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"kind": self.kind.removesuffix("8"), "dtype": dtype, "pixels": self.pixels}


@dataclass(frozen=True)
class Problem:
    """A case on random data: `run` it with a configuration or, with None, in the library; `finish` to compare."""

    case: Case
    channels: tuple[int, int]
    run: Callable[[ConvConfig | None], Any]
    finish: Callable[[Any], Tensor]
    wanted: Callable[[], Tensor]


@dataclass
class Result:
    """Seconds of a case, by configuration, and why others have none. None is the library."""

    case: Case
    library: float = float("inf")
    ours: dict[ConvConfig, float] = field(default_factory=dict)
    failed: dict[ConvConfig | None, str] = field(default_factory=dict)

    @property
    def best(self) -> ConvConfig | None:
        return min(self.ours, key=self.ours.__getitem__, default=None)

    @property
    def timed(self) -> bool:
        """Whether anything was."""
        return bool(self.ours) or None not in self.failed


def normalize(result: tuple[Tensor, Tensor]) -> Tensor:
    """xhat of a pre-norm output and its statistics."""
    y, stats = result
    return (y.float() - stats[:, 0, None, None]) * stats[:, 1, None, None]


def fill(x: Tensor, kind: str) -> None:
    """A bordered picture at random."""
    x.normal_()
    if kind == "up":  # our kernel reads the border as zeros, the library reads none
        for edge in (x[:, 0], x[:, -1], x[:, :, 0], x[:, :, -1]):
            edge.zero_()


def conv_problem(case: Case, layer: Layer, exact: Layer, x: Tensor, out: Tensor) -> Problem:
    """`exact` is the layer in fp32; x and out are where the engine has its input and its output."""

    def wanted() -> Tensor:
        y, _ = conv_stats(exact, x.float(), out, config=None)
        return reference.instance_norm(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    return Problem(case, layer.channels, lambda config: conv_stats(layer, x, out, config=config), normalize, wanted)


def head_problem(case: Case, engine: Engine, state: dict[str, Tensor], x: Tensor) -> Problem:
    """The last convolution and all that follows it, which in the library is several passes."""
    n, h, w = case.size
    x.normal_()
    image = (torch.rand(n, 3, h, w, device=x.device) * 2 - 1).to(x.dtype)
    out = torch.empty_like(image)
    widths = {config.block_n for config in CANDIDATES["head"]}
    weights = {width: pack_tail_weight(engine.head_weight, width, x.dtype) for width in widths}

    def library(dtype: torch.dtype) -> Tensor:
        weight = state["head.weight"].to(dtype, memory_format=torch.channels_last)
        residual = F.conv2d(x.permute(0, 3, 1, 2).to(dtype), weight, state["head.bias"].to(dtype))
        return (image.to(dtype) + torch.tanh(residual)).clamp(-1, 1)

    def run(config: ConvConfig | None) -> Tensor:
        if config is None:
            return library(x.dtype)
        output_tail(x, weights[config.block_n], engine.head_bias, image, out, config=config)
        return out

    return Problem(case, (x.shape[3], 128), run, Tensor.float, lambda: library(torch.float32))


def quantized_problem(case: Case, layer: Layer, x: Tensor, out: Tensor) -> Problem:
    """A convolution of 8 bits; the library has the same numbers in out's type."""
    assert layer.quantized and layer.quantized.scales is not None
    limits = QUANT_RANGES[QUANTIZE[x.dtype]]
    levels = torch.randn(x.shape, device=x.device) * (limits.residual_levels / limits.residual)
    x.copy_(levels.round().clamp(-limits.residual_levels, limits.residual_levels))
    weight: PackedWeight = layer.quantized
    c, cout = layer.channels
    same = (weight.rows.float() * layer.quantized.scales[:, None]).view(cout, *weight.taps, c).permute(0, 3, 1, 2)
    wide = conv_problem(
        case, conv_layer("trunk", same, out.dtype), conv_layer("trunk", same, torch.float32), x.to(out.dtype), out
    )

    def run(config: ConvConfig | None) -> tuple[Tensor, Tensor]:
        return conv_stats(layer, x, out, config=config) if config else wide.run(None)

    return replace(wide, run=run)


def kernel_name(stage: Stage) -> str:
    """What the roofline calls it."""
    return "trunk" if stage.kind == "trunk" else stage.name


def problems(spec: GeneratorSpec, size: Size, dtype: torch.dtype, device: torch.device) -> Iterator[Problem]:
    """Each layer of the generator once, on the engine's memory; in 8 bits those of the residual blocks alone."""
    n, h, w = size
    torch.manual_seed(0)
    with device:
        net = Generator(width=spec.width, blocks=1)
    narrow = dtype in QUANTIZE
    wide = torch.float16 if narrow else dtype
    state = {name: weight.detach().to(wide) for name, weight in net.state_dict().items()}
    engine = Engine(net.spec, state, dtype=wide, pick_config=lambda *_: None, quantize=QUANTIZE.get(dtype))
    exact_state = {name: weight.float() for name, weight in state.items()}
    exact = Engine(net.spec, exact_state, dtype=torch.float32, pick_config=lambda *_: None)
    kernels = {kernel.name: kernel for kernel in generator_kernels(net.spec, h, w, n, quantize=narrow)}
    space, x = engine.workspace(n, h, w), engine.workspace(n, h, w).packed
    for stage, out in zip(net.spec.stages[:-1], space.outputs, strict=True):
        case = Case(kernels[kernel_name(stage)], stage.kind, dtype, size, n * h * w // stage.scale_out**2)
        layer = engine.layers[stage.name]
        if narrow and stage.name == "blocks.0.conv1":
            yield quantized_problem(case._replace(kind="trunk8"), layer, space.residual8.whole, out.inside)
        if not narrow and not stage.adds_residual:  # of a block's two layers, which are alike, the first
            fill(x, stage.kind)
            yield conv_problem(case, layer, exact.layers[stage.name], x, out.inside)
        x = out.whole
    if not narrow:
        yield head_problem(Case(kernels["head"], "head", dtype, size, n * h * w), engine, state, x)


def gradient_problems(spec: GeneratorSpec, size: Size, dtype: torch.dtype, device: torch.device) -> Iterator[Problem]:
    """The gradients by the input of each layer but the first, and by its weight, with what training does for them.

    The gradient by activations comes with the sums that the norm before them needs: our kernel takes them on the way,
    cuDNN's output needs a pass of `norm_act_reduce`. The gradient by the residual has more parts than this one, so it
    needs that pass in any case. Of a block's two layers one reads activations and one the residual, and both go by one
    row of the table: the trunk's case is the two together. Its weights are packed beforehand, as training packs those
    of all blocks at once; other layers' are packed in each call, as there. No dropout.
    """
    n, h, w = size
    torch.manual_seed(0)
    with device:
        net = Generator(width=spec.width, blocks=1, convs=spec.convs, border=spec.border, dropout=0)
    net.requires_grad_(False)
    kernels = {kernel.name: kernel for kernel in generator_kernels(net.spec, h, w, n)}
    stages = net.spec.stages
    reads_activations = {stage.name: not before.is_residual for before, stage in pairwise(stages)}
    for stage in stages:
        if stage.kind == "trunk" and not stage.name.endswith("conv1"):
            continue
        conv = Convolution(stage.kind, net.get_parameter(f"{stage.name}.weight"), stage.border)
        c, cout = stage.channels_in, stage.channels_out
        y = torch.randn(n, h // stage.scale_in, w // stage.scale_in, c, device=device, dtype=dtype)
        whole = reference.pad(y.relu().permute(0, 3, 1, 2), stage.halo, stage.border)
        x = whole.permute(0, 2, 3, 1).contiguous()
        if stage.kind == "stem":
            x = F.pad(x, (0, 8 - c, 0, 1))
        dy = torch.randn(n, h // stage.scale_out, w // stage.scale_out, cout, device=device, dtype=dtype)
        products = {"dgrad": (cout, c), "wgrad": (c, cout) if stage.kind == "up" else (cout, c)}
        if stage.kind in ("stem", "head"):  # runs of 64
            products = {"dgrad": (64, c), "wgrad": (c if stage.kind == "head" else cout, 64)}
        case = Case(kernels[kernel_name(stage)], stage.kind, dtype, size, n * dy.shape[1] * dy.shape[2])
        if stage.kind != "stem":
            alike = [other.name for other in stages if other.kind == "trunk"] if stage.kind == "trunk" else [stage.name]
            make = input_gradients(conv, y, [reads_activations[name] for name in alike])
            yield gradient_problem(gradient_case(case, "dgrad", len(alike)), products["dgrad"], conv, x, dy, make)
        make = weight_gradients(conv)
        yield gradient_problem(gradient_case(case, "wgrad"), products["wgrad"], conv, x, dy, make)


def gradient_case(case: Case, which: str, count: int = 1) -> Case:
    """Of a layer's gradient, which takes its work; of `count` such layers one after another."""
    kernel = case.kernel
    kernel = replace(
        kernel,
        name=f"{kernel.name} {which}{f' x{count}' if count > 1 else ''}",
        macs=count * kernel.macs,
        weight_bytes=count * kernel.weight_bytes,
        read_bytes=count * kernel.read_bytes,
        written_bytes=count * kernel.written_bytes,
    )
    return case._replace(kernel=kernel, kind=f"{case.kind}.{which}")


def input_gradients(conv: Convolution, y: Tensor, with_sums: list[bool]) -> MakeGradients:
    """The gradient by relu(y), y [n, h, w, c] normalised, once for each flag: whether the norm's sums come with it."""
    halo = conv.halo if conv.reads_reflected_border else 0
    stats = torch.tensor([[0.0], [1.0]], device=y.device).repeat(y.shape[0], 1, y.shape[3])
    adjoint = conv_grad.trunk_adjoints([conv.weight], y.dtype)[0] if conv.kind == "trunk" else None

    def make(config: ConvConfig | None, x: Tensor, dy: PaddedGradient) -> list[Tensor]:
        found: list[Tensor] = []
        for sums in with_sums:
            if config and sums:
                found += conv_grad.activation_gradient(conv, x, dy, config=config, adjoint=adjoint)
                continue
            found.append(conv_grad.input_gradient(conv, x, dy, config=config, adjoint=adjoint))
            if sums:
                inside = found[-1][:, halo : halo + y.shape[1], halo : halo + y.shape[2]]
                found.append(norm_act_reduce(inside, NormActInputs(y.to(x.dtype), stats), width=halo))
        return found

    return make


def weight_gradients(conv: Convolution) -> MakeGradients:
    return lambda config, x, dy: [conv_grad.weight_gradient(conv, x, dy, config=config)]


def gradient_problem(
    case: Case, product: tuple[int, int], conv: Convolution, x: Tensor, dy: Tensor, make: MakeGradients
) -> Problem:
    """By x, whole with its border, from dy [n, h, w, cout]; `product` has the channels that `fits` asks for."""
    first = CANDIDATES[case.kind][0]
    padded = {ours: pad_gradient(conv, dy, first if ours else None) for ours in (False, True)}
    exact = pad_gradient(conv, dy.float(), None)
    return Problem(
        case,
        product,
        lambda config: make(config, x, padded[config is not None]),
        together,
        lambda: together(make(None, x.float(), exact)),
    )


def together(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.float().flatten() for part in parts])


def pad_gradient(conv: Convolution, dy: Tensor, config: ConvConfig | None) -> PaddedGradient:
    """dy [n, h, w, c] where the gradients of a layer in this configuration read it."""
    n, h, w, _ = dy.shape
    if conv.kind == "head":
        padded = conv_grad.head_output_gradient(conv, n, h, w, like=dy)
    else:
        padded = conv_grad.output_gradient(conv, GradientConfigs(config, config), dy.shape, like=dy)
    padded.memory.zero_()
    padded.inside[..., : dy.shape[3]].copy_(dy)
    return padded


def seconds(call: Callable[[], Any], calls: int = 10, rounds: int = 30) -> float:
    """The median time of a call in a CUDA graph of several, as the engine launches it."""
    for _ in range(3):
        call()
    with captured(torch.device("cuda", torch.cuda.current_device())) as graph:
        for _ in range(calls):
            call()
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / calls)
    return statistics.median(times[3:])


def check(problem: Problem, config: ConvConfig | None, wanted: Tensor) -> None:
    """Raises ArithmeticError for a result of the configuration that is not what is wanted."""
    error = float((problem.finish(problem.run(config)) - wanted).norm() / wanted.norm())
    if not error <= TOLERANCE[problem.case.dtype]:
        raise ArithmeticError(f"relative error {error:.3g}")


@contextmanager
def noted(result: Result, config: ConvConfig | None) -> Iterator[None]:
    """An error within is noted for the configuration, and says nothing of the next one."""
    try:
        yield
    except Exception as error:
        result.failed[config] = f"{type(error).__name__}: {error}"


def measure(problem: Problem, arch: int) -> Result:
    """Times the library and every candidate that gives the same."""
    result = Result(problem.case)
    wanted = problem.wanted()
    configs = candidates(problem.case.kind, arch, *problem.channels)
    for config in (None, *configs):
        with noted(result, config):
            check(problem, config, wanted)
    del wanted  # as large as the result in fp32
    for config in [config for config in (None, *configs) if config not in result.failed]:
        with noted(result, config):
            took = seconds(partial(problem.run, config))
            if config is None:
                result.library = took
            else:
                result.ours[config] = took
    return result


def row(result: Result, gpu: str) -> Row | None:
    """The table's row: the fastest configuration, where it beats the library or that is no choice."""
    best = result.best
    if best is None or (result.case.kind not in ALWAYS_OURS and result.ours[best] >= result.library):
        return None
    return {"gpu": gpu, **result.case.key, "config": asdict(best)}


def merge_rows(rows: list[Row], results: list[Result], gpu: str) -> list[Row]:
    """The table's rows after these results: what they measured is replaced, the rest stays."""
    measured = [{"gpu": gpu, **result.case.key} for result in results if result.timed]
    unmeasured = [old for old in rows if {key: old[key] for key in ("gpu", "kind", "dtype", "pixels")} not in measured]
    found = [new for result in results if (new := row(result, gpu))]
    return sorted(unmeasured + found, key=lambda row: (row["gpu"], row["kind"], row["dtype"], row["pixels"]))


def read(path: Path) -> list[Row]:
    """The rows of a table; none where there is no file."""
    rows: list[Row] = json.loads(path.read_text())["rows"] if path.exists() else []
    return rows


def write(path: Path, rows: list[Row]) -> None:
    """One row a line."""
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    path.write_text(f'{{"rows": [\n{lines}\n]}}\n' if rows else '{"rows": []}\n')


def label(config: ConvConfig) -> str:
    sums = " fp16" if config.accumulate == "fp16" else ""
    return f"{config.form} {config.block_m}x{config.block_n}x{config.block_k} w{config.warps} s{config.stages}{sums}"


HEADINGS = ["layer", "picture", "type", "ours", "us", "TFLOP/s", "of the floor", "cuDNN us", "cuDNN / ours"]


def line(result: Result, gpu: str) -> str:
    """The fastest of ours beside the library."""
    case, best, rates = result.case, result.best, RATES.get(gpu)
    n, h, w = case.size
    cells = [case.kernel.name, f"{h}x{w}x{n}", case.key["dtype"]]
    if best is None:
        cells += ["none", "", "", "", f"{1e6 * result.library:.1f}", ""]
    else:
        took = result.ours[best]
        share = f"{case.kernel.floor_s(rates) / took:.0%}" if rates else ""
        cells += [label(best), f"{1e6 * took:.1f}", f"{case.kernel.flops / took / 1e12:.0f}", share]
        cells += [f"{1e6 * result.library:.1f}", f"{result.library / took:.2f}"]
    return f"| {' | '.join(cells)} |"


def facts(result: Result) -> dict[str, Any]:
    """All that was measured, in JSON's terms."""
    return {
        **result.case.key,
        "layer": result.case.kernel.name,
        "size": result.case.size,
        "cudnn_s": None if None in result.failed else result.library,
        "ours_s": {label(config): took for config, took in result.ours.items()},
        "failed": {label(config) if config else "cuDNN": why for config, why in result.failed.items()},
    }


def save(table: Path, times: Path | None, results: list[Result], gpu: str) -> None:
    """The table with these results, and all their times."""
    write(table, merge_rows(read(table), results, gpu))
    if times:
        measured = {"gpu": gpu, "results": [facts(result) for result in results]}
        times.write_text(json.dumps(measured, indent=1) + "\n")


def sizes(text: str) -> list[Size]:
    """(n, h, w) of each HxWxN."""
    found = [tuple(int(side) for side in part.split("x")) for part in text.split(",")]
    return [(n, h, w) for h, w, n in found]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=TABLE, metavar="TABLE", help="whose rows are replaced")
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument(
        "--sizes", type=sizes, default="256x256x1,256x256x16,720x1280x1,720x1280x8", metavar="HxWxN,..."
    )
    parser.add_argument(
        "--dtypes", metavar="DTYPE,...", help="by default half types and, on sm_90 and newer, 8-bit ones"
    )
    parser.add_argument(
        "--gradients", type=sizes, default="256x256x1,256x256x16", metavar="HxWxN,...", help="sizes of crops"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every time that was measured")
    args = parser.parse_args()
    device = torch.device("cuda")
    why = "torch sees no CUDA device" if not torch.cuda.is_available() else why_no_kernels(device)
    if why:
        print(f"nothing to tune for: {why}", file=sys.stderr)
        return 1

    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    gpu, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    dtypes = [torch.float16, torch.bfloat16, *(QUANTIZE if major >= 9 else ())]
    if args.dtypes:
        dtypes = [getattr(torch, name) for name in args.dtypes.split(",")]
    results: list[Result] = []
    try:
        save(args.out, args.json, results, gpu)
    except OSError as error:
        parser.error(f"--out and --json must be files that can be written: {error}")
    print(f"{gpu}\n\n| {' | '.join(HEADINGS)} |\n{'|---' * len(HEADINGS)}|")
    for dtype in dtypes:
        works = [(problems, picture) for picture in args.sizes]
        works += [(gradient_problems, crop) for crop in args.gradients if dtype not in QUANTIZE]
        for work, size in works:
            for problem in work(PRESETS[args.preset], size, dtype, device):
                result = measure(problem, 10 * major + minor)
                results.append(result)
                print(line(result, gpu), flush=True)
                for config, reason in result.failed.items():
                    print(f"{label(config) if config else 'cuDNN'}: {reason}", file=sys.stderr)
                save(args.out, args.json, results, gpu)
    return 1 if any(result.failed for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
