"""The arithmetic of training on many GPUs: its step beside torch's count, and what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.roofline import H200
from benchmarks.scaling import all_reduce_s, paper_step, table
from deblurgan.config import train_config
from deblurgan.training import Step
from deblurgan.training.networks import build_networks

PAGE = Path(__file__).parent.parent / "docs" / "many-gpus.md"


def test_the_step_s_arithmetic_and_gradients_are_those_of_a_real_step() -> None:
    torch.set_num_threads(1)
    config = train_config("unused", precision="fp32", crop=16, critic_steps=1)
    step = Step(config, build_networks(config, torch.device("cpu")))
    pictures = torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        step(pictures, pictures, number=0, rate=0.0)
    assert paper_step(1, 16, critic_steps=1).flops == pytest.approx(counter.get_total_flops(), rel=0.02)
    critic, generator = (sum(g.nbytes for g in step.optimizers.gradients(name)) for name in ("critic", "generator"))
    assert paper_step(1).reduced == (*(critic,) * 5, generator + 6 * 4)


def test_one_gpu_reduces_nothing_and_more_take_longer() -> None:
    times = [all_reduce_s(10**7, gpus).fast for gpus in (1, 2, 8, 16, 64)]
    assert times[0] == 0 and times == sorted(times) and len(set(times)) == 5
    # A ring of 8 sends 2 * 7 / 8 of the bytes through each GPU, whose memory reads and writes them three times
    copies = 6 * 370e6 / H200.bytes
    assert all_reduce_s(370 * 10**6, 8).fast == pytest.approx(24e-6 + 2 * 7 / 8 * 1e-3 + copies)


def test_the_page_shows_the_table() -> None:
    assert table() in PAGE.read_text()
