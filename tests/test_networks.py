"""A training's networks: new, fine-tuned, or starting from the identity."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import deblurgan
from small_training import SMALL, same, trainer


def test_no_adversarial_loss_needs_no_critic(photos: Path, tmp_path: Path) -> None:
    assert trainer(photos, tmp_path).networks.critic is None


def test_identity_start(photos: Path, tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, identity_start=True)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(run.networks.generator(x), x)


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
