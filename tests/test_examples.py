"""The scripts in examples/ run as they stand, on small pictures."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(monkeypatch: pytest.MonkeyPatch, name: str, *words: Path | str) -> None:
    """Runs a script as `python examples/NAME.py WORDS` does, in this process."""
    path = EXAMPLES / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, words)])
    before = torch.random.get_rng_state()
    runpy.run_path(str(path), run_name="__main__")
    torch.random.set_rng_state(before)


def test_deblur_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path
) -> None:
    (photos / "bad.png").write_bytes(b"not a picture")
    run(monkeypatch, "deblur_folder", photos, tmp_path / "out")
    assert "4 restored, 0 there already, 1 failed" in capsys.readouterr().out
    run(monkeypatch, "deblur_folder", photos, tmp_path / "out")
    assert "0 restored, 4 there already, 1 failed" in capsys.readouterr().out


def test_train_and_evaluate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(monkeypatch, "train_and_evaluate", photos, photos, out, "--steps", "2", "--crop", "32", "--width", "8")
    text = capsys.readouterr().out
    assert "after 2 steps" in text
    assert "gain in psnr, dB" in text
    assert len((out / "evaluation.csv").read_text().splitlines()) == 1 + 4 * 2 * 2


def test_evaluate_your_detector(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for spare in sorted(photos.iterdir())[2:]:
        spare.unlink()
    run(monkeypatch, "evaluate_your_detector", photos, out)
    assert "lamps, brighter than 200" in capsys.readouterr().out
    of = json.loads((out / "report.json").read_text())["detected"]["systems"]
    assert of["sharp"]["f1"] in (None, 1.0)
    assert (of["sharp"]["tp"] > 0) == (of["sharp"]["f1"] == 1.0)


def test_blur_augmentation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photos: Path) -> None:
    run(monkeypatch, "blur_augmentation", photos)
    text = capsys.readouterr().out
    assert text.count("blurred one by one: (2, 3, 32, 32)") == 2
    assert text.count("blurred as a batch: (2, 3, 32, 32) kernels (2, ") == 2


def test_fused_op(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "fused_op")
    assert "(2, 16, 24, 32) -> (2, 16, 24, 32)" in capsys.readouterr().out


def test_penalty_in_your_loop(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "penalty_in_your_loop")
    assert "step 1: critic" in capsys.readouterr().out


def test_training_loop(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photos: Path) -> None:
    run(monkeypatch, "training_loop", photos, "--steps", "1", "--crop", "64")
    assert "step 0: content " in capsys.readouterr().out


def test_with_accelerate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    run(monkeypatch, "with_accelerate", "bf16")
    penalties = re.findall(r"step \d: penalty (\S+),", capsys.readouterr().out)
    assert len(penalties) == 4 and all(float(value) > 0 for value in penalties)


def test_with_lightning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightning", reason="lightning is not installed")
    run(monkeypatch, "with_lightning", "bf16-mixed")
    penalties = re.findall(r"step \d: critic \S+ penalty (\S+)", capsys.readouterr().out)
    assert len(penalties) == 2 and all(float(value) > 0 for value in penalties)


def test_own_parts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photos: Path) -> None:
    run(monkeypatch, "own_parts", photos, photos.parent / "run", "2")
    assert "  edges 0." in capsys.readouterr().out


def test_own_callbacks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photos: Path) -> None:
    out = photos.parent / "run"
    run(monkeypatch, "own_callbacks", photos, out, "--steps", "2", "--crop", "32")
    assert "2 steps, at best " in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "val_psnr" in row] == [1, 2]


def test_examples_are_short_and_all_run_here() -> None:
    here = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 45, path.name
        assert f'"{path.stem}"' in here, path.name
