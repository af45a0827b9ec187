"""Weights files: what is saved comes back, every released layout is read, and nothing else is."""

from __future__ import annotations

import json
import os
import pickle
import random
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from conftest import NET_TOLERANCE, assert_matches, relative_error, texture
from deblurgan import Generator, checkpoint, load_generator, save_generator, save_released
from deblurgan.checkpoint import CheckpointError

State = dict[str, Tensor]


class ReleasedBlock(nn.Module):
    def __init__(self, c: int, norm: Callable[[int], nn.Module], *, convs: int, dropout: bool) -> None:
        super().__init__()
        layers = [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), norm(c), nn.ReLU(True)]
        if dropout:
            layers += [nn.Dropout(0.5)]
        if convs == 2:
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), norm(c)]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Released(nn.Module):
    """The generator of models/networks.py: two convolutions a block until 2018-10, one after 2019-03."""

    def __init__(
        self, width: int = 2, blocks: int = 2, *, convs: int = 2, dropout: bool = True, running: bool = False
    ) -> None:
        super().__init__()

        def norm(c: int) -> nn.Module:
            return nn.InstanceNorm2d(c, affine=False, track_running_stats=running)

        w = width
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, w, 7), norm(w), nn.ReLU(True)]
        for c in (w, 2 * w):
            layers += [nn.Conv2d(c, 2 * c, 3, stride=2, padding=1), norm(2 * c), nn.ReLU(True)]
        layers += [ReleasedBlock(4 * w, norm, convs=convs, dropout=dropout) for _ in range(blocks)]
        for c in (4 * w, 2 * w):
            up = nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1)
            layers += [up, norm(c // 2), nn.ReLU(True)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(w, 3, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)
        randomise(self)

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(x + self.model(x), -1, 1)


class Article(nn.Module):
    """The article's generator: zero padding, one convolution and ReLU a block, biases on the first and last only."""

    def __init__(self, width: int = 2, blocks: int = 9) -> None:
        super().__init__()
        w = width
        self.first = nn.Sequential(nn.Conv2d(3, w, 7, padding=3), nn.InstanceNorm2d(w), nn.ReLU())
        self.downsample = nn.Sequential(
            *(nn.Conv2d(w, 2 * w, 3, 2, 1, bias=False), nn.InstanceNorm2d(2 * w), nn.ReLU()),
            *(nn.Conv2d(2 * w, 4 * w, 3, 2, 1, bias=False), nn.InstanceNorm2d(4 * w), nn.ReLU()),
        )
        self.residual = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4 * w, 4 * w, 3, padding=1, bias=False), nn.InstanceNorm2d(4 * w), nn.ReLU())
            for _ in range(blocks)
        )
        self.upsample = nn.Sequential(
            *(nn.ConvTranspose2d(4 * w, 2 * w, 3, 2, 1, 1, bias=False), nn.InstanceNorm2d(2 * w), nn.ReLU()),
            *(nn.ConvTranspose2d(2 * w, w, 3, 2, 1, 1, bias=False), nn.InstanceNorm2d(w), nn.ReLU()),
        )
        self.last = nn.Conv2d(w, 3, 7, padding=3)
        randomise(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.downsample(self.first(x))
        for block in self.residual:
            y = y + block(y)
        return torch.clamp(x + torch.tanh(self.last(self.upsample(y))), -1, 1)


def randomise(net: nn.Module) -> None:
    random = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0.0, 0.05, generator=random)


def picture() -> Tensor:
    """fp64 [1, 3, 24, 32] in [-1, 1]."""
    return torch.from_numpy(texture(24, 32)).permute(2, 0, 1)[None].double() / 127.5 - 1


def saved(tensors: Any, path: Path, *, legacy: bool = False) -> Path:
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)
    return path


def assert_same_network(generator: Generator, transcription: nn.Module) -> None:
    """Both give the same picture in fp64, and not just the one they were given."""
    x = picture()
    for module in transcription.modules():
        if isinstance(module, nn.Dropout):
            module.eval()  # the rest stays in training mode: own statistics, as released
    with torch.no_grad():
        got, wanted = generator.double()(x), transcription.double()(x)
    assert_matches(got, wanted, table=NET_TOLERANCE)
    assert relative_error(wanted, x) > 0.05


def assert_same_weights(got: Generator, wanted: Generator) -> None:
    assert got.spec == wanted.spec
    assert got.state_dict().keys() == wanted.state_dict().keys()
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(got.state_dict()[name], tensor), name


@pytest.mark.parametrize("preset", ["paper", "article", "tiny"])
def test_save_and_load_give_the_same_bits(preset: str, tmp_path: Path) -> None:
    generator = Generator(preset, width=2, blocks=1)
    save_generator(generator, tmp_path / "g.safetensors")
    loaded = load_generator(tmp_path / "g.safetensors")
    assert_same_weights(loaded, generator)
    assert not loaded.training
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_half_storage_rounds_to_fp16_and_takes_half_the_bytes(small_generator: Generator, tmp_path: Path) -> None:
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_generator(small_generator, full)
    save_generator(small_generator, half, half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    assert_same_weights(load_generator(half), small_generator.half().float())


def test_the_card_is_kept_in_the_header(small_generator: Generator, tmp_path: Path) -> None:
    save_generator(small_generator, tmp_path / "g.safetensors", card={"psnr": 28.7})
    _, metadata = checkpoint.load_tensors(tmp_path / "g.safetensors")
    assert metadata["card"] == '{"psnr": 28.7}'


def test_layers_have_the_released_names() -> None:
    names = {name.removesuffix(".weight") for name in Released(blocks=9).state_dict() if name.endswith("weight")}
    blocks = {f"model.{i}.conv_block.{k}" for i in range(10, 19) for k in (1, 6)}
    assert names == blocks | {"model.1", "model.4", "model.7", "model.19", "model.22", "model.26"}


@pytest.mark.parametrize("blocks", [1, 6, 9])
@pytest.mark.parametrize("convs, dropout, last", [(2, True, 6), (2, False, 5), (1, True, 1)])
def test_released_layouts_load(blocks: int, convs: int, dropout: bool, last: int, tmp_path: Path) -> None:
    net = Released(blocks=blocks, convs=convs, dropout=dropout)
    assert f"model.10.conv_block.{last}.weight" in net.state_dict()
    generator = load_generator(saved(net.state_dict(), tmp_path / "net.pth"))
    spec = generator.spec
    assert (spec.width, spec.blocks, spec.convs, spec.border, spec.bias) == (2, blocks, convs, "reflect", True)
    assert spec.dropout == (0.5 if last == 6 else 0)
    assert_same_network(generator, net)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_wrapped_prefixed_and_legacy_files_load(prefix: str, wrapper: str | None, legacy: bool, tmp_path: Path) -> None:
    net = Released()
    state: Any = {prefix + name: tensor for name, tensor in net.state_dict().items()}
    if wrapper is not None:
        state = {"epoch": 7, wrapper: state}
    assert_same_network(load_generator(saved(state, tmp_path / "net.pth", legacy=legacy)), net)


@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "module.module.",
        "model.",
        "net_g.",
        "_fsdp_wrapped_module.",
    ],
)
def test_whatever_names_begin_with_they_load(prefix: str, tmp_path: Path) -> None:
    net = Released()
    state = {prefix + name: tensor for name, tensor in net.state_dict().items()}
    assert_same_network(load_generator(saved(state, tmp_path / "net.pth")), net)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_layers_that_were_wrapped_one_by_one_load(wrapper: str, tmp_path: Path) -> None:
    net = Released()
    state = {name.replace("conv_block", f"{wrapper}.conv_block"): tensor for name, tensor in net.state_dict().items()}
    assert_same_network(load_generator(saved(state, tmp_path / "net.pth")), net)


def critic() -> State:
    return {"model.0.weight": torch.zeros(4, 3, 4, 4), "model.0.bias": torch.zeros(4)}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "others",
    [
        lambda state: {"netG": state, "netD": critic()},
        lambda state: {"state_dict": {**prefixed("generator.", state), **prefixed("discriminator.", critic())}},
        lambda state: {"n_averaged": torch.tensor(3), **prefixed("module.", state)},
        lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": state["model.1.weight"]}}, "lr": 0.1}},
        lambda state: {"model": state, "state_dict": state},
        lambda state: {"trainer": {"checkpoint": {"weights": state}}},
    ],
    ids=["critic", "Lightning", "torch's average", "optimiser", "twice", "deep"],
)
def test_the_generator_is_found_beside_what_else_a_file_holds(others: Callable[[State], Any], tmp_path: Path) -> None:
    net = Released()
    assert_same_network(load_generator(saved(others(dict(net.state_dict())), tmp_path / "net.pth")), net)


@pytest.mark.parametrize("make", [Released, Article])
@pytest.mark.parametrize("raw, average", [("params", "params_ema"), ("netG", "netG_ema"), ("model", "ema")])
def test_averaged_weights_are_taken_and_said(
    raw: str, average: str, make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    net = make()
    content = {raw: {name: tensor + 1 for name, tensor in net.state_dict().items()}, average: net.state_dict()}
    with pytest.warns(UserWarning, match=f"net.pth: of 2 generators the average is taken, {average}"):
        generator = load_generator(saved(content, tmp_path / "net.pth"))
    assert_same_network(generator, net)


@pytest.mark.parametrize("flat", [False, True])
def test_a_choice_between_generators_is_refused(flat: bool, tmp_path: Path) -> None:
    a, b = Released().state_dict(), Released().state_dict()
    content = {**prefixed("G_A.", a), **prefixed("G_B.", b)} if flat else {"G_A": a, "G_B": b}
    with pytest.raises(CheckpointError, match=r"holds several generators, G_A, G_B"):
        load_generator(saved(content, tmp_path / "net.pth"))


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_bare_state_dict_of_ours_is_refused_with_the_way_out(
    name: str, prefix: str, small_generator: Generator, tmp_path: Path
) -> None:
    """It does not tell the border: with another one the same weights would give other pictures."""
    state = prefixed(prefix, small_generator.state_dict())
    save = safetensors.torch.save_file if name.endswith("safetensors") else torch.save
    save(state, tmp_path / name)
    with pytest.raises(CheckpointError, match="does not tell its border and dropout: write it with save_generator"):
        load_generator(tmp_path / name)


def test_a_bare_state_dict_of_ours_goes_into_a_generator(small_generator: Generator, tmp_path: Path) -> None:
    torch.save(small_generator.state_dict(), tmp_path / "net.pth")
    other = Generator(**small_generator.config())
    other.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True))
    assert_same_weights(other, small_generator)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_float_type_load_as_fp32(dtype: torch.dtype, tmp_path: Path) -> None:
    net = Released()
    generator = load_generator(saved(net.to(dtype).state_dict(), tmp_path / "net.pth"))
    assert {parameter.dtype for parameter in generator.parameters()} == {torch.float32}
    assert_same_network(generator, net)


def test_parameters_and_strided_views_load(tmp_path: Path) -> None:
    net = Released()
    state = {
        name: nn.Parameter(tensor.mT.contiguous().mT if tensor.dim() == 4 else tensor)
        for name, tensor in net.state_dict().items()
    }
    generator = load_generator(saved(state, tmp_path / "net.pth"))
    assert_same_network(generator, net)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net.ckpt", "net"])
def test_the_content_says_what_a_file_is_not_its_suffix(name: str, small_generator: Generator, tmp_path: Path) -> None:
    save_generator(small_generator, tmp_path / name)
    assert_same_weights(load_generator(tmp_path / name), small_generator)
    net = Released()
    assert_same_network(load_generator(saved(net.state_dict(), tmp_path / name)), net)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize(
    "content, words",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "not weights but a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html></html>", "not weights but a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "not weights but an HDF5 file"),
        (b"", "empty file"),
    ],
    ids=["Git LFS", "HTML", "HDF5", "empty"],
)
def test_what_is_often_taken_for_weights_is_called_by_its_name(
    content: bytes, words: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: {words}"):
        load_generator(tmp_path / name)


def test_a_torchscript_archive_is_called_by_its_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as file:
        for name, content in (("constants.pkl", b""), ("data.pkl", b""), ("version", b"3\n")):
            file.writestr(f"net/{name}", content)
    with pytest.raises(CheckpointError, match=r"net\.pt: a TorchScript archive, not the state dict of its module"):
        load_generator(tmp_path / "net.pt")


def test_a_run_folder_gives_its_best_else_its_last_weights(
    small_generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(IsADirectoryError, match=r"run is a folder without best\.safetensors or last\.safetensors"):
        load_generator(run)
    save_generator(small_generator, run / "last.safetensors")
    with pytest.warns(UserWarning, match=r"run holds no best\.safetensors: last\.safetensors is taken"):
        assert_same_weights(load_generator("~/run"), small_generator)
    best = Generator("tiny", width=4, blocks=1)
    save_generator(best, run / "best.safetensors")
    assert_same_weights(load_generator("~/run"), best)


def test_the_state_of_a_training_is_no_weights_file(tmp_path: Path) -> None:
    checkpoint.save_tensors(
        {"generator.stem.weight": torch.zeros(2, 3, 7, 7)}, tmp_path / "state", metadata={"step": "3"}
    )
    with pytest.raises(
        CheckpointError, match=r"no weights file; the state of a training has best\.safetensors beside it"
    ):
        load_generator(tmp_path / "state")


@pytest.mark.parametrize("setting", [torch.inference_mode, lambda: torch.device("meta")], ids=["inference", "device"])
def test_the_callers_settings_do_not_reach_the_weights(setting: Callable[[], Any], tmp_path: Path) -> None:
    path = saved(Released().state_dict(), tmp_path / "net.pth")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with setting():
            generator = load_generator(path)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)
    kinds = {(p.dtype, p.device.type, p.is_inference(), p.requires_grad) for p in generator.parameters()}
    assert kinds == {(torch.float32, "cpu", False, True)}


def test_running_statistics_are_ignored(tmp_path: Path) -> None:
    net = Released(running=True)
    state = net.state_dict()
    kinds = {name.rsplit(".", 1)[-1] for name in state}
    assert kinds == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    for name in state:
        if "running" in name:
            state[name].fill_(float("nan"))
    assert_same_network(load_generator(saved(state, tmp_path / "net.pth")), net)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("blocks", [6, 9])
def test_the_articles_network_loads(blocks: int, prefix: str, tmp_path: Path) -> None:
    net = Article(blocks=blocks)
    state = {prefix + name: tensor for name, tensor in net.state_dict().items()}
    generator = load_generator(saved(state, tmp_path / "net.pth"))
    assert generator.spec == Generator("article", width=2, blocks=blocks).spec
    assert_same_network(generator, net)


def test_released_names_in_safetensors_load(tmp_path: Path) -> None:
    net = Released()
    safetensors.torch.save_file(net.state_dict(), tmp_path / "net.safetensors")
    assert_same_network(load_generator(tmp_path / "net.safetensors"), net)


def without(name: str) -> Callable[[State], None]:
    return lambda state: state.__delitem__(name)


def with_tensor(name: str, *shape: int) -> Callable[[State], None]:
    return lambda state: state.__setitem__(name, torch.zeros(shape))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    "change, words",
    [
        (without("model.11.conv_block.6.bias"), ["lacks {}model.11.conv_block.6.bias"]),
        (without("model.1.weight"), ["lacks {}model.1.weight"]),
        (without("model.12.weight"), ["lacks {}model.12.weight"]),
        (with_tensor("model.2.weight", 2), ["holds {}model.2.weight beyond"]),
        (with_tensor("fc.weight", 2), ["holds {}fc.weight beyond"]),
        (with_tensor("model.4.weight", 4, 2, 5, 5), ["{}model.4.weight must be [4, 2, 3, 3]", "got [4, 2, 5, 5]"]),
        (with_tensor("model.1.weight", 0, 3, 7, 7), ["{}model.1.weight"]),
        (with_tensor("model.13.conv_block.1.weight", 8, 8, 3, 3), ["without a gap", "[10, 11, 13]"]),
        (with_tensor("model.10.conv_block.5.weight", 8, 8, 3, 3), ["conv_block.5 and .6"]),
        (with_tensor("model.10.conv_block.3.weight", 8, 8, 3, 3), ["with conv_block.3"]),
    ],
)
def test_a_wrong_key_is_named_as_it_stands_in_the_file(
    change: Callable[[State], None], words: list[str], prefix: str, tmp_path: Path
) -> None:
    state = dict(Released(blocks=2).state_dict())
    change(state)
    path = saved({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError) as caught:
        load_generator(path)
    assert str(caught.value).startswith(f"{path}: ")
    for word in words:
        assert word.format(prefix) in str(caught.value)


def unet() -> State:
    return {"model.model.0.weight": torch.zeros(4, 3, 4, 4), "model.model.0.bias": torch.zeros(4)}


def vgg() -> State:
    return {"features.0.weight": torch.zeros(4, 3, 3, 3), "features.0.bias": torch.zeros(4)}


def three_layers() -> State:
    return {f"{i}.weight": torch.zeros(shape) for i, shape in enumerate([(2, 3, 7, 7), (8, 8, 3, 3), (3, 2, 7, 7)])}


def article_with(**more: Tensor) -> State:
    return {**Article().state_dict(), **more}


def article_without(name: str) -> State:
    return {key: tensor for key, tensor in Article().state_dict().items() if key != name}


@pytest.mark.parametrize(
    "content, words",
    [
        (unet(), "an unknown network, its first tensor is model.model.0.weight"),
        (vgg(), "an unknown network, its first tensor is features.0.weight"),
        (three_layers(), "neither the released nor the article's network: 1.weight [8, 8, 3, 3] stands out"),
        (article_with(extra=torch.zeros(3)), "neither the released nor the article's network: extra [3] stands out"),
        (article_without("last.bias"), "neither the released nor the article's network: 16 tensors instead of 17"),
        (article_without("downsample.0.weight"), "downsample.3.weight [8, 4, 3, 3] stands out"),
        ({"a": torch.zeros(0, 3, 7, 7)}, "an unknown network"),
        ({"x.running_mean": torch.zeros(3)}, "holds no state dict"),
        ({}, "holds no state dict"),
        ({1: torch.zeros(3)}, "holds no state dict"),
        ({"model": {"epoch": 3}}, "holds no state dict"),
        ({"lr": 0.1}, "holds no state dict"),
        ([torch.zeros(3)], "holds no state dict"),
        (torch.zeros(3), "holds no state dict"),
        (None, "holds no state dict"),
    ],
)
def test_another_network_is_refused_in_words(content: Any, words: str, tmp_path: Path) -> None:
    path = saved(content, tmp_path / "net.pth")
    with pytest.raises(CheckpointError) as caught:
        load_generator(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.full((2,), float("nan")),
        torch.tensor([1.0, float("inf")]),
        torch.tensor([1e300, 1.0], dtype=torch.float64),
        torch.zeros(2, dtype=torch.int32),
        torch.zeros(2).to_sparse(),
        torch.zeros(2, device="meta"),
    ],
    ids=["nan", "infinite", "too large for fp32", "int", "sparse", "meta"],
)
def test_weights_that_are_no_finite_floats_are_refused_by_name(tensor: Tensor, tmp_path: Path) -> None:
    state = {**Released().state_dict(), "model.1.bias": tensor}
    with pytest.raises(CheckpointError, match=r"net.pth: model\.1\.bias (holds values that|must be a plain)"):
        load_generator(saved(state, tmp_path / "net.pth"))


def test_nan_in_our_own_file_is_refused(small_generator: Generator, tmp_path: Path) -> None:
    nn.init.constant_(small_generator.stem.weight, float("nan"))
    save_generator(small_generator, tmp_path / "g.safetensors")
    with pytest.raises(CheckpointError, match=r"stem\.weight holds values that are not finite"):
        load_generator(tmp_path / "g.safetensors")


@pytest.mark.parametrize(
    "config", ["null", "[1]", "{", '{"width": 2, "hidden": 3}', '{"width": -1}', '{"blocks": "x"}']
)
def test_a_description_of_no_generator_is_refused(config: str, tmp_path: Path) -> None:
    checkpoint.save_tensors({"a": torch.zeros(1)}, tmp_path / "g.safetensors", metadata={"generator": config})
    with pytest.raises(CheckpointError, match="describes no generator"):
        load_generator(tmp_path / "g.safetensors")


def test_our_file_with_a_key_too_many_or_too_few_is_refused(small_generator: Generator, tmp_path: Path) -> None:
    save_generator(small_generator, tmp_path / "g.safetensors")
    tensors, metadata = checkpoint.load_tensors(tmp_path / "g.safetensors")
    checkpoint.save_tensors({**tensors, "tail": torch.zeros(1)}, tmp_path / "more.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match="holds tail beyond"):
        load_generator(tmp_path / "more.safetensors")
    del tensors["head.bias"]
    checkpoint.save_tensors(tensors, tmp_path / "less.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match=r"lacks head\.bias"):
        load_generator(tmp_path / "less.safetensors")


@pytest.mark.parametrize("convs, dropout", [(2, 0.5), (2, 0.0), (1, 0.0)])
def test_save_released_gives_what_the_released_code_loads(convs: int, dropout: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = Generator("paper", width=2, blocks=2, convs=convs, dropout=dropout)
    randomise(generator)
    save_released(generator, tmp_path / "net.pth")
    assert_same_weights(load_generator(tmp_path / "net.pth"), generator)
    net = Released(convs=convs, dropout=convs == 1 or dropout > 0)
    nn.init.zeros_(net.model[1].weight)
    net.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True), strict=True)
    assert_same_network(generator.eval(), net)


@pytest.mark.parametrize("options", [{}, {"border": "reflect"}, {"bias": True}])
def test_save_released_refuses_the_articles_network(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reflect borders and biases"):
        save_released(Generator("article", width=2, blocks=1, **options), tmp_path / "net.pth")
    assert not list(tmp_path.iterdir())


def damaged(data: bytes, count: int, *, seed: int) -> list[bytes]:
    """Copies of the data with one byte changed or, one in four, cut short; half of the bytes lie near the ends."""
    draw = random.Random(seed)
    copies = []
    for i in range(count):
        near = draw.randrange(min(len(data), 2000))
        at = (draw.randrange(len(data)), near, draw.randrange(len(data)), len(data) - 1 - near)[i % 4]
        if draw.random() < 0.25:
            copies.append(data[:at])
        else:
            copies.append(data[:at] + bytes([data[at] ^ draw.randrange(1, 256)]) + data[at + 1 :])
    return copies


def test_the_digest_is_found_missing(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    save_generator(Generator("tiny", width=2, blocks=1), path)
    path.write_bytes(path.read_bytes().replace(b'"sha256"', b'"sha257"'))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_generator(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_damaged_pth_is_refused_or_still_holds_tensors(legacy: bool, tmp_path: Path) -> None:
    path = saved(Released(blocks=1).state_dict(), tmp_path / "net.pth", legacy=legacy)
    refused = 0
    for copy in damaged(path.read_bytes(), 300, seed=1):
        path.write_bytes(copy)
        try:
            assert isinstance(load_generator(path), Generator)
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all\n" * 9], ids=["empty", "text"])
def test_a_file_that_holds_no_weights_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        load_generator(tmp_path / name)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_missing_file_and_a_folder_give_the_plain_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_generator(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError):
        load_generator(tmp_path / name)


class Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_refused_and_does_not_run(legacy: bool, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Hostile(canary)))
    canary.rmdir()
    state = {**Released().state_dict(), "model.1.bias": Hostile(canary)}
    with pytest.raises(CheckpointError, match="not a file of plain weights") as refusal:
        load_generator(saved(state, tmp_path / "net.pth", legacy=legacy))
    assert not canary.exists()
    assert "posix.mkdir" in str(refusal.value)
    shown = "".join(traceback.format_exception(refusal.value))
    assert "weights_only=False" not in shown and "weights_only` argument" not in shown, "torch's advice to run the code"


@pytest.mark.parametrize("name", ["data/0", "data.pkl"])
def test_records_beyond_the_files_own_size_are_refused_before_they_are_read(name: str, tmp_path: Path) -> None:
    source = saved(Released().state_dict(), tmp_path / "net.pth")
    for compression, twice in ((zipfile.ZIP_DEFLATED, False), (zipfile.ZIP_STORED, True)):
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "bomb.pth", "w", compression) as new:
            for entry in old.namelist():
                new.writestr(entry, bytes(2**20) if entry.endswith(name) else old.read(entry))
            for entry in list(new.infolist()) if twice else []:
                new.filelist.append(entry)  # another name of the same bytes
        with pytest.raises(CheckpointError, match=r"records (are compressed|overlap)"):
            load_generator(tmp_path / "bomb.pth")


@pytest.mark.parametrize("save, name", [(save_generator, "g.safetensors"), (save_released, "net.pth")])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_the_old_file(
    save: Callable[[Generator, Path], None],
    name: str,
    error: BaseException,
    small_generator: Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(small_generator, tmp_path / name)
    before = (tmp_path / name).read_bytes()

    def interrupted(source: Path, target: Path) -> None:
        raise error

    monkeypatch.setattr(os, "replace", interrupted)
    nn.init.ones_(small_generator.head.weight)
    with pytest.raises(type(error)):
        save(small_generator, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("width", [2**18, 2**40])
def test_a_file_that_claims_to_be_huge_is_refused_without_memory_for_it(width: int, tmp_path: Path) -> None:
    state = Released().state_dict() | {"model.1.weight": torch.zeros(1, 1, 1, 1).expand(width, 3, 7, 7)}
    with pytest.raises(CheckpointError, match=r"model\.1\.bias must be \[262144\]|describes no generator"):
        load_generator(saved(state, tmp_path / "a.pth"))


@pytest.mark.parametrize(
    "change", [{"state": 1}, {"downsamplings": 10**6}, {"downsamplings": 31}, {"width": 2**50}, {"blocks": 10**9}]
)
def test_a_description_of_a_huge_generator_is_refused(
    change: dict[str, int], small_generator: Generator, tmp_path: Path
) -> None:
    config = json.dumps({**small_generator.config(), **change})
    safetensors.torch.save_file(small_generator.state_dict(), tmp_path / "a.safetensors", {"generator": config})
    with pytest.raises(CheckpointError, match="describes no generator"):
        load_generator(tmp_path / "a.safetensors")


def test_a_generator_is_found_in_lists(tmp_path: Path) -> None:
    net = Released()
    assert_same_network(load_generator(saved({"nets": [critic(), (net.state_dict(),)]}, tmp_path / "a.pth")), net)


def test_names_that_only_a_wrapper_tells_apart_are_refused(tmp_path: Path) -> None:
    state = Released().state_dict()
    with pytest.raises(CheckpointError, match=r"holds _orig_mod\.model\.1\.weight beside the same name"):
        load_generator(saved(state | prefixed("_orig_mod.", Released().state_dict()), tmp_path / "a.pth"))


def test_weights_that_fp16_cannot_hold_are_not_written_in_it(small_generator: Generator, tmp_path: Path) -> None:
    wide = Generator(**small_generator.config())
    with torch.no_grad():
        wide.stem.weight.fill_(1e6)
    save_generator(wide, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"fp16 cannot hold stem\.weight"):
        save_generator(wide, tmp_path / "b.safetensors", half=True)
    assert not (tmp_path / "b.safetensors").exists()


def test_loading_draws_nothing_and_shares_nothing(tmp_path: Path) -> None:
    shared = torch.ones(2)
    state = Released().state_dict() | {"model.1.bias": shared, "model.15.bias": shared}
    before = torch.get_rng_state()
    generator = load_generator(saved(state, tmp_path / "a.pth"))
    assert torch.equal(torch.get_rng_state(), before)
    starts = [p.data_ptr() for p in generator.parameters()]
    assert len(set(starts)) == len(starts)
