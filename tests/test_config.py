"""Options: one dataclass for API, command line and YAML."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
import yaml

from deblurgan import config
from deblurgan.config import TRAIN_PRESETS, TrainConfig, from_mapping, to_mapping, train_config

KINDS = [config.TrainConfig, config.DeblurConfig, config.BlurConfig, config.EvaluateConfig, config.DemoConfig]
KINDS += [config.TuneConfig, config.ExportConfig]


def test_defaults_are_the_paper_s() -> None:
    paper = TrainConfig(Path("x"))
    assert (paper.gan, paper.critic_steps, paper.gp_weight) == ("wgan-gp", 5, 10.0)
    assert (paper.lr, paper.betas, paper.epochs, paper.constant) == (1e-4, (0.5, 0.999), 300, 0.5)
    assert (paper.optimizer, paper.schedule, paper.warmup) == ("adam", "constant-linear", 0)
    assert (paper.batch_size, paper.crop, paper.content_weight, paper.flip) == (1, 256, 100.0, True)
    assert train_config("x") == paper


@pytest.mark.parametrize("preset", list(TRAIN_PRESETS))
def test_yaml_round_trip(preset: str) -> None:
    first = train_config("photos", preset=preset, steps=7, val="other")
    again = from_mapping(TrainConfig, yaml.safe_load(yaml.safe_dump(to_mapping(first))))
    assert again == first
    assert again.data == Path("photos")


def test_options_win_over_the_preset() -> None:
    assert train_config("x", preset="tiny").gan == "none"
    assert train_config("x", preset="tiny", gan="lsgan").gan == "lsgan"


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_has_a_type_that_converts(kind: type) -> None:
    given = {
        f.name: ["a.png"] if f.name == "inputs" else "x" for f in fields(kind) if f.name in ("data", "inputs", "out")
    }
    built = from_mapping(kind, given)
    assert from_mapping(kind, to_mapping(built)) == built


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 3}, r"unknown option 'step': did you mean 'steps'\?"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": "many"}, "steps must be int, got 'many'"),
        ({"steps": True}, "steps must be int, got True"),
        ({"lr": "fast"}, "lr must be float, got 'fast'"),
        ({"lr": -1}, "lr must be positive, got -1"),
        ({"crop": 30}, "crop must be a multiple of 4 and at least 8, got 30"),
        ({"betas": [0.5]}, "betas must hold 2 values"),
        ({"betas": [0.5, 1.0]}, r"betas must be in \[0, 1\)"),
        ({"blur_exposure": 0.5}, "blur_exposure must be a list, got 0.5"),
        ({"gan": "gan"}, "gan must be one of wgan-gp, lsgan, lsgan-l1, vanilla, none, got 'gan'"),
        ({"gan": "none", "content": "none"}, "nothing would be trained"),
        ({"scale": [0.0, 1.0]}, "scale must be 0 < low <= high <= 1"),
        ({"preset": "big"}, "preset must be one of paper, article, tiny, got 'big'"),
        ({"seed": -1}, "seed must be in"),
        ({"content_weights": "vgg19.pth"}, "content_weights goes with content vgg19, got content vgg16"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\)"),
        ({"content_weight": -1.0}, "content_weight must be at least 0"),
        ({"optimizer": "sgd"}, "optimizer must be one of adam, muon, own, got 'sgd'"),
        ({"optimizer": "muon", "muon_lr": 0.0}, "muon_lr must be positive, got 0.0"),
        ({"muon_lr": 0.02}, "muon_lr goes with optimizer muon, got optimizer adam"),
        ({"schedule": "linear"}, "schedule must be one of constant-linear, cosine, got 'linear'"),
        ({"schedule": "cosine", "constant": 0.2}, "constant goes with schedule constant-linear, got schedule cosine"),
        ({"warmup": -1}, "warmup must be at least 0, got -1"),
        ({"steps": 1.5}, "steps must be int, got 1.5"),
        ({"steps": 10**30}, "steps must be a finite number below 2\\^63, got 1000"),
        ({"steps": float("inf")}, "steps must be a finite number below 2\\^63, got inf"),
        ({"seed": np.bool_(True)}, "seed must be int, got True"),
        ({"lr": "1e-4"}, "lr must be float, got '1e-4'"),
        ({"lr": float("inf")}, "lr must be a finite number below 2\\^63, got inf"),
        ({"lr": np.float32("nan")}, "lr must be a finite number below 2\\^63, got nan"),
        ({"lr": 10**400}, "lr must be a finite number below 2\\^63"),
        ({"lr": Decimal("0.1")}, "lr must be float, got Decimal"),
        ({"lr": 1j}, "lr must be float, got 1j"),
        ({"lr": np.array([0.1])}, "lr must be float, got array"),
        ({"flip": 1}, "flip must be bool, got 1"),
        ({"flip": "yes"}, "flip must be bool, got 'yes'"),
        ({"blur_noise": (0.0, float("nan"))}, "blur_noise must be a finite number"),
        ({"betas": "0.5"}, "betas must be a list, got '0.5'"),
        ({"betas": {0.5, 0.9}}, "betas must be a list, got {"),
        ({"betas": np.zeros((1, 2))}, "betas must be a list, got array"),
        ({"preset": ["tiny"]}, r"preset must be one of paper, article, tiny, got \['tiny'\]"),
        ({"out": b"runs"}, "out must be a path, got b'runs'"),
        ({"out": "runs/\0"}, "out must be a path, got 'runs"),
        ({"out": None}, "out must be a path, got None"),
        ({"gan": "lsgan", "gp_norm": "pixel"}, "gp_norm goes with gan wgan-gp, got gan lsgan"),
        ({"gan": "none", "critic_steps": 2}, "critic_steps goes with gan wgan-gp or lsgan or .*, got gan none"),
        ({"preset": "tiny", "content_relu": True}, "content_relu goes with content vgg16 or vgg19, got content none"),
        ({"pixel_weight": 2.0}, "pixel_weight goes with pixel l1 or l2, got pixel none"),
        ({"mix_ratio": 3.0}, "mix_ratio goes with mix, got none"),
        ({"init": "x.pth", "identity_start": True}, "identity_start goes without init, got init x.pth"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_config("x", **options)


@pytest.mark.parametrize(
    "name, given, value",
    [
        ("seed", np.int64(3), 3),
        ("batch_size", np.uint8(4), 4),
        ("batch_size", np.array(4), 4),
        ("steps", 1e4, 10_000),
        ("steps", torch.tensor(10), 10),
        ("lr", 1, 1.0),
        ("lr", np.float32(1e-4), 1e-4),
        ("lr", np.float64(1 / 3), 1 / 3),
        ("lr", torch.tensor(1e-4), 1e-4),
        ("flip", np.bool_(False), False),
        ("betas", np.array([0.5, 0.999], np.float32), (0.5, 0.999)),
        ("betas", [np.float16(0.5), 0], (0.5, 0.0)),
        ("preset", np.str_("article"), "article"),
    ],
)
def test_numbers_of_arrays_are_plain_numbers(name: str, given: Any, value: Any) -> None:
    config = train_config("x", **{name: given})
    assert (getattr(config, name), type(getattr(config, name))) == (value, type(value))
    assert yaml.safe_load(yaml.safe_dump(to_mapping(config))) == to_mapping(config)
    assert hash(config) == hash(replace(config))


def paths_of(kind: type) -> list[str]:
    return [name for name, hint in get_type_hints(kind).items() if Path in (hint, *get_args(hint))]


@pytest.mark.parametrize("kind", KINDS)
def test_no_path_may_be_empty(kind: type) -> None:
    others = {
        f.name: ("x",) if f.name == "inputs" else "x" for f in fields(kind) if f.name in ("data", "inputs", "out")
    }
    for name in paths_of(kind):
        for blank in ("", " "):
            with pytest.raises(ValueError, match=f"{name} must be a path, got '{blank}'"):
                from_mapping(kind, {**others, name: (blank,) if name == "inputs" else blank})


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = train_config("~/photos", out=Path("~/x"), val="./~/y", content="vgg19", content_weights="~/vgg19.pth")
    assert (config.data, config.out) == (Path("/home/me/photos"), Path("/home/me/x"))
    assert (config.val, config.content_weights) == (Path.cwd() / "~" / "y", Path("/home/me/vgg19.pth"))
    assert replace(config) == config
    assert train_config("x", content="vgg19", content_weights="hub").content_weights == "hub"


def test_what_the_preset_chose_may_be_without_effect() -> None:
    assert train_config("x", preset="tiny", init="x.pth").identity_start


def test_every_command_checks_its_words_and_converts_paths() -> None:
    with pytest.raises(ValueError, match="format must be one of keep, png, jpg, webp, tiff, avif, got 'exe'"):
        config.DeblurConfig(("a.png",), "out", format="exe")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"metrics must be one of psnr, ssim, .*, got 'niqe'"):
        config.EvaluateConfig("data", metrics=["niqe"])  # type: ignore[arg-type]
    assert TrainConfig("photos", out="runs/x").out == Path("runs/x")  # type: ignore[arg-type]


def test_config_needs_neither_torch_nor_tyro() -> None:
    """Training imports it on machines without the command line's library."""
    program = (
        "import sys; sys.modules['tyro'] = None\n"
        "from deblurgan.config import train_config, to_mapping\n"
        "assert to_mapping(train_config('x'))['out'] == 'runs/deblurgan'\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
