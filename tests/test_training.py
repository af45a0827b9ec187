"""The trainer: its schedule, its losses, and that nothing stops, poisons or loses a run."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import deblurgan
from conftest import texture
from deblurgan import checkpoint, images, losses
from deblurgan.config import TrainConfig, from_mapping, train_config
from deblurgan.data import Batch
from deblurgan.training import Trainer, TrainingError
from deblurgan.training.skipped_steps import MAX_SKIPPED_STEPS

PROGRAM = Path(__file__).parent / "programs" / "train.py"
SMALL: dict[str, Any] = {
    "preset": "tiny",
    "width": 4,
    "blocks": 1,
    "crop": 16,
    "batch_size": 2,
    "steps": 6,
    "log_every": 2,
    "val_every": 3,
    "val_pictures": 1,
    "blur_length": 12.0,
    "precision": "fp32",
    "device": "cpu",
}


def trainer(photos: Path, out: Path, **options: Any) -> Trainer:
    return Trainer(train_config(photos, out=out, **{**SMALL, **options}))


def history(out: Path) -> list[dict[str, str]]:
    with (out / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_run_folder(photos: Path, tmp_path: Path) -> None:
    out, lines = tmp_path / "run", []
    result = deblurgan.train(photos, out=out, log=lines.append, **SMALL)
    assert result.steps == 6 and result.out == out and result.best_psnr > 10
    config = from_mapping(TrainConfig, yaml.safe_load((out / "config.yaml").read_text()))
    assert config == train_config(photos, out=out, **SMALL, dropout=0.0)
    rows = history(out)
    assert [row["step"] for row in rows] == ["2", "3", "4", "6", "6"]
    assert [row["step"] for row in rows if row["val_psnr"]] == ["3", "6"]
    assert all(float(row["pixel"]) > 0 for row in rows if row["pixel"])
    assert sorted(path.name for path in (out / "samples").iterdir()) == ["0000003.png", "0000006.png"]
    assert images.read(out / "samples" / "0000006.png").pixels.shape[1] == 3 * 96
    for name in ("best", "last"):
        assert checkpoint.load_generator(out / f"{name}.safetensors").spec.width == 4
    assert any("ETA" in line and "step 4/6" in line for line in lines)
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp") or path.name.startswith(".")]


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


def test_losses_are_those_of_the_formulas(photos: Path, tmp_path: Path) -> None:
    options = {"gan": "wgan-gp", "critic_steps": 1, "crop": 32, "content": "vgg16", "pixel": "l2", "pixel_weight": 3.0}
    run = trainer(photos, tmp_path, **options)
    twin = trainer(photos, tmp_path, **options)
    batch = run.batches[0]
    blurred, sharp = (part.float() / 127.5 - 1 for part in (batch.blurred, batch.sharp))
    with torch.no_grad():
        restored = twin.networks.generator(blurred)
        assert twin.networks.features is not None
        content = 100 * losses.content(twin.networks.features(restored), twin.networks.features(sharp))
        pixel = 3 * losses.pixel(restored, sharp, kind="l2")
        assert twin.networks.critic is not None
        critic = losses.critic_loss(twin.networks.critic(sharp), twin.networks.critic(restored))
    values = run.step(batch)
    for name, wanted in (("content", content), ("pixel", pixel), ("critic", critic)):
        assert float(values[name]) == pytest.approx(float(wanted), rel=1e-5), name


def test_no_adversarial_loss_needs_no_critic(photos: Path, tmp_path: Path) -> None:
    assert trainer(photos, tmp_path).networks.critic is None


@pytest.mark.parametrize("options", [{"lr": 2e-3}, {"lr": 2e-3, "optimizer": "muon"}], ids=["adam", "muon"])
def test_training_learns(options: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, steps=60, identity_start=False, pixel="l2", width=8, **options)
    values = [float(run.step(run.batches[i])["pixel"]) for i in range(60)]
    assert sum(values[-10:]) < 0.5 * sum(values[:10])


def test_identity_start(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, identity_start=True)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(run.networks.generator(x), x)


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


def test_a_killed_run_resumes(photos: Path, tmp_path: Path) -> None:
    options = {**SMALL, "steps": 40, "val_every": 5}
    state = tmp_path / "run" / "state.safetensors"
    command = [sys.executable, str(PROGRAM), str(photos), str(tmp_path / "run"), json.dumps(options)]
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])})
    deadline = time.monotonic() + 60
    while not state.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert state.exists()
    stopped_at = int(checkpoint.load_tensors(state)[1]["step"])
    result = deblurgan.train(photos, out=tmp_path / "run", **options)
    whole = deblurgan.train(photos, out=tmp_path / "whole", **options)
    assert result.steps == 40
    assert same(result.generator.state_dict(), whole.generator.state_dict())
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history(tmp_path / "run")]
    wanted = [{k: v for k, v in row.items() if k != "seconds"} for row in history(tmp_path / "whole")]
    if stopped_at % options["log_every"] == 0:
        assert rows == wanted
    assert rows[-1] == wanted[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_whole_group_saves(number: signal.Signals, photos: Path, tmp_path: Path) -> None:
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
    assert child.returncode == 130
    step = int(checkpoint.load_tensors(tmp_path / "run" / "state.safetensors")[1]["step"])
    assert step >= 3
    assert checkpoint.load_generator(tmp_path / "run" / "last.safetensors")


def test_two_runs_cannot_share_a_folder(photos: Path, tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(TrainingError, match="out must be a folder of its own, another run is at work in"):
        deblurgan.train(photos, out=tmp_path, **SMALL)
    assert not list(tmp_path.glob("*.safetensors"))
    os.close(handle)
    deblurgan.train(photos, out=tmp_path, **SMALL)


def test_finished_run_stays_finished(photos: Path, tmp_path: Path) -> None:
    first = deblurgan.train(photos, out=tmp_path, **SMALL)
    again = deblurgan.train(photos, out=tmp_path, **SMALL)
    assert again.steps == 6 and again.best_psnr == first.best_psnr
    longer = deblurgan.train(photos, out=tmp_path, **{**SMALL, "steps": 8})
    assert longer.steps == 8


def test_another_run_s_folder_is_refused(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="out holds a run with another lr, seed"):
        deblurgan.train(photos, out=tmp_path, **{**SMALL, "lr": 0.1, "seed": 4})
    (photos / "9.png").write_bytes((photos / "0.png").read_bytes())
    with pytest.raises(ValueError, match="data holds other pictures"):
        deblurgan.train(photos, out=tmp_path, **{**SMALL, "steps": 8})
    assert deblurgan.train(photos, out=tmp_path, **{**SMALL, "seed": 4, "resume": False}).steps == 6


def test_starting_anew_forgets_the_old_run_at_once(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    fresh = trainer(photos, tmp_path, resume=False, seed=4)
    fresh.resume()
    assert not list(tmp_path.glob("*.safetensors")) and fresh.steps_done == 0


def test_a_run_goes_on_with_what_does_not_shape_it(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    options = {**SMALL, "steps": 8, "val_pictures": 2, "max_bad_fraction": 0.9, "workers": 1}
    assert deblurgan.train(photos.parent / "." / photos.name, out=tmp_path, **options).steps == 8


def test_damaged_state_is_refused_not_overwritten(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    path = tmp_path / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        deblurgan.train(photos, out=tmp_path, **{**SMALL, "steps": 8})
    assert path.read_bytes() == data


@pytest.mark.parametrize("where", ["loss", "gradient", "picture"])
def test_not_finite_steps_change_nothing(
    where: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(photos, tmp_path)
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
    with pytest.raises(TrainingError, match=f"{MAX_SKIPPED_STEPS} steps in a row were not finite"):
        for step in range(MAX_SKIPPED_STEPS):
            run.step(run.batches[step])
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


def test_bad_pictures_are_reported_once_and_skipped(photos: Path, tmp_path: Path) -> None:
    (photos / "9.png").write_bytes(b"not a picture")
    lines: list[str] = []
    deblurgan.train(photos, out=tmp_path / "run", log=lines.append, **SMALL, max_bad_fraction=0.5)
    assert len([line for line in lines if line.startswith("left out 9.png")]) == 1


def test_too_many_bad_pictures_stop_training(photos: Path, tmp_path: Path) -> None:
    for i in range(6, 9):
        (photos / f"{i}.png").write_bytes(b"not a picture")
    with pytest.raises(TrainingError, match=r"of 6 pictures are unreadable, more than max_bad_fraction 0\.1"):
        deblurgan.train(photos, out=tmp_path / "run", **SMALL)


def test_small_pictures_are_left_out_and_do_not_count(photos: Path, tmp_path: Path) -> None:
    for i in range(6, 12):
        images.write(images.Picture(texture(12, 40, seed=i)), photos / f"{i}.png")
    lines: list[str] = []
    assert deblurgan.train(photos, out=tmp_path / "run", log=lines.append, **SMALL).steps == 6
    assert any("40x12 is below the crop of 16" in line for line in lines)


@pytest.mark.parametrize("odd", [texture(5, 40), np.zeros((40, 40, 3), np.uint8)], ids=["tiny", "black"])
def test_odd_validation_pictures_stop_nothing(odd: np.ndarray, photos: Path, tmp_path: Path) -> None:
    val = tmp_path / "val"
    val.mkdir()
    images.write(images.Picture(odd), val / "0.png")
    images.write(images.Picture(texture(40, 40)), val / "1.png")
    result = deblurgan.train(photos, out=tmp_path / "run", val=val, **{**SMALL, "val_pictures": 2})
    assert result.steps == 6 and 0 < result.best_psnr < 100


def test_failed_validation_still_saves(photos: Path, tmp_path: Path) -> None:
    val = tmp_path / "val"
    val.mkdir()
    (val / "0.png").write_bytes(b"no picture")
    with pytest.raises(TrainingError, match="no validation picture could be read"):
        deblurgan.train(photos, out=tmp_path / "run", val=val, **SMALL)
    assert checkpoint.load_tensors(tmp_path / "run" / "state.safetensors")[1]["step"] == "3"


def test_one_photo_is_enough_and_keeps_its_blur(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    images.write(images.Picture(texture(40, 40)), tmp_path / "photos" / "0.png")
    run = trainer(tmp_path / "photos", tmp_path / "run", blur_exposure=(0.1,), blur_p=0.0)
    batch = run.batches[0]
    assert torch.equal(batch.blurred, batch.sharp)


def test_samples_among_the_photos_are_no_photos(photos: Path) -> None:
    options = {**SMALL, "out": photos / "runs"}
    deblurgan.train(photos, **options)
    assert (photos / "runs" / "samples" / "0000006.png").exists()
    assert deblurgan.train(photos, **{**options, "steps": 8}).steps == 8


@pytest.mark.parametrize("seed", [2**40, 2**62 - 1])
def test_large_seeds(seed: int, photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, seed=seed, gan="wgan-gp", critic_steps=1, crop=32, dropout=0.5)
    run.step(run.batches[0])


def test_fine_tuning_starts_from_the_weights(photos: Path, tmp_path: Path) -> None:
    first = deblurgan.train(photos, out=tmp_path / "a", **SMALL)
    run = trainer(photos, tmp_path / "b", init=tmp_path / "a" / "best.safetensors", width=None, blocks=None)
    assert same(run.networks.generator.state_dict(), first.generator.state_dict())
    assert (
        trainer(
            photos, tmp_path / "d", init=first.out / "last.safetensors", dropout=0.3, **{"width": None, "blocks": None}
        ).networks.generator.spec.dropout
        == 0.3
    )
    with pytest.raises(ValueError, match="width must be that of init, 4, got 8"):
        trainer(photos, tmp_path / "c", init=tmp_path / "a" / "best.safetensors", width=8)


def test_validation_folder_and_mix(photos: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    for kind in ("blur", "sharp"):
        (pairs / kind).mkdir(parents=True)
        for path in photos.iterdir():
            (pairs / kind / path.name).write_bytes(path.read_bytes())
    run = trainer(photos, tmp_path / "run", mix=pairs, val=pairs)
    assert len(run.train_set) == 12 and len(run.val_set) == 4
    assert run.fit().steps == 6


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


def test_state_holds_plain_tensors(photos: Path, tmp_path: Path) -> None:
    deblurgan.train(photos, out=tmp_path, **SMALL)
    state, metadata = checkpoint.load_tensors(tmp_path / "state.safetensors")
    assert json.loads(metadata["config"])["steps"] == 6
    assert {name.split(".")[0] for name in state} == {"generator", "average", "adam"}


def test_the_trainer_follows_the_schedule(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, steps=None, epochs=300, lr=1e-4, batch_size=1)
    assert run.schedule.total_steps == 900, "one of the four pictures is held out"
    run.steps_done = 3 * 151
    assert run.learning_rate() == run.schedule.learning_rate(3 * 151) < 1e-4
