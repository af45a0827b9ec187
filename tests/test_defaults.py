"""One set of defaults, whichever way a training's config is made: the class, `train`, the command line, YAML."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from deblurgan import cli
from deblurgan.config import REGIMES, TRAIN_PRESETS, TrainConfig, from_mapping, to_mapping, train_config
from deblurgan.training import train, trainer

NAMED: list[dict[str, Any]] = [
    {"preset": preset, "regime": regime, **({"mix": "pairs"} if regime == "combined" else {})}
    for preset, regime in (("article", "none"), *product(("paper", "tiny"), REGIMES))
]
TINY = [named for named in NAMED if named["preset"] == "tiny"]
OWN = {"lr": 1e-4, "ema": 0.0, "gan": "wgan-gp", "scale": [1.0, 1.0], "texture": 3}  # mostly the class's own defaults
DEFAULTS = {f.name: f.default for f in fields(TrainConfig) if f.name != "data"}
Configs = Callable[[dict[str, Any]], dict[str, TrainConfig]]


@pytest.fixture
def ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configs:
    """The config that options give by each way in."""
    found: list[TrainConfig] = []

    class Asked:
        def __init__(self, config: TrainConfig, **_: Any) -> None:
            found.append(config)

        def fit(self) -> None:
            pass

    def said(*words: str) -> TrainConfig:
        assert cli.main(["train", *words]) == 0
        return found.pop()

    def trained(*given: Any, **options: Any) -> TrainConfig:
        train(*given, **options)
        return found.pop()

    def as_words(options: dict[str, Any]) -> list[str]:
        lists = {name: value if isinstance(value, list) else [value] for name, value in options.items()}
        return [word for name, values in lists.items() for word in (f"--{name}", *map(str, values))]

    def as_file(options: dict[str, Any]) -> str:
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(options))
        return f"--config={tmp_path / 'c.yaml'}"

    def configs(options: dict[str, Any]) -> dict[str, TrainConfig]:
        named = {name: options[name] for name in ("preset", "regime")}
        others = {name: value for name, value in options.items() if name not in named}
        return {
            "class": TrainConfig("photos", **options),  # type: ignore[arg-type]
            "train_config": train_config("photos", **options),
            "train": trained("photos", **options),
            "train of a config": trained(TrainConfig("photos", **options)),  # type: ignore[arg-type]
            "mapping": from_mapping(TrainConfig, {"data": "photos", **options}),
            "command line": said("photos", *as_words(options)),
            "file": said(as_file({"data": "photos", **options})),
            "file and words": said("photos", *as_words(named), as_file({"seed": 0, **others})),
            "its own file": said(as_file(to_mapping(TrainConfig("photos", **options)))),  # type: ignore[arg-type]
        }

    monkeypatch.setattr(trainer, "Trainer", Asked)
    monkeypatch.setitem(cli.COMMANDS, "train", cli.Command(TrainConfig, lambda config: found.append(config) or 0))
    return configs


@pytest.mark.parametrize("named", NAMED, ids=lambda named: f"{named['preset']}-{named['regime']}")
def test_every_way_in_has_the_same_defaults(named: dict[str, Any], ways: Configs) -> None:
    given = {"data": Path("photos"), **named, **({"mix": Path("pairs")} if "mix" in named else {})}
    wanted = {**DEFAULTS, **TRAIN_PRESETS[named["preset"]], **REGIMES[named["regime"]], **given}
    for way, config in ways(named).items():
        assert {f.name: getattr(config, f.name) for f in fields(config)} == wanted, way


@pytest.mark.parametrize("named", TINY, ids=lambda named: named["regime"])
def test_what_is_given_wins_also_where_it_is_the_class_s_default(named: dict[str, Any], ways: Configs) -> None:
    for way, config in ways({**named, **OWN}).items():
        found = (config.lr, config.ema, config.gan, list(config.scale), config.texture)
        assert found == tuple(OWN.values()), way


def test_positions_are_given_too() -> None:
    names = [f.name for f in fields(TrainConfig)]
    upto_preset = [getattr(TrainConfig("x"), name) for name in names[: names.index("preset")]]  # type: ignore[arg-type]
    assert TrainConfig(*upto_preset, "tiny") == train_config("x", preset="tiny")
    with pytest.raises(TypeError, match="multiple values for argument 'data'"):
        TrainConfig("x", data="y")  # type: ignore[misc,arg-type]


def test_copies_keep_their_values() -> None:
    config = train_config("x", preset="tiny", regime="gopro", lr=1e-4, texture=1)
    assert (config.texture, config.lr, config.ema) == (1, 1e-4, 0.999)
    for same in (replace(config), deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert same == config
        assert hash(same) == hash(config)
    assert replace(config, seed=1) == train_config("x", preset="tiny", regime="gopro", lr=1e-4, texture=1, seed=1)
    assert replace(config, preset="paper").ema == 0.999


def test_what_preset_and_regime_set_is_not_chosen() -> None:
    config = train_config("x", preset="tiny", regime="combined", mix="pairs", betas=(0.8, 0.9))
    again, wanted = from_mapping(TrainConfig, to_mapping(config)), ["preset", "regime", "mix", "betas"]
    assert [f.name for f in fields(config) if f.name != "data" and config.chosen(f.name)] == wanted
    assert all(again.chosen(f.name) == config.chosen(f.name) for f in fields(config) if f.name != "data")


@pytest.mark.parametrize("words, default", [((), "0.0001"), (("--preset", "tiny"), "0.0005")])
def test_help_shows_the_preset_s_defaults(
    words: tuple[str, ...], default: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *words, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"Adam's learning rate at its highest, above 0. (default: {default})" in text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"regime": "wild"}, "regime must be one of none, gopro, synthetic, combined, got 'wild'"),
        ({"regime": "combined"}, "regime combined goes with a folder of pairs as mix, got none"),
        ({"regime": "gopro", "mix": "pairs"}, "regime gopro goes without mix, got pairs"),
        ({"regime": "synthetic", "mix": "pairs"}, "regime synthetic goes without mix, got pairs"),
        ({"mix_scale": (0.5, 0.5)}, "mix_scale goes with mix, got none"),
        ({"mix": "pairs", "mix_scale": (0.5, 2.0)}, "mix_scale must be 0 < low <= high <= 1, got"),
        ({"mix": "pairs", "mix_scale": 0.5}, "mix_scale must be a list, got 0.5"),
    ],
)
def test_what_contradicts_a_regime_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_config("x", **options)
