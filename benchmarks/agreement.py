"""python -m benchmarks.agreement --out DIR: what the kernels compute beside plain torch: results, gradients, losses.

Forward: each op's and whole networks' relative errors against fp64. Gradients: each parameter's of a generator. Both on
our kernels, in Triton's interpreter where there is no GPU. Loss curves: from the same weights on the same batches; the
backend "reference" differentiates the penalty twice and runs every layer in plain torch, "auto" is what training takes
here. Writes agreement.json and agreement.md.
"""

from __future__ import annotations

import argparse
import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton

from benchmarks.harness import machine
from deblurgan import ops
from deblurgan.config import train_config
from deblurgan.device import assume_kernels, pick_device
from deblurgan.generator import tape
from deblurgan.generator.engine import Engine
from deblurgan.kernels.config import ConvConfig, ConvShape
from deblurgan.nn import Critic, Generator, PerceptualFeatures
from deblurgan.ops import conv_blocks
from deblurgan.training import MEASURES, Networks, Step

SIDE, BATCH = 64, 2
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
KERNEL_DTYPES = list(NAMES) if torch.cuda.is_available() else list(NAMES)[:2]  # the interpreter has no bf16 products
SHOWN = ("critic", "penalty", "adversarial", "content")
WAYS: dict[str, dict[str, Any]] = {
    "reference fp32": {"backend": "reference", "precision": "fp32"},
    "auto fp32": {"precision": "fp32"},
    "auto bf16": {"precision": "bf16"},
}


def networks(device: torch.device) -> Networks:
    """A narrow generator and critic, the same weights each time."""
    torch.manual_seed(0)
    nets = Generator("tiny", width=8, blocks=2, dropout=0.5).train(), Critic(width=16), PerceptualFeatures()
    generator, critic, features = (net.to(device) for net in nets)
    return Networks(generator, critic, None, features)  # type: ignore[arg-type]


def batch(number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Smooth noise and its blur, uint8."""
    random = torch.Generator().manual_seed(number)
    coarse = torch.rand(BATCH, 3, SIDE // 4, SIDE // 4, generator=random)
    sharp = torch.nn.functional.interpolate(coarse, scale_factor=4.0, mode="bicubic").clamp(0, 1)
    blurred = torch.nn.functional.avg_pool2d(sharp, 7, 1, 3)
    return (blurred * 255).to(device, torch.uint8), (sharp * 255).to(device, torch.uint8)


def curve(options: dict[str, Any], steps: int, device: torch.device) -> Tensor:
    """The losses of each step, [steps, len(MEASURES)]."""
    step = Step(train_config("unused", batch_size=BATCH, crop=SIDE, **options), networks(device))
    return torch.stack([step(*batch(i, device), number=i, rate=1e-4) for i in range(steps)]).cpu()


def kernels_only(shape: ConvShape) -> ConvConfig:
    """No layer goes to the library."""
    return ConvConfig(64, 32, 16) if shape.kind == "head" else ConvConfig(128, 64, 64)


def gradients(device: torch.device) -> dict[str, dict[str, tuple[float, float]]]:
    """Relative error and cosine of each optimised parameter's gradient, kernels against fp64, by type."""
    torch.manual_seed(0)
    net = Generator("paper", width=16, blocks=2).train().to(device)
    with torch.no_grad():
        for parameter in net.parameters():  # weights that keep the values' size, so that every one of them matters
            parameter.normal_(0, 0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5)
    counter = torch.tensor([0, 0], device=device)
    names = [name for name, _ in net.named_parameters() if name not in net.dead_biases()]
    x = batch(0, device)[0][:1, :, :24, :32].double() / 127.5 - 1
    toward = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)

    truth = deepcopy(net).double()
    truth.backend = "reference"
    wanted = of_each(truth, names, (truth(x, counter=counter) * toward).sum())
    found: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in names}
    for dtype in KERNEL_DTYPES:
        out = tape.restore(
            net.spec, dict(net.named_parameters()), x.float(), dtype=dtype, counter=counter, pick_config=kernels_only
        )
        for name, gradient in of_each(net, names, (out * toward).sum()).items():
            a, b = gradient.double(), wanted[name]
            cosine = torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)
            found[name][NAMES[dtype]] = float((a - b).norm() / b.norm()), float(cosine)
    return found


def forward_errors(device: torch.device) -> list[dict[str, Any]]:
    """Relative errors of each op and of a whole network against fp64: the kernels', and plain torch's in that type."""
    x, image = (batch(0, device)[0][..., :21, :30].double() / 127.5 - 1).chunk(2)
    random = torch.Generator().manual_seed(2)

    def weight(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=random) / (shape[1] * shape[2] * shape[3]) ** 0.5).double().to(device)

    wide = torch.nn.functional.conv2d(x, weight(16, 3, 3, 3), padding=1)
    jobs: dict[str, tuple[Any, ...]] = {
        "norm_act": (wide, None, "relu"),
        "norm_act, leaky_relu": (wide, None, "leaky_relu"),
        "conv_norm_relu 3x3, reflect, residual": (wide, weight(16, 16, 3, 3), None, wide, 1, "reflect", "none"),
        "conv_norm_relu 3x3, stride 2": (wide, weight(32, 16, 3, 3), None, None, 2, "zero", "relu"),
        "conv_norm_relu 7x7": (x, weight(16, 3, 7, 7), None, None, 1, "reflect", "relu"),
        "up_conv_norm_relu": (wide, weight(16, 8, 3, 3), None),
        "output_tail": (wide, image, weight(3, 16, 7, 7), weight(1, 3, 1, 1).flatten(), "reflect"),
    }
    rows = []
    for name, arguments in jobs.items():
        op = getattr(ops, name.split(",")[0].split()[0])
        for dtype in KERNEL_DTYPES:
            given = [a.to(dtype) if isinstance(a, Tensor) else a for a in arguments]
            rows.append({"name": name, "dtype": NAMES[dtype]})
            for who, available in (("kernels", True), ("torch", False)):
                with (
                    assume_kernels(available),
                    patch.object(conv_blocks, "config_picker", lambda gpu: kernels_only),
                    torch.no_grad(),
                ):
                    rows[-1][who] = relative_error(op(*given), op(*arguments))
    return rows + network_errors(device)


def network_errors(device: torch.device) -> list[dict[str, Any]]:
    """Of the residual that whole networks add to a picture with texture."""
    rows = []
    x = batch(0, device)[0][:1, :, :24, :32].double() / 127.5 - 1
    for preset in ("paper", "article"):
        torch.manual_seed(0)
        net = Generator(preset, width=16, blocks=2).eval().to(device)
        net.backend = "reference"
        with torch.no_grad():
            wanted = deepcopy(net).double()(x) - x
            for dtype in KERNEL_DTYPES:
                engine = Engine(net.spec, net.state_dict(), dtype=dtype, pick_config=kernels_only)
                torch_s = deepcopy(net).to(dtype)
                got = {"kernels": engine(x.float()), "torch": torch_s(x.float())}
                errors = {who: relative_error(y - x, wanted) for who, y in got.items()}
                rows.append({"name": f"whole network, {preset}", "dtype": NAMES[dtype], **errors})
    return rows


def relative_error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


def forward_lines(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| what | type | kernels | torch in that type |", "|---|---|---|---|"]
    return lines + [f"| {r['name']} | {r['dtype']} | {r['kernels']:.1e} | {r['torch']:.1e} |" for r in rows]


def of_each(net: Generator, names: list[str], loss: Tensor) -> dict[str, Tensor]:
    parameters = dict(net.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, [parameters[name] for name in names]), strict=True))


def gradient_lines(found: dict[str, dict[str, tuple[float, float]]]) -> list[str]:
    dtypes = list(next(iter(found.values())))
    heads = [f"{what}, {dtype}" for dtype in dtypes for what in ("relative error", "1 - cosine")]
    lines = [f"| parameter | {' | '.join(heads)} |", "|" + "---|" * (1 + len(heads))]
    for name, row in found.items():
        cells = [cell for dtype in dtypes for cell in (f"{row[dtype][0]:.1e}", f"{max(0.0, 1 - row[dtype][1]):.1e}")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def means(curves: dict[str, Tensor], steps: int) -> list[str]:
    """A Markdown table of each way's means over tenths of the run."""
    columns = [f"{name}, {way}" for name in SHOWN for way in curves]
    lines = [f"| steps | {' | '.join(columns)} |", "|" + "---|" * (1 + len(columns))]
    length = max(1, steps // 10)
    for first in range(0, steps, length):
        part = slice(first, first + length)
        cells = [f"{curves[way][part, MEASURES.index(name)].mean():.4g}" for name in SHOWN for way in curves]
        lines.append(f"| {first} ... {min(first + length, steps) - 1} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agreement", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False  # fp32 is to mean fp32
    device = pick_device(args.device)
    table, errors = gradients(device), forward_errors(device)
    curves = {way: curve(options, args.steps, device) for way, options in WAYS.items()}
    facts = {"machine": machine(), "losses": MEASURES, "forward": errors, "gradients": table}
    facts["curves"] = {way: c.tolist() for way, c in curves.items()}
    head = f"{args.steps} steps, batch {BATCH}, crops of {SIDE}, generator of width 8, critic of width 16, {device}"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "agreement.json").write_text(json.dumps(facts) + "\n")
    sections = {
        "Relative errors against fp64, forward": forward_lines(errors),
        "Gradients of the generator's parameters, kernels against fp64": gradient_lines(table),
        "Loss curves": [head, "", *means(curves, args.steps)],
    }
    lines = [line for title, part in sections.items() for line in (f"# {title}", "", *part, "")]
    (args.out / "agreement.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
