"""YAML: the option's type reads the text, whatever YAML 1.1 takes it for; what may be meant otherwise is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deblurgan import cli
from deblurgan.config import DeblurConfig, TrainConfig, train_config
from deblurgan.training.run_folder import RunFolder

ASSETS = Path(cli.__file__).parent / "assets"
Parse = Callable[..., Any]


@pytest.fixture
def parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Parse:
    """The config that a command gets from a file of this text and words, or what it says where it refuses them."""
    monkeypatch.setenv("HOME", "/home/me")

    def parsed(text: str | bytes, *words: str, command: str = "train") -> Any:
        found: list[Any] = []

        def keep(config: Any) -> int:
            found.append(config)
            return 0

        monkeypatch.setitem(cli.COMMANDS, command, cli.Command(cli.COMMANDS[command].options, keep))
        (tmp_path / "c.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        code = cli.main([command, *words, "--config", str(tmp_path / "c.yaml")])
        said = capsys.readouterr().err
        assert code == (0 if found else 2)
        return found[0] if found else said

    return parsed


@pytest.mark.parametrize(
    "text, value",
    [
        ("lr: 1e-4  # Adam's", 1e-4),
        ("lr: '1e-4'", 1e-4),
        ("lr: +.5", 0.5),
        ("lr: 1", 1.0),
        ("steps: 1e4", 10_000),
        ("steps: 1_000", 1000),
        ("steps: 1000.0", 1000),
        ("steps: 0o10", 8),
        ("steps: 0x1f", 31),
        ("steps: ~", None),
        ("steps:", None),
        ("batch-size: 4", 4),
        ("flip: no", False),
        ("flip: On", True),
        ("gan: none", "none"),
        ("betas: [5e-1, 0.9]", (0.5, 0.9)),
        ("betas:\n- 0.5\n- 9e-1\n", (0.5, 0.9)),
        ("out: 2024-05-01", Path("2024-05-01")),
        ("out: 2024", Path("2024")),
        ("out: 010", Path("010")),
        ("out: 1e-4", Path("1e-4")),
        ("out: 12:30:45", Path("12:30:45")),
        ("out: yes", Path("yes")),
        ("out: 'null'", Path("null")),
        ("out: ~/runs", Path("/home/me/runs")),
        ("out: ./~", Path.cwd() / "~"),
        ("val: null", None),
        ("val: 'null'", Path("null")),
    ],
)
def test_the_option_s_type_reads_the_text(parse: Parse, text: str, value: Any) -> None:
    config = parse(text, "photos")
    got = getattr(config, text.partition(":")[0].replace("-", "_"))
    assert (got, type(got)) == (value, type(value))
    assert config.data == Path("photos")


@pytest.mark.parametrize(
    "text, message",
    [
        ("epochs: 010", "epochs must be int, got '010': write it like 8 or 1e4"),
        ("seed: 12:30:45", "seed must be int, got '12:30:45'"),
        ("seed: 2024-05-01", "seed must be int, got '2024-05-01'"),
        ("seed: yes", "seed must be int, got 'yes'"),
        ("steps: 1.5e0", "steps must be int, got 1.5"),
        ("lr: .inf", "lr must be float, got '.inf': write it like 0.1 or 1e-4"),
        ("lr: .nan", "lr must be float, got '.nan'"),
        ("lr: 1e999", "lr must be a finite number below 2^63, got inf"),
        ("lr: 1,000", "lr must be float, got '1,000'"),
        ("lr: ''", "lr must be float, got ''"),
        ("lr:", "lr must be float, got None"),
        ("lr: {low: 1}", "lr must be a plain value or a list of such, got map in line 1"),
        ("betas: 0.5, 0.9", "betas must be a list, got '0.5, 0.9'"),
        ("betas: [[0.5], 0.9]", "betas must be a plain value or a list of such, got seq in line 1"),
        ("betas: &a [*a, 0.5]", "betas must be a plain value or a list of such, got seq"),
        ("flip: y", "flip must be bool, got 'y': write it like true or false"),
        ("gan: no", "gan must be one of wgan-gp, lsgan, lsgan-l1, vanilla, none, got 'no'"),
        ("content: ~", "content must be one of vgg16, vgg19, none, got None"),
        ("out: ~", "out must be a path, got None"),
        ("out: ''", "out must be a path, got ''"),
        ('out: "a\\0b"', "out must be a path, got 'a\\x00b'"),
        ("lr: 1e-3\nlr: 1e-4", "lr is given twice"),
        ("batch-size: 1\nbatch_size: 2", "batch_size is given twice"),
        ("batchsize: 4", "unknown option 'batchsize': did you mean 'batch_size'?"),
        ("~: 4", "unknown option 'null': TrainConfig has data, out"),
        ("<<: 4", "unknown option '<<'"),
        ("lr: !!float 1e-4", "lr must be a plain value or a list of such, got float in line 1"),
        ("betas: !!python/object/apply:os.abort []", "got python/object/apply:os.abort in line 1"),
        ("lr: 1e-3\n---\nlr: 1e-4", "not YAML (expected a single document"),
        ("lr:\t1e-3", "not YAML"),
        ("betas: " + 500 * "[", "not YAML"),
        ("out: é".encode("latin-1"), "not YAML"),
    ],
)
def test_what_is_read_otherwise_elsewhere_is_refused(parse: Parse, text: str | bytes, message: str) -> None:
    said = parse(text, "photos")
    assert isinstance(said, str)
    assert "c.yaml: " in said
    assert message in said


@pytest.mark.parametrize("text", [b"lr: 1e-3\r\nseed: 2\r\n", "lr: 1e-3".encode("utf-16"), b"\xef\xbb\xbflr: 1e-3"])
def test_line_ends_and_byte_order_marks_are_no_text(parse: Parse, text: bytes) -> None:
    assert parse(text, "photos").lr == 1e-3


def test_the_command_line_wins_before_options_are_held_against_each_other(parse: Parse) -> None:
    assert "muon_lr goes with optimizer muon" in parse("muon_lr: 0.02", "photos")
    assert parse("muon_lr: 0.02", "photos", "--optimizer", "muon").muon_lr == 0.02
    assert "crop must be a multiple of 4" in parse("crop: 30", "photos")
    assert parse("crop: 30\ndata: other", "photos", "--crop", "32") == train_config("photos", crop=32)
    assert parse("preset: tiny", "photos", "--preset", "paper") == train_config("photos")


def test_inputs_and_weights(parse: Parse) -> None:
    text = "inputs: [a.png, 010, ~/b]\nout: restored\nweights: hub:owner/name\nsuffix: 010"
    wanted = DeblurConfig((Path("a.png"), Path("010"), Path("/home/me/b")), Path("restored"), Path("hub:owner/name"))
    assert parse(text, command="deblur") == replace(wanted, suffix="010")
    assert "inputs must be a list, got 'a.png'" in parse("inputs: a.png", "-o", "x", command="deblur")
    assert "inputs must be a path, got None" in parse("inputs: [a.png, ~]", "-o", "x", command="deblur")


@pytest.mark.parametrize("words", [("",), ("photos", "--out="), ("photos", "--val", ""), ("photos", "--init", " ")])
def test_an_empty_path_is_not_the_working_folder(parse: Parse, words: tuple[str, ...]) -> None:
    assert re.search(r"must be a path, got ' ?'", parse("seed: 1", *words))


def test_a_tilde_that_no_shell_expanded(parse: Parse) -> None:
    config = parse("seed: 1", "~/photos", "--out=~/x", "--val=./~", "--init=~no-such-user/x")
    assert (config.data, config.out) == (Path("/home/me/photos"), Path("/home/me/x"))
    assert (config.val, config.init) == (Path.cwd() / "~", Path("~no-such-user/x"))


def test_one_config_that_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in [
        (["--config", ""], "config must be a path, got ''"),
        (["--config", "a", "--config", "b"], "config must be one file, got a, b"),
        (["--config=~no-such-user/c.yaml"], "No such file or directory: '~no-such-user/c.yaml'"),
        (["--config", "/"], "Is a directory"),
    ]:
        assert cli.main(["train", "photos", *words]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "2024-05-01",
        "null",
        "./~",
        "1e-4",
        "010",
        "yes",
        "a: b #c",
        " x ",
        "a\nb",
        "'a'",
        "é😀",
        os.fsdecode(b"\xff"),
        "-",
        "!a",
    ],
)
def test_a_run_s_config_names_the_same_paths(parse: Parse, name: str, tmp_path: Path) -> None:
    config = train_config(name, out=name, val=name, init=name, lr=0.1 + 0.2, betas=(1e-5, 1 / 3), seed=2**61 + 1)
    RunFolder(tmp_path).write_config(config)
    assert parse((tmp_path / "config.yaml").read_bytes()) == config


def test_the_recipe(parse: Parse) -> None:
    config = parse((ASSETS / "tiny.yaml").read_bytes(), "photos")
    assert isinstance(config, TrainConfig)
    assert (config.preset, config.crop, config.lr, config.muon_lr) == ("tiny", 352, 5e-4, 0.01)
