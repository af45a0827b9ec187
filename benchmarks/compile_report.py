"""python -m benchmarks.compile_report [cuda | triton | defaults]: what the compilers made of the GPU kernels.

cuda: the machine code inside the built extension. triton: each kernel of the generator's forward pass, in each
configuration that `deblurgan tune` may choose. defaults: each convolution and gradient of two networks as
kernels.heuristics tiles it. The latter two are compiled for GPUs that need not be there; Triton's cache keeps them.
All are read with cuobjdump, of a CUDA toolkit or of Triton.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.defaults import GPUS, SIZES
from deblurgan import _C
from deblurgan.generator import tape
from deblurgan.generator.engine import Engine
from deblurgan.kernels.candidates import label, listed
from deblurgan.kernels.config import ConvConfig, ConvShape
from deblurgan.kernels.table import PickConfig, default_for
from deblurgan.nn import Generator
from deblurgan.ops.critic_gradients import KernelNormAct
from deblurgan.ops.layers import QUANTIZED_CAPABILITY, Quantize, conv_shape
from deblurgan.spec import PRESETS, GeneratorSpec, Stage
from deblurgan.tuning.compiling import compiling

Row = dict[str, Any]

USAGE = re.compile(
    r"Function (?P<name>\S+):\s+"
    r"REG:(?P<registers>\d+) STACK:(?P<stack>\d+) SHARED:(?P<shared>\d+) LOCAL:(?P<local>\d+)"
)
OPCODE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z0-9_]+)", re.M)
COUNTED = {"hgmma": "HGMMA", "igmma": "IGMMA", "hmma": "HMMA", "imma": "IMMA", "tcgen05": "UTCHMMA"}  # by tensor cores
COUNTED |= {"qgmma": "QGMMA", "qmma": "QMMA", "utcqmma": "UTCQMMA"}  # of fp8
SUMS_IN_FP16 = re.compile(r"\bHMMA\.\d+\.F16\b")
COUNTED |= {"tma": "UTMALDG", "ldl": "LDL", "stl": "STL"}

GRADIENT_SIZES = ((256, 256), (1024, 1024))  # crops, one and as many pixels as 16 of them
ARCHS, DTYPES = (80, 90, 100, 120), ("float16", "bfloat16", "int8", "float8_e4m3fn")
QUANTIZE: dict[str, Quantize] = {"int8": "int8", "float8_e4m3fn": "fp8"}  # by a type of 8 bits
PICTURE, SMALL = (1, 3, 720, 1280), (1, 3, 256, 256)  # of the small one norm_act merges the tiles
OTHERS = ("pack_image", "tile_stats", "merge_stats", "norm_act")
# Backward, in the type of training
GRADIENTS = ("norm_act_reduce", "norm_act_grad", "output_tail_grad")
# Of the critic's penalty, which launches norm_act and its gradient too
CRITIC = ("norm_act_tangent", "norm_act_double_backward_reduce", "norm_act_double_backward")
PLANES = ((2, 128, 65, 65), (2, 256, 33, 33), (2, 512, 34, 34))  # that its norms see


class Job(NamedTuple):
    """What to compile: a layer in a configuration, ConvConfig's fields, or a kernel of `OTHERS` in all its forms."""

    arch: int
    dtype: str
    kernel: str = ""
    layer: str = ""
    kind: str = ""  # of kernels.candidates.CANDIDATES
    config: tuple[Any, ...] = ()
    label: str = ""
    preset: str = "paper"

    def __str__(self) -> str:
        return " ".join(filter(None, (f"sm_{self.arch}", self.dtype, self.kernel, self.layer, self.label)))


def find_cuobjdump() -> str | None:
    """The tool on PATH, or the one that comes with Triton."""
    return shutil.which("cuobjdump") or bundled("cuobjdump")


def bundled(tool: str) -> str | None:
    """A tool that comes with Triton."""
    triton = importlib.util.find_spec("triton")
    path = Path(triton.origin).parent / "backends/nvidia/bin" / tool if triton and triton.origin else None
    return str(path) if path and path.exists() else None


def output(tool: str | None, *arguments: str) -> str:
    if tool is None:
        raise FileNotFoundError("cuobjdump is not on PATH: install a CUDA toolkit or triton")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


def short_name(mangled: str) -> str:
    """apply_kernel<uint8> of _ZN9deblurgan12apply_kernelIhLb0EEEvNS_9ApplyArgsE."""
    form = r"_ZN9deblurgan\d+(\w+?_kernel)(?:I(\w+?)(?:Lb([01])E)?EEv)?.*"
    name, pixel, clips = re.fullmatch(form, mangled).groups()  # type: ignore[union-attr]
    pixels = {"h": "uint8", "f": "float", "NS_4Half": "half", "NS_8BFloat16": "bfloat16"}
    return f"{name}<{pixels[pixel.removesuffix('E')]}{', clips' if clips == '1' else ''}>" if pixel else name


def cuda_rows() -> list[Row]:
    """One row a kernel and architecture in the built extension; a spill shows as stack or local memory."""
    dump = output(find_cuobjdump(), "-res-usage", _C.__file__)
    found = []
    for part in dump.split("Fatbin elf code:")[1:]:
        arch = re.search(r"arch = (sm_\w+)", part)
        if arch:
            found += [
                {
                    "kernel": short_name(use["name"]),
                    "arch": arch[1],
                    "config": "",
                    "registers": int(use["registers"]),
                    "spill_bytes": int(use["stack"]) + int(use["local"]),
                    "shared_bytes": int(use["shared"]),
                    "hgmma": 0,
                    "tma": 0,
                }
                for use in USAGE.finditer(part)
            ]
    return sorted(found, key=lambda row: (row["kernel"], _number(row["arch"])))


def representatives(spec: GeneratorSpec) -> dict[str, Stage]:
    """The stages that differ in what they compile, by their names in the report: a residual block's is "trunk"."""
    return {
        "trunk" if stage.kind == "trunk" else stage.name: stage
        for stage in spec.stages
        if stage.kind != "trunk" or stage.name.endswith("blocks.0.conv1")
    }


def jobs() -> Iterator[Job]:
    """All that a generator of width 64 may launch."""
    found = representatives(PRESETS["paper"])
    for arch, dtype in product(ARCHS, DTYPES):
        for name, stage in found.items():
            if dtype in QUANTIZE and (stage.kind != "trunk" or not multiplies(arch, QUANTIZE[dtype])):
                continue
            kind = "trunk8" if dtype in QUANTIZE else stage.kind
            for config in listed_for(stage, stage.kind, arch, dtype):
                yield Job(arch, dtype, layer=name, kind=kind, config=astuple(config), label=label(config))
        for kernel in () if dtype in QUANTIZE else OTHERS:
            if dtype == "float16" or kernel != "merge_stats":  # which knows no half types
                yield Job(arch, dtype, kernel)
    for arch in ARCHS:
        for name, stage in found.items():
            for which in gradients(stage):
                kind = f"{stage.kind}.{which}"
                for config in listed_for(stage, kind, arch, "bfloat16"):
                    yield Job(arch, "bfloat16", "", f"{name}.{which}", kind, astuple(config), label(config))
        for kernel in GRADIENTS + CRITIC:
            yield Job(arch, "bfloat16", kernel)


def default_jobs() -> Iterator[Job]:
    """Every tiling that a layer or gradient of `paper` and `tiny` has by default on one of GPUS, at some size."""
    found: dict[Job, None] = {}
    works = (("", "float16", SIZES), (".dgrad", "bfloat16", GRADIENT_SIZES), (".wgrad", "bfloat16", GRADIENT_SIZES))
    for gpu, preset in product(GPUS, ("paper", "tiny")):
        for name, stage in representatives(PRESETS[preset]).items():
            for which, dtype, sizes in works:
                for h, w in sizes:
                    shape = conv_shape(stage, h * w, getattr(torch, dtype))
                    config = default_for(shape._replace(kind=stage.kind + which), gpu)
                    if config:
                        arch = 10 * gpu.capability[0] + gpu.capability[1]
                        job = Job(
                            arch, dtype, "", name + which, stage.kind + which, astuple(config), label(config), preset
                        )
                        found[job] = None
    yield from found


def multiplies(arch: int, quantize: Quantize) -> bool:
    """Whether GPUs of an architecture have products of these 8 bits."""
    return divmod(arch, 10) >= QUANTIZED_CAPABILITY[quantize]


def listed_for(stage: Stage, kind: str, arch: int, dtype: str) -> list[ConvConfig]:
    shape = ConvShape(kind, stage.channels_in, stage.channels_out, PICTURE[2] * PICTURE[3], getattr(torch, dtype))
    return listed(shape, divmod(arch, 10))


def gradients(stage: Stage) -> Iterator[str]:
    """Those of a stage's gradients that compile what no other stage's do."""
    if stage.kind != "stem" and stage.name != "up.1":
        yield "dgrad"
    if stage.kind in ("stem", "down", "trunk"):
        yield "wgrad"


def engine(preset: str, job: Job, quantize: Quantize | None = None) -> Engine:
    """With weights that are shapes only, and the job's configuration where its layer asks for one."""
    with torch.device("meta"):
        net = Generator(preset, blocks=2)
    dtype = getattr(torch, job.dtype)
    wide = torch.float16 if job.dtype in QUANTIZE else dtype
    picked = pick_config(job, net.spec)
    return Engine(net.spec, net.state_dict(), dtype=wide, pick_config=picked, quantize=quantize)


def pick_config(job: Job, spec: GeneratorSpec) -> PickConfig:
    """The job's configuration for its layer, none for all others."""
    scales = {name: stage.scale_out for name, stage in representatives(spec).items()}
    scale = scales.get(job.layer.removesuffix(".wgrad").removesuffix(".dgrad"), 1)
    question = job.kind.removesuffix("8"), PICTURE[2] * PICTURE[3] // scale**2, getattr(torch, job.dtype)
    return lambda asked: ConvConfig(*job.config) if (asked.kind, asked.pixels, asked.dtype) == question else None


def differentiate(preset: str, job: Job) -> None:
    """A forward and a backward pass of the tape on tensors without memory."""
    with torch.device("meta"):
        net = Generator(preset, blocks=2)
        image, counter = torch.empty(PICTURE), torch.empty(2, dtype=torch.int64) if net.spec.dropout else None
    recorder = tape.Tape(net.spec, getattr(torch, job.dtype), pick_config(job, net.spec))
    weights = {name: parameter.detach() for name, parameter in net.named_parameters()}
    out, record = recorder.forward(image, weights, counter)
    recorder.backward(out, record, weights, set(recorder.names))


def penalise() -> None:
    """The norms of the gradient penalty on tensors without memory."""
    for shape in PLANES:
        z = torch.empty(shape, dtype=torch.bfloat16, device="meta", memory_format=torch.channels_last)
        y, norm_act = KernelNormAct.make(z)
        (signal, signal_sums), (tangent, tangent_sums) = norm_act.signal(y), norm_act.tangent(y)
        norm_act.adjoint(y, signal, signal_sums, tangent, tangent_sums)


def compile_job(job: Job) -> list[Row]:
    """One row a kernel. The engine runs on tensors without memory, so each gets the arguments that it would get."""
    if job.kernel in CRITIC:
        with compiling(job.arch, (f"{job.kernel}_kernel",)) as found:
            penalise()
        return [{**head_of(job), **facts(kernel)} for kernel in found.values()]
    names: tuple[str, ...] = ("conv_stats_kernel", "flat_conv_stats_kernel", "up_conv_stats_kernel")
    if job.kernel in GRADIENTS or "." in job.kind:
        if not job.kind.endswith(".dgrad"):
            names = (f"{job.kernel}_kernel",) if job.kernel else ("conv_wgrad_kernel", "flat_conv_wgrad_kernel")
        with compiling(job.arch, names) as found:
            for preset in ("paper", "article") if job.kernel else (job.preset,):
                differentiate(preset, job)
            if job.kernel:
                penalise()
        return [{**head_of(job), **facts(kernel)} for kernel in found.values()]
    if job.kernel or job.layer == "head":
        names = (f"{job.kernel or 'output_tail'}_kernel",)
    with compiling(job.arch, names) as found:
        for preset, quantize, shape, picture, stochastic in runs(job):
            counter = torch.empty(2, dtype=torch.int64, device="meta") if stochastic else None
            engine(preset, job, quantize)(torch.empty(shape, dtype=picture, device="meta"), counter)
        if job.kernel == "norm_act" and job.dtype == "bfloat16":
            penalise()
    return [{**head_of(job), **facts(kernel)} for kernel in found.values()]


def runs(job: Job) -> Iterator[tuple[str, Quantize | None, tuple[int, ...], torch.dtype, bool]]:
    """The engine's passes that meet a job's kernels: preset, trunk, picture and its type, and whether with dropout."""
    yield job.preset, QUANTIZE.get(job.dtype), PICTURE, torch.float32, False
    if job.layer == "head" or job.kernel == "pack_image":
        yield job.preset, None, PICTURE, torch.uint8, False
    if job.kernel == "norm_act":
        yield "paper", None, SMALL, torch.float32, True
    if job.kernel and job.dtype == "float16":
        yield "article", None, PICTURE, torch.float32, False
        yield "tiny", None, PICTURE, torch.float32, False
    if job.kernel == "norm_act" and job.dtype == "float16":
        for quantize in (quantize for quantize in QUANTIZE.values() if multiplies(job.arch, quantize)):
            yield "paper", quantize, PICTURE, torch.float32, False
            yield "article", quantize, PICTURE, torch.float32, False


def head_of(job: Job) -> Row:
    head = {"arch": f"sm_{job.arch}", "dtype": job.dtype, "layer": job.layer, "config": job.label}
    return head if job.preset == "paper" else {**head, "preset": job.preset}


def facts(kernel: Any) -> Row:
    """What is in a compiled kernel; what took a disassembler is kept beside it in Triton's cache."""
    from triton.runtime.cache import get_cache_manager

    cache = get_cache_manager(kernel.hash)
    saved = cache.get_file("usage.json")
    if saved is None:
        saved = cache.put(json.dumps(usage(kernel.asm["cubin"])), "usage.json", binary=False)
    names = kernel.src.fn.arg_names
    constants = {names[path[0]]: value for path, value in kernel.src.constants.items()}
    return {
        "kernel": kernel.metadata.name.removesuffix("_kernel"),
        "constants": {name: value for name, value in constants.items() if name.isupper()},
        "shared_bytes": kernel.metadata.shared,
        **json.loads(Path(saved).read_text()),
    }


def usage(cubin: bytes) -> Row:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        used = USAGE.search(output(bundled("cuobjdump"), "-res-usage", file.name))
        code = output(bundled("nvdisasm"), "-c", "-ndf", file.name)
    opcodes = Counter(OPCODE.findall(code))
    assert used
    return {
        "registers": int(used["registers"]),
        "spill_bytes": int(used["stack"]) + int(used["local"]),
        "instructions": opcodes.total(),
        **{key: opcodes[opcode] for key, opcode in COUNTED.items()},
        "hmma_fp16": len(SUMS_IN_FP16.findall(code)),  # of `hmma`, those whose sums are fp16
    }


def triton_rows(wanted: list[Job]) -> list[Row]:
    """The rows of these jobs; a job that failed gives one with its `error`."""
    os.environ.pop("TRITON_INTERPRET", None)  # the workers are to compile
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(compile_job, job) for job in wanted]
        found = []
        for job, future in zip(wanted, running, strict=True):
            error = future.exception()
            failed = {**head_of(job), "kernel": job.kernel or "conv_stats", "error": repr(error)}
            found += [failed] if error else future.result()
    return found


def _number(arch: str) -> int:
    return int(arch.removeprefix("sm_"))


def table(found: list[Row]) -> str:
    """The most registers a thread by kernel, configuration and architecture, as Markdown."""
    archs = sorted({row["arch"] for row in found}, key=_number)
    groups: dict[str, list[Row]] = {}
    for row in found:
        groups.setdefault(_name(row), []).append(row)
    hopper = any(row["hgmma"] for row in found)
    headings = ["kernel", *archs, "shared bytes", "spilled bytes"]
    headings += ["wgmma on sm_90", "TMA on sm_90"] if hopper else []
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    for name, group in groups.items():
        most = {arch: max((row["registers"] for row in group if row["arch"] == arch), default="") for arch in archs}
        cells = [name, *most.values(), *(max(row[key] for row in group) for key in ("shared_bytes", "spill_bytes"))]
        if hopper:
            on_hopper = [
                (row["hgmma"] + row["igmma"] + row["qgmma"], row["tma"]) for row in group if row["arch"] == "sm_90"
            ]
            cells += min(on_hopper, default=("", ""))
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines)


def _name(row: Row) -> str:
    quantized = QUANTIZE.get(row.get("dtype", ""), "")
    return " ".join(filter(None, (row["kernel"], row.get("layer"), quantized, row["config"])))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compile_report", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("kernels", nargs="?", choices=["cuda", "triton", "defaults"], default="cuda")
    parser.add_argument(
        "-k", default="", metavar="REGEX", help="triton and defaults: only these jobs, as in 'sm_90 float16 down'"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.kernels in ("triton", "defaults"):
        wanted = jobs() if options.kernels == "triton" else default_jobs()
        found = triton_rows([job for job in wanted if re.search(options.k, str(job))])
    else:
        found = cuda_rows()
    failed = [row for row in found if "error" in row]
    if not found:
        print("the extension holds no CUDA code: build it with a CUDA toolkit", file=sys.stderr)
        return 1
    print(table([row for row in found if "error" not in row]))
    for row in failed:
        print(*row.values(), file=sys.stderr)
    if options.json:
        options.json.write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
