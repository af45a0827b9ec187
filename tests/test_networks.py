"""A training's networks: new, fine-tuned, or starting from the identity."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deblurgan import Generator, save_generator, save_released
from deblurgan.checkpoint import generators
from deblurgan.checkpoint.sources import Source
from deblurgan.config import train_config
from deblurgan.training.networks import build_generator
from small_training import same, trainer


def test_no_adversarial_loss_needs_no_critic(photos: Path, tmp_path: Path) -> None:
    assert trainer(photos, tmp_path).networks.critic is None


def test_identity_start(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, identity_start=True)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(run.networks.generator(x), x)


@pytest.fixture
def run_folder(tmp_path: Path, small_generator: Generator) -> Path:
    save_generator(small_generator, tmp_path / "run" / "best.safetensors")
    save_generator(Generator("tiny", width=4, blocks=1), tmp_path / "run" / "last.safetensors")
    return tmp_path / "run"


def test_fine_tuning_starts_from_weights_of_any_kind(
    run_folder: Path, small_generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_generator.save_pretrained(tmp_path / "saved")
    save_released(small_generator, tmp_path / "released.pth")
    for init in (run_folder, run_folder / "best.safetensors", tmp_path / "saved", tmp_path / "released.pth"):
        built = build_generator(train_config("photos", preset="tiny", init=init))
        assert same(built.state_dict(), small_generator.state_dict()), init
    monkeypatch.chdir(tmp_path)
    shipped = build_generator(train_config("photos", preset="tiny", init="tiny"))
    assert same(shipped.state_dict(), Generator.from_pretrained().state_dict())
    run_folder.rename("tiny")
    near = build_generator(train_config("photos", init="tiny"))
    assert same(near.state_dict(), small_generator.state_dict()), "what lies here goes before what ships"


def test_fine_tuning_may_fetch_its_weights(
    run_folder: Path, small_generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def find(name: Path) -> Source:
        asked.append(str(name))
        return Source(run_folder / "best.safetensors", "")

    monkeypatch.setattr(generators, "find_weights", find)
    built = build_generator(train_config("photos", init="hub:owner/name@main"))
    assert same(built.state_dict(), small_generator.state_dict())
    assert asked == ["hub:owner/name@main"]


def test_an_unknown_init_says_what_may_stand_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such file.*OWNER/NAME.*ship with the package as tiny"):
        build_generator(train_config("photos", init="nowhere"))


def test_dropout_alone_may_differ_from_that_of_init(run_folder: Path, small_generator: Generator) -> None:
    built = build_generator(train_config("photos", init=run_folder, dropout=0.3))
    assert built.spec.dropout == 0.3
    assert same(built.state_dict(), small_generator.state_dict())
    for name, own in (("width", small_generator.spec.width), ("blocks", small_generator.spec.blocks)):
        with pytest.raises(ValueError, match=f"{name} must be that of init .*run, {own}, got {own + 1}"):
            build_generator(train_config("photos", init=run_folder, **{name: own + 1}))  # type: ignore[arg-type]
