"""Exported networks: the same pictures as the network's, at sizes that were not exported, or no file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conftest import NET_TOLERANCE, assert_matches, relative_error, texture
from deblurgan import Generator, cli, save_generator
from deblurgan.export import TOLERANCE, export_generator

SIZES = [(1, 8, 8), (2, 12, 100), (1, 40, 24)]
REFUSED = [(10, 10), (9, 16), (33, 64), (2, 8)]


def textured(n: int, h: int, w: int) -> Tensor:
    """[n, 3, h, w] in [-1, 1]."""
    return torch.stack([torch.from_numpy(texture(h, w, seed=i)).permute(2, 0, 1) / 127.5 - 1 for i in range(n)])


def assert_same_pictures(run: Callable[[Tensor], Tensor], generator: Generator) -> None:
    for n, h, w in SIZES:
        x = textured(n, h, w)
        with torch.no_grad():
            wanted = generator.double()(x.double())
        assert_matches(run(x), wanted, name=f"{n}x{h}x{w}", table=NET_TOLERANCE)
        assert relative_error(wanted, x) > 0.05
    for h, w in REFUSED:
        with pytest.raises(Exception):  # noqa: B017  # of each runtime's own kind
            run(torch.zeros(1, 3, h, w))


@pytest.fixture
def visible(small_generator: Generator) -> Generator:
    """A generator that changes a picture, in training mode, with dropout."""
    torch.manual_seed(0)
    generator = Generator("tiny", width=4, blocks=1, dropout=0.5)
    with torch.no_grad():
        generator.head.weight.mul_(20)
    return generator


def test_onnx_gives_the_same_pictures_at_any_size(
    visible: Generator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    import onnx
    import onnxruntime

    path = tmp_path / "new" / "net.onnx"
    assert export_generator(visible, path) <= TOLERANCE
    assert visible.training
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in path.parent.iterdir()] == ["net.onnx"]
    onnx.checker.check_model(onnx.load(path), full_check=True)
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, quiet, providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["generator"]) == visible.config()
    assert (told["picture_range"], told["side_multiple"], told["side_minimum"]) == ("[-1, 1]", "4", "8")
    assert session.get_inputs()[0].shape == session.get_outputs()[0].shape == ["n", 3, "h", "w"]
    assert str(Path(__file__).parents[1]).encode() not in path.read_bytes()
    visible.eval()
    assert_same_pictures(lambda x: torch.from_numpy(session.run(["restored"], {"blurred": x.numpy()})[0]), visible)


def test_a_torch_program_gives_the_same_pictures_at_any_size(visible: Generator, tmp_path: Path) -> None:
    save_generator(visible, tmp_path / "net.safetensors")
    out = tmp_path / "net.pt2"
    assert cli.main(["export", str(out), "-m", str(tmp_path / "net.safetensors"), "--unit-range"]) == 0
    assert str(Path(__file__).parents[1]).encode() not in out.read_bytes()
    extra = {"metadata.json": ""}
    run = torch.export.load(out, extra_files=extra).module()
    assert json.loads(extra["metadata.json"])["picture_range"] == "[0, 1]"
    visible.eval()
    assert_same_pictures(lambda x: run((x + 1) / 2) * 2 - 1, visible)
    assert cli.main(["export", str(out)]) == 2  # it exists


def test_another_suffix_is_refused(visible: Generator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path must end in \.onnx or \.pt2, got .*net\.pth"):
        export_generator(visible, tmp_path / "net.pth")
    with pytest.raises(TypeError, match="generator must be a Generator"):
        export_generator("net", tmp_path / "net.onnx")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [3e-4, float("nan")])
def test_a_program_with_other_pictures_gets_no_file(
    wrong: float, visible: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deblurgan import export

    twin = Generator(**visible.config()).eval()
    twin.load_state_dict(visible.state_dict())
    monkeypatch.setattr(export, "_program", lambda *_: None)
    monkeypatch.setattr(export, "_pt2", lambda *_: (b"bytes", lambda x: twin(x) + (wrong if x.shape[2] > 48 else 0)))
    with pytest.raises(RuntimeError, match=r"net\.pt2: not written, its pictures are up to"):
        export_generator(visible, tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages_says_what_to_install(
    visible: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deblurgan import export

    monkeypatch.setattr(export, "_program", lambda *_: None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"needs onnx: pip install 'deblurgan\[export\]'"):
        export_generator(visible, tmp_path / "net.onnx")
