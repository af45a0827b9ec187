"""The trainer: its schedule, its losses, and that nothing stops, poisons or loses a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import deblurgan
from conftest import OP_TOLERANCE
from deblurgan import checkpoint, losses
from deblurgan.config import train_config
from deblurgan.data import Batch
from deblurgan.training import DivergedError
from small_training import SMALL, same, trainer


@pytest.mark.parametrize("gan", ["wgan-gp", "lsgan", "lsgan-l1", "vanilla"])
def test_a_step_of_every_adversarial_loss(gan: str, photos: Path, tmp_path: Path) -> None:
    options = {"critic_steps": 2, "crop": 32, "content": "vgg16", "tv_weight": 0.1, "identity_start": False}
    run = trainer(photos, tmp_path, gan=gan, **options)
    before = {name: value.clone() for name, value in run.state_dict().items()}
    values = run.step(run.batches[0])
    after = run.state_dict()
    assert all(value.isfinite() for value in values.values())
    assert (values["penalty"] > 0) == (gan == "wgan-gp")
    assert values["content"] > 0 and values["tv"] > 0 and values["critic"] != 0
    for name in ("generator.stem.weight", "generator.head.weight", "critic.convs.0.weight", "critic.convs.4.weight"):
        assert not torch.equal(before[name], after[name]), name
    for name in ("generator.stem.bias", "generator.blocks.0.conv2.bias", "critic.convs.1.bias"):
        assert torch.equal(before[name], after[name]), f"{name} feeds an InstanceNorm"


@pytest.mark.any_cpu
def test_losses_are_those_of_the_formulas(photos: Path, tmp_path: Path) -> None:
    options = {"gan": "wgan-gp", "critic_steps": 1, "crop": 32, "content": "vgg16", "pixel": "l2", "pixel_weight": 3.0}
    run = trainer(photos, tmp_path, **options)
    networks = trainer(photos, tmp_path, **options).networks
    assert networks.features is not None and networks.critic is not None
    generator, features, critic = (net.double() for net in (networks.generator, networks.features, networks.critic))
    batch = run.batches[0]
    blurred, sharp = (part.double() / 127.5 - 1 for part in (batch.blurred, batch.sharp))
    with torch.no_grad():
        restored = generator(blurred)
        content = 100 * losses.content(features(restored), features(sharp))
        pixel = 3 * losses.pixel(restored, sharp, kind="l2")
        real, fake = critic(sharp), critic(restored)
    values = run.step(batch)
    tolerance = OP_TOLERANCE[torch.float32]
    assert float(values["content"]) == pytest.approx(float(content), rel=tolerance)
    assert float(values["pixel"]) == pytest.approx(float(pixel), rel=tolerance)
    scores = float(real.abs().mean() + fake.abs().mean())  # their difference may be far smaller than either
    assert float(values["critic"]) == pytest.approx(float(fake.mean() - real.mean()), abs=tolerance * scores)


@pytest.mark.parametrize("options", [{"lr": 2e-3}, {"lr": 2e-3, "optimizer": "muon"}], ids=["adam", "muon"])
def test_training_learns(options: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, steps=60, identity_start=False, pixel="l2", width=8, **options)
    values = [float(run.step(run.batches[i])["pixel"]) for i in range(60)]
    assert sum(values[-10:]) < 0.5 * sum(values[:10])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gan": "wgan-gp", "critic_steps": 2, "crop": 32, "dropout": 0.5},
        {"precision": "bf16", "workers": 1, "ema": 0.9},
        {"optimizer": "muon", "precision": "bf16", "schedule": "cosine", "warmup": 2},
    ],
    ids=["pixel", "gan", "bf16", "muon"],
)
def test_a_stopped_run_goes_on_bit_for_bit(
    options: dict[str, Any], device: torch.device, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    options = {**options, "device": device.type, "deterministic": True}
    whole = trainer(photos, tmp_path / "whole", **options)
    whole.fit()
    first = trainer(photos, tmp_path / "parts", **options)
    with first.upcoming_batches() as batches:
        for batch in islice(batches, 3):
            first.step(batch)
    (tmp_path / "parts").mkdir()
    first.save()
    second = trainer(photos, tmp_path / "parts", **options)
    second.fit()
    assert same(whole.state_dict(), second.state_dict())
    last = [checkpoint.load_tensors(tmp_path / run / "last.safetensors")[0] for run in ("whole", "parts")]
    assert same(*last)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_signal_to_the_whole_group_saves(number: signal.Signals, code: int, photos: Path, tmp_path: Path) -> None:
    words = ["train", str(photos), "--out", str(tmp_path / "run"), "--preset", "tiny", "--width", "4", "--blocks", "1"]
    words += ["--crop", "16", "--steps", "100000", "--log-every", "1", "--workers", "1"]
    child = subprocess.Popen(
        [sys.executable, "-m", "deblurgan", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("step 3/"):
            break
    os.killpg(child.pid, number)
    child.communicate(timeout=60)
    assert child.returncode == code
    step = int(checkpoint.load_tensors(tmp_path / "run" / "state.safetensors")[1]["step"])
    assert step >= 3
    assert checkpoint.load_generator(tmp_path / "run" / "last.safetensors")


@pytest.mark.parametrize("where", ["loss", "gradient", "picture"])
def test_not_finite_steps_change_nothing(
    where: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(photos, tmp_path, max_bad_steps=4)
    run.step(run.batches[0])
    before = {name: value.clone() for name, value in run.state_dict().items()}
    if where == "loss":
        monkeypatch.setattr(losses, "pixel", lambda restored, sharp, *, kind: restored.sum() * float("nan"))
    elif where == "gradient":
        run.networks.generator.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    else:
        monkeypatch.setattr(
            "deblurgan.training.step.to_network", lambda pictures: pictures.float().fill_(float("nan")).requires_grad_()
        )
    run.step(run.batches[1])
    assert same(before, run.state_dict())
    with pytest.raises(DivergedError, match="4 steps in a row were not finite, up to step 5: the run folder holds"):
        for step in range(4):
            run.step(run.batches[step])
    assert run.skipped.total == 4
    assert same(before, run.state_dict())


def test_not_finite_critic_update_changes_nothing(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, gan="wgan-gp", critic_steps=1, crop=32)
    before = {name: value.clone() for name, value in run.state_dict().items()}
    assert run.networks.critic is not None
    run.networks.critic.convs[0].weight.register_hook(lambda gradient: gradient * float("nan"))
    run.step(run.batches[0])
    after = run.state_dict()
    assert same(before, {name: after[name] for name in before})
    assert not any(value.any() for name, value in after.items() if name.startswith("adam."))
    assert run.skipped.in_a_row == 1


def test_moving_average(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, ema=0.5)
    start = run.networks.generator.head.weight.detach().clone()
    run.step(run.batches[0])
    decay = min(0.5, 2 / 11)
    assert run.networks.average is not None
    wanted = decay * start + (1 - decay) * run.networks.generator.head.weight.detach()
    assert torch.allclose(run.networks.average.head.weight, wanted, atol=1e-8)


@pytest.mark.parametrize("seed", [2**40, 2**62 - 1])
def test_large_seeds(seed: int, photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, seed=seed, gan="wgan-gp", critic_steps=1, crop=32, dropout=0.5)
    run.step(run.batches[0])


def test_precision_bf16_is_close(photos: Path, tmp_path: Path) -> None:
    values = [
        trainer(photos, tmp_path, precision=precision, identity_start=False).step(
            Batch(torch.full((2, 3, 16, 16), 90, dtype=torch.uint8), torch.full((2, 3, 16, 16), 120, dtype=torch.uint8))
        )["pixel"]
        for precision in ("fp32", "bf16")
    ]
    assert float(values[1]) == pytest.approx(float(values[0]), rel=0.02)


def test_train_takes_a_config_alone(photos: Path, tmp_path: Path) -> None:
    config = train_config(photos, out=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="options must be in the TrainConfig, got steps beside it"):
        deblurgan.train(config, steps=3)
    assert deblurgan.train(config).steps == 6


def test_the_trainer_follows_the_schedule(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, steps=None, epochs=300, lr=1e-4, batch_size=1)
    assert run.schedule.total_steps == 900, "one of the four pictures is held out"
    run.steps_done = 3 * 151
    assert run.learning_rate() == run.schedule.learning_rate(3 * 151) < 1e-4
