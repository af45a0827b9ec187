"""Weights by the habits of the Hugging Face hub: folders, repositories, model cards; and what is told of a source."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from deblurgan import Deblurrer, Generator, checkpoint, load_generator, save_generator, save_released
from deblurgan.checkpoint import CheckpointError

CARD = {"step": 8500, "licence": "CC-BY-4.0", "config": {"data": "/home/me/photos", "lr": 1e-4, "init": None}}


def assert_same(got: Generator, wanted: Generator) -> None:
    assert got.spec == wanted.spec
    assert all(torch.equal(tensor, got.state_dict()[name]) for name, tensor in wanted.state_dict().items())


def saved_as_by_a_mixin(generator: Generator, folder: Path, config: dict[str, Any]) -> Path:
    """A folder as PyTorchModelHubMixin writes it: the weights do not describe themselves."""
    folder.mkdir(parents=True)
    safetensors.torch.save_file(generator.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# Folders


def test_a_saved_folder_comes_back_bit_by_bit(small_generator: Generator, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"
    small_generator.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert_same(Generator.from_pretrained(folder), small_generator)
    assert Generator(**json.loads((folder / "config.json").read_text())).spec == small_generator.spec


def test_the_weights_alone_do_without_config(small_generator: Generator, tmp_path: Path) -> None:
    small_generator.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    assert_same(load_generator(tmp_path / "model.safetensors"), small_generator)


@pytest.mark.parametrize(
    "config",
    [
        {"preset": "tiny", "width": 4, "blocks": 1, "convs": None, "border": "zero", "bias": None},
        Generator("tiny", width=4, blocks=1, border="zero").config(),
    ],
    ids=["options", "spec"],
)
def test_a_mixin_s_folder_is_read_with_its_config(config: dict[str, Any], tmp_path: Path) -> None:
    generator = Generator("tiny", width=4, blocks=1, border="zero")
    folder = saved_as_by_a_mixin(generator, tmp_path / "model", config)
    assert_same(Generator.from_pretrained(folder), generator)
    (folder / "config.json").write_text('{"width": "x"}')
    with pytest.raises(CheckpointError, match="describes no generator"):
        load_generator(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="does not tell its border"):
        load_generator(folder)


def test_a_mixin_and_we_read_each_other(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

    class Mixed(hub.PyTorchModelHubMixin, Generator):  # type: ignore[misc, name-defined]
        pass

    theirs = Mixed("tiny", width=4, blocks=1, border="zero")
    hub.PyTorchModelHubMixin.save_pretrained(theirs, tmp_path / "theirs")
    assert_same(Generator.from_pretrained(tmp_path / "theirs"), theirs)
    Generator.save_pretrained(theirs, tmp_path / "ours")
    assert_same(Mixed.from_pretrained(tmp_path / "ours"), theirs)


def test_the_card_tells_what_is_known_and_no_path(small_generator: Generator, tmp_path: Path) -> None:
    save_generator(small_generator, tmp_path / "run" / "best.safetensors", card=CARD)
    Generator.from_pretrained(tmp_path / "run").save_pretrained(tmp_path / "model")
    _, front, text = (tmp_path / "model" / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["library_name"] == "deblurgan"
    assert told["license"] == "cc-by-4.0"
    assert "deblurring" in told["tags"]
    assert "step: 8500" in text
    assert "lr: 0.0001" in text
    assert Generator.from_pretrained(tmp_path / "model").card == {**CARD, "config": {"lr": 1e-4}}
    assert b"/home/me" not in b"".join(path.read_bytes() for path in (tmp_path / "model").iterdir())


def test_nothing_is_made_up_where_nothing_is_known(small_generator: Generator, tmp_path: Path) -> None:
    small_generator.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "license" not in text
    assert "without a word on their training" in text


def test_a_card_written_by_hand_is_kept(small_generator: Generator, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    small_generator.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_weights_that_are_trained_on_leave_their_card_behind(small_generator: Generator, tmp_path: Path) -> None:
    save_generator(small_generator, tmp_path / "a.safetensors", card=CARD)
    generator = load_generator(tmp_path / "a.safetensors")
    assert generator.eval().card == CARD
    assert generator.train().card is None


@pytest.mark.parametrize("card", ["{", "[" * 100_000, "[1]"], ids=["cut", "deep", "list"])
def test_a_card_that_is_none_is_refused_or_left(card: str, small_generator: Generator, tmp_path: Path) -> None:
    metadata = {"generator": json.dumps(small_generator.config()), "card": card}
    checkpoint.save_tensors(small_generator.state_dict(), tmp_path / "a.safetensors", metadata=metadata)
    if card == "[1]":
        assert load_generator(tmp_path / "a.safetensors").card is None
        return
    with pytest.raises(CheckpointError, match="its card is not JSON"):
        load_generator(tmp_path / "a.safetensors")


def test_saving_makes_the_folder(tmp_path: Path) -> None:
    generator = Generator("tiny", width=2, blocks=1)
    save_generator(generator, tmp_path / "new" / "folder" / "a.safetensors")
    save_released(generator, tmp_path / "other" / "folder" / "a.pth")
    assert_same(load_generator(tmp_path / "new" / "folder" / "a.safetensors"), generator)
    assert_same(load_generator(tmp_path / "other" / "folder" / "a.pth"), generator)


# What was found


def test_the_source_is_told(small_generator: Generator, tmp_path: Path) -> None:
    run, model, alone = tmp_path / "run", tmp_path / "model", tmp_path / "alone.safetensors"
    save_generator(small_generator, run / "best.safetensors", card={"step": 12})
    save_generator(small_generator, alone)
    small_generator.save_pretrained(model)
    assert small_generator.source is None
    assert Deblurrer.from_pretrained().source == "the weights that ship with deblurgan"
    assert Deblurrer.from_pretrained(run).source == f"run folder {run}: best.safetensors, step 12"
    assert Deblurrer.from_pretrained(model).source == f"saved model {model}: model.safetensors"
    assert load_generator(str(alone)).source == f"file {alone}"
    (tmp_path / "none").mkdir()
    with pytest.raises(IsADirectoryError, match=r"none of a training, and without model\.safetensors"):
        Generator.from_pretrained(tmp_path / "none")


@pytest.mark.parametrize("name", ["runs/other", "nowhere/net.pth", "nowhere", "/no/where/at/all", "./owner/name"])
def test_a_path_that_is_missing_is_looked_for_nowhere_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # would be an ImportError
    (tmp_path / "runs").mkdir()
    with pytest.raises(FileNotFoundError, match="no such file or folder; a Hugging Face repository is given as"):
        Generator.from_pretrained(name)


def test_a_path_goes_before_an_id(small_generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    small_generator.save_pretrained("owner/name")
    assert_same(Generator.from_pretrained("owner/name"), small_generator)
    for name in ("hub:owner/name", "owner2/name"):
        with pytest.raises(ImportError, match=r"pip install 'deblurgan\[hub\]'"):
            Generator.from_pretrained(name)


def test_ids_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="must be hub:OWNER/NAME or hub:OWNER/NAME@REVISION, got 'hub:name'"):
        Generator.from_pretrained("hub:name")
    with pytest.raises(ValueError, match="revision must be given once"):
        Generator.from_pretrained("hub:owner/name@v1", revision="v2")
    with pytest.raises(TypeError, match="path_or_id must be a str or PathLike, got int"):
        Generator.from_pretrained(3)  # type: ignore[arg-type]


def test_a_photo_is_no_weights_file_and_nobody_is_told_to_run_it(photos: Path) -> None:
    import PIL.Image

    PIL.Image.open(photos / "0.png").save(photos / "0.jpg")
    for name in ("0.png", "0.jpg"):
        with pytest.raises(CheckpointError, match="not a file of plain weights, or damaged") as caught:
            load_generator(photos / name)
        assert "weights_only" not in str(caught.value)
        assert caught.value.__suppress_context__


# Repositories


class Hub(http.server.ThreadingHTTPServer):
    """As much of the hub as downloads need: the files of `folders`, OWNER-NAME, at every revision but "none"."""

    def __init__(self, folders: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folders, self.asked = folders, list[str]()


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        owner, name, _, revision, file = (self.path.strip("/").split("/") + [""] * 5)[:5]
        path = self.server.folders / f"{owner}-{name}" / file
        if "/resolve/" in self.path:
            self.server.asked.append(f"{owner}/{name}@{revision} {file}")
        if owner == "gated":
            self.close_with(403, "GatedRepo")
        elif name == "broken" or (name == "breaking" and self.command == "GET"):
            self.close_with(418, "None")
        elif not path.parent.exists():
            self.close_with(404, "RepoNotFound")
        elif revision == "none":
            self.close_with(404, "RevisionNotFound")
        elif not path.is_file():
            self.close_with(404, "EntryNotFound")
        else:
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", "c0ffee" * 7)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    def close_with(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def forget_huggingface_hub() -> None:
    """It reads its surroundings when it is imported."""
    for name in [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]:
        del sys.modules[name]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    with Hub(tmp_path / "hub") as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
        for name, value in {"HF_HUB_OFFLINE": "0", "HF_TOKEN": "", "NO_PROXY": "*", "no_proxy": "*"}.items():
            monkeypatch.setenv(name, value)
        forget_huggingface_hub()
        yield server
        forget_huggingface_hub()
        server.shutdown()


def test_a_repository_is_fetched_once_and_then_there_offline(hub: Hub, small_generator: Generator) -> None:
    small_generator.save_pretrained(hub.folders / "owner-ours", card={"step": 3})
    fetched = Deblurrer.from_pretrained("owner/ours", device="cpu", dtype="fp32")
    assert fetched.source == "hub:owner/ours at commit c0ffeec0ffee: model.safetensors, step 3"
    assert_same(fetched.generator, small_generator)
    assert set(hub.asked) == {"owner/ours@main model.safetensors"}
    hub.asked.clear()
    assert_same(Generator.from_pretrained("hub:owner/ours", local_files_only=True), small_generator)
    assert not hub.asked
    with pytest.raises(ConnectionError, match=r"^owner/other, no file or folder here, is not in .* was not asked$"):
        Generator.from_pretrained("owner/other", local_files_only=True)


def test_a_mixin_s_repository_is_fetched_with_its_config(hub: Hub) -> None:
    generator = Generator("tiny", width=4, blocks=1, border="zero")
    saved_as_by_a_mixin(generator, hub.folders / "owner-plain", generator.config())
    assert_same(Generator.from_pretrained("hub:owner/plain@v1"), generator)
    assert set(hub.asked) == {"owner/plain@v1 model.safetensors", "owner/plain@v1 config.json"}


@pytest.mark.parametrize(
    "name, kind, message",
    [
        ("owner/other", FileNotFoundError, "owner/other, no file or folder here, is no repository on"),
        ("hub:owner/pickles@none", FileNotFoundError, "hub:owner/pickles@none has no revision 'none'"),
        ("hub:owner/pickles", FileNotFoundError, "hub:owner/pickles holds no model.safetensors: other weights are not"),
        ("hub:gated/model", PermissionError, "hub:gated/model is gated"),
        (
            "hub:owner/broken",
            ConnectionError,
            "not in the cache of huggingface_hub, and the hub gives no answer (",
        ),
        ("hub:owner/breaking", ConnectionError, "hub:owner/breaking cannot be fetched: "),
        ("hub:owner/damaged", CheckpointError, "damaged safetensors file"),
    ],
)
def test_what_cannot_be_fetched_is_said(name: str, kind: type[Exception], message: str, hub: Hub) -> None:
    files = {"pickles": "pytorch_model.bin", "damaged": "model.safetensors", "breaking": "model.safetensors"}
    for model, file in files.items():
        (hub.folders / f"owner-{model}").mkdir(parents=True)
        (hub.folders / f"owner-{model}" / file).write_bytes(b"\x08" + bytes(7) + b"{" + bytes(40))
    with pytest.raises(kind, match=re.escape(message)) as caught:
        Generator.from_pretrained(name)
    assert "\n" not in str(caught.value)
    assert {line.split()[1] for line in hub.asked} <= {"model.safetensors", "config.json"}


def test_a_push_uploads_what_is_saved(small_generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: dict[str, Any] = {}

    class Api:
        def __init__(self, token: bool | None) -> None:
            pushed["token"] = token

        def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
            pushed["made"] = repository, private, exist_ok

        def file_exists(self, repository: str, name: str, *, revision: str | None) -> bool:
            return name == "README.md" and repository == "me/has-card"

        def upload_folder(self, *, folder_path: str, ignore_patterns: list[str] | None, **options: Any) -> Any:
            pushed["files"] = {path.name: path.read_text("latin-1") for path in Path(folder_path).iterdir()}
            pushed["ignored"], pushed["options"] = ignore_patterns, options
            return SimpleNamespace(commit_url="https://hub/commit/1")

    module = ModuleType("huggingface_hub")
    module.HfApi = Api  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    assert small_generator.push_to_hub("me/net", token=False, private=True) == "https://hub/commit/1"
    assert pushed["made"] == ("me/net", True, True)
    assert pushed["token"] is False
    assert sorted(pushed["files"]) == ["README.md", "config.json", "model.safetensors"]
    assert "from_pretrained('me/net')" in pushed["files"]["README.md"]
    assert pushed["options"]["repo_id"] == "me/net"
    assert pushed["ignored"] is None
    small_generator.push_to_hub("me/has-card")
    assert pushed["ignored"] == ["README.md"]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'deblurgan\[hub\]'"):
        small_generator.push_to_hub("me/net")
