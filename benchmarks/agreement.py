"""python -m benchmarks.agreement --out DIR: loss curves of the fast training step beside those of plain torch.

Both start from the same weights and see the same batches: the backend "reference" differentiates the penalty twice and
runs every layer in plain torch, "auto" is what training takes here. Writes agreement.json and agreement.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import machine
from deblurgan.config import train_config
from deblurgan.nn import Critic, Generator, PerceptualFeatures, pick_device
from deblurgan.step import LOSSES, Networks, Step

SIDE, BATCH = 64, 2
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
    """The losses of each step, [steps, len(LOSSES)]."""
    step = Step(train_config("unused", batch_size=BATCH, crop=SIDE, **options), networks(device))
    return torch.stack([step(*batch(i, device), number=i, rate=1e-4) for i in range(steps)]).cpu()


def means(curves: dict[str, Tensor], steps: int) -> list[str]:
    """A Markdown table of each way's means over tenths of the run."""
    columns = [f"{name}, {way}" for name in SHOWN for way in curves]
    lines = [f"| steps | {' | '.join(columns)} |", "|" + "---|" * (1 + len(columns))]
    length = max(1, steps // 10)
    for first in range(0, steps, length):
        part = slice(first, first + length)
        cells = [f"{curves[way][part, LOSSES.index(name)].mean():.4g}" for name in SHOWN for way in curves]
        lines.append(f"| {first} ... {min(first + length, steps) - 1} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agreement", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = pick_device(args.device)
    curves = {way: curve(options, args.steps, device) for way, options in WAYS.items()}
    facts = {"machine": machine(), "losses": LOSSES, "curves": {way: c.tolist() for way, c in curves.items()}}
    head = f"{args.steps} steps, batch {BATCH}, crops of {SIDE}, generator of width 8, critic of width 16, {device}"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "agreement.json").write_text(json.dumps(facts) + "\n")
    (args.out / "agreement.md").write_text(
        "\n".join(["# Loss curves", "", head, "", *means(curves, args.steps)]) + "\n"
    )


if __name__ == "__main__":
    main()
