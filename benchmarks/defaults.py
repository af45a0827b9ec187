"""python -m benchmarks.defaults: which way each layer takes by default, on GPUs that need not be there."""

from __future__ import annotations

import torch

from deblurgan.diagnosis import stages_line
from deblurgan.generator.engine import Engine
from deblurgan.kernels.config import Gpu
from deblurgan.kernels.table import Table
from deblurgan.nn import Generator
from deblurgan.spec import GeneratorSpec, Stage

GPUS = (
    Gpu("A100", (8, 0), 108),
    Gpu("GeForce RTX 3090", (8, 6), 82),
    Gpu("GeForce RTX 4090", (8, 9), 128),
    Gpu("H100", (9, 0), 132),
    Gpu("H200", (9, 0), 132),
    Gpu("B200", (10, 0), 148),
    Gpu("GeForce RTX 5090", (12, 0), 170),
)
SIZES = ((256, 256), (720, 1280), (4000, 6000))


def engine_for(gpu: Gpu, preset: str) -> Engine:
    """In fp16, with weights that are shapes only and no measured rows."""
    with torch.device("meta"):
        net = Generator(preset)
    return Engine(net.spec, dict(net.named_parameters()), dtype=torch.float16, pick_config=Table(gpu))


def representatives(spec: GeneratorSpec) -> dict[str, Stage]:
    """The stages whose tilings may differ, by the names of the table's columns."""
    return {"blocks" if stage.kind == "trunk" else stage.name: stage for stage in reversed(spec.stages)}


def tiling(path: str) -> str:
    """The short form of one of `Engine.paths`."""
    if path.startswith("cuDNN"):
        return "cuDNN"
    options = dict(pair.split("=") for pair in path[path.index("(") + 1 : path.index(")")].split(", "))
    blocks = "x".join(options[name] for name in ("block_m", "block_n", "block_k"))
    return f"{'tma ' if 'tma' in options['form'] else ''}{blocks}"


def table() -> str:
    """As Markdown: a row for each GPU, network and picture."""
    names = list(reversed(representatives(Generator("tiny").spec)))
    lines = [f"| GPU | network | picture | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
    for gpu in GPUS:
        for preset in ("paper", "tiny"):
            engine = engine_for(gpu, preset)
            stages = representatives(engine.spec)
            for h, w in SIZES:
                paths = engine.paths(1, h, w)
                cells = [tiling(paths[stages[name].name]) for name in names]
                lines.append(f"| {gpu.name} | `{preset}` | {h}x{w} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    print(table())
    for gpu in GPUS:
        engine = engine_for(gpu, "paper")
        print(f"{gpu.name}: {stages_line(engine.spec.stages, engine.paths(1, 720, 1280))}")


if __name__ == "__main__":
    main()
