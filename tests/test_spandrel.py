"""spandrel's own loader opens our weights and the released ones, and restores as the networks do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from conftest import texture
from deblurgan import Generator, load_generator, save_generator, save_released
from deblurgan.checkpoint import CheckpointError


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """spandrel's ModelLoader, which knows DeblurGAN. Where torchvision is missing, which spandrel imports and no
    network here uses, an empty one stands in."""
    if find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed")
    pytest.importorskip("einops", reason="einops, which spandrel needs, is not installed")
    before = set(sys.modules)
    if find_spec("torchvision") is None:
        parts = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
        for name in parts:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        for name in ("InterpolationMode", "rotate", "normalize"):
            setattr(sys.modules[parts[-1]], name, None)
    import spandrel

    from deblurgan.integrations.spandrel import register

    known = len(spandrel.MAIN_REGISTRY)
    register()
    register()
    assert len(spandrel.MAIN_REGISTRY) == known + 1
    yield spandrel.ModelLoader()
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "spandrel" or name == "deblurgan.integrations.spandrel":
            del sys.modules[name]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Weights of ours, with and without biases, and in the three released layouts, two of them wrapped."""
    torch.manual_seed(0)
    made = []
    for name, generator in {
        "tiny.safetensors": Generator("tiny", width=4, blocks=1),
        "article.safetensors": Generator("article", width=4, blocks=2),
        "dropout.pth": Generator("paper", width=4, blocks=2),
        "none.pth": Generator("paper", width=4, blocks=2, dropout=0.0),
        "one.pth": Generator("paper", width=4, blocks=2, convs=1, dropout=0.0),
    }.items():
        with torch.no_grad():
            generator.head.weight.mul_(20)
        made.append(tmp_path / name)
        (save_released if made[-1].suffix == ".pth" else save_generator)(generator, made[-1])
    for path, wrapped in ((made[3], lambda state: state), (made[4], lambda state: {"state_dict": state})):
        state = torch.load(path, weights_only=True)
        torch.save(wrapped({f"module.{key}": tensor for key, tensor in state.items()}), path)
    return made


def test_spandrel_restores_as_the_networks_do(loader: Any, files: list[Path]) -> None:
    picture = torch.from_numpy(texture(40, 56)).permute(2, 0, 1)[None] / 255
    for path in files:
        net, generator = loader.load_from_file(path), load_generator(path)
        with torch.no_grad():
            wanted = (generator(picture * 2 - 1) + 1) / 2
        assert torch.equal(net(picture), wanted), path
        assert (wanted - picture).abs().max() > 0.05
        assert {**net.model.config(), "dropout": 0.0} == {**generator.config(), "dropout": 0.0}
        odd = net(picture[..., :7, :29])
        assert odd.shape == (1, 3, 7, 29)
        assert odd.min() >= 0 and odd.max() <= 1
        assert (net.half()(picture.half()).float() - wanted).abs().mean() < 0.02, path


def test_spandrel_is_told_what_the_network_needs(loader: Any, files: list[Path]) -> None:
    net = loader.load_from_file(files[0])
    assert net.architecture.id == "DeblurGAN"
    assert (net.purpose, net.scale, net.input_channels, net.output_channels) == ("Restoration", 1, 3, 3)
    assert net.tiling.name == "DISCOURAGED"
    assert (net.size_requirements.minimum, net.size_requirements.multiple_of) == (8, 4)


def test_other_networks_are_left_to_others_and_broken_ones_named(loader: Any, files: list[Path]) -> None:
    other = {"stem.weight": torch.zeros(4, 3, 3, 3), "blocks.0.conv1.weight": torch.zeros(4, 4, 3, 3)}
    with pytest.raises(Exception) as caught:
        loader.load_from_state_dict(other)
    assert type(caught.value).__name__ == "UnsupportedModelError"
    state = loader.load_state_dict_from_file(files[0])
    del state["up.1.bias"]
    with pytest.raises(CheckpointError, match=r"state dict: lacks up\.1\.bias"):
        loader.load_from_state_dict(state)


def test_without_spandrel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    monkeypatch.delitem(sys.modules, "deblurgan.integrations.spandrel", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'deblurgan\[spandrel\]'"):
        import deblurgan.integrations.spandrel  # noqa: F401
