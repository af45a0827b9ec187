"""A run's config.yaml: `deblurgan train --config` with it is the same run."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from deblurgan import cli
from small_training import history

SMALL = "--preset=tiny --width=4 --blocks=1 --crop=16 --batch-size=2 --device=cpu --precision=fp32 --val-pictures=1"


@pytest.fixture
def run(photos: Path, tmp_path: Path) -> Path:
    """The folder of a run of 4 steps, begun with --no-resume."""
    assert train(str(photos), f"--out={tmp_path / 'run'}", *SMALL.split(), "--steps=4", "--no-resume") == 0
    return tmp_path / "run"


def train(*words: str) -> int:
    return cli.main(["train", *words])


def contents(run: Path) -> list[str]:
    """What decides the weights, and their digests."""
    return [(run / "config.yaml").read_text(), *(digest(run / f"{name}.safetensors") for name in ("best", "last"))]


def digest(weights: Path) -> str:
    with safe_open(weights, "pt") as file:
        return str(file.metadata()["sha256"])


def test_it_goes_on_with_the_run_and_changes_nothing_of_one_that_has_ended(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    assert train(f"--config={run / 'config.yaml'}") == 0
    assert "resumed at step 4" in capsys.readouterr().out
    assert contents(run) == before
    assert train(f"--config={run / 'config.yaml'}", "--no-resume") == 0
    assert "begins anew" in capsys.readouterr().out
    assert contents(run) == before, "the same bits once more"


def test_the_command_line_goes_before_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(f"--config={run / 'config.yaml'}", "--steps=6") == 0
    assert history(run)[-1]["step"] == "6"
    assert train(f"--config={run / 'config.yaml'}", "--lr=1e-3") == 2
    assert "out holds a run with another lr" in capsys.readouterr().err
    assert train(f"--config={run / 'config.yaml'}", "--lr=1e-3", f"--out={tmp_path / 'other'}") == 0
    assert contents(tmp_path / "other") != contents(run)


def test_what_it_does_not_know_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run / "config.yaml"
    written = config.read_text()
    for line, message in (
        ("learningrate: 1e-4", "unknown option 'learningrate': TrainConfig has data, out, "),
        ("batchsize: 2", "unknown option 'batchsize': did you mean 'batch_size'?"),
        ("regim: gopro", "unknown option 'regim': did you mean 'regime'?"),
    ):
        config.write_text(f"{written}\n{line}\n")
        assert train(f"--config={config}") == 2
        assert f"{config}: {message}" in capsys.readouterr().err
    config.write_text(written.replace("regime: none", "regime: gropo"))
    assert train(f"--config={config}") == 2
    assert "regime must be one of none, gopro, synthetic, combined, got 'gropo'" in capsys.readouterr().err
