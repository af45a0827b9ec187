"""The command line: every command does its work, and every mistake ends with a message and the right exit code."""

from __future__ import annotations

import codecs
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import deblurgan
from conftest import texture
from deblurgan import Generator, cli, diagnosis, images, load_generator, metrics, save_generator
from deblurgan.blur import MotionBlur, apply_psf
from deblurgan.blur.contact_sheet import psf_sheet
from deblurgan.config import TRAIN_PRESETS
from deblurgan.data import PairedFolder, open_dataset

COMMANDS = ("train", "deblur", "blur", "evaluate", "demo", "info", "tune", "data")
NETWORK = ("--preset", "tiny", "--width", 4, "--blocks", 1)
SMALL = (*NETWORK, "--crop", 32, "--batch-size", 2, "--steps", 3, "--device", "cpu")


@pytest.fixture
def weights(small_generator: Generator, tmp_path: Path) -> Path:
    save_generator(small_generator, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def run(*words: Any) -> int:
    return cli.main([str(word) for word in words])


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}


def in_new_process(*words: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    program = ["-m", "deblurgan"] if code is None else ["-c", code]
    return subprocess.run([sys.executable, *program, *words], capture_output=True, text=True)


def pixels(path: Path) -> torch.Tensor:
    """uint8 [3, h, w]."""
    return torch.from_numpy(images.read(path).pixels).permute(2, 0, 1)


# Help, version, exit codes


def test_python_m_deblurgan_runs_and_exits_as_main_does() -> None:
    version = in_new_process("--version")
    assert (version.returncode, version.stdout, version.stderr) == (0, f"deblurgan {deblurgan.__version__}\n", "")
    wrong = in_new_process("sharpen")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert f"unknown command 'sharpen': deblurgan has {', '.join(cli.COMMANDS)}" in wrong.stderr


def test_help_answers_without_torch() -> None:
    code = (
        "import sys\n"
        "from deblurgan.cli import main\n"
        f"codes = [main(words) for words in [['--help'], *([name, '--help'] for name in {COMMANDS})]]\n"
        "heavy = {'torch', 'numpy', 'PIL', 'deblurgan._C'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else max(codes))"
    )
    done = in_new_process(code=code)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"usage: deblurgan {name}" in done.stdout


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_lists_the_commands(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(word) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: deblurgan COMMAND")
    for name in COMMANDS:
        assert f"\n  {name} " in text


@pytest.mark.parametrize(
    "name, options",
    [
        ("train", ["--preset", "--steps", "--gan", "--out", "-o", "--config"]),
        ("deblur", ["--weights", "-m", "--overwrite", "--skip-existing", "--suffix", "--config"]),
        ("blur", ["--pairs", "--show-psf", "--exposure", "--anxiety", "-o", "--config"]),
        ("evaluate", ["--metrics", "--kernels", "--csv", "--layout", "--config"]),
        ("demo", ["--seed", "-o", "--config"]),
        ("info", ["--help"]),
        ("export", ["--weights", "-m", "--unit-range", "--overwrite", "--config"]),
        (
            "tune",
            ["--budget", "--preset", "--dtype", "--forward-only", "--gradients-only", "--table", "-o", "--config"],
        ),
    ],
)
def test_each_command_has_help(name: str, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    text = capsys.readouterr().out
    assert cli.COMMANDS[name].options.__doc__ in text
    for option in options:
        assert option in text


@pytest.mark.parametrize(
    "words, message",
    [
        ("", "usage: deblurgan COMMAND"),
        ("sharpen", "unknown command 'sharpen'"),
        ("--bogus", "unknown command '--bogus'"),
        ("deblur", "name a picture, a folder or - for standard input: deblurgan deblur photo.jpg"),
        ("deblur a.png", "inputs must exist, got a.png"),
        (r"deblur photos\0.png", r"inputs must exist, got photos\0.png: photos/0.png does"),
        ("deblur photos/*.jpg", "inputs must match files, nothing matches photos/*.jpg"),
        ("deblur photos/0.png -o x.mp4", "out must be a folder or end in .jpg"),
        ("deblur photos/0.png -o x.heic", "got x.heic for photos/0.png"),
        ("deblur photos/0.png photos/1.png -o both.jpg", "out must be a folder for a folder or several pictures"),
        ("deblur photos --scale 2", "scale must be auto or above 0 and up to 1, got 2.0"),
        ("deblur photos --scale half", "deblurgan: scale must be float, got 'half'"),
        ("deblur photos --quality best", "deblurgan: quality must be int, got 'best': write it like 8"),
        (
            "deblur photos --overwrite --skip-existing",
            "deblurgan: --overwrite and --skip-existing contradict",
        ),
        ("deblur photos --max-memory plenty", "auto or bytes such as"),
        ("deblur photos - -o x.jpg", "- takes one picture"),
        ("deblur --files-from nowhere.txt", "nowhere.txt"),
        ("deblur nowhere -o out", "inputs must exist, got nowhere"),
        ("deblur empty -o out", "found none in empty"),
        ("deblur photos -o out --weights nowhere.pth", "nowhere.pth"),
        ("deblur photos -o out --weights damaged.pth", "damaged.pth: "),
        ("deblur photos -o out --weights damaged.safetensors", "damaged.safetensors: damaged"),
        ("deblur photos -o out --dtype fp8", "fp8"),
        ("deblur photos -o out --device tpu9", "tpu9"),
        ("deblur photos -o out --bogus 1", "--bogus"),
        ("deblur photos -o out --weights hub:owner/name", "pip install 'deblurgan[hub]'"),
        ("blur photos", "--out"),
        ("blur nowhere -o out", "inputs must exist, got nowhere"),
        ("blur photos -o out --n 0", "n must be at least 1, got 0"),
        ("blur photos -o out --exposure 2", "exposure"),
        ("evaluate nowhere", "data must be a folder, got nowhere"),
        ("evaluate empty", "found none in empty"),
        ("evaluate photos --metrics niqe", "niqe"),
        ("evaluate photos --kernels 0", "kernels must be at least 1, got 0"),
        ("evaluate photos --exposure", "exposure must name at least one"),
        ("train", "PATH"),
        ("train nowhere --preset tiny", "data must be a folder, got nowhere"),
        ("train empty --preset tiny", "found none in empty"),
        ("train photos --preset huge", "preset must be one of paper, article, tiny, got 'huge'"),
        ("train photos --preset tiny --crop 30", "crop must be a multiple of 4"),
        ("train photos --steps many", "many"),
        ("train photos --config nowhere.yaml", "nowhere.yaml"),
        ("train photos --config", "--config"),
        ("demo -o small.safetensors/grid.png", "small.safetensors"),
        ("deblur photos -o out --suffix a/b", "suffix must be part of a file's name, got 'a/b'"),
        ("evaluate photos --csv photos", "photos is a folder"),
        ("export net.pth", "path must end in .onnx or .pt2, got net.pth"),
        ("export photos/0.png", "0.png exists: --overwrite replaces it"),
        ("demo -o photos/0.png --no-overwrite", "0.png exists: --overwrite replaces it"),
    ],
)
def test_a_mistake_is_exit_code_2_and_a_message(
    words: str,
    message: str,
    photos: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.pth").write_bytes(b"none")
    (tmp_path / "damaged.safetensors").write_bytes(weights.read_bytes()[:-1])
    before = contents(photos)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if not installed
    assert run(*words.split()) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
    assert contents(photos) == before
    assert not (tmp_path / "out").exists()


def test_ctrl_c_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(options: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "info", cli.Command(cli.COMMANDS["info"].options, interrupted))
    assert run("info") == 130
    assert capsys.readouterr().err == "interrupted\n"


# YAML


@pytest.mark.parametrize(
    "text, message",
    [
        ("bogus: 1", "unknown option 'bogus'"),
        ("n: many", "n must be int, got 'many': write it like 8 or 1e4"),
        ("exposure: 1.0", "exposure must be a list, got '1.0'"),
        ("pairs: 1", "pairs must be bool, got '1': write it like true or false"),
        ("3: 4", "unknown option '3'"),
        ("- n", "must hold options, name: value"),
        ("", "must hold options, name: value"),
        ("n: [1,", "not YAML"),
        ("\x00", "not YAML"),
    ],
)
def test_a_wrong_config_is_exit_code_2_and_a_message(
    text: str, message: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert run("blur", photos, "-o", tmp_path / "out", "--config", tmp_path / "c.yaml") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("preset", ["huge", "[tiny]", "3"])
def test_a_wrong_preset_in_a_config_is_named(
    preset: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(f"preset: {preset}")
    assert run("train", photos, "--config", tmp_path / "c.yaml") == 2
    assert "preset must be one of paper, article, tiny, got" in capsys.readouterr().err


def test_a_config_that_is_no_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    assert run("blur", "--config", tmp_path / "c.yaml") == 2
    assert "c.yaml: not YAML" in capsys.readouterr().err


def test_a_config_equals_its_flags_and_flags_win(photos: Path, tmp_path: Path) -> None:
    flags = ["--n", 2, "--seed", 7, "--exposure", 0.5, 1.0, "--anxiety", 0.01, "--padding", "zero"]
    run("blur", photos, "-o", tmp_path / "a", *flags)
    values = {"n": 2, "seed": 7, "exposure": [0.5, 1], "anxiety": 0.01, "padding": "zero"}
    values |= {"inputs": [str(photos)], "out": str(tmp_path / "b")}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    assert run("blur", "--config", tmp_path / "c.yaml") == 0
    assert len(names(tmp_path / "a")) == 8
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    assert run("blur", f"--config={tmp_path / 'c.yaml'}", "--n", 1, "--out", tmp_path / "d") == 0
    assert names(tmp_path / "d") == ["0.png", "1.png", "2.png", "3.png"]


# blur


def test_blur_pairs_writes_a_training_set_whose_kernels_reproduce_it(photos: Path, tmp_path: Path) -> None:
    (photos / "deep").mkdir()
    (photos / "3.png").rename(photos / "deep" / "3.png")
    images.write(images.Picture(texture(40, 50, seed=9)), photos / "4.jpg")
    out = tmp_path / "set"
    assert run("blur", photos, "-o", out, "--pairs", "--seed", 3) == 0
    pictures = ["0.png", "1.png", "2.png", "4.png", "deep/3.png"]
    assert names(out) == [*(f"blur/{n}" for n in pictures), "psf.npz", *(f"sharp/{n}" for n in pictures)]

    dataset = open_dataset(out)
    assert isinstance(dataset, PairedFolder)
    with np.load(out / "psf.npz", allow_pickle=False) as file:
        kernels = dict(zip(file["names"].tolist(), file["psf"], strict=True))
    assert sorted(kernels) == pictures
    for i in range(len(dataset)):
        blurred, sharp = dataset.whole(i)
        name = dataset.path(i).relative_to(out / "blur").as_posix()
        original = photos / name if (photos / name).exists() else photos / "4.jpg"
        assert torch.equal(sharp, pixels(original))
        assert torch.equal(apply_psf(sharp, torch.from_numpy(kernels[name])), blurred)
        assert not torch.equal(blurred, sharp)
    assert len({kernel.tobytes() for kernel in kernels.values()}) == 5


def test_blur_n_writes_different_versions(photos: Path, tmp_path: Path) -> None:
    assert run("blur", photos / "0.png", photos / "1.png", "-o", tmp_path / "out", "--n", 3) == 0
    files = contents(tmp_path / "out")
    assert list(files) == ["0_000.png", "0_001.png", "0_002.png", "1_000.png", "1_001.png", "1_002.png"]
    assert len(set(files.values())) == 6


@pytest.mark.parametrize("n, wanted", [(1, ["one.png"]), (2, ["one_000.png", "one_001.png"])])
def test_blur_may_name_its_file(n: int, wanted: list[str], photos: Path, tmp_path: Path) -> None:
    assert run("blur", photos / "0.png", "-o", tmp_path / "out" / "one.png", "--n", n) == 0
    assert names(tmp_path / "out") == wanted


def test_blur_is_repeatable_by_seed(photos: Path, tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("blur", photos, "-o", tmp_path / folder, "--seed", seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


@pytest.mark.parametrize(
    "option, values",
    [("--padding", ("reflect", "replicate", "zero")), ("--length", (20, 60)), ("--exposure", (0.1, 1.0))],
)
def test_blur_options_reach_the_blur(option: str, values: tuple[Any, ...], photos: Path, tmp_path: Path) -> None:
    for value in values:
        assert run("blur", photos / "0.png", "-o", tmp_path / f"{value}.png", option, value) == 0
    assert len({(tmp_path / f"{value}.png").read_bytes() for value in values}) == len(values)


def test_blur_replaces_nothing_unasked(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    assert run("blur", photos, "-o", out, "--pairs") == 0
    before = contents(out)
    assert run("blur", photos / "0.png", "-o", out, "--pairs", "--seed", 1) == 2
    assert "psf.npz is of a set with seed 0, not 1: --overwrite replaces it" in capsys.readouterr().err
    assert run("blur", photos, "-o", photos, "--seed", 1) == 1
    assert "0.png exists: --overwrite replaces it" in capsys.readouterr().err
    assert contents(out) == before
    assert run("blur", photos, "-o", out, "--pairs", "--seed", 1, "--overwrite") == 0
    assert contents(out).keys() == before.keys()
    assert contents(out)["psf.npz"] != before["psf.npz"]


def test_blur_shows_the_kernels_it_drew(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "1.png").write_bytes(b"not a picture")
    out = tmp_path / "set"
    assert run("blur", photos, "-o", out, "--pairs", "--n", 2, "--show-psf") == 1
    said = capsys.readouterr().out
    assert "[8/8] " in said
    assert f"{out / 'psf.png'}: 6 kernels\n" in said
    with np.load(out / "psf.npz") as file:
        drawn = file["psf"]
        assert file["names"].tolist() == [f"{i}_{k:03d}.png" for i in (0, 2, 3) for k in (0, 1)]
    sheet = images.read(out / "psf.png")
    assert sheet.grey
    assert sheet.pixels.shape == (2 * 131 - 1, 3 * 131 - 1, 3)
    for i, kernel in enumerate(drawn):
        top, left = 131 * (i // 3), 131 * (i % 3)
        tile = sheet.pixels[top : top + 130, left : left + 130, 0].astype(int)
        row, column = np.unravel_index(kernel.argmax(), kernel.shape)
        assert (tile[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] == 255).all()
        assert np.array_equal(tile > 0, (kernel > kernel.max() / 510**2).repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("source, out, sheet", [("", "out", "out/psf.png"), ("0.png", "out/one.png", "out/psf.png")])
def test_blur_shows_kernels_beside_what_it_writes(
    source: str, out: str, sheet: str, photos: Path, tmp_path: Path
) -> None:
    plain, shown = tmp_path / "plain", tmp_path / "shown"
    assert run("blur", photos / source, "-o", plain / out, "--n", 2) == 0
    assert run("blur", photos / source, "-o", shown / out, "--n", 2, "--show-psf") == 0
    assert names(shown) == sorted([*names(plain), sheet])
    assert contents(plain).items() <= contents(shown).items()


def test_blur_shows_no_more_than_64_kernels(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("blur", photos / "0.png", "-o", tmp_path / "out", "--n", 65, "--show-psf", "--length", 2) == 0
    assert "psf.png: the first 64 of 65 kernels\n" in capsys.readouterr().out
    kernels = MotionBlur(length=2.0).psf(64, seed=0)
    assert np.array_equal(pixels(tmp_path / "out" / "psf.png")[0].numpy(), psf_sheet(kernels.numpy()))


def test_blur_replaces_no_sheet_unasked(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "psf.png").write_text("mine")
    assert run("blur", photos, "-o", out, "--show-psf") == 2
    assert f"{out / 'psf.png'} exists: --overwrite replaces it" in capsys.readouterr().err
    assert contents(out) == {"psf.png": b"mine"}
    assert run("blur", photos, "-o", out, "--show-psf", "--overwrite") == 0
    assert pixels(out / "psf.png").shape == (3, 261, 261)
    (photos / "0.png").rename(photos / "psf.png")
    assert run("blur", photos, "-o", tmp_path / "new", "--show-psf", "--overwrite") == 2
    assert f"psf.png is the output of {photos / 'psf.png'} already" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


# deblur


def test_deblur_restores_a_folder(photos: Path, weights: Path, tmp_path: Path) -> None:
    assert run("deblur", photos, "-o", tmp_path / "out", "-m", weights, "--device", "cpu") == 0
    wanted = deblurgan.Deblurrer.from_pretrained(weights, device="cpu")
    assert names(tmp_path / "out") == ["0.png", "1.png", "2.png", "3.png"]
    for name in names(tmp_path / "out"):
        assert torch.equal(pixels(tmp_path / "out" / name), wanted(pixels(photos / name)))


def test_deblur_lists_bad_files_and_exits_with_1(
    photos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "bad.png").write_bytes(b"not a picture")
    assert run("deblur", photos, "-o", tmp_path / "out", "--weights", weights) == 1
    said = capsys.readouterr()
    assert f"4 written, 0 left out, 1 failed, in {tmp_path / 'out'}\n" in said.out
    assert "bad.png" not in said.out
    assert re.fullmatch(rf"deblurgan: \[5/5\] {photos / 'bad.png'} failed: damaged, or not a .*\n", said.err)
    assert len(names(tmp_path / "out")) == 4


def test_a_warning_is_one_line(photos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights.rename(tmp_path / "last.safetensors")
    assert run("deblur", photos, "-o", tmp_path / "out", "-m", tmp_path) == 0
    said = f"deblurgan: {tmp_path} holds no best.safetensors: last.safetensors is taken\n"
    assert capsys.readouterr().err == said


def test_deblur_needs_overwrite_to_replace_its_input(
    photos: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(photos)
    assert run("deblur", photos / "0.png", "-o", photos / "0.png", "-m", weights) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert contents(photos) == before
    assert run("deblur", photos / "0.png", "-o", photos / "0.png", "-m", weights, "--overwrite") == 0
    assert contents(photos)["0.png"] != before["0.png"]


def test_deblur_options_reach_the_work(photos: Path, weights: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    run("deblur", photos / "0.png", "-o", out, "-m", weights, "--suffix", "_sharp", "--format", "webp")
    assert names(out) == ["0_sharp.webp"]
    for quality in (10, 90):
        run("deblur", photos, "-o", out / str(quality), "-m", weights, "--format", "jpg", "--quality", quality)
    assert (out / "10" / "0.jpg").stat().st_size < (out / "90" / "0.jpg").stat().st_size
    capsys.readouterr()
    assert run("deblur", photos, "-o", out / "10", "-m", weights, "--format", "jpg", "--skip-existing") == 0
    assert "0 written, 4 left out, 0 failed" in capsys.readouterr().out


def test_deblur_stochastic_draws_dropout_by_seed(photos: Path, small_generator: Generator, tmp_path: Path) -> None:
    generator = Generator("tiny", width=4, blocks=1, dropout=0.5)
    generator.load_state_dict(small_generator.state_dict())
    save_generator(generator, tmp_path / "drop.safetensors")
    results = []
    for i, flags in enumerate([(), ("--stochastic",), ("--stochastic",), ("--stochastic", "--seed", 1)]):
        target = tmp_path / f"{i}.png"
        assert run("deblur", photos / "0.png", "-o", target, "-m", tmp_path / "drop.safetensors", *flags) == 0
        results.append(target.read_bytes())
    assert results[1] == results[2]
    assert len(set(results)) == 3


def test_deblur_to_a_place_that_cannot_be_written_exits_with_1(
    photos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert run("deblur", photos, "-o", tmp_path / "file" / "out", "-m", weights) == 1
    assert "0 written, 0 left out, 4 failed" in capsys.readouterr().out
    assert (tmp_path / "file").read_text() == "mine"


def test_deblur_reads_released_weights(photos: Path, small_generator: Generator, tmp_path: Path) -> None:
    deblurgan.save_released(small_generator, tmp_path / "net.pth")
    assert run("deblur", photos / "0.png", "-o", tmp_path / "out", "-m", tmp_path / "net.pth") == 0
    assert names(tmp_path / "out") == ["0.png"]


def test_deblur_alone_writes_beside_its_source(photos: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("deblur", photos / "0.png", photos, "-m", weights)
    assert run(*words) == 0
    assert "5 written, 0 left out, 0 failed, in " in capsys.readouterr().out
    assert (photos / "0-deblurred.png").is_file()
    assert names(photos.with_name("photos-deblurred")) == ["0.png", "1.png", "2.png", "3.png"]
    assert run(*words) == 1
    said = capsys.readouterr()
    assert f"{photos / '0-deblurred.png'} left out: the result of an earlier run" in said.out
    assert said.err.count("0-deblurred.png exists: --overwrite replaces it") == 1
    assert run(*words, "--skip-existing") == 0
    assert "0 written, 6 left out, 0 failed" in capsys.readouterr().out


def test_the_summary_names_what_was_written_where(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos)
    for inputs, where in [
        (["0.png", "1.png"], ", in ."),
        (["0.png", photos / "1.png"], ", in 2 folders"),
        (["."], f", in {tmp_path / 'photos-deblurred'}"),
    ]:
        assert run("deblur", *inputs, "-m", weights, "--overwrite") == 0
        said = capsys.readouterr().out
        assert re.search(rf"^\d written, \d left out, 0 failed{re.escape(where)}$", said, re.MULTILINE), said


def test_a_single_picture_is_one_line(
    photos: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos)
    assert run("deblur", "0.png", "--compare", "-m", weights) == 0
    outputs = "0-deblurred.png and 0-deblurred-compare.jpg"
    assert re.fullmatch(rf"\[1/1\] 0.png -> {outputs}, changed by .*\n", capsys.readouterr().out)
    assert run("deblur", "0.png", "--skip-existing", "-m", weights) == 0
    assert capsys.readouterr().out == "[1/1] 0.png left out: 0-deblurred.png exists\n"


def test_a_folder_of_weights_says_what_it_is(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    shutil.copy(weights, "run/best.safetensors")
    assert run("deblur", photos / "0.png", "-m", "run") == 0
    assert capsys.readouterr().out.splitlines()[0] == "weights: run folder run: best.safetensors"


class Pipes:
    """Standard input with these bytes, and what goes to standard output."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, given: bytes = b"") -> None:
        self.out = io.BytesIO()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(self.out))


@pytest.mark.parametrize("suffix, format", [(".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP"), (".tif", "TIFF")])
def test_deblur_reads_standard_input_and_writes_to_standard_output(
    suffix: str,
    format: str,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, wanted = tmp_path / f"in{suffix}", tmp_path / f"wanted{suffix}"
    images.write(images.Picture(texture(24, 30)), source)
    deblurgan.Deblurrer.from_pretrained(weights, device="cpu").file(source, wanted)
    model = ("-m", weights, "--device", "cpu")
    pipes = Pipes(monkeypatch, source.read_bytes())
    assert run("deblur", "-", *model) == 0
    assert pipes.out.getvalue() == wanted.read_bytes()
    assert re.fullmatch(r"deblurgan: changed by .*\n", capsys.readouterr().err)
    pipes = Pipes(monkeypatch)
    assert run("deblur", source, "-o", "-", *model) == 0
    assert pipes.out.getvalue() == wanted.read_bytes()
    pipes = Pipes(monkeypatch, source.read_bytes())
    assert run("deblur", "-", "-o", tmp_path / f"file{suffix}", *model) == 0
    assert ((tmp_path / f"file{suffix}").read_bytes(), pipes.out.getvalue()) == (wanted.read_bytes(), b"")
    assert names(tmp_path) == sorted([f"file{suffix}", f"in{suffix}", "small.safetensors", f"wanted{suffix}"])


@pytest.mark.parametrize("given", [b"", b"none", b"\xff\xd8\xff\xe0"])
def test_what_is_no_picture_on_standard_input_fails_in_words(
    given: bytes, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipes = Pipes(monkeypatch, given)
    assert run("deblur", "-", "-m", weights) == 1
    assert pipes.out.getvalue() == b""
    assert re.fullmatch(r"deblurgan: standard input: (empty file|damaged).*\n", capsys.readouterr().err)


def test_gif_goes_to_standard_output_as_png(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images.write(images.Picture(texture(24, 30)), tmp_path / "a.png")
    Image.open(tmp_path / "a.png").save(tmp_path / "a.gif")
    for source in ("-", tmp_path / "a.gif"):
        pipes = Pipes(monkeypatch, (tmp_path / "a.gif").read_bytes())
        assert run("deblur", source, "-o", "-", "-m", weights) == 0
        assert pipes.out.getvalue().startswith(b"\x89PNG")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to write to")
def test_standard_output_that_takes_no_picture_is_a_failure(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images.write(images.Picture(texture(2, 2)), tmp_path / "a.png")  # short enough to wait in the stream's buffer
    with io.TextIOWrapper(open("/dev/full", "wb")) as full:  # whose end does not raise
        monkeypatch.setattr(sys, "stdout", full)
        assert run("deblur", tmp_path / "a.png", "-o", "-", "-m", weights) == 1
    said = "deblurgan: the picture was not taken by standard output (No space left on device)"
    assert capsys.readouterr().err.splitlines()[-1] == said


def test_a_terminal_gets_no_picture(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Pipes(monkeypatch)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run("deblur", photos / "0.png", "-o", "-") == 2
    assert "standard output is a terminal" in capsys.readouterr().err


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
@pytest.mark.parametrize("from_file", [False, True])
def test_deblur_takes_a_list_of_files(
    separator: str, from_file: bool, photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = photos / os.fsdecode(b"caf\xe9 1.png")
    (photos / "3.png").rename(odd)
    listed = [photos / "0.png", odd, photos / "gone.png"]
    data = codecs.BOM_UTF8 + os.fsencode(separator.join([*map(str, listed), ""]))
    Pipes(monkeypatch, data)
    (tmp_path / "list").write_bytes(data)
    source = tmp_path / "list" if from_file else "-"
    assert run("deblur", "--files-from", source, "-o", tmp_path / "out", "-m", weights) == 1
    assert names(tmp_path / "out") == ["0.png", odd.name]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deblurgan.Deblurrer, "plan", lambda self, h, w: f"picture {w}x{h}\nin strips", raising=False)
    (photos / "bad.png").write_bytes(b"none")
    (photos / "film.mp4").touch()
    before = contents(tmp_path)
    assert run("deblur", photos, "-o", tmp_path / "out", "-m", weights, "--dry-run", "--compare") == 1
    said = capsys.readouterr()
    sheet = f"{tmp_path / 'out' / '0.png'} and {tmp_path / 'out' / '0-compare.jpg'}"
    assert f"{photos / '0.png'} -> {sheet}\n  picture 96x72\n  in strips\n" in said.out
    assert f"{photos / 'film.mp4'} left out: no picture\n" in said.out
    assert f"deblurgan: {photos / 'bad.png'} fails: damaged" in said.err
    assert contents(tmp_path) == before
    (photos / "bad.png").unlink()
    assert run("deblur", photos / "film.mp4", "-m", weights, "--dry-run", "--strip-metadata") == 1
    assert "film.mp4 fails: --strip-metadata is for pictures" in capsys.readouterr().err
    assert run("deblur", photos, "-o", photos, "-m", weights, "--dry-run") == 1
    assert capsys.readouterr().err.count("exists: --overwrite replaces it") == 4
    assert run("deblur", photos, "-o", photos, "-m", weights, "--dry-run", "--overwrite") == 0
    assert capsys.readouterr().out.count(", replaced\n  picture 96x72") == 4


def test_what_the_network_is_given_is_as_typed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def from_pretrained(weights: Any, **options: Any) -> Any:
        given.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(deblurgan.Deblurrer, "from_pretrained", from_pretrained)
    assert run("deblur", photos, "--max-memory", "1.5GB", "--scale", 0.5, "--dtype", "fp32") == 2
    assert (given["max_memory"], given["scale"], given["dtype"]) == (1_500_000_000, 0.5, "fp32")


def test_a_mistyped_name_is_said_before_torch_is_loaded() -> None:
    code = (
        "import sys; from deblurgan.cli import main\n"
        "code = main(['deblur', 'nowhere']); sys.exit('torch' in sys.modules or code)"
    )
    done = in_new_process(code=code)
    assert (done.returncode, done.stderr) == (2, "deblurgan: inputs must exist, got nowhere\n")


def test_ctrl_c_in_a_folder_says_how_to_go_on(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Any, *_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(deblurgan.Deblurrer, "_at_scale", interrupted)
    assert run("deblur", photos, "-o", tmp_path / "out", "-m", weights) == 130
    assert capsys.readouterr().err == "interrupted: what is written is whole, and --skip-existing goes on from there\n"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, getattr(signal, "SIGHUP", 0), signal.SIGINT])
def test_signals_interrupt_a_folder(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(deblurgan.Deblurrer, "_at_scale", lambda *_, **__: os.kill(os.getpid(), number))
    assert run("deblur", photos, "-o", tmp_path / "out", "-m", weights) == 128 + number
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_on_a_terminal_lines_stand_above_a_bar(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    (photos / "bad.png").write_bytes(b"none")
    assert run("deblur", photos, "-o", tmp_path / "out", "-m", weights) == 1
    text = screen.getvalue()
    assert text.count("bad.png") == 1
    lines = [line.split("\r")[-1] for line in text.split("\n")]
    assert [line[:6] for line in lines[:6]] == ["[1/5] ", "[2/5] ", "[3/5] ", "[4/5] ", "deblur", "4 writ"]
    assert "%, about " in text


# The whole way, and the rest


def test_blur_train_deblur_and_evaluate_in_a_row(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, out = tmp_path / "pairs", tmp_path / "run"
    assert run("blur", photos, "-o", pairs, "--pairs") == 0
    assert run("train", pairs, "-o", out, *SMALL) == 0
    said = capsys.readouterr().out
    assert re.search(r"\n3 steps, best validation PSNR \d+\.\d\d dB, weights .*best\.safetensors\n", said)
    assert "step 3/3" in said
    assert load_generator(out / "best.safetensors").spec.width == 4

    restoring = ["deblur", pairs / "blur", "-o", tmp_path / "restored", "-m", out, "--device", "cpu"]
    assert run(*restoring, "--dtype", "fp32") == 0, "evaluate computes in it too"
    assert names(tmp_path / "restored") == names(photos)

    figures = tmp_path / "new" / "figures.csv"
    capsys.readouterr()
    assert run("evaluate", pairs, "-m", out, "--csv", figures, "--device", "cpu") == 0
    said = capsys.readouterr().out
    lines = figures.read_text().splitlines()
    assert len(lines) == 5
    name, *_, after, _ = lines[1].split(",")
    restored, sharp = (pixels(tmp_path / folder / Path(name).name) for folder in ("restored", "pairs/sharp"))
    assert float(after) == pytest.approx(float(metrics.psnr(restored, sharp, 255.0)), abs=1e-4)
    assert "restored" in said
    assert "gain in psnr, dB" in said


def test_the_config_of_a_run_repeats_it(photos: Path, tmp_path: Path) -> None:
    assert run("train", photos, "-o", tmp_path / "a", *SMALL, "--seed", 5) == 0
    assert run("train", "--config", tmp_path / "a" / "config.yaml", "-o", tmp_path / "b") == 0
    first, again = ((tmp_path / folder / "last.safetensors") for folder in "ab")
    a, b = (load_generator(path).state_dict() for path in (first, again))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_preset_of_train_sets_defaults_that_flags_override(photos: Path, tmp_path: Path) -> None:
    assert run("train", photos, "-o", tmp_path / "run", *SMALL, "--lr", 0.001) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    preset = TRAIN_PRESETS["tiny"]
    assert (config["preset"], config["gan"], config["pixel"]) == ("tiny", preset["gan"], preset["pixel"])
    assert (config["lr"], config["crop"], config["width"]) == (0.001, 32, 4)


def test_evaluate_lists_bad_files_and_exits_with_1(
    photos: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "bad.png").write_bytes(b"not a picture")
    assert run("evaluate", photos, "-m", weights, "--kernels", 1, "--exposure", 1.0, "--metrics", "psnr") == 1
    said = capsys.readouterr()
    assert "failed: bad.png: damaged" in said.out
    assert "[5/5] bad.png failed: damaged" in said.err


def test_evaluate_options_reach_the_work(photos: Path, weights: Path, tmp_path: Path) -> None:
    shared = ("-m", weights, "--kernels", 1, "--exposure", 1.0)
    reports = []
    for i, flags in enumerate([("--seed", 1), ("--seed", 1), ("--seed", 2), ("--metrics", "ssim")]):
        assert run("evaluate", photos, *shared, *flags, "--csv", tmp_path / f"{i}.csv") == 0
        reports.append((tmp_path / f"{i}.csv").read_text())
    assert reports[0] == reports[1] != reports[2]
    assert len(reports[0].splitlines()) == 5
    assert reports[3].startswith("picture,exposure,kernel,blurred_ssim,restored_ssim")


def test_demo_restores_its_picture_with_the_weights_that_ship(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the shipped weights, so this is also the test that they are worth shipping."""
    assert run("demo", "-o", tmp_path / "new" / "grid.png") == 0
    said = capsys.readouterr().out
    grid = pixels(tmp_path / "new" / "grid.png")
    assert tuple(grid.shape) == (3, 400, 1800)
    blurred, restored, sharp = grid.split(600, 2)
    assert torch.equal(sharp, pixels(Path(deblurgan.__file__).parent / "assets" / "demo.png"))
    before, after = (
        [float(metric(picture, sharp, 255.0)) for metric in (metrics.psnr, metrics.ssim)]
        for picture in (blurred, restored)
    )
    assert f"blurred   PSNR {before[0]:.2f} dB  SSIM {before[1]:.4f}\n" in said
    assert f"restored  PSNR {after[0]:.2f} dB  SSIM {after[1]:.4f}\n" in said
    assert f"{tmp_path / 'new' / 'grid.png'}: blurred | restored | sharp" in said
    assert after[0] > before[0]
    assert after[1] > before[1]


def test_info_prints_which_path_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deblurgan.diagnosis.free_memory", lambda device: None)  # it changes all the time
    assert run("info") == 0
    assert capsys.readouterr().out == deblurgan.info() + "\n"


def test_info_names_every_extra_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 brings tomllib")
    declared = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    extras = {
        extra: tuple(re.match(r"[\w-]+", needed).group() for needed in packages)
        for extra, packages in declared["optional-dependencies"].items()
        if extra not in ("cuda", "test", "docs", "dev")
    }
    assert extras == diagnosis.EXTRAS
    versions = {"av": "18.1.0", "onnx": "1.2", "onnxscript": "0.7"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    others = "heic,web,hub,export,spandrel,tensorboard,baselines,realblur,lpips"
    how = f"{others.replace(',', ', ')}: pip install 'deblurgan[{others}]'"
    assert diagnosis.extras_line() == f"video (av 18.1.0); without {how}"
    versions.update(dict.fromkeys((name for names in extras.values() for name in names), "9"))
    assert "export (onnx 9, onnxscript 9, onnxruntime 9), spandrel (spandrel 9)," in diagnosis.extras_line()
    versions.clear()
    assert diagnosis.extras_line().startswith("without video, heic")
