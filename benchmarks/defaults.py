"""python -m benchmarks.defaults: which way each layer takes by default, on GPUs that need not be there."""

from __future__ import annotations

import torch

from deblurgan.diagnosis import stages_line
from deblurgan.generator.engine import Engine
from deblurgan.kernels.config import ConvConfig, Gpu
from deblurgan.kernels.table import Table, default_for
from deblurgan.nn import Generator
from deblurgan.ops.layers import conv_shape
from deblurgan.spec import PRESETS, GeneratorSpec, Stage

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


def engine_for(gpu: Gpu) -> Engine:
    """Of `paper` in fp16, with weights that are shapes only and no measured rows."""
    with torch.device("meta"):
        net = Generator("paper")
    return Engine(net.spec, dict(net.named_parameters()), dtype=torch.float16, pick_config=Table(gpu))


def representatives(spec: GeneratorSpec) -> dict[str, Stage]:
    """The stages whose tilings may differ, by the names of the table's columns."""
    return {"blocks" if stage.kind == "trunk" else stage.name: stage for stage in reversed(spec.stages)}


def tiling(config: ConvConfig | None) -> str:
    """In a few words."""
    if config is None:
        return "cuDNN"
    form = "" if config.form == "pointer" else f"{config.form} "
    return f"{form}{config.block_m}x{config.block_n}x{config.block_k}"


def table() -> str:
    """As Markdown: a row for each GPU, network and picture."""
    names = list(reversed(representatives(PRESETS["tiny"])))
    lines = [f"| GPU | network | picture | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
    for gpu in GPUS:
        for preset in ("paper", "tiny"):
            stages = representatives(PRESETS[preset])
            for h, w in SIZES:
                cells = [tiling(default_for(conv_shape(stages[name], h * w, torch.float16), gpu)) for name in names]
                lines.append(f"| {gpu.name} | `{preset}` | {h}x{w} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    print(table())
    for gpu in GPUS:
        engine = engine_for(gpu)
        print(f"{gpu.name}: {stages_line(engine.spec.stages, engine.paths(1, 720, 1280))}")


if __name__ == "__main__":
    main()
