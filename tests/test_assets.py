"""What ships: its size, its card, and that its header says nothing of where it was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from deblurgan import Deblurrer, checkpoint, images
from deblurgan.checkpoint import DEFAULT_WEIGHTS
from deblurgan.config import train_config

ASSETS = DEFAULT_WEIGHTS.parent


def test_default_weights_are_small_and_of_the_tiny_preset() -> None:
    assert DEFAULT_WEIGHTS.stat().st_size < 4_000_000
    generator = checkpoint.load_generator(DEFAULT_WEIGHTS)
    assert (generator.spec.width, generator.spec.blocks, generator.spec.convs) == (24, 6, 2)
    assert not generator.training


def test_weights_carry_a_card_and_no_path() -> None:
    tensors, metadata = checkpoint.load_tensors(DEFAULT_WEIGHTS)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    card = json.loads(metadata["card"])
    assert card["card"] == "tiny.md"
    assert "/" not in json.dumps(metadata).replace(card["licence"], "")
    text = (ASSETS / "tiny.md").read_text()
    for heading in ("What it is", "How it was made", "What it reaches", "Limits"):
        assert f"## {heading}" in text


@pytest.mark.parametrize("name", ["tiny.yaml", "tiny-mixed.yaml"])
def test_the_recipe_is_a_config_without_paths(name: str) -> None:
    recipe = yaml.safe_load((ASSETS / name).read_text())
    config = train_config("photos", **recipe)
    assert (config.preset, config.init, config.val) == ("tiny", None, None)
    assert not any("/" in str(value) for value in recipe.values())


def test_a_sharp_picture_comes_back_nearly_as_it_was() -> None:
    sharp = images.read(ASSETS / "demo.png").pixels[:256, :256]
    restored = Deblurrer.from_pretrained()(sharp)
    mse = ((restored.astype(float) - sharp) ** 2).mean()
    assert 0 < mse < 255**2 / 10**3.5


def test_every_asset_is_accounted_for() -> None:
    notice = (Path(__file__).parent.parent / "NOTICE").read_text()
    names = {path.name for path in ASSETS.iterdir()}
    assert names == {
        "demo.png",
        "tiny.md",
        "tiny.safetensors",
        "tiny-mixed.yaml",
        "tiny.yaml",
        "vgg16_conv3_3.safetensors",
        "yolov3-tiny.cfg",
    }
    for words in ("VGG16", "CC BY 4.0", "demo.png", "Rachel Michetti", "CC0", "tiny.safetensors"):
        assert words in notice
